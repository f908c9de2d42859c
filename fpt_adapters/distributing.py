"""A Trainer for several processes: little crosses between them, and each back end saves the same delta."""

import hashlib
import json
import os

from accelerate.utils import gather_object, str_to_bool
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer
from transformers.utils import logging

from .delta import running_statistics
from .pretrained import FPTPreTrainedModel
from .sharding import ZERO3_ID, is_sharded

logger = logging.get_logger(__name__)

ZERO_MASTER = "_hp_mapping"  # what ZeRO-1 and 2 write on a parameter that they train


def gather(tensor: Tensor) -> Tensor:
    """All of a tensor, detached. Where it is spread over processes, all must call this, in one order of tensors.

    What DeepSpeed trains in half precision has its fp32 values in the optimizer: those are returned (source:
    `deepspeed.utils.safe_get_full_fp32_param`).
    """
    marks = vars(tensor)
    if isinstance(tensor, DTensor):
        return tensor.detach().full_tensor()
    if ZERO_MASTER in marks or (ZERO3_ID in marks and tensor.requires_grad):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(tensor).detach()
    if ZERO3_ID in marks:
        from deepspeed import zero

        with zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach()


class DistributedTrainer(Trainer):
    """Trainer whose processes exchange gradients of what trains and no more, and which saves the delta alone.

    Under DDP, frozen weights are compared instead of sent, and frozen buffers are not sent either. Under FSDP2 and
    DeepSpeed, what is saved is gathered tensor by tensor, in fp32, without the base.

    Raises ValueError where FSDP or DeepSpeed is asked for on a CPU: Trainer would run DDP instead and not say so.
    """

    def __init__(self, model: FPTPreTrainedModel, args=None, **kwargs):
        if args is not None and args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # every trained parameter takes part in every step
        if args is not None and args.ddp_broadcast_buffers is None:
            args.ddp_broadcast_buffers = bool(running_statistics(model))  # no other buffer changes
        super().__init__(model, args, **kwargs)
        self._refuse_silent_ddp()
        self._warn_of_lone_process()

    def gather_delta(self) -> dict[str, Tensor]:
        """What a checkpoint holds, whole and on the CPU; see `FPTPreTrainedModel.delta_tensors`.

        All processes must call it, and each gets all of it.
        """
        model = self.accelerator.unwrap_model(self.model)
        return {name: gather(tensor).cpu() for name, tensor in model.delta_tensors().items()}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, which all processes call; of a sharded model it gathers the delta alone."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            return super().save_model(output_dir, _internal_call)
        self._save(output_dir, state_dict=self.gather_delta())
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _keep_frozen_home(self, checksums: dict) -> None:
        """Compare the frozen weights of all processes by `checksums`, so that DDP need not send them.

        Raises ValueError where they differ.
        """
        if self.args.world_size == 1 or any(map(is_sharded, self.model.parameters())):
            return
        digest = hashlib.sha256(json.dumps(checksums, sort_keys=True, default=str).encode()).hexdigest()
        digests = gather_object([digest])
        if len(set(digests)) > 1:
            raise ValueError(
                "All processes must have the same frozen weights, but those of process "
                f"{[d != digests[0] for d in digests].index(True)} are not those of process 0: give all the same "
                "base, and let none of them change it before training."
            )
        statistics = running_statistics(self.model)
        frozen = [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]
        frozen += [name for name, _ in self.model.named_buffers() if name not in statistics]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, frozen)

    def _refuse_silent_ddp(self) -> None:
        fsdp = bool(self.args.fsdp) or _asked("ACCELERATE_USE_FSDP")
        deepspeed = bool(self.args.deepspeed) or _asked("ACCELERATE_USE_DEEPSPEED")
        for name, asked, runs in (
            ("FSDP", fsdp, self.is_fsdp_enabled or self.is_fsdp_xla_enabled),
            ("DeepSpeed", deepspeed, self.is_deepspeed_enabled),
        ):
            if asked and not runs:
                raise ValueError(
                    f"{name} shards a model over accelerators, but this runs on a {self.args.device.type}, where "
                    f"Trainer would train with DDP and not say so: leave {name} out, and start processes on a CPU with "
                    "accelerate launch --config_file examples/accelerate/cpu.yaml."
                )

    def _warn_of_lone_process(self) -> None:
        """`accelerate launch --cpu --num_processes 2` names a meeting point for two, and starts one."""
        launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
        if launched and "LOCAL_RANK" not in os.environ and self.args.world_size == 1:
            logger.warning(
                "accelerate launch was asked for several processes, but with --cpu it starts one: use --config_file "
                "examples/accelerate/cpu.yaml, or --multi_gpu in place of --cpu, and TrainingArguments(use_cpu=True)."
            )


def _asked(variable: str) -> bool:
    return bool(str_to_bool(os.environ.get(variable, "false")))
