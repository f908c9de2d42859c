"""The delta checkpoint: what it holds, that it comes back bit for bit, what it refuses, and that crashes spare it."""

import json
import os
import shutil
import signal
import socket
from collections import Counter

import huggingface_hub.constants
import pytest
import safetensors
import torch
from accelerate import Accelerator
from conftest import (
    FIELDS,
    IMAGE_BACKBONES,
    LAYERS,
    TINY_BACKBONES,
    VOCABULARY,
    contents,
    forked,
    move,
    needs_fork,
    refused,
    sign,
    tiny_config,
)
from huggingface_hub.errors import StrictDataclassFieldValidationError
from mutations import read_header, with_header
from packaging.version import Version
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
from fpt_adapters.deltas.file import CONFIG_KEY, CONFIG_TEXT_KEY, DIGESTS_KEY, FORMAT_KEY, read_metadata

INPUTS = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0))
CONFIG, WEIGHTS = FILES = ["config.json", "model.safetensors"]
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
NEW_POSITION = {"position.weight"}


@torch.no_grad()
def outputs(model, tokens=10):
    model.eval()
    return model(input_values=INPUTS[:, :tokens])[0]


def load(folder, loader=FPTForSequenceClassification, **arguments):
    return loader.from_pretrained(folder, **arguments)


def check(folder, model, loader=FPTForSequenceClassification, **arguments):
    """Load a delta, which gives what `model` does, to the bit."""
    loaded = load(folder, loader, **arguments)
    assert torch.equal(outputs(loaded), outputs(model))
    return loaded


def stored(folder):
    return load_file(folder / WEIGHTS)


def on_base(saved_base, **fields):
    return FPTForSequenceClassification.from_backbone(saved_base, **FIELDS | fields)


@pytest.fixture
def model(make_model):
    """A trained tiny GPT-2 with random frozen weights."""
    return move(make_model("gpt2"))


@pytest.fixture
def folder(model, tmp_path):
    """Where that model is saved."""
    model.save_pretrained(tmp_path / "delta")
    return tmp_path / "delta"


# What is saved


def test_exactly_the_trained_tensors_are_saved(model, folder):
    assert sorted(os.listdir(folder)) == FILES
    assert set(stored(folder)) == set(PLACES)
    assert set(PLACES.values()) == {name for name, p in model.named_parameters() if p.requires_grad}
    for place, tensor in stored(folder).items():
        assert torch.equal(tensor, model.get_parameter(PLACES[place])) and tensor.dtype == torch.float32


def attention(*layers):
    return {f"backbone.layers.{layer}.attention.{number}" for layer in layers for number in range(4)}


TOKEN_CLASSIFIER = {"model_class": FPTForTokenClassification}
SAVED = {  # what make_model is given, and the places of what is saved
    "output": ({"trainable": ["output"]}, INPUT | HEAD),
    "input and output": ({"trainable": ["input", "output"]}, INPUT | HEAD),
    "nothing": ({"trainable": []}, INPUT | HEAD),
    "norms": ({"trainable": ["norm"]}, INPUT | HEAD | NORMS),
    "new positions": ({"positions": "new"}, PLACES.keys() - POSITION | NEW_POSITION),
    "new positions, frozen": ({"positions": "new", "trainable": ["output"]}, INPUT | HEAD | NEW_POSITION),
    "tokens": ({"input_type": "tokens", "trainable": ["output"]}, {"input.embedding.weight"} | HEAD),
    "attention": ({"trainable": ["attention"]}, INPUT | HEAD | attention(*range(LAYERS))),
    "last attention": ({"trainable": ["last_attention"]}, INPUT | HEAD | attention(LAYERS - 1)),
    "no head": ({"model_class": FPTModel}, PLACES.keys() - HEAD),
    "a head of tokens": (TOKEN_CLASSIFIER, PLACES.keys() - HEAD | {"output.out_proj.weight", "output.out_proj.bias"}),
}


@pytest.mark.parametrize("given, expected", SAVED.values(), ids=SAVED)
def test_policy_and_head_decide_what_is_saved(make_model, tmp_path, given, expected):
    model = make_model("gpt2", **given)
    model.save_pretrained(tmp_path)
    assert set(stored(tmp_path)) == expected
    assert {model.tensor_places()[name] for name in model.delta_tensors()} == expected


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_no_two_tensors_have_one_place(make_model, model_type):
    places = make_model(model_type, trainable=["attention", "feedforward"]).tensor_places()
    assert len(set(places.values())) == len(places) > 10


def test_a_delta_of_the_papers_size_is_small(gpt2_base, tmp_path):
    gpt2_base.save_pretrained(tmp_path)
    trained = 4 * gpt2_base.num_parameters(only_trainable=True)
    assert trained == 4 * 132_874
    assert trained < sum(map(len, contents(tmp_path).values())) <= trained + 32 * 1024


