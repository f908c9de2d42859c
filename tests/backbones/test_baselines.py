"""The LSTM and the control without a backbone: transformers models, treated as every other backbone is."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import VALUES, assert_same, build_seeded, move, outputs, reloaded, rewrite_config
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
)
from transformers.dynamic_module_utils import get_relative_import_files

from fpt_adapters import (
    PAPER_GROUPS,
    FPTConfig,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
    IdentityConfig,
    IdentityModel,
    LSTMConfig,
    LSTMModel,
)
from fpt_adapters.backbones.cpu.attention import NAME
from fpt_adapters.hub.code_export import code_files

WIDTH = 16
KINDS = {"lstm": (LSTMConfig, LSTMModel), "identity": (IdentityConfig, IdentityModel)}
CONFIGS = {
    "lstm": LSTMConfig(hidden_size=WIDTH),
    "residual": LSTMConfig(hidden_size=WIDTH, num_hidden_layers=12, residual=True),
    "identity": IdentityConfig(hidden_size=WIDTH),
}
KIND = pytest.mark.parametrize("kind", KINDS)
CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
UNGROUPED = {"trainable": ["input", "output"], "positions": "none"}  # what needs neither norms nor positions
EMBEDDINGS = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])


# As transformers models


@KIND
def test_the_auto_classes_know_it(kind):
    config_class, model_class = KINDS[kind]
    config = AutoConfig.for_model(f"fpt_{kind}", hidden_size=WIDTH)
    assert type(config) is config_class and type(AutoModel.from_config(config)) is model_class


@torch.no_grad()
@CONFIG
def test_its_outputs_are_those_of_every_model(config):
    model = AutoModel.from_config(config).eval()
    output = model(EMBEDDINGS, MASK, output_hidden_states=True)
    assert len(output.hidden_states) == 1 + getattr(config, "num_hidden_layers", 0)
    assert torch.equal(output.hidden_states[0], EMBEDDINGS)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert model(inputs_embeds=EMBEDDINGS).hidden_states is None
    assert torch.equal(model(EMBEDDINGS, MASK, return_dict=False)[0], output.last_hidden_state)
    with pytest.raises(ValueError, match="no attentions: leave output_attentions out"):
        model(EMBEDDINGS, output_attentions=True)
    model.config.output_hidden_states = True
    assert len(model(EMBEDDINGS).hidden_states) == len(output.hidden_states)


@torch.no_grad()
@CONFIG
def test_it_is_saved_and_loaded_as_every_model(config, tmp_path):
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model) and loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert not any(info.values())
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    assert torch.equal(loaded(EMBEDDINGS).last_hidden_state, model(EMBEDDINGS).last_hidden_state)


# As backbones


@pytest.mark.parametrize(
    ("kind", "pooling", "kept"),
    [("lstm", "last", torch.bfloat16), ("identity", "mean", torch.float32)],  # the identity has nothing to keep
)
def test_it_has_new_positions_and_is_read_where_it_saw_the_most(kind, pooling, kept):
    model = build_seeded(CONFIGS[kind], dtype="bfloat16", trainable=["input", "output", "position"])
    config = model.config
    assert (config.pooling, config.positions, config.dtype) == (pooling, "new", kept)
    assert (config.hidden_size, config.backbone_init_scheme) == (WIDTH, "transformers")
    assert model.fpt.input_projection.projection.out_features == WIDTH and model.fpt.embedding_scale == 1.0
    assert model(input_values=VALUES).logits.dtype == torch.float32


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@KIND
def test_any_choice_of_attention_is_honoured_by_having_none(kind, attention):
    assert (
        type(build_seeded(CONFIGS[kind], FPTModel, attn_implementation=attention, **UNGROUPED).backbone)
        is KINDS[kind][1]
    )


@KIND
def test_a_models_own_configuration_builds_another(kind):
    model = build_seeded(CONFIGS[kind], FPTModel, **UNGROUPED)
    again = FPTModel(model.config)
    assert type(again.backbone) is KINDS[kind][1]
    assert again.config.base_model_fingerprint == model.config.base_model_fingerprint
    assert again.config._attn_implementation == model.config._attn_implementation == "fpt"


@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification, FPTModel])
@pytest.mark.parametrize(
    ("kind", "trainable"),
    [("lstm", PAPER_GROUPS), ("lstm", [*PAPER_GROUPS, "recurrent"]), ("identity", ["input", "output"])],
    ids=["frozen lstm", "whole lstm", "identity"],
)
def test_its_delta_gives_the_same_bits(kind, model_class, trainable, tmp_path):
    fields = {"positions": "none"} if kind == "identity" else {}
    model = move(build_seeded(CONFIGS[kind], model_class, trainable=trainable, **fields))
    inputs = {"input_values": VALUES[:2, :7], "attention_mask": MASK}
    assert torch.equal(outputs(reloaded(model, tmp_path), **inputs), outputs(model, **inputs))
    in_delta = [name for name in model.delta_tensors() if "backbone" in name]
    assert any(".lstm." in name for name in in_delta) is ("recurrent" in trainable)
    assert any(in_delta) is (kind == "lstm")


@CONFIG
def test_a_saved_one_is_a_pretrained_base(config, tmp_path):
    saved = AutoModel.from_config(config)
    saved.save_pretrained(tmp_path / "base")
    model = build_seeded(tmp_path / "base", FPTForTokenClassification, positions="none", trainable=["output"])
    assert type(model.fpt.backbone) is type(saved)
    if saved.num_parameters():
        assert_same(saved.state_dict(), model.fpt.backbone.state_dict())
    loaded = reloaded(model, tmp_path / "delta", base_model_name_or_path=tmp_path / "base")
    assert loaded.config.backbone_init == "pretrained" and type(loaded.fpt.backbone) is type(saved)
    assert torch.equal(outputs(loaded), outputs(model))


# Its code, beside a model


CODE = {
    kind: code_files(FPTConfig(base_model_config=CONFIGS[kind], input_size=2, sequence_length=4)) for kind in KINDS
}


def write_code(folder, kind):
    """Write the code that travels with a model on a backbone of a kind; returns the names of its files."""
    for name, text in CODE[kind].items():
        (folder / name).write_text(text, encoding="utf-8")
    return set(CODE[kind])


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """copied(folder, kind): the library's backbones as a module, out of a copy such as travels with a model."""
    for mapping in (CONFIG_MAPPING, MODEL_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    for interface in (AttentionInterface, AttentionMaskInterface):  # a copy that is no repo's takes the library's name
        monkeypatch.setitem(interface._global_mapping, NAME, interface._global_mapping[NAME])
    monkeypatch.syspath_prepend(tmp_path)

    def copy(folder, kind):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_code(tmp_path / folder, kind)
        module = importlib.import_module(f"{folder}.fpt_backbones")
        return [getattr(module, known.__name__) for known in KINDS[kind]]

    yield copy
    for name in [name for name in sys.modules if name.partition(".")[0] in os.listdir(tmp_path)]:
        del sys.modules[name]


@KIND
def test_a_copy_of_its_code_takes_no_ones_place(copied, kind):
    config_class, model_class = KINDS[kind]
    its_config_class, its_model_class = copied("first", kind)
    assert its_config_class is not config_class and CONFIG_MAPPING[config_class.model_type] is config_class
    assert type(AutoModel.from_config(config_class(hidden_size=8))) is model_class
    assert type(AutoModel.from_config(its_config_class(hidden_size=8))) is its_model_class


@KIND
def test_a_copys_model_serves_another_copys_configuration(copied, kind):
    """Transformers imports the configuration of a folder from one copy, and the model from another."""
    CONFIG_MAPPING._extra_content.pop(f"fpt_{kind}")  # as on a machine without the library
    (first_config, first_model), (second_config, second_model) = copied("first", kind), copied("second", kind)
    config = AutoConfig.for_model(f"fpt_{kind}", hidden_size=8)
    assert type(config) is first_config
    assert type(AutoModel.from_config(config)) is first_model
    assert type(AutoModel.from_config(second_config(hidden_size=8))) is second_model


@KIND
def test_its_code_travels_with_a_model_and_is_known_to_its_configuration(kind, tmp_path):
    files = write_code(tmp_path, kind)
    needed = {Path(file).name for file in get_relative_import_files(tmp_path / "configuration_fpt.py")}
    assert "fpt_backbones.py" in needed & files  # an Auto class reads the configuration before it fetches the model
    registered = f"AutoConfig.register({KINDS[kind][0].__name__}"
    assert registered in (tmp_path / "fpt_backbones.py").read_text(encoding="utf-8")


# Wrong settings


WRONG_WIDTHS = (0, -1, -(2**40), 1.5, "768", None)
WRONG = {
    (IdentityConfig, "hidden_size"): WRONG_WIDTHS,
    (LSTMConfig, "hidden_size"): WRONG_WIDTHS,
    (LSTMConfig, "num_hidden_layers"): (0, -1, -(10**9), 3.0, "3"),
    (LSTMConfig, "residual"): ("yes", 1),
    (LSTMConfig, "hidden_dropout_prob"): (1.0, -0.1, float("nan"), "0.1"),
    (LSTMConfig, "layer_norm_eps"): (0.0, -1e-5, 1.0, float("nan")),
}


@pytest.mark.parametrize(("of", "value"), [(of, value) for of, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_refused(of, value):
    config_class, field = of
    with pytest.raises(StrictDataclassError, match=field):
        config_class(**{field: value})


AT_LEAST_1 = "is a whole number of at least 1"
ABSURD = [
    ({"hidden_size": 2**40}, "hidden_size=1099511627776"),
    ({"hidden_size": -(2**40)}, "hidden_size=-1099511627776"),
    ({"hidden_size": -16}, f"hidden_size {AT_LEAST_1}"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
    ({"num_hidden_layers": 513}, "no backbone has more than 512 layers"),
    ({"num_hidden_layers": -3}, f"num_hidden_layers {AT_LEAST_1}"),
]


@pytest.mark.parametrize(
    ("kind", "nested", "words"),
    [*(("lstm", *row) for row in ABSURD), *(("identity", *row) for row in ABSURD if "hidden_size" in row[0])],
)
def test_a_delta_cannot_ask_for_an_absurd_one(kind, nested, words, tmp_path):
    build_seeded(CONFIGS[kind], **UNGROUPED).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    values["base_model_config"] |= nested
    rewrite_config(tmp_path, values)
    for load in (FPTForSequenceClassification.from_pretrained, FPTConfig.from_pretrained):
        with pytest.raises((ValueError, StrictDataclassError), match=words):
            load(tmp_path)


MEMORY = "larger than this machine's memory"


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        (LSTMConfig(hidden_size=2**24), {}, MEMORY),
        (LSTMConfig(hidden_size=2**16, num_hidden_layers=512), {}, MEMORY),
        (IdentityConfig(hidden_size=2**24), UNGROUPED | {"sequence_length": 2**20}, f"new modules are {MEMORY}"),
    ],
    ids=["wide", "deep", "identity"],
)
def test_one_that_is_larger_than_memory_is_refused_before_it_is_built(config, fields, words):
    with pytest.raises(ValueError, match=words):
        build_seeded(config, **fields)
