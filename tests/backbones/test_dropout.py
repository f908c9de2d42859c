"""Dropout on the CPU: the right share of zeros, the right scale, the same zeros in the backward pass."""

import pytest
import torch
from conftest import TINY_BACKBONES
from torch import nn
from torch.testing import assert_close

from fpt_adapters.backbones.cpu.dropout import Dropout, drop, replace_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_and_scales(p, dtype):
    torch.manual_seed(0)
    inputs = torch.ones(1_000_003, dtype=dtype)  # no multiple of what one draw serves
    outputs = drop(inputs, p)
    assert outputs.dtype == dtype
    zero, scale = outputs.unique()
    assert zero == 0
    assert_close(scale.float(), torch.tensor(1 / (1 - p)), rtol=1e-2 if dtype.itemsize == 2 else 2e-4, atol=0)
    spread = (p * (1 - p) / inputs.numel()) ** 0.5
    assert (outputs == 0).double().mean().item() == pytest.approx(p, abs=5 * spread + 2**-17)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5])
def test_elements_fall_independently(lag):
    torch.manual_seed(1)
    dropped = (drop(torch.ones(400_000), 0.5) == 0).double()
    assert (dropped[lag:] * dropped[:-lag]).mean().item() == pytest.approx(0.25, abs=0.005)


def test_the_gradient_has_the_same_zeros_and_scale():
    inputs = torch.randn(7, 11, 5, requires_grad=True)
    outputs = drop(inputs, 0.3)
    outputs.sum().backward()
    assert_close(inputs.grad * inputs, outputs)
    assert (inputs.grad == 0).any() and (inputs.grad > 1).any()


def test_transposed_inputs_keep_their_shape():
    inputs = torch.randn(6, 4).t()
    outputs = drop(inputs, 0.5)
    assert_close(outputs, torch.where(outputs != 0, 2 * inputs, 0.0))


def test_draws_from_torchs_generator():
    inputs = torch.ones(1000)
    torch.manual_seed(3)
    first, second = drop(inputs, 0.5), drop(inputs, 0.5)
    torch.manual_seed(3)
    assert torch.equal(drop(inputs, 0.5), first) and not torch.equal(first, second)


def test_its_ends():
    inputs = torch.randn(100)
    assert drop(inputs, 0.0) is inputs
    assert not drop(inputs, 1.0).any()
    assert drop(torch.empty(0, 3), 0.5).shape == (0, 3)
    assert drop(torch.empty(2, 3, device="meta"), 0.5).device.type == "meta"


def test_the_module_follows_train_and_eval():
    module, inputs = Dropout(0.5), torch.ones(1000)
    assert (module(inputs) == 0).any()
    assert module.eval()(inputs) is inputs


def test_replaces_torchs_modules_and_nothing_else():
    class Own(nn.Dropout):
        pass

    others = Own(0.4), nn.Dropout(0.5, inplace=True), nn.Dropout1d()
    parts = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)).eval(), *others)
    replace_dropout(parts)
    replaced = (parts[0], parts[1][0])
    assert [(type(part), part.p, part.training) for part in replaced] == [(Dropout, 0.2, True), (Dropout, 0.3, False)]
    assert tuple(parts[2:]) == others


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_no_backbone_keeps_torchs(make_model, model_type):
    assert not [module for module in make_model(model_type).modules() if type(module) is nn.Dropout]


def test_compiled_code_uses_torchs(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = []
    for dropout in (drop, nn.functional.dropout):
        torch.manual_seed(0)
        found.append(dropout(torch.ones(10), 0.5))
    assert torch.equal(*found)


@pytest.mark.filterwarnings("ignore")  # torch: tracing is deprecated
def test_a_traced_module_serves_other_batch_sizes():
    traced = torch.jit.trace(Dropout(0.5), torch.ones(4, 10), check_trace=False)
    assert traced(torch.ones(7, 3)).shape == (7, 3)
