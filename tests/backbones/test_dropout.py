"""Dropout on the CPU: the right share of zeros, the right scale, the same zeros in the backward pass."""

import pytest
import torch
from conftest import TINY_BACKBONES
from torch import nn

from fpt_adapters.backbones.cpu.dropout import Dropout, drop, replace_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_and_scales(p, dtype):
    torch.manual_seed(0)
    inputs = torch.ones(1_000_003, dtype=dtype)  # no multiple of what one draw serves
    outputs = drop(inputs, p)
    assert outputs.dtype == dtype
    values = outputs.unique()
    assert values[0] == 0 and len(values) == 2
    torch.testing.assert_close(
        values[1].float(), torch.tensor(1 / (1 - p)), rtol=1e-2 if dtype.itemsize == 2 else 2e-4, atol=0
    )
    spread = (p * (1 - p) / inputs.numel()) ** 0.5
    assert (outputs == 0).double().mean().item() == pytest.approx(p, abs=5 * spread + 2**-17)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5])
def test_elements_fall_independently(lag):
    torch.manual_seed(1)
    dropped = (drop(torch.ones(400_000), 0.5) == 0).double()
    together = (dropped[lag:] * dropped[:-lag]).mean().item()
    assert together == pytest.approx(0.25, abs=0.005)


def test_the_gradient_has_the_same_zeros_and_scale():
    inputs = torch.randn(7, 11, 5, requires_grad=True)
    outputs = drop(inputs, 0.3)
    outputs.sum().backward()
    torch.testing.assert_close(inputs.grad * inputs, outputs)
    assert (inputs.grad == 0).any() and (inputs.grad > 1).any()


def test_transposed_inputs_keep_their_shape():
    inputs = torch.randn(6, 4).t()
    outputs = drop(inputs, 0.5)
    assert outputs.shape == inputs.shape
    kept = outputs != 0
    torch.testing.assert_close(outputs[kept], 2 * inputs[kept])


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

    parts = nn.Sequential(
        nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)).eval(), Own(0.4), nn.Dropout(0.5, inplace=True), nn.Dropout1d()
    )
    replace_dropout(parts)
    assert [type(part) for part in (parts[0], parts[1][0])] == [Dropout, Dropout]
    assert (parts[0].p, parts[1][0].p) == (0.2, 0.3)
    assert parts[0].training and not parts[1][0].training
    assert [type(parts[i]) for i in (2, 3, 4)] == [Own, nn.Dropout, nn.Dropout1d]


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_no_backbone_keeps_torchs(make_model, model_type):
    assert not [module for module in make_model(model_type).modules() if type(module) is nn.Dropout]


def test_compiled_code_uses_torchs(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    inputs = torch.ones(10)
    torch.manual_seed(0)
    outputs = drop(inputs, 0.5)
    torch.manual_seed(0)
    assert torch.equal(outputs, nn.functional.dropout(inputs, 0.5))


@pytest.mark.filterwarnings("ignore")  # torch: tracing is deprecated
def test_a_traced_module_serves_other_batch_sizes():
    inputs = torch.ones(4, 10)
    traced = torch.jit.trace(Dropout(0.5), inputs, check_trace=False)
    assert traced(torch.ones(7, 3)).shape == (7, 3)