@pytest.mark.parametrize("model_type", ["gpt2", "t5", *[*IMAGE_BACKBONES][:1]])
@pytest.mark.parametrize("labels", [["a", "b", "c"], ["ärgerlich", 'quote " and \\', "\u2028 \x07 \x7f \U0001f600"]])
@pytest.mark.parametrize("with_code", [False, True])
def test_its_size_is_known_before_it_is_written(make_model, tmp_path, model_type, labels, with_code):
    model = make_model(model_type, id2label=dict(enumerate(labels)))
    model.with_code = with_code
    model.half()
    size = model.delta_bytes()
    model.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size == size


def test_the_size_is_that_of_the_given_state_dict(model, folder):
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    assert model.delta_bytes(state) == (folder / WEIGHTS).stat().st_size
    state["head.weight"] = torch.full_like(state["head.weight"], torch.nan)
    with pytest.raises(ValueError, match=r"head\.weight is not finite"):
        model.delta_bytes(state)


@pytest.mark.parametrize("model_type", ["albert", "t5"])
def test_shared_weights_are_saved_once(make_model, tmp_path, model_type):
    model = move(make_model(model_type, trainable=["input", "output", "norm", "attention", "feedforward"]))
    model.save_pretrained(tmp_path)
    assert sum(map(torch.numel, stored(tmp_path).values())) == model.num_parameters(only_trainable=True)
    check(tmp_path, model)


def test_tied_parameters_are_saved_once(make_model, tmp_path):
    model = make_model("gpt2")
    blocks = model.fpt.backbone.h
    blocks[1].ln_1.weight = blocks[0].ln_1.weight
    for state_dict in (None, model.state_dict()):
        model.save_pretrained(tmp_path, state_dict=state_dict)
        assert set(stored(tmp_path)) == PLACES.keys() - {"backbone.layers.1.norm.3"}


def test_parts_of_one_storage_are_saved_as_they_are(model, tmp_path):
    whole = torch.arange(8.0 * 32).reshape(8, 32)
    given = {"head.weight": whole[:4], "head.bias": whole[4, :4]}
    model.save_pretrained(tmp_path, state_dict=model.state_dict() | given)
    tensors = stored(tmp_path)
    assert torch.equal(tensors["output.weight"], whole[:4]) and torch.equal(tensors["output.bias"], whole[4, :4])


def test_values_come_from_the_given_state_dict(model, tmp_path):
    given = {name: torch.full_like(tensor, 2.5) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=given)
    assert set(stored(tmp_path)) == set(PLACES)
    assert all((tensor == 2.5).all() for tensor in stored(tmp_path).values())
    loaded = load(tmp_path)
    assert (loaded.head.weight == 2.5).all() and not (loaded.fpt.backbone.wte.weight == 2.5).any()
    del given["head.bias"]
    with pytest.raises(KeyError, match=r"head\.bias"):
        model.save_pretrained(tmp_path, state_dict=given)


UNSAVABLE = {
    "an empty shard": ("fpt.backbone.ln_f.bias", torch.empty(0), " is spread over processes or empty"),
    "what diverged": ("head.weight", torch.full((4, 32), torch.nan), " is not finite: training diverged"),
}


@pytest.mark.parametrize("name, tensor, problem", UNSAVABLE.values(), ids=UNSAVABLE)
def test_empty_and_diverged_weights_are_not_saved(model, folder, name, tensor, problem):
    before = contents(folder)
    with refused(name + problem):
        model.save_pretrained(folder, state_dict=model.state_dict() | {name: tensor})
    if tensor.numel():
        model.get_parameter(name).data[0, 0] = torch.nan
        with refused(name + problem):
            model.save_pretrained(folder)
    assert contents(folder) == before


def test_what_is_no_field_of_the_config_is_left_out_by_name(model, folder, warned):
    before = model.config.to_dict()
    model.config.task_specific_params = {"a": 1}
    model.config.mine = object()
    model.save_pretrained(folder)
    (record,) = warned.records
    assert "mine, task_specific_params of the model's config is no field" in record.message
    check(folder, model, AutoModelForSequenceClassification)
    assert check(folder, model).config.to_dict() | before == before


@pytest.mark.parametrize(
    "given, error, message",
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


def same_checkpoint(one, other):
    """Whether two deltas have equal configurations and tensors (safetensors writes its metadata in any order)."""
    torch.testing.assert_close(stored(one), stored(other), rtol=0, atol=0)
    return (one / CONFIG).read_bytes() == (other / CONFIG).read_bytes()


def test_accelerates_way_of_saving_writes_the_same_and_only_the_main_process_writes(make_model, tmp_path):
    model, accelerator = make_model("gpt2"), Accelerator(cpu=True)
    model.save_pretrained(tmp_path / "plain")
    given = {"is_main_process": accelerator.is_main_process, "save_function": accelerator.save}
    given |= {"state_dict": accelerator.get_state_dict(model), "safe_serialization": True, "max_shard_size": "5GB"}
    given |= {"save_peft_format": False, "save_original_format": False, "variant": None, "token": False}
    accelerator.unwrap_model(accelerator.prepare(model)).save_pretrained(tmp_path / "given", **given)
    assert same_checkpoint(tmp_path / "plain", tmp_path / "given")
    model.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()


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


CLASSES = (FPTForSequenceClassification, FPTModel, FPTForTokenClassification)
RELOADED = [(model_type, model_class, {}) for model_class in CLASSES for model_type in TINY_BACKBONES] + [
    ("gpt2", FPTForSequenceClassification, {"trainable": groups, "dtype": dtype})
    for groups in (["output"], ["input", "output", "norm", "position"], ["norm", "attention"])
    for dtype in ("float32", "bfloat16")
]


@pytest.mark.parametrize("model_type, model_class, fields", RELOADED)
def test_a_reloaded_model_has_the_same_bits_and_policy(make_model, tmp_path, model_type, model_class, fields):
    model = move(make_model(model_type, model_class, **fields))
    model.save_pretrained(tmp_path)
    torch.manual_seed(78)  # from which no weight is drawn, not even a random input that does not train
    loaded = check(tmp_path, model, model_class)
    assert not loaded.training and loaded.config.base_model_fingerprint == model.config.base_model_fingerprint
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)  # and dtype and device
    for (name, parameter), expected in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert parameter.requires_grad is expected.requires_grad and parameter.is_leaf, name
        assert parameter.dtype is torch.float32 or not parameter.requires_grad, name
    if fields:
        assert loaded.fpt.backbone.wte.weight.dtype is getattr(torch, fields["dtype"])


