"""`fpt-adapters`, also `python -m fpt_adapters`: train a delta on your own data, and answer with one."""

import sys
from collections.abc import Callable

USAGE = """\
fpt-adapters train --task_name TASK --model_name_or_path BASE --train_file FILE --output_dir DIR --do_train --do_eval
fpt-adapters predict --model DELTA --file FILE --output FILE

Each has --help; `fpt-adapters train --task_name TASK --help` has the flags of a task."""


def main() -> None:
    """Run the command that the first argument names; without one, or with --help, say which there are."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        print(USAGE)
        return
    if name not in ("train", "predict"):
        sys.exit(f"fpt-adapters: error: there is no command {name!r}.\n{USAGE}")
    from .run.parsing import mistakes_in_one_line

    with mistakes_in_one_line(f"fpt-adapters {name}"):
        _command(name)(arguments)


def _command(name: str) -> Callable[[list[str]], object]:
    if name == "train":
        from .run.training import main as command
    else:
        from .run.predicting import main as command
    return command


if __name__ == "__main__":
    main()
