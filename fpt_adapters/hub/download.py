"""Downloading from the Hub: files are checked against the hash in the cache, and errors say what was being read.

The Hub's client checks only the size of a download. A file with a wrong hash is removed from the cache, so that the
next attempt downloads it again. A file with the right hash is not read again on this machine while its size and time
stay the same: a record beside the blobs keeps both.
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
RECORDS = ".fpt_checked"  # folder beside a repo's blobs: size and time of each blob that had its hash
HTTPError = HfHubHTTPError.__bases__[0]  # the HTTP library's own error, such as for a broken connection
CHUNK = 1 << 20


@contextlib.contextmanager
def saying_whose(source: str, whose: str, advice: str) -> Iterator[None]:
    """Context manager: add to errors in reading `source` what it was (`whose`) and what to write instead (`advice`).

    `whose`: such as "the base 'owner/base'"; `advice`: sentences. Raises the Hub client's own error or OSError. A
    `source` that is no folder and cannot be a Hub id is refused before the block runs.
    """
    whose = f"This is about {whose}."
    if not os.path.isdir(source):
        try:
            validate_repo_id(source)
        except HFValidationError as error:
            raise OSError(f"{_why_no_folder(source)}, and that can be no Hub id.\n{whose} {advice}") from error
        whose += f" {_why_no_folder(source)}, so it was looked for on the Hub."
    try:
        yield
    except (OSError, HTTPError) as error:
        own = _hub_error(error)
        moved = " Its history may have been rewritten." if isinstance(own, RevisionNotFoundError) else ""
        own.args = (f"{own}\n{whose}{moved} {advice}",)
        raise own from (None if own is error else error)


def _why_no_folder(source: str) -> str:
    """Why `source` cannot be read as a folder, in words."""
    if os.path.isfile(source):
        return f"{source!r} is a file, where a folder is wanted"
    home = " ('~' is not read as your home: os.path.expanduser does that)" if source.startswith("~") else ""
    return f"There is no folder {source!r} here{home}"


def _hub_error(error: Exception) -> OSError:
    """The first error of the Hub's client among the causes of `error`, else a copy of `error` without its number.

    The HTTP library's errors for a broken connection are no OSErrors, and become ConnectionErrors.
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
    """The path of a file in a local folder or, downloaded into the cache and checked, in a Hub repo.

    Raises DeltaError for a file that had a wrong hash twice, and for a link out of a local folder; OSError as the
    Hub's client and transformers do.
    """
    if os.path.isdir(repo_id):
        file = Path(repo_id, hub_kwargs.get("subfolder", ""), name)
        if not file.is_file():
            raise OSError(f"{file.parent} has no {name}.")
        return refuse_outside_link(file, Path(repo_id))

    def find() -> Path:
        found = cached_file(str(repo_id), name, **hub_kwargs)
        if found is None:  # transformers' answer for a config.json that is not there
            raise OSError(f"{repo_id} has no {name}.")
        return Path(found)

    return _fetch_undamaged(find, repo_id, name)


def fetch_base(source: str | os.PathLike, **hub_kwargs) -> Path:
    """A folder with a base's configuration and all files of its weights: local, or in the Hub's cache and checked.

    Raises as `fetch` does, and OSError for a base without safetensors.
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
    """The path of a checked file of a Hub repo at a commit; None only if the Hub has answered that there is none."""
    known = {name: hub_kwargs[name] for name in ("cache_dir", "revision") if hub_kwargs.get(name) is not None}
    if not isinstance(try_to_load_from_cache(str(repo_id), name, **known), (str, type(None))):
        return None  # the cache has noted the Hub's answer
    try:
        return _fetch_undamaged(lambda: Path(hf_hub_download(str(repo_id), name, **hub_kwargs)), repo_id, name)
    except RemoteEntryNotFoundError:
        return None


def _fetch_undamaged(find: Callable[[], Path], repo_id: str | os.PathLike, name: str) -> Path:
    for _ in range(ATTEMPTS):
        found = find()
        if discard_damaged(found):
            return found
    raise DeltaError(
        f"{name} of {repo_id} came damaged {ATTEMPTS} times, and was removed from the cache: its hash is not the one "
        "that the Hub names. Try again, on another connection."
    )


def commit_of(path: Path) -> str | None:
    """The commit that a file in the Hub's cache belongs to; None for a file elsewhere."""
    snapshot = _snapshot_of(path)
    return None if snapshot is None else snapshot.name


def _snapshot_of(path: Path) -> Path | None:
    for parent in path.absolute().parents:
        if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
            return parent
    return None


def refuse_outside_link(path: Path, folder: Path) -> Path:
    """Return `path`, a file in `folder`. Raises DeltaError if it is a link to somewhere else on this machine.

    (Links in the Hub's cache lead to its blobs, and are allowed.)
    """
    snapshot, target = _snapshot_of(path), path.resolve()
    home = folder.resolve() if snapshot is None else snapshot.parent.parent.resolve()
    if not target.is_relative_to(home):
        raise DeltaError(
            f"{path} is a link to {target}, outside of {folder}: neither read nor uploaded. Put the file itself there."
        )
    return path


def discard_damaged(path: Path) -> bool:
    """Whether a file in the Hub's cache has the right hash; if not, it is removed.

    The cache names its blobs by the hash that the Hub answers: SHA-256 for large files, git's SHA-1 for others. A file
    that is no link to a blob (a cache without links) has no hash to check: True. False for one that another process
    has just removed.
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
    """Inode, size and time of a file, which change when it is written again."""
    status = blob.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _recorded(record: Path) -> str | None:
    try:
        return record.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def _write_record(record: Path, state: str) -> None:
    with contextlib.suppress(OSError):  # a read-only or full cache: its files are hashed again each time
        record.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, delete=False, encoding="ascii") as file:
            file.write(state)
        os.replace(file.name, record)
