"""What `own_data.py` compares, all in scikit-learn's manner: frozen models by this library, and what is plainer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from transformers import AutoModel, AutoTokenizer, ViTConfig

from fpt_adapters import FPTClassifier, FPTRegressor, IdentityConfig
from fpt_adapters.inputs.audio_feature_extraction_fpt import FPTAudioFeatureExtractor

RATES = ({"learning_rate": 1e-3}, {"learning_rate": 3e-3})
LOW_RATES = ({"learning_rate": 5e-5}, {"learning_rate": 2e-4})
HIGH_RATES = ({"learning_rate": 3e-3}, {"learning_rate": 1e-2})
ONE_RATE = ({"learning_rate": 2e-3},)  # where a handful of rows would choose
STRENGTHS = tuple({"C": c} for c in (0.01, 0.1, 1, 10, 100))
EVERYTHING = ["input", "output", "norm", "position", "attention", "feedforward"]


@dataclass(frozen=True)
class Contestant:
    """`make`: (the base, whether y are numbers, the seed, settings) -> an estimator.

    `settings`: what the validation rows choose among. `plain`: whether it is no model of this library.
    """

    make: Callable[..., Any]
    settings: tuple[dict[str, Any], ...] = ({},)
    plain: bool = False
    seeded: bool = True  # whether another seed can give another answer


def fpt(
    base: Any,
    numbers: bool,
    seed: int,
    *,
    learning_rate: float,
    steps: int,
    batch_size: int = 16,
    input_type: str | None = None,
    bf16: bool = False,
    **model_kwargs: Any,
) -> Any:
    """A model of this library, trained for `steps` steps with a learning rate that falls to 0.

    Frozen weights are in bfloat16; where all train, `bf16` computes in it.
    """
    schedule = {"max_steps": steps, "lr_scheduler_type": "linear", "warmup_steps": steps // 20}
    return (FPTRegressor if numbers else FPTClassifier)(
        base,
        input_type=input_type,
        learning_rate=learning_rate,
        batch_size=batch_size,
        patience=None,
        model_kwargs=model_kwargs if bf16 else {"dtype": "bfloat16"} | model_kwargs,
        training_arguments=schedule | {"bf16": bf16},
        random_state=seed,
    )


def random_weights(base: Any, numbers: bool, seed: int, **settings: Any) -> Any:
    """The same on a backbone whose weights were drawn, by the seed."""
    return fpt(base, numbers, seed, backbone_init="random", backbone_init_seed=seed, **settings)


def without_backbone(base: Any, *args: Any, **settings: Any) -> Any:
    """The same input and head with nothing between them, of the backbone's width."""
    width = AutoModel.from_pretrained(base).config.hidden_size
    return fpt(IdentityConfig(hidden_size=width), *args, trainable=["input", "output", "position"], **settings)


def small_vit(base: Any, *args: Any, **settings: Any) -> Any:
    """A ViT of 6 layers with random weights that reads images of 32 x 32 pixels as it was made to."""
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768, image_size=32, patch_size=4
    )
    return fpt(config, *args, input_type="native", **settings)


