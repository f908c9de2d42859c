"""`FPTFeatureExtractor`: raw sequences of numbers -> the `input_values` that a model was trained on.

This file imports nothing from this library, so that it can be copied into a Hub repository and loaded from there.
"""

from collections.abc import Callable, Sequence
from numbers import Integral, Number
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

# Keys that the base class and transformers add to preprocessor_config.json.
HUB_KEYS = {"auto_map", "feature_extractor_type", "processor_class"}
NO_FIELDS = "preprocessor_config.json of {} holds no fields by name, or is nested too deeply: fetch or save it again."
FIXED = {"padding_side": "right", "return_attention_mask": True}  # what the models need


class FPTFeatureExtractor(SequenceFeatureExtractor):
    """Sequences -> `input_values`: checked, normalised and padded on the right, with their `attention_mask`.

    For a model's `input_type="values"`: `feature_size` is its `input_size`, `max_length` its `sequence_length`. For
    `"series"`: `feature_size` is its `num_channels`, `max_length` its `series_length`, and `patch_length` and
    `patch_stride` describe how the model cuts patches; they change nothing here. `mean` and `std`, one number or one
    for each of a step's numbers: normalise with them (None: not at all). `padding_value` fills, after that.
    `sampling_rate`: steps per second, where that is known. `missing_indicator`: NaN may come, is filled with `mean`
    (or 0), and each number is followed by another, 1 where it was missing: the model then has twice the channels.

    Raises ValueError for values out of range, TypeError for a name that is no field.
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        feature_size: int,
        max_length: int,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        patch_length: int | None = None,
        patch_stride: int | None = None,
        padding_value: float = 0.0,
        sampling_rate: int | None = None,
        missing_indicator: bool = False,
        **kwargs,
    ):
        for name, value in kwargs.items():
            if name in FIXED and value != FIXED[name]:
                raise ValueError(f"{name} is {FIXED[name]!r} for these models, got {value!r:.200}: leave it out.")
            private = name.startswith("_") and not name.startswith("__")
            if name not in FIXED and name not in HUB_KEYS and not private:
                raise TypeError(
                    f"FPTFeatureExtractor has no field {name!r:.200}; its fields are feature_size, max_length, mean, "
                    "std, patch_length, patch_stride, padding_value, sampling_rate, missing_indicator."
                )
        kwargs.pop("feature_extractor_type", None)
        if sampling_rate is not None:
            sampling_rate = _positive_int("sampling_rate", sampling_rate)
        padding_value = _per_feature("padding_value", padding_value, 1)[0]
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.feature_size = _positive_int("feature_size", feature_size)
        self.max_length = _positive_int("max_length", max_length)
        if not isinstance(missing_indicator, bool):
            raise ValueError(f"missing_indicator is true or false, got {missing_indicator!r:.200}.")
        self.missing_indicator = missing_indicator
        if (mean is None) != (std is None) or (patch_length is None) != (patch_stride is None):
            raise ValueError(
                f"mean and std come together, and so do patch_length and patch_stride; got mean={mean!s:.200}, "
                f"std={std!s:.200}, patch_length={patch_length!s:.200}, patch_stride={patch_stride!s:.200}."
            )
        self.patch_length = None if patch_length is None else _positive_int("patch_length", patch_length)
        self.patch_stride = None if patch_stride is None else _positive_int("patch_stride", patch_stride)
        if patch_length is not None and patch_stride > patch_length:
            raise ValueError(
                f"patch_stride is at most patch_length, or steps would be lost; got {patch_stride} and {patch_length}."
            )
        self.mean = None if mean is None else _per_feature("mean", mean, feature_size)
        self.std = None if std is None else _per_feature("std", std, feature_size)
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std lies above 0, got {min(self.std)}: drop a channel that never changes.")

    @classmethod
    def fit(
        cls,
        sequences: Sequence[Any],
        patch_length: int | None = None,
        patch_stride: int | None = None,
        where: Callable[[int], str] = "sequence {}".format,
        **fields,
    ) -> "FPTFeatureExtractor":
        """Make the extractor with sizes, mean and std of these sequences, each (steps,) or (steps, features).

        Patches are by default a sixteenth of the longest sequence, 64 steps at most, and half of one apart. NaN is
        missing. `where` names a sequence in messages. `fields`: those of the constructor that are to be others. Raises
        ValueError for sequences that do not fit each other, and where a feature is never there.
        """
        arrays = [_steps(sequence, where(number)) for number, sequence in enumerate(sequences)]
        sizes = {array.shape[1] for array in arrays}
        if len(sizes) != 1:
            raise ValueError(f"sequences have as many numbers at each step, but these have {sorted(sizes)}.")
        steps = np.concatenate(arrays)  # (all steps, features)
        missing = np.isnan(steps)
        if missing.all(axis=0).any():
            raise ValueError(f"feature {int(missing.all(axis=0).argmax())} is missing at every step: leave it out.")
        mean, std = np.nanmean(steps, axis=0), np.nanstd(steps, axis=0)
        longest = max(map(len, arrays))
        patch_length = patch_length or min(64, -(-longest // 16))
        found = {
            "feature_size": sizes.pop(),
            "max_length": longest,
            "mean": mean.tolist(),
            "std": np.where(std > 0, std, 1.0).tolist(),
            "patch_length": patch_length,
            "patch_stride": patch_stride or -(-patch_length // 2),
            "missing_indicator": bool(missing.any()),
        }
        return cls(**found | fields)

    @property
    def config_fields(self) -> dict[str, Any]:
        """The fields of `FPTConfig` for a model of these inputs: series where there are patches, else values."""
        channels = self.feature_size * (2 if self.missing_indicator else 1)
        if self.patch_length is None:
            return {"input_type": "values", "sequence_length": self.max_length, "input_size": channels}
        patches = {"patch_length": self.patch_length, "patch_stride": self.patch_stride}
        return {"input_type": "series", "series_length": self.max_length, "num_channels": channels, **patches}

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path: Any, **kwargs) -> tuple[dict, dict]:
        """Read the file as every extractor does. Raises ValueError for one without named fields, or too deep."""
        try:
            fields, unused = super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, RecursionError, TypeError) as error:  # raised by transformers for what it read
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path)) from error
        if not isinstance(fields, dict):
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path))
        return fields, unused

    def __call__(
        self,
        values: Any,
        truncation: bool = False,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """One or several sequences -> `input_values` and `attention_mask`, padded to the longest.

        A sequence is (steps, feature_size), or (steps,) if feature_size is 1: an array, a tensor, a DataFrame or
        nested lists; several are a list, a column of a table, or an array with one more axis. `truncation`: cut
        sequences to their first `max_length` steps. `sampling_rate`: that of the values; it must be this extractor's.

        Returns `input_values`, float32 (batch, longest, feature_size), and `attention_mask`, int64 (batch, longest),
        1 for real steps. `return_tensors`: "pt", or "np" or None for numpy. Raises ValueError for an empty or too long
        sequence, for another shape or sampling rate, and for NaN or infinity.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            advice = f"resample them to {self.sampling_rate}" if self.sampling_rate else "give this extractor its own"
            raise ValueError(
                f"sampling_rate is {self.sampling_rate} here, in the data that the model was trained on, but these "
                f"values have {sampling_rate}: {advice}."
            )
        sequences = self._sequences(_as_lists(values))
        rows = [self._read(sequence, f"sequence {number}", truncation) for number, sequence in enumerate(sequences)]
        lengths = np.array([len(row) for row in rows])
        padded = np.full((len(rows), lengths.max(), rows[0].shape[1]), self.padding_value, dtype=np.float32)
        for row, values in zip(padded, rows, strict=True):
            row[: len(values)] = values
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        return BatchFeature({"input_values": padded, "attention_mask": mask}, tensor_type=return_tensors)

    def _sequences(self, values: Any) -> list:
        """The sequences in a call's argument; its number of axes tells several from one."""
        axes = _axes(values)
        if axes == 3 or (axes == 2 and self.feature_size == 1 and any(len(row) != 1 for row in values)):
            return list(values)
        return [values]

    def _read(self, values: Any, name: str, truncation: bool) -> np.ndarray:
        """One sequence, which messages call `name`: float32 (steps, numbers), normalised."""
        steps = _numbers(values, name, f"has {self.feature_size} numbers at each step")
        if steps.ndim == 1 and self.feature_size == 1:
            steps = steps[:, None]  # (steps, 1)
        if steps.ndim != 2 or steps.shape[1] != self.feature_size or len(steps) == 0:
            advice = ""
            if steps.ndim == 2 and steps.shape[0] == self.feature_size:
                advice = f": its {self.feature_size} come before its steps, transpose it (values.T)"
            raise ValueError(
                f"a sequence has shape (steps, feature_size={self.feature_size}) and at least one step, got "
                f"{steps.shape} in {name}{advice}."
            )
        if len(steps) > self.max_length and not truncation:
            raise ValueError(
                f"{name} has {len(steps)} steps, but the model takes at most {self.max_length}: shorten it, or "
                "write truncation=True to keep its beginning."
            )
        steps = steps[: self.max_length]
        missing = np.isnan(steps)
        if self.mean is not None:
            steps = (steps - self.mean) / self.std
        if self.missing_indicator:
            steps = np.where(missing, 0.0, steps)
        with np.errstate(over="ignore"):
            steps = steps.astype(np.float32)
        wrong = np.argwhere(~np.isfinite(steps))
        if len(wrong):
            step, feature = wrong[0]
            raise ValueError(
                f"a sequence holds finite numbers, but in {name} number {feature} of step {step} is "
                f"{steps[step, feature]}: fill or drop it."
            )
        if self.missing_indicator:
            steps = np.stack([steps, missing.astype(np.float32)], axis=2).reshape(
                len(steps), -1
            )  # (steps, 2 * features)
        return steps


