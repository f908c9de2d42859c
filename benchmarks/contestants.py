"""What `compare.py` compares: FPT, and what a user would pick instead, on the same backbone and the same examples.

All take `input_values` (batch, tokens, numbers) and `labels` (batch,) or (batch, tokens, 1). The others are built on
`PlainClassifier`, which is what one would write with only transformers.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from fpt_adapters import FPTForSequenceClassification, FPTForTokenClassification, FPTTrainer

NORMS = r".*(LayerNorm|ln_1|ln_2|ln_f)"
POSITIONS = {"bert": "position_embeddings", "gpt2": "wpe"}
LORA_TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn"]}


@dataclass(frozen=True)
class Problem:
    """The sizes of a learning problem."""

    tokens: int
    numbers: int
    classes: int
    per_token: bool = False


class PlainClassifier(nn.Module):
    """Input projection, a transformers model, one linear layer: nothing frozen yet."""

    def __init__(self, base: str, problem: Problem):
        super().__init__()
        self.backbone: PreTrainedModel = AutoModel.from_pretrained(base)
        width = self.backbone.config.hidden_size
        self.input_projection = nn.Linear(problem.numbers, width)
        self.head = nn.Linear(width, problem.classes)
        nn.init.orthogonal_(self.input_projection.weight, gain=1.41)
        nn.init.zeros_(self.input_projection.bias)
        self.per_token, self.causal = problem.per_token, self.backbone.config.model_type == "gpt2"

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """`input_values` (batch, tokens, numbers) -> logits, and the mean loss if labels are given."""
        embeds = F.dropout(self.input_projection(input_values), 0.1, self.training)  # (batch, tokens, hidden)
        hidden = self.backbone(inputs_embeds=embeds).last_hidden_state
        if not self.per_token:
            hidden = hidden[:, -1] if self.causal else hidden.mean(dim=1)  # (batch, hidden)
        logits = self.head(hidden)
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits.flatten(0, -2), labels.flatten()), "logits": logits}


def full(base: str, problem: Problem, bf16: bool) -> nn.Module:
    """Full fine-tuning: everything trains."""
    return PlainClassifier(base, problem)


def peft_norms(base: str, problem: Problem, bf16: bool) -> nn.Module:
    """LN tuning by peft, with input, head and positions as `modules_to_save`: as FPT, and also unused positions."""
    from peft import LNTuningConfig, get_peft_model

    plain = PlainClassifier(base, problem)
    return get_peft_model(plain, LNTuningConfig(target_modules=NORMS, modules_to_save=_new_modules(plain)))


def peft_lora(base: str, problem: Problem, bf16: bool) -> nn.Module:
    """LoRA by peft, of rank 8 on queries and values, with input, head and positions as `modules_to_save`."""
    from peft import LoraConfig, get_peft_model

    plain = PlainClassifier(base, problem)
    kind = plain.backbone.config.model_type
    config = LoraConfig(
        r=8, target_modules=LORA_TARGETS[kind], fan_in_fan_out=kind == "gpt2", modules_to_save=_new_modules(plain)
    )
    return get_peft_model(plain, config)


def _new_modules(plain: PlainClassifier) -> list[str]:
    return ["input_projection", "head", POSITIONS[plain.backbone.config.model_type]]


def frozen_by_hand(base: str, problem: Problem, bf16: bool) -> nn.Module:
    """The same trained parameters as FPT's, set by `requires_grad` in a plain model as in the paper's code."""
    plain = PlainClassifier(base, problem).requires_grad_(False)
    for name, parameter in plain.named_parameters():
        parts = name.split(".")
        if parts[-2] in ("LayerNorm", "ln_1", "ln_2", "ln_f", *POSITIONS.values()) or parts[0] != "backbone":
            parameter.requires_grad_(True)
    return plain


def fpt(base: str, problem: Problem, bf16: bool, **fields: Any) -> nn.Module:
    """FPT by this library; in bf16 the frozen weights are bf16 too, unless `fields` have another dtype."""
    kind = FPTForTokenClassification if problem.per_token else FPTForSequenceClassification
    return kind.from_backbone(
        base,
        **{"dtype": "bfloat16" if bf16 else None, **fields},
        input_type="values",
        input_size=problem.numbers,
        sequence_length=problem.tokens,
        num_labels=problem.classes,
    )


def lora(rank: int) -> dict[str, Any]:
    """A LoRA beside FPT's groups, as in `examples/studies/peft.yaml`."""
    return {"peft_type": "lora", "r": rank, "lora_alpha": 2 * rank}


