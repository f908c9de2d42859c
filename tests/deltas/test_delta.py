"""The delta checkpoint: what it holds, that it comes back bit for bit, what it refuses, and that crashes spare it."""

import hashlib
import json
import os
import shutil
import signal
import socket
from collections import Counter

import huggingface_hub.constants
import pytest
import torch
from accelerate import Accelerator
from conftest import LAYERS, TINY_BACKBONES, VOCABULARY, forked, needs_fork, tiny_config
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2Model,
)

import fpt_adapters.deltas.writing
from fpt_adapters import (
    DeltaError,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
    FPTPreTrainedModel,
    update_config,
)

INPUTS = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0))
FILES = ["config.json", "model.safetensors"]
PLACES = {  # in the file of a delta on a tiny GPT-2, and what is there
    "input.projection.bias": "fpt.input_projection.projection.bias",
    "input.projection.weight": "fpt.input_projection.projection.weight",
    "backbone.position.0": "fpt.backbone.wpe.weight",
    "backbone.layers.0.norm.0": "fpt.backbone.h.0.ln_1.weight",
    "backbone.layers.0.norm.1": "fpt.backbone.h.0.ln_1.bias",
    "backbone.layers.0.norm.2": "fpt.backbone.h.0.ln_2.weight",
    "backbone.layers.0.norm.3": "fpt.backbone.h.0.ln_2.bias",
    "backbone.layers.1.norm.0": "fpt.backbone.h.1.ln_1.weight",
    "backbone.layers.1.norm.1": "fpt.backbone.h.1.ln_1.bias",
    "backbone.layers.1.norm.2": "fpt.backbone.h.1.ln_2.weight",
    "backbone.layers.1.norm.3": "fpt.backbone.h.1.ln_2.bias",
    "backbone.norm.0": "fpt.backbone.ln_f.weight",
    "backbone.norm.1": "fpt.backbone.ln_f.bias",
    "output.bias": "head.bias",
    "output.weight": "head.weight",
}
NORMS = {place for place in PLACES if ".norm." in place}
INPUT = {place for place in PLACES if place.startswith("input.")}
HEAD = {place for place in PLACES if place.startswith("output.")}
POSITION = {"backbone.position.0"}