class MeanPooled(TransformerMixin, BaseEstimator):
    """Texts -> the base's last hidden states, averaged over their tokens: (rows, width). Each text is read once."""

    known: dict[str, np.ndarray] = {}

    def __init__(self, base: str):
        self.base = base

    def fit(self, X: list[str], y: Any = None) -> "MeanPooled":
        """Nothing is fitted."""
        return self

    def transform(self, X: list[str]) -> np.ndarray:
        """Texts -> (rows, width)."""
        new = sorted({text for text in X if text not in self.known}, key=len)
        tokenizer, model = AutoTokenizer.from_pretrained(self.base), AutoModel.from_pretrained(self.base).eval()
        for start in range(0, len(new), 64):
            batch = tokenizer(new[start : start + 64], padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state  # (batch, tokens, width)
            mask = batch["attention_mask"][..., None]
            means = (hidden * mask).sum(1) / mask.sum(1)
            self.known.update(zip(new[start : start + 64], means.numpy(), strict=True))
        return np.stack([self.known[text] for text in X])


class LogMel(TransformerMixin, BaseEstimator):
    """Clips -> the log-mel spectrogram, averaged over so many stretches of the clip: (rows, stretches * bands)."""

    def __init__(self, stretches: int = 8):
        self.stretches = stretches

    def fit(self, X: list[Any], y: Any = None) -> "LogMel":
        """Find rate, length and scales."""
        self.extractor_ = FPTAudioFeatureExtractor.fit(X)
        return self

    def transform(self, X: list[Any]) -> np.ndarray:
        """Clips -> (rows, stretches * bands)."""
        return np.stack([self._of(np.asarray(self.extractor_(clip)["input_values"][0])) for clip in X])

    def _of(self, frames: np.ndarray) -> np.ndarray:
        edges = np.linspace(0, len(frames), self.stretches + 1)
        parts = [frames[int(a) : max(int(np.ceil(b)), int(a) + 1)] for a, b in pairwise(edges)]
        return np.concatenate([part.mean(axis=0) for part in parts])


class ChannelsFirst(BaseEstimator):
    """An estimator of aeon's for series (steps, channels); `same_length`: the last step of ragged ones is repeated."""

    def __init__(self, estimator: Any, same_length: bool = False):
        self.estimator = estimator
        self.same_length = same_length

    def fit(self, X: list[np.ndarray], y: np.ndarray) -> "ChannelsFirst":
        """Fit the estimator."""
        self.longest_ = max(map(len, X))
        self.estimator.fit(self._turned(X), y)
        return self

    def predict(self, X: list[np.ndarray]) -> np.ndarray:
        """Its answers (rows,)."""
        return self.estimator.predict(self._turned(X))

    def _turned(self, X: list[np.ndarray]) -> Any:
        if self.same_length:
            X = [one[np.minimum(np.arange(self.longest_), len(one) - 1)] for one in X]
        turned = [np.ascontiguousarray(one.T, dtype=float) for one in X]  # (channels, steps)
        return np.stack(turned) if len({one.shape for one in turned}) == 1 else turned


def text_logistic(base: Any, numbers: bool, seed: int, C: float) -> Any:
    """Logistic regression on frozen features of texts."""
    return make_pipeline(MeanPooled(base), StandardScaler(), LogisticRegression(C=C, max_iter=2000))


def sound_logistic(base: Any, numbers: bool, seed: int, C: float, stretches: int) -> Any:
    """Logistic regression on a spectrogram."""
    return make_pipeline(LogMel(stretches), StandardScaler(), LogisticRegression(C=C, max_iter=2000))


def linear(base: Any, numbers: bool, seed: int, C: float = 1) -> Any:
    """Logistic regression, or ridge regression with scikit-learn's choice of its strength, on a table."""
    texts, rest = make_column_selector(dtype_exclude="number"), make_column_selector(dtype_include="number")
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), texts), (StandardScaler(), rest))
    last = RidgeCV(np.logspace(-3, 3, 13)) if numbers else LogisticRegression(C=C, max_iter=5000)
    return make_pipeline(columns, last)


def boosting(base: Any, numbers: bool, seed: int, **settings: Any) -> Any:
    """Gradient boosting on a table."""
    texts = make_column_selector(dtype_exclude="number")
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    kind = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
    columns = make_column_transformer((encoder, texts), remainder="passthrough")
    return make_pipeline(columns, kind(random_state=seed, **settings))


def nearest(base: Any, numbers: bool, seed: int) -> Any:
    """1-NN by dynamic time warping, of aeon."""
    from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier
    from aeon.regression.distance_based import KNeighborsTimeSeriesRegressor

    return ChannelsFirst(KNeighborsTimeSeriesRegressor() if numbers else KNeighborsTimeSeriesClassifier())


