"""The recurrent baseline: the LSTM as a transformers model, and as a backbone, frozen at random or trained whole."""

import importlib
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import rewrite_config
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    TrainingArguments,
)
from transformers.dynamic_module_utils import get_relative_import_files

from fpt_adapters import (
    PAPER_GROUPS,
    FPTConfig,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
    FPTTrainer,
    IdentityConfig,
    IdentityModel,
    LSTMConfig,
    LSTMModel,
)
from fpt_adapters.backbones.cpu.attention import NAME
from fpt_adapters.hub.code_export import code_files
from fpt_adapters.tasks import BitXor

WIDTH = 16
WHOLE = [*PAPER_GROUPS, "recurrent"]
BASELINES = {  # the paper's two, narrower
    "3 layers": {"hidden_size": WIDTH},
    "12 layers, residual": {"hidden_size": WIDTH, "num_hidden_layers": 12, "residual": True},
}
VALUES = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])


@pytest.fixture(params=BASELINES)
def lstm(request):
    torch.manual_seed(0)
    return AutoModel.from_config(LSTMConfig(**BASELINES[request.param])).eval()


def build(model_class=FPTForSequenceClassification, base=None, **fields):
    torch.manual_seed(0)
    base = base or LSTMConfig(hidden_size=WIDTH)
    return model_class.from_backbone(base, backbone_init="random", **(VALUES | fields))


def embeddings(*shape):
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1))


# As a transformers model


def test_the_auto_classes_know_it():
    config = AutoConfig.for_model("fpt_lstm", hidden_size=WIDTH)
    assert type(config) is LSTMConfig
    assert type(AutoModel.from_config(config)) is LSTMModel
    assert (LSTMConfig().hidden_size, LSTMConfig().num_hidden_layers, LSTMConfig().residual) == (768, 3, False)


@torch.no_grad()
def test_each_layer_is_an_lstm_cell_over_the_tokens_then_a_norm(lstm):
    hidden = embeddings(2, 7)
    for parameter in lstm.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)  # norms are not at 1 and 0
    expected = hidden
    for layer in lstm.layers:
        cell = nn.LSTMCell(WIDTH, WIDTH)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.lstm.state_dict().items()})
        state, steps = None, []
        for step in expected.unbind(dim=1):
            state = cell(step, state)
            steps.append(state[0])
        output = torch.stack(steps, dim=1)  # (batch, tokens, hidden)
        output = nn.functional.layer_norm(output, (WIDTH,), layer.norm.weight, layer.norm.bias)
        expected = expected + output if lstm.config.residual else output
    assert len(lstm.layers) == lstm.config.num_hidden_layers
    torch.testing.assert_close(lstm(inputs_embeds=hidden).last_hidden_state, expected)


def test_its_initialisation_is_pytorchs():
    torch.manual_seed(0)
    model = AutoModel.from_config(LSTMConfig(hidden_size=64))
    bound = 1 / math.sqrt(64)
    for layer in model.layers:
        for parameter in layer.lstm.parameters():  # weights and biases alike
            assert 0.98 * bound < parameter.abs().max() <= bound
            assert abs(parameter.std().item() - bound / math.sqrt(3)) < 0.1 * bound
        assert torch.equal(layer.norm.weight, torch.ones(64)) and torch.equal(layer.norm.bias, torch.zeros(64))


