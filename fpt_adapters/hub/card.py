"""The model card: what was trained on which base, on what data, how well, and how to load it.

Facts are numbers and plain text here; only card_template.py, which makes the text, puts them into words.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from ..configuration_fpt import FPTConfig
from ..heads.scores import majority_floor_of
from ..rules.wording import one_line, plain, thousands
from .card_metrics import FIRST, FLOOR, main_metric, metric_name
from .card_model import SharedModel, base_limits, example_text, loading_facts, model_facts, pipeline_tag
from .card_numbers import best_step, delta_size, last_loss
from .card_template import (
    TEMPLATE,
    describe_floors,
    duration,
    fenced,
    hub_id,
    readable,
    score,
    setting,
    share,
)
from .local_paths import command_without_paths
from .sharing import TAGS

logger = logging.get_logger(__name__)

MARKER = "<!-- made by fpt_adapters: delete this line to keep your own text on the next push -->"
CARD_NAME = "README.md"
REPO_KEY, TASK_KEY, BYTES_KEY = "fpt_repo_id", "fpt_task", "fpt_delta_bytes"  # our own keys in the metadata
PROCESSOR_NAMES = ("preprocessor_config.json", "tokenizer_config.json")
PICTURE_TITLES = {"learning_curve.png": "Learning curve", "confusion_matrix.png": "Confusion matrix"}


@dataclass(eq=False)
class SplitResult:
    """A model's scores on one split."""

    split: str  # "validation" or "test"
    examples: int
    metrics: dict[str, float]  # shares as fractions in 0..1: {"accuracy": 0.97}; see card_metrics.py
    floor: float | Mapping[str, float] | None = None  # the accuracy that needs no learning, or such scores by metric
    confusion: np.ndarray | None = None  # (labels, labels): counts, one row per true label

    def floors(self) -> dict[str, float]:
        """`floor` by metric; without one, the share of the most frequent label in `confusion`."""
        if isinstance(self.floor, Mapping):
            return {name: float(value) for name, value in self.floor.items() if math.isfinite(value)}
        if self.floor is not None:
            return {FIRST: float(self.floor)}
        return {FIRST: majority_floor_of(self.confusion)} if np.any(self.confusion) else {}


