"""Reading a study: a YAML file, and the runs that it asks for.

A study names models and tasks of a catalogue (another YAML file), seeds and learning rates. Each combination is one
run of `run_fpt.py`. Its flags come from the task's recipe, the catalogue, the task, the model and the study; later
ones override earlier ones. `{name}` in a flag is a variable, set by `--set name=value` if the catalogue has no value.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fpt_adapters.run.parsing import read_recipe

STUDY_KEYS = ("title", "about", "catalogue", "models", "tasks", "seeds", "learning_rates", "flags")
CATALOGUE_KEYS = ("variables", "flags", "models", "tasks", "paper")
MODEL_KEYS = ("label", "flags", "learning_rates", "like")
TASK_KEYS = ("label", "recipe", "flags", "learning_rates", "metric", "floor", "target", "paper", "like")
PAPER_KEYS = ("accuracy", "steps")
OWN_FLAGS = ("seed", "learning_rate", "output_dir", "do_train", "do_eval", "do_predict")
VARIABLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Model:
    """A model: a row of the study's tables. Its learning rates override the task's, and those the study's."""

    name: str
    label: str
    flags: Mapping[str, Any]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Task:
    """A task: a column of the tables. `metric` is reported; runs stop at `target` (0..1), and the steps are counted.

    `floor` (0..1): the score that needs no learning; None: the task's own, for accuracy. `paper`: the name of the
    paper's task to compare with, which may be larger.
    """

    name: str
    label: str
    flags: Mapping[str, Any]
    metric: str
    floor: float | None
    target: float | None
    recipe: Mapping[str, Any]
    learning_rates: tuple[float, ...]
    paper: str


@dataclass(frozen=True)
class Run:
    """One training. Its flags have variables, not their values, which differ between machines."""

    model: Model
    task: Task
    seed: int
    learning_rate: float
    flags: Mapping[str, Any]

    @property
    def id(self) -> str:
        """12 hex digits: a hash of everything that the result depends on."""
        what = [self.model.name, self.task.name, self.task.metric, self.task.target, dict(self.flags)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]

    def arguments(self, variables: Mapping[str, str]) -> list[str]:
        """The command-line flags for `run_fpt.py`."""
        parts = []
        for name, value in self.flags.items():
            values = value if isinstance(value, list) else [value]
            texts = [json.dumps(v) if isinstance(v, (dict, bool)) else str(v) for v in values if v is not None]
            if texts:
                parts += [f"--{name}", *(VARIABLE.sub(lambda match: variables[match[1]], text) for text in texts)]
        return parts


@dataclass(frozen=True)
class Study:
    """A study, read and checked. `paper`: figure -> model -> paper's task -> number (accuracy in %, or steps)."""

    title: str
    about: str
    models: tuple[Model, ...]
    tasks: tuple[Task, ...]
    runs: tuple[Run, ...]
    variables: Mapping[str, str]
    paper: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    def paper_figure(self, figure: str, model: Model, task: Task) -> float | None:
        """The paper's `accuracy` (%) or `steps`; None if it has none."""
        return self.paper.get(figure, {}).get(model.name, {}).get(task.paper)


def read_study(path: Path, given: Mapping[str, str]) -> Study:
    """Read a study and its catalogue.

    `given`: values of variables. Raises ValueError, naming file and key, for what is missing, unknown or unclear.
    """
    values = read_yaml(path, STUDY_KEYS, needed=STUDY_KEYS[:-1])
    catalogue_path = path.parent / values["catalogue"]
    catalogue = read_yaml(catalogue_path, CATALOGUE_KEYS, needed=("models", "tasks"))
    where = f"{path}, with the catalogue {catalogue_path.name}"
    folder = catalogue_path.parent
    models = tuple(
        Model(name, entry.get("label", name), entry.get("flags") or {}, _rates(entry))
        for name, entry in choose(values["models"], catalogue["models"], MODEL_KEYS, f"{where}: models")
    )
    tasks = tuple(
        _task(name, entry, folder)
        for name, entry in choose(values["tasks"], catalogue["tasks"], TASK_KEYS, f"{where}: tasks")
    )
    shared, last = catalogue.get("flags") or {}, values.get("flags") or {}
    for flags in (shared, last, *(entry.flags for entry in (*models, *tasks))):
        _refuse_own_flags(flags, where)
    runs = tuple(
        _run(model, task, seed, rate, {**task.recipe, **shared, **task.flags, **model.flags, **last})
        for task, seed, model in itertools.product(tasks, values["seeds"], models)
        for rate in model.learning_rates or task.learning_rates or _rates(values)
    )
    variables = fill_variables(catalogue.get("variables") or {}, given, runs, where)
    paper = catalogue.get("paper")
    figures = {} if paper is None else read_yaml(folder / paper, PAPER_KEYS, needed=PAPER_KEYS)
    return Study(values["title"], values["about"], models, tasks, runs, variables, figures)