def train(model, seed=0):
    """Move every trained parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


@torch.no_grad()
def outputs(model, tokens=10):
    model.eval()
    return model(input_values=INPUTS[:, :tokens])[0]


def on_base(saved_base, model_class=FPTForSequenceClassification, **fields):
    fields = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4} | fields
    return model_class.from_backbone(saved_base, **fields)


@pytest.fixture
def saved(make_model, tmp_path):
    """A trained tiny GPT-2 with random frozen weights, and the folder it is saved in."""
    model = train(make_model("gpt2"))
    folder = tmp_path / "delta"
    model.save_pretrained(folder)
    return model, folder


# What is saved


def test_exactly_the_trained_tensors_are_saved(saved):
    model, folder = saved
    assert sorted(os.listdir(folder)) == FILES
    tensors = load_file(folder / "model.safetensors")
    assert set(tensors) == set(PLACES)
    assert set(PLACES.values()) == {name for name, p in model.named_parameters() if p.requires_grad}
    for place, tensor in tensors.items():
        assert torch.equal(tensor, model.get_parameter(PLACES[place])) and tensor.dtype == torch.float32


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"trainable": ["output"]}, INPUT | HEAD),
        ({"trainable": ["input", "output"]}, INPUT | HEAD),
        ({"trainable": []}, INPUT | HEAD),
        ({"trainable": ["norm"]}, INPUT | HEAD | NORMS),
        ({"positions": "new"}, PLACES.keys() - POSITION | {"position.weight"}),
        ({"positions": "new", "trainable": ["output"]}, INPUT | HEAD | {"position.weight"}),
        (
            {"input_type": "tokens", "input_size": None, "vocab_size": 9, "trainable": ["output"]},
            {"input.embedding.weight"} | HEAD,
        ),
        *(
            (
                {"trainable": [group]},
                INPUT | HEAD | {f"backbone.layers.{i}.attention.{n}" for i in layers for n in range(4)},
            )
            for group, layers in {"attention": range(LAYERS), "last_attention": [LAYERS - 1]}.items()
        ),
    ],
)
def test_the_policy_decides_what_is_saved(make_model, tmp_path, fields, expected):
    model = make_model("gpt2", **fields)
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == expected
    assert {model.tensor_places()[name] for name in model.delta_tensors()} == expected


def test_a_model_without_a_head_and_one_for_tokens(make_model, tmp_path):
    make_model("gpt2", FPTModel).save_pretrained(tmp_path / "headless")
    assert set(load_file(tmp_path / "headless" / "model.safetensors")) == PLACES.keys() - HEAD
    make_model("gpt2", FPTForTokenClassification).save_pretrained(tmp_path / "tokens")
    places = PLACES.keys() - HEAD | {"output.out_proj.weight", "output.out_proj.bias"}
    assert set(load_file(tmp_path / "tokens" / "model.safetensors")) == places


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_no_two_tensors_have_one_place(make_model, model_type):
    places = make_model(model_type, trainable=["attention", "feedforward"]).tensor_places()
    assert len(set(places.values())) == len(places) > 10


def test_a_delta_of_the_papers_size_is_small(gpt2_base, tmp_path):
    gpt2_base.save_pretrained(tmp_path)
    trained = 4 * gpt2_base.num_parameters(only_trainable=True)
    assert trained == 4 * 132_874
    total = sum((tmp_path / name).stat().st_size for name in os.listdir(tmp_path))
    assert trained < total <= trained + 32 * 1024


@pytest.mark.parametrize("model_type", ["gpt2", "t5", "vit"])
@pytest.mark.parametrize("labels", [["a", "b", "c"], ["ärgerlich", 'quote " and \\', "\u2028 \x07 \x7f \U0001f600"]])
@pytest.mark.parametrize("with_code", [False, True])
def test_its_size_is_known_before_it_is_written(make_model, tmp_path, model_type, labels, with_code):
    model = make_model(model_type, id2label=dict(enumerate(labels)))
    model.with_code = with_code
    model.half()
    size = model.delta_bytes()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size == size


def test_the_size_is_that_of_the_given_state_dict(saved):
    model, folder = saved
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    assert model.delta_bytes(state) == (folder / "model.safetensors").stat().st_size
    state["head.weight"] = torch.full_like(state["head.weight"], torch.nan)
    with pytest.raises(ValueError, match=r"head\.weight is not finite"):
        model.delta_bytes(state)


@pytest.mark.parametrize("model_type", ["albert", "t5"])
def test_shared_weights_are_saved_once(make_model, tmp_path, model_type):
    model = train(make_model(model_type, trainable=["input", "output", "norm", "attention", "feedforward"]))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == model.num_parameters(only_trainable=True)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))


def test_tied_parameters_are_saved_once(make_model, tmp_path):
    model = make_model("gpt2")
    blocks = model.fpt.backbone.h
    blocks[1].ln_1.weight = blocks[0].ln_1.weight
    for state_dict in (None, model.state_dict()):
        model.save_pretrained(tmp_path, state_dict=state_dict)
        assert set(load_file(tmp_path / "model.safetensors")) == PLACES.keys() - {"backbone.layers.1.norm.3"}


def test_parts_of_one_storage_are_saved_as_they_are(saved):
    model, folder = saved
    whole = torch.arange(8.0 * 32).reshape(8, 32)
    state_dict = model.state_dict() | {"head.weight": whole[:4], "head.bias": whole[4, :4]}
    model.save_pretrained(folder, state_dict=state_dict)
    tensors = load_file(folder / "model.safetensors")
    assert torch.equal(tensors["output.weight"], whole[:4]) and torch.equal(tensors["output.bias"], whole[4, :4])


def test_values_come_from_the_given_state_dict(saved):
    model, folder = saved
    given = {name: torch.full_like(tensor, 2.5) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=given)
    tensors = load_file(folder / "model.safetensors")
    assert set(tensors) == set(PLACES)
    assert all((tensor == 2.5).all() for tensor in tensors.values())
    loaded = FPTForSequenceClassification.from_pretrained(folder)
    assert (loaded.head.weight == 2.5).all() and not (loaded.fpt.backbone.wte.weight == 2.5).any()
    del given["head.bias"]
    with pytest.raises(KeyError, match=r"head\.bias"):
        model.save_pretrained(folder, state_dict=given)


def test_empty_shards_are_not_saved(saved):
    model, folder = saved
    before = (folder / "model.safetensors").read_bytes()
    given = model.state_dict() | {"fpt.backbone.ln_f.bias": torch.empty(0)}
    with pytest.raises(ValueError, match=r"fpt\.backbone\.ln_f\.bias is spread over processes or empty"):
        model.save_pretrained(folder, state_dict=given)
    assert (folder / "model.safetensors").read_bytes() == before


def test_what_is_no_field_of_the_config_is_left_out_by_name(saved, warned):
    model, folder = saved
    before = model.config.to_dict()
    model.config.task_specific_params = {"a": 1}
    model.config.mine = object()
    model.save_pretrained(folder)
    (record,) = warned.records
    assert "mine, task_specific_params of the model's config is no field" in record.message
    for loader in (FPTForSequenceClassification, AutoModelForSequenceClassification):
        assert torch.equal(outputs(loader.from_pretrained(folder)), outputs(model))
    assert FPTForSequenceClassification.from_pretrained(folder).config.to_dict() | before == before


def test_only_the_main_process_writes(make_model, tmp_path):
    make_model("gpt2").save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"variant": "fp16"}, ValueError, "variant='fp16' has no meaning for a delta: a delta is one file"),
        ({"safe_serialization": False}, ValueError, "safe_serialization=False .* as safetensors only"),
        ({"distributed_checkpoint": True}, ValueError, "gather the delta"),
        ({"repo_id": "a/b", "hub": 1}, TypeError, "does not know hub, repo_id without push_to_hub"),
    ],
)
def test_saving_refuses_what_it_cannot_do(given, error, message, make_model, tmp_path):
    with pytest.raises(error, match=message):
        make_model("gpt2").save_pretrained(tmp_path, **given)
    assert os.listdir(tmp_path) == []


def test_accelerates_way_of_saving_writes_the_same(make_model, tmp_path):
    model, accelerator = make_model("gpt2"), Accelerator(cpu=True)
    model.save_pretrained(tmp_path / "plain")
    given = {"is_main_process": accelerator.is_main_process, "save_function": accelerator.save}
    given |= {"state_dict": accelerator.get_state_dict(model), "safe_serialization": True, "max_shard_size": "5GB"}
    given |= {"save_peft_format": False, "save_original_format": False, "variant": None, "token": False}
    accelerator.unwrap_model(accelerator.prepare(model)).save_pretrained(tmp_path / "given", **given)
    assert same_checkpoint(tmp_path / "plain", tmp_path / "given")


@pytest.mark.parametrize("declared", [None, "someone/tiny-gpt2"])
def test_saving_touches_no_network(saved_base, tmp_path, monkeypatch, declared):
    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise OSError("no network here")

    model = on_base(saved_base, base_model=declared)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    model.save_pretrained(tmp_path)
    assert calls == []
    assert sorted(os.listdir(tmp_path)) == FILES


# What comes back


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTModel, FPTForTokenClassification])
def test_a_reloaded_model_gives_the_same_bits(make_model, tmp_path, model_type, model_class):
    model = train(make_model(model_type, model_class))
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert not loaded.training
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.config.base_model_fingerprint == model.config.base_model_fingerprint
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("init", ["pretrained", "statistics", "random"])
def test_every_kind_of_base_comes_back(saved_base, tmp_path, init):
    model = train(on_base(saved_base, backbone_init=init, backbone_init_seed=11))
    model.save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=saved_base)
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.config.backbone_init_seed == 11


def test_random_weights_need_no_base(saved_base, tmp_path):
    model = train(on_base(saved_base, backbone_init="random", backbone_init_seed=11))
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(tmp_path)), outputs(model))


def same_checkpoint(one, other):
    """Equal configurations and tensors (safetensors writes its metadata in any order)."""
    assert (one / "config.json").read_bytes() == (other / "config.json").read_bytes()
    tensors, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    return True


def test_a_second_generation_equals_the_first(saved, tmp_path):
    _, folder = saved
    FPTForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "second")
    assert same_checkpoint(tmp_path / "second", folder)


@pytest.mark.parametrize("loader", [AutoModel, FPTModel])
@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification])
def test_the_headless_model_of_a_headed_delta(make_model, tmp_path, loader, model_class):
    model = train(make_model("gpt2", model_class))
    model.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is FPTModel
    assert torch.equal(outputs(loaded), outputs(model.fpt))


def test_auto_classes_pass_the_base_on(saved_base, tmp_path):
    model = train(on_base(saved_base))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=saved_base)
    assert type(loaded) is FPTForSequenceClassification
    assert torch.equal(outputs(loaded), outputs(model))
    _, info = FPTForSequenceClassification.from_pretrained(
        tmp_path, base_model_name_or_path=saved_base, output_loading_info=True
    )
    assert not any(info.values())


def test_a_frozen_random_input_comes_back(make_model, tmp_path):
    torch.manual_seed(77)
    config = make_model("gpt2", trainable=["output"]).config
    model = train(FPTForSequenceClassification(config))
    projection = model.fpt.input_projection.projection.weight
    assert not projection.requires_grad
    model.save_pretrained(tmp_path)
    torch.manual_seed(78)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.fpt.input_projection.projection.weight, projection)
    assert not loaded.fpt.input_projection.projection.weight.requires_grad
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("trainable", [["output"], ["input", "output", "norm", "position"], ["norm", "attention"]])
def test_loading_keeps_the_policy_and_fp32(make_model, tmp_path, trainable, dtype):
    fields = {"trainable": trainable, "pooling": "last"} | ({"dtype": dtype} if dtype else {})
    model = train(make_model("gpt2", **fields))
    model.save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path)
    expected = dict(model.named_parameters())
    for name, parameter in loaded.named_parameters():
        assert parameter.requires_grad is expected[name].requires_grad, name
        assert parameter.dtype is expected[name].dtype, name
        assert torch.equal(parameter, expected[name]), name
        assert parameter.device.type == "cpu" and parameter.is_leaf
    assert {p.dtype for p in loaded.parameters() if p.requires_grad} == {torch.float32}
    assert loaded.fpt.backbone.wte.weight.dtype is (torch.bfloat16 if dtype else torch.float32)


def test_trained_weights_are_fp32_whatever_was_gathered(saved):
    model, folder = saved
    model.save_pretrained(folder, state_dict={k: v.bfloat16() for k, v in model.state_dict().items()})
    loaded = FPTForSequenceClassification.from_pretrained(folder)
    assert {p.dtype for p in loaded.parameters() if p.requires_grad} == {torch.float32}


def test_the_frozen_dtype_can_be_chosen_on_loading(saved):
    model, folder = saved
    for argument in ({"dtype": "bfloat16"}, {"dtype": torch.bfloat16}, {"torch_dtype": "bfloat16"}):
        loaded = FPTForSequenceClassification.from_pretrained(folder, **argument)
        assert loaded.fpt.backbone.wte.weight.dtype is torch.bfloat16
        assert torch.equal(loaded.fpt.backbone.ln_f.weight, model.fpt.backbone.ln_f.weight)
    loaded = FPTForSequenceClassification.from_pretrained(folder, dtype="auto")
    assert loaded.fpt.backbone.wte.weight.dtype is torch.float32


def test_a_loaded_model_trains_on(saved):
    _, folder = saved
    loaded = FPTForSequenceClassification.from_pretrained(folder).train()
    loaded(input_values=INPUTS, labels=torch.tensor([0, 3])).loss.backward()
    assert {name for name, p in loaded.named_parameters() if p.grad is not None} == set(PLACES.values())


def test_fields_can_be_given_on_loading(saved):
    model, folder = saved
    labels = {"id2label": {0: "a", 1: "b", 2: "c", 3: "d"}, "label2id": {"a": 0, "b": 1, "c": 2, "d": 3}}
    loaded = FPTForSequenceClassification.from_pretrained(
        folder, pooling="mean", input_dropout=0.3, backbone_dropout=0.0, **labels
    )
    assert loaded.config.pooling == "mean" and loaded.fpt.input_projection.dropout.p == 0.3
    assert loaded.fpt.backbone.drop.p == 0.0
    assert loaded.config.id2label == labels["id2label"] and loaded.config.label2id == labels["label2id"]
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert not torch.equal(outputs(loaded), outputs(model))
    model.config.pooling = "mean"
    assert torch.equal(outputs(loaded), outputs(model))


def test_a_field_that_changes_a_shape_is_refused_by_tensor(saved):
    _, folder = saved
    with pytest.raises(DeltaError, match=r"head\.\w+ has shape \(4.*\), but this model needs \(7.*\)"):
        FPTForSequenceClassification.from_pretrained(folder, num_labels=7)
    with pytest.raises(DeltaError, match=r"wpe.weight has shape \(10, 32\), but this model needs \(9, 32\)"):
        FPTForSequenceClassification.from_pretrained(folder, sequence_length=9)


@pytest.mark.parametrize(
    "field, message",
    [
        ({"input_dropout": 1.5}, "input_dropout is a probability"),
        ({"backbone_dropout": -0.5}, "backbone_dropout is a probability"),
        ({"pad_token_id": 0}, "pad_token_id does not belong to input_type='values'"),
        ({"trainable": ["input", "layernorm"]}, "trainable takes groups out of"),
        ({"positions": "none"}, "positions='none' leaves no position to train"),
        ({"base_model": "/data/gpt2"}, "base_model is a Hub id"),
        ({"pooling": "max"}, "pooling"),
    ],
    ids=str,
)
def test_a_field_given_on_loading_obeys_the_rules(saved, field, message):
    _, folder = saved
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=message):
        FPTForSequenceClassification.from_pretrained(folder, **field)


# What is refused


def rewrite(folder, change, digests=True):
    """Change the tensors of a delta file, with digests that fit or with those of before."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    change(tensors)
    if digests:
        hashes = [hashlib.sha256(tensors[n].contiguous().numpy().tobytes()).hexdigest()[:16] for n in sorted(tensors)]
        metadata["fpt_digests"] = ",".join(hashes)
    save_file(tensors, file, metadata=metadata)


