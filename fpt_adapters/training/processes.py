"""Training in several processes: checks of the setup, less traffic for DDP, and a clean end."""

import hashlib
import json
import os
from typing import Any

import torch
from accelerate.data_loader import DataLoaderAdapter
from accelerate.utils import gather_object, str_to_bool
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.utils import logging

from ..deltas.tensors import running_statistics
from ..models.pretrained import FPTPreTrainedModel
from ..torch_utils.plain_names import plain_name
from ..torch_utils.sharding import is_sharded

logger = logging.get_logger(__name__)

PREPARED = "_is_accelerate_prepared"  # accelerate does not wrap a model with this mark, and each process trains alone


def unpinned(loader: DataLoader) -> DataLoader:
    """Turn off pinned memory in a loader that accelerate prepared, if there is no accelerator to read it.

    The loader would get none anyway, but would warn, and `dataloader_pin_memory` is True by default.
    """
    if isinstance(loader, DataLoaderAdapter) and not torch.accelerator.is_available():
        loader.base_dataloader.pin_memory = False
    return loader


def make_ready_for_ddp(model: FPTPreTrainedModel, checksums: dict[str, Any], num_processes: int) -> None:
    """Compare the frozen weights of all processes by `checksums`, so that DDP need not send them, and let it wrap.

    (An evaluation before the training marks the model, and accelerate would not wrap it.) Raises ValueError if frozen
    weights differ.
    """
    if num_processes == 1 or any(map(is_sharded, model.parameters())):
        return
    digest = hashlib.sha256(json.dumps(checksums, sort_keys=True, default=str).encode()).hexdigest()
    digests = gather_object([digest])
    if len(set(digests)) > 1:
        raise ValueError(
            "All processes must have the same frozen weights, but those of process "
            f"{[d != digests[0] for d in digests].index(True)} are not those of process 0: give all the same "
            "base, and the same seed before the model is built (transformers.set_seed)."
        )
    statistics = running_statistics(model)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    frozen += [name for name, _ in model.named_buffers() if plain_name(name) not in statistics]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
    vars(model).pop(PREPARED, None)


def unwrap_after_training(trainer: Trainer) -> None:
    """Free DDP's wrapper, and put the plain model in its place, which is what evaluations run.

    If the wrapper is freed after its process group, the group's threads and Python may wait for each other.
    """
    if isinstance(trainer.model_wrapped, DistributedDataParallel):
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()
        trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)


def check_processes(trainer: Trainer) -> None:
    """Raise ValueError for sharding that cannot work; warn if there is one process where several were asked for."""
    args, fsdp = trainer.args, trainer.is_fsdp_enabled
    asked = args.fsdp or str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
    if asked and not (fsdp or trainer.is_fsdp_xla_enabled):
        raise ValueError(
            f"FSDP shards a model over accelerators, but this runs on a {args.device.type}, where Trainer would train "
            "with DDP and not say so: leave FSDP out, and start processes on a CPU with accelerate launch "
            "--config_file examples/accelerate/cpu.yaml."
        )
    if fsdp and trainer.accelerator.state.fsdp_plugin.fsdp_version == 1:
        raise ValueError(
            "Frozen and trained weights lie side by side in a layer: FSDP2 shards that, and this is FSDP1. Write "
            "fsdp_version: 2, as in examples/accelerate/fsdp2.yaml."
        )
    if trainer.shards and (args.bf16_full_eval or args.fp16_full_eval):
        raise ValueError(
            "bf16_full_eval and fp16_full_eval round the weights of a sharded model, the trained ones too: leave "
            "them out, and write bf16=True, under which evaluations run in half precision as well."
        )
    # `accelerate launch --cpu --num_processes 2` names a meeting point for two, and starts one.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and "LOCAL_RANK" not in os.environ and args.world_size == 1:
        logger.warning(
            "accelerate launch was asked for several processes, but with --cpu it starts one: use --config_file "
            "examples/accelerate/cpu.yaml, or --multi_gpu in place of --cpu, and TrainingArguments(use_cpu=True)."
        )
