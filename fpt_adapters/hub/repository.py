"""What a Hub repo of a delta holds, and its upload: configuration, delta, processor, card with pictures, perhaps code.

Nothing else is ever uploaded: no pickle, no backbone, no local path.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError, RevisionNotFoundError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from ..configuration_fpt import FPTConfig
from ..deltas.file import read_digests
from .card import CARD_NAME, MARKER, PICTURE_TITLES, FPTCard
from .card_reading import retitle
from .code_export import code_files, name_code
from .download import fetch, inside

logger = logging.get_logger(__name__)

PICTURES = tuple(PICTURE_TITLES)
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
REPOSITORY_FILES = (CONFIG_NAME, SAFE_WEIGHTS_NAME, CARD_NAME, *PICTURES, *PROCESSOR_FILES)


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from: a folder or a Hub id, with what finds it there."""

    name_or_path: str
    hub_kwargs: dict[str, Any] = field(default_factory=dict)

    def fetch_all(self, names: Iterable[str], folder: Path) -> list[str]:
        """Copy those of the files `names` that are there into `folder`; returns their names."""
        names = [name for name in names if name in self._listed()]
        for name in names:
            shutil.copyfile(fetch(self.name_or_path, name, **self.hub_kwargs), folder / name)
        return names

    def _listed(self) -> list[str]:
        subfolder = self.hub_kwargs.get("subfolder") or ""
        if os.path.isdir(self.name_or_path):
            return os.listdir(Path(self.name_or_path) / subfolder)
        listed = HfApi(token=self.hub_kwargs.get("token")).list_repo_files(
            self.name_or_path, revision=self.hub_kwargs.get("revision")
        )
        prefix = f"{subfolder}/" if subfolder else ""
        return [name.removeprefix(prefix) for name in listed if name.startswith(prefix)]


def check_shareable(config: FPTConfig) -> None:
    """Raise ValueError for a delta whose base others cannot find."""
    if config.base_model is None and config.backbone_init != "random":
        raise ValueError(
            "A delta on the Hub names the Hub id of its base, but this one's base was a local folder. If that is a "
            "copy of a Hub model, say which before sharing: model.config.base_model = 'org/name'."
        )


def write_repository(
    model, folder: str | os.PathLike, repo_id: str, with_code: bool | None = None, tags: Iterable[str] | None = None
) -> None:
    """Write into `folder` all that the Hub repo `repo_id` of `model` holds.

    Processor and card are `model.processor` and `model.card`; a model that was loaded, and has none of its own, keeps
    those that lay beside it (the card only if the delta is unchanged: its results would not be this model's).
    """
    folder = Path(folder)
    model.save_pretrained(folder, with_code=with_code)
    if model.processor is not None:
        model.processor.save_pretrained(folder)
    elif model.origin is not None:
        model.origin.fetch_all(PROCESSOR_FILES, folder)
    name_code(folder, model.with_code)
    if model.card is None and _keeps_card(model, folder):
        card_file = folder / CARD_NAME
        text = retitle(card_file.read_text(encoding="utf-8"), repo_id, model.with_code)
        card_file.write_text(text, encoding="utf-8")
    else:
        card = model.card or FPTCard()
        card = dataclasses.replace(card, tags=[*card.tags, *(tags or ())])
        card.write(folder, model, repo_id, with_code=model.with_code)


def _keeps_card(model, folder: Path) -> bool:
    """Bring the card and pictures of the delta that `model` was loaded from, if it still is that delta."""
    if model.origin is None:
        return False
    loaded = fetch(model.origin.name_or_path, SAFE_WEIGHTS_NAME, **model.origin.hub_kwargs)
    if read_digests(loaded) != read_digests(folder / SAFE_WEIGHTS_NAME):
        return False
    return CARD_NAME in model.origin.fetch_all((CARD_NAME, *PICTURES), folder)


def repository_files(folder: str | os.PathLike, with_code: bool = False) -> dict[str, bytes]:
    """Read the files of `folder` that belong into the Hub repo; anything else there stays home.

    Raises DeltaError for a link to a place outside of it.
    """
    names = {*REPOSITORY_FILES, *(code_files() if with_code else ())}
    files = [file for file in sorted(Path(folder).iterdir()) if file.name in names]
    return {file.name: inside(file, Path(folder)).read_bytes() for file in files}


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
    """Upload files, by their path in the repo, to a model repo (made if missing) in one commit: all arrive, or none.

    A README.md on the Hub that somebody wrote (it lacks the mark of ours) is kept. Raises the Hub client's errors.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr/"):
        try:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        except HfHubHTTPError as error:  # who may only open a pull request cannot make branches
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
        except (RemoteEntryNotFoundError, RevisionNotFoundError):  # the Hub's own word, not that it did not answer
            return False
        return MARKER not in Path(card).read_text(encoding="utf-8")
