"""Draw which tokens each output token of a trained delta attends to, and print how much goes to the right ones.

    python examples/attention_maps.py model_cards/bit-xor --task_name bit-xor \
        --base_model_name_or_path sentence-transformers/all-MiniLM-L6-v2 --output map.png

The first argument is a saved delta, a folder or a Hub id; give the task the flags it was trained with. Inputs come
from the validation split. `--average heads` draws a panel for each layer, `none` for each layer and head, `all` a
single one; `--layer 2 --head 5` chooses one, from 0. Rows are the tokens that have labels, or all tokens.

For Bit XOR the right tokens of an output token are the bits at its place in each string: its own token, and those of
other strings; only the latter tell it something new. Their shares are printed as the mean over output tokens and for
the worst of them: if all attend to the same token, the mean is high and the worst is low.

Expected result of the command above: layer 0 finds the right bits, with 54.9 % of the attention on the one in the
other string (44.6 % for the worst output token; uniform attention: 10.0 %) and 98.2 % in its head 0; in layers 1 to 5
every output token attends mostly to token 0.
"""

if __name__ == "__main__":
    from starting import say_at_once

    say_at_once(__file__)

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import AutoConfig, HfArgumentParser
from transformers.utils import logging

from fpt_adapters import FPTConfig, FPTPreTrainedModel
from fpt_adapters.analysis.attention_maps import attention_maps, attention_mass, attention_panels, uniform_attention
from fpt_adapters.analysis.pictures import attention_grid
from fpt_adapters.backbones.causality import is_causal
from fpt_adapters.heads.problems import IGNORED_LABEL
from fpt_adapters.run.model import check_same_task
from fpt_adapters.run.parsing import mistakes_in_one_line, unknown_name
from fpt_adapters.tasks import TASKS, BitXor, Task

RIGHT = "right tokens"
SHORT_USAGE = "attention_maps.py DELTA --task_name TASK [--output FILE] [flags]; see --help"


@dataclass
class MapArguments:
    """Which maps of the delta, over how many examples, into which file."""

    task_name: str | None = field(default=None, metadata={"help": f"One of {', '.join(TASKS)}."})
    base_model_name_or_path: str | None = field(default=None, metadata={"help": "Where the delta's base is."})
    layer: int | None = field(default=None, metadata={"help": "One layer, from 0; default: all."})
    head: int | None = field(default=None, metadata={"help": "One head, from 0; default: all."})
    average: str = field(default="heads", metadata={"help": "heads, all or none."})
    examples: int = field(default=256, metadata={"help": "Validation examples to average over."})
    batch_size: int = field(default=8, metadata={"help": "Examples that run at once."})
    seed: int = field(default=0, metadata={"help": "Seed of the run, which may decide what is held out."})
    output: str = field(default="attention_maps.png", metadata={"help": "The picture; its ending names the format."})

    def __post_init__(self):
        if self.average not in ("heads", "all", "none"):
            raise ValueError(f"--average is heads, all or none; got {self.average!r}.")
        for flag in ("examples", "batch_size"):
            if getattr(self, flag) < 1:
                raise ValueError(f"--{flag} is at least 1; got {getattr(self, flag)}.")

    @property
    def layers(self) -> list[int] | None:
        """The chosen layers, or None for all."""
        return None if self.layer is None else [self.layer]

    @property
    def heads(self) -> list[int] | None:
        """The chosen heads, or None for all."""
        return None if self.head is None else [self.head]


def main(arguments: list[str]) -> dict[str, np.ndarray]:
    """Draw and print what the arguments ask for. Returns name -> shares in 0..1 (layers, heads, output tokens)."""
    delta, args, task = parse(arguments)
    model, inputs = load(delta, args, task)
    attention = attention_maps(model, inputs, layers=args.layers, heads=args.heads, batch_size=args.batch_size)
    tokens = attention.shape[-1]
    rows, masks = output_tokens(inputs["labels"], attention), named_masks(task, tokens)
    draw(attention, rows, masks.get(RIGHT), args, f"{task.name}: {Path(delta).resolve().name}")
    uniform = uniform_attention(tokens, is_causal(model.fpt_model.backbone))
    shares = {name: attention_mass(attention, mask)[..., rows] for name, mask in masks.items()}
    chance = {name: attention_mass(uniform, mask)[rows].mean() for name, mask in masks.items()}
    print(f"{args.output}: mean of {len(inputs['labels'])} validation examples, {len(rows)} output tokens")
    print_shares(shares, chance, args)
    return shares


