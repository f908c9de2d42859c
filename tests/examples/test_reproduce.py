"""Studies: what is read, what runs once and no more, what validation chooses, and what the report says."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import EXAMPLES

from fpt_adapters.run.parsing import parse

reproduce = pytest.importorskip("reproduce")
from studying.ledger import RESULTS, Ledger  # noqa: E402
from studying.plan import read_study  # noqa: E402
from studying.report import render  # noqa: E402
from studying.running import execute  # noqa: E402
from studying.summary import Spread, compare_with_paper, converged_at, summarise  # noqa: E402

STUDIES = sorted((EXAMPLES / "studies").glob("*.yaml"))
CATALOGUES = sorted((EXAMPLES / "studies" / "catalogues").glob("[!p]*.yaml"))
PAPER_TABLES = (1, 2, 3, 6, 7, 8, 9, 10, 12, 13, 15, 16, 17)
CATALOGUE = yaml.safe_load("""
    variables: {base: , unused: }
    flags: {model_name_or_path: "{base}", use_cpu: true, disable_tqdm: true, report_to: none, save_strategy: "no",
            eval_strategy: steps, per_device_train_batch_size: 4}
    paper: paper.yaml
    models:
      fpt: {label: FPT}
      random: {label: random, flags: {backbone_init: random}}
      fast: {learning_rates: [1.0e-2], flags: {backbone_init: random}}
    tasks:
      bit-xor: {label: XOR, flags: &xor {task_name: bit-xor, eval_examples: 8, max_steps: 4, eval_steps: 2}}
      easy: {label: any score will do, target: 0.01, paper: bit-xor, flags: {<<: *xor, max_steps: 40}}
""")
XOR = CATALOGUE["tasks"]["bit-xor"]["flags"]
STUDY = yaml.safe_load("""
    title: A study
    about: What it asks.
    catalogue: catalogue.yaml
    models: {fpt: , random: }
    tasks: {bit-xor: }
    seeds: [0, 1]
    learning_rates: [1.0e-3, 1.0e-4]
""")
PAPER = (
    "{accuracy: {fpt: {bit-xor: 100}, random: {bit-xor: 90.0}}, steps: {fpt: {bit-xor: 500}, random: {bit-xor: 5000}}}"
)


@pytest.fixture
def write(tmp_path):
    """Write a study with changes, its catalogue and the paper's figures; returns the study's path."""

    def write(catalogue=None, /, **changes) -> Path:
        (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(CATALOGUE | (catalogue or {}), sort_keys=False))
        (tmp_path / "paper.yaml").write_text(PAPER)
        study = tmp_path / "study.yaml"
        study.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
        return study

    return write


@pytest.fixture
def make_study(write):
    """Read a study with changes, on a base."""

    def make_study(catalogue=None, /, base="b", **changes):
        return read_study(write(catalogue, **changes), {"base": str(base)})

    return make_study


def first_record(study):
    """The record of a study's first run."""
    return execute(study.runs[0], study.runs[0].arguments(study.variables), reproduce.KeepLastData(), "title")