def minirocket(base: Any, numbers: bool, seed: int) -> Any:
    """MiniRocket, of aeon."""
    from aeon.classification.convolution_based import MiniRocketClassifier
    from aeon.regression.convolution_based import MiniRocketRegressor

    return ChannelsFirst((MiniRocketRegressor if numbers else MiniRocketClassifier)(random_state=seed), True)


def trained(make: Callable[..., Any], rates: tuple = RATES, **settings: Any) -> Contestant:
    """A contestant of this library."""
    return Contestant(partial(make, **settings), rates)


def plain(make: Callable[..., Any], settings: tuple = ({},), seeded: bool = False) -> Contestant:
    """A contestant that is none of this library."""
    return Contestant(make, settings, plain=True, seeded=seeded)


def controls(rates: tuple = ONE_RATE, **settings: Any) -> dict[str, Contestant]:
    """The frozen pretrained model, and what tells whether its weights matter."""
    return {
        "frozen, pretrained": trained(fpt, rates, **settings),
        "frozen, random weights": trained(random_weights, rates, **settings),
        "no backbone": trained(without_backbone, rates, **settings),
    }


def text_contestants(steps: int, longer: bool = False) -> dict[str, Contestant]:
    """The frozen model on its own modality, and other ways to train it; `longer`: as long as all weights take."""
    lora = {"peft_type": "LORA", "r": 8}
    native = {"steps": steps, "batch_size": 16}
    twice = native | {"steps": 2 * steps, "trainable": ["output", "norm"]}
    more = {"frozen: norms and head, twice the steps": trained(fpt, HIGH_RATES, **twice)} if longer else {}
    return {
        "frozen: norms and head": trained(fpt, HIGH_RATES, trainable=["output", "norm"], **native),
        "LoRA, rank 8, and head": trained(fpt, trainable=["output"], peft_config=lora, **native),
        "full fine-tuning": trained(fpt, LOW_RATES, trainable=EVERYTHING, bf16=True, **native),
        "logistic regression on frozen features": plain(text_logistic, STRENGTHS),
        **more,
    }


SERIES = {"1-NN DTW": plain(nearest), "MiniRocket": plain(minirocket, seeded=True)}
TREES = ({"learning_rate": 0.03}, {"learning_rate": 0.1}, {"learning_rate": 0.1, "max_depth": 3})
TABLE = {"gradient boosting": plain(boosting, TREES, seeded=True)}
LOGISTIC = {"logistic regression": plain(linear, STRENGTHS)} | TABLE
RIDGE = {"ridge regression": plain(linear)} | TABLE
SOUND_SETTINGS = tuple({"C": c, "stretches": s} for c in (0.01, 0.1, 1) for s in (4, 8, 16))

CONTESTANTS = {
    "banking77": text_contestants(1000, longer=True),
    "banking77@8": text_contestants(200),
    "banking77@64": text_contestants(400),
    "sst2": text_contestants(400, longer=True),
    "sst2@8": text_contestants(40),
    "sst2@64": text_contestants(100),
    "spoken_digits": controls(steps=600) | {"log-mel + logistic regression": plain(sound_logistic, SOUND_SETTINGS)},
    "GunPoint": controls(steps=500) | SERIES,
    "ItalyPowerDemand": controls(steps=300) | SERIES,
    "JapaneseVowels": controls(steps=400) | SERIES,
    "ACSF1": controls(steps=200) | SERIES,
    "Covid3Month": controls(steps=200) | SERIES,
    "breast_cancer": controls(steps=200) | LOGISTIC,
    "wine": controls(steps=150) | LOGISTIC,
    "diabetes": controls(steps=200) | RIDGE,
    "diamonds": controls(steps=800, batch_size=32) | RIDGE,
    "cifar10": {
        "frozen MiniLM, patches": trained(fpt, ONE_RATE, steps=600),
        "frozen random ViT, native": trained(small_vit, ONE_RATE, steps=600),
    },
}
