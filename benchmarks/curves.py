"""The cost of a training step as sequences, batches, depth and processes grow, compared with its arithmetic.

    OMP_NUM_THREADS=1 python benchmarks/curves.py --rounds 5 --output_dir outputs/curves

MiniLM's shape with random weights (time does not depend on values) and positions for 1,024 tokens. Each curve changes
one number; all its points take turns, a step each. A step is forward, backward, clipping and AdamW, with the
backbone's own dropout; `processes` train under DDP over gloo, a batch each, and their time is that of FPTTrainer's
steps. It prints medians with their spread and the rate of the products that `scaling.step_flops` counts; lines in the
picture are the time of those products at the rate of the curve's largest point. It writes curves.md and curves.png.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from scaling import Shape, Step, step_flops
from tqdm import tqdm
from transformers import BertConfig, PreTrainedConfig, TrainerCallback, TrainingArguments
from transformers.utils import logging

from fpt_adapters import PAPER_GROUPS, FPTForSequenceClassification, FPTTrainer

MINILM = Shape("bert", 6, 384, 1536, 12, 12, 1000, 1024)
VARIANTS = ("full fine-tuning, fp32", "FPT, fp32", "FPT, bf16")
WARM_UP = 2  # steps
MARK = "median step"  # begins the line with a process's result


@dataclass
class Point:
    """One size, and the seconds of its steps in each variant."""

    at: int  # on the curve's axis
    batch: int = 16
    tokens: int = 64
    layers: int = MINILM.layers
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in VARIANTS})

    @property
    def step(self) -> Step:
        """The step as scaling.py's formulas take it."""
        return Step(self.batch, self.tokens)

    def flops(self, variant: str) -> float:
        """FLOPs of the matrix products in a step; full fine-tuning has a third product for each weight's gradient."""
        shape = replace(MINILM, layers=self.layers)
        whole = variant == VARIANTS[0]
        return step_flops(shape, self.step) + (2 * shape.linear * self.step.total if whole else 0)


CURVES = {
    "length": ("tokens, 4 sequences", [Point(n, batch=4, tokens=n) for n in (64, 128, 256, 512, 1024)]),
    "batch": ("sequences of 64 tokens", [Point(n, batch=n) for n in (1, 2, 4, 8, 16, 32, 64)]),
    "depth": ("layers, 16 x 64 tokens", [Point(n, layers=n) for n in (1, 2, 3, 6, 12)]),
    "processes": ("processes, 16 x 64 tokens each", [Point(n) for n in (1, 2, 4)]),
}


def base_config(layers: int) -> PreTrainedConfig:
    """A configuration of MiniLM's shape with `layers` layers."""
    return BertConfig(
        hidden_size=MINILM.hidden,
        num_hidden_layers=layers,
        num_attention_heads=MINILM.heads,
        intermediate_size=MINILM.inner,
        max_position_embeddings=MINILM.positions,
        vocab_size=MINILM.vocabulary,
    )


def build(point: Point, variant: str) -> FPTForSequenceClassification:
    """The model of a variant, in training mode."""
    everything = [*PAPER_GROUPS, "attention", "feedforward"]  # all groups that an input reaches
    return FPTForSequenceClassification.from_backbone(
        base_config(point.layers),
        trainable=everything if variant == VARIANTS[0] else list(PAPER_GROUPS),
        backbone_init="random",
        dtype="bfloat16" if variant.endswith("bf16") else "float32",
        input_type="values",
        input_size=point.step.token_size,
        sequence_length=point.tokens,
        num_labels=point.step.labels,
    )