@pytest.mark.parametrize("init", ["pretrained", "statistics", "random"])
def test_every_kind_of_base_comes_back_and_random_weights_need_none(saved_base, tmp_path, init):
    model = move(on_base(saved_base, backbone_init=init, backbone_init_seed=11))
    model.save_pretrained(tmp_path)
    assert check(tmp_path, model, base_model_name_or_path=saved_base).config.backbone_init_seed == 11
    if init == "random":
        check(tmp_path, model)


def test_a_second_generation_equals_the_first(folder, tmp_path):
    load(folder).save_pretrained(tmp_path / "second")
    assert same_checkpoint(tmp_path / "second", folder)


@pytest.mark.parametrize("loader", [AutoModel, FPTModel])
@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification])
def test_the_headless_model_of_a_headed_delta(make_model, tmp_path, loader, model_class):
    model = move(make_model("gpt2", model_class))
    model.save_pretrained(tmp_path)
    assert type(check(tmp_path, model.fpt, loader)) is FPTModel


def test_auto_classes_pass_the_base_on(saved_base, tmp_path):
    model, base = move(on_base(saved_base)), {"base_model_name_or_path": saved_base}
    model.save_pretrained(tmp_path)
    assert type(check(tmp_path, model, AutoModelForSequenceClassification, **base)) is FPTForSequenceClassification
    assert not any(load(tmp_path, output_loading_info=True, **base)[1].values())


def test_trained_weights_are_fp32_whatever_was_gathered(model, tmp_path):
    model.save_pretrained(tmp_path, state_dict={name: t.bfloat16() for name, t in model.state_dict().items()})
    assert {p.dtype for p in load(tmp_path).parameters() if p.requires_grad} == {torch.float32}


def test_the_frozen_dtype_can_be_chosen_on_loading(model, folder):
    for argument in ({"dtype": "bfloat16"}, {"dtype": torch.bfloat16}, {"torch_dtype": "bfloat16"}):
        backbone = load(folder, **argument).fpt.backbone
        assert backbone.wte.weight.dtype is torch.bfloat16
        assert torch.equal(backbone.ln_f.weight, model.fpt.backbone.ln_f.weight)
    assert load(folder, dtype="auto").fpt.backbone.wte.weight.dtype is torch.float32


def test_a_loaded_model_trains_on(folder):
    loaded = load(folder).train()
    loaded(input_values=INPUTS, labels=torch.tensor([0, 3])).loss.backward()
    assert {name for name, p in loaded.named_parameters() if p.grad is not None} == set(PLACES.values())


def test_fields_can_be_given_on_loading(model, folder):
    labels = {"id2label": {0: "a", 1: "b", 2: "c", 3: "d"}, "label2id": {"a": 0, "b": 1, "c": 2, "d": 3}}
    loaded = load(folder, pooling="mean", input_dropout=0.3, backbone_dropout=0.0, **labels)
    assert loaded.config.pooling == "mean" and loaded.fpt.input_projection.dropout.p == 0.3
    assert loaded.fpt.backbone.drop.p == 0.0
    assert loaded.config.id2label == labels["id2label"] and loaded.config.label2id == labels["label2id"]
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert not torch.equal(outputs(loaded), outputs(model))
    model.config.pooling = "mean"
    assert torch.equal(outputs(loaded), outputs(model))


# What is refused

