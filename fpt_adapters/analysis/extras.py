"""What is needed for some uses alone, and the extra of this package that brings it."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str, use: str) -> Iterator[None]:
    """Around an import: raise ImportError for a missing package that says its `use`, and which extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"{use}, which is missing here: pip install 'fpt_adapters[{name}]'") from error
