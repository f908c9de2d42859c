"""What a script does before its slow imports: print a line, and keep one of them quiet."""

import os
from pathlib import Path


def say_at_once(script: str) -> None:
    """Print that `script` (its file) starts, in the first process only.

    Then import this library before transformers' Trainer, which imports bitsandbytes if it is installed; that would
    print a line about a kernel that nothing here uses.
    """
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(script).name}: importing torch and transformers ...", flush=True)
    import fpt_adapters  # noqa: F401