def refused(folder, *words, model_class=FPTForSequenceClassification, **arguments):
    with pytest.raises(DeltaError) as error:
        model_class.from_pretrained(folder, **arguments)
    for word in words:
        assert word in str(error.value)
    return str(error.value)


def test_an_honest_rewrite_loads(saved):
    """The helper of the tests below damages nothing by itself."""
    model, folder = saved
    rewrite(folder, lambda tensors: None)
    assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(folder)), outputs(model))


@pytest.mark.parametrize("place, name", PLACES.items())
def test_a_missing_tensor_is_named(saved, place, name):
    _, folder = saved
    rewrite(folder, lambda tensors: tensors.pop(place))
    refused(folder, f"lacks {name},", "model.safetensors")


def test_many_missing_tensors_are_counted(saved):
    _, folder = saved
    rewrite(folder, lambda tensors: [tensors.pop(place) for place in NORMS])
    refused(folder, "fpt.backbone.h.0.ln_1.weight", "and 6 more")


@pytest.mark.parametrize(
    "place, words",
    [
        ("backbone.other.0", "fpt.backbone.wte.weight"),
        ("backbone.layers.0.attention.0", "fpt.backbone.h.0.attn.c_attn.weight"),
        ("fpt.backbone.wte.weight", "fpt.backbone.wte.weight"),
        ("head.weight", "head.weight"),  # a name is no place
        ("backbone.layers.2.norm.0", "backbone.layers.2.norm.0"),
    ],
)
def test_an_unexpected_tensor_is_named(saved, place, words):
    _, folder = saved
    rewrite(folder, lambda tensors: tensors.update({place: torch.zeros(VOCABULARY, 32)}))
    refused(folder, f"has {words}, which this model does not train")


