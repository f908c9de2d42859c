"""Reading a base's weights: nothing is put into them, and nothing is drawn for what is read afterwards."""

import shutil

import pytest
import torch
from conftest import build_seeded
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class Draws(TorchDispatchMode):
    """Counts the draws that reach torch for tensors on the meta device."""

    def __init__(self):
        super().__init__()
        self.on_meta = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(args[0], torch.Tensor):
            self.on_meta += args[0].is_meta
        return func(*args, **(kwargs or {}))


def test_nothing_is_drawn_for_weights_that_are_read(saved_base):
    with Draws() as read:
        build_seeded(saved_base)
    with Draws() as built, torch.device("meta"):
        nn.Embedding(2, 2)
    assert (read.on_meta, built.on_meta) == (0, 1)


def test_a_base_with_an_adapter_beside_it_is_refused(saved_base, tmp_path):
    shutil.copytree(saved_base, tmp_path / "base")
    (tmp_path / "base" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match=r"holds a peft adapter \(adapter_config.json\).*merge_and_unload"):
        build_seeded(tmp_path / "base")
