"""The process that runs cases for `gpu.py`, one for each line of JSON that it reads; answers are lines after "@"."""

import gc
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from gpu_parts.clock import give_memory_back
from gpu_parts.setting import Setting, Skipped


def say(**answer: Any) -> None:
    """Print an answer."""
    print("\n@" + json.dumps(answer), flush=True)  # a library may have left its line unfinished


def answer(case: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """Run a case and return its answer; the status is "wrong" if its facts have a false "passed"."""
    module, _, name = case["function"].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        gc.freeze()  # so that garbage collection in each run does not go through all imported modules
        facts = function(setting, **case["arguments"])
    except Skipped as reason:
        return {"status": "skipped", "why": str(reason)}
    except torch.OutOfMemoryError as error:
        return {"status": "skipped", "why": f"the card's memory does not suffice: {error}"}
    except Exception as error:  # any error belongs in the results, and the other cases go on
        return {"status": "failed", "why": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {"status": "ok" if facts.get("passed", True) else "wrong", "facts": facts}


def main(settings: str) -> None:
    """Run the requested cases."""
    values = json.loads(settings)
    setting = Setting(**values | {"folder": Path(values["folder"])})
    say(status="ready")
    for line in sys.stdin:
        found = answer(json.loads(line), setting)
        give_memory_back()
        say(**found)


if __name__ == "__main__":
    main(sys.argv[1])
