"""The results as text: a line for each as it is finished, and summary.md."""

from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]
MFU, TIME, MEMORY = 0.45, 0.55, 0.40  # targets, in bf16: at least; at most, over full fine-tuning's
COLUMNS = (
    "what",
    "batch x tokens",
    "ms a step (min-max)",
    "over full bf16",
    "samples/s",
    "MFU",
    "of matmul here",
    "peak GiB",
    "over full bf16",
    "card waits",
)
CHECKS = ("correctness", "speed/graph-breaks", "speed/waits-for-card")  # cases of which all facts are shown
PLAIN = "fpt bf16"  # the row that is compared with `FULL`, and whose kernels are shown
FULL = "full bf16"  # the denominator of the ratios, on the same backbone and batch


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The last line of each case, in the order of first appearance."""
    found: dict[str, Record] = {}
    for record in records:
        found[record["case"]] = record
    return found


def brief(record: Record) -> str:
    """One line: the case, its status, and its main figure."""
    facts = record.get("facts", {})
    text = f"{record['case']}: {record['status']} in {record['seconds']:.1f} s"
    if "step_seconds" in facts:
        text += f", {1000 * facts['step_seconds']:.2f} ms a step, MFU {percent(facts['mfu'])}"
    if "why" in record:
        text += f" ({record['why'].splitlines()[0][:200]})"
    return text


def summary(records: list[Record]) -> str:
    """All results so far, as Markdown."""
    found = latest(records)
    setup = found.get("setup", {}).get("facts", {})
    title = "# A smoke run on a CPU: figures mean nothing" if setup.get("smoke") else "# On a GPU"
    parts = [title, machine(found), targets(found)]
    for shape in dict.fromkeys(rows_of(found)):
        parts.append(f"## Speed, {shape}\n\n{speed_table(found, shape)}")
        parts.append(kernels(speed_rows(found, shape).get(PLAIN, {})))
    parts += [pipeline(found), *rest(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def machine(found: dict[str, Record]) -> str:
    """The facts about the machine, as a list."""
    facts = [found[name]["facts"] for name in ("setup", "machine/card", "machine/rates") if is_ok(found, name)]
    lines = []
    for name, value in (item for one in facts for item in one.items()):
        if isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items())
        lines.append(f"- {name}: {f'{value:.3g}' if isinstance(value, float) else value}")
    return "\n".join(lines)


def is_ok(found: dict[str, Record], name: str) -> bool:
    """Whether a case has facts."""
    return name in found and "facts" in found[name]


def rows_of(found: dict[str, Record]) -> list[str]:
    """The backbone of each speed row."""
    return [record["facts"]["shape"] for record in found.values() if "step_seconds" in record.get("facts", {})]


def speed_rows(found: dict[str, Record], shape: str) -> dict[str, dict[str, Any]]:
    """The rows of one backbone by label, with ratios over full fine-tuning if the batch is the same."""
    prefix = f"speed/{shape}/"
    rows = {
        name.removeprefix(prefix): dict(record["facts"])
        for name, record in found.items()
        if name.startswith(prefix) and "step_seconds" in record.get("facts", {})
    }
    full = rows.get(FULL)
    for row in rows.values():
        if full is not None and row["batch"] == full["batch"]:
            row["time_ratio"] = row["step_seconds"] / full["step_seconds"]
            row["memory_ratio"] = row["peak_bytes"] / full["peak_bytes"]
    return rows


def speed_table(found: dict[str, Record], shape: str) -> str:
    """The table of one backbone."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for label, row in speed_rows(found, shape).items():
        low, high = (1000 * seconds for seconds in row["step_seconds_min_max"])
        cells = (
            label,
            f"{row['batch']} x {row['tokens']}",
            f"{1000 * row['step_seconds']:.2f} ({low:.2f}-{high:.2f})",
            ratio(row.get("time_ratio")),
            f"{row['samples_per_second']:.0f}",
            percent(row["mfu"]),
            percent(row["share_of_matmul"]),
            f"{row['peak_bytes'] / 2**30:.2f}",
            ratio(row.get("memory_ratio")),
            percent(row["card_waits"]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kernels(row: dict[str, Any]) -> str:
    """The kernels that take most of a row's time."""
    if not row.get("kernels"):
        return ""
    shares = "\n".join(f"- {percent(share)} `{name}`" for name, share in row["kernels"])
    return f"Of the kernels' time of '{PLAIN}':\n\n{shares}"


def targets(found: dict[str, Record]) -> str:
    """The targets and what was reached, for each backbone."""
    lines = []
    for shape in dict.fromkeys(rows_of(found)):
        rows = speed_rows(found, shape)
        fpt = {label: row for label, row in rows.items() if row["contestant"] == "fpt" and row["precision"] == "bf16"}
        used = {label: row["mfu"] for label, row in fpt.items() if row["mfu"] is not None}
        if used:
            best = max(used, key=used.get)
            lines.append(target(shape, f"MFU, the best FPT row in bf16 ({best})", used[best], MFU, used[best] >= MFU))
        plain = fpt.get(PLAIN, {})
        for what, key, most in (("step", "time_ratio", TIME), ("peak memory", "memory_ratio", MEMORY)):
            if key in plain:
                text = f"{what} of FPT over full fine-tuning, both in bf16 with as many sequences"
                lines.append(target(shape, text, plain[key], most, plain[key] <= most))
    if not lines:
        return ""
    head = "| backbone | target | aimed at | came | |\n|---|---|---|---|---|\n"
    return "## Targets\n\n" + head + "\n".join(lines)


def target(shape: str, what: str, came: float, aim: float, met: bool) -> str:
    """A row of the table of targets."""
    return f"| {shape} | {what} | {aim:.2f} | {came:.2f} | {'met' if met else 'not met'} |"


def pipeline(found: dict[str, Record]) -> str:
    """How much of a step waits for data."""
    columns = ("data", "workers", "loader alone, samples/s", "step alone, samples/s", "in training", "waits for data")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, record in found.items():
        for row in record.get("facts", {}).get("loaders", []):
            speeds = (row[key] for key in ("loader", "step", "training"))
            cells = (name.partition("/")[2], str(row["workers"]), *(f"{one:,.0f}" for one in speeds))
            lines.append("| " + " | ".join((*cells, percent(row["waits"]))) + " |")
    return "## Data\n\n" + "\n".join(lines) if len(lines) > 2 else ""


def rest(found: dict[str, Record]) -> list[str]:
    """The other cases, and those that failed, with their tracebacks."""
    shown = [
        f"- {name}: {record['status']}{told(record)}"
        for name, record in found.items()
        if record["status"] != "ok" or name.startswith(CHECKS)
    ]
    traces = [
        f"### {name}\n\n```\n{record['traceback'].rstrip()}\n```"
        for name, record in found.items()
        if "traceback" in record
    ]
    return ["## Cases\n\n" + "\n".join(shown) if shown else "", *traces]


def told(record: Record) -> str:
    """The reason, or the facts, in one line."""
    if "why" in record:
        return f", {record['why'].splitlines()[0][:300]}"
    facts = {key: value for key, value in record["facts"].items() if key != "passed"}
    return "; " + ", ".join(
        f"{key} {f'{value:.3g}' if isinstance(value, float) else value}" for key, value in facts.items()
    )


def percent(share: float | None) -> str:
    """0.456 -> "45.6 %"."""
    return "" if share is None else f"{100 * share:.1f} %"


def ratio(value: float | None) -> str:
    """0.456 -> "0.46"."""
    return "" if value is None else f"{value:.2f}"
