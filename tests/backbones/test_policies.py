"""What trains: the last layer's attention only, all that an input reaches, no norms."""

from collections import defaultdict

import pytest
import torch
from conftest import (
    LAYERS,
    TINY_BACKBONES,
    TRANSFORMER_GROUPS,
    VALUES,
    assert_same,
    build,
    moved,
    reloaded,
    tiny_config,
    train,
    trained_names,
    weights,
)
from transformers import Lfm2Config

from fpt_adapters import PAPER_GROUPS, FPTForTokenClassification

LAST = [*PAPER_GROUPS, "last_attention"]


def groups_of(model):
    """The names of the parameters of each group."""
    groups = defaultdict(set)
    for name, group in model.parameter_groups().items():
        groups[group].add(name)
    return groups


def gradients(model):
    """The gradient of each parameter of a model that labels tokens, None where no input reaches it."""
    torch.manual_seed(0)
    labels = torch.arange(30).reshape(3, 10) % 4
    model.train()(input_values=VALUES, labels=labels).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_the_last_attention_is_that_of_the_last_layer(make_model, model_type):
    plain, model = make_model(model_type), make_model(model_type, trainable=LAST)
    before, after = groups_of(plain), groups_of(model)
    attention, last = before["attention"], after["last_attention"]
    of_the_last = {name for name in attention if f".{LAYERS - 1}." in name.replace("layer.0.SelfAttention", "")}
    assert last == (attention if model_type == "albert" else of_the_last) != set()
    assert after["attention"] == attention - last and "last_attention" not in before
    assert after == before | {"attention": after["attention"], "last_attention": last}
    assert trained_names(model) == trained_names(plain) | last


def test_a_last_layer_without_attention_is_passed_over():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Lfm2Config(**sizes, num_hidden_layers=4, layer_types=["full_attention"] * 3 + ["conv"], vocab_size=50)
    names = groups_of(build(config, trainable=LAST))["last_attention"]
    assert {name.partition("layers.")[2][0] for name in names} == {"2"}


def test_it_gets_the_gradients_that_it_gets_among_all(make_model):
    one, every = (
        make_model("gpt2", FPTForTokenClassification, trainable=[*PAPER_GROUPS, group], backbone_dropout=0.0)
        for group in ("last_attention", "attention")
    )
    groups, some, others = groups_of(one), gradients(one), gradients(every)
    last = groups["last_attention"]
    assert_same({name: some[name] for name in last}, {name: others[name] for name in last}, rtol=1e-5, atol=1e-6)
    assert all(some[name] is None for name in groups["attention"])


def test_it_trains_with_a_rate_of_its_own_and_comes_back(saved_base, tmp_path):
    model = build(saved_base, trainable=LAST)
    before = weights(model)
    train(model, tmp_path / "out", trainer={"group_learning_rates": {"last_attention": 1e-2}})
    assert moved(model, before) == trained_names(model) > groups_of(model)["last_attention"] != set()
    loaded = reloaded(model, tmp_path / "delta", base_model_name_or_path=saved_base)
    assert trained_names(loaded) == trained_names(model)
    assert_same(weights(loaded), weights(model))


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "vit", "dinov2"])
def test_all_groups_are_all_that_an_input_reaches(make_model, model_type):
    if model_type not in TINY_BACKBONES:
        pytest.skip("cannot mask padding with these transformers")
    model = make_model(model_type, FPTForTokenClassification, trainable=list(TRANSFORMER_GROUPS))
    named = trained_names(model)
    model.requires_grad_(True)
    assert {name for name, gradient in gradients(model).items() if gradient is not None and gradient.any()} == named


@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_norms_can_stay_frozen(make_model, model_type):
    model = make_model(model_type, FPTForTokenClassification, trainable=["input", "output", "position"])
    groups = groups_of(model)
    assert trained_names(model) == groups["input"] | groups["output"] | groups["position"]
    found = gradients(model)
    assert all(found[name] is None for name in groups["norm"])


def test_a_transformer_has_no_recurrent_group():
    with pytest.raises(ValueError, match="the backbone BertModel has no recurrent parameters"):
        build(tiny_config("bert"), trainable=["recurrent"])