def _numbers(values: Any, name: str, has: str) -> np.ndarray:
    """One sequence as float64 numbers; None is NaN. Raises ValueError: it is no sequence that `has` what it needs."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"a sequence {has}, but {name} has other things or steps of several lengths: of a table, give the column "
            "of sequences, or only the columns of numbers."
        ) from None


def _steps(values: Any, name: str) -> np.ndarray:
    """One sequence to be fitted on: float64 (steps, features). Raises ValueError."""
    steps = _numbers(_as_lists(values), name, "has as many numbers at each step")
    steps = steps[:, None] if steps.ndim == 1 else steps
    if steps.ndim != 2 or not len(steps) or np.isinf(steps).any():
        raise ValueError(f"a sequence is (steps,) or (steps, features), finite, with a step at least; see {name}.")
    return steps


def _as_lists(values: Any) -> Any:
    """Turn tensors, tables, and arrays that hold arrays into arrays of numbers or lists of these."""
    if values is None or isinstance(values, (Number, str)):
        return values
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().double().numpy()
    if not isinstance(values, Sequence):
        values = np.asarray(values)  # also the types of pandas and pyarrow
        if values.dtype != object or values.ndim == 0:
            return values
    return [_as_lists(value) for value in values]


def _axes(values: Any) -> int:
    if isinstance(values, list):
        return 1 + (_axes(values[0]) if values else 0)
    return np.ndim(values)


def _positive_int(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is a whole number of at least 1, got {value!r:.200}.")
    return int(value)


def _per_feature(name: str, values: float | Sequence[float], feature_size: int) -> list[float]:
    """Turn `values`, one number or one for each number of a step (also NumPy's or torch's), into a list of floats."""
    several = isinstance(values, (list, tuple))
    try:
        numbers = np.asarray([_plain(value) for value in values] if several else _plain(values))
    except ValueError:  # lists of several lengths
        numbers = np.empty(0)
    if numbers.dtype.kind not in "iuf" or numbers.shape not in ((), (feature_size,)) or not np.isfinite(numbers).all():
        raise ValueError(
            f"{name} is one number, or one for each of the {feature_size} of a step; got {values!r:.200}."
        )
    return np.broadcast_to(numbers, feature_size).astype(float).tolist()


def _plain(value: Any) -> Any:
    """The values of a tensor as Python numbers; anything else unchanged."""
    return value.tolist() if isinstance(value, torch.Tensor) else value
