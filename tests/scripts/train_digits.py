"""Train a tiny model on digits, as one of several processes or alone; used by test_distributed.py.

    train_digits.py FOLDER BATCH_SIZE

Each process has an output folder of its own, so that it shows which of them write.
"""

import sys
from pathlib import Path

from runs import RANK, digits_trainer, losses, write_record
from torch.profiler import profile
from transformers import TrainerCallback


class NoteWrapper(TrainerCallback):
    """Notes what the model is wrapped in while it trains."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        wrapped = self.trainer.model_wrapped
        self.name = type(wrapped).__name__
        self.finds_unused = getattr(wrapped, "find_unused_parameters", None)


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


def main(folder, batch_size):
    trainer = digits_trainer(
        folder / f"rank{RANK}",
        (128, 50, 50),
        "openai-gpt",  # unlike GPT-2, with buffers
        {"peft_config": {"peft_type": "lora", "target_modules": ["c_attn"]}},
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=50 * batch_size // 16,  # the 50 examples in one step
        max_steps=12,  # one and a half epochs
        optim="sgd",  # unlike Adam's, its steps follow the scale of the gradient
        learning_rate=0.3,
        max_grad_norm=0.0,
        save_strategy="steps",
        save_steps=6,
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
    write_record(folder, record | {"again": losses(trainer), "wrapped again": note.name})
    trainer.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
