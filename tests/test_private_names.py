"""Private names of the libraries: which ones the package uses, that they are still there, and listed."""

import argparse
import ast
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.data_loader import DataLoaderAdapter
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, monkey_patching
from transformers.integrations import deepspeed

import fpt_adapters

PACKAGE = Path(fpt_adapters.__file__).parent
CONTRIBUTING = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
OPERATION = torch.ops.aten.add.Tensor
# Each private name that is read, called or overridden, and what has it: an object, or the text of its source.
PRIVATE = {
    "_actions": inspect.getsource(argparse),
    "_attn_implementation": PreTrainedConfig,
    "_call_impl": nn.Module,
    "_compiled_call_impl": nn.Module,
    "_finish_current_push": Trainer,
    "_get_collator_with_removed_columns": Trainer,
    "_get_train_sampler": Trainer,
    "_hf_deepspeed_config_weak_ref": inspect.getsource(deepspeed),
    "_init_weights": PreTrainedModel,
    "_keys_to_ignore_on_save": PreTrainedModel,
    "_no_split_modules": PreTrainedModel,
    "_overloadname": OPERATION,
    "_push_from_checkpoint": Trainer,
    "_save": Trainer,
    "_save_checkpoint": Trainer,
    "_save_optimizer_and_scheduler": Trainer,
    "_save_rng_state": Trainer,
    "_schema": OPERATION,
    "_set_gradient_checkpointing": PreTrainedModel,
    "_set_params_and_buffers_to_ignore_for_model": DistributedDataParallel,
    "_supports_attention_backend": PreTrainedModel,
    "_supports_flash_attn": PreTrainedModel,
    "_supports_flex_attn": PreTrainedModel,
    "_supports_sdpa": PreTrainedModel,
    "_train_batch_size": inspect.getsource(Trainer),
}
# What has no underscore, or stands in a string: nobody promises it either.
UNDOCUMENTED = {
    "_is_accelerate_prepared": inspect.getsource(accelerate.data_loader) + inspect.getsource(accelerate.accelerator),
    "_orig_mod": inspect.getsource(torch._dynamo.eval_frame),
    "apply_patches": monkey_patching,
    "base_dataloader": inspect.getsource(DataLoaderAdapter),
    "dynamo_ctx": inspect.getsource(torch._dynamo.eval_frame),
    "get_init_context": PreTrainedModel,
}
OURS = ("_info", "_compute")  # of evaluate's modules: what its documentation says to write
FOREIGN = (PreTrainedConfig, PreTrainedModel, Trainer, nn.Module)


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in OURS


def test_every_private_name_that_is_used_is_known():
    used, own = set(), set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
    inherited = {name for name in own for library_class in FOREIGN if hasattr(library_class, name)}
    assert {name for name in (used - own) | inherited | {*overridden()} if is_private(name)} == set(PRIVATE)


def overridden():
    """Names that classes of the package define, and those of another library that they derive from, too."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "fpt_adapters."):
        for one in vars(import_module(module.name)).values():
            if inspect.isclass(one) and one.__module__ == module.name:
                above = [base for base in one.__mro__[1:] if base.__module__.partition(".")[0] == "transformers"]
                yield from (name for name in vars(one) if any(name in vars(base) for base in above))


@pytest.mark.parametrize(("name", "owner"), (PRIVATE | UNDOCUMENTED).items(), ids=[*PRIVATE, *UNDOCUMENTED])
def test_it_is_there_and_listed(name, owner):
    assert name in owner if isinstance(owner, str) else hasattr(owner, name)
    assert f"`{name}`" in CONTRIBUTING