def test_a_policy_that_differs_from_the_file_is_refused(saved):
    _, folder = saved
    refused(folder, "does not train", trainable=["output"])
    refused(folder, "lacks", "attn", trainable=["input", "output", "norm", "position", "attention"])


@pytest.mark.parametrize("place", ["output.weight", "backbone.position.0"])
def test_a_misshapen_tensor_is_named_with_both_shapes(saved, place):
    model, folder = saved
    name = PLACES[place]
    rewrite(folder, lambda tensors: tensors.update({place: tensors[place][:3].clone()}))
    refused(folder, f"{name} has shape (3, 32)", str(tuple(model.get_parameter(name).shape)))


@pytest.mark.parametrize("transposed", ["output.weight", "input.projection.weight"])
def test_a_transposed_tensor_is_refused(saved, transposed):
    _, folder = saved
    rewrite(folder, lambda tensors: tensors.update({transposed: tensors[transposed].T.contiguous()}))
    refused(folder, PLACES[transposed])


@pytest.mark.parametrize("name", PLACES)
def test_a_flipped_bit_is_found_in_its_tensor(saved, name):
    _, folder = saved
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    for position in (start, end - 1):
        flipped = bytearray(data)
        flipped[8 + length + position] ^= 1
        file.write_bytes(flipped)
        refused(folder, f"the values of {name} are not those that were saved", "corrupt")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -1000])
def test_a_truncated_file_is_refused(saved, kept):
    _, folder = saved
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:kept])
    refused(folder, "model.safetensors", "truncated")


@pytest.mark.parametrize("content", [b"version https://git-lfs", bytes(range(256)) * 40, b"\xff" * 64, b"{}" * 64])
def test_garbage_is_refused(saved, content):
    _, folder = saved
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors", "no safetensors file")


def test_a_file_without_digests_is_refused(saved):
    _, folder = saved
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors, file, metadata={"format": "pt"})
    refused(folder, "not written by fpt_adapters", "fpt_digests")
    save_file(tensors, file)
    refused(folder, "not written by fpt_adapters", "fpt_digests")


def test_too_few_digests_are_refused(saved):
    _, folder = saved
    rewrite(folder, lambda tensors: tensors.update({"another": torch.zeros(1)}), digests=False)
    refused(folder, "16 tensors, but 15 digests")


def edit(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields, indent=2))


