"""Train a tiny model on digits, as one of several processes or alone; used by test_distributed.py.

    train_digits.py FOLDER BATCH_SIZE

Each process has an output folder of its own, so that it shows which of them write, and puts a record.json into it.
"""

import json
import sys
from pathlib import Path

import torch
from torch.profiler import profile
from transformers import OpenAIGPTConfig, TrainerCallback, TrainingArguments, set_seed

from fpt_adapters import FPTForImageClassification, FPTTrainer
from fpt_adapters.tasks import TASKS


def main(folder: Path, batch_size: int) -> None:
    torch.set_num_threads(1)
    task = TASKS["digits"]()
    data = task.load(0, {"train": 128, "validation": 50, "test": 50})
    set_seed(0)
    model = FPTForImageClassification.from_backbone(
        OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=100),  # unlike GPT-2, with buffers
        backbone_init="random",
        backbone_dropout=0.0,
        input_dropout=0.0,
        peft_config={"peft_type": "lora", "target_modules": ["c_attn"]},
        **data.config,
    )
    args = TrainingArguments(
        output_dir=str(folder / "unused"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=50 * batch_size // 16,  # the 50 examples in one step
        max_steps=12,  # one and a half epochs
        optim="sgd",  # unlike Adam's, its steps follow the scale of the gradient
        learning_rate=0.3,
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="steps",
        save_steps=6,
        remove_unused_columns=False,
    )
    args.output_dir = str(folder / f"rank{args.process_index}")
    trainer = FPTTrainer(
        model,
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=task.collate,
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits_for_metrics,
    )
    refusal = refusal_of_another_base(trainer) if args.world_size > 1 else None  # first: gloo may hang if it ends so
    trainer.evaluate()  # which must not keep the processes from training together
    wrapping = {}
    trainer.add_callback(NoteWrapper(trainer, wrapping))
    with profile(record_shapes=True) as profiled:
        trainer.train()
    trainer.save_model()
    record = {
        "processes": args.world_size,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        **wrapping,
        "metrics": trainer.evaluate(),
        "refusal": refusal,
        "traffic": [(e.name, e.input_shapes) for e in profiled.events() if e.name.startswith("gloo:")],
    }
    place = Path(args.output_dir)
    place.mkdir(parents=True, exist_ok=True)
    args.save_strategy, args.output_dir = "no", str(folder / "again")
    trainer.train()
    record["again"] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    record["wrapped again"] = wrapping["wrapper"]
    (place / "record.json").write_text(json.dumps(record))
    trainer.end()


class NoteWrapper(TrainerCallback):
    """Notes what the model is wrapped in while it trains."""

    def __init__(self, trainer: FPTTrainer, found: dict):
        self.trainer, self.found = trainer, found

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Called by the Trainer."""
        wrapped = self.trainer.model_wrapped
        self.found["wrapper"] = type(wrapped).__name__
        self.found["finds_unused"] = getattr(wrapped, "find_unused_parameters", None)


def refusal_of_another_base(trainer: FPTTrainer) -> str:
    """What training says where the second process has another frozen weight."""
    weight = trainer.model.fpt.backbone.tokens_embed.weight.detach()
    kept = weight.clone()
    if trainer.args.process_index == 1:
        weight[7, 7] += 1
    try:
        trainer.train()
    except ValueError as error:
        return str(error)
    finally:
        weight.copy_(kept)
    return "nothing was refused"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
