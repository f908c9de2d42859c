"""Train a tiny model on digits with FPTTrainer, sharded or alone; used by test_sharded.py.

    accelerate launch --config_file CONFIG train_sharded.py FOLDER

accelerate shards over accelerators alone. Here it takes the CPU for one, so that its own code and DeepSpeed's run over
gloo.
"""

import os
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from runs import digits_trainer, losses, write_record

from fpt_adapters.torch_utils.sharding import is_sharded


def take_cpu_for_accelerator():
    """Let accelerate do on a CPU what it does on accelerators."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def build_trainer(folder, batch_size=8, alone=False):
    return digits_trainer(
        folder,
        (64, 16, 16),
        use_cpu=alone,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        max_steps=6,
        optim="adamw_torch",
        save_steps=3,
        dataloader_pin_memory=False,
        compute_metrics=None,
        preprocess_logits_for_metrics=None,
    )


def refused(function, *args):
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def main(folder):
    take_cpu_for_accelerator()
    trainer = build_trainer(folder / "whole")
    trainer.train()
    trainer.save_model()
    model = trainer.accelerator.unwrap_model(trainer.model)
    record = {
        "strategy": str(trainer.accelerator.distributed_type.value),
        "sharded": sorted(name for name, parameter in model.named_parameters() if is_sharded(parameter)),
        "losses": losses(trainer),
        "logits": trainer.predict(trainer.eval_dataset).predictions.tolist(),
        "delta": refused(model.save_pretrained, folder / "ungathered"),
        "backbone": refused(model.save_backbone, folder / "backbone"),
    }
    resumed = build_trainer(folder / "resumed")
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-3"))
    resumed.save_model()
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
    write_record(folder, record | {"split loading": refused(build_trainer, folder / "split")})
    trainer.end()
    os._exit(0)  # the mesh keeps gloo's threads, which would abort a process that finishes before them


if __name__ == "__main__":
    main(Path(sys.argv[1]))