def records_of(study, **scores):
    """A record for every run. A score: (validation, test, steps); None: diverged; or these by learning rate."""
    records = {}
    for run in study.runs:
        outcome = scores[run.model.name]
        outcome = outcome[run.learning_rate] if isinstance(outcome, dict) else outcome
        record = {"id": run.id, "model": run.model.name, "task": run.task.name, "seed": run.seed, "seconds": 1.0}
        record |= {"learning_rate": run.learning_rate, "floors": {"validation": 0.5, "test": 0.5}, "curve": []}
        record |= {"status": "diverged", "steps": 3, "parameters": 100, "trained_parameters": 5}
        if outcome is not None:
            validation, test, steps = outcome
            validation, test = validation + 0.01 * run.seed, test + 0.01 * run.seed
            record |= {"status": "finished", "steps": steps, "validation": validation, "test": test}
            record["curve"] = [[steps // 2, 0.3], [steps, validation]]
        records[run.id] = record
    return records


def text_of(study, records):
    return "\n".join(render(study, records, summarise(study, records), [], "command"))


# The files that come with the library


def test_every_table_of_the_paper_has_a_study_and_a_small_one():
    names = {path.name for path in STUDIES}
    assert names >= {f"table{n}{size}.yaml" for n in PAPER_TABLES for size in ("", ".small")}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_are_whole(path):
    catalogue = yaml.safe_load((path.parent / yaml.safe_load(path.read_text())["catalogue"]).read_text())
    needed = [name for name, value in catalogue["variables"].items() if value is None]
    study = read_study(path, dict.fromkeys(needed, "somewhere"))
    assert len({run.id for run in study.runs}) == len(study.runs)
    assert {run.seed for run in study.runs} == {0, 1, 2}
    assert all(model.label for model in study.models) and study.paper["accuracy"]["fpt"]["cifar10"] == 68.2
    parts = [part for run in study.runs for part in run.arguments(study.variables)]
    assert not any("{" in part and not part.startswith("{") for part in parts)


@pytest.mark.parametrize("catalogue", CATALOGUES, ids=lambda path: path.stem)
def test_all_models_and_tasks_of_a_catalogue_have_flags_that_run_fpt_takes(catalogue, tmp_path):
    values = yaml.safe_load(catalogue.read_text())
    one_task = next(iter(values["tasks"]))
    asked = STUDY | {"seeds": [0], "catalogue": str(catalogue)}
    variables = {name: f"/of/{name}" for name in values["variables"]}
    runs = {}
    for models, tasks in ((values["models"], [one_task]), (["fpt"], values["tasks"])):
        file = tmp_path / "all.yaml"
        file.write_text(yaml.safe_dump(asked | {"models": dict.fromkeys(models), "tasks": dict.fromkeys(tasks)}))
        study = read_study(file, variables)
        runs |= {(run.model.name, run.task.name): run for run in study.runs}
    assert len(runs) == len(values["models"]) + len(values["tasks"]) - 1
    for run in runs.values():
        arguments = [*run.arguments(variables), "--output_dir", "out", "--use_cpu"]
        model_args, _, _, args, task = parse(arguments)
        assert (args.learning_rate, args.seed) == (run.learning_rate, 0)
        assert args.do_predict and args.save_strategy == "no" and args.max_steps == run.flags["max_steps"]
        assert (model_args.model_name_or_path is None) == (model_args.backbone_config is not None)
        assert task.name == run.flags["task_name"]


# Reading


def test_later_flags_win_and_a_model_may_have_its_own_rates(make_study):
    models = {"fpt": {"flags": {"max_steps": 7}}, "fast": None, "mine": {"like": "random", "label": "Mine"}}
    study = make_study(models=models, flags={"logging_steps": 3})
    by_name = {run.model.name: run.flags for run in study.runs}
    assert by_name["fpt"]["max_steps"] == 7 and by_name["fast"]["max_steps"] == 4
    assert by_name["mine"]["backbone_init"] == "random" and by_name["mine"]["logging_steps"] == 3
    assert [model.label for model in study.models] == ["FPT", "fast", "Mine"]
    assert {run.learning_rate for run in study.runs if run.model.name == "fast"} == {1e-2}
    assert len(study.runs) == 2 * (2 + 1 + 2)
    assert "b" in study.runs[0].arguments(study.variables) and "{base}" not in study.runs[0].arguments(study.variables)


def test_a_run_is_known_by_what_it_depends_on(make_study):
    ids = [run.id for run in make_study().runs]
    assert [run.id for run in make_study(title="Another", base="elsewhere").runs] == ids
    assert not set(ids) & {run.id for run in make_study(flags={"max_steps": 5}).runs}


def test_a_recipe_is_the_ground_of_a_task(make_study):
    recipe = str(EXAMPLES / "recipes" / "bit-xor.yaml")
    study = make_study({"tasks": {"bit-xor": {"recipe": recipe, "flags": {"max_steps": 9}}}})
    flags = study.runs[0].flags
    assert flags["num_strings"] == 2 and flags["max_steps"] == 9 and flags["model_name_or_path"] == "{base}"
    assert "output_dir" not in flags and {run.learning_rate for run in study.runs} == {1e-3, 1e-4}


@pytest.mark.parametrize(
    ("changes", "given", "parts"),
    [
        ({"models": {"ftp": None}}, ["base"], ("ftp", "fpt, random, fast", "like")),
        ({"models": ["fpt"]}, ["base"], ("models", "mapping")),
        ({"models": {"fpt": {"colour": 1}}}, ["base"], ("colour", "label")),
        ({"sizes": [1]}, ["base"], ("sizes", "seeds")),
        ({"seeds": []}, ["base"], ("needs seeds",)),
        ({"flags": {"seed": 3}}, ["base"], ("seed", "seeds")),
        ({"models": {"fpt": {"flags": {"learning_rate": 3}}}}, ["base"], ("learning_rate", "learning_rates")),
        ({"catalogue": "none.yaml"}, ["base"], ("none.yaml", "not there")),
        ({}, [], ("--set base=...",)),
        ({}, ["base", "bsae"], ("bsae", "base, unused")),
    ],
)
def test_mistakes_in_a_study_are_told(changes, given, parts, write):
    with pytest.raises(ValueError) as caught:
        read_study(write(**changes), dict.fromkeys(given, "b"))
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


@pytest.mark.parametrize(("text", "part"), [("title: a: b", "cannot be read"), ("- 1", "mapping")])
def test_what_is_no_yaml_is_told(text, part, tmp_path):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ValueError, match=part):
        read_study(tmp_path / "study.yaml", {})


def test_another_metric_has_a_floor_of_its_own(make_study, saved_base):
    memory = {"task_name": "bit-memory", "num_strings": 2, "string_length": 4, "bits_per_token": 2}
    masked = {"metric": "masked_accuracy", "flags": XOR | memory}
    with pytest.raises(ValueError, match="bit-xor reports masked_accuracy: give its floor"):
        make_study({"tasks": {"bit-xor": masked}})
    record = first_record(make_study({"tasks": {"bit-xor": masked | {"floor": 0.5}}}, base=saved_base))
    assert record["floors"] == {"validation": 0.5, "test": 0.5} and record["metric"] == "masked_accuracy"


# Running


def test_a_study_runs_is_resumed_and_reports(write, saved_base, tmp_path, capsys):
    path, folder = write(), tmp_path / "results"
    arguments = [str(path), "--set", f"base={saved_base}", "--output_dir", str(folder)]
    reproduce.main(arguments)
    lines = (folder / RESULTS).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 8 and len({record["id"] for record in records}) == 8
    assert all(record["status"] == "finished" and record["steps"] == 4 for record in records)
    assert all([step for step, _ in record["curve"]] == [2, 4] for record in records)
    assert all(record["curve"][-1][1] == record["validation"] for record in records)
    assert str(saved_base) not in "".join(lines)
    floors = {"validation": 0.5, "test": 0.5}
    assert records[0].items() >= {"model": "fpt", "seed": 0, "learning_rate": 1e-3, "floors": floors}.items()

    report = (folder / "README.md").read_text()
    assert "8 of 8 runs" in report and "[100]" in report and "[500]" in report and "*50.0*" in report
    assert str(tmp_path) not in report and "--set base=" in report
    pictures = sorted(file.name for file in folder.glob("*.png"))
    assert len(pictures) == 3 and all(f"]({name})" in report for name in pictures)

    (folder / RESULTS).write_text("\n".join(lines[:7]) + "\n" + lines[7][:50])  # killed while it wrote
    before = (folder / RESULTS).stat().st_mtime_ns
    capsys.readouterr()
    reproduce.main([*arguments, "--report"])
    assert "7 of 8 runs" in capsys.readouterr().out and (folder / RESULTS).stat().st_mtime_ns == before
    reproduce.main(arguments)
    again = (folder / RESULTS).read_text().splitlines()
    assert again[:7] == lines[:7] and len(again) == 8
    assert json.loads(again[7])["curve"] == json.loads(lines[7])["curve"]  # the same run gives the same scores


def test_a_run_stops_at_its_target(make_study, saved_base):
    record = first_record(make_study(tasks={"easy": None}, base=saved_base))
    assert record["steps"] == 2 and converged_at(record, 0.01) == 2


def test_a_run_that_diverges_is_a_result(make_study, saved_base):
    flags = {"max_grad_norm": 0.0, "logging_steps": 1}
    record = first_record(make_study(learning_rates=[1e30], flags=flags, base=saved_base))
    assert record["status"] == "diverged" and "validation" not in record and "diverged" in record["why"]
    assert json.dumps(record, allow_nan=False)


def test_a_metric_that_the_task_lacks_is_told(make_study, saved_base):
    study = make_study({"tasks": {"bit-xor": {"metric": "f1", "floor": 0.1, "flags": XOR}}}, base=saved_base)
    with pytest.raises(ValueError, match=r"no metric 'f1'; it has .*accuracy"):
        first_record(study)


@pytest.mark.parametrize(
    ("flags", "part"), [({"max_stesp": 3}, "max_steps"), ({"backbone_config": {"layers": 3}}, "model_type")]
)
def test_wrong_flags_are_told_before_anything_trains(flags, part, make_study, saved_base):
    models = {"fpt": None, "random": {"flags": flags | {"model_name_or_path": None}}}
    with pytest.raises(ValueError, match=f"random on bit-xor: .*{part}"):
        reproduce.check_flags(make_study(models=models, base=saved_base))


def test_plan_lists_the_runs(write, capsys):
    reproduce.main([str(write()), "--set", "base=b", "--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and "fpt on bit-xor, seed 0, lr 0.001: --model_name_or_path b" in lines[0]


def test_processes_share_a_study_and_one_may_die(write, saved_base, tmp_path):
    folder = tmp_path / "results"
    arguments = [str(write()), "--set", f"base={saved_base}", "--output_dir", str(folder)]
    command = [sys.executable, str(EXAMPLES / "reproduce.py"), *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    killed, other = (subprocess.Popen(command, env=environment, **pipes) for _ in range(2))
    while not (folder / RESULTS).exists():
        assert killed.poll() is None or killed.returncode == 0
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    _, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors
    wanted = {run.id for run in read_study(write(), {"base": "b"}).runs}
    if len((folder / RESULTS).read_text().splitlines()) < len(wanted):
        reproduce.main(arguments)  # the one that died had claimed a run after the other had looked at it
    done = [json.loads(line)["id"] for line in (folder / RESULTS).read_text().splitlines()]
    assert set(done) == wanted and len(done) == len(wanted)


def test_a_run_whose_process_died_is_done_in_the_next_pass(make_study, tmp_path, monkeypatch):
    study = make_study(seeds=[0], learning_rates=[1e-3])
    ledger, first, order = Ledger(tmp_path), study.runs[0], []
    claim = ledger.claim(first.id)  # another process's, which dies while this one does the second run
    claim.__enter__()

    def stand_in(run, *_):
        order.append(run.id)
        if len(order) == 1:
            claim.__exit__(None, None, None)
        return {"id": run.id, "model": run.model.name, "task": run.task.name, "seconds": 1.0}

    monkeypatch.setattr(reproduce, "execute", stand_in)
    reproduce.work_off(study, ledger)
    assert order == [study.runs[1].id, first.id]


def test_a_claim_is_one_process_own_and_ends_with_it(tmp_path):
    code = "import sys; from pathlib import Path; from studying.ledger import Ledger\n"
    code += "with Ledger(Path(sys.argv[1])).claim('a') as mine: print(mine, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    ledger = Ledger(tmp_path)
    with subprocess.Popen(command, cwd=EXAMPLES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        with ledger.claim("a") as mine, ledger.claim("b") as free:
            assert not mine and free
        process.kill()
    with ledger.claim("a") as mine:
        assert mine


# Choosing and comparing


def test_validation_chooses_the_learning_rate_and_test_never(make_study):
    study = make_study()
    fpt, random = {1e-3: (0.80, 0.90, 4), 1e-4: (0.85, 0.60, 4)}, {1e-3: (0.70, 0.70, 4), 1e-4: None}
    records = records_of(study, fpt=fpt, random=random)
    cells = summarise(study, records)
    fpt, random = cells["fpt", "bit-xor"], cells["random", "bit-xor"]
    assert fpt.learning_rate == 1e-4 and fpt.test.mean == pytest.approx(0.605)
    assert fpt.test.deviation == pytest.approx(0.01 / 2**0.5) and fpt.test.count == 2
    assert random.learning_rate == 1e-3 and random.diverged == 2 and set(random.by_rate) == {1e-3}

    (comparison,) = compare_with_paper(study, cells)
    assert comparison.verdict == "the opposite order" and comparison.paper == 10
    assert comparison.here == pytest.approx(-10) and comparison.spread == pytest.approx(1.0)
    text = text_of(study, records)
    assert "| FPT | 60.5 ± 0.7 [100] |" in text and "0.0001 (edge): 85.5 ± 0.7" in text
    assert "Diverged: 2 runs of random on bit-xor." in text and "the opposite order" in text


def test_half_a_sweep_gives_no_figure(make_study):
    study = make_study()
    records = records_of(study, fpt=(0.8, 0.8, 4), random=None)
    assert summarise(study, {run.id: records[run.id] for run in study.runs if run.seed == 0}) == {}


def test_at_the_target_steps_decide(make_study):
    study = make_study(tasks={"easy": None})
    runs = {1e-3: (0.02, 0.5, 30), 1e-4: (0.5, 0.5, 38)}
    cell = summarise(study, records_of(study, fpt=runs, random=runs))["fpt", "easy"]
    assert cell.learning_rate == 1e-3 and cell.steps == Spread(15, 0, 15, 15, 2) and cell.not_converged == 0


def test_steps_beside_the_papers(make_study):
    study = make_study(tasks={"easy": None})
    records = records_of(study, fpt=(0.5, 0.5, 10), random=(0.5, 0.5, 40))
    assert "| any score will do | random | FPT | 10 times | 4 times |" in text_of(study, records)
    for record in records.values():
        if record["model"] == "random":
            record["curve"], record["validation"] = [[40, 0.001]], 0.001
    text = text_of(study, records)
    assert "| 10 times | over 8 times |" in text and "| random | not in 40 [5000] |" in text


@pytest.mark.parametrize(("target", "step"), [(None, 20), (0.9, 30), (0.99, None)])
def test_steps_to_converge(target, step):
    assert converged_at({"curve": [[10, 0.5], [20, 0.895], [30, 0.90]]}, target) == step


def test_a_difference_within_the_spread_is_not_told_apart(make_study):
    study = make_study()
    records = records_of(study, fpt=(0.8, 0.8, 4), random=(0.8, 0.8, 4))
    (comparison,) = compare_with_paper(study, summarise(study, records))
    assert comparison.verdict == "not told apart"
    assert dataclasses.replace(comparison, here=9.0).verdict == "the same order"
    assert dataclasses.replace(comparison, here=4.0).verdict == "the same order, by less than half"
