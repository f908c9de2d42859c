"""Pictures of training runs, drawn with matplotlib (an extra: `pip install fpt_adapters[examples]`)."""

import os
from collections.abc import Mapping, Sequence


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    path: str | os.PathLike,
    *,
    metric: str = "eval_accuracy",
    floor: float | None = None,
    title: str = "",
) -> None:
    """Draw accuracy and training loss against steps, a line for each run, into an image file at `path`.

    `histories`: Trainer's `state.log_history` by run name. `metric` lies in 0..1. `floor`: a dashed line at the score
    that needs no learning.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, history in histories.items():
        scored = [row for row in history if metric in row]
        lost = [row for row in history if "loss" in row]
        left.plot([r["step"] for r in scored], [100 * r[metric] for r in scored], marker="o", markersize=3, label=name)
        right.plot([r["step"] for r in lost], [r["loss"] for r in lost], label=name)
    if floor is not None:
        left.axhline(100 * floor, color="grey", linestyle="--", linewidth=1, label=f"floor {100 * floor:.1f} %")
    left.set(xlabel="step", ylabel=f"{metric.removeprefix('eval_')} (%)", ylim=(None, 101), title="Evaluation")
    right.set(xlabel="step", ylabel="loss", ylim=(0, None), title="Training loss")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend(loc="best", frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    plt.close(figure)