RULE = (ValueError, StrictDataclassFieldValidationError)
NOT_ON_LOADING = [  # what is given, the error, and what it says
    ({"input_dropout": 1.5}, RULE, "input_dropout is a probability"),
    ({"backbone_dropout": -0.5}, RULE, "backbone_dropout is a probability"),
    ({"pad_token_id": 0}, RULE, "pad_token_id does not belong to input_type='values'"),
    ({"trainable": ["input", "layernorm"]}, RULE, "trainable takes groups out of"),
    ({"positions": "none"}, RULE, "positions='none' leaves no position to train"),
    ({"base_model": "/data/gpt2"}, RULE, "base_model is a Hub id"),
    ({"pooling": "max"}, RULE, "pooling"),
    ({"num_labels": 7}, DeltaError, r"head\.\w+ has shape \(4.*\), but this model needs \(7.*\)"),
    ({"sequence_length": 9}, DeltaError, r"wpe.weight has shape \(10, 32\), but this model needs \(9, 32\)"),
    ({"trainable": ["output"]}, DeltaError, "does not train"),
    ({"trainable": ["input", "output", "norm", "position", "attention"]}, DeltaError, "lacks .*attn"),
    ({"loader": FPTForTokenClassification}, DeltaError, "has output.bias, output.weight, which this"),
    ({"backbone_init_seed": 1}, DeltaError, "(?s)Another base.*drawn from the seed"),
    ({"backbone_init_scheme": "gpt2-flat"}, DeltaError, "Another base"),
    ({"base_model_path": True}, TypeError, "does not know base_model_path"),
]
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
for name, (value, instead) in MEANINGLESS.items():
    message = f"{name}=.* has no meaning for a delta: .*{instead}"
    NOT_ON_LOADING.append(({name: value}, ValueError, message))
    if name in ("state_dict", "variant", "ignore_mismatched_sizes"):  # also where transformers' own class reads it
        NOT_ON_LOADING.append(({name: value, "loader": AutoModelForSequenceClassification}, ValueError, message))
HARMLESS = {"low_cpu_mem_usage": True, "use_safetensors": True, "weights_only": True, "_fast_init": False}
HARMLESS |= {"variant": None, "ignore_mismatched_sizes": False, "offload_state_dict": True, "proxies": None}


@pytest.mark.parametrize("given, error, message", NOT_ON_LOADING, ids=str)
def test_what_does_not_fit_is_refused_on_loading(folder, given, error, message):
    with pytest.raises(error, match=message):
        load(folder, **given)


@pytest.mark.parametrize("loader", [FPTForSequenceClassification, AutoModelForSequenceClassification])
def test_what_changes_nothing_is_taken(model, folder, loader):
    check(folder, model, loader, **HARMLESS)


def test_building_on_a_base_takes_how_models_are_read_too(saved_base):
    model = on_base(saved_base, low_cpu_mem_usage=True, trust_remote_code=False)
    assert model.config.to_dict() == on_base(saved_base).config.to_dict()
    with pytest.raises(TypeError, match="no field 'variant'"):
        on_base(saved_base, variant="fp16")


def without(*places):
    return lambda tensors: [tensors.pop(place) for place in places]


def replaced(place, new):
    """A change of a tensor at `place`: `new` of what is there."""
    return lambda tensors: tensors.update({place: new(tensors.get(place))})


def spoilt(value):
    def spoil(tensor):
        tensor.view(-1)[-1] = float(value)
        return tensor

    return spoil


OUTPUT, NORM = "output.weight", "backbone.norm.0"
UNTRAINED = {  # place: what the model calls it
    "backbone.other.0": "fpt.backbone.wte.weight",
    "backbone.layers.0.attention.0": "fpt.backbone.h.0.attn.c_attn.weight",
}
NO_PLACES = ["backbone.layers.2.norm.0", "backbone.wte.weight", "wte.weight", "head.weight", "head.evil", "fpt.config"]
NO_PLACES += ["fpt.backbone.wte.weight", "fpt.backbone.h.0.attn.c_attn.weight", "fpt.backbone.h.0.attn.bias"]
NO_PLACES += ["fpt.backbone.ln_f.weight.data", "__class__", "", ".", "..", "x" * 10**5]
DTYPES = ["float64", "int64", "int8", "uint8", "bool", "float8_e4m3fn"]
if Version(safetensors.__version__) >= Version("0.7"):  # which has complex numbers
    DTYPES.append("complex64")
CHANGES = {  # what is done to the tensors, and what is then said
    "many missing": (without(*NORMS), ["fpt.backbone.h.0.ln_1.weight", "and 6 more"]),
    "positions cut": (
        replaced("backbone.position.0", lambda tensor: tensor[:3].clone()),
        ["fpt.backbone.wpe.weight has shape (3, 32)", "(10, 32)"],
    ),
    "input transposed": (
        replaced("input.projection.weight", lambda tensor: tensor.T.contiguous()),
        [PLACES["input.projection.weight"]],
    ),
}
for place, name in PLACES.items():
    CHANGES[f"{place} missing"] = without(place), [f"lacks {name},", WEIGHTS]
for place in (*UNTRAINED, *NO_PLACES):
    words = [f"has {UNTRAINED.get(place, place[:200])}", ", which this model does not train"]
    CHANGES[f"unexpected {place[:40]}"] = replaced(place, lambda _: torch.zeros(VOCABULARY, 32)), words
for shape in [(0, 32), (4, 0), (128,), (32, 4), (4, 32, 1), (5, 32), (3, 32), ()]:
    words = [f"head.weight has shape {shape}", "(4, 32)"]
    CHANGES[f"shape {shape}"] = replaced(OUTPUT, lambda _, shape=shape: torch.zeros(shape)), words
