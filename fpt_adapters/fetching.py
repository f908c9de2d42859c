"""Fetching from the Hub: files checked against the hash that the cache knows them by, errors that say whose they are.

A download is checked by its size alone by the Hub's client. What does not have its hash is taken out of the cache, so
that the next attempt fetches it again.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from transformers.utils import CONFIG_NAME, cached_file

from .delta import DeltaError

ATTEMPTS = 2
HUB_KEYS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")  # of `fetch`
HTTPError = HfHubHTTPError.__bases__[0]  # of the HTTP library under the Hub's client: a broken connection's
CHUNK = 1 << 20


@contextlib.contextmanager
def saying_whose(source: str, whose: str, advice: str) -> Iterator[None]:
    """Raise what cannot be read at `source` as the Hub's own error, or OSError, with what it was about added.

    `whose`: that in words, as "the base 'owner/base'"; `advice`: sentences, what to write instead. A `source` that is
    no folder and can be no Hub id is refused before anything is looked for.
    """
    whose = f"This is about {whose}."
    if not os.path.isdir(source):
        try:
            validate_repo_id(source)
        except HFValidationError as error:
            raise OSError(f"{_unfound(source)}, and that can be no Hub id.\n{whose} {advice}") from error
        whose += f" {_unfound(source)}, so it was looked for on the Hub."
    try:
        yield
    except (OSError, HTTPError) as error:
        own = _hub_error(error)
        moved = " Its history may have been rewritten." if isinstance(own, RevisionNotFoundError) else ""
        own.args = (f"{own}\n{whose}{moved} {advice}",)
        raise own from (None if own is error else error)


def _unfound(source: str) -> str:
    """Why `source` is no folder."""
    if os.path.isfile(source):
        return f"{source!r} is a file, where a folder is wanted"
    home = ": '~' is not read as your home, os.path.expanduser does that" if source.startswith("~") else ""
    return f"There is no folder {source!r} here{home}"


def _hub_error(error: Exception) -> OSError:
    """The first error of the Hub's client among the causes of `error`, else a copy of `error` without its number.

    The HTTP library's own errors, of a connection that broke, are no OSErrors, and become ConnectionErrors.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (HfHubHTTPError, LocalEntryNotFoundError)):
            return cause
        if isinstance(cause, HTTPError):
            return ConnectionError(f"The connection to the Hub broke: {cause}")
        cause = cause.__cause__ or cause.__context__
    return error if error.errno is None else OSError(str(error))


def fetch(repo_id: str | os.PathLike, name: str, **hub_kwargs) -> Path:
    """A file of a local folder or, through the cache and checked, of the Hub.

    Raises DeltaError for a file that twice did not have its hash, OSError as the Hub's client and transformers do.
    """
    if os.path.isdir(repo_id):
        file = Path(repo_id, hub_kwargs.get("subfolder", ""), name)
        if not file.is_file():
            raise OSError(f"{file.parent} has no {name}.")
        return file
    for _ in range(ATTEMPTS):
        found = cached_file(str(repo_id), name, **hub_kwargs)
        if found is None:  # transformers' answer for a config.json that is not there
            raise OSError(f"{repo_id} has no {name}.")
        if discard_damaged(Path(found)):
            return Path(found)
    raise DeltaError(
        f"{name} of {repo_id} came damaged {ATTEMPTS} times, and was taken out of the cache: its hash is not the one "
        "that the Hub names. Try again, on another connection."
    )


def commit_of(path: Path) -> str | None:
    """The commit whose snapshot in the Hub's cache holds a file; None for a file elsewhere."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def discard_damaged(path: Path) -> bool:
    """Whether a file in the Hub's cache has its hash; one that has not is removed.

    The cache names its blobs by what the Hub answers: SHA-256 for large files, git's SHA-1 for others. A file that is
    no link to a blob (a cache without links) has no hash to check, and passes.
    """
    blob = path.resolve()
    if blob.parent.name != "blobs" or not _is_hash(blob.name):
        return True
    if len(blob.name) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(blob, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() == blob.name:
        return True
    blob.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return False


def _is_hash(name: str) -> bool:
    return len(name) in (40, 64) and not set(name) - set("0123456789abcdef")


@contextlib.contextmanager
def checking_downloads(repo_id: str, revision: str | None, cache_dir: str | os.PathLike | None) -> Iterator[None]:
    """Check the files of a Hub model that are fetched inside the block; those cached before are not read again.

    Raises DeltaError for a damaged one, which is removed.
    """
    before = _snapshot(repo_id, revision, cache_dir)
    try:
        yield
    finally:  # a damaged file may also fail to be read
        new = _snapshot(repo_id, revision, cache_dir) - before
        damaged = [path.name for path in new if not discard_damaged(path)]
        if damaged:
            raise DeltaError(
                f"{', '.join(sorted(damaged))} of the base {repo_id} came damaged, and was taken out of the cache: "
                "the hash is not the one that the Hub names. Load again, on another connection."
            )


def _snapshot(repo_id: str, revision: str | None, cache_dir: str | os.PathLike | None) -> set[Path]:
    """The files of a Hub model that the cache holds at `revision`."""
    config = try_to_load_from_cache(repo_id, CONFIG_NAME, cache_dir=cache_dir, revision=revision)
    if not isinstance(config, str):
        return set()
    return {path for path in Path(config).parent.rglob("*") if path.is_file()}
