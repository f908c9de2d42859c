"""The run script: results, resume, evaluation of a saved delta, what its card says, and recipes."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import EXAMPLES, fill, used
from data_files import image_rows, protein_rows, random_pixels, write
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from fpt_adapters.run import training as run_fpt
from fpt_adapters.tasks import PAPER_TASKS, TASKS

pytestmark = pytest.mark.usefixtures("quiet")
SCRIPT = EXAMPLES / "run_fpt.py"
RECIPES = sorted((EXAMPLES / "recipes").glob("*.yaml"))
QUIET = ["--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no"]
TRAIN = "--do_train --max_steps 2"
SCORED = "--do_train --do_eval --do_predict"
SAVED = "--save_strategy steps --save_steps"
LSTM = '{"model_type": "fpt_lstm", "hidden_size": 8, "num_hidden_layers": 2}'


def flags(task, base, more="", out="out"):
    """The arguments of a quiet run; `more` as in a shell. What comes last wins."""
    model = [] if base is None else ["--model_name_or_path", str(base)]
    return ["--task_name", task, *model, "--output_dir", str(out), *QUIET, *shlex.split(more)]


def run(task, base, more, out="out"):
    return run_fpt.main(flags(task, base, more, out))


def read_json(file):
    return json.loads(Path(file).read_text())


def assert_resumes(task, base, more, step, whole):
    """A run that goes on after a checkpoint of the folder `whole` ends as that one did. Returns its metrics."""
    shutil.copytree(Path(whole, f"checkpoint-{step}"), Path("half", f"checkpoint-{step}"))
    results = run(task, base, f"{more} --resume_from_checkpoint last", "half")
    assert same_delta("half", whole)
    return results


def same_delta(first, second):
    first, second = (load_file(Path(folder) / "model.safetensors") for folder in (first, second))
    assert first.keys() == second.keys() and first
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# Results


DIGITS = f"{SCORED} --eval_strategy steps --eval_steps 20 --logging_steps 10 {SAVED} 20 --max_steps 40"
DIGITS += " --learning_rate 1e-2 --seed 3"


@pytest.fixture(scope="module")
def digits(saved_base, tmp_path_factory):
    """A finished run on digits: its folder and what `main` returned."""
    folder = tmp_path_factory.mktemp("digits") / "out"
    return folder, run("digits", saved_base, DIGITS, folder)


def test_results_stand_beside_their_floors(digits):
    folder, results = digits
    assert read_json(folder / "all_results.json") == results
    for split in ("eval", "test"):
        assert 0.1 <= results[f"{split}_floor"] < 0.15  # the largest of ten digits
        assert results[f"{split}_floor"] + 0.1 < results[f"{split}_accuracy"] < 1
    assert results["epoch"] == pytest.approx(40 / 150, abs=0.01)  # 1,197 examples in batches of 8
    assert {"train_loss", "eval_loss", "test_loss"} <= results.keys()


def test_predictions_are_kept(digits):
    folder, results = digits
    saved = np.load(folder / "test_predictions.npz")
    assert saved["predictions"].shape == saved["labels"].shape == (300,)
    assert (saved["predictions"] == saved["labels"]).mean() == pytest.approx(results["test_accuracy"])


def test_a_picture_of_the_run_is_drawn(digits):
    with Image.open(digits[0] / "learning_curve.png") as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 2 * 300 < 2 * picture.height
        assert len(set(np.asarray(picture.convert("L")).ravel().tolist())) > 10  # not a blank sheet


def test_the_saved_delta_scores_as_it_did(digits, saved_base):
    folder, trained = digits
    results = run("digits", folder, f"--base_model_name_or_path {saved_base} --do_eval --do_predict --seed 3")
    assert read_json("out/all_results.json") == results
    for name in ("eval_accuracy", "eval_floor", "test_accuracy", "test_floor"):
        assert results[name] == trained[name]
    assert results["eval_loss"] == pytest.approx(trained["eval_loss"], abs=1e-6)
    assert "train_loss" not in results
    assert not Path("out/learning_curve.png").exists() and not Path("out/model.safetensors").exists()


def test_evaluation_may_write_into_the_runs_own_folder(digits, saved_base):
    shutil.copytree(digits[0], "out")
    weights = Path("out/model.safetensors").read_bytes()
    run("digits", "out", f"--base_model_name_or_path {saved_base} --do_eval --max_eval_samples 100")
    assert Path("out/model.safetensors").read_bytes() == weights
    assert read_json("out/all_results.json")["test_accuracy"] == digits[1]["test_accuracy"]  # merged, not replaced


def test_resume_last_ends_where_the_whole_run_did(digits, saved_base):
    folder, whole = digits
    results = assert_resumes("digits", saved_base, DIGITS, 20, folder)
    assert results["test_loss"] == whole["test_loss"] and results["eval_accuracy"] == whole["eval_accuracy"]
    half, all_of_it = (read_json(Path(f, "trainer_state.json"))["log_history"] for f in ("half", folder))
    assert [row.get("loss") for row in half[:-1]] == [row.get("loss") for row in all_of_it[:-1]]
    run("digits", saved_base, f"{DIGITS} --seed 4", "other")
    assert not same_delta("other", folder)


def test_augmented_training_resumes_within_an_epoch(saved_base):
    write(Path("images.parquet"), image_rows(random_pixels(60, (32, 32, 3))))
    more = f"--do_train --max_steps 14 {SAVED} 9 --train_file images.parquet"
    run("cifar10", saved_base, more, "whole")  # six batches an epoch
    assert_resumes("cifar10", saved_base, more, 9, "whole")


def test_bit_xor_is_trained_and_scored(saved_base):
    results = run("bit-xor", saved_base, f"{SCORED} --max_steps 5 --eval_examples 50")
    assert read_json("out/all_results.json") == results
    assert results["eval_floor"] == results["test_floor"] == 0.5
    assert 0 <= results["eval_accuracy"] <= 1
    assert results["epoch"] == 1.0  # as many examples are drawn as the steps need
    assert read_json("out/config.json")["architectures"] == ["FPTForTokenClassification"]
    assert str(saved_base) not in Path("out/config.json").read_text()  # a path is nobody else's business


COLOURS = ("images.parquet", image_rows(random_pixels(60, (32, 32, 3))))
OTHER_TASKS = {  # flags, and a file that they name, with its rows
    "bit-memory": ("--num_strings 2 --string_length 20 --bits_per_token 5 --eval_examples 20", None),
    "listops": (
        "--variant full --min_length 5 --max_length 40 --max_depth 4 --max_args 4 "
        "--train_examples 20 --eval_examples 10",
        None,
    ),
    "mnist": ("--train_file images.parquet", ("images.parquet", image_rows(random_pixels(60, (28, 28))))),
    "cifar10": ("--train_file images.parquet", COLOURS),
    "cifar10-lra": ("--train_file images.parquet --patch_size 4", COLOURS),
    "remote-homology": ("--train_file folds.csv --max_length 30", ("folds.csv", protein_rows())),
}


def data_of(task, folder):
    """Flags of a task, with the path of its file below a folder, where it is written."""
    given, file = OTHER_TASKS[task]
    return given if file is None else given.replace(file[0], write(folder / file[0], file[1]))


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_every_task_is_trained_and_scored(task, saved_base, tmp_path):
    results = run(task, saved_base, f"{SCORED} --max_steps 2 {data_of(task, tmp_path)}")
    assert {"eval_accuracy", "eval_floor", "test_accuracy", "test_floor"} <= read_json("out/all_results.json").keys()
    assert 0 < results["eval_floor"] < 1
    assert Path("out/learning_curve.png").is_file()


def test_max_samples_are_kept(saved_base):
    more = f"{SCORED} --max_train_samples 24 --max_eval_samples 20 --max_predict_samples 10 --num_train_epochs 2"
    _, data_args, _, args, task = run_fpt.parse(flags("digits", saved_base, more))
    data = run_fpt.load_data(task, data_args, args)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 20, 10)
    results = run("digits", saved_base, more)
    assert (results["eval_accuracy"] * 20) % 1 == 0 and (results["test_accuracy"] * 10) % 1 == 0
    assert read_json("out/trainer_state.json")["global_step"] == 6  # two epochs of 24 in batches of 8
    assert np.load("out/test_predictions.npz")["labels"].shape == (10,)


def test_trainable_names_the_groups(saved_base):
    run("digits", saved_base, f"{TRAIN} --trainable input output attention")
    names = load_file("out/model.safetensors").keys()
    assert {name.split(".")[-2] for name in names if name.startswith("backbone.")} == {"attention"}
    assert read_json("out/config.json")["trainable"] == ["input", "output", "attention"]


def test_group_learning_rates_reach_their_groups(saved_base):
    run("digits", saved_base, "--do_train --max_steps 1 --learning_rate 1e-3 --group_learning_rates norm=0.1")
    base, tensors = load_file(saved_base / "model.safetensors"), load_file("out/model.safetensors")
    norm = tensors["backbone.layers.0.norm.0"] - base["h.0.ln_1.weight"]
    positions = tensors["backbone.position.0"] - base["wpe.weight"][:16]
    assert norm.abs().max().item() == pytest.approx(0.1, rel=1e-3)  # Adam's first step is the learning rate
    assert positions.abs().max().item() == pytest.approx(1e-3, rel=1e-2)


def test_model_flags_reach_the_config(saved_base):
    wanted = {"backbone_init": "random", "backbone_init_seed": 5, "backbone_init_scheme": "gpt2-flat"}
    wanted |= {"backbone_dropout": 0.2, "pooling": "mean", "positions": "new", "base_model": "someone/tiny-gpt2"}
    given = " ".join(f"--{name} {value}" for name, value in wanted.items())
    run("digits", saved_base, f"{TRAIN} --dropout 0.0 {given}")
    wanted |= {"input_dropout": 0.0, "image_size": 8, "patch_size": 2}
    assert read_json("out/config.json").items() >= wanted.items()


def test_a_backbone_is_built_from_its_configuration_and_cut():
    more = f"{TRAIN} --do_eval --backbone_config '{LSTM}' --backbone_init random --backbone_layers 1"
    results = run("digits", None, f"{more} --trainable input output norm recurrent")
    assert results["eval_accuracy"] >= 0 and "eval_floor" in results
    saved = AutoConfig.from_pretrained("out")
    assert saved.backbone_layers == 1 and saved.base_model_config.num_hidden_layers == 2
    assert AutoModel.from_pretrained("out").backbone.config.num_hidden_layers == 1


def test_a_backbone_trained_whole_is_saved_and_serves_as_a_base(saved_base):
    whole = f"{TRAIN} --save_backbone backbone --trainable input output norm position attention feedforward"
    run("bit-xor", saved_base, whole, "whole")
    trained, before = (load_file(Path(f, "model.safetensors")) for f in ("backbone", saved_base))
    assert trained.keys() == before.keys()
    assert not torch.equal(trained["h.0.attn.c_attn.weight"], before["h.0.attn.c_attn.weight"])
    assert "eval_accuracy" in run("bit-xor", "backbone", f"{TRAIN} --do_eval", "fpt")
    with pytest.raises(ValueError, match=r"--save_backbone .* is not empty"):
        run("bit-xor", saved_base, whole, "again")
    assert not Path("again").exists()


@pytest.mark.parametrize("part", [0.3, 0.96], ids=["while a checkpoint is written", "while the results are"])
def test_a_full_disk_is_told_in_one_line(part, digits, saved_base, small_disk, assert_told):
    fill(small_disk, part * used(digits[0]))
    arguments = flags("digits", saved_base, DIGITS, small_disk / "out")
    message = f"No space left on the disk {small_disk}: to write into"
    assert_told(SCRIPT, arguments, message, "are free. Make room", str(small_disk / "out"))


# The card


def image_folder(folder):
    """A folder as `datasets` reads it: ten kinds, a picture of each kind in each split."""
    for split, (kind, pixels) in itertools.product(
        ("train", "validation", "test"), zip("abcdefghij", random_pixels(10, (32, 32, 3)), strict=True)
    ):
        file = folder / split / f"ant {kind}" / "1.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(file)
    return folder


OWN_DATA = {  # the task, and flags that name data of the user's own
    "folder": ("cifar10", lambda folder: f"--dataset_name {os.path.relpath(image_folder(folder / 'insects'))}"),
    "absolute": ("cifar10", lambda folder: f"--dataset_name {image_folder(folder / 'insects')}"),
    "file": ("cifar10-lra", lambda folder: data_of("cifar10-lra", folder)),
    "grey": ("mnist", lambda folder: data_of("mnist", folder)),
    "letters": ("remote-homology", lambda folder: data_of("remote-homology", folder)),
}


def card_of(task, base, folder, more=""):
    """The card that a run would have, and its text."""
    trainer = run_fpt.prepare(flags(task, base, f"--do_eval {more}", folder / "out")).trainer
    return trainer.card, trainer.card.render(trainer.model, "owner/run", 5)


@pytest.mark.parametrize("kind", OWN_DATA)
def test_the_card_says_nothing_of_data_that_did_not_come(kind, saved_base, tmp_path):
    task, data = OWN_DATA[kind][0], OWN_DATA[kind][1](tmp_path)
    card, text = card_of(task, saved_base, tmp_path, data)
    body = re.sub(r"^fpt-adapters train .*$", "", text, flags=re.MULTILINE)
    said = [task, TASKS[task].dataset_name, TASKS[task].data_source, *TASKS[task].limits]
    assert [fact for fact in said if fact in body] == [] and str(tmp_path.parent) not in text
    assert card.dataset_id is None and card.dataset_name is None and card.example_text is None
    more = "--card_task insects --card_dataset 'ants and bees' --card_limits 'No wasps.'"
    card, text = card_of(task, saved_base, tmp_path, f"{data} {more}")
    assert "fpt_task: insects" in text and "- Data: ants and bees." in text and "- No wasps." in text


def test_files_may_be_a_copy_of_the_tasks_own_data(saved_base, tmp_path):
    images = data_of("mnist", tmp_path)
    card, text = card_of("mnist", saved_base, tmp_path, f"{images} --card_dataset_id ylecun/mnist")
    assert (card.task_name, card.dataset_id, card.limits) == ("mnist", "ylecun/mnist", list(TASKS["mnist"].limits))
    assert "- Data: [MNIST: handwritten digits](https://huggingface.co/datasets/ylecun/mnist)." in text
    card, text = card_of("mnist", saved_base, tmp_path, f"{images} --card_dataset_id owner/x")
    assert (card.task_name, card.dataset_id, card.dataset_name, card.limits) == (None, "owner/x", None, [])
    for task in ("digits", "bit-xor"):  # which read no files
        assert card_of(task, saved_base, tmp_path)[0].dataset_name == TASKS[task].data_source


def test_the_command_names_the_base_and_no_folder(saved_base, tmp_path):
    folder = tmp_path / "two words"
    folder.mkdir()
    images = shlex.quote(data_of("mnist", folder).removeprefix("--train_file "))
    for model in (f"--model_name_or_path={saved_base}", f"--model_name_or_path {saved_base}"):
        more = f"{model} --base_model owner/base --train_file={images} --test_file {images}"
        _, text = card_of("mnist", "owner/base", folder, more)
        shown = model.replace(str(saved_base), "owner/base")
        assert f"{shown} --base_model owner/base --train_file=images.parquet --test_file images.parquet\n" in text
        assert "two words" not in text and str(saved_base.parent) not in text
    _, text = card_of("digits", os.path.relpath(saved_base), tmp_path)
    assert f"--model_name_or_path {saved_base.name} --output_dir out" in text


# Recipes


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_parse_to_what_they_say(recipe):
    parsed = run_fpt.parse([str(recipe), "--use_cpu"])
    values = yaml.safe_load(recipe.read_text())
    assert values["task_name"] == recipe.stem.removeprefix("pretrain-") == parsed[-1].name
    assert values["output_dir"] == f"outputs/{recipe.stem}"
    for name, value in values.items():
        holders = [part for part in parsed if hasattr(part, name)]
        assert holders and getattr(holders[0], name) == value, name
    assert parsed[-2].do_train and parsed[-2].do_eval and parsed[-2].do_predict


def test_there_is_a_recipe_for_every_task_of_the_paper():
    assert {path.stem for path in RECIPES} == {*(task.name for task in PAPER_TASKS), "pretrain-bit-memory"}


RECIPE = {
    "task_name": "digits",
    "learning_rate": "1e-2",  # what YAML makes of 1e-2
    "max_steps": 2,
    "trainable": ["output", "norm"],
    "patch_size": 4,
    "do_train": True,
    "do_eval": True,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "output_dir": "of-the-recipe",
    "model_name_or_path": "of/the-recipe",
}


@pytest.mark.parametrize("ending", ["yaml", "yml", "json"])
def test_a_recipe_is_run_with_the_flags_on_top(ending, saved_base):
    recipe = f"recipe.{ending}"
    Path(recipe).write_text(json.dumps(RECIPE) if ending == "json" else yaml.safe_dump(RECIPE))
    arguments = [recipe, "--model_name_or_path", str(saved_base), "--output_dir", "out", "--max_steps", "3"]
    model_args, _, _, args, task = run_fpt.parse(arguments)
    assert (args.learning_rate, args.max_steps, model_args.trainable) == (0.01, 3, ["output", "norm"])
    assert (task.name, task.patch_size, args.do_predict, model_args.dropout) == ("digits", 4, False, 0.1)
    assert run_fpt.parse([*arguments, "--task_name", "mnist"])[-1].name == "mnist"
    results = run_fpt.main(arguments)
    assert results == read_json("out/all_results.json") and "eval_accuracy" in results
    assert not Path("of-the-recipe").exists()
    assert read_json("out/trainer_state.json")["global_step"] == 3


def test_the_papers_settings_are_the_defaults():
    model_args, _, _, args, _ = run_fpt.parse(["--task_name", "digits", "--output_dir", "o"])
    assert (args.learning_rate, args.lr_scheduler_type, args.weight_decay) == (1e-3, "constant", 0.0)
    assert model_args.trainable is None  # the paper's groups, where the input is projected
    assert args.report_to in ("none", [])


def test_help_shows_the_tasks_own_flags(capsys):
    with pytest.raises(SystemExit) as exit_:
        run_fpt.main(["--task_name", "mnist", "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for flag in ("--patch_size", "--validation_share", "--trainable", "--group_learning_rates", "--learning_rate"):
        assert flag in text


# Processes


def in_a_process(more, base):
    """Run the script in a process of its own, as chatty as by default: exit status, stdout, lines of stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *flags("digits", base, f"{TRAIN} {more}")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    lines = [line for line in done.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    return done.returncode, done.stdout, lines


def test_a_real_process_ends_with_one_line(saved_base):
    status, _, lines = in_a_process("--trainable norms", saved_base)
    assert status == 2
    assert len(lines) == 1 and lines[0].startswith("run_fpt.py: error: trainable takes groups out of"), lines


def test_a_real_process_trains_without_a_word_on_stderr(saved_base):
    status, stdout, lines = in_a_process("--do_eval", saved_base)
    assert (status, lines) == (0, [])
    assert "eval_accuracy" in stdout and "all trained" in stdout
    assert stdout.splitlines()[:3] == [
        "run_fpt.py: importing torch and transformers ...",
        "reading the data of digits ...",
        f"loading {saved_base} ...",
    ]
    assert "eval_accuracy" in read_json("out/all_results.json")


@pytest.mark.parametrize(
    ("script", "rank"),
    [("run_fpt.py", "0"), ("demo.py", "0"), ("reproduce.py", "0"), ("attention_maps.py", "0"), ("run_fpt.py", "1")],
)
def test_the_first_word_comes_before_the_imports_that_take_long(script, rank, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(EXAMPLES.parent)]), "RANK": rank}
    command = [sys.executable, str(EXAMPLES / script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    first = f"{script}: importing torch and transformers ...\n" if rank == "0" else ""
    assert (done.stdout, done.stderr) == (first, "torch\n")
