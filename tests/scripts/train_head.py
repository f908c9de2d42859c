"""Train the head of a tiny model on digits in each of several processes; used by test_cached_features.py.

    train_head.py FOLDER

It trains on kept features, then with the backbone in every step. Neither 61 nor 25 examples divide evenly by two.
"""

import sys
import weakref
from pathlib import Path

from runs import count_examples, digits_trainer, losses, write_record
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback


class NoteWrapper(TrainerCallback):
    """Notes, weakly, what the model is wrapped in while it trains."""

    wrappers = []

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        assert isinstance(self.trainer.model_wrapped, DistributedDataParallel)
        self.wrappers.append(weakref.ref(self.trainer.model_wrapped))


def train(folder, cached):
    trainer = digits_trainer(
        folder / "out",
        (61, 25, 1),
        model_fields={"trainable": ["output"]},
        per_device_eval_batch_size=8,
        max_steps=-1,
        num_train_epochs=3,
        optim="sgd",  # unlike Adam's, its steps follow the scale of the gradient
        learning_rate=0.3,
        eval_strategy="epoch",
        cache_features=cached,
    )
    seen = count_examples(trainer.model)
    trainer.add_callback(NoteWrapper(trainer))
    trainer.train()
    rows = trainer.state.log_history
    return trainer, {
        "processes": trainer.args.world_size,
        "losses": losses(trainer),
        "metrics": [row[name] for row in rows for name in ("eval_loss", "eval_accuracy") if name in row],
        "weights": trainer.model.head.weight.flatten().tolist(),
        "seen": sum(seen),
    }


def main(folder):
    trainers, records = zip(*(train(folder, cached) for cached in (True, False)), strict=True)
    trainers[-1].end()
    wrapped = [wrapper() is not None for wrapper in NoteWrapper.wrappers]
    write_record(folder, {"runs": records, "wrapped": wrapped})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