@pytest.mark.parametrize(
    "mask",
    [[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1]],
    ids=["right", "left", "within", "none"],
)
@torch.no_grad()
def test_padding_anywhere_changes_no_real_token(lstm, mask):
    mask = torch.tensor(mask, dtype=torch.bool)
    alone = embeddings(2, int(mask.sum()))
    expected = lstm(inputs_embeds=alone, output_hidden_states=True)
    padded = torch.full((2, 7, WIDTH), 100.0)
    padded[:, mask] = alone
    for kind in (torch.bool, torch.long, torch.float32):
        got = lstm(padded, mask.to(kind).expand(2, 7), output_hidden_states=True)
        torch.testing.assert_close(got.last_hidden_state[:, mask], expected.last_hidden_state)
        for state, alone_state in zip(got.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(state[:, mask], alone_state)


@torch.no_grad()
def test_padding_on_the_right_is_as_no_mask_at_all(lstm):
    hidden = embeddings(2, 7)
    real = MASK.bool()
    assert torch.equal(lstm(hidden, MASK).last_hidden_state[real], lstm(hidden).last_hidden_state[real])


@torch.no_grad()
def test_its_outputs_are_those_of_every_model(lstm):
    hidden = embeddings(2, 7)
    output = lstm(hidden, MASK, output_hidden_states=True)
    assert len(output.hidden_states) == 1 + lstm.config.num_hidden_layers
    assert torch.equal(output.hidden_states[0], hidden)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert lstm(hidden).hidden_states is None
    assert torch.equal(lstm(hidden, MASK, return_dict=False)[0], output.last_hidden_state)
    lstm.config.output_hidden_states = True
    assert len(lstm(hidden).hidden_states) == len(output.hidden_states)
    with pytest.raises(ValueError, match="no attentions: leave output_attentions out"):
        lstm(hidden, output_attentions=True)


def test_dropout_follows_each_norm():
    model = AutoModel.from_config(LSTMConfig(hidden_size=WIDTH, hidden_dropout_prob=0.5)).train()
    dropped = (model(embeddings(8, 9)).last_hidden_state == 0).float().mean().item()
    assert 0.4 < dropped < 0.6
    assert not (model.eval()(embeddings(8, 9)).last_hidden_state == 0).any()


def test_activation_checkpointing_gives_equal_gradients(lstm):
    gradients, calls = [], []
    lstm.layers[0].lstm.register_forward_pre_hook(lambda *_: calls.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(lstm, "activation_checkpointing_enable", None) or lstm.gradient_checkpointing_enable
            enable()
        lstm.train().zero_grad()
        lstm(embeddings(2, 7)).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in lstm.parameters()])
    assert len(calls) == 3  # once, then once more in the backward pass
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_it_is_saved_and_loaded_as_every_model(lstm, tmp_path):
    lstm.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is LSTMModel and loaded.config.to_diff_dict() == lstm.config.to_diff_dict()
    assert not any(info.values())
    assert torch.equal(loaded(embeddings(2, 7)).last_hidden_state, lstm(embeddings(2, 7)).last_hidden_state)


# Its code, and that of the control without a backbone, beside a model