def as_before(folder):
    """Write a delta's file as versions did that kept the configuration's digest alone."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    del metadata["fpt_config_json"]
    save_file(tensors, file, metadata=metadata)


LABELS = {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}, "label2id": {"a": 0, "b": 1, "c": 2, "d": 3}}


@pytest.mark.parametrize("field", [{"pooling": "mean"}, {"positions": "new"}, {"backbone_init_seed": 1}], ids=str)
def test_an_edited_configuration_of_an_earlier_version_is_refused(saved, field):
    _, folder = saved
    as_before(folder)
    edit(folder, **field)
    refused(folder)


def test_what_says_nothing_of_the_weights_may_be_edited_beside_an_earlier_version(saved):
    model, folder = saved
    as_before(folder)
    edit(folder, **LABELS, base_model="someone/tiny-gpt2", transformers_version="5.4.0")
    loaded = FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=folder)
    assert loaded.config.id2label[3] == "d"
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("loader", [FPTForSequenceClassification, AutoModelForSequenceClassification])
@pytest.mark.parametrize(
    "field", [{"pooling": "mean"}, {"sequence_length": 9}, {"backbone_init_seed": 1}, LABELS], ids=str
)
def test_loading_goes_by_the_delta_file_and_says_so_where_its_copy_was_edited(saved, loader, field, warned):
    model, folder = saved
    edit(folder, **field)
    loaded = loader.from_pretrained(folder, input_dropout=0.3)
    assert torch.equal(outputs(loaded), outputs(model))
    changed = {"input_dropout": 0.1, "_name_or_path": ""}
    assert loaded.config.to_dict() | changed == model.config.to_dict() | changed
    assert loaded.config.input_dropout == 0.3
    (record,) = [record for record in warned.records if "was edited" in record.message]
    assert all(name in record.message for name in field) and "update_config" in record.message


def test_a_delta_can_be_told_other_labels_and_another_base(saved, warned):
    model, folder = saved
    update_config(folder, id2label=LABELS["id2label"], base_model="someone/tiny-gpt2")
    loaded = FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=folder)
    assert loaded.config.id2label[3] == "d" and loaded.config.label2id == LABELS["label2id"]
    assert loaded.config.base_model == "someone/tiny-gpt2"
    assert torch.equal(outputs(loaded), outputs(model)) and not warned.records
    with pytest.raises(ValueError, match=r"pooling changes what the weights compute: only .*id2label"):
        update_config(folder, pooling="mean")


def test_a_delta_without_a_head_fills_no_headed_model(make_model, tmp_path):
    make_model("gpt2", FPTModel).save_pretrained(tmp_path)
    refused(tmp_path, "without a head", "AutoModel")


def test_a_head_of_another_kind_is_refused(saved):
    _, folder = saved
    refused(folder, "has output.bias, output.weight, which this", model_class=FPTForTokenClassification)


def test_a_missing_file_is_an_oserror(saved, tmp_path):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        FPTForSequenceClassification.from_pretrained(folder)
    with pytest.raises(OSError):
        FPTForSequenceClassification.from_pretrained(tmp_path / "nowhere")


MEANINGLESS = {
    "state_dict": ({}, "load a delta from its folder"),
    "gguf_file": ("x.gguf", "load a delta from its folder"),
    "use_safetensors": (False, "safetensors only"),
    "from_tf": (True, "safetensors only"),
    "variant": ("fp16", "one file, model.safetensors"),
    "ignore_mismatched_sizes": (True, "fits its model exactly"),
    "max_memory": ({0: "1GB"}, "device_map"),
    "load_in_4bit": (True, "write BitsAndBytesConfig"),
    "adapter_name": ("mine", "leave it out"),
    "tp_plan": ("auto", "leave it out"),
}
HARMLESS = {
    "low_cpu_mem_usage": True,
    "use_safetensors": True,
    "weights_only": True,
    "_fast_init": False,
    "variant": None,
    "ignore_mismatched_sizes": False,
    "offload_state_dict": True,
    "proxies": None,
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_what_a_delta_cannot_do_is_refused_by_name(saved, name):
    _, folder = saved
    value, instead = MEANINGLESS[name]
    with pytest.raises(ValueError, match=f"{name}=.* has no meaning for a delta: .*{instead}"):
        FPTForSequenceClassification.from_pretrained(folder, **{name: value})


@pytest.mark.parametrize("name", ["state_dict", "variant", "ignore_mismatched_sizes"])
def test_an_auto_class_refuses_it_too(saved, name):
    _, folder = saved
    with pytest.raises(ValueError, match=f"{name}=.* has no meaning for a delta"):
        AutoModelForSequenceClassification.from_pretrained(folder, **{name: MEANINGLESS[name][0]})


@pytest.mark.parametrize("loader", [FPTForSequenceClassification, AutoModelForSequenceClassification])
def test_what_changes_nothing_is_taken(saved, loader):
    model, folder = saved
    assert torch.equal(outputs(loader.from_pretrained(folder, **HARMLESS)), outputs(model))


def test_building_on_a_base_takes_how_models_are_read_too(saved_base):
    fields = {"input_type": "values", "input_size": 3, "sequence_length": 10}
    model = FPTModel.from_backbone(saved_base, **fields, low_cpu_mem_usage=True, trust_remote_code=False)
    assert model.config.to_dict() == FPTModel.from_backbone(saved_base, **fields).config.to_dict()
    with pytest.raises(TypeError, match="no field 'variant'"):
        FPTModel.from_backbone(saved_base, **fields, variant="fp16")


def test_an_unknown_loading_argument_is_refused_by_name(saved):
    _, folder = saved
    with pytest.raises(TypeError, match="does not know base_model_path"):
        FPTForSequenceClassification.from_pretrained(folder, base_model_path=True)


# The base


def test_another_base_is_refused(saved_base, tmp_path):
    train(on_base(saved_base)).save_pretrained(tmp_path / "delta")
    other = tmp_path / "other"
    torch.manual_seed(5)
    AutoModel.from_config(tiny_config("gpt2")).save_pretrained(other)
    refused(tmp_path / "delta", "Another base", str(other), "fingerprint", base_model_name_or_path=other)


def test_a_base_that_was_trained_on_is_refused(saved_base, tmp_path):
    train(on_base(saved_base)).save_pretrained(tmp_path / "delta")
    base = AutoModel.from_pretrained(saved_base)
    with torch.no_grad():
        base.h[1].mlp.c_fc.weight += 1e-4
    base.save_pretrained(tmp_path / "other")
    refused(tmp_path / "delta", "Another base", base_model_name_or_path=tmp_path / "other")


def test_another_seed_or_kind_of_random_base_is_refused(saved, saved_base, tmp_path):
    _, folder = saved
    refused(folder, "Another base", "drawn from the seed", backbone_init_seed=1)
    refused(folder, "Another base", backbone_init_scheme="gpt2-flat")
    train(on_base(saved_base)).save_pretrained(tmp_path / "delta")
    place = {"base_model_name_or_path": saved_base}
    refused(tmp_path / "delta", "Another base", "'statistics'", backbone_init="statistics", **place)


def test_a_base_of_another_size_is_refused(saved_base, tmp_path):
    train(on_base(saved_base)).save_pretrained(tmp_path / "delta")
    AutoModel.from_config(tiny_config("gpt2", n_layer=1)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"n_layer=2, but the config\.json of the base '.*' has 1"):
        FPTForSequenceClassification.from_pretrained(
            tmp_path / "delta", base_model_name_or_path=tmp_path / "other"
        )  # fmt: skip


def test_a_base_that_was_not_declared_must_be_named(saved_base, tmp_path):
    model = on_base(saved_base)
    assert model.config.base_model is None
    model.save_pretrained(tmp_path)
    refused(tmp_path, "local folder without a Hub id", "base_model_name_or_path=")
    assert str(saved_base) not in (tmp_path / "config.json").read_text()


def test_a_declared_base_is_written_down_and_may_lie_elsewhere(saved_base, tmp_path):
    model = train(on_base(saved_base, base_model="someone/tiny-gpt2"))
    model.save_pretrained(tmp_path / "delta")
    written = (tmp_path / "delta" / "config.json").read_text()
    assert json.loads(written)["base_model"] == "someone/tiny-gpt2"
    assert str(saved_base) not in written
    with pytest.raises(
        OSError, match=r"the base 'someone/tiny-gpt2'(.|\n)*give its folder to .*base_model_name_or_path"
    ):
        FPTForSequenceClassification.from_pretrained(tmp_path / "delta")
    moved = shutil.copytree(saved_base, tmp_path / "moved")
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path / "delta", base_model_name_or_path=moved)
    assert torch.equal(outputs(loaded), outputs(model))
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == written


def test_a_path_is_no_declaration(saved_base):
    with pytest.raises(ValueError, match="base_model is a Hub id"):
        on_base(saved_base, base_model=str(saved_base))


NO_FOLDERS = (
    "/absent/base",
    "/absent/two words",
    "./absent",
    "../absent",
    "~/absent",
    "a/b/c",
    "C:\\absent",
    "two words",
    "",
)


def readers(base, delta):
    """What reads a folder, by what its errors say that they are about, and what they advise."""
    model = on_base(base)
    return {
        "This is about the base ": (lambda place: on_base(place), "Give from_backbone the base's folder"),
        "of a delta that was found. ": (
            lambda place: FPTForSequenceClassification.from_pretrained(delta, base_model_name_or_path=place),
            "Give base_model_name_or_path the folder",
        ),
        "the delta {}, not its base": (
            lambda place: FPTForSequenceClassification.from_pretrained(place, base_model_name_or_path=base),
            "Give from_pretrained the delta's folder",
        ),
        "This is about the adapter ": (model.load_adapter, "Give load_adapter the folder"),
    }


def test_what_cannot_be_read_is_named_with_what_to_write_instead(saved_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_base(saved_base).save_pretrained("delta")
    os.mkdir("empty")
    (tmp_path / "file.txt").write_text("x")
    for about, (read, advice) in readers(saved_base, "delta").items():
        for place in (*NO_FOLDERS, "empty", "file.txt", "owner/typo"):
            with pytest.raises(OSError) as caught:
                read(place)
            text, where = str(caught.value), repr(place)
            assert about.format(where) in text and advice in text and where in text, text
            assert ("can be no Hub id" in text) == (place in NO_FOLDERS) and "Repo id must" not in text, text
            assert ("looked for on the Hub" in text) == (place in ("file.txt", "owner/typo")), text
            assert ("is a file, where a folder is wanted" in text) == (place == "file.txt")
            assert ("expanduser" in text) == place.startswith("~")
            assert ("empty has no " in text) == (place == "empty")


def test_a_base_in_pieces_is_named(saved_base, tmp_path):
    for name in ("config.json", "model.safetensors"):
        broken = shutil.copytree(saved_base, tmp_path / name)
        (broken / name).unlink()
        with pytest.raises(OSError, match=rf"{name}(.|\n)*This is about the base '{broken}'\. Give from_backbone"):
            on_base(broken)
    (shutil.copytree(saved_base, tmp_path / "cut") / "config.json").write_text("{")
    with pytest.raises(OSError, match=r"not a valid JSON(.|\n)*This is about the base"):
        on_base(tmp_path / "cut")


def test_delta_and_base_are_not_taken_for_each_other(saved_base, tmp_path):
    on_base(saved_base).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a delta, no base: load it with from_pretrained"):
        on_base(tmp_path)
    with pytest.raises(DeltaError, match="holds no delta, but a model of type 'gpt2': from_backbone builds on it"):
        FPTForSequenceClassification.from_pretrained(saved_base)


# Where it may be written


def test_another_models_folder_is_not_overwritten(make_model, saved_base, tmp_path):
    folder = shutil.copytree(saved_base, tmp_path / "base")
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    with pytest.raises(DeltaError, match="holds a model of type 'gpt2'"):
        make_model("gpt2").save_pretrained(folder)
    (folder / "config.json").write_text("no json")
    with pytest.raises(DeltaError, match="'unreadable'"):
        make_model("gpt2").save_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(DeltaError, match=r"holds a model\.safetensors of unknown kind"):
        make_model("gpt2").save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_file_is_no_folder(make_model, tmp_path):
    file = tmp_path / "delta"
    file.write_text("mine")
    with pytest.raises(DeltaError, match="is a file"):
        make_model("gpt2").save_pretrained(file)
    assert file.read_text() == "mine"


def test_a_delta_may_be_saved_over_another_and_beside_other_files(saved, make_model):
    _, folder = saved
    (folder / "README.md").write_text("# mine")
    (folder / "optimizer.pt").write_bytes(b"state")
    model = train(make_model("bert", num_labels=2))
    model.save_pretrained(folder)
    assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(folder)), outputs(model))
    assert sorted(os.listdir(folder)) == ["README.md", *FILES, "optimizer.pt"]
    assert (folder / "README.md").read_text() == "# mine"


def test_folders_are_made(make_model, tmp_path):
    make_model("gpt2").save_pretrained(str(tmp_path / "a" / "b"))
    assert sorted(os.listdir(tmp_path / "a" / "b")) == FILES


# Crashes


def contents(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def on_call(number, original, action):
    """`original`, but its `number`-th call does `action` instead."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(args)
        return action() if len(calls) == number else original(*args, **kwargs)

    return wrapped


