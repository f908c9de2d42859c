"""Half-precision frozen weights: half the memory, the same delta, and norms and positions as they are stored."""

import contextlib
import gc
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import FIELDS, IMAGE_BACKBONES, VALUES, assert_same, build_seeded, tiny_config, trained_names
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from fpt_adapters import FPTConfig, FPTForSequenceClassification
from fpt_adapters.backbones.precision import fp32_names

IMAGES = [name for name in IMAGE_BACKBONES if name == "vit"]
MAPS = Path("/proc/self/maps")
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
FAMILIES = pytest.mark.parametrize("model_type", ["gpt2", "bert", "t5", "qwen3", *IMAGES])


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def kept_names(model):
    """The names of what stays in fp32 in a model's backbone."""
    return {f"fpt.backbone.{name}" for name in fp32_names(model.fpt.backbone)}


@pytest.mark.parametrize("trainable", ["input output norm", "output"])
@HALVES
@FAMILIES
def test_norms_and_positions_keep_their_stored_values(bases, model_type, dtype, trainable):
    half, whole = (build_seeded(bases(model_type), dtype=one, trainable=trainable.split()) for one in (dtype, None))
    values = dict(whole.named_parameters())
    cast = {name for name in values if name.startswith("fpt.backbone.")} - kept_names(half)
    assert cast and kept_names(half)
    expected = {name: value.to(dtype) if name in cast else value for name, value in values.items()}
    assert_same(dict(half.named_parameters()), expected)
    assert not any(torch.equal(expected[name].float(), values[name]) for name in cast)


def by_default_dtype(config, dtype):
    with default_dtype(dtype):
        return FPTForSequenceClassification(config)


MADE_IN_HALF = {
    "from_config": lambda config, dtype: AutoModelForSequenceClassification.from_config(config, dtype=dtype),
    "by name": lambda config, dtype: AutoModelForSequenceClassification.from_config(config, dtype=str(dtype)[6:]),
    "the default dtype": by_default_dtype,
}


CAST = [*product(["gpt2", "bert", "llama", *IMAGES], [torch.bfloat16, torch.float16])]
CAST += [("fpt_lstm", torch.bfloat16)]  # on a CPU, torch runs no LSTM in the other


@pytest.mark.parametrize("way", MADE_IN_HALF)
@pytest.mark.parametrize(("model_type", "dtype"), CAST, ids=str)
def test_a_model_made_in_half_precision_trains_in_fp32(model_type, way, dtype):
    fields = FIELDS | {"backbone_init": "random", "trainable": ["input", "output", "norm", "position"]}
    model = MADE_IN_HALF[way](FPTConfig(base_model_config=tiny_config(model_type), **fields), dtype)
    fp32 = kept_names(model) | trained_names(model)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in fp32 else dtype), name
    assert model.config.dtype == dtype
    model(input_values=VALUES, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("model_type", "peft_config"), [("gpt2", None), ("bert", "fourierft"), *((name, None) for name in IMAGES)]
)
def test_a_backbone_keeps_its_stored_dtype_whatever_the_default(bases, model_type, peft_config):
    with default_dtype(torch.bfloat16):
        models = [build_seeded(bases(model_type)), build_seeded(tiny_config(model_type), peft_config=peft_config)]
    assert {parameter.dtype for model in models for parameter in model.parameters()} == {torch.float32}


@HALVES
def test_rotary_frequencies_keep_their_precision(bases, dtype):
    half, whole = (dict(build_seeded(bases("qwen3"), dtype=one).named_buffers()) for one in (dtype, None))
    assert any("inv_freq" in name for name in half)
    assert_same(half, whole)


@HALVES
@FAMILIES
def test_the_delta_is_the_same_and_the_memory_half(bases, tmp_path, model_type, dtype):
    deltas, frozen = [], []
    for one in (dtype, None):
        model = build_seeded(bases(model_type), dtype=one)
        model.save_pretrained(tmp_path / str(one))
        deltas.append(load_file(tmp_path / str(one) / "model.safetensors"))
        frozen.append(sum(p.nbytes for p in model.parameters() if not p.requires_grad))
    assert_same(*deltas)
    assert frozen[0] < 0.51 * frozen[1]  # norms of queries and keys do not train here, and stay fp32


@pytest.mark.skipif(not MAPS.exists(), reason="needs Linux, which lists the files that are mapped")
@HALVES
def test_the_stored_weights_do_not_stay_in_memory(bases, dtype):
    file = str(bases("gpt2") / "model.safetensors")
    whole = build_seeded(bases("gpt2"))
    assert file in MAPS.read_text()
    del whole
    gc.collect()
    half = build_seeded(bases("gpt2"), dtype=dtype)
    gc.collect()
    assert half.config.dtype == dtype and file not in MAPS.read_text()


@pytest.mark.parametrize(
    ("cast", "frozen"),
    [
        (lambda model: model.half(), torch.float16),
        (lambda model: model.bfloat16(), torch.bfloat16),
        (lambda model: model.to(torch.bfloat16), torch.bfloat16),
        (lambda model: model.double(), torch.float32),
        (lambda model: model, torch.float32),
    ],
    ids=["half", "bfloat16", "to", "double", "not"],
)
@pytest.mark.parametrize("way", ["delta", "gathered", "peft"])
def test_a_model_that_was_cast_by_hand_comes_back(way, cast, frozen, make_model, tmp_path, warned):
    model = cast(make_model("bert", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, num_labels=None))
    values = {name: parameter.float() for name, parameter in model.named_parameters() if parameter.requires_grad}
    if way == "peft":
        model.save_peft_adapter(tmp_path)
        config = FPTConfig.from_pretrained(tmp_path)
        loaded = FPTForSequenceClassification.from_backbone(config.base_model_config, config=config)
        loaded.load_adapter(tmp_path)
    else:
        model.save_pretrained(tmp_path, state_dict=model.state_dict() if way == "gathered" else None)
        assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
        loaded = FPTForSequenceClassification.from_pretrained(tmp_path, dtype="auto")
    rounded = next(model.parameters()).dtype == torch.float64
    assert ("a delta keeps them in float32" in warned.text) == rounded
    back = dict(loaded.named_parameters())
    assert_same({name: back.pop(name) for name in values}, values)
    assert {parameter.dtype for name, parameter in back.items() if ".LayerNorm." not in name} == {frozen}
