"""ListOps: the value, 0-9, of a nested expression such as `[MAX 4 [SM 8 5 ] 1 ]`.

Task: Nangia and Bowman, "ListOps", arXiv 1804.06028. The long expressions of the Long Range Arena (Tay et al., arXiv
2011.04006) are drawn here from the same distribution, whole blocks of trees at a time, level by level.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import normalizers, pre_tokenizers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from ..data.splits import check_at_least, split_sizes
from ..inputs.vocabulary import fixed_tokenizer
from ..modeling_fpt import FPTForSequenceClassification
from .draws import random_stream
from .expressions import CLOSE, PAD, TOKENS, evaluate, grow, write
from .task import Task, TaskData

PAPER_LENGTH = 512  # tokens of an expression that the paper keeps
BLOCKS_WITHOUT_NEWS = 200  # after this many in a row, a range of lengths counts as exhausted
PROGRESS_FROM = 5000  # a draw of this many examples shows a progress bar


class ListOpsSplit(Dataset):
    """One split: example i is `{"input_ids": int64 (length,), "labels": int}`.

    `tokens`: uint8, all examples in one array; `offsets`: int64 (examples + 1,); `labels`: uint8 (examples,).
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, labels: np.ndarray):
        self.tokens = tokens
        self.offsets = offsets
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"the split has examples 0..{len(self) - 1}, got {index}.")
        ids = self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "labels": int(self.labels[index])}

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example: (examples,)."""
        return np.diff(self.offsets)

    @property
    def root_operators(self) -> np.ndarray:
        """The id of the operator that each example begins with: (examples,)."""
        return self.tokens[self.offsets[:-1]]

    def first(self, count: int) -> "ListOpsSplit":
        """Keep the first `count` examples."""
        return ListOpsSplit(
            self.tokens[: self.offsets[count]].copy(), self.offsets[: count + 1].copy(), self.labels[:count].copy()
        )


@dataclass
class ListOps(Task):
    """Evaluate nested MIN, MAX, MED (median, cut to an integer) and SM (sum modulo 10) of digits.

    `variant="paper"` is the input of arXiv 2103.05247: without `]`, and cut at 512 tokens. Most expressions are longer
    and lose their end, and without `]` nesting is ambiguous, so the value can only be guessed. `"full"` keeps all.
    """

    name = "listops"
    example_text = "[MAX 4 [SM 8 5 ] 1 ]"
    data_source = "expressions drawn by the task from the distribution of the Long Range Arena"
    limits = (
        "It answers expressions of the lengths and depths it was trained on; the paper's variant, cut at 512 tokens "
        "and without closing brackets, can only be guessed at.",
    )
    model_class = FPTForSequenceClassification

    variant: Literal["paper", "full"] = field(
        default="paper", metadata={"help": "paper: without ']' and cut at 512 tokens; full: the whole expression."}
    )
    min_length: int = field(default=500, metadata={"help": "Expressions have more tokens than this, ']' included."})
    max_length: int = field(default=2000, metadata={"help": "Expressions have fewer tokens than this, ']' included."})
    max_depth: int = field(default=10, metadata={"help": "Levels of a tree; on the last one there are only digits."})
    max_args: int = field(default=10, metadata={"help": "An operator has 2 to this many arguments."})
    train_examples: int = field(default=96_000, metadata={"help": "Training examples."})
    eval_examples: int = field(default=2000, metadata={"help": "Examples of the validation split, and of the test."})

    def __post_init__(self) -> None:
        if self.variant not in ("paper", "full"):
            raise ValueError(f"variant is 'paper' or 'full', got {self.variant!r}.")
        for name, least in (("min_length", 1), ("max_depth", 2), ("max_args", 2)):
            check_at_least(name, getattr(self, name), least)
        check_at_least("train_examples", self.train_examples, 1)
        check_at_least("eval_examples", self.eval_examples, 1)
        if self.max_length < max(self.min_length + 2, 5):
            raise ValueError(
                f"max_length must leave room for a length between min_length and itself, and '[MIN 1 2 ]' has 4 "
                f"tokens: got {self.min_length} and {self.max_length}, write max_length={max(self.min_length + 2, 5)}"
                " or more."
            )

    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Draw the splits: training with `seed`, validation and test always the same.

        No two examples have the same tokens, in one split or in different ones. `max_samples` keeps the first
        examples, which are independent draws. Raises ValueError for a seed outside 0..2**64-1, for a `max_samples`
        that names no split or is below 1, and if too few different expressions are between `min_length` and
        `max_length` tokens long.
        """
        full = {"train": self.train_examples, "validation": self.eval_examples, "test": self.eval_examples}
        sizes = split_sizes(full, max_samples)
        shown: set[bytes] = set()
        splits = {}
        for name in ("validation", "test"):
            splits[name] = self._draw_split(seed, name, full[name], shown).first(sizes[name])
        splits["train"] = self._draw_split(seed, "train", sizes["train"], shown)
        config = {
            "input_type": "tokens",
            "vocab_size": len(TOKENS),
            "pad_token_id": PAD,
            "sequence_length": self.sequence_length,
            "id2label": {digit: str(digit) for digit in range(10)},
            "label2id": {str(digit): digit for digit in range(10)},
        }
        return TaskData(**splits, config=config)

    def processor(self) -> PreTrainedTokenizerFast:
        """Make a tokenizer for expressions such as `[MAX 4 [SM 8 5 ] 1 ]`; the paper's variant drops `]`.

        The Long Range Arena's files write `( ( [MAX 4 ) 1 ) ]`: such parentheses are dropped. Spaces separate tokens;
        none is needed around `]`. Any other word is an error.
        """
        spelling = {"(": " ", ")": " ", "]": " " if self.variant == "paper" else " ] ", TOKENS[PAD]: "< pad >"}
        return fixed_tokenizer(
            TOKENS,
            self.sequence_length,
            normalizers.Sequence([normalizers.Replace(old, new) for old, new in spelling.items()]),
            pre_tokenizers.WhitespaceSplit(),
        )

    @property
    def sequence_length(self) -> int:
        """The most tokens that an example may have."""
        return min(PAPER_LENGTH, self.max_length) if self.variant == "paper" else self.max_length

    def floor(self, split: ListOpsSplit) -> float:
        """The accuracy on `split` of answering the most frequent value of each root operator."""
        operators, inverse = np.unique(split.root_operators, return_inverse=True)
        counts = np.bincount(inverse * 10 + split.labels, minlength=10 * len(operators)).reshape(-1, 10)
        return float(counts.max(axis=1).sum() / len(split))

    def collate(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids` and `attention_mask`, int64 (batch, longest), and `labels`, (batch,)."""
        input_ids = torch.nn.utils.rnn.pad_sequence(
            [example["input_ids"] for example in features], batch_first=True, padding_value=PAD
        )
        labels = torch.tensor([example["labels"] for example in features], dtype=torch.int64)
        return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "labels": labels}

    def _draw_split(self, seed: int, split: str, size: int, shown: set[bytes]) -> ListOpsSplit:
        """Draw `size` examples whose digests are not in `shown`, and add their digests to it."""
        kept, labels = [], []
        last_news = 0
        with logging.tqdm(total=size, desc=f"listops: {split}", disable=size < PROGRESS_FROM) as progress:
            for block, (tokens, offsets, values) in enumerate(self._blocks(seed, split)):
                before = len(kept)
                for start, end, value in zip(offsets[:-1], offsets[1:], values, strict=True):
                    digest = hashlib.blake2b(tokens[start:end], digest_size=16).digest()
                    if digest not in shown and len(kept) < size:
                        shown.add(digest)
                        kept.append(tokens[start:end])
                        labels.append(value)
                progress.update(len(kept) - before)
                if len(kept) == size:
                    break
                last_news = block if len(kept) > before else last_news
                if block - last_news >= BLOCKS_WITHOUT_NEWS:
                    raise ValueError(
                        f"ListOps found {len(kept)} of the {size} new examples for {split} among expressions of "
                        f"more than {self.min_length} and fewer than {self.max_length} tokens: widen the lengths, "
                        "max_depth or max_args, or ask for fewer examples."
                    )
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in kept])])
        return ListOpsSplit(np.concatenate(kept), offsets, np.array(labels, dtype=np.uint8))

    def _blocks(self, seed: int, split: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (tokens, offsets, values) of one block of expressions after another, without end."""
        for block in itertools.count():
            levels = grow(
                random_stream(seed, split, block), self.max_depth, self.max_args, self.min_length, self.max_length
            )
            values, sizes = evaluate(levels)
            yield (*self._shown(*write(levels, sizes)), values)

    def _shown(self, tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut whole expressions to what the variant keeps: (tokens, offsets)."""
        if self.variant == "full":
            return tokens, offsets
        stays = tokens != CLOSE
        place = np.concatenate([[0], np.cumsum(stays)])
        in_expression = place[:-1] - np.repeat(place[offsets[:-1]], np.diff(offsets))
        stays &= in_expression < PAPER_LENGTH
        lengths = np.minimum(np.diff(place[offsets]), PAPER_LENGTH)
        return tokens[stays], np.concatenate([[0], np.cumsum(lengths)])