for place in (OUTPUT, NORM):
    for dtype in DTYPES:
        change = replaced(place, lambda tensor, dtype=dtype: tensor.to(getattr(torch, dtype)))
        CHANGES[f"{place} in {dtype}"] = change, [PLACES[place], dtype, "float32"]
    for value in ("nan", "inf", "-inf"):
        CHANGES[f"{place} with {value}"] = replaced(place, spoilt(value)), [PLACES[place], "not finite"]


@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES)
def test_a_changed_tensor_is_named_though_its_digest_fits(folder, change, words):
    sign(folder, change)
    with refused(*words, error=DeltaError):
        load(folder)


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_is_found_in_its_tensor(folder, place):
    data = (folder / WEIGHTS).read_bytes()
    header, body = read_header(data)
    start, end = header[place]["data_offsets"]
    for position in (start, end - 1):
        flipped = bytearray(data)
        flipped[len(data) - len(body) + position] ^= 1
        (folder / WEIGHTS).write_bytes(flipped)
        with refused(f"the values of {place} are not those that were saved", "corrupt", error=DeltaError):
            load(folder)


def entry(**changes):
    """A change of a file's bytes: of what its header says of one tensor."""

    def forge(data):
        header, body = read_header(data)
        header[OUTPUT] |= changes
        return with_header(json.dumps(header), body)

    return forge


def metadata(value):
    """A change of a file's bytes: of the metadata in its header."""

    def forge(data):
        header, body = read_header(data)
        return with_header(json.dumps(header | {"__metadata__": value}), body)

    return forge


NO_SAFETENSORS = {  # what becomes of the bytes
    "an LFS pointer": lambda data: b"version https://git-lfs",
    "noise": lambda data: bytes(range(256)) * 40,
    "all ones": lambda data: b"\xff" * 64,
    "braces": lambda data: b"{}" * 64,
    "a length beyond the file": lambda data: (10**9).to_bytes(8, "little") + b"{}" + data,
    "a length beyond all": lambda data: b"\xff" * 8 + b"{}" + data,
    "an empty header": lambda data: bytes(8) + data,
    "no header": lambda data: read_header(data)[1],
    "a list": lambda data: with_header("[]", data),
    "a deep list": lambda data: with_header("[" * 10**5 + "]" * 10**5, data),
    "a negative shape": entry(shape=[-4, 32]),
    "a shape beyond all": entry(shape=[2**62, 2**62]),
    "a shape of fractions": entry(shape=[0.5]),
    "an empty tensor of many rows": entry(shape=[10**12, 0], data_offsets=[0, 0]),
    "offsets beyond the file": entry(data_offsets=[0, 10**12]),
    "offsets backwards": entry(data_offsets=[512, 0]),
    "the bytes of another": entry(shape=[4], data_offsets=[0, 16]),
    "an unknown dtype": entry(dtype="EVIL"),
    "a dtype of other size": entry(dtype="F64"),
    "metadata that is none": metadata(5),
    "metadata of numbers": metadata({"format": 5}),
}
for end in (0, 4, 8, 100, -1, -1000):
    NO_SAFETENSORS[f"cut at {end}"] = lambda data, end=end: data[:end]


@pytest.mark.parametrize("forge", NO_SAFETENSORS.values(), ids=NO_SAFETENSORS)
def test_what_is_no_safetensors_file_is_refused(folder, forge):
    (folder / WEIGHTS).write_bytes(forge((folder / WEIGHTS).read_bytes()))
    with refused(WEIGHTS, "truncated or no safetensors file", error=DeltaError):
        load(folder)


def test_a_name_that_comes_twice_is_one_tensor(folder):
    header, body = read_header((folder / WEIGHTS).read_bytes())
    twice = json.dumps({OUTPUT: header[OUTPUT] | {"shape": [128]}})
    (folder / WEIGHTS).write_bytes(with_header(json.dumps(header)[:-1] + ", " + twice[1:], body))
    with refused("head.weight", "shape", error=DeltaError):
        load(folder)


def with_metadata(folder, metadata, **more):
    """Write the tensors of a delta, and `more`, with other metadata."""
    save_file(stored(folder) | more, folder / WEIGHTS, metadata=metadata)


ZEROS = ",".join(["0" * 16] * len(PLACES))


@pytest.mark.parametrize(
    "metadata, words",
    [
        (None, ["not written by fpt_adapters", "fpt_digests"]),
        ({"format": "pt"}, ["not written by fpt_adapters", "fpt_digests"]),
        ({FORMAT_KEY: "1"}, ["was not written by fpt_adapters"]),
        ({FORMAT_KEY: "1", DIGESTS_KEY: ""}, ["is corrupt"]),
        ({FORMAT_KEY: "1", DIGESTS_KEY: "0" * 16}, ["is corrupt"]),
        ({FORMAT_KEY: "1", DIGESTS_KEY: ZEROS}, ["were not saved together"]),
        ({FORMAT_KEY: "1", DIGESTS_KEY: ZEROS, CONFIG_KEY: "0" * 16}, ["were not saved together"]),
    ],
    ids=str,
)
def test_missing_and_forged_digests_are_refused(folder, metadata, words):
    with_metadata(folder, metadata)
    with refused(*words, error=DeltaError):
        load(folder)


