"""The model card: what was trained on which base, on what data, how well, and how to load it.

Facts come in as numbers and plain text; they are formatted, and escaped, only where the text is made.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from .card_template import TEMPLATE
from .configuration_fpt import FPTConfig
from .freezing import GroupCount
from .heads import IGNORED_LABEL

logger = logging.get_logger(__name__)

MARKER = "<!-- made by fpt_adapters: delete this line to keep your own text on the next push -->"
CARD_NAME = "README.md"
REPO_KEY, TASK_KEY, BYTES_KEY = "fpt_repo_id", "fpt_task", "fpt_delta_bytes"  # metadata of our own
TAG = "frozen-pretrained-transformer"  # what every card has, and a search can ask for
FLOOR_METRIC = "accuracy_floor"
UNKNOWN_DATASET = "unknown"
SPLITS_BY_WORTH = ("test", "validation")  # the split that speaks for the model: the first that was scored
PROCESSOR_NAMES = ("preprocessor_config.json", "tokenizer_config.json")
IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # PIL's name for so many channels
PICTURE_TITLES = {"learning_curve.png": "Learning curve", "confusion_matrix.png": "Confusion matrix"}
AUTO_CLASSES = {
    "FPTForImageClassification": "AutoModelForImageClassification",
    "FPTForSequenceClassification": "AutoModelForSequenceClassification",
    "FPTForTokenClassification": "AutoModelForTokenClassification",
    "FPTModel": "AutoModel",
}
LABELS_SHOWN = 20
MARKDOWN = re.compile(r"([\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w))")  # what plain text must not be read as
LOCAL_PATH = re.compile(r"""(?<![\w:/\\.~-])(?:~?/|[A-Za-z]:[\\/])[^\s"'=,;]*""")


class SharedModel(Protocol):
    """What a card asks of the model: its configuration and its parameters by group."""

    config: FPTConfig

    def count_parameters(self) -> list[GroupCount]:
        """Rows of the parameter table."""


@dataclass(eq=False)
class SplitResult:
    """How well a model did on one split."""

    split: str  # "validation" or "test"
    examples: int
    metrics: dict[str, float]  # fractions in 0..1: {"accuracy": 0.97}
    floor: float | None = None  # the accuracy that needs no learning
    confusion: np.ndarray | None = None  # (labels, labels): counts, a row for each true label


