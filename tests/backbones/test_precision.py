"""Half-precision frozen weights: half the memory, the same delta, and norms and positions as they are stored."""

import gc
from pathlib import Path

import pytest
import torch
from conftest import IMAGE_BACKBONES, tiny_config
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from fpt_adapters import FPTConfig, FPTForSequenceClassification
from fpt_adapters.backbones.baselines.configuration_lstm import LSTMConfig
from fpt_adapters.backbones.precision import fp32_names

IMAGES = [name for name in IMAGE_BACKBONES if name == "vit"]
MAPS = Path("/proc/self/maps")
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
HALVES = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
FAMILIES = pytest.mark.parametrize("model_type", ["gpt2", "bert", "t5", "qwen3", *IMAGES])


@pytest.fixture
def base_of(tmp_path):
    """A saved base of which no value fits into 16 bits."""

    def base(model_type):
        torch.manual_seed(0)
        model = AutoModel.from_config(tiny_config(model_type))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=0.01)
        model.save_pretrained(tmp_path / model_type)
        return tmp_path / model_type

    return base


def build(base, dtype=None, **changes):
    torch.manual_seed(0)
    return FPTForSequenceClassification.from_backbone(base, dtype=dtype, **FIELDS | changes)


@HALVES
@FAMILIES
def test_norms_and_positions_keep_their_stored_values(base_of, model_type, dtype):
    base = base_of(model_type)
    for trainable in (["input", "output", "norm"], ["output"]):
        half, whole = build(base, dtype, trainable=trainable), build(base, trainable=trainable)
        kept = {f"fpt.backbone.{name}" for name in fp32_names(half.fpt.backbone)}
        assert kept and kept < {name for name, _ in half.named_parameters()}
        values = dict(whole.named_parameters())
        for name, parameter in half.named_parameters():
            if name in kept or not name.startswith("fpt.backbone."):
                assert torch.equal(parameter, values[name]) and parameter.dtype == torch.float32, name
            else:
                assert torch.equal(parameter, values[name].to(parameter.dtype)), name
                assert parameter.dtype == getattr(torch, dtype) and not torch.equal(parameter.float(), values[name])


def by_default_dtype(config, dtype):
    """What the constructor builds while `dtype` is torch's default."""
    torch.set_default_dtype(dtype)
    try:
        return FPTForSequenceClassification(config)
    finally:
        torch.set_default_dtype(torch.float32)


MADE_IN_HALF = {
    "from_config": lambda config, dtype: AutoModelForSequenceClassification.from_config(config, dtype=dtype),
    "by name": lambda config, dtype: AutoModelForSequenceClassification.from_config(config, dtype=str(dtype)[6:]),
    "the default dtype": by_default_dtype,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", MADE_IN_HALF)
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", "fpt_lstm", *IMAGES])
def test_a_model_made_in_half_precision_trains_in_fp32(model_type, way, dtype):
    if model_type == "fpt_lstm":
        dtype = torch.bfloat16  # on a CPU, torch runs no LSTM in the other
    base = LSTMConfig() if model_type == "fpt_lstm" else tiny_config(model_type)
    fields = FIELDS | {"backbone_init": "random", "trainable": ["input", "output", "norm", "position"]}
    model = MADE_IN_HALF[way](FPTConfig(base_model_config=base, **fields), dtype)
    kept = {f"fpt.backbone.{name}" for name in fp32_names(model.fpt.backbone)}
    for name, parameter in model.named_parameters():
        expected = torch.float32 if parameter.requires_grad or name in kept else dtype
        assert parameter.dtype == expected, name
    assert model.config.dtype == dtype
    model(input_values=torch.randn(2, 10, 3), labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("model_type", "peft_config"), [("gpt2", None), ("bert", "fourierft"), *((name, None) for name in IMAGES)]
)
def test_a_backbone_keeps_its_stored_dtype_whatever_the_default(base_of, model_type, peft_config):
    base = base_of(model_type)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = build(base)
        drawn = build(tiny_config(model_type), backbone_init="random", peft_config=peft_config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in [*model.parameters(), *drawn.parameters()]} == {torch.float32}


@HALVES
def test_rotary_frequencies_keep_their_precision(base_of, dtype):
    base = base_of("qwen3")
    buffers = [dict(build(base, one).named_buffers()) for one in (dtype, None)]
    assert any("inv_freq" in name for name in buffers[0])
    for name, buffer in buffers[0].items():
        assert torch.equal(buffer, buffers[1][name]) and buffer.dtype == buffers[1][name].dtype, name


@HALVES
@FAMILIES
def test_the_delta_is_the_same_and_the_memory_half(base_of, tmp_path, model_type, dtype):
    base = base_of(model_type)
    half, whole = build(base, dtype), build(base)
    half.save_pretrained(tmp_path / "half")
    whole.save_pretrained(tmp_path / "whole")
    deltas = [load_file(tmp_path / name / "model.safetensors") for name in ("half", "whole")]
    assert deltas[0].keys() == deltas[1].keys()
    assert all(torch.equal(tensor, deltas[1][name]) for name, tensor in deltas[0].items())
    frozen = [sum(p.nbytes for p in model.parameters() if not p.requires_grad) for model in (half, whole)]
    assert frozen[0] < 0.51 * frozen[1]  # norms of queries and keys do not train here, and stay fp32


@pytest.mark.skipif(not MAPS.exists(), reason="needs Linux, which lists the files that are mapped")
@HALVES
def test_the_stored_weights_do_not_stay_in_memory(base_of, dtype):
    base = base_of("gpt2")
    file = str(base / "model.safetensors")
    whole = build(base)
    assert file in MAPS.read_text()
    del whole
    gc.collect()
    half = build(base, dtype)
    gc.collect()
    assert half.config.dtype == getattr(torch, dtype) and file not in MAPS.read_text()


@pytest.mark.parametrize(
    ("cast", "frozen"),
    [
        (lambda model: model.half(), torch.float16),
        (lambda model: model.bfloat16(), torch.bfloat16),
        (lambda model: model.to(torch.bfloat16), torch.bfloat16),
        (lambda model: model.double(), torch.float32),
        (lambda model: model, torch.float32),
    ],
)
@pytest.mark.parametrize("way", ["delta", "gathered", "peft"])
def test_a_model_that_was_cast_by_hand_comes_back(way, cast, frozen, make_model, tmp_path, warned):
    model = cast(make_model("bert", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, num_labels=None))
    trained = {name: parameter.float() for name, parameter in model.named_parameters() if parameter.requires_grad}
    rounded = next(model.parameters()).dtype == torch.float64
    if way != "peft":
        model.save_pretrained(tmp_path / "saved", state_dict=model.state_dict() if way == "gathered" else None)
        assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / "model.safetensors").values()} == {
            torch.float32
        }
        loaded = FPTForSequenceClassification.from_pretrained(tmp_path / "saved", dtype="auto")
    else:
        model.save_peft_adapter(tmp_path / "saved")
        config = FPTConfig.from_pretrained(tmp_path / "saved")
        loaded = FPTForSequenceClassification.from_backbone(config.base_model_config, config=config)
        loaded.load_adapter(tmp_path / "saved")
    assert ("a delta keeps them in float32" in warned.text) == rounded
    for name, parameter in loaded.named_parameters():
        if name in trained:
            assert torch.equal(parameter, trained[name]) and parameter.dtype == torch.float32, name
        elif ".LayerNorm." not in name:
            assert parameter.dtype == frozen, name
