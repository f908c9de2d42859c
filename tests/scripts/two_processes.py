"""Train tiny models on digits, only their heads, and on streams, as one of several processes or alone.

    two_processes.py FOLDER

test_distributed.py, test_cached_features.py and test_streaming.py look at what each process saw.
"""

import hashlib
import sys
import weakref
from pathlib import Path

import torch
from conftest import TRANSFORMERS, tiny_model, trainer_of
from packaging.version import Version
from runs import RANK, copied, count_examples, digits_trainer, losses, write_record
from test_streams import source
from torch.profiler import profile
from transformers import TrainerCallback

from fpt_adapters import FPTTrainer
from fpt_adapters.data.streams import ExampleStream

SGD = {"optim": "sgd", "learning_rate": 0.3}  # unlike Adam's, its steps follow the scale of the gradient
RESUMES = TRANSFORMERS >= Version("5.18")  # before, not several processes on a CPU
STREAMS = {  # rows of each shard, and workers: shards to share out, one that both processes read, and workers
    "shards": ((7, 5, 9), 0),
    "one shard": ((26,), 0),
    "workers": ((6, 6, 9, 4, 2), 2),
}


class NoteWrapper(TrainerCallback):
    """Notes what the model is wrapped in while it trains; the wrapper itself weakly."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        wrapped = self.trainer.model_wrapped
        self.name, self.wrapper = type(wrapped).__name__, weakref.ref(wrapped)
        self.finds_unused = getattr(wrapped, "find_unused_parameters", None)


# Digits


def refusal_of_another_base(trainer):
    """What training says where the second process has another frozen weight."""
    weight = trainer.model.fpt.backbone.tokens_embed.weight.detach()
    kept = weight.clone()
    if RANK == 1:
        weight[7, 7] += 1
    try:
        trainer.train()
    except ValueError as error:
        return str(error)
    finally:
        weight.copy_(kept)
    return "nothing was refused"


def digits(folder, batch_size):
    """What a process sees that has an output folder of its own, so that it shows which of them write."""
    trainer = digits_trainer(
        folder / f"rank{RANK}",
        (128, 50, 50),
        "openai-gpt",  # unlike GPT-2, with buffers
        {"peft_config": {"peft_type": "lora", "target_modules": ["c_attn"]}},
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=50 * batch_size // 16,  # the 50 examples in one step
        max_steps=12,  # one and a half epochs
        max_grad_norm=0.0,
        save_steps=6,
        **SGD,
    )
    args, note = trainer.args, NoteWrapper(trainer)
    refusal = refusal_of_another_base(trainer) if args.world_size > 1 else None  # first: gloo may hang if it ends so
    trainer.evaluate()  # which must not keep the processes from training together
    trainer.add_callback(note)
    with profile(record_shapes=True) as profiled:
        trainer.train()
    trainer.save_model()
    record = {
        "processes": args.world_size,
        "losses": losses(trainer),
        "wrapper": note.name,
        "finds_unused": note.finds_unused,
        "metrics": trainer.evaluate(),
        "refusal": refusal,
        "traffic": [(e.name, e.input_shapes) for e in profiled.events() if e.name.startswith("gloo:")],
    }
    args.save_strategy, args.output_dir = "no", str(folder / "again")
    trainer.train()
    return record | {"again": losses(trainer), "wrapped again": note.name}


# Only the head


def head(folder, cached):
    """The Trainer, the note of its wrapper, and what it saw; neither 61 nor 25 examples divide evenly by two."""
    trainer = digits_trainer(
        folder / "head",
        (61, 25, 1),
        model_fields={"trainable": ["output"]},
        per_device_eval_batch_size=8,
        num_train_epochs=3,
        eval_strategy="epoch",
        cache_features=cached,
        **SGD,
    )
    seen, note = count_examples(trainer.model), NoteWrapper(trainer)
    trainer.add_callback(note)
    trainer.train()
    rows = trainer.state.log_history
    return (
        trainer,
        note,
        {
            "processes": trainer.args.world_size,
            "wrapper": note.name,
            "losses": losses(trainer),
            "metrics": [row[name] for row in rows for name in ("eval_loss", "eval_accuracy") if name in row],
            "weights": trainer.model.head.weight.flatten().tolist(),
            "seen": sum(seen),
        },
    )


# Streams


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


def stream(folder, counts, num_workers, resume=None):
    """What a process sees in seven steps, or in those behind a checkpoint."""
    torch.manual_seed(0)
    data = ExampleStream(source(counts), to_example, buffer_size=5)
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 7,
        "save_steps": 3,
        "dataloader_num_workers": num_workers,
    }
    trainer = trainer_of(tiny_model("gpt2"), folder, Recorder, train_dataset=data, **settings)
    trainer.train(resume_from_checkpoint=resume)
    trained = b"".join(tensor.numpy().tobytes() for tensor in copied(trainer.model, trained=True).values())
    seen = list(zip(trainer.epochs, trainer.seen, strict=True))
    return {"seen": seen, "weights": hashlib.sha256(trained).hexdigest()}


def main(folder):
    record = {"digits": digits(folder / "digits", 8)}
    for name, (counts, num_workers) in STREAMS.items():
        place = folder / name.replace(" ", "-")
        record[name] = {"whole": stream(place, counts, num_workers)}
        if RESUMES:
            record[name]["again"] = stream(place, counts, num_workers, str(place / "checkpoint-3"))
    trainers, notes, record["head"] = zip(*(head(folder, cached) for cached in (True, False)), strict=True)
    trainers[-1].end()
    write_record(folder, record | {"outlives": [note.wrapper() is not None for note in notes]})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
