"""The recurrent baseline, frozen or trained whole (what it shares with the control: test_baselines.py)."""

import math

import pytest
import torch
from conftest import VALUES, assert_same, build_seeded, losses, moved, outputs, run_trainer, weights
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel

from fpt_adapters import PAPER_GROUPS, FPTForTokenClassification, FPTModel, LSTMConfig
from fpt_adapters.tasks import BitXor

WIDTH = 16
WHOLE = [*PAPER_GROUPS, "recurrent"]
LSTMS = {  # the paper's two, narrower
    "3 layers": {"hidden_size": WIDTH},
    "12 layers, residual": {"hidden_size": WIDTH, "num_hidden_layers": 12, "residual": True},
}
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
INPUTS = {"input_values": VALUES[:2, :7], "attention_mask": MASK}
TRAINABLE = pytest.mark.parametrize("trainable", [PAPER_GROUPS, WHOLE], ids=["frozen", "whole"])


@pytest.fixture(params=LSTMS)
def lstm(request):
    torch.manual_seed(0)
    return AutoModel.from_config(LSTMConfig(**LSTMS[request.param])).eval()


def on_lstm(settings=LSTMS["3 layers"], **fields):
    return build_seeded(LSTMConfig(**settings), **fields)


def embeddings(*shape):
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1))


# As a transformers model


def test_its_defaults_are_the_papers():
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
    assert_close(lstm(inputs_embeds=hidden).last_hidden_state, expected)


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
        assert_close(got.last_hidden_state[:, mask], expected.last_hidden_state)
        assert_close(tuple(state[:, mask] for state in got.hidden_states), expected.hidden_states)


@torch.no_grad()
def test_padding_on_the_right_is_as_no_mask_at_all(lstm):
    hidden, real = embeddings(2, 7), MASK.bool()
    assert torch.equal(lstm(hidden, MASK).last_hidden_state[real], lstm(hidden).last_hidden_state[real])


def test_dropout_follows_each_norm():
    model = AutoModel.from_config(LSTMConfig(hidden_size=WIDTH, hidden_dropout_prob=0.5)).train()
    dropped = (model(embeddings(8, 9)).last_hidden_state == 0).float().mean().item()
    assert 0.4 < dropped < 0.6
    assert not (model.eval()(embeddings(8, 9)).last_hidden_state == 0).any()


# As a backbone


def test_its_parameters_are_counted():
    rows = {row.group: (row.tensors, row.parameters, row.trained) for row in on_lstm().count_parameters()}
    assert rows["recurrent"] == (12, 3 * 8 * (WIDTH**2 + WIDTH), False)
    assert rows["norm"] == (6, 3 * 2 * WIDTH, True)
    whole = on_lstm(trainable=WHOLE).count_parameters()
    assert {row.group: row.trained for row in whole} == dict.fromkeys(WHOLE, True)


def test_statistics_keep_the_spread_of_a_saved_ones_weights(lstm, tmp_path):
    lstm.save_pretrained(tmp_path)
    drawn = build_seeded(tmp_path, FPTModel, backbone_init="statistics").backbone
    spreads = [
        {name: p.std() for name, p in model.named_parameters() if ".lstm.weight" in name} for model in (drawn, lstm)
    ]
    assert_same(*spreads, rtol=0.2)


@TRAINABLE
def test_it_runs_with_weights_in_half_precision(trainable):
    model = on_lstm(dtype=torch.bfloat16, trainable=trainable)
    dtypes = {p.dtype for name, p in model.named_parameters() if ".lstm." in name}
    assert dtypes == {torch.float32 if "recurrent" in trainable else torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    model.train()(**INPUTS, labels=torch.tensor([0, 3])).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    whole = on_lstm()
    whole.load_state_dict(model.state_dict())
    assert_close(outputs(model, **INPUTS), outputs(whole, **INPUTS), rtol=0.1, atol=0.05)


def test_the_backbones_dropout_is_one_field():
    model = on_lstm(backbone_dropout=0.25)
    assert [layer.dropout.p for layer in model.fpt.backbone.layers] == [0.25] * 3


@TRAINABLE
def test_training_solves_bit_xor_of_one_bit(trainable, tmp_path):
    task = BitXor(string_length=1)
    data = task.load()
    torch.manual_seed(0)
    model = FPTForTokenClassification.from_backbone(
        LSTMConfig(hidden_size=32), backbone_init="random", trainable=trainable, input_dropout=0.0, **data.config
    )
    before = weights(model)
    settings = {"max_steps": 60, "per_device_train_batch_size": 16, "lr_scheduler_type": "constant"}
    trainer = run_trainer(model, tmp_path, data=data.train, trainer={"data_collator": task.collate}, **settings)
    assert losses(trainer)[0] > 0.6 and losses(trainer)[-1] < 0.1
    groups = model.parameter_groups()
    assert {groups[name] for name in moved(model, before)} == set(trainable)