def test_too_few_digests_are_refused(folder):
    with_metadata(folder, read_metadata(folder / WEIGHTS), another=torch.zeros(1))
    with refused("16 tensors, but 15 digests", error=DeltaError):
        load(folder)


def edit(folder, **fields):
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | fields, indent=2))


def as_before(folder):
    """Write a delta's file as versions did that kept only the configuration's digest."""
    metadata = read_metadata(folder / WEIGHTS)
    del metadata[CONFIG_TEXT_KEY]
    with_metadata(folder, metadata)


LABELS = {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}, "label2id": {"a": 0, "b": 1, "c": 2, "d": 3}}


@pytest.mark.parametrize("field", [{"pooling": "mean"}, {"positions": "new"}, {"backbone_init_seed": 1}], ids=str)
def test_an_edited_configuration_of_an_earlier_version_is_refused(folder, field):
    as_before(folder)
    edit(folder, **field)
    with pytest.raises(DeltaError):
        load(folder)


def test_what_says_nothing_of_the_weights_may_be_edited_beside_an_earlier_version(model, folder):
    as_before(folder)
    edit(folder, **LABELS, base_model="someone/tiny-gpt2", transformers_version="5.4.0")
    assert check(folder, model, base_model_name_or_path=folder).config.id2label[3] == "d"


@pytest.mark.parametrize("loader", [FPTForSequenceClassification, AutoModelForSequenceClassification])
@pytest.mark.parametrize(
    "field", [{"pooling": "mean"}, {"sequence_length": 9}, {"backbone_init_seed": 1}, LABELS], ids=str
)
def test_loading_goes_by_the_delta_file_and_says_so_where_its_copy_was_edited(model, folder, loader, field, warned):
    edit(folder, **field)
    loaded = check(folder, model, loader, input_dropout=0.3)
    changed = {"input_dropout": 0.1, "_name_or_path": ""}
    assert loaded.config.to_dict() | changed == model.config.to_dict() | changed
    assert loaded.config.input_dropout == 0.3
    (record,) = [record for record in warned.records if "was edited" in record.message]
    assert all(name in record.message for name in field) and "update_config" in record.message


def test_a_delta_can_be_told_other_labels_and_another_base(model, folder, warned):
    update_config(folder, id2label=LABELS["id2label"], base_model="someone/tiny-gpt2")
    config = check(folder, model, base_model_name_or_path=folder).config
    assert config.id2label[3] == "d" and config.label2id == LABELS["label2id"]
    assert config.base_model == "someone/tiny-gpt2" and not warned.records
    with pytest.raises(ValueError, match=r"pooling changes what the weights compute: only .*id2label"):
        update_config(folder, pooling="mean")


def test_a_delta_without_a_head_fills_no_headed_model(make_model, tmp_path):
    make_model("gpt2", FPTModel).save_pretrained(tmp_path)
    with refused("without a head", "AutoModel", error=DeltaError):
        load(tmp_path)


def test_a_missing_file_is_an_oserror(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load(folder)
    with pytest.raises(OSError):
        load(tmp_path / "nowhere")


# The base


@pytest.fixture
def based(saved_base, tmp_path):
    """The folder of a trained delta on the saved base."""
    move(on_base(saved_base)).save_pretrained(tmp_path / "based")
    return tmp_path / "based"


def save_gpt2(folder, **changes):
    torch.manual_seed(5)
    AutoModel.from_config(tiny_config("gpt2", **changes)).save_pretrained(folder)
    return folder


def test_another_base_is_refused(saved_base, based, tmp_path):
    other = save_gpt2(tmp_path / "other")
    with refused("Another base", str(other), "fingerprint", error=DeltaError):
        load(based, base_model_name_or_path=other)
    with refused("Another base", "'statistics'", error=DeltaError):
        load(based, base_model_name_or_path=saved_base, backbone_init="statistics")
    base = AutoModel.from_pretrained(saved_base)
    base.h[1].mlp.c_fc.weight.data += 1e-4
    base.save_pretrained(tmp_path / "trained on")
    with refused("Another base", error=DeltaError):
        load(based, base_model_name_or_path=tmp_path / "trained on")
    smaller = save_gpt2(tmp_path / "smaller", n_layer=1)
    with pytest.raises(ValueError, match=r"n_layer=2, but the config\.json of the base '.*' has 1"):
        load(based, base_model_name_or_path=smaller)


def test_a_base_that_was_not_declared_must_be_named(saved_base, based):
    assert json.loads((based / CONFIG).read_text()).get("base_model") is None
    with refused("local folder without a Hub id", "base_model_name_or_path=", error=DeltaError):
        load(based)
    assert str(saved_base) not in (based / CONFIG).read_text()
    with pytest.raises(ValueError, match="base_model is a Hub id"):  # and not by its path
        on_base(saved_base, base_model=str(saved_base))


def test_a_declared_base_is_written_down_and_may_lie_elsewhere(saved_base, tmp_path):
    model = move(on_base(saved_base, base_model="someone/tiny-gpt2"))
    model.save_pretrained(tmp_path / "delta")
    written = (tmp_path / "delta" / CONFIG).read_text()
    assert json.loads(written)["base_model"] == "someone/tiny-gpt2" and str(saved_base) not in written
    message = r"the base 'someone/tiny-gpt2'(.|\n)*give its folder to .*base_model_name_or_path"
    with pytest.raises(OSError, match=message):
        load(tmp_path / "delta")
    moved = shutil.copytree(saved_base, tmp_path / "moved")
    check(tmp_path / "delta", model, base_model_name_or_path=moved).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / CONFIG).read_text() == written


