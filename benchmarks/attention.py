"""Plain matrix products beside `scaled_dot_product_attention`, forward and backward: which is faster at which length.

    python benchmarks/attention.py --rounds 9

`fpt_adapters.backbones.cpu.attention` takes plain products, in pieces, with dropout, else up to `LONGEST` tokens;
these limits come from here. Each round times both in turn, 4,096 tokens in all, so that longer sequences make smaller
batches. It prints ratios of medians, sdpa over plain products: above 1, plain products are faster.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fpt_adapters.backbones.cpu import attention

TOKENS, LENGTHS = 4096, (16, 32, 64, 128, 256, 512, 1024, 2048)
SIZES = {"MiniLM": (12, 32), "GPT-2": (12, 64)}  # heads, width of one


def case(length: int, heads: int, width: int, dtype: torch.dtype, mask: str) -> tuple[list[Tensor], Tensor | None]:
    """Query, key and value (batch, heads, length, width), and the mask."""
    batch = max(1, TOKENS // length)
    tensors = [torch.randn(batch, heads, length, width).to(dtype).requires_grad_() for _ in range(3)]
    if mask != "padding":
        return tensors, None
    real = torch.arange(length) < torch.randint(length // 2, length + 1, (batch, 1))
    return tensors, real[:, None, None].expand(batch, 1, length, length)


def seconds(function, layer: nn.Module, tensors: list[Tensor], mask: Tensor | None, dropout: float) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    output, _ = function(layer, *tensors, mask, dropout=dropout, is_causal=layer.is_causal)
    output.backward(torch.ones_like(output))
    return time.perf_counter() - start


def main() -> None:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed passes of each case")
    arguments = parser.parse_args()
    attention.LONGEST = dict.fromkeys(attention.LONGEST, LENGTHS[-1])
    functions = {"plain": attention.attention_forward, "sdpa": sdpa_attention_forward}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; sdpa over plain products")
    print("| heads x width | precision | dropout | mask | " + " | ".join(map(str, LENGTHS)) + " |")
    print("|---" * (4 + len(LENGTHS)) + "|")
    cases = [
        (size, dtype, dropout, mask)
        for size in SIZES
        for dtype in (torch.float32, torch.bfloat16)
        for dropout in (0.0, 0.1)
        for mask in ("none", "causal", "padding")
    ]
    for size, dtype, dropout, mask in tqdm(cases):
        layer = nn.Module()
        layer.is_causal, ratios = mask == "causal", []
        for length in LENGTHS:
            tensors, given = case(length, *SIZES[size], dtype, mask)
            times: dict[str, list[float]] = {name: [] for name in functions}
            for number in range(arguments.rounds + 2):
                for name, function in functions.items():
                    passed = seconds(function, layer, tensors, given, dropout)
                    times[name] += [passed] if number >= 2 else []
            ratios.append(statistics.median(times["sdpa"]) / statistics.median(times["plain"]))
        cells = [f"{size} {SIZES[size][0]} x {SIZES[size][1]}", str(dtype).removeprefix("torch."), dropout, mask]
        tqdm.write("| " + " | ".join([*map(str, cells), *(f"{ratio:.2f}" for ratio in ratios)]) + " |")


if __name__ == "__main__":
    main()
