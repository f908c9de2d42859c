"""The speed and memory of `compare.py`'s contestants at sizes that fill a GPU."""

import contextlib
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from compare_worker import Examples, arguments_for, largest_batch, peak_bytes
from contestants import CONTESTANTS, Contestant, Problem, run
from flops import step_flops
from scaling import Shape
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset
from transformers import AutoModel, GPT2Config, TrainerCallback

from gpu_parts.clock import allocated, give_memory_back, intervals, mark, restart_peak
from gpu_parts.machine import PRECISIONS, peak_rate, rates
from gpu_parts.profiling import Profiled
from gpu_parts.setting import Setting

SHAPES = {
    "124M": Shape("gpt2", 12, 768, 3072, 12, 12, 50257, 1024),
    "1.5B": Shape("gpt2", 48, 1600, 6400, 25, 25, 50257, 1024),
}
TINY = {
    "124M": Shape("gpt2", 2, 32, 128, 2, 2, 50, 16),
    "1.5B": Shape("gpt2", 3, 48, 192, 3, 3, 50, 16),
}
NUMBERS, CLASSES = 48, 10
LORA_RANK = 8  # of `contestants.peft_lora`
WARM_UP, STEPS, PROFILED = 3, 10, 2
SHARE = 0.8  # of the card's memory that a batch may fill
MOST = {"equal": 64, "filled": 128}  # the most sequences, so that a row does not take long
DIFFERENT = 16  # different examples, which are repeated
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def shape_of(setting: Setting, name: str) -> Shape:
    """The sizes of a backbone."""
    return (TINY if setting.smoke else SHAPES)[name]


def problem_of(shape: Shape) -> Problem:
    """Sequences as long as the backbone takes."""
    return Problem(tokens=shape.positions, numbers=NUMBERS, classes=CLASSES)


def base_folder(setting: Setting, shape: Shape) -> str:
    """The folder of a backbone with random weights, which are drawn on the device on the first call."""
    folder = setting.folder / f"base-{shape.layers}-{shape.hidden}-{shape.positions}"
    if not folder.is_dir():
        config = GPT2Config(
            n_embd=shape.hidden,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_positions=shape.positions,
            vocab_size=shape.vocabulary,
            bos_token_id=1,
            eos_token_id=1,
        )
        unfinished = setting.folder / "unfinished"  # perhaps left by a process that was killed
        with torch.device(setting.device):
            AutoModel.from_config(config).save_pretrained(unfinished)
        unfinished.rename(folder)
    return str(folder)


class Repeated(Dataset):
    """A data set that repeats its examples, so that an epoch is very long."""

    def __init__(self, examples: Dataset):
        self.examples = examples

    def __len__(self) -> int:
        return 2**16  # no more, because a sampler draws all indices

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.examples[index % len(self.examples)]


def random_examples(problem: Problem) -> Repeated:
    """Random numbers and labels."""
    inputs = torch.randn(DIFFERENT, problem.tokens, problem.numbers)
    return Repeated(Examples(input_values=inputs, labels=torch.randint(problem.classes, (DIFFERENT,))))


class Steps(TrainerCallback):
    """Marks the start of each step (fetching a batch belongs to the step before), then profiles some steps."""

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list[Any] = []
        self.profiled = Profiled(device)
        self.seconds: list[float] = []
        self.peak = 0

    def on_step_begin(self, args, state, control, **kwargs):
        """Mark the step, start profiling, and stop after the last step."""
        self.marks.append(mark(self.device))
        done = len(self.marks) - 1
        if done == WARM_UP + STEPS:
            self.seconds = intervals(self.marks)[WARM_UP:]
            self.peak = peak_bytes()
            self.profiled.start()
        if done == WARM_UP + STEPS + PROFILED:
            self.profiled.stop()
            control.should_training_stop = True