@dataclass(eq=False)
class FPTCard:
    """The facts of a model card. What is left out is not spoken of; all text is plain, never Markdown."""

    # Filled by the user, or the script that trains
    task_name: str | None = None
    dataset_name: str | None = None  # as people call it
    dataset_id: str | None = None  # on the Hub
    dataset_license: str | None = None
    license: str | None = None  # of the delta, as the Hub writes it: apache-2.0
    language: str | None = None  # of texts, as the Hub writes it: en
    limits: list[str] = field(default_factory=list)  # what the model is not good for
    command: str | None = None  # that trained it; absolute paths are cut to their last part
    tags: list[str] = field(default_factory=list)  # beyond those that every card has

    # Filled by FPTTrainer
    recipe: dict[str, Any] = field(default_factory=dict)  # the training arguments that matter
    seed: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)  # Trainer's log_history
    results: dict[str, SplitResult] = field(default_factory=dict)  # by split
    floors: dict[str, float] = field(default_factory=dict)  # by split; what a task knows better than its results
    train_examples: int | None = None
    steps: int | None = None
    seconds: float | None = None
    hardware: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    # Drawn by whoever trains: file name -> PNG
    pictures: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self):
        self.check()

    def check(self) -> None:
        """Raise ValueError for what the Hub would refuse: called at construction and before the text is made."""
        if self.dataset_id is not None:
            try:
                validate_repo_id(self.dataset_id)
            except HFValidationError as error:
                raise ValueError(
                    f"dataset_id is a Hub id such as 'ylecun/mnist', got {self.dataset_id!r}: a data set that is "
                    "not on the Hub has a dataset_name only."
                ) from error
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(f"license is a Hub identifier such as 'apache-2.0' or 'other', got {self.license!r}.")
        for name in self.pictures:
            if not re.fullmatch(r"[\w-][\w.-]*\.png", name):
                raise ValueError(
                    f"pictures are PNG files beside the card, such as 'learning_curve.png'; got {name!r}."
                )

    def floor_of(self, result: SplitResult) -> float | None:
        """The floor of a result: the task's, else the result's own, else the share of its most frequent label."""
        floor = self.floors.get(result.split, result.floor)
        if floor is None and result.confusion is not None and np.any(result.confusion):
            return majority_floor_of(result.confusion)
        return floor

    def render(
        self,
        model: SharedModel,
        repo_id: str,
        delta_bytes: int | None,
        with_code: bool = False,
        with_processor: bool = True,
    ) -> str:
        """The README: metadata and Markdown.

        `with_code`: whether the library's code lies in the repo; `with_processor`: whether a processor does.
        Raises ValueError for facts that the Hub would refuse.
        """
        self.check()
        card = ModelCard.from_template(
            self._metadata(model, repo_id, delta_bytes),
            template_str=TEMPLATE,
            marker=MARKER,
            **self._loading_facts(model, repo_id, with_code, with_processor),
            **self._model_facts(model, delta_bytes),
            **self._result_facts(),
            **self._training_facts(),
            limits=self._limits(model.config),
            thousands=thousands,
            share=share,
            score=score,
        )
        return str(card) + "\n"

    def write(
        self,
        folder: str | os.PathLike,
        model: SharedModel,
        repo_id: str | None = None,
        delta_bytes: int | None = None,
        with_code: bool = False,
    ) -> bool:
        """Write README.md and the pictures into `folder`, beside a saved model. Returns whether README.md was written.

        A README.md without our mark is somebody's own text: it is kept, and a warning names it. Without `repo_id` the
        card calls the model "your-name/<folder>"; without `delta_bytes` the delta in the folder, if any, is measured.
        """
        folder = Path(folder)
        for name, png in self.pictures.items():
            (folder / name).write_bytes(png)
        file = folder / CARD_NAME
        if file.exists() and MARKER not in file.read_text(encoding="utf-8", errors="replace"):
            logger.warning(f"{file} is not of fpt_adapters' making and is kept: no model card was written.")
            return False
        text = self.render(
            model,
            placeholder_id(folder) if repo_id is None else repo_id,
            delta_size(folder) if delta_bytes is None else delta_bytes,
            with_code,
            any((folder / name).is_file() for name in PROCESSOR_NAMES),
        )
        file.write_text(text, encoding="utf-8")
        return True

    # Metadata

    def _metadata(self, model: SharedModel, repo_id: str, delta_bytes: int | None) -> ModelCardData:
        config = model.config
        tag = pipeline_tag(model)
        task = one_line(self.task_name)
        results = self._eval_results(tag)
        metrics = list(dict.fromkeys(result.metric_type for result in results if result.metric_type != FLOOR_METRIC))
        tags = ["fpt", TAG, task, *(one_line(tag) for tag in self.tags)]
        base = config.base_model if config.backbone_init != "random" else None  # random: nothing of it is used
        own = {REPO_KEY: repo_id, TASK_KEY: task, BYTES_KEY: delta_bytes}
        return ModelCardData(
            base_model=base,
            base_model_relation=None if base is None else "adapter",
            datasets=None if self.dataset_id is None else [self.dataset_id],
            language=one_line(self.language),
            library_name="fpt_adapters",
            license=self.license,
            metrics=metrics or None,
            pipeline_tag=tag,
            tags=[tag for tag in tags if tag],
            **({"model_name": repo_id, "eval_results": results} if results else {}),
            **{key: value for key, value in own.items() if value is not None},
        )

    def _eval_results(self, tag: str | None) -> list[EvalResult]:
        shared = {
            "task_type": tag or "other",
            "task_name": one_line(self.task_name),
            "dataset_type": self.dataset_id or UNKNOWN_DATASET,
            "dataset_name": one_line(self.dataset_name) or self.dataset_id or one_line(self.task_name) or "unknown",
        }
        rows = []
        for result in self.results.values():
            shared |= {"dataset_split": one_line(result.split), "dataset_args": {"examples": int(result.examples)}}
            arguments = None if self.seed is None else {"seed": int(self.seed)}
            for name, value in result.metrics.items():
                if math.isfinite(value):
                    rows.append(
                        EvalResult(
                            **shared,
                            metric_type=one_line(name),
                            metric_value=float(value),
                            metric_name=readable(name),
                            metric_args=arguments,
                        )
                    )
            floor = self.floor_of(result)
            if floor is not None:
                rows.append(
                    EvalResult(
                        **shared,
                        metric_type=FLOOR_METRIC,
                        metric_value=float(floor),
                        metric_name="accuracy that needs no learning",
                    )
                )
        return rows

    # Text

    def _loading_facts(self, model, repo_id: str, with_code: bool, with_processor: bool) -> dict[str, Any]:
        config = model.config
        tag = pipeline_tag(model)
        needs_base = config.base_model is None and config.backbone_init != "random"
        base = '"path/to/the/base"'
        arguments = [f'model_kwargs={{"base_model_name_or_path": {base}}}'] if needs_base else []
        if tag in ("text-classification", "token-classification"):
            arguments = ["truncation=True", *arguments] if tag == "text-classification" else arguments
        mode = IMAGE_MODES.get(config.num_channels)
        height, width = config.image_height_width if config.input_type == "images" else (None, None)
        return {
            "repo_id": repo_id,
            "auto_class": auto_class(model),
            "base_argument": f", base_model_name_or_path={base}" if needs_base else "",
            "pipeline_tag": None if tag == "image-classification" and mode is None else tag,
            "pipeline_arguments": "".join(f", {argument}" for argument in arguments),
            "image_mode": mode,
            "image_height": height,
            "image_width": width,
            "example_text": "your text",
            **input_facts(config),
            **output_facts(model),
            "with_code": with_code,
            "with_processor": with_processor,
        }

    def _model_facts(self, model: SharedModel, delta_bytes: int | None) -> dict[str, Any]:
        config = model.config
        rows = sorted(model.count_parameters(), key=lambda row: not row.trained)
        trained = trained_sum(rows)
        task = f"{plain(self.task_name)}: " if self.task_name else ""
        headline = (
            f"{task}{counted(trained.parameters, 'parameter')} ({share(trained.percent)} % of the whole) trained on a "
            f"frozen transformer, and shared as a delta{'' if delta_bytes is None else f' of {byte_size(delta_bytes)}'}."
        )
        lines = [f"Base: {describe_base(config)}", f"Input: {describe_input(config)}."]
        if "output" in {row.group for row in rows}:
            lines.append(f"Answers: {describe_labels(config)}.")
        if delta_bytes is not None:
            lines.append(f"Delta: {thousands(delta_bytes)} bytes, checked tensor by tensor when it is loaded.")
        return {"headline": headline, "description": lines, "parameter_rows": rows, "trained": trained}

    def _result_facts(self) -> dict[str, Any]:
        results = list(self.results.values())
        names = list(dict.fromkeys(name for result in results for name in result.metrics))
        rows = [
            {
                "split": plain(result.split),
                "examples": result.examples,
                "scores": [result.metrics.get(name) for name in names],
                "floor": self.floor_of(result),
            }
            for result in results
        ]
        pictures = [
            {"file": name, "title": PICTURE_TITLES.get(name, readable(name.removesuffix(".png")))}
            for name in self.pictures
        ]
        return {"result_rows": rows, "metric_names": [readable(name) for name in names], "pictures": pictures}

    def _training_facts(self) -> dict[str, Any]:
        lines = []
        if self.train_examples is not None:
            lines.append(f"Training examples: {thousands(self.train_examples)}.")
        if self.steps is not None:
            lines.append(f"Steps: {thousands(self.steps)}.")
        if self.seconds is not None:
            lines.append(f"Time: {duration(self.seconds)}{f' on {plain(self.hardware)}' if self.hardware else ''}.")
        elif self.hardware:
            lines.append(f"Hardware: {plain(self.hardware)}.")
        best = best_step(self.history)
        if best is not None:
            lines.append(f"Best validation accuracy while training: {percent(best[1])}, at step {thousands(best[0])}.")
        loss = last_loss(self.history)
        if loss is not None:
            lines.append(f"Training loss at the end: {loss:.4g}.")
        recipe = [(plain(name), setting(value)) for name, value in self.recipe.items() if value is not None]
        versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in self.versions.items())
        data = []
        if self.license:
            data.append(f"The delta: {plain(self.license)}. The base has a licence of its own.")
        if self.dataset_name or self.dataset_id:
            data.append(f"Data: {self._data_text()}.")
        return {
            "training": lines,
            "recipe": recipe,
            "command": fenced(without_paths(self.command)) if self.command else None,
            "versions": versions,
            "seed": self.seed,
            "data": data,
        }

    def _data_text(self) -> str:
        name = plain(self.dataset_name or self.dataset_id)
        if self.dataset_id:
            name = f"[{name}](https://huggingface.co/datasets/{self.dataset_id})"
        return f"{name}, licence {plain(self.dataset_license)}" if self.dataset_license else name

    def _limits(self, config: FPTConfig) -> list[str]:
        lines = [plain(line) for line in self.limits]
        if self.results and "test" not in {result.split for result in self.results.values()}:
            lines.append(
                "No test split was scored: what was chosen in training was chosen on the data of the figures."
            )
        if self.seed is not None:
            lines.append(f"One training run, with seed {self.seed}: another seed gives other figures.")
        if config.backbone_init == "random":
            lines.append(
                "Loading draws the random base again; another version of torch or transformers may draw other "
                "weights, which is noticed and refused."
            )
            return lines
        where = "the base must be fetched too" if config.base_model else "the base must be at hand too"
        lines.append(f"The delta alone is no model: {where}, and be the one named above.")
        lines.append(
            "That is checked by a fingerprint, which samples every tensor of the base: it tells another or a "
            "fine-tuned base, not one altered outside the samples."
        )
        return lines


