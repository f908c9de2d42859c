"""Train a tiny model on streams of numbers, whole and resumed, as one of several processes; for test_streaming.py.

train_stream.py FOLDER
"""

import hashlib
import sys
from pathlib import Path

import torch
from conftest import TRANSFORMERS, tiny_model, trainer_of
from packaging.version import Version
from runs import copied, write_record
from test_streams import source

from fpt_adapters import FPTTrainer
from fpt_adapters.data.streams import ExampleStream

RESUMES = TRANSFORMERS >= Version("5.18")  # before, not several processes on a CPU
STREAMS = {  # rows of each shard, and workers: shards to share out, one that both processes read, and workers
    "shards": ((7, 5, 9), 0),
    "one shard": ((26,), 0),
    "workers": ((6, 6, 9, 4, 2), 2),
}


def to_example(row, place=None):
    """An example of the default tiny model whose first number is the row's."""
    values = torch.randn(10, 3, generator=torch.Generator().manual_seed(row["x"]))
    values[0, 0] = row["x"] / 1000
    return {"input_values": values, "labels": row["x"] % 4}


def row_of(values):
    """The row that the values of an example come from."""
    return round(1000 * values[0, 0].item())


class Recorder(FPTTrainer):
    """Keeps the rows, and the epoch, of each batch that is trained on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen, self.epochs = [], []

    def training_step(self, model, inputs, *args):
        self.seen.append(list(map(row_of, inputs["input_values"])))
        self.epochs.append(self._source.stream.state.epoch)
        return super().training_step(model, inputs, *args)


def train(folder, counts, num_workers, resume=None):
    """Train seven steps, or those behind a checkpoint."""
    torch.manual_seed(0)
    trainer = trainer_of(
        tiny_model("gpt2"),
        folder,
        Recorder,
        per_device_train_batch_size=4,
        max_steps=7,
        save_strategy="steps",
        save_steps=3,
        dataloader_num_workers=num_workers,
        train_dataset=ExampleStream(source(counts), to_example, buffer_size=5),
    )
    trainer.train(resume_from_checkpoint=resume)
    trained = b"".join(tensor.numpy().tobytes() for tensor in copied(trainer.model, trained=True).values())
    seen = list(zip(trainer.epochs, trainer.seen, strict=True))
    return {"seen": seen, "weights": hashlib.sha256(trained).hexdigest()}


def main(folder):
    record = {}
    for name, (counts, num_workers) in STREAMS.items():
        place = folder / name.replace(" ", "-")
        record[name] = {"whole": train(place, counts, num_workers)}
        if RESUMES:
            record[name]["again"] = train(place, counts, num_workers, resume=str(place / "checkpoint-3"))
    write_record(folder, record)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
