"""A Trainer's uploads: only what belongs in a Hub repo, one commit each, one after another.

Uploads during a training (`hub_strategy`) run in the background; a warning reports one that fails.
"""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..hub.card_numbers import delta_size
from ..hub.repository import repository_files, upload
from ..hub.sharing import check_shareable

logger = logging.get_logger(__name__)


class Uploads:
    """The uploads of one Trainer, in order, so that the newest delta arrives last."""

    def __init__(self):
        self._api = HfApi()  # runs one job after another

    def start_final(
        self, trainer: Trainer, message: str, token: str | None, revision: str | None, card_fields: dict[str, Any]
    ) -> Future[CommitInfo] | None:
        """Save the model and its card, and upload them. All processes call this; only the first gets the job."""
        check_shareable(trainer.accelerator.unwrap_model(trainer.model).config)
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
        if trainer.hub_model_id is None:
            trainer.init_hf_repo(token=token)
        trainer.save_model(_internal_call=True)
        trainer.create_model_card(**card_fields)
        if not trainer.is_world_process_zero():
            return None
        trainer._finish_current_push()
        files = repository_files(trainer.args.output_dir, trainer.accelerator.unwrap_model(trainer.model))
        return self._start(trainer, files, message, token, revision)

    def _start(
        self, trainer: Trainer, files: dict[str, bytes], message: str, token: str | None, revision: str | None
    ) -> Future[CommitInfo]:
        return self._api.run_as_future(
            upload, files, trainer.hub_model_id, commit_message=message, token=token, revision=revision
        )

    def start_checkpoint(self, trainer: Trainer, folder: Path) -> None:
        """Upload a checkpoint in the background, if `args.hub_strategy` asks for it and no other upload is running."""
        args, running = trainer.args, trainer.push_in_progress
        if args.hub_strategy == HubStrategy.END:
            return
        busy = running is not None and not running.is_done()
        if busy and not args.hub_always_push:
            return
        report_failed_uploads(trainer)
        trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
        trainer.run_card.write(trainer, delta_size(folder))
        model = trainer.accelerator.unwrap_model(trainer.model)
        files = repository_files(folder, model, card_folder=args.output_dir) | _state_files(trainer, folder)
        message = f"Training in progress, step {trainer.state.global_step}"
        job = self._start(trainer, files, message, args.hub_token, args.hub_revision)
        if busy:
            running.jobs.append(job)
        else:
            trainer.push_in_progress = PushInProgress([job])


def report_failed_uploads(trainer: Trainer) -> None:
    """Warn of each background upload that failed, once."""
    if trainer.hub_model_id is None:
        return
    jobs = [] if trainer.push_in_progress is None else trainer.push_in_progress.jobs
    for job in [job for job in jobs if job.done()]:
        jobs.remove(job)
        if job.exception() is not None:
            logger.warning(f"An upload to {trainer.hub_model_id} during training failed: {job.exception()}")


def _state_files(trainer: Trainer, folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint that are needed to resume it; a warning names links, which are left out."""
    if trainer.args.hub_strategy not in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        return {}
    place = "last-checkpoint" if trainer.args.hub_strategy == HubStrategy.CHECKPOINT else folder.name
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != TRAINING_ARGS_NAME]
    for file in files:
        if file.is_symlink():
            logger.warning(f"{file} is a link to {file.resolve()}: it was not uploaded.")
    return {f"{place}/{file.name}": file.read_bytes() for file in files if not file.is_symlink()}
