"""peft adapters on the frozen layers: every method trains, is saved in the delta, and comes back by AutoModel."""

import dataclasses
import itertools
import json
import re
import time

import peft
import pytest
import torch
from conftest import tiny_config
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForSequenceClassification

from fpt_adapters import FPTConfig, FPTForSequenceClassification, IdentityConfig, LSTMConfig
from fpt_adapters.adapters.adding import peft_config_of
from fpt_adapters.hub.card_template import describe_base
from fpt_adapters.rules.adapter_settings import METHODS, checked_settings

FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
ON_CONV1D = ("fourierft", "gralora", "hira", "ia3", "lora", "waveft")
LAYERS = {"bert": ["query", "value", "intermediate.dense"], "gpt2": ["c_attn", "c_fc"]}
SMALL = {  # what a hidden size of 32 asks for
    "c3a": {"block_size": 16},
    "miss": {"r": 8},
    "road": {"group_size": 16},
    "waveft": {"n_frequency": 64},
    "fourierft": {"n_frequency": 64},
}


def settings(method, model_type):
    values = {"peft_type": method, "target_modules": LAYERS[model_type]} | SMALL.get(method, {})
    if method == "ia3":
        values["feedforward_modules"] = LAYERS[model_type][-1:]
    return values


def build(peft_config, model_type="bert", **changes):
    torch.manual_seed(0)
    return FPTForSequenceClassification.from_backbone(
        tiny_config(model_type), backbone_init="random", peft_config=peft_config, **FIELDS | changes
    )


def train(model, steps=3):
    generator = torch.Generator().manual_seed(1)
    values, labels = torch.randn(8, 10, 3, generator=generator), torch.arange(8) % 4
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        model(input_values=values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), values


CASES = [(method, "bert") for method in METHODS] + [(method, "gpt2") for method in ON_CONV1D]


@pytest.mark.parametrize(("method", "model_type"), CASES)
def test_an_adapter_trains_beside_the_groups_and_comes_back(method, model_type, tmp_path):
    model = build(settings(method, model_type), model_type)
    groups = model.parameter_groups()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model, values = train(model)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {groups[name] for name in moved} == {"input", "output", "norm", "position", "adapter"}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        name for name, group in groups.items() if group in model.config.trainable
    }
    model.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(back(input_values=values).logits, model(input_values=values).logits)
    assert back.config.peft_config == model.config.peft_config
    saved = json.loads((tmp_path / "config.json").read_text())["peft_config"]
    layers = 2 * len(LAYERS[model_type])
    assert saved["peft_type"] == method and len(saved["target_modules"]) == layers
    assert all(model.fpt.backbone.get_submodule(path) is not None for path in saved["target_modules"])


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize(
    "given",
    [
        "lora",
        {"peft_type": "LORA", "r": 2},
        peft.LoraConfig(r=2, use_dora=True, lora_dropout=0.1),
        peft.LoraConfig(r=2, use_rslora=True, target_modules="all-linear"),
        peft.LoraConfig(r=2, target_modules=r".*\.1\..*(query|c_attn)"),
        peft.LoraConfig(
            r=2, target_modules=["query", "c_attn"], layers_to_transform=[1], layers_pattern=["layer", "h"]
        ),
    ],
    ids=["name", "dict", "dora", "all-linear", "pattern", "layer"],
)
def test_what_a_user_may_give(given, model_type, tmp_path):
    model, values = train(build(given, model_type))
    model.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(back(input_values=values).logits, model(input_values=values).logits)


