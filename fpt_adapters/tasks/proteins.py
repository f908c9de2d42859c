"""Remote homology: the fold of a protein from its amino acids (TAPE, Rao et al. 2019; arXiv 2103.05247, section 2)."""

import logging
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from ..data.columns import find_column
from ..data.labels import LabelNames, label_fields
from ..data.sources import Source
from ..data.splits import SPLITS, Part, check_at_least
from ..data.streams import ExampleStream, Place
from ..inputs.vocabulary import fixed_tokenizer
from ..modeling_fpt import FPTForSequenceClassification
from .files import FileArguments, split_labels
from .metrics import majority_floor
from .streaming import open_stream
from .task import Task, TaskData

logger = logging.getLogger(__name__)

SEQUENCE_COLUMNS = ("sequence", "seq", "primary")
PAD_ID = 0
VOCAB_SIZE = 27  # pad, then A..Z as 1..26


class ProteinSplit(Dataset):
    """One split: example i is `{"input_ids": int64 (length,), "labels": int}`, with the ids 1..26 for A..Z."""

    def __init__(self, ids: Sequence[np.ndarray], labels: np.ndarray):
        self.ids = ids
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"the split has examples 0..{len(self) - 1}, got {index}.")
        return {"input_ids": torch.from_numpy(self.ids[index].astype(np.int64)), "labels": int(self.labels[index])}


@dataclass
class RemoteHomology(FileArguments, Task):
    """Classify proteins by fold: one token per amino acid, in a fixed vocabulary of the letters A to Z.

    The default data set has TAPE's training and validation rows; its test split combines TAPE's three test sets (the
    fold, superfamily and family holdouts: 718 + 1,254 + 1,272 rows), so accuracy on it is higher than on the fold
    holdout, TAPE's usual figure. The paper's code scores the validation split.
    """

    name = "remote-homology"
    example_text = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"  # ubiquitin
    data_source = "proteins with the fold of their structure"
    limits = (
        "No use in biology: its accuracy is far below what protein language models and alignment methods reach.",
        "It knows only the folds of its training data, and gives one of them to any sequence of letters.",
    )
    model_class = FPTForSequenceClassification

    dataset_name: str | None = field(
        default="proteinglm/fold_prediction",
        metadata={"help": "Data set on the Hub; read only where no train_file is given."},
    )
    sequence_column: str | None = field(
        default=None, metadata={"help": "Column with the amino acids (default: sequence, seq or primary)."}
    )
    max_length: int = field(default=1024, metadata={"help": "Amino acids that are read; the rest is cut off."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("max_length", self.max_length, 1)

    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Read the sequences as ids; see `FileArguments.read_parts` for the splits.

        Lower-case letters are read as upper-case. Warns of the number of sequences that were cut to `max_length`.
        Raises ValueError for files, columns and labels that do not fit, for an empty sequence, and for a character
        other than A to Z.
        """
        parts, names = self.read_parts(seed, max_samples, num_labels=None)
        column = find_column(
            parts["train"].source, self.sequence_column, SEQUENCE_COLUMNS, _is_text, "sequence_column"
        )
        splits = {split: ProteinSplit(self._ids(parts[split], column, split), parts[split].labels) for split in SPLITS}
        return TaskData(**splits, config=self._model_fields(names))

    def stream(
        self,
        seed: int = 0,
        max_samples: dict[str, int] | None = None,
        *,
        buffer_size: int | None = 10_000,
        label_names: Sequence[str] | None = None,
    ) -> TaskData:
        """Stream the training sequences, and read the others; see `Task.stream` and `open_stream`."""
        streamed = open_stream(self, seed, max_samples, None, label_names)
        source, names, labels = streamed.train, streamed.names, streamed.label_column
        column = find_column(source, self.sequence_column, SEQUENCE_COLUMNS, _is_text, "sequence_column")
        _check_text(source, column)
        to_example = SequenceReader(source.name, column, labels, names, self.max_length)
        rows = source.data.select_columns([column, labels])
        train = ExampleStream(rows, to_example, buffer_size=buffer_size, seed=seed, held_out=streamed.held_out)
        splits = {
            split: ProteinSplit(self._ids(part, column, split), part.labels) for split, part in streamed.parts.items()
        }
        return TaskData(train=train, **splits, config=self._model_fields(names.names))

    def _model_fields(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            "input_type": "tokens",
            "sequence_length": self.max_length,
            "vocab_size": VOCAB_SIZE,
            "pad_token_id": PAD_ID,
            **label_fields(names),
        }

    def floor(self, split: Dataset) -> float:
        """The share of the largest class in `split`."""
        return majority_floor(split_labels(split))

    def processor(self) -> PreTrainedTokenizerFast:
        """Make a tokenizer for sequences such as `MKVLA`, with the ids of `ProteinSplit`; a to z are read as A to Z.

        Any other character, even a space, is an error.
        """
        letters = string.ascii_uppercase
        return fixed_tokenizer(
            ("<pad>", *letters),
            self.max_length,
            normalizers.Sequence([normalizers.Replace(letter.lower(), letter) for letter in letters]),
            pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"),
            decoders.Fuse(),
        )

    def collate(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids` and `attention_mask`, int64 (batch, longest), and `labels` (batch,)."""
        ids = [example["input_ids"] for example in features]
        lengths = torch.tensor([len(row) for row in ids])
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD_ID),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "labels": torch.tensor([example["labels"] for example in features]),
        }

    def _ids(self, part: Part, column: str, split: str) -> list[np.ndarray]:
        """Encode the sequences of a part, cut to `max_length`: a list of uint8 (length,)."""
        source = part.source
        find_column(source, column, (), _is_text, "sequence_column")
        _check_text(source, column)
        sequences = source.data.select_columns([column]).with_format("arrow")[:].column(0).take(part.rows).to_pylist()
        ids = [
            _encode(sequence, source.where(row), column) for sequence, row in zip(sequences, part.rows, strict=True)
        ]
        cut = sum(len(row) > self.max_length for row in ids)
        if cut:
            logger.warning(
                "%d of %d %s sequences are longer than max_length=%d (longest %d) and were cut to it.",
                *(cut, len(ids), split, self.max_length, max(map(len, ids))),
            )
        return [row[: self.max_length] for row in ids]


