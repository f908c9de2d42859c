"""Train and score a frozen pretrained transformer on one of the paper's tasks.

    python examples/run_fpt.py --task_name cifar10 --model_name_or_path openai-community/gpt2 --output_dir out \
        --do_train --do_eval
    accelerate launch examples/run_fpt.py examples/recipes/mnist.yaml --output_dir out

The first argument may be a recipe (YAML or JSON: flags and their values); flags after it override it. Each task has
its own flags: `python examples/run_fpt.py --task_name mnist --help`. Results are in `<output_dir>/all_results.json`:
`eval_accuracy` (validation split) and `eval_floor`, the accuracy that needs no learning, and with `--do_predict`
`test_accuracy` and `test_floor`.
"""

if __name__ == "__main__":
    from starting import say_at_once

    say_at_once(__file__)

import sys
from pathlib import Path

from fpt_adapters.run.parsing import mistakes_in_one_line
from fpt_adapters.run.training import SCRIPT, main

if __name__ == "__main__":
    with mistakes_in_one_line(Path(__file__).name):
        main(sys.argv[1:], SCRIPT)