# The numbers


def confusion_counts(predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """How often each label (row) was answered by each (column): (num_labels, num_labels), int64.

    `predictions` and `labels` are integers of one shape, any; positions labelled -100 are left out. Raises ValueError
    for other shapes, and for numbers outside 0..num_labels-1.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions and labels need one shape, got {predictions.shape} and {labels.shape}.")
    labelled = labels != IGNORED_LABEL
    predictions, labels = predictions[labelled], labels[labelled]  # (labelled,)
    for name, values in (("predictions", predictions), ("labels", labels)):
        wrong = values[(values < 0) | (values >= num_labels)]
        if wrong.size:
            raise ValueError(f"{name} lie in 0..{num_labels - 1} (num_labels={num_labels}), got {wrong[0]}.")
    cells = labels.astype(np.int64) * num_labels + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_labels * num_labels).reshape(num_labels, num_labels)


def majority_floor_of(confusion: np.ndarray) -> float:
    """The best accuracy that one constant answer reaches: the share of the largest row of `confusion`.

    Raises ValueError where nothing was counted.
    """
    confusion = np.asarray(confusion)
    total = int(confusion.sum())
    if total == 0:
        raise ValueError("A floor needs at least one labelled example, but the confusion matrix counts none.")
    return int(confusion.sum(axis=1).max()) / total


def trained_sum(rows: Iterable[GroupCount]) -> GroupCount:
    """The sum over the groups that train, as a row of the parameter table."""
    trained = [row for row in rows if row.trained]
    return GroupCount(
        "all trained",
        sum(row.tensors for row in trained),
        sum(row.parameters for row in trained),
        sum(row.percent for row in trained),
        True,
    )


def delta_size(folder: str | os.PathLike) -> int | None:
    """Bytes of the delta that is saved in `folder`; None where there is none."""
    file = Path(folder) / SAFE_WEIGHTS_NAME
    return file.stat().st_size if file.is_file() else None


def best_step(history: Sequence[Mapping[str, float]], metric: str = "eval_accuracy") -> tuple[int, float] | None:
    """Step and value of the highest `metric` in Trainer's log, the first of equals; None if it was never logged."""
    scored = [row for row in history if metric in row and "step" in row]
    if not scored:
        return None
    best = max(scored, key=lambda row: row[metric])
    return int(best["step"]), float(best[metric])


def last_loss(history: Sequence[Mapping[str, float]]) -> float | None:
    """The training loss that Trainer logged last; None if it logged none."""
    losses = [float(row["loss"]) for row in history if "loss" in row]
    return losses[-1] if losses else None


# What the model is, in words and code


def auto_class(model: SharedModel) -> str:
    """The transformers class that loads a model of this kind."""
    names = [cls.__name__ for cls in type(model).__mro__]
    return next((AUTO_CLASSES[name] for name in names if name in AUTO_CLASSES), "AutoModel")


def pipeline_tag(model: SharedModel) -> str | None:
    """The Hub's name for what the model does, where transformers has a pipeline that does it."""
    kind, input_type = auto_class(model), model.config.input_type
    if kind == "AutoModelForImageClassification":
        return "image-classification"
    if kind == "AutoModelForSequenceClassification" and input_type == "tokens":
        return "text-classification"
    if kind == "AutoModelForTokenClassification" and input_type == "tokens" and model.config.labels_per_token == 1:
        return "token-classification"
    return None


def input_facts(config: FPTConfig) -> dict[str, Any]:
    """What the code that loads the model feeds it: the argument, an example, and a shape for a feature extractor."""
    if config.input_type == "images":
        height, width = config.image_height_width
        return {
            "input_name": "pixel_values",
            "example_inputs": f"torch.zeros(1, {config.num_channels}, {height}, {width})",
        }
    if config.input_type == "tokens":
        example = "ones" if config.pad_token_id == 0 else "zeros"
        return {
            "input_name": "input_ids",
            "example_inputs": f"torch.{example}(1, {config.sequence_length}, dtype=torch.long)",
        }
    if config.input_type == "values":
        length, size, axes = config.sequence_length, config.input_size, "(tokens, input size)"
    else:
        length, size, axes = config.series_length, config.num_channels, "(steps, channels)"
    return {
        "input_name": "input_values",
        "example_inputs": f"torch.zeros(1, {length}, {size})",
        "extractor_shape": f"({length}, {size})",
        "extractor_axes": axes,
    }


def output_facts(model: SharedModel) -> dict[str, str]:
    """What the model answers that example with."""
    config, kind = model.config, auto_class(model)
    if kind == "AutoModel":
        return {"output_name": "last_hidden_state", "output_shape": "(1, tokens, hidden size)"}
    if kind != "AutoModelForTokenClassification":
        return {"output_name": "logits", "output_shape": f"(1, {config.num_labels})"}
    per_token = f"{config.labels_per_token}, " if config.labels_per_token > 1 else ""
    return {"output_name": "logits", "output_shape": f"(1, {config.num_tokens}, {per_token}{config.num_labels})"}


def describe_base(config: FPTConfig) -> str:
    """Which frozen weights: whose, at which commit, and whether they are pretrained at all."""
    kind = plain(config.base_model_config.model_type)
    if config.base_model is None:
        name = f"a {kind} that has no Hub id"
    else:
        name = f"[{plain(config.base_model)}](https://huggingface.co/{config.base_model}) ({kind})"
    facts = []
    if config.base_model_revision:
        facts.append(f"commit {code(config.base_model_revision)}")
    if config.base_model_fingerprint:
        facts.append(f"fingerprint {code(config.base_model_fingerprint)}")
    known = f", {', '.join(facts)}" if facts else ""
    if config.backbone_init == "random":
        scheme = f", scheme {plain(config.backbone_init_scheme)}" if config.backbone_init_scheme else ""
        return (
            f"**random weights, not pretrained**, in the shape of {name}{known}; drawn from seed "
            f"{config.backbone_init_seed}{scheme}, and frozen."
        )
    if config.backbone_init == "statistics":
        return (
            f"**random weights, not pretrained**, with each tensor's mean and spread from {name}{known}; drawn from "
            f"seed {config.backbone_init_seed}, and frozen."
        )
    return f"{name}{known}; its pretrained weights, frozen."


def describe_input(config: FPTConfig) -> str:
    """The input that the configuration declares."""
    if config.input_type == "images":
        height, width = config.image_height_width
        return (
            f"images of {height} x {width} pixels and {counted(config.num_channels, 'channel')}, as "
            f"{counted(config.num_tokens, 'patch', 'patches')} of {config.patch_size} x {config.patch_size}"
        )
    if config.input_type == "tokens":
        return f"up to {counted(config.num_tokens, 'token id')} out of {thousands(config.vocab_size)}"
    if config.input_type == "series":
        return (
            f"series of up to {counted(config.series_length, 'step')} and {counted(config.num_channels, 'channel')}, as "
            f"up to {counted(config.num_tokens, 'patch', 'patches')} of {counted(config.patch_length, 'step')}, "
            f"{thousands(config.patch_stride)} apart"
        )
    return f"up to {counted(config.num_tokens, 'token')} of {counted(config.input_size, 'number')} each"


def describe_labels(config: FPTConfig) -> str:
    """How many labels, for what, and their names (where they have names of their own)."""
    many = f"{config.labels_per_token} labels for each token, each one of " if config.labels_per_token > 1 else ""
    text = f"{many}{counted(config.num_labels, 'label')}"
    names = [config.id2label[index] for index in sorted(config.id2label or {})]
    if names == [f"LABEL_{index}" for index in range(len(names))]:
        return text
    more = f" and {thousands(len(names) - LABELS_SHOWN)} more" if len(names) > LABELS_SHOWN else ""
    return f"{text}: {', '.join(plain(name) for name in names[:LABELS_SHOWN])}{more}"


# Reading and renaming cards


def placeholder_id(folder: str | os.PathLike) -> str:
    """The repo id that a card has before the repo is known: the folder's name, as far as the Hub takes it."""
    name = re.sub(r"[^\w.-]+|--+|\.\.+", "-", Path(folder).resolve().name, flags=re.ASCII).strip("-.")
    return f"your-name/{name or 'model'}"


def retitle(text: str, repo_id: str) -> str:
    """A README of ours, for another repo: its metadata, title and code name `repo_id`, all else stays as it is."""
    data = ModelCard(text, ignore_metadata_errors=True).data
    old = data.get(REPO_KEY)
    if not isinstance(old, str) or MARKER not in text:
        return text
    head, mark, body = text.partition(MARKER)
    quoted = rf"([\"']?){re.escape(old)}\1"
    name = json.dumps(repo_id)  # a YAML string too
    head = re.sub(rf"^({REPO_KEY}: |- name: ){quoted}$", lambda m: m[1] + name, head, flags=re.MULTILINE)
    body = re.sub(rf"^# {re.escape(old)}$", lambda m: f"# {repo_id}", body, count=1, flags=re.MULTILINE)
    body = re.sub(
        r"^```python$.*?^```$",
        lambda m: m[0].replace(json.dumps(old), json.dumps(repo_id)),
        body,
        flags=re.MULTILINE | re.DOTALL,
    )
    return head + mark + body


def read_summary(card_data: Mapping[str, Any]) -> dict[str, Any]:
    """What a card's metadata says of a model: `task`, `split`, `accuracy`, `floor` and `delta_bytes`.

    The test split's figures, or the validation split's. The metadata is anybody's: what is missing, or is not what it
    should be, is None.
    """
    data = card_data if isinstance(card_data, Mapping) else {}
    by_split: dict[str, dict[str, Any]] = {}
    for model in _mappings(data.get("model-index")):
        for result in _mappings(model.get("results")):
            dataset = result.get("dataset")
            dataset = dataset if isinstance(dataset, Mapping) else {}
            found = {
                metric["type"]: _fraction(metric.get("value"))
                for metric in _mappings(result.get("metrics"))
                if isinstance(metric.get("type"), str)
            }
            if isinstance(dataset.get("split"), str) and found.get("accuracy") is not None:
                by_split[dataset["split"]] = {
                    "split": dataset["split"],
                    "accuracy": found["accuracy"],
                    "floor": found.get(FLOOR_METRIC),
                }
    nothing = dict.fromkeys(("split", "accuracy", "floor"))
    best = next((by_split[split] for split in SPLITS_BY_WORTH if split in by_split), nothing)
    task = data.get(TASK_KEY)
    return {"task": task if isinstance(task, str) else None, **best, "delta_bytes": _count(data.get(BYTES_KEY))}


def _mappings(value: Any) -> list[Mapping]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _fraction(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


# Formats


def thousands(number: int) -> str:
    """12345 -> 12,345."""
    return f"{number:,}"


def counted(number: int, thing: str, things: str | None = None) -> str:
    """1 patch, 64 patches."""
    return f"{thousands(number)} {thing if number == 1 else things or thing + 's'}"


def percent(fraction: float, examples: int | None = None) -> str:
    """0.9633 -> 96.3 %; with two decimals where so many examples were counted that both say something."""
    return f"{100 * fraction:.{2 if examples is not None and examples >= 10_000 else 1}f} %"


def share(percentage: float) -> str:
    """A share that is often small: 0.0983 -> 0.098."""
    return f"{percentage:.3f}"


def score(value: float | None, examples: int) -> str:
    """A metric for the table: a percentage, other numbers as they are, nothing where there is none."""
    if value is None:
        return ""
    return percent(value, examples) if 0 <= value <= 1 else f"{value:.4g}"


def byte_size(number: int) -> str:
    """65568 -> 65.6 kB (of 1,000 bytes)."""
    if number < 1000:
        return f"{number} bytes"
    for unit, size in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if number < 999.95 * size or unit == "GB":
            return f"{number / size:.1f} {unit}"
    raise AssertionError


def duration(seconds: float) -> str:
    """25.3 -> 25 s, 5400 -> 1 h 30 min."""
    minutes = round(seconds / 60)
    if seconds < 119.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def one_line(text: Any) -> str | None:
    """Text on one line, without control characters; None for nothing."""
    if text is None:
        return None
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line or None


def plain(text: Any) -> str:
    """Text that Markdown shows as it is, also in a table."""
    return MARKDOWN.sub(r"\\\1", one_line(text) or "")


def readable(name: str) -> str:
    """masked_accuracy -> masked accuracy."""
    return plain(name.replace("_", " "))


def code(text: str) -> str:
    """Text as code in a line of Markdown."""
    line = (one_line(text) or "").replace("`", "'")
    return f"`{line}`"


def fenced(text: str) -> str:
    """Lines as a block of code that nothing in them can close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text.strip()}\n{fence}"


def setting(value: Any) -> str:
    """A training argument for the table; of an absolute path only its last part."""
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(item) for item in value)
    return plain(without_paths(str(value)))


def without_paths(text: str) -> str:
    """Text whose absolute paths are cut to their last part: where a file lies on a disk is nobody's business."""
    return LOCAL_PATH.sub(lambda m: re.split(r"[\\/]", m[0].rstrip("\\/"))[-1], text)
