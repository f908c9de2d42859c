"""A backbone on given devices: loaded there, trained there, and refused where it cannot train.

There is one device here. As two that are not equal, accelerate dispatches the backbone over it, with its hooks.
"""

import os
from types import SimpleNamespace

import pytest
import torch
from accelerate import init_empty_weights
from conftest import (
    FIELDS,
    IMAGE_BACKBONES,
    assert_same,
    build_seeded,
    outputs,
    reloaded,
    run_trainer,
    tiny_config,
    trained,
    weights,
)
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from fpt_adapters import FPTConfig, FPTForSequenceClassification, FPTTrainer
from fpt_adapters.backbones.device_maps import check_device_map
from fpt_adapters.backbones.structure import device_of


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


def is_dispatched(model):
    return any("_hf_hook" in vars(module) for module in model.modules())


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, TWO_DEVICES], ids=["auto", "cpu", "all", "two"])
@pytest.mark.parametrize("model_type", [name for name in TWO_DEVICES if name == "gpt2" or name in IMAGE_BACKBONES])
def test_it_trains_what_it_trains_without(bases, tmp_path, model_type, device_map, trainer_class):
    base, two = bases(model_type), TWO_DEVICES[model_type]
    model, plain = build_seeded(base, device_map=two if device_map is TWO_DEVICES else device_map), build_seeded(base)
    assert is_dispatched(model) == (device_map is TWO_DEVICES)
    assert torch.equal(outputs(model), outputs(plain))
    assert model.config.base_model_fingerprint == plain.config.base_model_fingerprint
    assert_same(*(trained(run_trainer(one, tmp_path, trainer_class).model) for one in (model, plain)))
    model.save_pretrained(tmp_path / "delta")
    placed = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "delta", base_model_name_or_path=base, device_map=two
    )
    assert is_dispatched(placed)
    assert torch.equal(outputs(placed), outputs(plain))


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_it_has_the_same_weights_in_any_dtype(bases, dtype):
    placed, plain = (build_seeded(bases("gpt2"), device_map=device_map, dtype=dtype) for device_map in ("auto", None))
    assert_same(weights(placed), weights(plain))
    assert placed.config.dtype == plain.config.dtype


@pytest.mark.parametrize("init", ["random", "statistics"])
def test_drawn_weights_are_placed_too(bases, init):
    source = tiny_config("gpt2") if init == "random" else bases("gpt2")
    placed, plain = (
        build_seeded(source, device_map=device_map, backbone_init=init) for device_map in (TWO_DEVICES["gpt2"], None)
    )
    assert is_dispatched(placed)
    assert torch.equal(outputs(placed), outputs(plain))


@pytest.mark.parametrize(
    ("devices", "first"), [(["cuda:1", "cuda:0", "cuda:2"], "cuda:0"), (["cuda:3"], "cuda:3"), ([], "cpu")]
)
def test_new_modules_go_to_the_first_device(devices, first):
    on_them = [SimpleNamespace(device=torch.device(device)) for device in devices]  # which this machine lacks
    assert device_of(SimpleNamespace(parameters=lambda: on_them)) == torch.device(first)


def test_new_modules_are_placed_whatever_built_them(bases, tmp_path, monkeypatch):
    placed = []
    monkeypatch.setattr(FPTForSequenceClassification, "_join_devices", lambda model: placed.append(model))
    model = build_seeded(bases("gpt2"))
    assert placed == [model, reloaded(model, tmp_path, base_model_name_or_path=bases("gpt2"))]


def test_trainer_is_told_of_several_devices(bases, tmp_path):
    model = build_seeded(bases("gpt2"))
    assert "hf_device_map" not in vars(model)
    model.fpt.backbone.h[1].to("meta")  # as if on another device
    model._join_devices()
    names = {name: device.type for name, device in model.hf_device_map.items()}
    assert names["fpt.backbone.h.1.ln_1.weight"] == "meta"
    assert {names[name] for name in names if ".h.1." not in name} == {"cpu"}
    arguments = TrainingArguments(os.fspath(tmp_path), use_cpu=True, report_to="none")
    assert Trainer(model, arguments).is_model_parallel


# What is refused


@pytest.mark.parametrize(
    "device_map",
    [
        {"wte": 0, "h": "disk"},
        {"wte": "cpu", "h": "disk"},
        {"wte": 0, "h": "cpu"},
        {"wte": "cuda:0", "h": torch.device("cpu")},
    ],
)
def test_offloading_is_refused_before_anything_is_loaded(bases, device_map):
    for refuse in (check_device_map, lambda device_map: build_seeded(bases("gpt2"), device_map=device_map)):
        with pytest.raises(ValueError, match=r"not on both and not on disk; device_map has .*quantization_config"):
            refuse(device_map)


def test_what_ends_up_outside_memory_is_refused(bases):
    with pytest.raises(ValueError, match=r"does not fit on the devices: \d+ tensors .* the first is wte.weight"):
        build_seeded(bases("gpt2"), device_map="meta")


@pytest.mark.parametrize("empty", [lambda: torch.device("meta"), init_empty_weights], ids=["meta", "empty"])
def test_nothing_is_built_on_the_meta_device(bases, tmp_path, empty):
    base = bases("gpt2")
    build_seeded(base).save_pretrained(tmp_path)
    config = FPTConfig(base_model_config=tiny_config("gpt2"), backbone_init="random", **FIELDS)
    for way in (
        lambda: FPTForSequenceClassification(config),
        lambda: AutoModelForSequenceClassification.from_config(config),
        lambda: build_seeded(base),
        lambda: FPTForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=base),
    ):
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