NO_FOLDERS = ("/absent/base", "/absent/two words", "./absent", "../absent", "~/absent", "a/b/c", "C:\\absent")
NO_FOLDERS += ("two words", "")


def readers(base, delta):
    """What reads a folder, by what its errors say that they are about, and what they advise."""
    return {
        "This is about the base ": (lambda place: on_base(place), "Give the base's folder"),
        "of a delta that was found. ": (
            lambda place: load(delta, base_model_name_or_path=place),
            "Give base_model_name_or_path the folder",
        ),
        "the delta {}, not its base": (
            lambda place: load(place, base_model_name_or_path=base),
            "Give from_pretrained the delta's folder",
        ),
        "This is about the adapter ": (on_base(base).load_adapter, "Give load_adapter the folder"),
    }


def test_what_cannot_be_read_is_named_with_what_to_write_instead(saved_base, based, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    (tmp_path / "file.txt").write_text("x")
    for about, (read, advice) in readers(saved_base, based).items():
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
    for name in FILES:
        broken = shutil.copytree(saved_base, tmp_path / name)
        (broken / name).unlink()
        with pytest.raises(OSError, match=rf"{name}(.|\n)*This is about the base '{broken}'\. Give the base"):
            on_base(broken)
    (shutil.copytree(saved_base, tmp_path / "cut") / CONFIG).write_text("{")
    with pytest.raises(OSError, match=r"not a valid JSON(.|\n)*This is about the base"):
        on_base(tmp_path / "cut")


def test_delta_and_base_are_not_taken_for_each_other(saved_base, based):
    with pytest.raises(ValueError, match="holds a delta, no base: load it with from_pretrained"):
        on_base(based)
    with pytest.raises(DeltaError, match="holds no delta, but a model of type 'gpt2': from_backbone builds on it"):
        load(saved_base)


# Where it may be written


def test_another_models_folder_is_not_overwritten(make_model, saved_base, tmp_path):
    folder, model = shutil.copytree(saved_base, tmp_path / "base"), make_model("gpt2")
    with pytest.raises(DeltaError, match="holds a model of type 'gpt2'"):
        model.save_pretrained(folder)
    (folder / CONFIG).write_text("no json")
    with pytest.raises(DeltaError, match="'unreadable'"):
        model.save_pretrained(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(DeltaError, match=r"holds a model\.safetensors of unknown kind"):
        model.save_pretrained(folder)
    assert contents(folder) == {WEIGHTS: (saved_base / WEIGHTS).read_bytes()}


def test_a_file_is_no_folder(make_model, tmp_path):
    file = tmp_path / "delta"
    file.write_text("mine")
    with pytest.raises(DeltaError, match="is a file"):
        make_model("gpt2").save_pretrained(file)
    assert file.read_text() == "mine"


def test_a_delta_may_be_saved_over_another_and_beside_other_files(folder, make_model):
    (folder / "README.md").write_text("# mine")
    (folder / "optimizer.pt").write_bytes(b"state")
    model = move(make_model("bert", num_labels=2))
    model.save_pretrained(folder)
    check(folder, model)
    assert sorted(os.listdir(folder)) == ["README.md", *FILES, "optimizer.pt"]
    assert (folder / "README.md").read_text() == "# mine"


def test_folders_are_made(make_model, tmp_path):
    make_model("gpt2").save_pretrained(str(tmp_path / "a" / "b"))
    assert sorted(os.listdir(tmp_path / "a" / "b")) == FILES


# Crashes


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
EACH_CALL = pytest.mark.parametrize("name, where", CALLS.items(), ids=CALLS)


@EACH_CALL
@pytest.mark.parametrize("changed", [True, False, None], ids=["another model", "the same model", "the first"])
def test_a_full_disk_leaves_the_previous_checkpoint(model, folder, make_model, monkeypatch, name, where, changed):
    """Whichever of the calls fails: the save raises, and the folder is as it was."""
    if changed is None:
        shutil.rmtree(folder)
    before = contents(folder)
    other = move(make_model("gpt2", **({"input_dropout": 0.2, "pooling": "mean"} if changed else {})), seed=1)
    for number in range(1, 10):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, on_call(number, getattr(where, name), no_space))
            try:
                other.save_pretrained(folder)
            except OSError as error:
                assert "No space left" in str(error)
            else:
                break  # there are fewer calls than that
        assert contents(folder) == before
        if before:
            check(folder, model)
    assert number > 1
    assert sorted(os.listdir(folder)) == FILES
    check(folder, other)


def killed_while_saving(model, folder, where, name, number):
    """Save in a child process that is killed at a call; whether the call was reached."""

    def save():
        kill = on_call(number, getattr(where, name), lambda: os.kill(os.getpid(), signal.SIGKILL))
        setattr(where, name, kill)
        model.save_pretrained(folder)

    _, status = os.waitpid(forked(save), 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@needs_fork
@EACH_CALL
@pytest.mark.parametrize("fields", [{}, {"pooling": "mean", "sequence_length": 8}], ids=["trained on", "another"])
def test_a_killed_save_leaves_a_whole_checkpoint(model, folder, make_model, monkeypatch, name, where, fields):
    """Killed anywhere, one of the two loads, never a mixture; a model that was trained on leaves the one before."""
    before, number = {name: (folder / name).read_bytes() for name in FILES}, 1
    other = move(make_model("gpt2", **fields), seed=1)
    whole = {one.config.pooling: outputs(one, 8) for one in (other, model)}
    while killed_while_saving(other, folder, where, name, number):
        loaded = load(folder)
        assert torch.equal(outputs(loaded, 8), whole[loaded.config.pooling])
        if fields:
            model.save_pretrained(folder)
        else:
            assert {name: (folder / name).read_bytes() for name in FILES} == before
        number += 1
    assert number > 1
    assert len(os.listdir(folder)) > len(FILES)  # what the killed ones left may be another's, at work
    monkeypatch.setattr(fpt_adapters.deltas.writing, "STALE", -1)
    other.save_pretrained(folder)
    assert sorted(os.listdir(folder)) == FILES  # but not for long
    assert torch.equal(outputs(load(folder), 8), outputs(other, 8))


def versions(make_model, count):
    """Models that differ in their weights, in the names of their labels, and every other one in a size."""
    for number in range(count):
        model = move(make_model("gpt2", sequence_length=8 + 2 * (number % 2)), seed=number)
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
            loaded = load(folder, loader)
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
    loaded = load(tmp_path)
    (saved,) = [model for model in models if model.config.id2label == loaded.config.id2label]
    assert torch.equal(outputs(loaded, 8), outputs(saved, 8))
    copy = json.loads((tmp_path / CONFIG).read_text())
    assert copy["id2label"] == {str(label): name for label, name in saved.config.id2label.items()}


def test_both_files_are_flushed_before_they_are_renamed(folder, make_model, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("flush"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(os.path.basename(b)), replace(a, b)))
    move(make_model("gpt2", pooling="mean"), seed=1).save_pretrained(folder)
    renames = [event for event in events if event in FILES]
    assert sorted(renames) == FILES
    assert events[: events.index(renames[0])].count("flush") >= 2


def test_a_delta_may_be_read_by_whoever_may_read_its_config(folder):
    assert (folder / WEIGHTS).stat().st_mode == (folder / CONFIG).stat().st_mode


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


MEAN, VARIANCE = BUFFERS = ("backbone.statistics.0", "backbone.statistics.1")


def stored_buffers(folder):
    return [place for place in BUFFERS if place in stored(folder)]


@pytest.fixture
def with_batch_norm():
    AutoConfig.register(BatchNormConfig.model_type, BatchNormConfig)
    AutoModel.register(BatchNormConfig, BatchNormModel)
    torch.manual_seed(0)
    config = BatchNormConfig(**TINY_BACKBONES["gpt2"])
    yield FPTForSequenceClassification.from_backbone(config, backbone_init="random", **FIELDS)
    CONFIG_MAPPING._extra_content.pop(BatchNormConfig.model_type)
    MODEL_MAPPING._extra_content.pop(BatchNormConfig)


def test_buffers_are_saved_where_training_changed_them(with_batch_norm, tmp_path):
    model = move(with_batch_norm)
    model.save_pretrained(tmp_path / "before")
    assert stored_buffers(tmp_path / "before") == []
    expected = outputs(check(tmp_path / "before", model))

    with torch.no_grad():
        model.train()(input_values=INPUTS)
    model.save_pretrained(tmp_path / "after")
    assert stored_buffers(tmp_path / "after") == [MEAN, VARIANCE]
    assert not torch.equal(outputs(model), expected)
    check(tmp_path / "after", model).save_pretrained(tmp_path / "again")
    assert same_checkpoint(tmp_path / "again", tmp_path / "after")


def test_an_unchanged_buffer_of_some_changed_ones_stays_out_and_a_misshapen_one_is_named(with_batch_norm, tmp_path):
    with_batch_norm.fpt.backbone.statistics.running_mean += 1
    with_batch_norm.save_pretrained(tmp_path)
    assert stored_buffers(tmp_path) == [MEAN]
    sign(tmp_path, replaced(MEAN, lambda _: torch.zeros(5)))
    with refused("fpt.backbone.statistics.running_mean", error=DeltaError):
        load(tmp_path)


def test_all_models_share_the_checkpoint():
    for model_class in (FPTModel, FPTForSequenceClassification, FPTForTokenClassification):
        for method in ("save_pretrained", "from_pretrained"):
            assert method not in vars(model_class) and hasattr(FPTPreTrainedModel, method)