@dataclass(frozen=True)
class SequenceReader:
    """Makes examples from streamed rows, like those of `ProteinSplit`."""

    source: str
    column: str
    label_column: str
    names: LabelNames
    max_length: int

    def __call__(self, row: dict[str, Any], place: Place) -> dict[str, Any]:
        """Make an example. Raises ValueError, naming the row, for a wrong sequence or label."""
        where = place.describe(self.source)
        ids = _encode(row[self.column], where, self.column)[: self.max_length].astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "labels": self.names.number(row[self.label_column], where)}


def _check_text(source: Source, column: str) -> None:
    if not _is_text(source.data.features[column]):
        raise ValueError(
            f"sequences are strings, but column {column!r} of {source.name} has {source.data.features[column]}: "
            "name the column with --sequence_column."
        )


def _encode(sequence: str | None, where: str, column: str) -> np.ndarray:
    """Encode a sequence: uint8 (length,), A or a -> 1, ..., Z or z -> 26."""
    if not sequence:
        raise ValueError(f"every row needs a sequence, but {where} has none in column {column!r}: drop the row.")
    codes = np.frombuffer(sequence.encode("ascii", errors="replace"), dtype=np.uint8) & 0xDF  # a..z -> A..Z
    ids = codes - np.uint8(ord("A") - 1)
    wrong = np.flatnonzero((ids < 1) | (ids > 26))
    if len(wrong):
        raise ValueError(
            f"sequences have only the letters A to Z, but column {column!r}, {where}, has "
            f"{sequence[wrong[0]]!r} at position {wrong[0]}: write X for an unknown amino acid."
        )
    return ids


def _is_text(feature: datasets.features.features.FeatureType) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
