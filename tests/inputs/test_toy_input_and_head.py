"""A new input and a new head, a file each in tests/toys, serve everywhere once they have a row in the two tables."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from client import Client
from conftest import (
    assert_same,
    losses,
    moved,
    outputs,
    reloaded,
    run_trainer,
    tiny_config,
    trained,
    trained_names,
    weights,
)
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import load, load_file
from toys.forecast import FPTForForecast
from toys.waves import WavesInput
from transformers import Trainer

from fpt_adapters import FPTConfig, FPTForSequenceClassification, FPTTrainer
from fpt_adapters.heads.table import HEADS
from fpt_adapters.inputs.table import INPUTS

TESTS = Path(__file__).parents[1]
WAVES = {"input_type": "waves", "num_waves": 5, "wave_length": 4, "horizon": 3, "num_labels": 1}
FIELDS = {"input_size": None, "sequence_length": None} | WAVES
NO_DROPOUT = {"input_dropout": 0, "backbone_dropout": 0}


@pytest.fixture
def registered(monkeypatch):
    """Rows for the time of a test."""
    monkeypatch.setitem(INPUTS, "waves", WavesInput())
    monkeypatch.setitem(HEADS, "forecast", FPTForForecast.head_type)


def signals(seed=0):
    """Twelve sines, each of another height and level, and how they go on; the second half is short."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(23.0)
    found = []
    for number in range(12):
        phase, height, level = torch.rand(3, generator=generator) * torch.tensor([6.0, 9.0, 50.0])
        signal, mask = torch.sin(steps / 3 + phase) * (height + 1) + level, torch.ones(20, dtype=torch.long)
        values = signal[:20].clone()
        if number >= 6:
            mask[12:], values[12:] = 0, float("nan")  # what lies under a mask matters to no model
        found.append({"input_values": values[:, None], "attention_mask": mask, "labels": signal[20:]})
    return found


