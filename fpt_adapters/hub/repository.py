"""The Hub repo of a delta and its upload: configuration, delta, processor, card with pictures, perhaps code.

Nothing else is ever uploaded: no pickle, no backbone, no local path.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError, RevisionNotFoundError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from ..deltas.file import read_digests
from .card import CARD_NAME, MARKER, PICTURE_TITLES, FPTCard
from .card_reading import retitle
from .code_export import PROCESSOR_CONFIG, code_files, name_code
from .download import fetch, refuse_outside_link
from .sharing import Origin

logger = logging.get_logger(__name__)

PICTURES = tuple(PICTURE_TITLES)
PROCESSOR_FILES = (
    PROCESSOR_CONFIG,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    # What tokenizers have that transformers has in Python alone.
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
SAVED_FILES = (CONFIG_NAME, SAFE_WEIGHTS_NAME, *PROCESSOR_FILES)
CARD_FILES = (CARD_NAME, *PICTURES)
REPOSITORY_FILES = (*SAVED_FILES, *CARD_FILES)


def push(model, repo_id: str, tags: Iterable[str] | None = None, **commit: Any) -> CommitInfo:
    """Upload `model` to the Hub repo `repo_id`. `commit`: the keyword arguments of `upload`."""
    with tempfile.TemporaryDirectory() as folder:
        write_repository(model, folder, repo_id, tags)
        return upload(repository_files(folder, model), repo_id, **commit)


def write_repository(model, folder: str | os.PathLike, repo_id: str, tags: Iterable[str] | None = None) -> None:
    """Write all files of the Hub repo `repo_id` of `model` into `folder`, except the code.

    Processor and card are `model.processor` and `model.card`. A loaded model without its own keeps those from where it
    was loaded; the card only if the delta is unchanged, because else its results are not this model's.
    """
    folder = Path(folder)
    model.save_pretrained(folder)
    if model.processor is not None:
        model.processor.save_pretrained(folder)
    elif model.origin is not None:
        _fetch_all(model.origin, PROCESSOR_FILES, folder)
    if model.card is None and _copy_card_of_same_delta(model, folder):
        card_file = folder / CARD_NAME
        text = retitle(card_file.read_text(encoding="utf-8"), repo_id, model.with_code)
        card_file.write_text(text, encoding="utf-8")
    else:
        card = model.card or FPTCard()
        card = dataclasses.replace(card, tags=[*card.tags, *(tags or ())])
        card.write(folder, model, repo_id, with_code=model.with_code)


def _copy_card_of_same_delta(model, folder: Path) -> bool:
    """Copy the loaded delta's card and pictures, if `model` still is that delta. Returns whether there is a card."""
    if model.origin is None:
        return False
    loaded = fetch(model.origin.name_or_path, SAFE_WEIGHTS_NAME, **model.origin.hub_kwargs)
    if read_digests(loaded) != read_digests(folder / SAFE_WEIGHTS_NAME):
        return False
    return CARD_NAME in _fetch_all(model.origin, (CARD_NAME, *PICTURES), folder)


def _fetch_all(origin: Origin, names: Iterable[str], folder: Path) -> list[str]:
    """Copy those of the files `names` that exist at `origin` into `folder`; returns their names."""
    names = [name for name in names if name in _listed(origin)]
    for name in names:
        shutil.copyfile(fetch(origin.name_or_path, name, **origin.hub_kwargs), folder / name)
    return names


def _listed(origin: Origin) -> list[str]:
    subfolder = origin.hub_kwargs.get("subfolder") or ""
    if os.path.isdir(origin.name_or_path):
        return os.listdir(Path(origin.name_or_path) / subfolder)
    listed = HfApi(token=origin.hub_kwargs.get("token")).list_repo_files(
        origin.name_or_path, revision=origin.hub_kwargs.get("revision")
    )
    prefix = f"{subfolder}/" if subfolder else ""
    return [name.removeprefix(prefix) for name in listed if name.startswith(prefix)]


def repository_files(
    folder: str | os.PathLike, model=None, card_folder: str | os.PathLike | None = None
) -> dict[str, bytes]:
    """The files to upload for a model that is saved in `folder`: name -> bytes. Other files there are ignored.

    `model`: that model, which says whether the library's code is uploaded (None: it is not). `card_folder`: the folder
    of the card and its pictures (None: `folder`). Raises DeltaError for a link to a place outside of these folders.
    """
    files = _read(Path(folder), SAVED_FILES) | _read(Path(card_folder or folder), CARD_FILES)
    if model is None:
        return files
    processor = files.get(PROCESSOR_CONFIG)
    if processor is not None:
        files[PROCESSOR_CONFIG] = name_code(processor, model.with_code)
    code = code_files(model.config, processor or b"{}") if model.with_code else {}
    return files | {name: text.encode() for name, text in code.items()}


def _read(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    files = [file for file in sorted(folder.iterdir()) if file.name in names]
    return {file.name: refuse_outside_link(file, folder).read_bytes() for file in files}


def upload(
    files: Mapping[str, bytes],
    repo_id: str,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload delta",
    commit_description: str | None = None,
) -> CommitInfo:
    """Upload files (path in the repo -> bytes) to a model repo, made if missing, in one commit: all arrive, or none.

    A README.md on the Hub without our mark is somebody's own and is kept. Raises the Hub client's errors.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr/"):
        try:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        except HfHubHTTPError as error:  # users who may only open pull requests cannot create branches
            if not create_pr or error.response.status_code != 403:
                raise
    files = dict(files)
    if _foreign_card(repo_id, revision, token) and files.pop(CARD_NAME, None):
        logger.warning(f"{repo_id} has a {CARD_NAME} of its own, which is kept: the new card was not uploaded.")
    return api.create_commit(
        repo_id,
        [CommitOperationAdd(name, content) for name, content in files.items()],
        commit_message=commit_message,
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


def _foreign_card(repo_id: str, revision: str | None, token: str | bool | None) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            card = hf_hub_download(repo_id, CARD_NAME, revision=revision, token=token, local_dir=folder)
        except (RemoteEntryNotFoundError, RevisionNotFoundError):  # the Hub's answer, not a failed connection
            return False
        return MARKER not in Path(card).read_text(encoding="utf-8")
