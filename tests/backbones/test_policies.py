"""What trains: the last layer's attention alone, all that an input reaches, recurrent layers, no norms."""

import pytest
import torch
from conftest import LAYERS, TINY_BACKBONES, TRANSFORMER_GROUPS, tiny_config
from transformers import Lfm2Config, TrainingArguments

from fpt_adapters import PAPER_GROUPS, FPTForSequenceClassification, FPTForTokenClassification, FPTTrainer
from fpt_adapters.backbones.baselines.modeling_lstm import LSTMConfig

LAST = [*PAPER_GROUPS, "last_attention"]
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}


def members(model, group):
    return {name for name, its in model.parameter_groups().items() if its == group}


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def gradients(model):
    """The gradient of each parameter of a model that labels tokens, None where no input reaches it."""
    torch.manual_seed(0)
    labels = torch.arange(20).reshape(2, 10) % 4
    model.train()(input_values=torch.randn(2, 10, 3), labels=labels).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# The last layer's attention


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_the_last_attention_is_that_of_the_last_layer(make_model, model_type):
    before, model = make_model(model_type), make_model(model_type, trainable=LAST)
    attention, last = members(before, "attention"), members(model, "last_attention")
    assert members(before, "last_attention") == set()
    assert members(model, "attention") | last == attention and not members(model, "attention") & last
    of_the_last = {name for name in attention if f".{LAYERS - 1}." in name.replace("layer.0.SelfAttention", "")}
    assert last == (attention if model_type == "albert" else of_the_last) != set()
    assert {group: names for group, names in groups_of(model).items() if "attention" not in group} == {
        group: names for group, names in groups_of(before).items() if "attention" not in group
    }
    assert trained(model) == trained(before) | last


def groups_of(model):
    return {group: members(model, group) for group in set(model.parameter_groups().values())}


def test_a_last_layer_without_attention_is_passed_over():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Lfm2Config(**sizes, num_hidden_layers=4, layer_types=["full_attention"] * 3 + ["conv"], vocab_size=50)
    model = FPTForSequenceClassification.from_backbone(config, backbone_init="random", trainable=LAST, **FIELDS)
    assert {name.partition("layers.")[2][0] for name in members(model, "last_attention")} == {"2"}


def test_it_gets_the_gradients_that_it_gets_among_all(make_model):
    one, all_of_them = (
        make_model("gpt2", FPTForTokenClassification, trainable=[*PAPER_GROUPS, group], backbone_dropout=0.0)
        for group in ("last_attention", "attention")
    )
    some, every = gradients(one), gradients(all_of_them)
    for name in members(one, "last_attention"):
        torch.testing.assert_close(some[name], every[name])
    assert all(some[name] is None for name in members(one, "attention"))


def test_it_trains_with_a_rate_of_its_own_and_comes_back(saved_base, tmp_path):
    model = FPTForSequenceClassification.from_backbone(saved_base, trainable=LAST, **FIELDS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = [{"input_values": torch.randn(10, 3), "labels": i % 4} for i in range(8)]
    arguments = TrainingArguments(
        tmp_path / "out", max_steps=2, per_device_train_batch_size=4, report_to="none", remove_unused_columns=False
    )
    rates = {"last_attention": 1e-2}
    FPTTrainer(model, arguments, train_dataset=data, group_learning_rates=rates).train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])}
    assert changed == trained(model) > members(model, "last_attention") != set()
    model.save_pretrained(tmp_path / "delta")
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path / "delta", base_model_name_or_path=saved_base)
    assert trained(loaded) == trained(model)
    assert all(torch.equal(p, dict(model.named_parameters())[name]) for name, p in loaded.named_parameters())


# Whole, no norms, recurrent


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "vit", "dinov2"])
def test_all_groups_are_all_that_an_input_reaches(make_model, model_type):
    if model_type not in TINY_BACKBONES:
        pytest.skip("cannot mask padding with these transformers")
    model = make_model(model_type, FPTForTokenClassification, trainable=list(TRANSFORMER_GROUPS))
    named = trained(model)
    model.requires_grad_(True)
    reached = {name for name, gradient in gradients(model).items() if gradient is not None and gradient.any()}
    assert reached == named


@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_norms_can_stay_frozen(make_model, model_type):
    model = make_model(model_type, FPTForTokenClassification, trainable=["input", "output", "position"])
    assert trained(model) == members(model, "input") | members(model, "output") | members(model, "position")
    assert all(gradient is None for name, gradient in gradients(model).items() if name in members(model, "norm"))


def test_the_gates_of_an_lstm_are_recurrent():
    config = LSTMConfig(hidden_size=32, num_hidden_layers=2)
    model = FPTForTokenClassification.from_backbone(
        config, backbone_init="random", trainable=[*PAPER_GROUPS, "recurrent"], **FIELDS
    )
    gates = members(model, "recurrent")
    assert len(gates) == 2 * 4 and all(".lstm." in name for name in gates)
    assert members(model, "attention") == members(model, "feedforward") == members(model, "other") == set()
    assert gates < trained(model) == set(model.parameter_groups())
    assert [name for name, gradient in gradients(model).items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize("group", ["attention", "last_attention", "feedforward"])
def test_a_group_that_a_recurrent_model_lacks_is_refused(group):
    with pytest.raises(ValueError, match=f"trainable has '{group}', but the backbone LSTMModel has no {group}"):
        FPTForSequenceClassification.from_backbone(
            LSTMConfig(hidden_size=32), backbone_init="random", trainable=["input", group], **FIELDS
        )


def test_a_transformer_has_no_recurrent_group():
    with pytest.raises(ValueError, match="the backbone BertModel has no recurrent parameters"):
        FPTForSequenceClassification.from_backbone(
            tiny_config("bert"), backbone_init="random", trainable=["recurrent"], **FIELDS
        )
