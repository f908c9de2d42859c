"""One contestant of `compare.py`, in its own process: it trains a step for each line "go" that it reads.

    python benchmarks/compare_worker.py NAME BASE PRECISION BATCH STARTED [GOAL LEARNING_RATE SEED]

With a goal it trains without turns until it reaches that accuracy. Every answer is a line of JSON after "@".
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from contestants import CONTESTANTS, Contestant, Problem, checkpoint_bytes, load, run, save
from flops import step_flops
from scaling import Shape
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModel, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from fpt_adapters.heads.problems import IGNORED_LABEL

SPEED = Problem(tokens=64, numbers=48, classes=10)
BATCH, LOADS, MATMUL_SECONDS = 16, 5, 0.3
GOALS = {
    "bit-xor": (Problem(10, 1, 2, per_token=True), 0.99, 25, 1500),
    "digits": (Problem(16, 4, 10), 0.95, 25, 1500),
}
MAIN = os.environ.get("RANK", "0") == "0"


class Examples(Dataset):
    """A data set of tensors with the same first axis; its examples are dictionaries."""

    def __init__(self, **tensors: Tensor):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


def say(**facts: Any) -> None:
    """Print an answer, in the first process only."""
    if MAIN:
        print("@" + json.dumps(facts), flush=True)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Turns(TrainerCallback):
    """Waits for its turn before each step, and reports how long the last took, with the fetch of the next batch."""

    def __init__(self, started: float, facts: dict[str, Any]):
        self.started, self.facts, self.clock = started, facts, None

    def on_step_begin(self, args, state, control, **kwargs):
        """Report the time of the last step, which ends here, and wait for the next turn."""
        synchronize()
        if self.clock is not None and "first_step_seconds" not in self.facts:
            self.facts["first_step_seconds"] = time.time() - self.started
            say(**self.facts)
        elif self.clock is not None:
            say(seconds=time.perf_counter() - self.clock)
        if self.clock is not None and MAIN and sys.stdin.readline().strip() == "stop":
            control.should_training_stop = True
        self.clock = time.perf_counter()


class UntilAccurate(TrainerCallback):
    """Scores every few steps, without counting that time, and stops at the accuracy or after `most` steps."""

    def __init__(self, held_out: Dataset, accuracy: float, every: int, most: int):
        self.held_out, self.accuracy, self.every, self.most = held_out, accuracy, every, most
        self.seconds, self.reached, self.clock = 0.0, False, time.perf_counter()

    def on_step_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.clock = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Stop the clock, and score."""
        self.seconds += time.perf_counter() - self.clock
        self.steps = state.global_step
        if self.steps % self.every == 0:
            self.reached = score(model, self.held_out) >= self.accuracy
            control.should_training_stop = self.reached or self.steps >= self.most


@torch.no_grad()
def score(model: torch.nn.Module, held_out: Examples) -> float:
    """Accuracy, in eval mode, on all labels except those that the loss ignores."""
    model.eval()
    device = next(model.parameters()).device
    logits = model(input_values=held_out.tensors["input_values"].to(device))["logits"]
    model.train()
    labels = held_out.tensors["labels"].to(device).view(logits.shape[:-1])
    counted = labels != IGNORED_LABEL  # in Bit XOR only the last string's tokens have labels
    return (logits.argmax(-1) == labels)[counted].float().mean().item()


def arguments_for(folder: str, batch: int, bf16: bool, rate: float = 1e-3, **changes: Any) -> TrainingArguments:
    """The training arguments of all contestants: no logs, no checkpoints, constant learning rate, else defaults."""
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_steps=10**6,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        **changes,
    )


def peak_bytes() -> int:
    """The peak memory so far in bytes: allocated on the GPU, or resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def flops_of_step(base: str, problem: Problem, batch: int, frozen: bool) -> int:
    """FLOPs of one step of this backbone, counting all of attention; see `flops.step_flops`."""
    config = AutoConfig.from_pretrained(base)
    width, inner = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    heads = config.num_attention_heads
    shape = Shape(config.model_type, config.num_hidden_layers, width, inner, heads, heads)
    sizes = {"token_size": problem.numbers, "labels": problem.classes, "per_token": problem.per_token}
    return step_flops(shape, batch, problem.tokens, frozen=frozen, causal=False, **sizes)


def matmul(base: str, bf16: bool, batch: int) -> None:
    """Report, at each turn, the FLOP/s of matrix products of this backbone's sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if bf16 else torch.float32
    width, tokens = AutoConfig.from_pretrained(base).hidden_size, batch * SPEED.tokens
    inputs = torch.randn(tokens, width, device=device, dtype=dtype)
    weight = torch.randn(4 * width, width, device=device, dtype=dtype)
    say()
    while sys.stdin.readline().strip() == "go":
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < MATMUL_SECONDS:
            torch.nn.functional.linear(inputs, weight)
            synchronize()
            done += 1
        seconds = time.perf_counter() - start
        say(seconds=seconds, rate=done * 2 * tokens * 4 * width**2 / seconds)
    say()


