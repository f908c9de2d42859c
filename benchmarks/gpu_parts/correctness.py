"""Checks that a GPU gives the CPU's results, saves and loads exactly, and repeats itself."""

import contextlib
import gc
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from compare_worker import peak_bytes
from torch import Tensor
from transformers import BitsAndBytesConfig, set_seed
from transformers.utils import is_bitsandbytes_available

from fpt_adapters import FPTForSequenceClassification
from gpu_parts.clock import allocated, restart_peak
from gpu_parts.setting import Setting, Skipped
from gpu_parts.small import batch_of, build, delta, examples, logits_of, new_model, same, trained

LOSS_STEPS, SMOKE_STEPS, RESUME_STEPS, SHORT_STEPS = 50, 5, 8, 4
PADDED = ("bert", "t5", "fpt_lstm")  # families that get sequences of several lengths
MOVED = 1e-6  # relative change of the inputs that shows the effect of rounding
ROUNDING = 20  # times that effect still counts as rounding: a step rounds more often than its inputs are changed
LEAST_TOLERANCE = 1e-5
CHECKPOINTED = 1e-5  # relative difference of gradients
HALF = {"bf16": "bfloat16", "fp16": "float16"}
NO_DROPOUT = {"backbone_dropout": 0.0, "input_dropout": 0.0}


def farthest(one: list[float], other: list[float]) -> float:
    """The largest relative difference of two lists of losses."""
    return max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(one, other, strict=True))


@contextlib.contextmanager
def repeatable() -> Iterator[list[str]]:
    """Context manager: deterministic kernels. Yields a list, filled at the end, of operations that have none."""
    said: list[str] = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        torch.use_deterministic_algorithms(False)
    said += sorted({str(one.message)[:120] for one in caught if "deterministic" in str(one.message)})