def batch_of(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"}


@pytest.mark.parametrize("trainer_class", [Trainer, FPTTrainer])
def test_they_train_save_and_load(trainer_class, registered, make_model, tmp_path):
    model = make_model("gpt2", FPTForForecast, **FIELDS, **NO_DROPOUT)
    before = weights(model)
    settings = {"max_steps": 30, "learning_rate": 3e-2}
    seen = losses(run_trainer(model, tmp_path / "run", trainer_class, signals(), **settings))
    assert seen[-1] < seen[0] / 2
    assert moved(model, before) == trained_names(model)
    loaded = reloaded(model, tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    for part in ("output.out_proj", "input.projection"):
        assert {f"{part}.weight", f"{part}.bias"} <= names
    assert not names & (set(before) - trained_names(model))
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved.items() >= {"input_type": "waves", "problem_type": "regression"}.items()
    assert (saved["num_waves"], saved["wave_length"], saved["horizon"]) == (5, 4, 3) and "wave_unit" not in saved
    expected = outputs(model, **batch_of(signals(1)))
    assert torch.equal(outputs(loaded, **batch_of(signals(1))), expected) and expected.shape == (12, 3)


def test_what_the_input_learned_reaches_the_head(registered, make_model):
    """The answer to a signal that is higher and larger is higher and larger, by as much."""
    model = make_model("bert", FPTForForecast, **FIELDS).eval()
    batch = batch_of(signals()[6:])
    with torch.no_grad():
        encoded = model.fpt.encode(**batch)
        assert encoded.lengths.tolist() == [3] * 6 and encoded.mean.shape == encoded.scale.shape == (6, 1)
        first = model(**batch).logits
        moved = model(**batch | {"input_values": batch["input_values"] * 10 + 7}).logits
        torch.testing.assert_close(moved, first * 10 + 7, rtol=1e-3, atol=1e-3)
        labels = torch.stack([row["labels"] for row in signals()[6:]])
        torch.testing.assert_close(model(**batch, labels=labels).loss, (first - labels).abs().mean())
        head_inputs = model.head_inputs(**batch)
        assert torch.equal(model(head_inputs=head_inputs).logits, first)
        other = model.head_type.inputs(replace(encoded, mean=encoded.mean + 1), model.config)
        torch.testing.assert_close(model(head_inputs=other).logits, first + 1)
    with pytest.raises(ValueError, match=r"head_inputs has shape \(batch, 34\), got \(6, 32\)"):
        model(head_inputs=head_inputs[:, :-2])


def test_features_are_cached_as_of_any_head(registered, make_model, tmp_path):
    states = []
    for cached in (True, False):
        model = make_model("gpt2", FPTForForecast, **FIELDS, **NO_DROPOUT, trainable=["output"])
        run_trainer(model, tmp_path, data=signals(), trainer={"cache_features": cached}, max_steps=6)
        states.append(trained(model))
    assert_same(*states, rtol=1.3e-6, atol=1e-5)


def test_wrong_labels_of_a_new_head_are_named(registered, make_model, tmp_path):
    rows = signals()
    rows[3]["labels"] = rows[3]["labels"][:2]
    model = make_model("gpt2", FPTForForecast, **FIELDS)
    with pytest.raises(ValueError, match=r"labels of regression have shape \(3, 1\) in .*got \(2,\).*row 3 of"):
        run_trainer(model, tmp_path, data=rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wave_length": None}, "input_type='waves' needs num_waves, wave_length; wave_length is missing"),
        ({"wave_length": 0}, "wave_length is a whole number of at least 1"),
        ({"num_waves": 2**25}, "num_waves is a whole number .* at most 16777216"),
        ({"wave_unit": "km"}, "wave_unit is 'mV' or 'dB', got 'km'"),
        ({"horizon": 0}, "horizon is a whole number of at least 1"),
        ({"input_size": 3}, "input_size does not belong to input_type='waves'"),
        ({"input_type": "values"}, "input_type='values' needs sequence_length"),
        ({"wave_lenght": 3}, "no field 'wave_lenght'. Did you mean 'wave_length'?"),
    ],
)
def test_fields_of_a_new_input_and_head_are_checked(changes, words, registered):
    FPTConfig(**WAVES)
    with pytest.raises((ValueError, TypeError), match=words):
        FPTConfig(**WAVES | changes)


def test_without_its_row_an_input_is_named_beside_the_known_ones(registered, tmp_path, monkeypatch):
    FPTConfig(**WAVES, base_model_config=tiny_config("gpt2")).save_pretrained(tmp_path)
    values = FPTConfig(input_type="values", sequence_length=3, input_size=2)
    values.save_pretrained(tmp_path / "values")  # whose file has nothing of a new input
    monkeypatch.undo()
    known = "input_type is one of values, tokens, images, series, audio, table, windows, native; got 'waves'"
    with pytest.raises(StrictDataclassFieldValidationError, match=known):
        FPTConfig.from_pretrained(tmp_path)
    assert FPTConfig.from_pretrained(tmp_path / "values").input_size == 2


def test_a_new_input_meets_the_heads_that_are_here(registered, make_model):
    model = make_model("gpt2", FPTForSequenceClassification, **FIELDS | {"num_labels": 4})
    assert outputs(model, **batch_of(signals())).shape == (12, 4)


PUSHING = """
import torch, toys
from transformers import AutoModelForTimeSeriesPrediction, AutoFeatureExtractor, TrainingArguments
from toys.forecast import FPTForForecast
from toys.waves import WavesInput
from fpt_adapters import FPTConfig, FPTTrainer
from fpt_adapters.heads.table import HEADS
from fpt_adapters.inputs.table import INPUTS

INPUTS["waves"] = WavesInput()
HEADS["forecast"] = FPTForForecast.head_type
AutoModelForTimeSeriesPrediction.register(FPTConfig, FPTForForecast, exist_ok=True)
VALUES = torch.linspace(-1, 3, 20)[:, None].numpy()

@torch.no_grad()
def answers(model, extractor):
    return model(**extractor(VALUES, return_tensors="pt")).logits.flatten().tolist()
"""


def test_they_are_pushed_with_a_card_and_pulled(hub, home):
    environment = hub.environment(home / "toys", "hf_owner", OMP_NUM_THREADS=1, PYTHONPATH=f"{TESTS.parent}:{TESTS}")
    with Client(environment, setup=PUSHING, cwd=home) as client:
        code = """
        torch.manual_seed(0)
        model = FPTForForecast.from_backbone("owner/base", **fields)
        rows = [{"input_values": torch.randn(20, 1), "labels": torch.randn(3)} for _ in range(8)]
        settings = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "max_steps": 2}
        arguments = TrainingArguments("toy", hub_model_id="owner/toy", logging_steps=1, **settings)
        extractor = model.config.input.processor(model.config)
        metrics = {"compute_metrics": lambda p: {"mse": ((p.predictions - p.label_ids) ** 2).mean()}}
        trainer = FPTTrainer(model, arguments, train_dataset=rows, processing_class=extractor, **metrics)
        trainer.train()
        trainer.evaluate(rows[:5])
        trainer.push_to_hub()
        result = answers(model.eval(), extractor)
        """
        expected = client.run(code, fields=WAVES)
        code = """
        model = AutoModelForTimeSeriesPrediction.from_pretrained("owner/toy")
        result = answers(model, AutoFeatureExtractor.from_pretrained("owner/toy"))
        """
        assert client.run(code) == expected and len(expected) == 3
        files = hub.files("owner/toy")
        assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= set(files)
        assert "output.out_proj.weight" in load(files["model.safetensors"])
        card = files["README.md"].decode()
        assert "- Input: up to 5 waves of 4 steps." in card and "- Answers: the next 3 steps." in card
        assert "pipeline_tag: time-series-forecasting" in card and "| mse floor |" in card
        blocks = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
        assert len(blocks) == 2 and "# (1, 3)" in blocks[0] and "extractor(values" in blocks[1]
        for block in blocks:  # whose first line imports this library, as it would where the toys lived in it
            client.run("\n" + block)
