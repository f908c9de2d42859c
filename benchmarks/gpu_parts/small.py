"""Small models and data for the checks, and training them."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, TrainingArguments, set_seed

from fpt_adapters import FPTForSequenceClassification, FPTTrainer
from gpu_parts.setting import Setting

TOKENS, NUMBERS, CLASSES, EXAMPLES, BATCH = 24, 8, 4, 64, 16


def config_of(setting: Setting, family: str) -> PreTrainedConfig:
    """The configuration of a small backbone of a family; in a smoke run a tiny one."""
    width, layers = (32, 2) if setting.smoke else (256, 4)
    fields = {"hidden_size": width, "num_hidden_layers": layers}
    if family != "fpt_lstm":
        fields |= {"num_attention_heads": 4, "intermediate_size": 4 * width}
    if family == "gpt2":
        fields = {"n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": 64}
    if family == "t5":
        fields = {"d_model": width, "d_kv": width // 4, "num_layers": layers, "num_heads": 4, "d_ff": 4 * width}
    if family not in ("vit", "fpt_lstm"):
        fields |= {"vocab_size": 1000, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    return AutoConfig.for_model(family, **fields)


def build(setting: Setting, family: str = "gpt2", **arguments: Any) -> FPTForSequenceClassification:
    """A model on a random backbone, the same each time."""
    set_seed(0)
    return new_model(setting, family, **arguments)


def new_model(setting: Setting, family: str = "gpt2", **arguments: Any) -> FPTForSequenceClassification:
    """A model on a random backbone; new modules are drawn from torch's generator."""
    return FPTForSequenceClassification.from_backbone(
        config_of(setting, family),
        backbone_init="random",
        input_type="values",
        input_size=NUMBERS,
        sequence_length=TOKENS,
        num_labels=CLASSES,
        **arguments,
    )


def examples(padded: bool = False, moved: float = 0.0) -> list[dict[str, Any]]:
    """Sequences whose class follows from their numbers; `padded`: of several lengths; `moved`: relative noise."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(EXAMPLES, TOKENS, NUMBERS, generator=generator)
    labels = inputs.mean(dim=1)[:, :CLASSES].argmax(dim=-1)
    lengths = torch.randint(TOKENS // 2, TOKENS + 1, (EXAMPLES, 1), generator=generator)
    inputs = inputs * (1 + moved * torch.randn(inputs.shape, generator=generator))
    rows = [{"input_values": one, "labels": label} for one, label in zip(inputs, labels.tolist(), strict=True)]
    if padded:
        for row, length in zip(rows, lengths.tolist(), strict=True):
            row["attention_mask"] = (torch.arange(TOKENS) < length[0]).long()
    return rows


def trained(
    setting: Setting,
    model: FPTForSequenceClassification,
    data: list[dict[str, Any]],
    steps: int,
    folder: str | Path,
    resume: str | None = None,
    **arguments: Any,
) -> list[float]:
    """Train with FPTTrainer; returns the loss of each step."""
    arguments = {"use_cpu": setting.device.type == "cpu", "save_strategy": "no"} | arguments
    args = TrainingArguments(
        os.fspath(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        **arguments,
    )
    trainer = FPTTrainer(model, args, train_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # removes mixed precision's wrapper
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def delta(model: FPTForSequenceClassification) -> dict[str, Tensor]:
    """Copies of the delta's tensors, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.delta_tensors().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all tensors are equal, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def logits_of(model: FPTForSequenceClassification, device: torch.device) -> Tensor:
    """Logits of some examples in eval mode; the model is moved to `device`, unless it is quantised."""
    if model.config.base_quantization is None:
        model.to(device)
    return model.eval()(input_values=batch_of(device)["input_values"]).logits


def batch_of(device: torch.device) -> dict[str, Tensor]:
    """The first examples, as one batch."""
    rows = examples()[:BATCH]
    inputs = torch.stack([row["input_values"] for row in rows])
    return {"input_values": inputs.to(device), "labels": torch.tensor([row["labels"] for row in rows], device=device)}