@dataclass(eq=False)
class FPTCard:
    """The facts of a model card. The card does not mention facts that are None; text is plain, never Markdown.

    Raises ValueError for what the Hub would refuse.
    """

    # Filled by the user, or by the script that trains
    task_name: str | None = None
    dataset_name: str | None = None  # the name that people use
    dataset_id: str | None = None  # its id on the Hub
    dataset_license: str | None = None
    license: str | None = None  # of the delta, as the Hub writes it: "apache-2.0"
    language: str | None = None  # of texts, as the Hub writes it: "en"
    limits: list[str] = field(default_factory=list)  # sentences: what the model is not good for
    example_text: str | None = None  # the text in the example code; None: one that the tokenizer accepts
    command: str | None = None  # the command that trained it; absolute paths are cut to their last part
    tags: list[str] = field(default_factory=list)  # in addition to those that every card has

    # Filled by FPTTrainer
    recipe: dict[str, Any] = field(default_factory=dict)  # the training arguments that matter
    seed: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)  # Trainer's log_history
    results: dict[str, SplitResult] = field(default_factory=dict)  # by split
    train_examples: int | None = None
    steps: int | None = None
    seconds: float | None = None
    hardware: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    # Drawn by FPTTrainer, or by your own script: file name -> PNG
    pictures: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self):
        self.check()

    def check(self) -> None:
        """Raise ValueError for what the Hub would refuse; called at construction and before the text is made."""
        if self.dataset_id is not None:
            try:
                validate_repo_id(self.dataset_id)
            except HFValidationError as error:
                raise ValueError(
                    f"dataset_id is a Hub id such as 'ylecun/mnist', got {self.dataset_id!r}: leave it out for data "
                    "that is not on the Hub, and say what it is in the card's field dataset_name."
                ) from error
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(f"license is a Hub identifier such as 'apache-2.0' or 'other', got {self.license!r}.")
        for name in self.pictures:
            if not re.fullmatch(r"[\w-][\w.-]*\.png", name, flags=re.ASCII):
                raise ValueError(f"pictures are PNG files beside the card ('learning_curve.png'), got {name!r}.")

    def render(
        self,
        model: SharedModel,
        repo_id: str,
        delta_bytes: int | None,
        with_code: bool = False,
        with_processor: bool = True,
    ) -> str:
        """The text of README.md: metadata and Markdown. Characters in `repo_id` that the Hub refuses become "-".

        `with_code`, `with_processor`: whether the repo has the library's code and a processor. Raises ValueError for
        facts that the Hub would refuse.
        """
        self.check()
        repo_id = hub_id(repo_id)
        card = ModelCard.from_template(
            self._metadata(model, repo_id, delta_bytes),
            template_str=TEMPLATE,
            marker=MARKER,
            repo_id=repo_id,
            with_code=with_code,
            with_processor=with_processor,
            **loading_facts(model, repo_id, self.example_text or example_text(getattr(model, "processor", None))),
            **model_facts(model, self.task_name, delta_bytes),
            **self._result_facts(),
            **self._training_facts(),
            limits=self._limits(model.config),
            share=share,
            thousands=thousands,
        )
        return f"{card}\n"

    def write(
        self,
        folder: str | os.PathLike,
        model: SharedModel,
        repo_id: str | None = None,
        delta_bytes: int | None = None,
        with_code: bool = False,
    ) -> bool:
        """Write README.md and the pictures into `folder`, beside a saved model. Returns whether README.md was written.

        A README.md without our mark is the user's own text: it is kept, and a warning names it. Without `repo_id` the
        card calls the model "your-name/<folder>"; without `delta_bytes` it shows the size of the delta in the folder.
        """
        folder = Path(folder)
        for name, png in self.pictures.items():
            (folder / name).write_bytes(png)
        file = folder / CARD_NAME
        if file.exists() and MARKER not in file.read_text(encoding="utf-8", errors="replace"):
            logger.warning(f"{file} was not made by fpt_adapters and is kept: no model card was written.")
            return False
        repo_id = f"your-name/{folder.resolve().name}" if repo_id is None else repo_id
        size = delta_size(folder) if delta_bytes is None else delta_bytes
        with_processor = getattr(model, "processor", None) is not None or any(
            (folder / name).is_file() for name in PROCESSOR_NAMES
        )
        file.write_text(self.render(model, repo_id, size, with_code, with_processor), encoding="utf-8")
        return True

    def _metadata(self, model: SharedModel, repo_id: str, delta_bytes: int | None) -> ModelCardData:
        config, tag, task = model.config, pipeline_tag(model), one_line(self.task_name)
        base = config.base_model if config.backbone_init != "random" else None  # random: only its shape is used
        results = self._eval_results(tag)
        metrics = dict.fromkeys(result.metric_type for result in results if not result.metric_type.endswith(FLOOR))
        tags = [*TAGS, re.sub(r"\W+", "-", task or "").strip("-").lower(), *(one_line(tag) for tag in self.tags)]
        own = {REPO_KEY: repo_id, TASK_KEY: task, BYTES_KEY: None if delta_bytes is None else int(delta_bytes)}
        return ModelCardData(
            base_model=base,
            base_model_relation=None if base is None else "adapter",
            datasets=None if self.dataset_id is None else [self.dataset_id],
            language=one_line(self.language),
            library_name="fpt_adapters",
            license=self.license,
            metrics=list(metrics) or None,
            pipeline_tag=tag,
            tags=[tag for tag in tags if tag],
            **({"model_name": repo_id, "eval_results": results} if results else {}),
            **own,
        )

    def _eval_results(self, tag: str | None) -> list[EvalResult]:
        arguments = None if self.seed is None else {"seed": int(self.seed)}
        rows = []
        for result in self.results.values():
            shared = {
                "task_type": tag or "other",
                "task_name": one_line(self.task_name),
                "dataset_type": self.dataset_id or "unknown",
                "dataset_name": one_line(self.dataset_name or self.dataset_id) or "unknown",
                "dataset_split": one_line(result.split),
                "dataset_args": {"examples": int(result.examples)},
            }
            for name, value in result.metrics.items():
                if math.isfinite(value):
                    named = {"metric_type": one_line(name), "metric_name": one_line(name.replace("_", " "))}
                    rows.append(EvalResult(**shared, **named, metric_value=float(value), metric_args=arguments))
            for name, value in result.floors().items():  # under another name, so that nobody takes it for the metric
                title = one_line(f"{name.replace('_', ' ')} that needs no learning")
                named = {"metric_type": one_line(name + FLOOR), "metric_name": title}
                rows.append(EvalResult(**shared, **named, metric_value=value))
        return rows

    def _result_facts(self) -> dict[str, Any]:
        results = list(self.results.values())
        names = list(dict.fromkeys(name for result in results for name in result.metrics))
        floors = list(dict.fromkeys(name for result in results for name in result.floors()))
        rows = [
            {
                "split": plain(result.split),
                "examples": result.examples,
                "cells": [score(name, result.metrics.get(name), result.examples) for name in names]
                + [score(name, result.floors().get(name), result.examples) for name in floors],
            }
            for result in results
        ]
        pictures = [
            {"file": file, "title": PICTURE_TITLES.get(file, readable(file.removesuffix(".png")))}
            for file in self.pictures
        ]
        return {
            "columns": [readable(name) for name in names]
            + ["floor" if name == FIRST else f"{readable(name)} floor" for name in floors],
            "result_rows": rows,
            "floor_note": describe_floors(floors),
            "seed": self.seed,
            "pictures": pictures,
        }

    def _training_facts(self) -> dict[str, Any]:
        lines = []
        if self.train_examples is not None:
            lines.append(f"Training examples: {thousands(self.train_examples)}.")
        if self.steps is not None:
            lines.append(f"Steps: {thousands(self.steps)}.")
        if self.seconds is not None:
            lines.append(f"Time: {duration(self.seconds)}.")
        if self.hardware is not None:
            lines.append(f"Hardware: {plain(self.hardware)}.")
        best, loss = best_step(self.history), last_loss(self.history)
        if best is not None:
            name = metric_name(main_metric(self.history))
            value, step = score(name, best[1]), thousands(best[0])
            lines.append(f"Best validation {readable(name)} while training: {value}, at step {step}.")
        if loss is not None:
            lines.append(f"Training loss, as last logged: {loss:.4g}.")
        data = []
        if self.license is not None:
            data.append(f"The delta: {plain(self.license)}. The base has a licence of its own.")
        if self.dataset_name or self.dataset_id:
            name = plain(self.dataset_name or self.dataset_id)
            if self.dataset_id:
                name = f"[{name}](https://huggingface.co/datasets/{self.dataset_id})"
            data.append(f"Data: {name}{f', licence {plain(self.dataset_license)}' if self.dataset_license else ''}.")
        return {
            "training": lines,
            "recipe": [(plain(name), setting(value)) for name, value in self.recipe.items() if value is not None],
            "command": fenced(command_without_paths(self.command)) if self.command else None,
            "versions": ", ".join(f"{plain(name)} {plain(version)}" for name, version in self.versions.items()),
            "data": data,
        }

    def _limits(self, config: FPTConfig) -> list[str]:
        lines = [plain(line) for line in self.limits]
        if self.results and "test" not in {result.split for result in self.results.values()}:
            lines.append("No test split was scored: the figures are from data that may have been used for choices.")
        if self.seed is not None:
            lines.append(f"One training run, with seed {self.seed}: another seed gives other figures.")
        return [*lines, *base_limits(config)]
