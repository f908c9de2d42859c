"""Bit memory and bit XOR: the paper's two tasks on strings of random bits (arXiv 2103.05247, section 2).

A string consists of -1 and +1. A token holds `bits_per_token` neighbouring bits of one string, and only the tokens of
the last string have labels: one (0 or 1) for each of their bits.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EvalPrediction

from ..data.splits import check_at_least, split_sizes
from ..heads.problems import IGNORED_LABEL
from ..inputs.feature_extraction_fpt import FPTFeatureExtractor
from ..modeling_fpt import FPTForTokenClassification
from .draws import random_stream, random_words
from .metrics import accuracy, joined
from .task import Task, TaskData

EXAMPLES_PER_DRAW = 256  # in a pass over a whole split


class BitSplit(Dataset):
    """One split of a bit task: example i is drawn on request and always the same (see `random_words`).

    Each example is `{"input_values": float32 (tokens, bits), "labels": int64 (tokens, bits)}`; the labels are
    (tokens,) if a token is one bit. A whole batch of indices is drawn at once.
    """

    def __init__(self, task: "BitTask", split: str, seed: int, size: int):
        self.task = task
        self.split = split
        self.seed = seed
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Draw the examples `indices`. Raises IndexError outside 0..len-1."""
        inputs, labels = (torch.from_numpy(array) for array in self.draw(indices))
        return [{"input_values": values, "labels": bits} for values, bits in zip(inputs, labels, strict=True)]

    def draw(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Draw the examples `indices` as two arrays, inputs and labels, with the examples as first axis.

        Raises IndexError outside 0..len-1.
        """
        for index in indices:
            if not 0 <= index < self.size:
                raise IndexError(f"{self.task.name} {self.split} has examples 0..{self.size - 1}, got {index}.")
        return self.task.draw(random_words(self.seed, self.split, indices, self.task.words_per_example))

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the split once, several examples at a time (see `draw`)."""
        for start in range(0, self.size, EXAMPLES_PER_DRAW):
            yield self.draw(range(start, min(start + EXAMPLES_PER_DRAW, self.size)))


@dataclass
class BitTask(Task):
    """The base class of the bit tasks. A subclass has `num_strings`, `string_length`, `bits_per_token` and `draw`."""

    model_class = FPTForTokenClassification
    draws_fresh_examples = True

    train_examples: int = field(
        default=2**20, metadata={"help": "Training examples of one epoch: each is drawn when it is needed."}
    )
    eval_examples: int = field(default=1000, metadata={"help": "Examples of the validation split, and of the test."})

    def __post_init__(self) -> None:
        for name in ("string_length", "bits_per_token", "train_examples", "eval_examples"):
            check_at_least(name, getattr(self, name), 1)
        if self.string_length % self.bits_per_token:
            fitting = -(-self.string_length // self.bits_per_token) * self.bits_per_token
            raise ValueError(
                f"string_length must be a multiple of bits_per_token, got {self.string_length} and "
                f"{self.bits_per_token}: write for example string_length={fitting}."
            )

    @property
    @abstractmethod
    def strings_shown(self) -> int:
        """The number of strings in an example's input."""

    @property
    @abstractmethod
    def words_per_example(self) -> int:
        """The number of random 64-bit words that an example is drawn from."""

    @abstractmethod
    def draw(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make examples from random words, (examples, words_per_example) uint64: inputs and labels as of `tokens`."""

    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Set up the splits; nothing is drawn yet. `seed` draws only the training split, the others are fixed.

        Examples are independent, so `max_samples` keeps the first ones. The splits' random streams are disjoint, but
        a task with few different examples (XOR of 2 x 5 bits has 1,024) has the same ones in all splits. Raises
        ValueError for a seed outside 0..2**64-1 and for a `max_samples` that names no split or is below 1.
        """
        sizes = {"train": self.train_examples, "validation": self.eval_examples, "test": self.eval_examples}
        random_stream(seed, "train")  # raises for a bad seed now, not later in a worker
        splits = {name: BitSplit(self, name, seed, size) for name, size in split_sizes(sizes, max_samples).items()}
        config = {
            "input_type": "values",
            "input_size": self.bits_per_token,
            "sequence_length": self.sequence_length,
            "labels_per_token": self.bits_per_token,
            "id2label": {0: "0", 1: "1"},
            "label2id": {"0": 0, "1": 1},
        }
        return TaskData(**splits, config=config)

    def processor(self) -> FPTFeatureExtractor:
        """Make an extractor for (tokens, bits_per_token) that does not change the numbers (-1, 0, +1)."""
        return FPTFeatureExtractor(feature_size=self.bits_per_token, max_length=self.sequence_length)

    @property
    def sequence_length(self) -> int:
        """The number of tokens of an example."""
        return self.strings_shown * self.tokens_per_string

    @property
    def tokens_per_string(self) -> int:
        """The number of tokens of one string, which is also the number of labelled tokens."""
        return self.string_length // self.bits_per_token

    def tokens(self, strings: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut strings into tokens and put the answers on the last ones.

        `strings`: (examples, strings, string_length) in -1, 0, +1; `answers`: (examples, string_length) in 0, 1.
        Returns inputs, float32 (examples, tokens, bits), and labels, int64 of the same shape, or (examples, tokens)
        for tokens of one bit; labels are -100 on all tokens except those of the last string.
        """
        inputs = strings.reshape(len(strings), -1, self.bits_per_token).astype(np.float32)
        labels = np.full(inputs.shape, IGNORED_LABEL, dtype=np.int64)
        labels[:, -self.tokens_per_string :] = answers.reshape(len(answers), -1, self.bits_per_token)
        return inputs, labels[..., 0] if self.bits_per_token == 1 else labels


@dataclass
class BitMemory(BitTask):
    """Recall a string: after some strings of random bits, one of them comes again (the query), some bits masked (0).

    The paper's setting: 5 strings of 1000 bits, each bit of the query masked with probability 0.5, 50 bits a token.
    """

    name = "bit-memory"
    data_source = "random bits, drawn by the task"
    limits = ("A probe of what a frozen transformer can learn, of no use otherwise.",)
    include_for_metrics = ("inputs",)

    num_strings: int = field(default=5, metadata={"help": "Strings to remember; the query is one of them."})
    string_length: int = field(default=1000, metadata={"help": "Bits of one string."})
    bits_per_token: int = field(default=50, metadata={"help": "Bits of one token; divides string_length."})
    mask_probability: float = field(default=0.5, metadata={"help": "Probability that a bit of the query is masked."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("num_strings", self.num_strings, 1)
        if not 0 < self.mask_probability < 1:
            raise ValueError(
                f"mask_probability lies above 0 (nothing to recall) and below 1 (nothing to recall it by), got "
                f"{self.mask_probability}."
            )

    @property
    def strings_shown(self) -> int:
        return self.num_strings + 1

    @property
    def words_per_example(self) -> int:
        return 1 + _words_of_bits(self.num_strings * self.string_length) + -(-self.string_length // 2)

    def draw(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make examples (see `BitTask.tokens`): word 0 chooses the query, then come the bits, then the masks.

        The choice is a 64-bit word modulo `num_strings`, a mask a 32-bit one below a threshold, so that no probability
        is off by more than 2**-32.
        """
        bit_words = _words_of_bits(self.num_strings * self.string_length)
        bits = _unpack(words[:, 1 : 1 + bit_words], self.num_strings, self.string_length)
        queried = bits[np.arange(len(bits)), words[:, 0] % np.uint64(self.num_strings)]
        mask_words = np.ascontiguousarray(words[:, 1 + bit_words :]).view("<u4")[:, : self.string_length]
        masked = mask_words < np.uint64(round(self.mask_probability * 2**32))
        query = np.where(masked, np.int8(0), 2 * queried - 1)
        return self.tokens(np.concatenate([2 * bits - 1, query[:, None]], axis=1), queried)

    def floor(self, split: BitSplit) -> float:
        """The accuracy of copying the query's visible bits and guessing the masked ones (about 0.75 for p=0.5).

        It is counted on `split` itself, which draws every example: about 0.1 ms each.
        """
        hidden = labelled = 0
        for inputs, labels in split.batches():
            asked = labels.reshape(inputs.shape) != IGNORED_LABEL
            hidden += int((inputs[asked] == 0).sum())
            labelled += int(asked.sum())
        return 1 - 0.5 * hidden / labelled

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return `accuracy`, over all bits of the query, and `masked_accuracy`, only over its masked bits.

        `prediction.inputs` are the input values, (examples, tokens, bits). The paper's accuracy also counts the
        visible bits, which only need copying. Raises ValueError if the inputs were not kept.
        """
        if prediction.inputs is None:
            raise ValueError("bit-memory needs the inputs for its metrics: set include_for_metrics=['inputs'].")
        labels = joined(prediction.label_ids)
        asked = labels != IGNORED_LABEL
        answers, labels = joined(prediction.predictions)[asked], labels[asked]
        masked = joined(prediction.inputs).reshape(asked.shape)[asked] == 0
        return {
            "accuracy": accuracy(answers, labels),
            "masked_accuracy": accuracy(answers[masked], labels[masked]),
        }


@dataclass
class BitXor(BitTask):
    """XOR of strings of random bits, bit by bit; the labels are on the tokens of the last string.

    The paper's setting: 2 strings of 5 bits, one bit a token. For more than two strings, the answer is their parity.
    """

    name = "bit-xor"
    data_source = "random bits, drawn by the task"
    limits = (
        "A probe of what a frozen transformer can learn, of no use otherwise.",
        "Strings of another number or length than it was trained on do not fit its positions.",
    )

    num_strings: int = field(default=2, metadata={"help": "Strings whose XOR is asked for."})
    string_length: int = field(default=5, metadata={"help": "Bits of one string."})
    bits_per_token: int = field(default=1, metadata={"help": "Bits of one token; divides string_length."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("num_strings", self.num_strings, 2)

    @property
    def strings_shown(self) -> int:
        return self.num_strings

    @property
    def words_per_example(self) -> int:
        return _words_of_bits(self.num_strings * self.string_length)

    def draw(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make examples (see `BitTask.tokens`)."""
        bits = _unpack(words, self.num_strings, self.string_length)
        return self.tokens(2 * bits - 1, np.bitwise_xor.reduce(bits, axis=1))

    def floor(self, split: BitSplit) -> float:
        """One half: to somebody who does not know all strings, each bit of their XOR is a fair coin."""
        return 0.5


def _words_of_bits(bits: int) -> int:
    return -(-bits // 64)


def _unpack(words: np.ndarray, strings: int, length: int) -> np.ndarray:
    """Unpack the first bits of (examples, words) uint64 -> int8 (examples, strings, length) in 0, 1."""
    packed = np.ascontiguousarray(words).view(np.uint8)
    bits = np.unpackbits(packed, axis=1, count=strings * length)
    return bits.reshape(len(words), strings, length).view(np.int8)