@contextlib.contextmanager
def computing(precision: str, kernel: str | None = None) -> Iterator[None]:
    """Context manager: fp32 matrix products have this precision, and attention uses only this kernel."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "bf16" else PRECISIONS[precision][0])
    with sdpa_kernel(KERNELS[kernel]) if kernel else contextlib.nullcontext():
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def choose_batches(setting: Setting, shape: str) -> dict[str, Any]:
    """Choose the batch sizes: as many sequences as full fine-tuning in fp32 can take, and as many as FPT in bf16."""
    sizes = shape_of(setting, shape)
    problem, base = problem_of(sizes), base_folder(setting, sizes)
    if setting.smoke:
        chosen = {"equal": 4, "filled": 8}
    else:
        chosen = {}
        for name, contestant, bf16 in (("equal", "full", False), ("filled", "fpt", True)):
            model = CONTESTANTS[contestant].build(base, problem, bf16)
            chosen[name] = min(largest_batch(model, problem, bf16, SHARE), MOST[name])
            del model
            give_memory_back()
    setting.leave(f"batches-{shape}", chosen)
    return chosen | {"tokens": problem.tokens}


def row(
    setting: Setting,
    shape: str,
    contestant: str,
    precision: str,
    fields: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    compiled: str | None = None,
    kernel: str | None = None,
    filled: bool = False,
) -> dict[str, Any]:
    """Measure one contestant's steps.

    `fields`: for `from_backbone`; `training`: for TrainingArguments. `compiled`: "whole" by Trainer's own flag, or
    "layers", one by one. `kernel`: the only one that attention may use. `filled`: whether the batch fills the GPU for
    this contestant, instead of being the same for all.
    """
    sizes, who, bf16 = shape_of(setting, shape), CONTESTANTS[contestant], precision == "bf16"
    problem, base = problem_of(sizes), base_folder(setting, sizes)
    batch = setting.batches.get(shape)
    if batch is None:
        chosen = setting.left(f"batches-{shape}") or choose_batches(setting, shape)
        batch = chosen["filled" if filled else "equal"]
    rate = (setting.left("rates") or rates(setting))[precision]
    changes = training or {}
    backend = "aot_eager" if setting.smoke else "inductor"
    if compiled == "whole":
        changes |= {"torch_compile": True, "torch_compile_backend": backend}
    before = allocated()
    restart_peak()
    start = time.perf_counter()
    model = who.build(base, problem, bf16, **(fields or {}))
    if compiled == "layers":
        for layer in model.fpt_model.backbone.h:
            layer.compile(backend=backend)
    built = time.perf_counter() - start
    steps = Steps(setting.device)
    with computing(precision, kernel), tempfile.TemporaryDirectory() as folder:
        arguments = arguments_for(folder, batch, bf16, **changes)
        run(who, model, random_examples(problem), arguments, steps)
    torch.compiler.reset()
    facts = {"contestant": contestant, "label": who.label, "precision": precision, "shape": shape, "filled": filled}
    facts |= {"batch": batch, "tokens": problem.tokens, "build_seconds": built, "allocated_before": before}
    facts["trained"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    facts["flops"] = flops(sizes, who, contestant, batch)
    return facts | figures(setting, steps, facts["flops"], batch, rate)


def flops(shape: Shape, who: Contestant, name: str, batch: int) -> int:
    """FLOPs of a step; see flops.py."""
    rank = LORA_RANK if name == "peft-lora" else 0
    return step_flops(
        shape, batch, shape.positions, frozen=who.frozen, token_size=NUMBERS, labels=CLASSES, lora_rank=rank
    )


def figures(setting: Setting, steps: Steps, flops: int, batch: int, rate: float) -> dict[str, Any]:
    """Figures computed from the times of steps; `rate`: FLOP/s of a large matrix product here."""
    seconds = sorted(steps.seconds)
    median = seconds[len(seconds) // 2]
    name = torch.cuda.get_device_name(0) if setting.device.type == "cuda" else None
    peak = peak_rate(name)
    return {
        "step_seconds": median,
        "step_seconds_min_max": [seconds[0], seconds[-1]],
        "samples_per_second": batch / median,
        "mfu": flops / median / peak if peak else None,  # over the data sheet's dense bf16
        "share_of_matmul": flops / median / rate,  # over the rate measured here
        "peak_bytes": steps.peak,
        "card_waits": steps.profiled.waiting(PROFILED, median),
        "kernels": steps.profiled.longest(6),
    }


def graph_breaks(setting: Setting) -> dict[str, Any]:
    """Graph breaks of torch.compile in an FPT's training step: there must be none."""
    shape = TINY["124M"]
    problem, base = problem_of(shape), base_folder(setting, shape)
    found, passed = {}, True
    for bf16 in (False, True):
        model = CONTESTANTS["fpt"].build(base, problem, bf16).to(setting.device).train()
        inputs = torch.randn(2, problem.tokens, problem.numbers, device=setting.device)
        labels = torch.zeros(2, dtype=torch.long, device=setting.device)
        with torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=bf16):
            explained = torch._dynamo.explain(model)(input_values=inputs, labels=labels)
        reasons = [reason.reason[:200] for reason in explained.break_reasons]
        attention = [
            node.kwargs.get("attn_mask")
            for graph in explained.graphs
            for node in graph.graph.nodes
            if node.target is torch.nn.functional.scaled_dot_product_attention
        ]
        found["bf16" if bf16 else "fp32"] = {
            "graphs": explained.graph_count,
            "breaks": reasons,
            "attentions": len(attention),
            "with_a_mask": sum(mask is not None for mask in attention),  # with a mask there is no flash attention
        }
        passed &= explained.graph_count == 1
        torch.compiler.reset()
    return {"passed": passed, **found}


class Watching(TrainerCallback):
    """Makes torch warn of each wait for the GPU during a few steps, then stops the training."""

    def __init__(self, device: torch.device):
        self.on, self.begun = device.type == "cuda", 0

    def on_step_begin(self, args, state, control, **kwargs):
        """Start after the warm-up, and stop after the last step."""
        self.begun += 1
        if self.begun == WARM_UP + 1 and self.on:
            torch.cuda.set_sync_debug_mode("warn")
        if self.begun == WARM_UP + STEPS + 1:
            if self.on:
                torch.cuda.set_sync_debug_mode("default")
            control.should_training_stop = True


def synchronizations(setting: Setting) -> dict[str, Any]:
    """Where Python waits for the GPU in a step of FPTTrainer and of Trainer: source line -> times per step."""
    shape = TINY["124M"]
    problem, base = problem_of(shape), base_folder(setting, shape)
    found: dict[str, Any] = {}
    for name in ("fpt", "full"):
        model = CONTESTANTS[name].build(base, problem, True)
        with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("always")
            run(
                CONTESTANTS[name],
                model,
                random_examples(problem),
                arguments_for(folder, 4, True),
                Watching(setting.device),
            )
        waits = [one for one in caught if "synchronizing CUDA operation" in str(one.message)]
        places = Counter(f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}" for one in waits)
        found[name] = {place: count / STEPS for place, count in places.most_common()}
    return found
