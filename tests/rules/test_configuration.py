"""FPTConfig: what it refuses and how it says so, its token counts, and that what is saved comes back equal."""

import json

import numpy as np
import pytest
from conftest import IMAGES, INPUTS, NUMBERS, SERIES, TINY_BACKBONES, TOKENS, refused, since, tiny_config
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig

from fpt_adapters import PAPER_GROUPS, PARAMETER_GROUPS, FPTConfig, FPTForSequenceClassification, LSTMConfig

NAMES = {"id2label": {0: "cat", 1: "dog", 2: "frog"}, "label2id": {"cat": 0, "dog": 1, "frog": 2}}


def random_gpt2(**fields):
    return {"backbone_init": "random", "base_model_config": tiny_config("gpt2")} | NUMBERS | fields


CONFIGURATIONS = {
    "empty": {},
    "values": NUMBERS | {"labels_per_token": 3, "problem_type": "regression", "num_labels": 1},
    "tokens with padding": TOKENS | {"pad_token_id": 0, "num_labels": 7},
    "images with labels": IMAGES | NAMES,
    "tall images": IMAGES | {"image_size": [8, 16]},
    "series": SERIES | {"input_dropout": 0.0, "pooling": "first", "positions": "new"},
    "label names one way": NUMBERS | {"id2label": {0: "no", 1: "yes"}},
    "policy": NUMBERS | {"trainable": ["output", "attention"], "positions": "none", "train_qk_norms": True},
    "declared base": NUMBERS
    | {
        "base_model": "openai-community/gpt2",
        "base_model_revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "base_model_fingerprint": "sampled-sha256:00",
        "base_model_config": tiny_config("gpt2"),
        "dtype": "bfloat16",
    },
    "seed and scheme": random_gpt2(backbone_init_seed=7, backbone_init_scheme="gpt2-flat", backbone_dropout=0.25),
    "numbers of NumPy": NUMBERS
    | {"num_labels": 2, "label_mean": [*np.array([0.1, 5])], "label_scale": [*np.array([3.5, 1])]},
    "statistics": NUMBERS | {"backbone_init": "statistics", "backbone_init_seed": 3},
    "first layer, last attention": random_gpt2(backbone_layers=1, trainable=["input", "output", "last_attention"]),
}


def save_and_load(config, folder, loader=FPTConfig):
    config.save_pretrained(folder)
    return loader.from_pretrained(folder)