def saved_and_loaded(contestant: Contestant, model: torch.nn.Module, base: str, folder: Path) -> dict[str, Any]:
    """Bytes and seconds of the checkpoint; seconds of a load, and their ratio to loading only the base."""
    facts = {"save_seconds": save(contestant, model, folder), "checkpoint_bytes": checkpoint_bytes(folder)}
    both, alone = [], []
    for _ in range(LOADS):
        both.append(load(contestant, base, SPEED, folder))
        start = time.perf_counter()
        AutoModel.from_pretrained(base)
        alone.append(time.perf_counter() - start)
    median = statistics.median(both)
    return facts | {"load_seconds": median, "load_ratio": median / statistics.median(alone)}


def take_turns(contestant: Contestant, base: str, bf16: bool, batch: int, started: float, folder: str) -> None:
    """Train in turns; then report the other measurements."""
    model = contestant.build(base, SPEED, bf16)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    facts = {
        "batch": batch,
        "flops": flops_of_step(base, SPEED, batch, contestant.frozen),
        "trained_parameters": trained,
    }
    inputs = torch.randn(64 * batch, SPEED.tokens, SPEED.numbers)
    examples = Examples(input_values=inputs, labels=torch.randint(SPEED.classes, (len(inputs),)))
    turns = Turns(started, facts)
    run(contestant, model, examples, arguments_for(folder, batch, bf16), turns)
    peak = peak_bytes()
    if MAIN:
        say(peak_bytes=peak, **saved_and_loaded(contestant, model, base, Path(folder) / "saved"))


def examples_of(goal: str) -> tuple[Examples, Examples]:
    """Training and validation examples of a task, all at once; images as rows of patches."""
    from fpt_adapters.tasks import TASKS

    task = TASKS[goal]()
    if goal == "bit-xor":
        task.train_examples = 16 * GOALS[goal][3]
    data = task.load(0)
    splits = []
    for split in (data.train, data.validation):
        batch = task.collate([split[i] for i in range(len(split))])
        if "pixel_values" in batch:  # (examples, channels, 8, 8) -> (examples, 16, 4)
            batch["input_values"] = torch.nn.functional.unfold(batch.pop("pixel_values"), 2, stride=2).transpose(1, 2)
        splits.append(Examples(**batch))
    return splits[0], splits[1]


def reach(contestant: Contestant, base: str, goal: str, rate: float, seed: int, folder: str) -> None:
    """Train until the accuracy is reached, and report steps and seconds."""
    problem, accuracy, every, most = GOALS[goal]
    train, held_out = examples_of(goal)
    set_seed(seed)
    model = contestant.build(base, problem, False)
    until = UntilAccurate(held_out, accuracy, every, most)
    run(contestant, model, train, arguments_for(folder, BATCH, False, rate), until)
    say(steps=until.steps, seconds=until.seconds, reached=until.reached)


def largest_batch(model: torch.nn.Module, problem: Problem, bf16: bool, share: float) -> int:
    """The largest power of two of sequences that fits in `share` of a GPU's memory, with Adam's state."""
    model.cuda().train()
    peaks = []
    for batch in (1, 2, 4):  # the first includes what libraries allocate once
        torch.cuda.reset_peak_memory_stats()
        inputs = torch.randn(batch, problem.tokens, problem.numbers, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16):
            model(input_values=inputs, labels=torch.zeros(batch, dtype=torch.long, device="cuda"))["loss"].backward()
        peaks.append(torch.cuda.max_memory_allocated())
        model.zero_grad(set_to_none=False)
    each = (peaks[2] - peaks[1]) / 2
    adam = 8 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    room = share * torch.cuda.get_device_properties(0).total_memory - adam - peaks[1]
    return 2 ** (max(1, int(2 + room / each)).bit_length() - 1)


def batch_that_fills(base: str) -> int:
    """Sequences in a step: 16 on a CPU; on a GPU as many as full fine-tuning in fp32 fits in half its memory."""
    if not torch.cuda.is_available():
        return BATCH
    return max(BATCH, largest_batch(CONTESTANTS["full"].build(base, SPEED, False), SPEED, False, 0.5))


def main(name: str, base: str, precision: str, batch: int, started: float, *goal: str) -> None:
    """Do what the arguments ask for."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32
    set_seed(0)
    batch = batch or batch_that_fills(base)
    if name == "matmul":
        matmul(base, precision == "bf16", batch)
        return
    with tempfile.TemporaryDirectory() as folder:
        if goal:
            task, rate, seed = goal
            reach(CONTESTANTS[name], base, task, float(rate), int(seed), folder)
        else:
            take_turns(CONTESTANTS[name], base, precision == "bf16", batch, started, folder)


if __name__ == "__main__":
    _, name, base, precision, batch, started, *goal = sys.argv
    main(name, base, precision, int(batch), float(started), *goal)