def no_space():
    raise OSError(28, "No space left on device")


CALLS = {"save_file": fpt_adapters.deltas.writing, "fsync": os, "replace": os}


@pytest.mark.parametrize("name, where", CALLS.items(), ids=CALLS)
@pytest.mark.parametrize("changed", [True, False, None], ids=["another model", "the same model", "the first"])
def test_a_full_disk_leaves_the_previous_checkpoint(saved, make_model, monkeypatch, name, where, changed):
    """Whichever of the calls fails: the save raises, and the folder is as it was."""
    model, folder = saved
    if changed is None:
        shutil.rmtree(folder)
    before, expected = contents(folder) if folder.exists() else {}, outputs(model)
    other = train(make_model("gpt2", **({"input_dropout": 0.2, "pooling": "mean"} if changed else {})), seed=1)
    for number in range(1, 10):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, on_call(number, getattr(where, name), no_space))
            try:
                other.save_pretrained(folder)
            except OSError as error:
                assert "No space left" in str(error)
            else:
                break  # there are fewer calls than that
        assert (contents(folder) if folder.exists() else {}) == before
        if before:
            assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(folder)), expected)
    assert number > 1
    assert sorted(os.listdir(folder)) == FILES
    assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(folder)), outputs(other))


def killed_while_saving(model, folder, where, name, number):
    """Save in a child process that is killed at a call; whether the call was reached."""

    def save():
        kill = on_call(number, getattr(where, name), lambda: os.kill(os.getpid(), signal.SIGKILL))
        setattr(where, name, kill)
        model.save_pretrained(folder)

    _, status = os.waitpid(forked(save), 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@needs_fork
@pytest.mark.parametrize("name, where", CALLS.items(), ids=CALLS)
def test_a_killed_save_leaves_a_whole_checkpoint(saved, monkeypatch, name, where):
    """A training run saves under one configuration: killed anywhere, the weights of before are there."""
    model, folder = saved
    expected, before = outputs(model), contents(folder)
    train(model, seed=1)
    number = 1
    while killed_while_saving(model, folder, where, name, number):
        assert {name: (folder / name).read_bytes() for name in FILES} == before
        assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(folder)), expected)
        number += 1
    assert number > 1
    assert len(os.listdir(folder)) > len(FILES)  # what the killed ones left may be another's, at work
    monkeypatch.setattr(fpt_adapters.deltas.writing, "STALE", -1)
    model.save_pretrained(folder)
    assert sorted(os.listdir(folder)) == FILES  # but not for long
    assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(folder)), outputs(model))


