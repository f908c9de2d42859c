"""The formulas of scaling.py compared with measurements: bytes kept for backward, peak memory, FLOPs, weights.

    python benchmarks/scaling_check.py

On a CPU, with steps on MiniLM's and GPT-2 small's shapes and a small Llama, with random weights, without dropout, and
with attention that keeps no matrix ("sdpa"), as on a GPU. Kept bytes and FLOPs are counted (FLOPs with plain
attention, which torch can count); the peak is what the process needs beyond its memory before the step. Each point
runs in its own process. Quantised weights need bitsandbytes.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from scaling import (
    Shape,
    Step,
    activation_bytes,
    kept_bytes,
    row,
    step_flops,
    trained_parameters,
    training_bytes,
    weight_bytes,
)
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.utils import logging

from fpt_adapters import FPTForSequenceClassification

MIB = 2**20
SHAPES = {
    "MiniLM": Shape("bert", 6, 384, 1536, 12, 12, 30522, 512),
    "GPT-2 small": Shape("gpt2", 12, 768, 3072, 12, 12, 50257, 1024),
    "Llama, 8 layers of 512": Shape("llama", 8, 512, 1376, 8, 8, 1000),
}


@dataclass(frozen=True)
class Point:
    """One measurement."""

    backbone: str
    precision: str
    batch: int
    tokens: int
    checkpointing: bool = False

    @property
    def step(self) -> Step:
        """The step as scaling.py's formulas take it."""
        return Step(self.batch, self.tokens, checkpointing=self.checkpointing)


POINTS = [
    Point("MiniLM", "fp32", 8, 64),
    Point("MiniLM", "fp32", 32, 64),
    Point("MiniLM", "fp32", 16, 256),
    Point("MiniLM", "fp32", 16, 256, True),
    Point("GPT-2 small", "fp32", 4, 64),
    Point("GPT-2 small", "fp32", 16, 64),
    Point("GPT-2 small", "fp32", 4, 256),
    Point("GPT-2 small", "fp32", 16, 64, True),
    Point("GPT-2 small", "bf16", 16, 64),
    Point("Llama, 8 layers of 512", "fp32", 8, 256),
    Point("Llama, 8 layers of 512", "bf16", 8, 256),
    Point("Llama, 8 layers of 512", "bf16", 8, 256, True),
]


def base_config(shape: Shape) -> PreTrainedConfig:
    """The configuration of a backbone of that shape."""
    common = {"hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "vocab_size": shape.vocabulary}
    common |= {"num_attention_heads": shape.heads, "intermediate_size": shape.inner}
    if shape.family == "bert":
        return BertConfig(**common)
    if shape.family == "llama":
        return LlamaConfig(num_key_value_heads=shape.kv_heads, **common)
    return GPT2Config(n_embd=shape.hidden, n_layer=shape.layers, n_head=shape.heads, vocab_size=shape.vocabulary)


def build(name: str, precision: str, step: Step) -> FPTForSequenceClassification:
    """A classifier on a random backbone of that shape."""
    quantization = {"8 bits": {"load_in_8bit": True}, "4 bits": {"load_in_4bit": True}}.get(precision)
    return FPTForSequenceClassification.from_backbone(
        base_config(SHAPES[name]),
        backbone_init="random",
        dtype="float32" if precision == "fp32" else "bfloat16",
        quantization_config=quantization,
        attn_implementation="sdpa",
        backbone_dropout=0.0,
        input_dropout=0.0,
        pooling="mean",
        input_type="values",
        input_size=step.token_size,
        sequence_length=step.tokens,
        num_labels=step.labels,
    )


def measure(point: Point) -> dict[str, int]:
    """Bytes kept, peak bytes and FLOPs of a step."""
    model, step = build(point.backbone, point.precision, point.step).train(), point.step
    if point.checkpointing:
        model.activation_checkpointing_enable()
    inputs, labels = torch.randn(step.batch, step.tokens, step.token_size), torch.zeros(step.batch, dtype=torch.long)
    run_step(model, inputs, labels)  # the first one allocates gradients, and what libraries keep
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    run_step(model, inputs, labels)
    peak = resident_bytes("VmHWM") - before
    kept = run_step(model, inputs, labels)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        run_step(model, inputs, labels)
    return {"kept": kept, "peak": peak, "flops": counter.get_total_flops()}


def run_step(model: FPTForSequenceClassification, inputs: torch.Tensor, labels: torch.Tensor) -> int:
    """Run forward and backward. Returns the bytes that forward keeps besides weights, each storage counted once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), inputs]}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_values=inputs, labels=labels).loss
    loss.backward()
    model.zero_grad(set_to_none=False)
    return sum(storages.values())


def resident_bytes(field: str) -> int:
    """A field of this process's memory status in bytes, from Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def measure_apart(point: Point) -> dict[str, int]:
    """Run `measure` in a process whose allocator returns freed memory at once."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--point", json.dumps(asdict(point))]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def step_rows() -> None:
    """Print the measured and predicted figures of each point."""
    measured = [name for unit in ("kept, MiB", "peak, MiB", "GFLOP") for name in (unit, "predicted")]
    row("backbone", "precision", "batch x tokens", *measured)
    row(*["---"] * 9)
    for point in POINTS:
        found, shape, step = measure_apart(point), SHAPES[point.backbone], point.step
        width = 4 if point.precision == "fp32" else 2
        per_token = 4 * shape.hidden if step.checkpointing else kept_bytes(shape, width)
        expected = (shape.layers * step.total * per_token, activation_bytes(shape, step, width))
        sizes = [found["kept"], expected[0], found["peak"], expected[1]]
        cells = [f"{size / MIB:.1f}" for size in sizes]
        cells += [f"{count / 1e9:.1f}" for count in (found["flops"], step_flops(shape, step))]
        what = f"{step.batch} x {step.tokens}{', checkpointed' if step.checkpointing else ''}"
        row(point.backbone, point.precision, what, *cells)


def weight_rows() -> None:
    """Print the measured and predicted sizes of the frozen weights and of what trains."""
    row("backbone", "precision", "frozen, MiB", "predicted", "trained parameters", "predicted", "trained x 16, kB")
    row(*["---"] * 7)
    precisions = ["fp32", "bf16", *(["8 bits", "4 bits"] if importlib.util.find_spec("bitsandbytes") else [])]
    step = Step(16, 64)
    for name in ("MiniLM", "GPT-2 small"):
        for precision in precisions:
            model, shape = build(name, precision, step), SHAPES[name]
            frozen = frozen_bytes(model) / MIB
            trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            counts = [f"{count:,}" for count in (trained, trained_parameters(shape, step))]
            state = f"{training_bytes(shape, step) / 1e3:,.0f}"
            row(name, precision, f"{frozen:.1f}", f"{weight_bytes(shape, precision) / MIB:.1f}", *counts, state)


def frozen_bytes(model: FPTForSequenceClassification) -> int:
    """Bytes of the frozen weights in the state dict, with the scales of quantised ones."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return sum(tensor.nbytes for name, tensor in model.state_dict().items() if name not in trained)


def main() -> None:
    """Measure, or (in a process of its own) measure one point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.point is not None:
        print(json.dumps(measure(Point(**json.loads(arguments.point)))))
        return
    weight_rows()
    print()
    step_rows()


if __name__ == "__main__":
    main()
