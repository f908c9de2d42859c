"""Train a tiny model on streams of numbers, whole and resumed, as one of several processes; for test_streaming.py.

    train_stream.py FOLDER

Each process writes what it saw, by stream and run, into rankN.json.
"""

import hashlib
import json
import sys
from pathlib import Path

import datasets
import torch
import transformers
from packaging.version import Version
from transformers import GPT2Config, TrainingArguments

from fpt_adapters import FPTForSequenceClassification, FPTTrainer
from fpt_adapters.data.streams import ExampleStream

RESUMES = Version(transformers.__version__) >= Version("5.18")  # before, not several processes on a CPU
STREAMS = {  # rows of each shard, and workers: shards to share out, one that both processes read, and workers
    "shards": ((7, 5, 9), 0),
    "one shard": ((26,), 0),
    "workers": ((6, 6, 9, 4, 2), 2),
}


def rows_of(shards):
    """Row r of shard s is 100 s + r."""
    for shard, count in shards:
        for row in range(count):
            yield {"x": 100 * shard + row}


def to_example(row, place):
    """An example whose first number is the row's."""
    values = torch.randn(10, 3, generator=torch.Generator().manual_seed(row["x"]))
    values[0, 0] = row["x"] / 1000
    return {"input_values": values, "labels": row["x"] % 4}


class Recorder(FPTTrainer):
    """Keeps the epoch and the rows of each batch that is trained on."""

    def training_step(self, model, inputs, *args):
        """As `Trainer.training_step`."""
        rows = [round(1000 * x) for x in inputs["input_values"][:, 0, 0].tolist()]
        self.seen.append([self._source.stream.state.epoch, rows])
        return super().training_step(model, inputs, *args)


def train(folder: Path, counts: tuple[int, ...], num_workers: int, resume: str | None = None) -> dict:
    """Train seven steps, or those behind a checkpoint."""
    torch.manual_seed(0)
    model = FPTForSequenceClassification.from_backbone(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=100, bos_token_id=1, eos_token_id=1),
        backbone_init="random",
        input_type="values",
        input_size=3,
        sequence_length=10,
        num_labels=4,
    )
    args = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=4,
        max_steps=7,
        save_strategy="steps",
        save_steps=3,
        learning_rate=1e-2,
        dataloader_num_workers=num_workers,
    )
    source = datasets.IterableDataset.from_generator(rows_of, gen_kwargs={"shards": list(enumerate(counts))})
    trainer = Recorder(model, args, train_dataset=ExampleStream(source, to_example, buffer_size=5))
    trainer.seen = []
    trainer.train(resume_from_checkpoint=resume)
    trained = b"".join(p.detach().numpy().tobytes() for p in model.parameters() if p.requires_grad)
    return {"seen": trainer.seen, "weights": hashlib.sha256(trained).hexdigest()}


def main(folder: Path) -> None:
    """Train on each stream."""
    torch.set_num_threads(1)
    record = {}
    for name, (counts, num_workers) in STREAMS.items():
        place = folder / name.replace(" ", "-")
        whole = train(place, counts, num_workers)
        again = train(place, counts, num_workers, resume=str(place / "checkpoint-3")) if RESUMES else None
        record[name] = {"whole": whole, "again": again}
    rank = TrainingArguments(str(folder), use_cpu=True).process_index
    (folder / f"rank{rank}.json").write_text(json.dumps(record))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
