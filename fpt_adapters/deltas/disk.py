"""Writing files: a new folder is made completely or not at all, and a full disk gives one error that says what to do.

Libraries have their own errors for a full disk: safetensors' is no OSError, torch's is a RuntimeError that does not
mention the disk.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import CONFIG_NAME

STAGING_PREFIX = ".saving-"
BESIDE = 2**14  # bytes of a header and a configuration, in addition to the tensors
FULL = (errno.ENOSPC, errno.EDQUOT)
RUST_FULL = tuple(f"(os error {number})" for number in FULL)  # how safetensors' errors end


class NoSpaceError(OSError):
    """The disk has no room for what should be written. `errno` is ENOSPC, as in the file system's own error."""


@contextlib.contextmanager
def room_for(folder: str | os.PathLike, needed: int | None = None) -> Iterator[None]:
    """Context manager: raise NoSpaceError if the block fails because the disk of `folder` is full.

    `needed`: about how many bytes it writes. A RuntimeError (torch's) counts if fewer bytes than that are free.
    """
    try:
        yield
    except NoSpaceError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_of_full_disk(error, folder, needed):
            raise
        raise _no_space(folder, needed) from error


def refuse_full_disk(folder: str | os.PathLike, needed: int) -> None:
    """Raise NoSpaceError if the disk of `folder` has fewer free bytes than `needed`."""
    if _free(folder) < needed:
        raise _no_space(folder, needed)


def _is_of_full_disk(error: Exception, folder: str | os.PathLike, needed: int | None) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    if isinstance(error, SafetensorError):
        return str(error).endswith(RUST_FULL)
    return needed is not None and _free(folder) < needed


def _no_space(folder: str | os.PathLike, needed: int | None) -> NoSpaceError:
    wanted = "" if needed is None else f"about {needed:,} bytes are needed and "
    return NoSpaceError(
        errno.ENOSPC,
        f"No space left on the disk {_mount(folder)}: to write into {os.fspath(folder)!r}, {wanted}"
        f"{_free(folder):,} are free. Make room, or name a folder on another disk; files written before are whole",
    )


def _free(folder: str | os.PathLike) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: str | os.PathLike) -> Path:
    """The folder, or its nearest parent that exists."""
    path = Path(folder).absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


def _mount(folder: str | os.PathLike) -> Path:
    path = _existing(folder)
    return next(place for place in (path, *path.parents) if os.path.ismount(place))


@contextlib.contextmanager
def new_folder(directory: str | os.PathLike, what: str, needed: int) -> Iterator[Path]:
    """Context manager: yield a temporary folder, which becomes `directory` if the block succeeds.

    `needed`: about how many bytes are written. Raises ValueError, naming `what` is saved, if `directory` is a file or
    not empty, and NoSpaceError.
    """
    directory = Path(directory)
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise ValueError(f"{what} is saved into a new folder, but {directory} holds something: name another.")
    with room_for(directory, needed):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=directory.parent) as staging:
            written = Path(staging) / directory.name
            written.mkdir()
            yield written
            share_weights(written)
            if directory.is_dir():
                directory.rmdir()
            written.rename(directory)


def share_weights(folder: Path) -> None:
    """Give the weights in `folder` the permissions of its config.json, because safetensors makes its files private."""
    for file in folder.glob("*.safetensors"):
        file.chmod((folder / CONFIG_NAME).stat().st_mode)


def size_of(tensors: Iterable[Tensor]) -> int:
    """The approximate bytes of a file with `tensors`, and of the configuration beside it."""
    return sum(tensor.nbytes for tensor in tensors) + BESIDE
