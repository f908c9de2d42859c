"""Optional packages, and the extra of this package that installs them."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str, use: str) -> Iterator[None]:
    """Context manager for an import: if the package is missing, raise ImportError with its `use` and the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"{use}, which is missing here: pip install 'fpt_adapters[{name}]'") from error
