"""Loading and building in threads: each gets what it gets alone, and threads that do other work see nothing of it."""

import itertools
import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import COMMON, FIELDS, example, tiny_config
from torch import nn
from torch.nn.modules import module as torch_modules
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fpt_adapters import FPTConfig, FPTForSequenceClassification
from fpt_adapters.deltas.tensors import tensor_digest

LLAMA = LlamaConfig(**COMMON, tie_word_embeddings=True)
# Bases of every way to build one: name -> model type, dtype of its weights (None: none are stored), fields
CASES = {
    "gpt2": ("gpt2", torch.float32, {}),
    "gpt2 in bf16": ("gpt2", torch.bfloat16, {}),
    "t5, whose embeddings are tied": ("t5", torch.float32, {}),
    "bert with an adapter": ("bert", torch.float32, {"peft_config": "lora"}),
    "statistics": ("bert", torch.float32, {"backbone_init": "statistics"}),
    "random gpt2": ("gpt2", None, {"backbone_init": "random", "backbone_init_seed": 3}),
    "random llama": ("llama", None, {"backbone_init": "random"}),
}


@pytest.fixture(scope="module")
def deltas(tmp_path_factory):
    """The folders of a delta and its base (None: drawn) for each case."""
    made = {}
    for name, (model_type, dtype, fields) in CASES.items():
        folder = tmp_path_factory.mktemp("delta")
        base = folder / "base"
        if dtype is not None:
            AutoModel.from_config(tiny_config(model_type)).to(dtype).save_pretrained(base)
        source = tiny_config(model_type) if dtype is None else base
        model = FPTForSequenceClassification.from_backbone(source, **FIELDS, **fields)
        with torch.no_grad():
            model.head.bias += torch.arange(4)
        model.save_pretrained(folder / "delta")
        made[name] = (folder / "delta", None if dtype is None else base)
    return made


def load(delta, base):
    """What a loaded delta answers, and all of its bytes."""
    model = FPTForSequenceClassification.from_pretrained(delta, base_model_name_or_path=base)
    with torch.no_grad():
        logits = model(**example(batch=8)).logits
    return logits, {name: tensor_digest(tensor) for name, tensor in model.state_dict().items()}


def build(delta, base):
    """The frozen weights of a model built anew; its new modules are drawn from the process's generator."""
    config = FPTConfig.from_pretrained(delta)
    model = FPTForSequenceClassification.from_backbone(base or config.base_model_config, config=config)
    frozen = {name: tensor_digest(p) for name, p in model.named_parameters() if not p.requires_grad}
    return torch.zeros(()), frozen | {"fingerprint": model.config.base_model_fingerprint}


def same(one, other):
    return torch.equal(one[0], other[0]) and one[1] == other[1]


class OtherWork(threading.Thread):
    """Draws, and builds and loads models of transformers; `wrong`: what comes out otherwise than alone."""

    def __init__(self, folder, looked_at):
        super().__init__()
        self.folder, self.wrong, self.rounds, self.ended = folder, set(), 0, threading.Event()
        self.expected = {name: value for name, value in self.work().items() if name in looked_at}

    def work(self):
        torch.manual_seed(7)
        drawn, linear, built, after = torch.randn(50), nn.Linear(4, 4), LlamaForCausalLM(LLAMA), torch.randn(50)
        loaded = LlamaForCausalLM.from_pretrained(self.folder)
        return {
            "drawn": torch.cat([drawn, after]),
            "built": torch.cat([linear.weight.flatten(), built.model.layers[1].mlp.up_proj.weight.flatten()]),
            "tied": torch.tensor(built.lm_head.weight is built.model.embed_tokens.weight),
            "loaded": loaded(input_ids=torch.arange(8)[None]).logits,
            "made": torch.zeros(1),
        }

    def run(self):
        while not self.ended.is_set():
            found = self.work()
            self.rounds += 1
            for name, value in self.expected.items():
                if value.dtype != found[name].dtype or not torch.equal(value, found[name]):
                    self.wrong.add(name)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.ended.set()
        self.join()


def run_together(function, deltas, calls=200):
    """The cases whose result in one of 16 threads is not the one that they have alone."""
    alone = {name: function(*places) for name, places in deltas.items()}
    names = list(itertools.islice(itertools.cycle(deltas), calls))
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda name: function(*deltas[name]), names))
    return {name for name, found in zip(names, together, strict=True) if not same(found, alone[name])}


def process_state():
    """What loading might change for the whole process."""
    hooks = [value for name, value in sorted(vars(torch_modules).items()) if name.endswith("_registration_hooks")]
    return {
        "random numbers": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "log level": logging.getLogger("transformers").level,
        "hooks": [list(each) for each in hooks],
        "torch": (nn.init.normal_, nn.init.kaiming_uniform_, torch.linspace, nn.Module.register_parameter),
        "transformers": (PreTrainedModel.tie_weights, PreTrainedModel.init_weights),
        "warnings": list(warnings.filters),
    }


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LLAMA).save_pretrained(folder)
    return folder


def test_loads_in_threads_are_those_of_one_and_disturb_no_other(deltas, llama):
    with OtherWork(llama, looked_at=("drawn", "built", "tied", "loaded", "made")) as other:
        assert run_together(load, deltas) == set()
    assert other.rounds > 2 and other.wrong == set()


def test_backbones_built_in_threads_are_those_of_one(deltas, llama):
    with OtherWork(llama, looked_at=("tied", "loaded", "made")) as other:  # new modules draw, as all of torch's
        assert run_together(build, deltas) == set()
    assert other.rounds > 2 and other.wrong == set()


def test_loading_in_threads_leaves_the_process_as_it_was(deltas):
    load(*deltas["gpt2"])  # what is imported when it is first needed
    before = process_state()
    assert run_together(load, deltas, calls=50) == set()
    assert process_state() == before
