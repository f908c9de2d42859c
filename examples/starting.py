"""What a script does before its imports, which take seconds: say so, and keep one of them quiet."""

import os
from pathlib import Path


def say_at_once(script: str) -> None:
    """Print that `script` (its file) starts, in the first process of several.

    Then import the library, before transformers' Trainer: that brings in bitsandbytes, where it is installed, which
    would print a line about a kernel that nothing here uses.
    """
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(script).name}: importing torch and transformers ...", flush=True)
    import fpt_adapters  # noqa: F401
