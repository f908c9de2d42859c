"""Activation checkpointing on frozen layers: the same gradients from fewer kept activations, or a clear refusal."""

import os

import pytest
import torch
from conftest import CHECKPOINTING, IMAGE_BACKBONES, TINY_BACKBONES, checkpoint_activations, trained_by
from torch.autograd.graph import saved_tensors_hooks
from transformers import Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from fpt_adapters import FPTForSequenceClassification, FPTTrainer, IdentityConfig, LSTMConfig

CANNOT = ("albert", "openai-gpt")  # transformers cannot checkpoint their layers
CAN = [name for name in TINY_BACKBONES if name not in CANNOT]
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
BASELINES = {
    "fpt_lstm": LSTMConfig(hidden_size=32, num_hidden_layers=2),
    "fpt_identity": IdentityConfig(hidden_size=32),
}


def baseline(name, **fields):
    return FPTForSequenceClassification.from_backbone(BASELINES[name], backbone_init="random", **FIELDS | fields)


def step(model):
    """Gradients of one training step by name, and the bytes that its forward pass keeps for the backward pass."""
    kept = []

    def keep(tensor):
        if tensor.grad_fn is not None:  # an activation, not a weight
            kept.append(tensor.nbytes)
        return tensor

    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(4, 10, 3, generator=generator), torch.tensor([0, 1, 2, 3])
    torch.manual_seed(0)  # dropout
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.train()(input_values=inputs, labels=labels).loss
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}, sum(kept)


def assert_same_gradients(first, second):
    assert first.keys() == second.keys() and first
    for name, gradient in first.items():
        assert gradient is not None and second[name] is not None, name
        torch.testing.assert_close(gradient, second[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("model_type", [*CAN, "fpt_lstm"])
def test_gradients_agree_and_less_is_kept(make_model, model_type, reentrant):
    torch.manual_seed(0)
    model = baseline(model_type) if model_type in BASELINES else make_model(model_type)
    expected, kept = step(model)
    model.zero_grad()
    checkpoint_activations(model, reentrant)
    found, kept_then = step(model)
    assert_same_gradients(found, expected)
    assert kept_then < kept / 2


POLICIES = [["norm", "output"], ["output", "position"], ["norm"], ["input", "output", "attention"]]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("trainable", POLICIES, ids=" ".join)
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", *list(IMAGE_BACKBONES)[:1]])
def test_gradients_agree_whatever_trains(make_model, model_type, trainable, reentrant):
    """A reentrant checkpoint gives no gradient to what is inside it, unless what enters it wants one."""
    for fields in ({}, {"input_type": "tokens", "input_size": None, "vocab_size": 7}):
        model = make_model(model_type, trainable=trainable, **fields)
        inputs = {"input_ids": torch.arange(40).view(4, 10) % 7} if fields else {"input_values": torch.ones(4, 10, 3)}
        gradients = []
        for checkpointed in (False, True):
            if checkpointed:
                checkpoint_activations(model, reentrant)
            model.zero_grad()
            torch.manual_seed(0)
            model.train()(**inputs, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        assert_same_gradients(*gradients)


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
@pytest.mark.parametrize("model_type", ["gpt2", *list(IMAGE_BACKBONES)[:1]])
def test_trainer_learns_the_same(make_model, tmp_path, model_type, trainer_class):
    states = []
    for on in (False, True):
        model = make_model(model_type)
        states.append(trained_by(trainer_class, model, tmp_path / str(on), **{CHECKPOINTING: on}))
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        assert {layer.gradient_checkpointing for layer in layers} == {on}
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
@pytest.mark.parametrize("model_type", [*CANNOT, "fpt_identity"])
def test_where_it_cannot_be_it_is_refused(make_model, tmp_path, model_type, trainer_class):
    trainable = {"trainable": ["input", "output"], "positions": "none"}
    model = baseline(model_type, **trainable) if model_type in BASELINES else make_model(model_type)
    arguments = {"max_steps": 1, "use_cpu": True, "report_to": "none", CHECKPOINTING: True}
    data = [{"input_values": torch.zeros(10, 3), "labels": 0}]
    with pytest.raises(ValueError, match=rf"cannot checkpoint the layers of \w+ \({model_type}\): leave .* out"):
        trainer_class(model, TrainingArguments(os.fspath(tmp_path), **arguments), train_dataset=data).train()


def test_it_is_switched_off_again(make_model):
    model = make_model("gpt2")
    _, kept = step(model)
    checkpoint_activations(model, False)
    getattr(model, f"{CHECKPOINTING}_disable")()
    assert step(model)[1] == kept