def stepper(point: Point, variant: str, device: str) -> Callable[[], None]:
    """A function that takes one training step."""
    model = build(point, variant).train().to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    inputs = torch.randn(point.batch, point.tokens, point.step.token_size, device=device)
    labels = torch.randint(point.step.labels, (point.batch,), device=device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=variant.endswith("bf16")):
            loss = model(input_values=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for a GPU

    return step


def measure(name: str, points: list[Point], rounds: int, device: str) -> None:
    """Measure the seconds of all points of a curve, in turns."""
    steppers = [(point, variant, stepper(point, variant, device)) for point in points for variant in VARIANTS]
    for number in tqdm(range(rounds + WARM_UP), desc=name):
        for point, variant, step in steppers:
            start = time.perf_counter()
            step()
            if number >= WARM_UP:
                point.seconds[variant].append(time.perf_counter() - start)


class StepTimes(TrainerCallback):
    """Records when each step ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Record the time; Trainer calls this after each step."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """The seconds of each step after the warm-up."""
        return [end - start for start, end in zip(self.ends[WARM_UP:], self.ends[WARM_UP + 1 :], strict=False)]


def work(variant: str, rounds: int) -> None:
    """Train as one of several processes; the first prints the seconds of its steps."""
    logging.set_verbosity_error()
    point, times = Point(1), StepTimes()
    shape = (point.tokens, point.step.token_size)
    data = [{"input_values": torch.randn(shape), "labels": i % point.step.labels} for i in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=point.batch,
            max_steps=rounds + WARM_UP + 1,
            bf16=variant.endswith("bf16"),
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=10**6,
        )
        trainer = FPTTrainer(build(point, variant), arguments, train_dataset=data, callbacks=[times])
        trainer.train()
        if arguments.process_index == 0:
            print(MARK, json.dumps(times.seconds()), flush=True)
        trainer.end()
    trainer.accelerator.end_training()


def start(variant: str, processes: int, rounds: int) -> list[float]:
    """Run `work` in `processes` processes, and return the seconds that it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [__file__, "--work", variant, "--rounds", str(rounds)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    line = next(line for line in done.stdout.splitlines() if line.startswith(MARK))
    return json.loads(line.removeprefix(MARK))


def measure_processes(points: list[Point], rounds: int) -> None:
    """Measure the seconds of all points of the curve over processes, each with its own batch."""
    for point in tqdm(points, desc="processes"):
        for variant in VARIANTS:
            point.seconds[variant] = start(variant, point.at, rounds)


def table(name: str, points: list[Point]) -> str:
    """A curve as Markdown."""
    columns = [name, *(text for variant in VARIANTS for text in (f"{variant}, s (min-max)", "GFLOP/s"))]
    columns.append("FPT fp32 / full")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for point in points:
        cells = []
        medians = {variant: statistics.median(values) for variant, values in point.seconds.items()}
        for variant, values in point.seconds.items():
            rate = point.flops(variant) / medians[variant] / 1e9
            cells += [f"{medians[variant]:.3f} ({min(values):.3f}-{max(values):.3f})", f"{rate:.0f}"]
        ratio = medians[VARIANTS[1]] / medians[VARIANTS[0]]
        lines.append(f"| {point.at:,} | " + " | ".join(cells) + f" | {ratio:.2f} |")
    return "\n".join(lines)


def draw(curves: dict[str, list[Point]], file: Path) -> None:
    """Draw medians as dots with their spread, and lines for the time that the matrix products predict."""
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 4), layout="constrained", squeeze=False)
    for axis, (name, points) in zip(grid[0], curves.items(), strict=True):
        places = [point.at for point in points]
        for number, variant in enumerate(VARIANTS):
            medians = [statistics.median(point.seconds[variant]) for point in points]
            low = [median - min(point.seconds[variant]) for median, point in zip(medians, points, strict=True)]
            high = [max(point.seconds[variant]) - median for median, point in zip(medians, points, strict=True)]
            axis.errorbar(places, medians, [low, high], fmt="o", color=f"C{number}", label=variant, capsize=3)
            rate = points[-1].flops(variant) / medians[-1]
            predicted = [point.flops(variant) / rate for point in points]
            if len(set(predicted)) > 1:
                axis.plot(places, predicted, color=f"C{number}", linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds of a step")
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    grid[0, 0].legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure all curves, or (in a process of its own) train as one of several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each point")
    parser.add_argument("--curves", nargs="+", default=list(CURVES), choices=list(CURVES))
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/curves"))
    parser.add_argument("--work", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.rounds)
        return
    logging.set_verbosity_error()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    curves, tables = {}, []
    for chosen in arguments.curves:
        name, points = CURVES[chosen]
        if chosen == "processes":
            measure_processes(points, arguments.rounds)
        else:
            measure(name, points, arguments.rounds, device)
        curves[name] = points
        tables.append(table(name, points))
        print(f"\n{tables[-1]}", flush=True)
    (arguments.output_dir / "curves.md").write_text("\n\n".join(tables) + "\n")
    draw(curves, arguments.output_dir / "curves.png")


if __name__ == "__main__":
    main()
