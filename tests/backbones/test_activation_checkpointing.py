"""Activation checkpointing on frozen layers: the same gradients from fewer kept activations, or a clear refusal."""

from itertools import product

import pytest
import torch
from conftest import (
    CHECKPOINTING,
    IMAGE_BACKBONES,
    TINY_BACKBONES,
    assert_same,
    build_seeded,
    checkpoint_activations,
    run_trainer,
    trained,
)
from torch.autograd.graph import saved_tensors_hooks
from transformers import Trainer
from transformers.modeling_layers import GradientCheckpointingLayer

from fpt_adapters import FPTTrainer, IdentityConfig, LSTMConfig

CANNOT = ("albert", "openai-gpt")  # transformers cannot checkpoint their layers
IMAGES = list(IMAGE_BACKBONES)[:1]
RESIDUAL = LSTMConfig(hidden_size=16, num_hidden_layers=12, residual=True)
POLICIES = ["norm output", "output position", "norm", "input output attention"]
CAN = [name for name in [*TINY_BACKBONES, "fpt_lstm", "residual lstm"] if name not in CANNOT]
CASES = [(name, "input output norm position") for name in CAN]
CASES += product(["gpt2", "bert", "llama", *IMAGES], POLICIES)
TOKENS = {"input_type": "tokens", "input_size": None, "vocab_size": 7}
INPUTS = {
    "values": {"input_values": torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0))},
    "tokens": {"input_ids": torch.arange(40).view(4, 10) % 7},
}


def step(model, input_type="values"):
    """Gradients of one training step by name, and the bytes that its forward pass keeps for the backward pass."""
    kept = []

    def keep(tensor):
        if tensor.grad_fn is not None:  # an activation, not a weight
            kept.append(tensor.nbytes)
        return tensor

    model.train().zero_grad()
    torch.manual_seed(0)  # dropout
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**INPUTS[input_type], labels=torch.tensor([0, 1, 2, 3])).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    return gradients, sum(kept)


@pytest.mark.parametrize("input_type", INPUTS)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("model_type", "trainable"), CASES)
def test_gradients_agree_and_less_is_kept(make_model, model_type, trainable, reentrant, input_type):
    """A reentrant checkpoint gives no gradient to what is inside it, unless what enters it wants one."""
    fields = {"trainable": trainable.split()} | (TOKENS if input_type == "tokens" else {})
    model = build_seeded(RESIDUAL, **fields) if model_type == "residual lstm" else make_model(model_type, **fields)
    expected, kept = step(model, input_type)
    checkpoint_activations(model, reentrant)
    found, kept_then = step(model, input_type)
    assert_same(found, expected, rtol=1e-5, atol=2e-6)
    assert kept_then < kept / 2


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
@pytest.mark.parametrize("model_type", ["gpt2", *IMAGES])
def test_trainer_learns_the_same(make_model, tmp_path, model_type, trainer_class):
    states = []
    for on in (False, True):
        model = make_model(model_type)
        states.append(trained(run_trainer(model, tmp_path, trainer_class, **{CHECKPOINTING: on}).model))
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        assert {layer.gradient_checkpointing for layer in layers} == {on}
    assert_same(*states, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
@pytest.mark.parametrize("model_type", [*CANNOT, "fpt_identity"])
def test_where_it_cannot_be_it_is_refused(make_model, tmp_path, model_type, trainer_class):
    if model_type == "fpt_identity":
        model = build_seeded(IdentityConfig(hidden_size=32), trainable=["input", "output"], positions="none")
    else:
        model = make_model(model_type)
    message = rf"cannot checkpoint the layers of {type(model.fpt.backbone).__name__} \({model_type}\): leave .* out"
    with pytest.raises(ValueError, match=message):
        run_trainer(model, tmp_path, trainer_class, **{CHECKPOINTING: True})
    with pytest.raises(ValueError, match=message):
        checkpoint_activations(model)


def test_it_is_switched_off_again(make_model):
    model = make_model("gpt2")
    _, kept = step(model)
    checkpoint_activations(model)
    getattr(model, f"{CHECKPOINTING}_disable")()
    assert step(model)[1] == kept
