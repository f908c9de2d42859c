"""peft adapters on the frozen layers: every method trains, is saved in the delta, and comes back by AutoModel."""

import copy
import dataclasses
import itertools
import json
import re
import time

import peft
import pytest
import torch
from conftest import FIELDS, VALUES, assert_same, build_seeded, moved, outputs, tiny_config, trained_names, weights
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForSequenceClassification

from fpt_adapters import FPTConfig, IdentityConfig, LSTMConfig
from fpt_adapters.adapters.adding import peft_config_of
from fpt_adapters.hub.card_template import describe_base
from fpt_adapters.rules.adapter_settings import METHODS, checked_settings

ON_CONV1D = ("fourierft", "gralora", "hira", "ia3", "lora", "waveft")
CASES = [(method, "bert") for method in METHODS] + [(method, "gpt2") for method in ON_CONV1D]
LAYERS = {"bert": ["query", "value", "intermediate.dense"], "gpt2": ["c_attn", "c_fc"]}
SMALL = {  # what a hidden size of 32 asks for
    "c3a": {"block_size": 16},
    "miss": {"r": 8},
    "road": {"group_size": 16},
    "waveft": {"n_frequency": 64},
    "fourierft": {"n_frequency": 64},
}
BATCH = {"input_values": VALUES, "labels": torch.tensor([0, 1, 2])}


def settings(method, model_type):
    values = {"peft_type": method, "target_modules": LAYERS[model_type]} | SMALL.get(method, {})
    if method == "ia3":
        values["feedforward_modules"] = LAYERS[model_type][-1:]
    return values


def adapted(peft_config=None, model_type="bert", **fields):
    """A model on a tiny backbone, with an adapter or without."""
    return build_seeded(tiny_config(model_type), peft_config=peft_config, **fields)


def learn(model, steps=3):
    """The losses of some steps, from the same seed."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model.train()(**BATCH).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def trained_adapter(peft_config=None, model_type="bert", **fields):
    model = adapted(peft_config, model_type, **fields)
    learn(model)
    return model


@pytest.mark.parametrize(("method", "model_type"), CASES)
def test_an_adapter_trains_beside_the_groups_and_comes_back(method, model_type, tmp_path):
    model = adapted(settings(method, model_type), model_type)
    groups, before = model.parameter_groups(), weights(model)
    learn(model)
    assert {groups[name] for name in moved(model, before)} == {"input", "output", "norm", "position", "adapter"}
    assert trained_names(model) == {name for name, group in groups.items() if group in model.config.trainable}
    model.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(outputs(back), outputs(model))
    assert back.config.peft_config == model.config.peft_config
    saved = json.loads((tmp_path / "config.json").read_text())["peft_config"]
    assert saved["peft_type"] == method and len(saved["target_modules"]) == 2 * len(LAYERS[model_type])
    assert all(model.fpt.backbone.get_submodule(path) is not None for path in saved["target_modules"])


ONE_LAYER = {"layers_to_transform": [1], "layers_pattern": ["layer", "h"]}


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize(
    "given",
    [
        "lora",
        {"peft_type": "LORA", "r": 2},
        peft.LoraConfig(r=2, use_dora=True, lora_dropout=0.1),
        peft.LoraConfig(r=2, use_rslora=True, target_modules="all-linear"),
        peft.LoraConfig(r=2, target_modules=r".*\.1\..*(query|c_attn)"),
        peft.LoraConfig(r=2, target_modules=["query", "c_attn"], **ONE_LAYER),
    ],
    ids=["name", "dict", "dora", "all-linear", "pattern", "layer"],
)
def test_what_a_user_may_give(given, model_type, tmp_path):
    model = trained_adapter(given, model_type)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(AutoModelForSequenceClassification.from_pretrained(tmp_path)), outputs(model))


def test_nothing_else_is_drawn_where_a_delta_is_loaded(tmp_path):
    adapted("lora").save_pretrained(tmp_path)
    state = torch.get_rng_state()
    AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


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
        adapted(given)
    assert [message for message in messages if message not in str(error.value)] == []
    model = adapted()
    before, names = copy.deepcopy(model.state_dict()), trained_names(model)
    with pytest.raises(ValueError, match=re.escape(messages[0])):
        model.add_adapter(given)
    assert_same(model.state_dict(), before)
    assert trained_names(model) == names and model.config.peft_config is None


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
    model = adapted()
    for name, value in itertools.product(names, (5, -1, 2.5, 2**20, True, "word", None, ["query"])):
        start = time.process_time()
        try:
            model.add_adapter(checked_settings(settings(method, "bert") | {name: value}))
            assert outputs(model).shape == (3, 4)
            model.delete_adapter()
        except ValueError:
            assert model.config.peft_config is None
        assert time.process_time() - start < 1, (name, value)


@pytest.mark.parametrize(
    "base_config", [LSTMConfig(hidden_size=8, num_hidden_layers=2), IdentityConfig(hidden_size=8)]
)
def test_a_backbone_without_linear_layers_is_refused(base_config):
    adapter = {"peft_type": "lora", "target_modules": ["query"]}
    with pytest.raises(ValueError, match="linear layers are"):
        build_seeded(base_config, trainable=["input", "output"], positions="none", peft_config=adapter)


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
    values = {"peft_type": "lora", "target_modules": ["query"]} | changes
    for check in (checked_settings, lambda values: FPTConfig(peft_config=values, **FIELDS)):
        with pytest.raises(ValueError):
            check(values)


def test_the_base_stays_the_same_base():
    assert adapted("lora").config.base_model_fingerprint == adapted().config.base_model_fingerprint
    assert "with an adapter (lora) on frozen layers" in describe_base(adapted("lora").config)


def test_the_group_goes_with_the_adapter():
    config = FPTConfig(peft_config={"peft_type": "lora"}, trainable=["output"], **FIELDS)
    assert config.trainable == ["output", "adapter"]
    with pytest.raises(ValueError, match="write peft_config"):
        FPTConfig(trainable=["output", "adapter"], **FIELDS)


def test_settings_come_back_as_they_were_given():
    given = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["query"], rank_pattern={"value": 2})
    assert peft_config_of(given).to_dict() == peft_config_of(peft_config_of(given)).to_dict()
