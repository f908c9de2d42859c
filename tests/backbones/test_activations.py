"""GELU's tanh form: torch's own function runs, and gives what transformers' steps give."""

import pytest
import torch
from conftest import TINY_BACKBONES
from torch import nn
from transformers.activations import ACT2FN

from fpt_adapters.backbones.cpu.activations import IN_STEPS, replace_gelu


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_accurate"])
def test_values_and_gradients_are_those_of_the_steps(name):
    steps = ACT2FN[name]
    assert isinstance(steps, IN_STEPS)
    whole = nn.Sequential(nn.Sequential(steps))
    replace_gelu(whole)
    assert type(whole[0][0]) is nn.GELU
    found = []
    for function in (steps, whole):
        inputs = torch.linspace(-6, 6, 1001, dtype=torch.float64).requires_grad_()
        outputs = function(inputs)
        outputs.sum().backward()
        found.append((outputs, inputs.grad))
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["gelu", "gelu_10", "quick_gelu", "silu", "relu", "gelu_pytorch_tanh"])
def test_others_stay(name):
    other = ACT2FN[name]
    whole = nn.Sequential(other)
    replace_gelu(whole)
    assert whole[0] is other


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_no_backbone_has_the_steps(make_model, model_type):
    assert not [module for module in make_model(model_type).modules() if isinstance(module, IN_STEPS)]


def test_gpt2_has_it(make_model):
    assert [type(block.mlp.act) for block in make_model("gpt2").fpt.backbone.h] == [nn.GELU] * 2
