"""Memory of a run that streams its training images compared with one that holds them, for files of several sizes.

    python benchmarks/streaming.py --megabytes 50 200

It shows how much the peak of the resident memory grows from before the data is opened to the end of an epoch of
training on all of it. The data is random CIFAR-10-shaped images, which cannot be compressed, in eight parquet files
and again in one. Each run is a process of its own, with a tiny model, no workers, and a shuffle buffer of 10,000
images. A stream holds that buffer and a row group of a file, here 1,000 images.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from tqdm import tqdm
from transformers import TrainingArguments
from transformers.utils import logging

from fpt_adapters import FPTForImageClassification, FPTTrainer, IdentityConfig
from fpt_adapters.tasks import Cifar10

SHARDS, BATCH = 8, 64
KINDS = {"streamed, 8 files": "train-*.parquet", "streamed, 1 file": "all.parquet", "held": "all.parquet"}
FEATURES = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
MODEL = {"input_type": "images", "image_size": 32, "num_channels": 3, "patch_size": 4, "num_labels": 10}


def random_images(count: int, generator: np.random.Generator) -> datasets.Dataset:
    """Random images as PNG files, 3.2 kB each, and labels."""
    files = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG", compress_level=0)
        files.append({"bytes": file.getvalue(), "path": None})
    return datasets.Dataset.from_dict({"img": files, "label": [i % 10 for i in range(count)]}, features=FEATURES)


def write(folder: Path, megabytes: int) -> int:
    """Write about `megabytes` of images as train-0.parquet ... and again as all.parquet; returns their number."""
    generator = np.random.default_rng(0)
    count = megabytes * 1_000_000 // 3200 // SHARDS
    random_images(100, generator).to_parquet(folder / "few.parquet")
    whole = None
    for shard in tqdm(range(SHARDS), desc=f"writing {megabytes} MB"):
        table = random_images(count, generator).with_format("arrow")[:]
        pq.write_table(table, folder / f"train-{shard}.parquet", row_group_size=1000)
        whole = whole or pq.ParquetWriter(folder / "all.parquet", table.schema)
        whole.write_table(table, row_group_size=1000)
    whole.close()
    return count * SHARDS


def peak() -> float:
    """Peak resident memory of this process so far in MB (Linux; `getrusage` would include the parent's)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def run(folder: Path, images: int, kind: str) -> dict[str, float]:
    """Train an epoch on files of one kind in `folder`; returns the growth of the peak in MB, and seconds."""
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    few = str(folder / "few.parquet")
    task = Cifar10(train_file=str(folder / KINDS[kind]), validation_file=few, test_file=few, augment=False)
    model = FPTForImageClassification.from_backbone(
        IdentityConfig(hidden_size=32),
        backbone_init="random",
        trainable=["input", "output"],
        positions="none",
        **MODEL,
    )
    arguments = TrainingArguments(
        str(folder / "out"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        per_device_train_batch_size=BATCH,
        max_steps=images // BATCH,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    before, start = peak(), time.perf_counter()
    train = (task.load() if kind == "held" else task.stream()).train
    FPTTrainer(model, arguments, train_dataset=train, data_collator=task.collate).train()
    return {"growth": peak() - before, "seconds": time.perf_counter() - start}


def measure(folder: Path, images: int, kind: str) -> dict[str, float]:
    """Run `run` in a fresh process, because a process's peak cannot be reset."""
    command = [sys.executable, __file__, "--run", kind, "--folder", str(folder), "--images", str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Write the files, measure both kinds of run for each size, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 200], help="sizes of the training data")
    parser.add_argument("--run", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(arguments.folder, arguments.images, arguments.run)))
        return
    print(f"{'':<18}{'images':>8}{'data MB':>9}{'growth of the peak, MB':>24}{'images/s':>10}")
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as name:
            images = write(Path(name), megabytes)
            size = (Path(name) / "all.parquet").stat().st_size / 1e6
            for kind in KINDS:
                row = measure(Path(name), images, kind)
                print(f"{kind:<18}{images:>8,}{size:>9.0f}{row['growth']:>24.0f}{images / row['seconds']:>10.0f}")


if __name__ == "__main__":
    main()