@dataclass(frozen=True)
class Contestant:
    """How one contestant is built and trained."""

    label: str
    build: Callable[[str, Problem, bool], nn.Module]
    trainer: type[Trainer] | None  # None: a bare loop
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    frozen: bool = True  # whether the large matrices have no gradients of their own


CONTESTANTS = {
    "full": Contestant("full fine-tuning, Trainer", full, Trainer, (1e-4, 3e-4), frozen=False),
    "peft-norms": Contestant("peft LN tuning + modules_to_save, Trainer", peft_norms, Trainer),
    "peft-lora": Contestant("peft LoRA r=8 + modules_to_save, Trainer", peft_lora, Trainer),
    "by-hand": Contestant("frozen by hand, bare loop", frozen_by_hand, None),
    "fpt": Contestant("FPT, FPTTrainer", fpt, FPTTrainer),
    "fpt-bare": Contestant("FPT, bare loop", fpt, None),
}
POLICIES = {  # other choices of what trains, with this library
    **{f"fpt-lora-{r}": {"peft_config": lora(r)} for r in (1, 4, 16)},
    "lora-output": {"peft_config": lora(4), "trainable": ["output"]},
    "lora-output-input": {"peft_config": lora(4), "trainable": ["output", "input"]},
    "output-norm": {"trainable": ["output", "norm"]},
}
USUAL = list(CONTESTANTS)
CONTESTANTS |= {name: Contestant(name, partial(fpt, **fields), FPTTrainer) for name, fields in POLICIES.items()}


def run(
    contestant: Contestant,
    model: nn.Module,
    examples: Any,
    args: TrainingArguments,
    callback: TrainerCallback,
) -> None:
    """Train until `callback` asks to stop."""
    if contestant.trainer is None:
        bare_loop(model, examples, args, callback)
        return
    trainer = contestant.trainer(model=model, args=args, train_dataset=examples, callbacks=[callback])
    trainer.train()


def bare_loop(model: nn.Module, examples: Any, args: TrainingArguments, callback: TrainerCallback) -> None:
    """The training loop that a researcher would write: batches, forward, backward, clipping, Adam."""
    from transformers import TrainerControl, TrainerState

    device = args.device
    model.to(device).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.0, fused=True)
    state, control = TrainerState(), TrainerControl()
    for batch in _batches(examples, args.per_device_train_batch_size):
        callback.on_step_begin(args, state, control, model=model)
        if control.should_training_stop:
            return
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.bf16):
            loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state.global_step += 1
        callback.on_step_end(args, state, control, model=model)
        if control.should_training_stop:
            return


def _batches(examples: Any, size: int) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from torch.utils.data.DataLoader(examples, batch_size=size, shuffle=True)


def save(contestant: Contestant, model: nn.Module, folder: Path) -> float:
    """Save as a user of the contestant would, and return the seconds that it took."""
    start = time.perf_counter()
    if contestant.build in (full, frozen_by_hand):  # the paper's code saves the whole state dict
        folder.mkdir(parents=True)
        save_file(dict(model.state_dict()), folder / "model.safetensors")
    else:
        model.save_pretrained(folder)
    return time.perf_counter() - start


def load(contestant: Contestant, base: str, problem: Problem, folder: Path) -> float:
    """Load the base and what was saved, and return the seconds that it took."""
    start = time.perf_counter()
    if getattr(contestant.build, "func", contestant.build) is fpt:
        kind = FPTForTokenClassification if problem.per_token else FPTForSequenceClassification
        kind.from_pretrained(folder, base_model_name_or_path=base)
        return time.perf_counter() - start
    plain = PlainClassifier(base, problem)
    if contestant.build in (full, frozen_by_hand):
        plain.load_state_dict(load_file(folder / "model.safetensors"))
    else:
        from peft import PeftModel

        PeftModel.from_pretrained(plain, os.fspath(folder))
    return time.perf_counter() - start


def checkpoint_bytes(folder: Path) -> int:
    """Bytes of the weights in a saved folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