@needs_fork
@pytest.mark.parametrize("name, where", CALLS.items(), ids=CALLS)
def test_a_killed_save_of_another_model_leaves_one_of_the_two(saved, make_model, name, where):
    """One's configuration with the other's weights never loads, and one of them always does."""
    model, folder = saved
    other = train(make_model("gpt2", pooling="mean", sequence_length=8), seed=1)
    whole = {"last": outputs(model, 8), "mean": outputs(other, 8)}
    number = 1
    while killed_while_saving(other, folder, where, name, number):
        loaded = FPTForSequenceClassification.from_pretrained(folder)
        assert torch.equal(outputs(loaded, 8), whole[loaded.config.pooling])
        shutil.rmtree(folder)
        model.save_pretrained(folder)
        number += 1
    assert number > 1


def versions(make_model, count):
    """Models that differ in their weights, in the names of their labels, and every other one in a size."""
    for number in range(count):
        model = train(make_model("gpt2", sequence_length=8 + 2 * (number % 2)), seed=number)
        model.config.id2label = {label: f"{number}-{label}" for label in range(4)}
        model.config.label2id = {name: label for label, name in model.config.id2label.items()}
        yield model


def saving(models, folder, rounds):
    """A child process that saves the models in turn, in each round; it ends with 1 if one could not be saved."""

    def save():
        for _ in rounds:
            for model in models:
                model.save_pretrained(folder)

    return forked(save)


def until(file):
    """Rounds until there is a file."""
    while not file.exists():
        yield