def parse(arguments: list[str]) -> tuple[str, MapArguments, Task]:
    """The delta, the flags, and the task; its name is parsed first, because each task has its own flags."""
    names = HfArgumentParser(MapArguments, add_help=False, usage=SHORT_USAGE, allow_abbrev=False)
    name = names.parse_known_args(arguments)[0].task_name
    asks_help = "--help" in arguments or "-h" in arguments
    if name not in TASKS and not (name is None and asks_help):
        raise ValueError(f"--task_name is one of {', '.join(TASKS)}; got {name!r}.")
    classes = [MapArguments, *([] if name is None else [TASKS[name]])]
    parser = HfArgumentParser(classes, description=__doc__.splitlines()[0], usage=SHORT_USAGE, allow_abbrev=False)
    parser.add_argument("delta", help="A saved delta: folder or Hub id.")
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ValueError(unknown_name(unknown[0], [s for a in parser._actions for s in a.option_strings]))
    args, task, positional = parser.parse_args_into_dataclasses(arguments)
    return positional.delta, args, task


def load(delta: str, args: MapArguments, task: Task) -> tuple[FPTPreTrainedModel, dict[str, Tensor]]:
    """The trained model, and examples of the task's validation split in one batch."""
    try:
        config = AutoConfig.from_pretrained(delta, trust_remote_code=False)
    except OSError as error:
        raise OSError(f"the delta {delta!r} cannot be read: {error}") from error
    if not isinstance(config, FPTConfig):
        raise ValueError(f"{delta!r} is no saved delta, but a {config.model_type}: name the folder of a training run.")
    data = task.load(args.seed, {"validation": args.examples})
    check_same_task(config, data.config)
    model = task.model_class.from_pretrained(delta, base_model_name_or_path=args.base_model_name_or_path)
    return model, task.collate([data.validation[i] for i in range(len(data.validation))])


def output_tokens(labels: Tensor, attention: np.ndarray) -> np.ndarray:
    """Numbers of the tokens with a label in `labels` (batch, tokens[, bits]); all tokens for one label per sequence.

    Tokens that are padding in every example, whose `attention` (layers, heads, tokens, tokens) is NaN, are left out.
    """
    rows = np.isfinite(attention[0, 0, :, 0])  # (tokens,)
    if labels.ndim > 1:
        answered = (labels != IGNORED_LABEL).reshape(len(labels), len(rows), -1)  # (batch, tokens, bits)
        rows &= answered.any(dim=2).any(dim=0).numpy()
    return np.flatnonzero(rows)


def named_masks(task: Task, tokens: int) -> dict[str, np.ndarray]:
    """Masks of the attended tokens (columns) to count for each output token (row), by name: bool (tokens, tokens)."""
    own = np.eye(tokens, dtype=bool)
    if not isinstance(task, BitXor):
        return {"own token": own}
    place = np.arange(tokens) % task.tokens_per_string  # of a token in its string
    right = place[:, None] == place
    return {RIGHT: right, "right tokens of other strings": right & ~own}


def draw(attention: np.ndarray, rows: np.ndarray, targets: np.ndarray | None, args: MapArguments, title: str) -> None:
    """Write the picture, with the right tokens outlined where the task has any."""
    grid = len(attention[0]) if args.average == "none" else None  # a row has the heads of a layer
    title += "" if targets is None else f" ({RIGHT} outlined)"
    panels = attention_panels(attention, args.average, args.layers, args.heads)
    attention_grid(panels, args.output, columns=grid, rows=rows, targets=targets, title=title)


def print_shares(shares: dict[str, np.ndarray], chance: dict[str, float], args: MapArguments) -> None:
    """Print for each layer the mean over heads (mean and worst of the output tokens), and its best head."""
    for name, share in shares.items():  # (layers, heads, output tokens)
        print(f"\n{f'% of attention on {name}':<48}{'mean':>8}{'worst token':>13}{'best head':>11}{'its worst':>11}")
        for layer, of_heads in zip(args.layers or range(len(share)), 100 * share, strict=True):
            best = of_heads.mean(axis=1).argmax()
            number = (args.heads or range(len(of_heads)))[best]
            worst = of_heads.mean(axis=0).min()
            shown = f"{of_heads[best].mean():.1f} ({number})"
            print(
                f"{f'layer {layer}':<48}{of_heads.mean():>8.1f}{worst:>13.1f}{shown:>11}{of_heads[best].min():>11.1f}"
            )
        print(f"{'all layers':<48}{100 * share.mean():>8.1f}{100 * share.mean(axis=(0, 1)).min():>13.1f}")
        print(f"{'uniform attention':<48}{100 * chance[name]:>8.1f}")


if __name__ == "__main__":
    logging.set_verbosity_error()
    with mistakes_in_one_line(Path(__file__).name):
        main(sys.argv[1:])