@pytest.mark.parametrize("fields", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_what_is_saved_comes_back_equal(fields, tmp_path):
    config = FPTConfig(**fields)
    loaded = save_and_load(config, tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.to_diff_dict() == config.to_diff_dict()
    for name in fields:
        if name != "base_model_config":
            assert getattr(loaded, name) == getattr(config, name)
    assert save_and_load(loaded, tmp_path / "again").to_dict() == config.to_dict()
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_the_nested_configuration_comes_back_equal_and_of_its_class(model_type, tmp_path):
    base = tiny_config(model_type)
    config = FPTConfig(**random_gpt2(base_model_config=base))
    loaded = save_and_load(config, tmp_path)
    assert type(loaded.base_model_config) is type(base)
    assert loaded.base_model_config.to_dict() == base.to_dict()
    assert loaded.to_dict() == config.to_dict()
    assert loaded.hidden_size == base.hidden_size


@pytest.mark.parametrize("given", [dict, "an object"])
def test_bookkeeping_of_a_nested_configuration_is_left_out_both_ways(given, tmp_path):
    labels = {"id2label": {0: "no", 1: "yes", 2: "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
    base = tiny_config("gpt2", auto_map={"AutoModel": "modeling.Model"}, name_or_path="/data/gpt2", **labels)
    assert base.auto_map and base.num_labels == 3
    config = FPTConfig(**random_gpt2(base_model_config=base.to_dict() if given is dict else base))
    assert config.base_model_config.to_dict() == tiny_config("gpt2").to_dict()
    assert save_and_load(config, tmp_path).to_dict() == config.to_dict()
    config.base_model_config = base  # as when it is put in later
    assert config.base_model_config.to_dict() == tiny_config("gpt2").to_dict()


def test_the_given_base_configuration_is_left_as_it_is(saved_base):
    base = AutoConfig.from_pretrained(saved_base)
    before = base.to_dict()
    config = FPTConfig(base_model_config=base, **NUMBERS)
    FPTForSequenceClassification.from_backbone(saved_base, config)
    assert base.to_dict() == before and base.name_or_path == str(saved_base)
    assert config.base_model_fingerprint is None


def test_label_names_and_numbers_follow_each_other():
    config = FPTConfig(**NUMBERS, id2label={0: "no", 1: "yes", 2: "maybe"})
    assert config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert config.num_labels == 3


def test_auto_config_loads_it(tmp_path):
    config = FPTConfig(**IMAGES, **NAMES)
    loaded = save_and_load(config, tmp_path, AutoConfig)
    assert type(loaded) is FPTConfig
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert type(AutoConfig.for_model("fpt", **NUMBERS)) is FPTConfig


def test_no_local_path_reaches_the_json(saved_base, tmp_path):
    fields = NUMBERS | {"num_labels": 4}
    from_fields = FPTForSequenceClassification.from_backbone(saved_base, **fields)
    given = FPTConfig(base_model_config=AutoConfig.from_pretrained(saved_base), **fields)
    from_config = FPTForSequenceClassification.from_backbone(saved_base, given)
    from_fields.save_pretrained(tmp_path / "first")
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path / "first", base_model_name_or_path=saved_base)
    loaded.save_pretrained(tmp_path / "second")
    from_config.save_pretrained(tmp_path / "third")
    loaded.config.save_pretrained(tmp_path / "fourth")
    given.save_pretrained(tmp_path / "fifth")
    for folder in tmp_path.iterdir():
        written = (folder / "config.json").read_text()
        assert str(saved_base) not in written and str(tmp_path) not in written, folder.name
        assert json.loads(written).get("base_model") is None


@pytest.mark.parametrize(
    "fields, tokens",
    [
        (NUMBERS, 10),
        (TOKENS, 10),
        (IMAGES, 4),
        (IMAGES | {"image_size": [8, 16]}, 8),
        (IMAGES | {"image_size": (4, 12)}, 3),
        (IMAGES | {"image_size": 32}, 64),
        (SERIES | {"patch_stride": 2}, 9),  # starts 0, 2 .. 16
        (SERIES | {"patch_stride": 2, "series_length": 21}, 10),  # a tail of one step needs one more patch
        (SERIES | {"patch_stride": 2, "series_length": 22}, 10),
        (SERIES | {"patch_stride": 4}, 5),
        (SERIES | {"patch_stride": 4, "series_length": 17}, 5),
        (SERIES | {"series_length": 10}, 3),
        (SERIES | {"series_length": 11}, 4),
        (SERIES | {"series_length": 4}, 1),
        (SERIES | {"series_length": 3}, 1),  # shorter than a patch
        (SERIES | {"series_length": 1}, 1),
    ],
)
def test_number_of_tokens(fields, tokens):
    assert FPTConfig(**fields).num_tokens == tokens


def test_the_papers_choices_are_the_defaults():
    config = FPTConfig()
    assert config.trainable == list(PAPER_GROUPS) == ["input", "output", "norm", "position"]
    assert (config.input_dropout, config.positions, config.pooling) == (0.1, "auto", "auto")
    assert config.backbone_init == "pretrained"
    assert set(PAPER_GROUPS) < set(PARAMETER_GROUPS)


@pytest.mark.parametrize(
    "config_class, field, given",
    [
        (FPTConfig, "input_dropout", 0),
        (FPTConfig, "backbone_dropout", 0),
        (LSTMConfig, "hidden_dropout_prob", 0),
        (LSTMConfig, "layer_norm_eps", 1e-3),
    ],
)
def test_a_float_field_takes_a_whole_number_and_saves_the_same_file(config_class, field, given, tmp_path):
    config, same = (config_class(**{field: number}) for number in (given, float(given)))
    setattr(same, field, given)
    for folder, one in (("whole", config), ("float", same)):
        assert type(getattr(one, field)) is float
        one.save_pretrained(tmp_path / folder)
    assert (tmp_path / "whole" / "config.json").read_text() == (tmp_path / "float" / "config.json").read_text()


@since("5.6", "tell a truth value from a number")
@pytest.mark.parametrize("config_class, field", [(FPTConfig, "input_dropout"), (LSTMConfig, "layer_norm_eps")])
def test_a_float_field_takes_no_truth_value(config_class, field):
    with pytest.raises(StrictDataclassFieldValidationError, match=field):
        config_class(**{field: True})


def test_trainable_is_kept_in_one_order():
    config = FPTConfig(**NUMBERS, trainable=("position", "feedforward", "input"))
    assert config.trainable == ["input", "position", "feedforward"]


RULES = {
    "unknown group": (NUMBERS | {"trainable": ["input", "layernorm"]}, ["'layernorm'", *PARAMETER_GROUPS]),
    "group named twice": (NUMBERS | {"trainable": ["input", "norm", "input"]}, ["each group once", "norm"]),
    "no positions to train": (NUMBERS | {"positions": "none"}, ["positions='none'", "['input', 'output', 'norm']"]),
    "all attention and the last one": (
        NUMBERS | {"trainable": ["input", "attention", "last_attention"]},
        ["'attention'", "'last_attention'", "leave one out"],
    ),
    "no layers": (random_gpt2(backbone_layers=0), ["backbone_layers", "at least 1"]),
    "fewer than no layers": (NUMBERS | {"backbone_layers": -1}, ["backbone_layers", "at least 1", "-1"]),
    "more layers than any model has": (NUMBERS | {"backbone_layers": 10**9}, ["backbone_layers", "at most 512"]),
    "more layers than the base has": (random_gpt2(backbone_layers=3), ["backbone_layers=3", "gpt2 has 2 layers"]),
    "a commit that is none": (NUMBERS | {"base_model_revision": "main"}, ["base_model_revision is a hash", "'main'"]),
    "a fingerprint that is none": (NUMBERS | {"base_model_fingerprint": "abc"}, ["base_model_fingerprint is a hash"]),
    "a seed that torch cannot take": (NUMBERS | {"backbone_init_seed": 2**63}, ["backbone_init_seed", "at most"]),
    "a quantised base": (
        random_gpt2(base_model_config=tiny_config("gpt2", quantization_config={"bits": 4})),
        ["quantization_config={'bits': 4}", "not quantised"],
    ),
    "too many labels": (NUMBERS | {"num_labels": 2**17 + 1}, ["num_labels", "at most 131072"]),
    "no labels": (NUMBERS | {"num_labels": 0}, ["num_labels", "at least 1"]),
    "a dtype for no backbone": (NUMBERS | {"dtype": "float64"}, ["dtype is one of", "'float64'"]),
    "too many tokens": (IMAGES | {"image_size": 2**14, "patch_size": 2}, ["at most 16777216 tokens", str(2**26)]),
    "too many numbers per token": (IMAGES | {"image_size": 2**13, "patch_size": 2**13}, ["numbers per token"]),
    "a path as base": (NUMBERS | {"base_model": "/data/gpt2"}, ["'/data/gpt2'", "base_model_name_or_path"]),
    "a home path as base": (NUMBERS | {"base_model": "./gpt2/base"}, ["'./gpt2/base'", "base_model_name_or_path"]),
    "negative seed": (NUMBERS | {"backbone_init_seed": -1}, ["backbone_init_seed", "at least 0", "-1"]),
    "backbone dropout of 1": (NUMBERS | {"backbone_dropout": 1.0}, ["backbone_dropout", "below 1", "1.0"]),
    "negative backbone dropout": (NUMBERS | {"backbone_dropout": -0.5}, ["backbone_dropout", "at least 0", "-0.5"]),
    "input dropout of 1": (NUMBERS | {"input_dropout": 1.0}, ["input_dropout", "below 1", "1.0"]),
    "negative input dropout": (NUMBERS | {"input_dropout": -0.1}, ["input_dropout", "at least 0", "-0.1"]),
    "scheme without random": (NUMBERS | {"backbone_init_scheme": "gpt2-flat"}, ["'gpt2-flat'", "'pretrained'"]),
    "scheme on BERT": (
        random_gpt2(base_model_config=tiny_config("bert"), backbone_init_scheme="gpt2-scaled-residual"),
        ["'gpt2-scaled-residual'", "'bert'"],
    ),
    "label numbers with a gap": (NUMBERS | {"id2label": {0: "a", 2: "b"}}, ["id2label", "0..1", "[0, 2]"]),
    "no labels per token": (NUMBERS | {"labels_per_token": 0}, ["labels_per_token", "at least 1"]),
    "three sides": (IMAGES | {"image_size": [8, 8, 3]}, ["image_size", "[height, width]", "[8, 8, 3]"]),
    "one side in a list": (IMAGES | {"image_size": [8]}, ["image_size", "[height, width]", "[8]"]),
    "width no multiple of patches": (IMAGES | {"image_size": [8, 10]}, ["10 pixels", "patches of 4"]),
    "height no multiple of patches": (IMAGES | {"image_size": [9, 8]}, ["9 pixels", "patches of 4"]),
    "zero image side": (IMAGES | {"image_size": [0, 8]}, ["image_size", "at least 1"]),
    "padding past the vocabulary": (TOKENS | {"pad_token_id": 12}, ["pad_token_id", "0..11", "12"]),
    "negative padding": (TOKENS | {"pad_token_id": -1}, ["pad_token_id", "0..11", "-1"]),
    "padding of values": (NUMBERS | {"pad_token_id": 0}, ["pad_token_id", "'values'"]),
    "patches of tokens": (TOKENS | {"patch_size": 4}, ["patch_size", "'tokens'", "vocab_size"]),
    "vocabulary of images": (IMAGES | {"vocab_size": 4}, ["vocab_size", "'images'", "patch_size"]),
    "series with a sequence length": (SERIES | {"sequence_length": 4}, ["sequence_length", "'series'"]),
    "base of an unknown model": (NUMBERS | {"base_model_config": {"model_type": "gpt7"}}, ["'gpt7'", "model_type"]),
    "base without a model type": (NUMBERS | {"base_model_config": {"n_embd": 3}}, ["None", "model_type"]),
    "a base without an input": ({"base_model_config": tiny_config("gpt2")}, ["'values'", "sequence_length"]),
    "a stride that would skip a step": (SERIES | {"patch_stride": 5}, ["patch_stride"]),
    "a stride that would skip steps": (SERIES | {"patch_stride": 8}, ["patch_stride"]),
}  # fmt: skip
for input_type, fields in INPUTS.items():
    for name in [name for name, value in fields.items() if not isinstance(value, (bool, str))]:  # sizes
        RULES[f"{input_type} without {name}"] = fields | {name: None}, [f"'{input_type}'", f"{name} is missing"]
        RULES[f"{input_type} with zero {name}"] = fields | {name: 0}, [name, "at least 1", "0"]


@pytest.mark.parametrize("fields, words", RULES.values(), ids=RULES)
def test_every_rule_is_checked_and_says_what_is_wrong(fields, words):
    with refused(*words):
        FPTConfig(**fields)


WRONG = {
    "input_type": ["audio"],
    "backbone_init": ["xavier"],
    "backbone_init_scheme": ["flat"],
    "positions": ["rotary"],
    "pooling": ["max"],
    "problem_type": ["sorting"],
    "backbone_layers": ["all", 2.0, True, [0, 1]],
    "sequence_length": ["ten", 10.5, True],
    "input_size": [[3]],
    "trainable": ["input"],
    "train_qk_norms": ["yes"],
    "base_model": [3],
    "input_dropout": ["0.1"],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_types_and_choices_name_the_field(name, value):
    with refused(name, error=(StrictDataclassFieldValidationError, ValueError)):
        FPTConfig(**NUMBERS | {name: value})


@pytest.mark.parametrize(
    "name, nearest",
    [("inputs_size", "input_size"), ("trainabel", "trainable"), ("num_label", "num_labels"), ("poolin", "pooling")],
)
def test_an_unknown_field_names_the_nearest_and_the_valid_ones(name, nearest):
    with pytest.raises(TypeError) as error:
        FPTConfig(**NUMBERS, **{name: 3})
    message = str(error.value)
    assert f"no field {name!r}" in message and f"Did you mean {nearest!r}?" in message
    listed = message.partition("Its fields: ")[2].rstrip(".").split(", ")
    assert listed == FPTConfig.own_fields()
    assert {"base_model", "trainable", "patch_stride", "labels_per_token"} <= set(listed)


def test_an_unknown_field_far_from_all_names_no_neighbour():
    with pytest.raises(TypeError, match=r"no field 'zzzzqqqq'\. Its fields: "):
        FPTConfig(zzzzqqqq=1)


def test_a_wrong_value_in_a_saved_file_is_refused_on_loading(tmp_path):
    FPTConfig(**NUMBERS).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sequence_length": 0}))
    with pytest.raises(ValueError, match="sequence_length is a whole number of at least 1"):
        FPTConfig.from_pretrained(tmp_path)