@needs_fork
@pytest.mark.parametrize("loader", [FPTForSequenceClassification, AutoModelForSequenceClassification])
@pytest.mark.parametrize("loads", [20, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_load_beside_a_writer_is_one_version_whole(make_model, tmp_path, loader, loads, record_property):
    models, folder, stop = list(versions(make_model, 4)), tmp_path / "delta", tmp_path / "stop"
    expected = {model.config.id2label[0]: outputs(model, 8) for model in models}
    models[0].save_pretrained(folder)
    child, seen, mixed = saving(models, folder, until(stop)), Counter(), 0
    try:
        for _ in range(loads):
            loaded = loader.from_pretrained(folder)
            name = loaded.config.id2label[0]
            whole = loaded.config.sequence_length == 8 + 2 * (int(name[0]) % 2)
            mixed += not (whole and torch.equal(outputs(loaded, 8), expected[name]))
            seen[name] += 1
    finally:
        stop.touch()
        status = os.waitpid(child, 0)[1]
    record_property("counts", f"{loads} loads through {loader.__name__}: {mixed} mixed; of each version {dict(seen)}")
    assert (status, mixed) == (0, 0) and len(seen) > 1


@needs_fork
@pytest.mark.parametrize("processes", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_several_processes_save_into_one_folder(make_model, tmp_path, processes, record_property):
    models = list(versions(make_model, processes))
    children = [saving([model], tmp_path, range(25)) for model in models]
    ended_well = [os.waitpid(child, 0)[1] for child in children].count(0)
    record_property("counts", f"{processes} processes x 25 saves: {25 * ended_well} of {25 * processes} succeed")
    assert ended_well == processes
    assert sorted(os.listdir(tmp_path)) == FILES
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path)
    (saved,) = [model for model in models if model.config.id2label == loaded.config.id2label]
    assert torch.equal(outputs(loaded, 8), outputs(saved, 8))
    copy = json.loads((tmp_path / "config.json").read_text())
    assert copy["id2label"] == {str(label): name for label, name in saved.config.id2label.items()}


def test_both_files_are_flushed_before_they_are_renamed(saved, make_model, monkeypatch):
    _, folder = saved
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("flush"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(os.path.basename(b)), replace(a, b)))
    train(make_model("gpt2", pooling="mean"), seed=1).save_pretrained(folder)
    renames = [event for event in events if event in FILES]
    assert sorted(renames) == FILES
    assert events[: events.index(renames[0])].count("flush") >= 2


# Buffers


class BatchNormConfig(GPT2Config):
    model_type = "gpt2-with-batch-norm"


class BatchNormModel(GPT2Model):
    config_class = BatchNormConfig

    def __init__(self, config):
        super().__init__(config)
        self.statistics = nn.BatchNorm1d(config.hidden_size)
        self.post_init()

    def forward(self, inputs_embeds=None, attention_mask=None, **kwargs):
        output = super().forward(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        output.last_hidden_state = self.statistics(output.last_hidden_state.transpose(1, 2)).transpose(1, 2)
        return output


BUFFERS = {"backbone.statistics.0", "backbone.statistics.1"}  # mean and variance


@pytest.fixture
def with_batch_norm():
    AutoConfig.register(BatchNormConfig.model_type, BatchNormConfig)
    AutoModel.register(BatchNormConfig, BatchNormModel)
    torch.manual_seed(0)
    yield FPTForSequenceClassification.from_backbone(
        BatchNormConfig(**TINY_BACKBONES["gpt2"]),
        backbone_init="random",
        input_type="values",
        input_size=3,
        sequence_length=10,
        num_labels=4,
    )
    CONFIG_MAPPING._extra_content.pop(BatchNormConfig.model_type)
    MODEL_MAPPING._extra_content.pop(BatchNormConfig)


def test_buffers_are_saved_where_training_changed_them(with_batch_norm, tmp_path):
    model = train(with_batch_norm)
    model.save_pretrained(tmp_path / "before")
    assert not set(load_file(tmp_path / "before" / "model.safetensors")) & BUFFERS
    expected = outputs(model)
    assert torch.equal(outputs(FPTForSequenceClassification.from_pretrained(tmp_path / "before")), expected)

    with torch.no_grad():
        model.train()(input_values=INPUTS)
    model.save_pretrained(tmp_path / "after")
    assert set(load_file(tmp_path / "after" / "model.safetensors")) & BUFFERS == BUFFERS
    assert not torch.equal(outputs(model), expected)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path / "after")
    assert torch.equal(outputs(loaded), outputs(model))
    loaded.save_pretrained(tmp_path / "again")
    assert same_checkpoint(tmp_path / "again", tmp_path / "after")


def test_an_unchanged_buffer_of_some_changed_ones_stays_out(with_batch_norm, tmp_path):
    with_batch_norm.fpt.backbone.statistics.running_mean += 1
    with_batch_norm.save_pretrained(tmp_path)
    found = set(load_file(tmp_path / "model.safetensors")) & BUFFERS
    assert found == {"backbone.statistics.0"}


def test_a_misshapen_buffer_is_named(with_batch_norm, tmp_path):
    with_batch_norm.fpt.backbone.statistics.running_mean += 1
    with_batch_norm.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"backbone.statistics.0": torch.zeros(5)}))
    refused(tmp_path, "fpt.backbone.statistics.running_mean")


def test_all_models_share_the_checkpoint():
    for model_class in (FPTModel, FPTForSequenceClassification, FPTForTokenClassification):
        for method in ("save_pretrained", "from_pretrained"):
            assert method not in vars(model_class) and hasattr(FPTPreTrainedModel, method)


def test_a_diverged_model_is_not_saved(saved):
    model, folder = saved
    before = contents(folder)
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"head\.weight is not finite: training diverged"):
        model.save_pretrained(folder)
    assert contents(folder) == before


def test_a_delta_may_be_read_by_whoever_may_read_its_config(saved):
    _, folder = saved
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
