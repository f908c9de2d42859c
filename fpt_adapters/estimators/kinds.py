"""What X may be: a table, texts, series, images or sound; each with the processor that is fitted on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoConfig, PreTrainedConfig

from ..data.native import native_fields, native_processor
from ..data.tokenizers import native_tokenizer
from ..inputs.audio_feature_extraction_fpt import FPTAudioFeatureExtractor, read_wave
from ..inputs.feature_extraction_fpt import FPTFeatureExtractor
from ..inputs.image_files import open_image
from ..inputs.image_processing_fpt import FPTImageProcessor
from ..inputs.native import native_kind
from ..inputs.table_processing_fpt import FPTTableProcessor
from ..modeling_fpt import FPTForAudioClassification, FPTForImageClassification, FPTForSequenceClassification
from ..models.frozen_base import FrozenBase
from ..models.pretrained import FPTPreTrainedModel

Where = Callable[[int], str]


@dataclass(frozen=True)
class Kind:
    """A kind of rows. `fit`: rows, the base, and what messages call a row -> the processor, fields of `FPTConfig`."""

    fit: Callable[[Sequence[Any], Any, Where], tuple[Any, dict[str, Any]]]
    model_class: type[FPTPreTrainedModel] = FPTForSequenceClassification


def _fit_table(rows: Any, base: Any, where: Where) -> tuple[Any, dict[str, Any]]:
    processor = FPTTableProcessor.fit(rows, where=where)
    return processor, processor.config_fields


def _fit_text(rows: Any, base: Any, where: Where) -> tuple[Any, dict[str, Any]]:
    """Load the base's own tokenizer; as many tokens are read as the longest text has, up to the base's limit."""
    source = base.config.base_model if isinstance(base, FrozenBase) else base
    if isinstance(source, PreTrainedConfig) or source is None:
        raise ValueError("texts are read by a base's own tokenizer: give base as a Hub id or a folder.")
    tokenizer = native_tokenizer(source, rows, where=where)
    return tokenizer, {"input_type": "native", "sequence_length": tokenizer.model_max_length}


def _fit_series(rows: Any, base: Any, where: Where) -> tuple[Any, dict[str, Any]]:
    extractor = FPTFeatureExtractor.fit(list(rows), where=where)
    return extractor, extractor.config_fields


def _fit_images(rows: Any, base: Any, where: Where) -> tuple[Any, dict[str, Any]]:
    images = [open_image(row, where(number)) for number, row in enumerate(rows)]
    processor = FPTImageProcessor.fit(images)
    return processor, processor.config_fields


def _fit_audio(rows: Any, base: Any, where: Where) -> tuple[Any, dict[str, Any]]:
    extractor = FPTAudioFeatureExtractor.fit(list(rows), where=where)
    return extractor, extractor.config_fields


def _fit_natively(rows: Any, base: Any, where: Where) -> tuple[Any, dict[str, Any]]:
    """Load the base's own processor; waves are read as long as the longest is, up to 10 s."""
    config, source, hub_kwargs = _found(base)
    kind = native_kind(config)
    processor = native_processor(kind, config, source, **hub_kwargs)
    waves = [read_wave(row, where(number)) for number, row in enumerate(rows)] if kind.modality == "audio" else []
    seconds = [len(wave) / (rate or processor.sampling_rate) for wave, rate in waves]
    return processor, native_fields(kind, processor, max(seconds, default=0.0))


def _found(base: Any) -> tuple[PreTrainedConfig, str | None, dict[str, Any]]:
    """A base's configuration, where its files are (None: it has random weights), and at which commit."""
    if isinstance(base, PreTrainedConfig):
        return base, None, {}
    if not isinstance(base, FrozenBase):
        return AutoConfig.from_pretrained(base, trust_remote_code=False), base, {}
    own = base.config
    if own.base_model is None:
        raise ValueError("this FrozenBase has no Hub id, where its processor could be found: give base as a folder.")
    return own.base_model_config, own.base_model, {"revision": own.base_model_revision}


KINDS = {
    "table": Kind(_fit_table),
    "text": Kind(_fit_text),
    "series": Kind(_fit_series),
    "images": Kind(_fit_images, FPTForImageClassification),
    "audio": Kind(_fit_audio, FPTForAudioClassification),
}

NATIVE = {  # what a base was made for -> the kind
    "text": KINDS["text"],
    "image": Kind(_fit_natively, FPTForImageClassification),
    "audio": Kind(_fit_natively, FPTForAudioClassification),
}
NAMES = (*KINDS, "native")


def kind_named(name: str, base: Any) -> Kind:
    """The kind of a name in `NAMES`; "native" is what the base was made for."""
    return NATIVE[native_kind(_found(base)[0]).modality] if name == "native" else KINDS[name]


def found_kind(X: Any) -> str:
    """The kind of `X`: a DataFrame or an array of two axes is a table, of three are series, of four images.

    A list is told by its first row: text, an image, a clip of sound (a dict with "array" or "bytes"), else a series.
    """
    if hasattr(X, "iloc") and getattr(X, "ndim", 2) == 2:
        return "table"
    first = X[0] if isinstance(X, (list, tuple)) and len(X) else None
    if hasattr(X, "iloc") or isinstance(X, np.ndarray):
        array = np.asarray(X)
        if array.dtype == object and array.ndim == 1 and len(array):
            first = array[0]
        else:
            return {3: "series", 4: "images"}.get(array.ndim, "text" if array.dtype.kind == "U" else "table")
    if isinstance(first, str):
        return "text"
    if isinstance(first, Image.Image):
        return "images"
    if isinstance(first, Mapping) and ("array" in first or "sampling_rate" in first or "bytes" in first):
        return "audio"
    if isinstance(first, Mapping) or (isinstance(first, (list, tuple)) and not _nested(first)):
        return "table"
    return "series" if first is not None else "table"


def _nested(row: Sequence[Any]) -> bool:
    return len(row) > 0 and isinstance(row[0], (list, tuple, np.ndarray))


def take(X: Any, rows: np.ndarray) -> Any:
    """Some rows of `X`, in the form that it has."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return X[rows] if isinstance(X, np.ndarray) else [X[row] for row in rows]
