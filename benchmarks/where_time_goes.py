"""Where the time of a training step goes, by kind of operator, from torch's profiler.

    OMP_NUM_THREADS=1 python benchmarks/where_time_goes.py --steps 10

MiniLM's shape, 16 x 64 tokens, as in curves.py. It prints each kind's share of the step: the time of its operators
without other operators that they call, and the time outside operators, which is Python and the profiler itself.
"""

import argparse
import time
from collections import Counter

import torch
from curves import VARIANTS, WARM_UP, Point, stepper
from torch.profiler import profile
from tqdm import tqdm
from transformers.utils import logging

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "copies and casts": ("copy_", "clone", "cat", "_to_copy", "contiguous", "fill_", "zero_"),
    "activation": ("gelu", "gelu_backward", "tanh", "tanh_backward", "pow"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "random numbers of dropout": ("random_", "ge", "bernoulli_", "native_dropout"),
    "optimizer and clipping": ("_fused_adamw_", "_foreach_norm", "_foreach_mul_", "linalg_vector_norm"),
}
OTHER, OUTSIDE = "other element-wise work", "outside operators"


def kind_of(name: str) -> str:
    """The kind of an operator."""
    bare = name.removeprefix("aten::")
    return next((kind for kind, names in KINDS.items() if bare in names), OTHER)


def shares(variant: str, steps: int) -> Counter:
    """The share of each kind in the wall time of `steps` steps."""
    step = stepper(Point(16), variant, "cpu")
    for _ in range(WARM_UP):
        step()
    with profile() as recorded:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wall = time.perf_counter() - start
    found = Counter()
    for event in recorded.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / wall
    found[OUTSIDE] = max(0.0, 1 - found.total())
    return found


def main() -> None:
    """Profile each variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    columns = {variant: shares(variant, arguments.steps) for variant in tqdm(VARIANTS, leave=False)}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|")
    for kind in (*KINDS, OTHER, OUTSIDE):
        print(f"| {kind} | " + " | ".join(f"{100 * column[kind]:.1f} %" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
