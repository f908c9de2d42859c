"""Train a tiny model on digits with FPTTrainer, sharded or alone; used by test_sharded.py.

    accelerate launch --config_file CONFIG train_sharded.py FOLDER

accelerate shards over accelerators alone. Here it takes the CPU for one, so that its own code and DeepSpeed's run over
gloo. Each process leaves a record of what it saw: rank<n>.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import GPT2Config, TrainingArguments, set_seed

from fpt_adapters import FPTForImageClassification, FPTTrainer
from fpt_adapters.tasks import TASKS
from fpt_adapters.torch_utils.sharding import is_sharded

CONFIG = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 100}


def take_cpu_for_accelerator() -> None:
    """Let accelerate do on a CPU what it does on accelerators."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def build_model(data):
    set_seed(0)
    return FPTForImageClassification.from_backbone(
        GPT2Config(**CONFIG, bos_token_id=1, eos_token_id=1),
        backbone_init="random",
        backbone_dropout=0.0,
        input_dropout=0.0,
        **data.config,
    )


def build_trainer(folder: Path, batch_size: int, alone: bool) -> FPTTrainer:
    task = TASKS["digits"]()
    data = task.load(0, {"train": 64, "validation": 16, "test": 16})
    args = TrainingArguments(
        output_dir=str(folder),
        use_cpu=alone,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        max_steps=6,
        optim="adamw_torch",
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="steps",
        save_steps=3,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    return FPTTrainer(
        build_model(data),
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=task.collate,
    )


def losses(trainer: FPTTrainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def refused(function, *args) -> str:
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    take_cpu_for_accelerator()
    trainer = build_trainer(folder / "whole", 8, alone=False)
    trainer.train()
    trainer.save_model()
    model = trainer.accelerator.unwrap_model(trainer.model)
    parameters = dict(model.named_parameters())
    record = {
        "strategy": str(trainer.accelerator.distributed_type.value),
        "sharded": sorted(name for name, parameter in parameters.items() if is_sharded(parameter)),
        "losses": losses(trainer),
        "logits": trainer.predict(trainer.eval_dataset).predictions.tolist(),
        "delta": refused(model.save_pretrained, folder / "ungathered"),
        "backbone": refused(model.save_backbone, folder / "backbone"),
    }
    resumed = build_trainer(folder / "resumed", 8, alone=False)
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-3"))
    resumed.save_model()
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
    record["split loading"] = refused(build_trainer, folder / "split", 8, False)
    rank = trainer.args.process_index
    (folder / f"rank{rank}.json").write_text(json.dumps(record))
    trainer.end()
    os._exit(0)  # the mesh keeps gloo's threads, which would abort a process that finishes before them


if __name__ == "__main__":
    main(Path(sys.argv[1]))