def test_nothing_else_is_drawn_where_a_delta_is_loaded(tmp_path):
    build("lora").save_pretrained(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ("lorra", ["lora, miss", "'lorra'"]),
        ("prompt_tuning", ["'prompt_tuning'", "wrap no linear layers"]),
        ("adalora", ["training loop of their own"]),
        ({"peft_type": "lora", "rank": 4}, ["no setting rank", "lora_alpha"]),
        ({"peft_type": "lora", "target_modules": ["q_proj"]}, ["dense, key, query, value", "target_modules"]),
        (peft.LoraConfig(modules_to_save=["head"]), ["modules_to_save=['head']", "trainable"]),
        (peft.LoraConfig(init_lora_weights="pissa"), ["change the base's own weights", "pissa"]),
        (peft.LoraConfig(bias="all"), ["bias='all'"]),
        (peft.LoraConfig(target_modules=["position_embeddings"]), ["position_embeddings is none"]),
        ({"peft_type": "lora", "r": 2**20}, ["parameters, more than the", "of the backbone: lower its rank"]),
        ({"peft_type": "lora", "r": 2.5}, ["takes a number for r, whole", "2.5"]),
        ({"peft_type": "loha", "rank_dropout": "word"}, ["takes a number for rank_dropout", "'word'"]),
    ],
)
def test_what_cannot_be_is_refused(given, messages):
    with pytest.raises(ValueError) as error:
        build(given)
    for message in messages:
        assert message in str(error.value)
    model = build(None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    with pytest.raises(ValueError, match=re.escape(messages[0])):
        model.add_adapter(given)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trained
    assert model.config.peft_config is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "oft", "num_cayley_neumann_terms": 2**20}, "num_cayley_neumann_terms is a number up to 64"),
        ({"target_modules": ["x"] * 30_000}, "names layers by their paths"),
        ({"runtime_config": 5}, "runtime_config=5.*leave it out"),
        ({"use_bdlora": 1}, "use_bdlora=1.*leave it out"),
        ({"a_new_config": 1}, "a_new_config=1.*leave it out"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_delta_cannot_ask_for_more_than_an_adapter_takes(values, message):
    with pytest.raises(ValueError, match=message):
        FPTConfig(peft_config={"peft_type": "lora", **values})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's own, of settings that it adjusts
@pytest.mark.parametrize("method", METHODS)
def test_a_setting_of_another_kind_is_used_or_refused_at_once(method):
    """What strangers may write: nothing of it raises anything else, or takes long."""
    names = [field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()])]
    model = build(None)
    for name, value in itertools.product(names, (5, -1, 2.5, 2**20, True, "word", None, ["query"])):
        start = time.process_time()
        try:
            values = checked_settings(settings(method, "bert") | {name: value})
            model.add_adapter(values)
            outputs = model(input_values=torch.zeros(1, 10, 3)).logits
            assert outputs.shape == (1, 4)
            model.delete_adapter()
        except ValueError:
            assert model.config.peft_config is None
        assert time.process_time() - start < 1, (name, value)


@pytest.mark.parametrize(
    "base_config", [LSTMConfig(hidden_size=8, num_hidden_layers=2), IdentityConfig(hidden_size=8)]
)
def test_a_backbone_without_linear_layers_is_refused(base_config):
    with pytest.raises(ValueError, match="linear layers are"):
        FPTForSequenceClassification.from_backbone(
            base_config,
            backbone_init="random",
            trainable=["input", "output"],
            positions="none",
            peft_config={"peft_type": "lora", "target_modules": ["query"]},
            **FIELDS,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "LORA"},
        {"peft_type": ["lora"]},
        {"target_modules": ".*query"},
        {"target_modules": ["(a+)+$"]},
        {"target_modules": ["../query"]},
        {"target_modules": ["query"] * 10**6},
        {"rank_pattern": {"(a+)+$": 4}},
        {"rank_pattern": ["query"]},
        {"rank_pattern": {"query": "4" * 50}},
        {"r": 10**9},
        {"r": float("nan")},
        {"init_lora_weights": "https://host/file"},
        {"auto_mapping": {"base_model_class": "os"}},
        {"modules_to_save": ["head"]},
        {"loftq_config": {"loftq_bits": 4}},
        {"eva_config": {}},
        {"name": {"a": 1}},
    ],
)
def test_a_strangers_settings_choose_nothing_else(changes):
    with pytest.raises(ValueError):
        checked_settings({"peft_type": "lora", "target_modules": ["query"]} | changes)
    with pytest.raises(ValueError):
        FPTConfig(peft_config={"peft_type": "lora", "target_modules": ["query"]} | changes, **FIELDS)


def test_the_base_stays_the_same_base():
    assert build("lora").config.base_model_fingerprint == build(None).config.base_model_fingerprint
    assert "with an adapter (lora) on frozen layers" in describe_base(build("lora").config)


def test_the_group_goes_with_the_adapter():
    config = FPTConfig(peft_config={"peft_type": "lora"}, trainable=["output"], **FIELDS)
    assert config.trainable == ["output", "adapter"]
    with pytest.raises(ValueError, match="write peft_config"):
        FPTConfig(trainable=["output", "adapter"], **FIELDS)


def test_settings_come_back_as_they_were_given():
    given = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["query"], rank_pattern={"value": 2})
    assert peft_config_of(given).to_dict() == peft_config_of(peft_config_of(given)).to_dict()