def losses(setting: Setting, family: str) -> dict[str, Any]:
    """Compare 50 losses in fp32 with the CPU's.

    The tolerance is measured: how far the CPU's own losses move if its inputs move by a millionth, times 20. Adam
    amplifies rounding, because it scales small gradients up, so that no fixed number of digits is right.
    """
    padded, steps = family in PADDED, SMOKE_STEPS if setting.smoke else LOSS_STEPS
    runs = {}
    for name, arguments, data in (
        ("cpu", {"use_cpu": True}, examples(padded)),
        ("moved", {"use_cpu": True}, examples(padded, MOVED)),
        ("card", {}, examples(padded)),
        ("card bf16", {"bf16": True}, examples(padded)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            half = {"dtype": "bfloat16"} if "bf16" in arguments else {}
            model = build(setting, family, **NO_DROPOUT, **half)
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which recurrent layers would take
                runs[name] = trained(setting, model, data, steps, folder, **arguments)
    tolerance = max(ROUNDING * farthest(runs["moved"], runs["cpu"]), LEAST_TOLERANCE)
    difference = farthest(runs["card"], runs["cpu"])
    return {
        "passed": difference <= tolerance,
        "difference": difference,
        "tolerance": tolerance,
        "first_loss": runs["card"][0],
        "last_loss": runs["card"][-1],
        "last_loss_bf16": runs["card bf16"][-1],
    }


def resume(setting: Setting, precision: str) -> dict[str, Any]:
    """Compare a resumed run with dropout with one that never stopped: equal bits with deterministic kernels.

    Also reports whether two runs are equal without them.
    """
    bf16 = precision == "bf16"
    dtype = "bfloat16" if bf16 else None
    data, half = examples(), RESUME_STEPS // 2
    saving = {"bf16": bf16, "save_strategy": "steps", "save_steps": half}

    def run(folder: str, steps: int = RESUME_STEPS, checkpoint: str | None = None, **arguments: Any):
        model = build(setting, dtype=dtype)
        found = trained(setting, model, data, steps, folder, checkpoint, **saving | arguments)
        return delta(model), found[-half:]

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        with repeatable() as exceptions:
            whole, whole_losses = run(first)
            resumed, resumed_losses = run(second, checkpoint=f"{first}/checkpoint-{half}")
        plain = [run(folder, save_strategy="no")[0] for folder in (first, second)]
    return {
        "passed": same(whole, resumed) and whole_losses == resumed_losses,
        "without_deterministic_kernels": same(*plain),
        "no_deterministic_kernel_for": exceptions,
    }


def save_and_load(setting: Setting, dtype: str) -> dict[str, Any]:
    """Train with frozen weights of a dtype, save, load on the device and on the CPU: the same bits and logits."""
    flags = {short: True for short, name in HALF.items() if name == dtype}
    if flags.get("fp16") and setting.device.type == "cpu":
        flags = {}  # Trainer supports fp16 only on accelerators
    model = build(setting, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        found = trained(setting, model, examples(), SHORT_STEPS, folder, **flags)
        model.save_pretrained(f"{folder}/saved")
        loaded = FPTForSequenceClassification.from_pretrained(f"{folder}/saved", device_map=str(setting.device))
        on_cpu = FPTForSequenceClassification.from_pretrained(f"{folder}/saved")
    logits = [logits_of(one, setting.device) for one in (model, loaded)]
    facts = {
        "equal_bits": same(delta(model), delta(loaded)) and same(delta(model), delta(on_cpu)),
        "equal_logits": torch.equal(*logits),
        "frozen_dtype": str(loaded.config.dtype),
        "beside_cpu": float((logits_of(on_cpu, torch.device("cpu")) - logits[0].cpu()).abs().max()),
        "losses": found,
    }
    passed = facts["equal_bits"] and facts["equal_logits"] and facts["frozen_dtype"] == f"torch.{dtype}"
    return {"passed": passed, **facts}


def quantized(setting: Setting, bits: int) -> dict[str, Any]:
    """Train, save and load on a base in 8 or 4 bits: the loaded model has the same logits."""
    if not is_bitsandbytes_available():
        raise Skipped("bitsandbytes is not installed")
    settings = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    model = build(setting, "llama", quantization_config=BitsAndBytesConfig(**settings), dtype="bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        found = trained(setting, model, examples(), 5 * SHORT_STEPS, folder, bf16=True)
        model.save_pretrained(f"{folder}/saved")
        loaded = FPTForSequenceClassification.from_pretrained(f"{folder}/saved")
    expected, got = (logits_of(one, setting.device) for one in (model, loaded))
    learnt = sum(found[-SHORT_STEPS:]) < sum(found[:SHORT_STEPS])
    facts = {
        "learnt": learnt,
        "equal_bits": same(delta(model), delta(loaded)),
        "equal_logits": torch.equal(expected, got),
    }
    return {"passed": all(facts.values()), **facts, "first_loss": found[0], "last_loss": found[-1]}


def device_map(setting: Setting) -> dict[str, Any]:
    """Load backbones onto a device named in each possible way: all are there, with the same logits."""
    expected = logits_of(build(setting), setting.device)
    facts = {}
    name = setting.device.type
    for given in ("auto", name, {"": 0 if name == "cuda" else name}, torch.device(name)):
        model = build(setting, device_map=given)
        places = {parameter.device.type for parameter in model.parameters()}
        facts[str(given)] = places == {name} and torch.equal(logits_of(model, setting.device), expected)
    return {"passed": all(facts.values()), **facts}


def checkpointing(setting: Setting) -> dict[str, Any]:
    """Compare gradients with and without activation checkpointing, with dropout: equal up to rounding. And memory."""
    facts, passed = {}, True
    for dtype in ("float32", "bfloat16"):
        with repeatable():
            (plain, most), (again, less) = (_gradients(setting, dtype, checkpointed) for checkpointed in (False, True))
        difference = float((plain - again).norm() / plain.norm())
        facts[dtype] = {"difference": difference, "peak_bytes": most, "peak_bytes_checkpointed": less}
        passed &= difference <= CHECKPOINTED
    return {"passed": passed, **facts}


def _gradients(setting: Setting, dtype: str, checkpointed: bool) -> tuple[Tensor, int]:
    """All gradients of a step, (numbers,), and the peak memory in bytes."""
    restart_peak()
    model = build(setting, dtype=dtype).to(setting.device).train()
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    set_seed(2)
    model(**batch_of(setting.device)).loss.backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat(gradients), peak_bytes()


def two_models(setting: Setting) -> dict[str, Any]:
    """Compare two models that take steps in turn with each on its own; and check that their memory is freed."""
    with repeatable():
        alone = [_steps(setting, [family])[family] for family in ("gpt2", "bert")]
        gc.collect()
        before = allocated()  # with what libraries keep
        together = _steps(setting, ["gpt2", "bert"])
    undisturbed = alone == list(together.values())
    with tempfile.TemporaryDirectory() as folder:
        model = build(setting)
        trained(setting, model, examples(), SHORT_STEPS, folder)
        gone = weakref.ref(model)
        del model
    gc.collect()
    facts = {"undisturbed": undisturbed, "gone_after_training": gone() is None, "bytes_left": allocated() - before}
    return {"passed": undisturbed and gone() is None and facts["bytes_left"] <= 0, **facts}


def _steps(setting: Setting, families: list[str]) -> dict[str, list[float]]:
    """The losses of each family's model; the models take steps in turn."""
    models = {family: build(setting, family, **NO_DROPOUT).to(setting.device).train() for family in families}
    optimizers = {
        family: torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
        for family, model in models.items()
    }
    batch = batch_of(setting.device)
    found: dict[str, list[float]] = {family: [] for family in families}
    for _ in range(SHORT_STEPS):
        for family, model in models.items():
            loss = model(**batch).loss
            loss.backward()
            optimizers[family].step()
            optimizers[family].zero_grad()
            found[family].append(loss.item())
    return found


def drawing(setting: Setting) -> dict[str, Any]:
    """Check that a random base does not depend on the default device, and does not draw from the GPU's generators."""
    torch.manual_seed(3)
    before = _generators()
    model = new_model(setting)
    left = all(torch.equal(one, other) for one, other in zip(before, _generators(), strict=True))
    with torch.device(setting.device):
        other = new_model(setting)
    same_base = model.config.base_model_fingerprint == other.config.base_model_fingerprint
    return {"passed": left and same_base, "generators_left_alone": left, "same_base_by_default_there": same_base}


def _generators() -> list[Tensor]:
    return [torch.cuda.get_rng_state(index) for index in range(torch.cuda.device_count())]
