"""A Trainer for several processes: little crosses between them, and each back end saves the same delta."""

import contextlib
import functools
import hashlib
import json
import os
import weakref
from collections.abc import Collection, Iterator

import torch
from accelerate.data_loader import DataLoaderAdapter
from accelerate.utils import gather_object, is_compiled_module, str_to_bool
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.utils import logging

from ..deltas.tensors import running_statistics
from ..models.pretrained import FPTPreTrainedModel
from ..torch_utils.plain_names import named_parameters, plain_module, plain_name
from ..torch_utils.sharding import ZERO3_ID, is_sharded

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


def compiled_in_place(model: nn.Module | None) -> nn.Module | None:
    """The model inside a wrapper of torch.compile, itself compiled in the same way, as `model.compile()` does it.

    Trainer reads a model's `forward` and class, which the wrapper hides.
    """
    if not is_compiled_module(model):
        return model
    inner = plain_module(model)
    inner._compiled_call_impl = model.dynamo_ctx(inner._call_impl)
    return inner


@contextlib.contextmanager
def stating(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Meanwhile `model.state_dict()` has the tensors called `names` and no others."""

    def keep(module: nn.Module, state_dict: dict, prefix: str, metadata: dict) -> None:
        for name in [name for name in state_dict if name.removeprefix(prefix) not in names]:
            del state_dict[name]

    hook = model.register_state_dict_post_hook(keep)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def expecting(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Meanwhile `model.load_state_dict()` misses the tensors called `names` and no others."""

    def forgive(module: nn.Module, keys) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name in names]

    hook = model.register_load_state_dict_post_hook(forgive)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def sparing(engine: nn.Module) -> Iterator[None]:
    """Meanwhile DeepSpeed's `engine.save_checkpoint` leaves the frozen parameters out."""
    engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
    try:
        yield
    finally:
        del engine.save_checkpoint


def unpinned(loader: DataLoader) -> DataLoader:
    """A loader that accelerate prepared; where no accelerator would read pinned memory, it does not ask for any.

    It gets none there anyway, but each loader warns of it, and `dataloader_pin_memory` is True unless told otherwise.
    """
    if isinstance(loader, DataLoaderAdapter) and not torch.accelerator.is_available():
        loader.base_dataloader.pin_memory = False
    return loader


class DistributedTrainer(Trainer):
    """Trainer whose processes exchange gradients of what trains and no more, and which saves the delta alone.

    Under DDP, frozen weights are compared instead of sent, and frozen buffers are not sent either. Under FSDP2 and
    DeepSpeed, what is saved is gathered tensor by tensor, in fp32, without the base; so are the files that Trainer
    resumes from (DeepSpeed's hold the base where the input or the head does not train).

    Raises ValueError for FSDP1, for FSDP on a CPU, where Trainer would run DDP and not say so, and for an evaluation
    that would round the weights of a sharded model.
    """

    _living: weakref.WeakSet["DistributedTrainer"] = weakref.WeakSet()

    def __init__(self, model: FPTPreTrainedModel | None = None, args=None, *more, **kwargs):
        if args is not None and args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # every trained parameter takes part in every step
        super().__init__(model, args, *more, **kwargs)
        self._refuse_silent_ddp()
        self._refuse_fsdp1()
        self._refuse_rounding()
        self._warn_of_lone_process()
        self._living.add(self)

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`."""
        return unpinned(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As `Trainer.get_eval_dataloader`."""
        return unpinned(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """As `Trainer.get_test_dataloader`."""
        return unpinned(super().get_test_dataloader(test_dataset))

    @property
    def _shards(self) -> bool:
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def train(self, *args, **kwargs):
        """As `Trainer.train`."""
        with contextlib.ExitStack() as stack:
            if self._shards:
                stack.enter_context(expecting(self.model, self.model.delta_tensors().keys()))
            return super().train(*args, **kwargs)

    def gather_delta(self) -> dict[str, Tensor]:
        """What a checkpoint holds, whole and on the CPU; see `FPTPreTrainedModel.delta_tensors`.

        All processes must call it, and each gets all of it.
        """
        model = self.accelerator.unwrap_model(self.model)
        return {name: gather(tensor).cpu() for name, tensor in model.delta_tensors().items()}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, which all processes call; of a sharded model it gathers the delta alone."""
        if not self._shards:
            return super().save_model(output_dir, _internal_call)
        delta = self.gather_delta()
        if self.args.should_save:
            self._save(output_dir, state_dict=delta)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def end(self) -> None:
        """Leave the other processes, when all is trained, scored and saved; the last call of a script.

        The wrapped models go first, other Trainers' too: freed after its process group, one would free the group's
        threads while they wait for Python, and Python for them. A group that is not left aborts some finished
        processes (gloo).
        """
        for trainer in list(self._living):
            trainer.model_wrapped = trainer.model
            trainer.accelerator.free_memory()
        self.accelerator.end_training()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Trainer also saves a sharded model here (there is no public hook): leave the base out."""
        with self._without_base() if self._shards else contextlib.nullcontext():
            super()._save_optimizer_and_scheduler(output_dir)

    def _without_base(self) -> contextlib.AbstractContextManager:
        parameters = named_parameters(self.model)
        delta = self.model.delta_tensors().keys()
        if self.is_fsdp_enabled:
            return stating(self.model, delta)
        if all(parameters[name].requires_grad for name in delta if name in parameters):
            return sparing(self.model_wrapped)
        return contextlib.nullcontext()

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
                "base, and the same seed before the model is built (transformers.set_seed)."
            )
        statistics = running_statistics(self.model)
        frozen = [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]
        frozen += [name for name, _ in self.model.named_buffers() if plain_name(name) not in statistics]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, frozen)

    def _refuse_silent_ddp(self) -> None:
        asked = self.args.fsdp or str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
        if asked and not (self.is_fsdp_enabled or self.is_fsdp_xla_enabled):
            raise ValueError(
                f"FSDP shards a model over accelerators, but this runs on a {self.args.device.type}, where Trainer "
                "would train with DDP and not say so: leave FSDP out, and start processes on a CPU with accelerate "
                "launch --config_file examples/accelerate/cpu.yaml."
            )

    def _refuse_fsdp1(self) -> None:
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version == 1:
            raise ValueError(
                "Frozen and trained weights lie side by side in a layer: FSDP2 shards that, and this is FSDP1. Write "
                "fsdp_version: 2, as in examples/accelerate/fsdp2.yaml."
            )

    def _refuse_rounding(self) -> None:
        args = self.args
        if self._shards and (args.bf16_full_eval or args.fp16_full_eval):
            raise ValueError(
                "bf16_full_eval and fp16_full_eval round the weights of a sharded model, the trained ones too: leave "
                "them out, and write bf16=True, under which evaluations run in half precision as well."
            )

    def _warn_of_lone_process(self) -> None:
        """`accelerate launch --cpu --num_processes 2` names a meeting point for two, and starts one."""
        launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
        if launched and "LOCAL_RANK" not in os.environ and self.args.world_size == 1:
            logger.warning(
                "accelerate launch was asked for several processes, but with --cpu it starts one: use --config_file "
                "examples/accelerate/cpu.yaml, or --multi_gpu in place of --cpu, and TrainingArguments(use_cpu=True)."
            )
