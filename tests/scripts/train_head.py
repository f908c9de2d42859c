"""Train the head of a tiny model on digits in each of several processes; used by test_cached_features.py.

    train_head.py FOLDER

It trains on kept features, then with the backbone in every step, and puts what came out into record<rank>.json.
Neither 61 nor 25 examples divide evenly among two processes.
"""

import json
import sys
import weakref
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, TrainerCallback, TrainingArguments, set_seed

from fpt_adapters import FPTForImageClassification, FPTTrainer
from fpt_adapters.tasks import TASKS


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    trainers, records = zip(*(train(folder, cached) for cached in (True, False)), strict=True)
    trainer = trainers[-1]
    rank = trainer.args.process_index
    trainer.end()
    record = {"runs": records, "wrapped": [wrapper() is not None for wrapper in WRAPPERS]}
    (folder / f"record{rank}.json").write_text(json.dumps(record))


WRAPPERS = []


class NoteWrapper(TrainerCallback):
    """Notes, weakly, what the model is wrapped in while it trains."""

    def __init__(self, trainer: FPTTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Called by the Trainer."""
        assert isinstance(self.trainer.model_wrapped, DistributedDataParallel)
        WRAPPERS.append(weakref.ref(self.trainer.model_wrapped))


def train(folder: Path, cached: bool) -> tuple[FPTTrainer, dict]:
    task = TASKS["digits"]()
    data = task.load(0, {"train": 61, "validation": 25, "test": 1})
    set_seed(0)
    model = FPTForImageClassification.from_backbone(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=100, bos_token_id=1, eos_token_id=1),
        backbone_init="random",
        trainable=["output"],
        backbone_dropout=0.0,
        input_dropout=0.0,
        **data.config,
    )
    seen: list[int] = []
    model.fpt.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    args = TrainingArguments(
        output_dir=str(folder / "out"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        num_train_epochs=3,
        optim="sgd",  # unlike Adam's, its steps follow the scale of the gradient
        learning_rate=0.3,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="no",
        remove_unused_columns=False,
    )
    trainer = FPTTrainer(
        model,
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=task.collate,
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits_for_metrics,
        cache_features=cached,
    )
    trainer.add_callback(NoteWrapper(trainer))
    trainer.train()
    rows = trainer.state.log_history
    return trainer, {
        "processes": args.world_size,
        "losses": [row["loss"] for row in rows if "loss" in row],
        "metrics": [row[name] for row in rows for name in ("eval_loss", "eval_accuracy") if name in row],
        "weights": model.head.weight.flatten().tolist(),
        "seen": sum(seen),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
