"""Fetching from the Hub: files checked against the hash that the cache knows them by, errors that say whose they are.

A download is checked by its size alone by the Hub's client. What does not have its hash is taken out of the cache, so
that the next attempt fetches it again. A file that had it is not read again, on this machine, as long as its size and
time stay what they were: a record beside the blobs says so.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..deltas.errors import DeltaError
from ..deltas.file import read_json

ATTEMPTS = 2
HUB_KEYS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")  # of `fetch`
RECORDS = ".fpt_checked"  # folder beside a repo's blobs: of each that had its hash, a file with its size and time
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
    home = " ('~' is not read as your home: os.path.expanduser does that)" if source.startswith("~") else ""
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

    Raises DeltaError for a file that twice did not have its hash, and for a link out of a local folder; OSError as the
    Hub's client and transformers do.
    """
    if os.path.isdir(repo_id):
        file = Path(repo_id, hub_kwargs.get("subfolder", ""), name)
        if not file.is_file():
            raise OSError(f"{file.parent} has no {name}.")
        return inside(file, Path(repo_id))

    def find() -> Path:
        found = cached_file(str(repo_id), name, **hub_kwargs)
        if found is None:  # transformers' answer for a config.json that is not there
            raise OSError(f"{repo_id} has no {name}.")
        return Path(found)

    return _whole(find, repo_id, name)


def fetch_base(source: str | os.PathLike, **hub_kwargs) -> Path:
    """A folder with the configuration of a base and all files of its weights: a local one, or one of the Hub's cache.

    In the cache, all of them have their hash. Raises as `fetch`, and OSError for a base without safetensors.
    """
    folder = fetch(source, CONFIG_NAME, **hub_kwargs).parent
    if os.path.isdir(source):
        return folder
    hub_kwargs["revision"] = commit_of(folder / CONFIG_NAME)
    if _fetch_if_there(source, SAFE_WEIGHTS_NAME, **hub_kwargs) is None:
        index = _fetch_if_there(source, SAFE_WEIGHTS_INDEX_NAME, **hub_kwargs)
        if index is None:
            raise OSError(
                f"{source} has no {SAFE_WEIGHTS_NAME}: bases are read from safetensors only. Save it anew with "
                "save_pretrained, and give that."
            )
        for name in sorted(set(read_json(index).get("weight_map", {}).values())):
            fetch(source, name, **hub_kwargs)
    return folder


def has_file(source: str | os.PathLike, name: str, **hub_kwargs) -> bool:
    """Whether a local folder or a Hub repo has a file. Raises OSError where the Hub gives no answer."""
    if os.path.isdir(source):
        return Path(source, name).is_file()
    return _fetch_if_there(source, name, **hub_kwargs) is not None


def _fetch_if_there(repo_id: str | os.PathLike, name: str, **hub_kwargs) -> Path | None:
    """A checked file of a Hub repo at a commit; None only where the Hub has said that it has none."""
    known = {name: hub_kwargs[name] for name in ("cache_dir", "revision") if hub_kwargs.get(name) is not None}
    if not isinstance(try_to_load_from_cache(str(repo_id), name, **known), (str, type(None))):
        return None  # the cache remembers the Hub's answer
    try:
        return _whole(lambda: Path(hf_hub_download(str(repo_id), name, **hub_kwargs)), repo_id, name)
    except RemoteEntryNotFoundError:
        return None


def _whole(find: Callable[[], Path], repo_id: str | os.PathLike, name: str) -> Path:
    for _ in range(ATTEMPTS):
        found = find()
        if discard_damaged(found):
            return found
    raise DeltaError(
        f"{name} of {repo_id} came damaged {ATTEMPTS} times, and was taken out of the cache: its hash is not the one "
        "that the Hub names. Try again, on another connection."
    )


def commit_of(path: Path) -> str | None:
    """The commit whose snapshot in the Hub's cache holds a file; None for a file elsewhere."""
    snapshot = _snapshot_of(path)
    return None if snapshot is None else snapshot.name


def _snapshot_of(path: Path) -> Path | None:
    for parent in path.absolute().parents:
        if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
            return parent
    return None


def inside(path: Path, folder: Path) -> Path:
    """`path`, if it is a file of `folder`, and no link to a place elsewhere on this machine.

    (The Hub's cache has links to its blobs.) Raises DeltaError.
    """
    snapshot, target = _snapshot_of(path), path.resolve()
    home = folder.resolve() if snapshot is None else snapshot.parent.parent.resolve()
    if not target.is_relative_to(home):
        raise DeltaError(
            f"{path} is a link to {target}, outside of {folder}: neither read nor uploaded. Put the file itself there."
        )
    return path


def discard_damaged(path: Path) -> bool:
    """Whether a file in the Hub's cache has its hash; one that has not is removed.

    The cache names its blobs by what the Hub answers: SHA-256 for large files, git's SHA-1 for others. A file that is
    no link to a blob (a cache without links) has no hash to check, and passes. One that another process has just
    removed has not.
    """
    blob = path.resolve()
    if blob.parent.name != "blobs" or not _is_hash(blob.name):
        return True
    record = blob.parent.with_name(RECORDS) / blob.name
    try:
        state = _state_of(blob)
        if _recorded(record) == state:
            return True
        whole = _hash_of(blob) == blob.name and _state_of(blob) == state
    except FileNotFoundError:
        return False
    if whole:
        _write_record(record, state)
    else:
        blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    return whole


def _is_hash(name: str) -> bool:
    return len(name) in (40, 64) and not set(name) - set("0123456789abcdef")


def _hash_of(blob: Path) -> str:
    digest = hashlib.sha256()
    if len(blob.name) == 40:
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(blob, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _state_of(blob: Path) -> str:
    """What changes where a file is written anew."""
    status = blob.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _recorded(record: Path) -> str | None:
    try:
        return record.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def _write_record(record: Path, state: str) -> None:
    with contextlib.suppress(OSError):  # of a cache that is read-only or full: its files are read again each time
        record.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, delete=False, encoding="ascii") as file:
            file.write(state)
        os.replace(file.name, record)