def read_yaml(path: Path, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    """Read a YAML mapping. Raises ValueError for keys not in `known`, and for missing ones of `needed`."""
    if not path.is_file():
        raise ValueError(f"{path} is not there.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is a mapping with {', '.join(known)}; got {values!r:.60}.")
    _check_keys(values, known, str(path))
    missing = [key for key in needed if not values.get(key)]
    if missing:
        raise ValueError(f"{path} needs {missing[0]}: {', '.join(needed)} are all to be given.")
    return values


def choose(
    chosen: Mapping[str, Any], catalogue: Mapping[str, Any], known: tuple[str, ...], where: str
) -> list[tuple[str, dict[str, Any]]]:
    """The entries that a study names, each merged over the catalogue's entry of the same name, or of `like`."""
    if not isinstance(chosen, dict):
        raise ValueError(f"{where} is a mapping of names, each with its changes or nothing after the colon.")
    entries = []
    for name, changes in chosen.items():
        changes = changes or {}
        _check_keys(changes, known, f"{where}: {name}")
        base = changes.get("like", name)
        if base not in catalogue:
            raise ValueError(
                f"{where} has {name!r}, the catalogue only {', '.join(catalogue)}: name one, or set like."
            )
        entry = catalogue[base] or {}
        _check_keys(entry, known, f"catalogue: {base}")
        merged = {**entry, **changes, "flags": {**(entry.get("flags") or {}), **(changes.get("flags") or {})}}
        entries.append((name, merged))
    return entries


def fill_variables(
    defaults: Mapping[str, str | None], given: Mapping[str, str], runs: tuple[Run, ...], where: str
) -> dict[str, str]:
    """The values of the variables that the runs use. Raises ValueError for one without value, and for unknown ones."""
    unknown = [name for name in given if name not in defaults]
    if unknown:
        raise ValueError(f"--set {unknown[0]} is no variable of {where}; it has {', '.join(defaults) or 'none'}.")
    used = {name for run in runs for name in VARIABLE.findall(json.dumps(dict(run.flags)))}
    values = {name: given.get(name, defaults.get(name)) for name in sorted(used)}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"This study needs --set {' --set '.join(f'{name}=...' for name in missing)} ({where}).")
    return {name: str(value) for name, value in values.items()}


def _run(model: Model, task: Task, seed: int, rate: float, flags: dict[str, Any]) -> Run:
    own = {"seed": seed, "learning_rate": rate, "do_train": True, "do_eval": True, "do_predict": True}
    return Run(model, task, seed, rate, {**flags, **own})


def _task(name: str, entry: Mapping[str, Any], folder: Path) -> Task:
    metric = entry.get("metric", "accuracy")
    if metric != "accuracy" and "floor" not in entry:
        raise ValueError(
            f"The task {name} reports {metric}: give its floor (0..1) too, a task knows only that of accuracy."
        )
    recipe = read_recipe(str(folder / entry["recipe"])) if "recipe" in entry else {}
    return Task(
        name,
        label=entry.get("label", name),
        flags=entry.get("flags") or {},
        metric=metric,
        floor=entry.get("floor"),
        target=entry.get("target"),
        recipe={flag: value for flag, value in recipe.items() if flag not in OWN_FLAGS},
        learning_rates=_rates(entry),
        paper=entry.get("paper", name),
    )


def _rates(entry: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(float(rate) for rate in entry.get("learning_rates") or ())


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ValueError(f"{where} has the key {unknown[0]!r}; it may have {', '.join(known)}.")


def _refuse_own_flags(flags: Mapping[str, Any], where: str) -> None:
    for name in OWN_FLAGS:
        if name in flags:
            raise ValueError(f"{where} sets the flag {name}, which a study sets itself (seeds, learning_rates).")
