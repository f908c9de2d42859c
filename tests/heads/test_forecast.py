"""Forecasts: what a window's level, size and gaps do to the answer, losses, both Trainers, saving, what is refused."""

import numpy as np
import pytest
import torch
from conftest import build_seeded, tiny_config
from torch.nn import functional as F
from transformers import AutoModelForTimeSeriesPrediction, Trainer, TrainingArguments

from fpt_adapters import FPTForSequenceClassification, FPTForTimeSeriesPrediction, FPTTrainer

CHANNELS, CONTEXT, HORIZON = 3, 40, 12
FIELDS = {
    "input_type": "windows",
    "context_length": CONTEXT,
    "prediction_length": HORIZON,
    "num_input_channels": CHANNELS,
    "patch_length": 8,
    "patch_stride": 4,
    "mix_channels": None,
    "num_labels": None,
}
SETTINGS = {
    "as GPT4TS": {},
    "pooled": {"prediction_head": "pooled"},
    "mixed": {"mix_channels": True},
    "last": {"scaling": "last"},
    "in units": {"channel_mean": [5.0, -1.0, 0.0], "channel_scale": [2.0, 0.5, 3.0]},
    "quantiles": {"quantiles": [0.1, 0.5, 0.9]},
    "all at once": {
        "prediction_head": "pooled",
        "mix_channels": True,
        "scaling": "last",
        "quantiles": [0.2, 0.8],
        "channel_mean": [5.0, -1.0, 0.0],
        "channel_scale": [2.0, 0.5, 3.0],
    },
}
settings = pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)


def forecaster(**fields):
    return build_seeded(tiny_config("gpt2"), FPTForTimeSeriesPrediction, **FIELDS | fields).eval()


def windows(batch=4):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(batch, CONTEXT + HORIZON, CHANNELS, generator=generator).cumsum(dim=1)
    return values[:, :CONTEXT], values[:, CONTEXT:]


@torch.no_grad()
def forecasts(model, **inputs):
    return model(**inputs).prediction_outputs


@settings
def test_a_window_that_is_higher_and_larger_has_a_forecast_that_is_so_too(fields):
    model, (past, _) = forecaster(**fields), windows()
    first = forecasts(model, past_values=past)
    quantiles = (len(fields["quantiles"]),) if "quantiles" in fields else ()
    assert first.shape == (4, HORIZON, CHANNELS, *quantiles)
    size, level = torch.tensor([10.0, 3.0, 5.0]), torch.tensor([7.0, -2.0, 100.0])  # of each channel
    moved = forecasts(model, past_values=past * size + level)
    expected = (first.movedim(2, -1) * size + level).movedim(-1, 2)
    torch.testing.assert_close(moved, expected, rtol=2e-3, atol=2e-2)


def test_windows_are_what_a_forecast_reads_where_nobody_says():
    fields = {name: value for name, value in FIELDS.items() if name != "input_type" and value is not None}
    base = tiny_config("gpt2")
    assert (
        FPTForTimeSeriesPrediction.from_backbone(base, backbone_init="random", **fields).config.input_type == "windows"
    )


def test_numbers_of_numpy_are_numbers(tmp_path):
    scale = {"channel_mean": [*np.zeros(3)], "channel_scale": [*np.ones(3)]}
    forecaster(**scale, quantiles=[*np.array([0.25, 0.75])]).save_pretrained(tmp_path)
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path).config
    assert (loaded.channel_scale, loaded.quantiles) == ([1.0] * 3, [0.25, 0.75])


def test_without_scaling_the_level_is_what_the_model_sees():
    model, (past, _) = forecaster(scaling="none"), windows()
    moved, first = forecasts(model, past_values=past + 100), forecasts(model, past_values=past)
    assert (moved - first - 100).abs().max() > 1


