"""Guards over the weights: a training must not change the frozen ones, and must keep the trained ones finite."""

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from ..deltas.tensors import tensor_digest
from ..models.pretrained import FPTPreTrainedModel
from ..torch_utils.plain_names import named_parameters
from .saving import gather

logger = logging.get_logger(__name__)

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


class TrainingError(RuntimeError):
    """Training went wrong in a way that the logged numbers would not show."""


class WeightGuard(TrainerCallback):
    """Compares the weights after a training with those before it, and stops a training that has diverged.

    `frozen`: dtype and sum over the bits of every frozen parameter by name, computed on its device; enough to see that
    none was trained. `may_round`: whether a frozen weight may change its dtype (DeepSpeed rounds them). If the model
    is sharded, all processes must have a guard.
    """

    def __init__(self, may_round: bool = False):
        self.may_round = may_round
        self.model: FPTPreTrainedModel | None = None  # the model while it trains
        self.resumed = False
        self.frozen: dict[str, tuple[torch.dtype, int]] = {}
        self.trained: dict[str, str] = {}

    def begin(self, model: FPTPreTrainedModel, resumed: bool) -> None:
        """Record the weights before a training; `resumed`: whether it continues one, which may have ended already."""
        self.model, self.resumed = model, resumed
        self.frozen, self.trained = self._checksums(), self._digests()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Check for divergence; the Trainer calls this. Raises TrainingError."""
        if self.model is not None and "loss" in (logs or {}):
            refuse_divergence(self.model, f"at step {state.global_step}")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Compare the weights; the Trainer calls this. Warns of trained weights that did not change.

        (No warning if the training was resumed or made no steps.) Raises TrainingError if a frozen weight changed or a
        trained one is not finite.
        """
        after = self._checksums()
        if self.may_round:
            after = {name: after[name] if after[name][0] == old[0] else old for name, old in self.frozen.items()}
        changed = [name for name, value in after.items() if self.frozen.get(name) != value]
        if changed:
            raise TrainingError(f"The frozen weight {changed[0]} changed in training ({len(changed)} tensors in all).")
        refuse_divergence(self.model, "after training")
        unmoved = [name for name, digest in self._digests().items() if self.trained[name] == digest]
        if unmoved and state.global_step and not self.resumed:
            logger.warning(
                f"{len(unmoved)} of {len(self.trained)} trained tensors did not change in {state.global_step} steps, "
                f"the first is {unmoved[0]}: no gradient reaches them, or the learning rate is too small for fp32."
            )
        self.model = None

    def _checksums(self) -> dict[str, tuple[torch.dtype, int]]:
        frozen = ((name, gather(p)) for name, p in named_parameters(self.model).items() if not p.requires_grad)
        return {n: (t.dtype, t.view(INTEGERS[t.element_size()]).sum(dtype=torch.int64).item()) for n, t in frozen}

    def _digests(self) -> dict[str, str]:
        trained = {name: p for name, p in named_parameters(self.model).items() if p.requires_grad}
        return {name: tensor_digest(gather(p)) for name, p in trained.items()}


def refuse_divergence(model: FPTPreTrainedModel, when: str) -> None:
    """Raise TrainingError if trained weights are not finite (a single loss may be, from one bad step)."""
    trained = {name: gather(p) for name, p in named_parameters(model).items() if p.requires_grad}
    finite = [torch.isfinite(tensor).all() for tensor in trained.values()]
    device = next(iter(finite)).device
    if not torch.stack([one.to(device, non_blocking=True) for one in finite]).all():  # waits for the device only once
        name = next(name for name, one in zip(trained, finite, strict=True) if not one)
        raise TrainingError(
            f"{name} is not finite {when}: training diverged. Lower learning_rate, or look for inputs and targets far "
            "out of scale; the checkpoints written before are whole."
        )
