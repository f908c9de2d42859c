"""transformers' own tests of every model, run on the models here: the contract of a transformers model.

They come with its source distribution, which `make test-transformers` fetches in the version that is installed; until
then this file is skipped. Its tests of exports and of generation are not in there, and no model here generates.
"""

import contextlib
import os
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import HEADS, LAYERS, TRANSFORMERS, VOCABULARY, WIDTH, tiny_config
from packaging.version import Version

from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification, FPTForTokenClassification, FPTModel

FETCHED = os.environ.get("TRANSFORMERS_TESTS")
if FETCHED is None:
    pytest.skip("transformers' own tests are fetched by `make test-transformers`", allow_module_level=True)

META = "a model is built with the values of its base, whose fingerprint it takes: the meta device is refused, by name"
WHOLE = (
    "a delta fits its model exactly, or is refused: nothing is drawn anew for what it lacks or has in another shape"
)
COPY = (
    "the base's configuration is saved as it came: the backbone has a copy, with the layers and dropout of this model"
)
ONE = "there is one attention, the backbone's: the model's own configuration always names that one"
# The tests that cannot pass: what each runs into, and why that is meant. One that passes after all fails here.
REFUSED = {
    "test_all_tensors_are_parameter_or_buffer": (RuntimeError, "on the meta device", META),
    "test_can_be_initialized_on_meta": (RuntimeError, "on the meta device", META),
    "test_cannot_load_with_meta_device_context_manager": (AssertionError, "does not match .*on the meta device", META),
    "test_init_weights_can_init_buffers": (RuntimeError, "on the meta device", META),
    "test_base_model_prefix_loads_base_weights": (ValueError, "ignore_mismatched_sizes=True has no meaning", WHOLE),
    "test_can_load_ignoring_mismatched_shapes": (DeltaError, r"has shape \(3,.*needs \(42,", WHOLE),
    "test_correct_missing_keys": (DeltaError, "holds an FPTModel without a head", WHOLE),
    "test_from_pretrained_no_checkpoint": (ValueError, "state_dict=.* load a delta from its folder", WHOLE),
    "test_load_with_mismatched_shapes": (DeltaError, r"has shape \(3,.*needs \(42,", WHOLE),
    "test_model_weights_reload_no_missing_tied_weights": (DeltaError, "was not written by fpt_adapters", WHOLE),
    "test_internal_model_config_and_subconfig_are_same": (AssertionError, "False is not true", COPY),
    "test_can_set_attention_dynamically_composite_model": (AssertionError, "False is not true", ONE),
}
NEW = {"test_base_model_prefix_loads_base_weights": "5.24"}  # not there before, and named in REFUSED


def module(name: str, **members) -> None:
    """Have a module of that name to import from."""
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(members)


# What the tests import of what the source distribution lacks: mixins, without a test here.
module("transformers_tests", __path__=[os.fspath(Path(FETCHED) / "tests")])
for place, mixin in {
    "exporters.test_export": "ExportTesterMixin",
    "generation.test_utils": "GenerationTesterMixin",
}.items():
    module(f"transformers_tests.{place.partition('.')[0]}", __path__=[])
    module(f"transformers_tests.{place}", **{mixin: type(mixin, (), {})})

from transformers_tests import test_modeling_common as common  # noqa: E402

# From these tables of names the tests know which models have no head, and which labels others have.
for table, model_class in {
    "MODEL_MAPPING_NAMES": FPTModel,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": FPTForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": FPTForTokenClassification,
}.items():
    setattr(common, table, {**getattr(common, table), "fpt": model_class.__name__})


class ModelTester:
    """What the tests ask of a model: its sizes, a configuration, a batch."""

    batch_size, seq_length, num_labels, is_training = 3, 7, 3, True
    hidden_size, num_hidden_layers, num_attention_heads = WIDTH, LAYERS, HEADS

    def __init__(self, family: str):
        self.family = family

    def get_config(self) -> FPTConfig:
        fields = {"input_type": "tokens", "vocab_size": VOCABULARY, "sequence_length": 10}
        base = tiny_config(self.family)
        return FPTConfig(base_model_config=base, backbone_init="random", num_labels=self.num_labels, **fields)

    def prepare_config_and_inputs_for_common(self) -> tuple[FPTConfig, dict[str, torch.Tensor]]:
        ids = torch.randint(VOCABULARY, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Common(common.ModelTesterMixin):
    """The tests, with those in `REFUSED` turned round."""

    all_model_classes = (FPTModel, FPTForSequenceClassification, FPTForTokenClassification)
    family: str
    _is_composite = True  # a configuration inside the configuration
    # Before, the tests ask for a gradient of frozen weights too, also of the tokens' table, which no input reaches.
    test_all_params_have_gradient = Version("5.24") <= TRANSFORMERS

    def setUp(self):
        self.model_tester = ModelTester(self.family)


def refused(name: str) -> Callable[[Common], None]:
    """The test of that name, which must run into what `REFUSED` says."""
    its_own, (error, words, reason) = getattr(common.ModelTesterMixin, name), REFUSED[name]

    def test(self: Common) -> None:
        self.subTest = lambda *args, **kwargs: contextlib.nullcontext()  # which would keep the error to itself
        with self.assertRaisesRegex(error, f"(?s){words}"):
            its_own(self)
        pytest.xfail(reason)

    return test


for name in REFUSED:
    if name in vars(common.ModelTesterMixin):
        setattr(Common, name, refused(name))


class GPT2Test(Common, unittest.TestCase):
    family = "gpt2"


class BertTest(Common, unittest.TestCase):
    family = "bert"


class LlamaTest(Common, unittest.TestCase):
    family = "llama"


def test_each_test_that_cannot_pass_is_there():
    expected = {name for name in REFUSED if Version(NEW.get(name, "0")) <= TRANSFORMERS}
    assert expected <= vars(common.ModelTesterMixin).keys()
