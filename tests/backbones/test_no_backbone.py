"""The control without a backbone: embeddings go in and come out (what it shares with the LSTM: test_baselines.py)."""

import pytest
import torch
from conftest import VALUES, build_seeded, losses, outputs, run_trainer
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSequenceClassification

from fpt_adapters import IdentityConfig
from fpt_adapters.backbones.fingerprints import fingerprints

WIDTH = 16
CONTROL = {"trainable": ["input", "output"], "positions": "none", "pooling": "mean", "num_labels": 2}


def control(**fields):
    return build_seeded(IdentityConfig(hidden_size=WIDTH), **CONTROL | fields)


def identity():
    return AutoModel.from_config(IdentityConfig(hidden_size=WIDTH))


def test_what_goes_in_comes_out():
    model, embeddings = identity(), torch.randn(2, 7, WIDTH, requires_grad=True)
    output = model(inputs_embeds=embeddings, attention_mask=torch.ones(2, 7), output_hidden_states=True)
    assert output.last_hidden_state is embeddings and output.hidden_states[0] is embeddings
    assert model(embeddings, return_dict=False) == (embeddings,)


def test_it_has_a_place_and_a_kind_though_no_parameter():
    model = identity()
    assert list(model.parameters()) == [] and model.num_parameters() == 0
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    model.to("meta", torch.bfloat16)
    assert (model.device, model.dtype) == (torch.device("meta"), torch.bfloat16)


def test_there_is_nothing_to_tell_two_apart_by():
    assert fingerprints(identity()) == fingerprints(identity().to(torch.bfloat16))
    assert len({control(backbone_init_seed=seed).config.base_model_fingerprint for seed in (0, 1)}) == 1


@torch.no_grad()
def test_the_answer_is_the_head_of_the_mean_projection():
    model, values = control().eval(), VALUES[:2, :7]
    projected = model.fpt.input_projection.projection(values)
    assert_close(model(input_values=values).logits, model.head(projected.mean(dim=1)))
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]])
    expected = torch.stack([projected[0, :5].mean(dim=0), projected[1, 3:].mean(dim=0)])
    assert_close(model(input_values=values, attention_mask=mask).logits, model.head(expected))


def test_only_the_new_modules_have_parameters():
    rows = {row.group: (row.parameters, row.percent, row.trained) for row in control().count_parameters()}
    share = 100 * (4 * WIDTH) / (4 * WIDTH + 2 * (WIDTH + 1))
    assert rows == {"input": (4 * WIDTH, share, True), "output": (2 * (WIDTH + 1), 100 - share, True)}
    rows = control(positions="auto", trainable=["input", "output", "position"]).count_parameters()
    assert {row.group: row.parameters for row in rows}["position"] == 10 * WIDTH


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_trains_is_fp32_whatever_is_asked(dtype):
    model = control(dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert outputs(model).dtype == torch.float32


def test_it_trains_and_comes_back_by_the_auto_class(tmp_path):
    values = torch.randn(64, 10, 3, generator=torch.Generator().manual_seed(0))
    labels = (values.mean(dim=(1, 2)) > 0).long()
    examples = [{"input_values": v, "labels": label} for v, label in zip(values, labels, strict=True)]
    settings = {"max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 1e-1}
    settings |= {"save_strategy": "steps", "save_steps": 40}
    trainer = run_trainer(control(input_dropout=0.0), tmp_path, data=examples, **settings)
    assert losses(trainer)[0] > 0.6 and losses(trainer)[-1] < 0.3
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-40")
    assert torch.equal(outputs(loaded, input_values=values), outputs(trainer.model, input_values=values))
    resumed = run_trainer(control(input_dropout=0.0), tmp_path, data=examples, resume=True, **settings)
    assert torch.equal(resumed.model.head.weight, trainer.model.head.weight)
