"""The model of the costs in benchmarks/scaling.py, beside what a step on tiny backbones keeps, computes and holds."""

import pytest
import torch
from conftest import BENCHMARKS, checkpoint_activations, load_script
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

scaling = load_script(BENCHMARKS / "scaling.py")
check = load_script(BENCHMARKS / "scaling_check.py")
TINY = {
    "bert": scaling.Shape("bert", 4, 64, 256, 4, 4, 100),
    "gpt2": scaling.Shape("gpt2", 4, 64, 256, 4, 4, 100),
    "llama": scaling.Shape("llama", 4, 64, 160, 4, 4, 100),
}
STEPS = pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])


def inputs_of(step):
    return torch.randn(step.batch, step.tokens, step.token_size), torch.zeros(step.batch, dtype=torch.long)


@STEPS
@pytest.mark.parametrize("family", TINY)
def test_kept_bytes_and_flops_are_those_of_a_step(monkeypatch, family, checkpointing):
    shape, step = TINY[family], scaling.Step(4, 32, checkpointing=checkpointing)
    monkeypatch.setitem(check.SHAPES, family, shape)
    for precision, width in (("fp32", 4), ("bf16", 2)):
        model = check.build(family, precision, step).train()
        if checkpointing:
            checkpoint_activations(model)
        kept = check.run_step(model, *inputs_of(step))
        of_layer = 4 * shape.hidden if checkpointing else scaling.kept_bytes(shape, width)
        expected = shape.layers * step.total * of_layer
        beside = 8 * step.total * shape.hidden  # norms and casts outside the layers
        assert expected * 0.98 < kept < expected * 1.02 + beside
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        check.run_step(model, *inputs_of(step))
    assert 0.97 < scaling.step_flops(shape, step) / counter.get_total_flops() < 1.03


@pytest.mark.parametrize("precision", ["fp32", "bf16", "8 bits", "4 bits"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_weights_and_trained_parameters_are_those_of_a_model(monkeypatch, family, precision):
    if "bits" in precision:
        pytest.importorskip("bitsandbytes")
    shape, step = TINY[family], scaling.Step(4, 32)
    monkeypatch.setitem(check.SHAPES, family, shape)
    model = check.build(family, precision, step)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == scaling.trained_parameters(shape, step)
    assert check.frozen_bytes(model) == pytest.approx(scaling.weight_bytes(shape, precision), rel=0.1)


def test_the_shapes_are_those_of_the_models():
    for shape in scaling.BACKBONES.values():
        with torch.device("meta"):
            model = AutoModel.from_config(check.base_config(shape))
        assert sum(parameter.numel() for parameter in model.parameters()) == shape.frozen + shape.norms


def test_the_tables_are_those_of_the_file(capsys):
    scaling.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    document = (BENCHMARKS / "SCALING.md").read_text().splitlines()
    assert [line for line in lines if line not in document] == []