@settings
def test_what_was_not_observed_changes_nothing(fields):
    model, (past, _) = forecaster(**fields), windows()
    observed = torch.rand(past.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    observed[0, :, 1] = False  # a channel of which nothing is known
    gaps = forecasts(model, past_values=past.masked_fill(~observed, torch.nan))
    assert gaps.isfinite().all()
    assert torch.equal(forecasts(model, past_values=past, past_observed_mask=observed.long()), gaps)
    filled = past.masked_fill(~observed, 1e6)
    assert torch.equal(forecasts(model, past_values=filled, past_observed_mask=observed), gaps)
    assert not torch.equal(forecasts(model, past_values=past), gaps)


def test_tokens_are_patches_of_the_normalised_window_with_its_end_repeated():
    model, (past, _) = forecaster(), windows()
    assert model.config.num_tokens == (CONTEXT - 8) // 4 + 2
    with torch.no_grad():
        mean, deviation = past.mean(dim=1, keepdim=True), (past.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt()
        series = ((past - mean) / deviation).transpose(1, 2).flatten(0, 1)  # (batch * channels, steps)
        patches = F.pad(series[None], (0, 4), mode="replicate")[0].unfold(1, 8, 4)
        expected = model.fpt.input_projection.projection(patches)
        encoded = model.fpt.input_projection.eval()(past)
    torch.testing.assert_close(encoded.states, expected)
    torch.testing.assert_close(encoded.mean, mean[:, 0])
    torch.testing.assert_close(encoded.scale, deviation[:, 0])


def pinball(forecast, future, level):
    return np.where(future >= forecast, level * (future - forecast), (1 - level) * (forecast - future))


LOSSES = {
    "mse": lambda forecast, future: (forecast - future) ** 2,
    "mae": lambda forecast, future: abs(forecast - future),
    "huber": lambda forecast, future: np.where(
        abs(forecast - future) < 1, (forecast - future) ** 2 / 2, abs(forecast - future) - 0.5
    ),
    "quantiles": lambda forecast, future: np.mean(
        [pinball(forecast[..., number], future, level) for number, level in enumerate([0.1, 0.5, 0.9])], axis=0
    ),
}
UNITS = np.array([2.0, 0.5, 3.0])


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_mean_over_what_is_known_in_units_of_the_training_rows(name):
    chosen = {"quantiles": [0.1, 0.5, 0.9]} if name == "quantiles" else {"loss": name}
    model = forecaster(**chosen, channel_mean=[0.0] * 3, channel_scale=UNITS.tolist())
    past, future = windows()
    known = torch.rand(future.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    with torch.no_grad():
        output = model(past_values=past, future_values=future, future_observed_mask=known)
        labels = future.masked_fill(~known, torch.nan)
        assert torch.equal(model(past_values=past, labels=labels).loss, output.loss)
        half = model(past_values=past, labels=labels, num_items_in_batch=2 * known.sum()).loss
    units = UNITS[:, None] if name == "quantiles" else UNITS
    each = LOSSES[name](output.prediction_outputs.numpy() / units, future.numpy() / UNITS)
    assert output.loss.item() == pytest.approx(each[known.numpy()].mean(), rel=1e-4)
    assert half.item() == pytest.approx(output.loss.item() / 2, rel=1e-4)


def test_a_gap_in_the_labels_gives_no_gradient():
    model, (past, future) = forecaster(), windows()
    future[:, 3] = torch.nan
    model(past_values=past, labels=future).loss.backward()
    gradient = model.head.out_proj.weight.grad  # (horizon, size)
    assert gradient.isfinite().all() and not gradient[3].any() and gradient[2].any()


@pytest.mark.parametrize("trainer_class", [Trainer, FPTTrainer])
@settings
def test_both_trainers_train_evaluate_and_predict_without_being_told_what_the_labels_are(
    trainer_class, fields, tmp_path
):
    model, (past, future) = forecaster(**fields), windows(8)
    future[0, 2, 1] = torch.nan
    rows = [{"past_values": one.numpy(), "labels": other.numpy()} for one, other in zip(past, future, strict=True)]
    arguments = TrainingArguments(
        tmp_path, max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    trainer = trainer_class(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    predicted = trainer.predict(rows)
    assert predicted.predictions.shape[:3] == predicted.label_ids.shape == (8, HORIZON, CHANNELS)
    model.eval()
    np.testing.assert_allclose(predicted.predictions, forecasts(model, past_values=past), rtol=1e-4, atol=1e-4)


@settings
def test_saved_and_loaded_by_its_auto_class_it_answers_the_same(fields, tmp_path):
    model, (past, _) = forecaster(**fields), windows()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path)
    assert type(loaded) is FPTForTimeSeriesPrediction
    assert torch.equal(forecasts(loaded, past_values=past), forecasts(model, past_values=past))
    head_inputs = loaded.head_inputs(past_values=past)
    assert torch.equal(forecasts(loaded, head_inputs=head_inputs), forecasts(model, past_values=past))


def test_the_pooled_head_does_not_grow_with_the_window():
    def sizes(**fields):
        return [
            sum(one.numel() for one in forecaster(context_length=length, **fields).head.parameters())
            for length in (40, 80)
        ]

    pooled, flat = sizes(prediction_head="pooled"), sizes()
    assert pooled[0] == pooled[1] < flat[0] < flat[1]


def test_channels_that_are_read_one_at_a_time_do_not_see_each_other():
    past, _ = windows()
    other = past.clone()
    other[..., 2] = past[..., 2].flip(1)
    alone, mixed = forecaster(), forecaster(mix_channels=True)
    changed = [(forecasts(one, past_values=past) != forecasts(one, past_values=other)) for one in (alone, mixed)]
    assert not changed[0][..., :2].any() and changed[0][..., 2].any() and changed[1][..., :2].any()


def test_a_class_of_a_window_is_that_of_all_its_channels():
    model = build_seeded(
        tiny_config("gpt2"), FPTForSequenceClassification, **FIELDS | {"prediction_length": None, "num_labels": 4}
    ).eval()
    past, _ = windows()
    with torch.no_grad():
        assert model(past_values=past).logits.shape == (4, 4)
        torch.testing.assert_close(model(past_values=past[..., [2, 0, 1]]).logits, model(past_values=past).logits)


REFUSED = {
    "no horizon": ({"prediction_length": None}, "needs input_type='windows' and prediction_length"),
    "another input": (
        dict.fromkeys(FIELDS)
        | {"input_type": "values", "input_size": 3, "sequence_length": 9, "prediction_length": 4},
        "needs input_type='windows' and prediction_length; got 'values'",
    ),
    "no context": ({"context_length": None}, "context_length is missing"),
    "stride": ({"patch_stride": 9}, "patch_stride is at most patch_length"),
    "patch": ({"patch_length": 50}, "patch_length is at most context_length and patch_stride together"),
    "scaling": ({"scaling": "minmax"}, "scaling is one of std, last, none; got 'minmax'"),
    "mix": ({"mix_channels": "yes"}, "mix_channels is true or false, got 'yes'"),
    "half a scale": ({"channel_mean": [0.0] * 3}, "channel_mean and channel_scale come together"),
    "two scales": ({"channel_mean": [0.0] * 3, "channel_scale": [1.0] * 2}, "channel_scale is a list of 3 finite"),
    "no scale": ({"channel_mean": [0.0] * 3, "channel_scale": [1.0, 0.0, 1.0]}, "channel_scale lies above 0"),
    "head": ({"prediction_head": "linear"}, "prediction_head is one of flatten, pooled; got 'linear'"),
    "loss": ({"loss": "rmse"}, "loss is one of mse, mae, huber; got 'rmse'"),
    "order": ({"quantiles": [0.5, 0.1]}, "quantiles rise between 0 and 1"),
    "one": ({"quantiles": [0.5, 1.0]}, "quantiles rise between 0 and 1"),
    "both": ({"quantiles": [0.5], "loss": "mae"}, "leave loss out"),
}


@pytest.mark.parametrize(("fields", "said"), REFUSED.values(), ids=REFUSED)
def test_fields_that_do_not_fit_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        forecaster(**fields)


PAST, FUTURE = windows(2)
WRONG = {
    "a longer window": ({"past_values": torch.zeros(2, 41, 3)}, r"context_length=40, num_input_channels=3\), got"),
    "the mask": ({"past_values": PAST, "past_observed_mask": PAST[..., 0]}, "past_observed_mask has shape"),
    "values": ({"past_values": PAST, "future_values": FUTURE[:, :5]}, r"shape \(2, 12, 3\), as the forecasts; got"),
}


@pytest.mark.parametrize(("inputs", "said"), WRONG.values(), ids=WRONG)
def test_inputs_of_another_shape_are_refused(inputs, said):
    with pytest.raises(ValueError, match=said):
        forecaster()(**inputs)
