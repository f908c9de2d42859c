"""The list of cases that `gpu.py` runs, the most important first: the last ones are skipped if time runs out."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One measurement or check, which makes one line of the results."""

    name: str  # "part/case"
    function: str  # "module:function", called with the setting and `arguments`; returns facts
    seconds: float  # it is stopped after this time, and not started if less is left
    arguments: dict[str, Any] = field(default_factory=dict)
    vital: bool = False  # whether all other cases are skipped if it fails


def _check(name: str, function: str, seconds: float = 30, **arguments: Any) -> Case:
    return Case(f"correctness/{name}", f"gpu_parts.correctness:{function}", seconds, arguments)


def _row(
    shape: str,
    label: str,
    contestant: str,
    precision: str,
    seconds: float,
    fields: dict[str, Any] | None = None,
    **arguments: Any,
) -> Case:
    arguments |= {"shape": shape, "contestant": contestant, "precision": precision, "fields": fields}
    return Case(f"speed/{shape}/{label}", "gpu_parts.speed:row", seconds, arguments)


NO_DROPOUT = {"backbone_dropout": 0.0, "input_dropout": 0.0}
CHECKPOINTED = {"gradient_checkpointing": True}
NON_BLOCKING = {"accelerator_config": {"non_blocking": True}}
SMALL, LARGE = "124M", "1.5B"

MACHINE = [
    Case("machine/card", "gpu_parts.machine:card", 90, vital=True),
    Case("machine/rates", "gpu_parts.machine:rates", 60),
]
CORRECTNESS = [
    *(
        _check(f"losses/{family}", "losses", family=family)
        for family in ("gpt2", "bert", "llama", "t5", "vit", "fpt_lstm")
    ),
    *(_check(f"resume/{precision}", "resume", precision=precision) for precision in ("fp32", "bf16")),
    *(_check(f"dtype/{dtype}", "save_and_load", dtype=dtype) for dtype in ("float32", "bfloat16", "float16")),
    *(_check(f"quantised/{bits}", "quantized", bits=bits) for bits in (8, 4)),
    _check("device_map", "device_map"),
    _check("checkpointing", "checkpointing"),
    _check("two-models", "two_models"),
    _check("drawing", "drawing"),
]
FIRST_ROWS = [
    Case("speed/graph-breaks", "gpu_parts.speed:graph_breaks", 40),
    Case("speed/waits-for-card", "gpu_parts.speed:synchronizations", 30),
    *(
        case
        for shape, seconds in ((SMALL, 30), (LARGE, 60))
        for case in (
            Case(f"speed/{shape}/batch", "gpu_parts.speed:choose_batches", seconds + 30, {"shape": shape}),
            _row(shape, "full bf16", "full", "bf16", seconds),
            _row(shape, "fpt bf16", "fpt", "bf16", seconds),
        )
    ),
    _row(SMALL, "fpt bf16, layers compiled", "fpt", "bf16", 90, compiled="layers"),
    _row(SMALL, "fpt bf16, layers compiled, filled", "fpt", "bf16", 90, NO_DROPOUT, compiled="layers", filled=True),
    _row(LARGE, "fpt bf16, layers compiled, filled", "fpt", "bf16", 90, NO_DROPOUT, compiled="layers", filled=True),
]
PIPELINE = [
    Case("pipeline/cifar10", "gpu_parts.pipeline:keeps_up", 50, {"task_name": "cifar10"}),
    Case("pipeline/listops", "gpu_parts.pipeline:keeps_up", 50, {"task_name": "listops"}),
    Case("pipeline/cifar10, streamed", "gpu_parts.pipeline:keeps_up", 50, {"task_name": "cifar10", "streamed": True}),
]
MORE_ROWS = [
    _row(SMALL, "peft LN tuning bf16", "peft-norms", "bf16", 30),
    _row(SMALL, "peft LoRA bf16", "peft-lora", "bf16", 30),
    _row(SMALL, "by hand bf16", "by-hand", "bf16", 30),
    _row(SMALL, "full tf32", "full", "tf32", 30),
    _row(SMALL, "fpt tf32", "fpt", "tf32", 30),
    _row(SMALL, "fpt bf16, no dropout", "fpt", "bf16", 30, NO_DROPOUT),
    _row(SMALL, "fpt bf16, frozen weights in fp32", "fpt", "bf16", 30, {"dtype": "float32"}),
    _row(SMALL, "fpt bf16, no dropout, flash attention", "fpt", "bf16", 30, NO_DROPOUT, kernel="flash"),
    _row(SMALL, "fpt bf16, no dropout, efficient attention", "fpt", "bf16", 30, NO_DROPOUT, kernel="efficient"),
    _row(SMALL, "fpt bf16, eager attention", "fpt", "bf16", 30, {"attn_implementation": "eager"}),
    _row(SMALL, "fpt bf16, compiled whole", "fpt", "bf16", 90, compiled="whole"),
    _row(SMALL, "fpt bf16, non-blocking copies", "fpt", "bf16", 30, training=NON_BLOCKING),
    _row(SMALL, "fpt bf16, filled", "fpt", "bf16", 30, filled=True),
    _row(SMALL, "fpt bf16, checkpointed", "fpt", "bf16", 30, training=CHECKPOINTED),
    _row(LARGE, "fpt bf16, filled", "fpt", "bf16", 60, filled=True),
    _row(LARGE, "peft LoRA bf16", "peft-lora", "bf16", 60),
    _row(LARGE, "peft LN tuning bf16", "peft-norms", "bf16", 60),
    _row(LARGE, "by hand bf16", "by-hand", "bf16", 60),
    _row(SMALL, "full bf16, compiled whole", "full", "bf16", 120, compiled="whole"),
    _row(SMALL, "fpt bare bf16", "fpt-bare", "bf16", 30),
    _row(SMALL, "full fp32", "full", "fp32", 40),
    _row(SMALL, "fpt fp32", "fpt", "fp32", 40),
    _row(LARGE, "fpt bf16, checkpointed", "fpt", "bf16", 60, training=CHECKPOINTED),
    _row(LARGE, "full tf32", "full", "tf32", 60),
    _row(LARGE, "fpt tf32", "fpt", "tf32", 60),
]
PLAN = [*MACHINE, *CORRECTNESS, *FIRST_ROWS, *PIPELINE, *MORE_ROWS]