KINDS = {"lstm": (LSTMConfig, LSTMModel), "identity": (IdentityConfig, IdentityModel)}
CODE = {
    kind: code_files(FPTConfig(base_model_config=config_class(hidden_size=8), input_size=2, sequence_length=4))
    for kind, (config_class, _) in KINDS.items()
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
        return importlib.import_module(f"{folder}.fpt_backbones")

    yield copy
    for name in [name for name in sys.modules if name.partition(".")[0] in os.listdir(tmp_path)]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_its_code_takes_no_ones_place(copied, kind):
    config_class, model_class = KINDS[kind]
    copy = copied("first", kind)
    its_config_class = getattr(copy, config_class.__name__)
    assert its_config_class is not config_class and CONFIG_MAPPING[config_class.model_type] is config_class
    assert type(AutoModel.from_config(config_class(hidden_size=8))) is model_class
    assert type(AutoModel.from_config(its_config_class(hidden_size=8))) is getattr(copy, model_class.__name__)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copys_model_serves_another_copys_configuration(copied, kind):
    """Transformers imports the configuration of a folder from one copy, and the model from another."""
    config_class, model_class = KINDS[kind]
    CONFIG_MAPPING._extra_content.pop(config_class.model_type)  # as on a machine without the library
    first, second = copied("first", kind), copied("second", kind)
    config = AutoConfig.for_model(config_class.model_type, hidden_size=8)
    assert type(config) is getattr(first, config_class.__name__)
    assert type(AutoModel.from_config(config)) is getattr(first, model_class.__name__)
    its_config = getattr(second, config_class.__name__)(hidden_size=8)
    assert type(AutoModel.from_config(its_config)) is getattr(second, model_class.__name__)


@pytest.mark.parametrize("kind", KINDS)
def test_its_code_travels_with_a_model_and_is_known_to_its_configuration(kind, tmp_path):
    files = write_code(tmp_path, kind)
    needed = {Path(file).name for file in get_relative_import_files(tmp_path / "configuration_fpt.py")}
    assert "fpt_backbones.py" in needed & files  # an Auto class reads the configuration before it fetches the model
    registered = f"AutoConfig.register({KINDS[kind][0].__name__}"
    assert registered in (tmp_path / "fpt_backbones.py").read_text(encoding="utf-8")


# As a backbone


def test_its_parameters_are_in_their_groups():
    model = build()
    groups = model.parameter_groups()
    layers = [f"fpt.backbone.layers.{i}" for i in range(3)]
    gates = [f"{kind}_{part}_l0" for kind in ("weight", "bias") for part in ("ih", "hh")]
    assert {name for name, group in groups.items() if group == "recurrent"} == {
        f"{layer}.lstm.{gate}" for layer in layers for gate in gates
    }
    assert {name for name, group in groups.items() if group == "norm"} == {
        f"{layer}.norm.{kind}" for layer in layers for kind in ("weight", "bias")
    }
    assert {name for name, group in groups.items() if group == "position"} == {"fpt.position_embeddings.weight"}
    assert set(groups.values()) == set(WHOLE)
    rows = {row.group: (row.tensors, row.parameters, row.trained) for row in model.count_parameters()}
    assert rows["recurrent"] == (12, 3 * 8 * (WIDTH**2 + WIDTH), False)
    assert rows["norm"] == (6, 3 * 2 * WIDTH, True)
    assert {row.group: row.trained for row in build(trainable=WHOLE).count_parameters()} == dict.fromkeys(
        groups.values(), True
    )


def test_it_reads_forwards_with_new_positions_and_its_last_token():
    config = build().config
    assert (config.pooling, config.positions) == ("last", "new")
    assert (config.hidden_size, config.backbone_init_scheme) == (WIDTH, "transformers")


def test_the_seed_draws_its_weights():
    first, again, other = (build(FPTModel, backbone_init_seed=seed) for seed in (0, 0, 1))
    assert first.config.base_model_fingerprint == again.config.base_model_fingerprint
    assert first.config.base_model_fingerprint != other.config.base_model_fingerprint
    assert FPTModel(first.config).config.base_model_fingerprint == first.config.base_model_fingerprint


@pytest.mark.parametrize("trainable", [PAPER_GROUPS, WHOLE], ids=["frozen", "whole"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_gradient_reaches_what_trains(baseline, trainable):
    model = build(base=LSTMConfig(**BASELINES[baseline]), trainable=trainable).train()
    model(input_values=torch.randn(2, 7, 3), attention_mask=MASK, labels=torch.tensor([0, 3])).loss.backward()
    groups = model.parameter_groups()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) is (groups[name] in trainable), name
        assert parameter.grad is None or parameter.grad.any(), name


@pytest.mark.parametrize("pooling", ["last", "mean", "first"])
@torch.no_grad()
def test_padding_changes_no_answer(pooling):
    model = build(pooling=pooling).eval()
    alone = torch.randn(2, 5, 3)
    expected = model(input_values=alone).logits
    for place in (slice(0, 5), slice(2, 7)):  # positions, which count padding too, are still 0
        padded = torch.full((2, 7, 3), 100.0)
        mask = torch.zeros(2, 7, dtype=torch.long)
        padded[:, place], mask[:, place] = alone, 1
        torch.testing.assert_close(model(input_values=padded, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification, FPTModel])
@pytest.mark.parametrize("trainable", [PAPER_GROUPS, WHOLE], ids=["frozen", "whole"])
@torch.no_grad()
def test_its_delta_gives_the_same_bits(model_class, trainable, tmp_path):
    model = build(model_class, trainable=trainable).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    inputs = {"input_values": torch.randn(2, 7, 3), "attention_mask": MASK}
    assert torch.equal(loaded(**inputs)[0], model(**inputs)[0])
    held = any(".lstm." in name for name in model.delta_tensors())
    assert held is ("recurrent" in trainable)


@torch.no_grad()
def test_a_saved_lstm_is_a_pretrained_base(lstm, tmp_path):
    lstm.save_pretrained(tmp_path / "base")
    model = FPTForTokenClassification.from_backbone(
        tmp_path / "base", positions="none", trainable=["output"], **VALUES
    )
    for (name, one), other in zip(lstm.named_parameters(), model.fpt.backbone.parameters(), strict=True):
        assert torch.equal(one, other), name
    model.save_pretrained(tmp_path / "delta")
    loaded = FPTForTokenClassification.from_pretrained(tmp_path / "delta", base_model_name_or_path=tmp_path / "base")
    inputs = {"input_values": torch.randn(2, 7, 3)}
    assert torch.equal(loaded(**inputs).logits, model.eval()(**inputs).logits)
    statistics = FPTModel.from_backbone(tmp_path / "base", backbone_init="statistics", **VALUES)
    for (name, one), other in zip(lstm.named_parameters(), statistics.backbone.parameters(), strict=True):
        if ".lstm.weight" in name:
            torch.testing.assert_close(other.std(), one.std(), rtol=0.2, atol=0)


@pytest.mark.parametrize("trainable", [PAPER_GROUPS, WHOLE], ids=["frozen", "whole"])
def test_it_runs_with_weights_in_half_precision(trainable):
    model = build(dtype=torch.bfloat16, trainable=trainable)
    frozen = {name: p.dtype for name, p in model.named_parameters() if ".lstm." in name}
    assert set(frozen.values()) == {torch.float32 if "recurrent" in trainable else torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    inputs = {"input_values": torch.randn(2, 7, 3), "attention_mask": MASK}
    model.train()(**inputs, labels=torch.tensor([0, 3])).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    whole = build()
    whole.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, whole.eval()(**inputs).logits, rtol=0.1, atol=0.05)


def test_any_choice_of_attention_is_honoured_by_having_none():
    for attention in ("eager", "sdpa"):
        assert type(build(FPTModel, attn_implementation=attention).backbone) is LSTMModel


def test_the_backbones_dropout_is_one_field():
    model = build(backbone_dropout=0.25)
    assert [layer.dropout.p for layer in model.fpt.backbone.layers] == [0.25] * 3


@pytest.mark.parametrize("trainable", [PAPER_GROUPS, WHOLE], ids=["frozen", "whole"])
def test_training_solves_bit_xor_of_one_bit(trainable, tmp_path):
    task = BitXor(string_length=1)
    data = task.load()
    torch.manual_seed(0)
    model = FPTForTokenClassification.from_backbone(
        LSTMConfig(hidden_size=32), backbone_init="random", trainable=trainable, input_dropout=0.0, **data.config
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=16,
        max_steps=60,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
    )
    trainer = FPTTrainer(model, arguments, train_dataset=data.train, data_collator=task.collate)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] > 0.6 and losses[-1] < 0.1
    groups = model.parameter_groups()
    moved = {groups[name] for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(trainable)


# Wrong settings


WRONG = {
    "hidden_size": (0, -1, -(2**40), 1.5, "768", None),
    "num_hidden_layers": (0, -1, -(10**9), 3.0, "3"),
    "residual": ("yes", 1),
    "hidden_dropout_prob": (1.0, -0.1, float("nan"), "0.1"),
    "layer_norm_eps": (0.0, -1e-5, 1.0, float("nan")),
}


@pytest.mark.parametrize("field, value", [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises(StrictDataclassError, match=field):
        LSTMConfig(**{field: value})


ABSURD = [
    ({"hidden_size": 2**40}, "hidden_size=1099511627776"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
    ({"num_hidden_layers": 513}, "no backbone has more than 512 layers"),
    ({"hidden_size": -(2**40)}, "hidden_size=-1099511627776"),
    ({"hidden_size": -32}, "hidden_size is a whole number of at least 1"),
    ({"num_hidden_layers": -3}, "num_hidden_layers is a whole number of at least 1"),
]


@pytest.mark.parametrize("nested, words", ABSURD)
def test_a_delta_cannot_ask_for_an_absurd_one(nested, words, tmp_path):
    build().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    values["base_model_config"] |= nested
    rewrite_config(tmp_path, values)
    for load in (FPTForSequenceClassification.from_pretrained, FPTConfig.from_pretrained):
        with pytest.raises((ValueError, StrictDataclassError), match=words):
            load(tmp_path)


@pytest.mark.parametrize("nested", [{"hidden_size": 2**24}, {"hidden_size": 2**16, "num_hidden_layers": 512}])
def test_one_that_is_larger_than_memory_is_refused_before_it_is_built(nested):
    with pytest.raises(ValueError, match="larger than this machine's memory"):
        build(base=LSTMConfig(**nested))
