"""A backbone on given devices: loaded there, trained there, and refused where it cannot train.

There is one device here. As two that are not equal, accelerate dispatches the backbone over it, with its hooks.
"""

import os

import pytest
import torch
from accelerate import init_empty_weights
from conftest import IMAGE_BACKBONES, tiny_config, trained_by
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, Trainer, TrainingArguments

from fpt_adapters import FPTConfig, FPTForSequenceClassification, FPTTrainer
from fpt_adapters.backbones.device_maps import check_device_map
from fpt_adapters.backbones.structure import device_of

IMAGES = [name for name in IMAGE_BACKBONES if name == "vit"]
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
INPUTS = torch.randn(3, 10, 3, generator=torch.Generator().manual_seed(0))


class Device(str):
    """A device's name that equals no other, and so a device of its own for transformers and accelerate."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return self is other


ONE, OTHER = Device("cpu"), Device("cpu")
TWO_DEVICES = {
    "gpt2": {"wte": ONE, "wpe": ONE, "drop": ONE, "h.0": ONE, "h.1": OTHER, "ln_f": OTHER},
    "vit": {"embeddings": ONE, "layers.0": ONE, "layers.1": OTHER, "layernorm": OTHER, "pooler": OTHER},
}


@pytest.fixture
def base_of(tmp_path, saved_base):
    def base(model_type):
        if model_type == "gpt2":
            return saved_base
        AutoModel.from_config(tiny_config(model_type)).save_pretrained(tmp_path / model_type)
        return tmp_path / model_type

    return base


def build(base, device_map=None, **changes):
    torch.manual_seed(0)
    return FPTForSequenceClassification.from_backbone(base, device_map=device_map, **FIELDS | changes)


@torch.no_grad()
def outputs(model):
    return model.eval()(input_values=INPUTS)[0]


def assert_same(first, second):
    assert first.keys() == second.keys() and first
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def is_dispatched(model):
    return any("_hf_hook" in vars(module) for module in model.modules())


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, TWO_DEVICES], ids=["auto", "cpu", "all", "two"])
@pytest.mark.parametrize("model_type", ["gpt2", *IMAGES])
def test_it_trains_what_it_trains_without(base_of, tmp_path, model_type, device_map, trainer_class):
    base = base_of(model_type)
    several = device_map is TWO_DEVICES
    model = build(base, TWO_DEVICES[model_type] if several else device_map)
    assert is_dispatched(model) == several
    plain = build(base)
    assert torch.equal(outputs(model), outputs(plain))
    assert model.config.base_model_fingerprint == plain.config.base_model_fingerprint
    states = [trained_by(trainer_class, one, tmp_path / str(number)) for number, one in enumerate((model, plain))]
    assert_same(*states)
    model.save_pretrained(tmp_path / "delta")
    placed = FPTForSequenceClassification.from_pretrained(
        tmp_path / "delta", base_model_name_or_path=base, device_map=TWO_DEVICES[model_type]
    )
    assert is_dispatched(placed)
    assert torch.equal(outputs(placed), outputs(plain))


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_it_has_the_same_weights_in_any_dtype(base_of, dtype):
    placed, plain = (build(base_of("gpt2"), device_map, dtype=dtype) for device_map in ("auto", None))
    assert_same(*({name: p.data for name, p in model.named_parameters()} for model in (placed, plain)))
    assert [p.dtype for p in placed.parameters()] == [p.dtype for p in plain.parameters()]
    assert placed.config.dtype == plain.config.dtype


@pytest.mark.parametrize("init", ["random", "statistics"])
def test_drawn_weights_are_placed_too(base_of, init):
    source = tiny_config("gpt2") if init == "random" else base_of("gpt2")
    placed, plain = (build(source, device_map, backbone_init=init) for device_map in (TWO_DEVICES["gpt2"], None))
    assert is_dispatched(placed)
    assert torch.equal(outputs(placed), outputs(plain))


def test_auto_classes_place_it(base_of, tmp_path):
    build(base_of("gpt2")).save_pretrained(tmp_path)
    arguments = {"base_model_name_or_path": base_of("gpt2"), "device_map": TWO_DEVICES["gpt2"]}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, **arguments)
    assert is_dispatched(model)


class Backbone(nn.Module):
    """Weights on devices that this machine lacks, as far as `device_of` and Trainer look."""

    def __init__(self, *devices):
        super().__init__()
        self.devices = devices

    def parameters(self, recurse=True):
        return iter([Weight(device) for device in self.devices])


class Weight:
    def __init__(self, device):
        self.device = torch.device(device)


def test_new_modules_go_to_the_first_device():
    assert device_of(Backbone("cuda:1", "cuda:0", "cuda:2")) == torch.device("cuda:0")
    assert device_of(Backbone("cuda:3")) == torch.device("cuda:3")
    assert device_of(nn.Identity()) == torch.device("cpu")


def test_new_modules_are_placed_whatever_built_them(base_of, tmp_path, monkeypatch):
    placed = []
    monkeypatch.setattr(FPTForSequenceClassification, "_join_devices", lambda model: placed.append(model))
    model = build(base_of("gpt2"))
    model.save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=base_of("gpt2"))
    assert placed == [model, loaded]


def test_trainer_is_told_of_several_devices(base_of, tmp_path):
    model = build(base_of("gpt2"))
    assert "hf_device_map" not in vars(model)
    model.fpt.backbone.h[1].to("meta")  # as if on another device
    model._join_devices()
    names = {name: device.type for name, device in model.hf_device_map.items()}
    assert names["fpt.backbone.h.1.ln_1.weight"] == "meta"
    assert {names[name] for name in names if ".h.1." not in name} == {"cpu"}
    arguments = TrainingArguments(os.fspath(tmp_path), use_cpu=True, report_to="none")
    assert Trainer(model, arguments).is_model_parallel


# What is refused


REFUSED = [
    {"wte": 0, "h": "disk"},
    {"wte": "cpu", "h": "disk"},
    {"wte": 0, "h": "cpu"},
    {"wte": "cuda:0", "h": torch.device("cpu")},
]


@pytest.mark.parametrize("device_map", REFUSED)
def test_offloading_is_refused_before_anything_is_loaded(base_of, device_map):
    with pytest.raises(ValueError, match=r"not on both and not on disk; device_map has .*quantization_config"):
        check_device_map(device_map)
    with pytest.raises(ValueError, match="not on both and not on disk"):
        build(base_of("gpt2"), device_map)


def test_what_ends_up_outside_memory_is_refused(base_of):
    with pytest.raises(ValueError, match=r"does not fit on the devices: \d+ tensors .* the first is wte.weight"):
        build(base_of("gpt2"), "meta")


@pytest.mark.parametrize("empty", [lambda: torch.device("meta"), init_empty_weights], ids=["meta", "empty"])
def test_nothing_is_built_on_the_meta_device(base_of, tmp_path, empty):
    build(base_of("gpt2"), None).save_pretrained(tmp_path / "delta")
    config = FPTConfig(base_model_config=tiny_config("gpt2"), backbone_init="random", **FIELDS)
    load = FPTForSequenceClassification.from_pretrained
    ways = [
        lambda: FPTForSequenceClassification(config),
        lambda: AutoModelForSequenceClassification.from_config(config),
        lambda: build(base_of("gpt2"), None),
        lambda: load(tmp_path / "delta", base_model_name_or_path=base_of("gpt2")),
    ]
    for way in ways:
        with empty(), pytest.raises(RuntimeError, match=r"on the meta device.* write model.to\('meta'\)"):
            way()
        assert all(parameter.is_meta for parameter in way().to("meta").parameters())


@pytest.mark.parametrize("device_map", ["auto", "balanced", "sequential"])
def test_several_processes_do_not_share_one_backbone(monkeypatch, device_map):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="each of 2 processes has its own: leave device_map out"):
        check_device_map(device_map)
    check_device_map("cuda:1")
    check_device_map({"": 1})
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_device_map(device_map)
