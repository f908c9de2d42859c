"""The run script: results, recipes, resume, evaluation of a saved delta, and one line for each user mistake."""

import io
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from conftest import fill, used
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from fpt_adapters import DeltaError
from fpt_adapters.run import training as run_fpt
from fpt_adapters.tasks import TASKS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "run_fpt.py"
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
QUIET = ["--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no"]


@pytest.fixture(autouse=True)
def alone_and_quiet(tmp_path, monkeypatch):
    """No file outside tmp_path, and no progress bars on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("FPT_DEBUG", raising=False)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    datasets.enable_progress_bars()


def flags(task, base, output_dir, *more):
    return ["--task_name", task, "--model_name_or_path", str(base), "--output_dir", str(output_dir), *QUIET, *more]


def results_in(folder):
    return json.loads((Path(folder) / "all_results.json").read_text())


def assert_same_delta(first, second, same=True):
    first, second = (load_file(Path(folder) / "model.safetensors") for folder in (first, second))
    assert first.keys() == second.keys() and first
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()) == same


def png(shape, seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write_images(path, shape=(28, 28), labels=None, column="image"):
    labels = [i % 10 for i in range(60)] if labels is None else labels
    features = datasets.Features({column: datasets.Image(), "label": datasets.Value("int64")})
    images = [png(shape, seed) for seed in range(len(labels))]
    datasets.Dataset.from_dict({column: images, "label": labels}, features=features).to_parquet(path)
    return str(path)


# Results


TRAINED = ["--do_train", "--do_eval", "--do_predict"]
SCORED = ["--eval_strategy", "steps", "--eval_steps", "20", "--logging_steps", "10"]
SAVED = ["--save_strategy", "steps", "--save_steps", "20"]
DIGITS = [*TRAINED, *SCORED, *SAVED, "--max_steps", "40", "--learning_rate", "1e-2", "--seed", "3"]


@pytest.fixture(scope="module")
def digits(saved_base, tmp_path_factory):
    """A finished run on digits: its folder and what `main` returned."""
    folder = tmp_path_factory.mktemp("digits") / "out"
    return folder, run_fpt.main(flags("digits", saved_base, folder, *DIGITS))


def test_results_stand_beside_their_floors(digits):
    folder, results = digits
    written = results_in(folder)
    assert written == results
    for split in ("eval", "test"):
        assert 0.1 <= written[f"{split}_floor"] < 0.15  # the largest of ten digits
        assert written[f"{split}_floor"] + 0.1 < written[f"{split}_accuracy"] < 1
    assert written["epoch"] == pytest.approx(40 / 150, abs=0.01)  # 1,197 examples in batches of 8
    assert {"train_loss", "eval_loss", "test_loss"} <= written.keys()


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


def test_the_saved_delta_scores_as_it_did(digits, saved_base, tmp_path):
    folder, trained = digits
    again = ["--base_model_name_or_path", str(saved_base), "--do_eval", "--do_predict", "--seed", "3"]
    results = run_fpt.main(flags("digits", folder, tmp_path / "eval", *again))
    assert results_in(tmp_path / "eval") == results
    for name in ("eval_accuracy", "eval_floor", "test_accuracy", "test_floor"):
        assert results[name] == trained[name]
    assert results["eval_loss"] == pytest.approx(trained["eval_loss"], abs=1e-6)
    assert "train_loss" not in results
    assert not (tmp_path / "eval" / "learning_curve.png").exists()
    assert not (tmp_path / "eval" / "model.safetensors").exists()


def test_evaluation_may_write_into_the_runs_own_folder(digits, saved_base, tmp_path):
    folder = shutil.copytree(digits[0], tmp_path / "out")
    weights = (folder / "model.safetensors").read_bytes()
    again = ["--base_model_name_or_path", str(saved_base), "--do_eval", "--max_eval_samples", "100"]
    run_fpt.main(flags("digits", folder, folder, *again))
    assert (folder / "model.safetensors").read_bytes() == weights
    assert results_in(folder)["test_accuracy"] == digits[1]["test_accuracy"]  # merged, not replaced


def test_resume_last_ends_where_the_whole_run_did(digits, saved_base, tmp_path):
    folder, whole = digits
    half = tmp_path / "half"
    half.mkdir()
    shutil.copytree(folder / "checkpoint-20", half / "checkpoint-20")
    results = run_fpt.main(flags("digits", saved_base, half, *DIGITS, "--resume_from_checkpoint", "last"))
    assert_same_delta(half, folder)
    assert results["test_loss"] == whole["test_loss"] and results["eval_accuracy"] == whole["eval_accuracy"]
    histories = [json.loads((f / "trainer_state.json").read_text())["log_history"] for f in (half, folder)]
    assert [row.get("loss") for row in histories[0][:-1]] == [row.get("loss") for row in histories[1][:-1]]

    other_seed = [*DIGITS[:-1], "4"]
    run_fpt.main(flags("digits", saved_base, tmp_path / "other", *other_seed))
    assert_same_delta(tmp_path / "other", folder, same=False)


def test_bit_xor_is_trained_and_scored(saved_base, tmp_path):
    more = [*TRAINED, "--max_steps", "5", "--eval_examples", "50"]
    results = run_fpt.main(flags("bit-xor", saved_base, tmp_path / "out", *more))
    assert results_in(tmp_path / "out") == results
    assert results["eval_floor"] == results["test_floor"] == 0.5
    assert 0 <= results["eval_accuracy"] <= 1
    assert results["epoch"] == 1.0  # as many examples are drawn as the steps need
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["FPTForTokenClassification"]
    assert str(saved_base) not in json.dumps(config)  # a path is nobody else's business


def proteins(folder):
    file = folder / "folds.csv"
    rows = [f"{'ACDEFGHIKL'[i % 10] * (3 + i % 7)},{i % 3}" for i in range(40)]
    file.write_text("sequence,label\n" + "\n".join(rows))
    return str(file)


OTHER_TASKS = {
    "bit-memory": lambda folder: "--num_strings 2 --string_length 20 --bits_per_token 5 --eval_examples 20".split(),
    "listops": lambda folder: (
        "--variant full --min_length 5 --max_length 40 --max_depth 4 --max_args 4 --train_examples 20 "
        "--eval_examples 10"
    ).split(),
    "mnist": lambda folder: ["--train_file", write_images(folder / "images.parquet")],
    "cifar10": lambda folder: ["--train_file", write_images(folder / "images.parquet", (32, 32, 3))],
    "cifar10-lra": lambda folder: [
        *("--train_file", write_images(folder / "images.parquet", (32, 32, 3)), "--patch_size", "4"),
    ],
    "remote-homology": lambda folder: ["--train_file", proteins(folder), "--max_length", "30"],
}


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_every_task_is_trained_and_scored(task, saved_base, tmp_path):
    more = [*TRAINED, "--max_steps", "2", *OTHER_TASKS[task](tmp_path)]
    results = run_fpt.main(flags(task, saved_base, tmp_path / "out", *more))
    assert {"eval_accuracy", "eval_floor", "test_accuracy", "test_floor"} <= results_in(tmp_path / "out").keys()
    assert 0 < results["eval_floor"] < 1
    assert (tmp_path / "out" / "learning_curve.png").is_file()


def image_folder(folder):
    """A folder as `datasets` reads it: ten kinds, a picture of each kind in each split."""
    for split, kind in itertools.product(("train", "validation", "test"), "abcdefghij"):
        file = folder / split / f"ant {kind}" / "1.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(png((32, 32, 3), ord(kind))["bytes"])
    return folder


OWN_DATA = {  # the task, and flags that name data of the user's own
    "folder": ("cifar10", lambda folder: ["--dataset_name", os.path.relpath(image_folder(folder / "insects"))]),
    "absolute": ("cifar10", lambda folder: ["--dataset_name", str(image_folder(folder / "insects"))]),
    "file": ("cifar10-lra", OTHER_TASKS["cifar10-lra"]),
    "grey": ("mnist", OTHER_TASKS["mnist"]),
    "letters": ("remote-homology", OTHER_TASKS["remote-homology"]),
}


def card_of(task, base, folder, *more):
    """The card that a run would have, and its text."""
    trainer = run_fpt.prepare(flags(task, base, folder / "out", "--do_eval", *more)).trainer
    return trainer.card, trainer.card.render(trainer.model, "owner/run", 5)


@pytest.mark.parametrize("kind", OWN_DATA)
def test_the_card_says_nothing_of_data_that_did_not_come(kind, saved_base, tmp_path):
    task, data = OWN_DATA[kind][0], OWN_DATA[kind][1](tmp_path)
    card, text = card_of(task, saved_base, tmp_path, *data)
    body = re.sub(r"^fpt-adapters train .*$", "", text, flags=re.MULTILINE)
    said = [task, TASKS[task].dataset_name, TASKS[task].data_source, *TASKS[task].limits]
    assert [fact for fact in said if fact in body] == [] and str(tmp_path.parent) not in text
    assert card.dataset_id is None and card.dataset_name is None and card.example_text is None
    more = ["--card_task", "insects", "--card_dataset", "ants and bees", "--card_limits", "No wasps."]
    card, text = card_of(task, saved_base, tmp_path, *data, *more)
    assert "fpt_task: insects" in text and "- Data: ants and bees." in text and "- No wasps." in text


def test_files_may_be_a_copy_of_the_tasks_own_data(saved_base, tmp_path):
    images = write_images(tmp_path / "images.parquet")
    card, text = card_of("mnist", saved_base, tmp_path, "--train_file", images, "--card_dataset_id", "ylecun/mnist")
    assert (card.task_name, card.dataset_id, card.limits) == ("mnist", "ylecun/mnist", list(TASKS["mnist"].limits))
    assert "- Data: [MNIST: handwritten digits](https://huggingface.co/datasets/ylecun/mnist)." in text
    card, text = card_of("mnist", saved_base, tmp_path, "--train_file", images, "--card_dataset_id", "owner/x")
    assert (card.task_name, card.dataset_id, card.dataset_name, card.limits) == (None, "owner/x", None, [])
    for task in ("digits", "bit-xor"):  # which read no files
        assert card_of(task, saved_base, tmp_path)[0].dataset_name == TASKS[task].data_source


def test_the_command_names_the_base_and_no_folder(saved_base, tmp_path):
    folder = tmp_path / "two words"
    folder.mkdir()
    images = write_images(folder / "images.parquet")
    for model in ([f"--model_name_or_path={saved_base}"], ["--model_name_or_path", str(saved_base)]):
        more = [*model, "--base_model", "owner/base", f"--train_file={images}", "--test_file", images]
        _, text = card_of("mnist", "owner/base", folder, *more)
        shown = " ".join(model).replace(str(saved_base), "owner/base")
        assert f"{shown} --base_model owner/base --train_file=images.parquet --test_file images.parquet\n" in text
        assert "two words" not in text and str(saved_base.parent) not in text
    _, text = card_of("digits", os.path.relpath(saved_base), tmp_path)
    assert f"--model_name_or_path {saved_base.name} --output_dir out" in text


def test_augmented_training_resumes_within_an_epoch(saved_base, tmp_path):
    images = write_images(tmp_path / "images.parquet", (32, 32, 3))
    more = ["--do_train", "--max_steps", "14", *SAVED[:2], "--save_steps", "9", "--train_file", images]
    run_fpt.main(flags("cifar10", saved_base, tmp_path / "whole", *more))  # six batches an epoch
    (tmp_path / "half").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-9", tmp_path / "half" / "checkpoint-9")
    run_fpt.main(flags("cifar10", saved_base, tmp_path / "half", *more, "--resume_from_checkpoint", "last"))
    assert_same_delta(tmp_path / "whole", tmp_path / "half")


def test_max_samples_are_kept(saved_base, tmp_path):
    more = ["--max_train_samples", "24", "--max_eval_samples", "20", "--max_predict_samples", "10"]
    arguments = flags("digits", saved_base, tmp_path / "out", *TRAINED, *more, "--num_train_epochs", "2")
    _, data_args, _, args, task = run_fpt.parse(arguments)
    data = run_fpt.load_data(task, data_args, args)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 20, 10)
    results = run_fpt.main(arguments)
    assert (results["eval_accuracy"] * 20) % 1 == 0 and (results["test_accuracy"] * 10) % 1 == 0
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 6  # two epochs of 24 in batches of 8
    assert np.load(tmp_path / "out" / "test_predictions.npz")["labels"].shape == (10,)


def test_trainable_names_the_groups(saved_base, tmp_path):
    more = ["--do_train", "--max_steps", "1", "--trainable", "input", "output", "attention"]
    run_fpt.main(flags("digits", saved_base, tmp_path / "out", *more))
    names = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert {name.split(".")[-2] for name in names if name.startswith("backbone.")} == {"attention"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["trainable"] == ["input", "output", "attention"]


def test_group_learning_rates_reach_their_groups(saved_base, tmp_path):
    more = ["--do_train", "--max_steps", "1", "--learning_rate", "1e-3"]
    run_fpt.main(flags("digits", saved_base, tmp_path / "out", *more, "--group_learning_rates", "norm=0.1"))
    base, tensors = load_file(saved_base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    norm = tensors["backbone.layers.0.norm.0"] - base["h.0.ln_1.weight"]
    positions = tensors["backbone.position.0"] - base["wpe.weight"][:16]
    assert norm.abs().max().item() == pytest.approx(0.1, rel=1e-3)  # Adam's first step is the learning rate
    assert positions.abs().max().item() == pytest.approx(1e-3, rel=1e-2)


def test_model_flags_reach_the_config(saved_base, tmp_path):
    more = ["--backbone_init", "random", "--backbone_init_seed", "5", "--backbone_init_scheme", "gpt2-flat"]
    more += ["--dropout", "0.0", "--backbone_dropout", "0.2", "--pooling", "mean", "--positions", "new"]
    more += ["--base_model", "someone/tiny-gpt2", "--do_train", "--max_steps", "1"]
    run_fpt.main(flags("digits", saved_base, tmp_path / "out", *more))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    wanted = {"backbone_init": "random", "backbone_init_seed": 5, "backbone_init_scheme": "gpt2-flat"}
    wanted |= {"input_dropout": 0.0, "backbone_dropout": 0.2, "pooling": "mean", "positions": "new"}
    wanted |= {"base_model": "someone/tiny-gpt2", "image_size": 8, "patch_size": 2}
    assert {name: config[name] for name in wanted} == wanted


LSTM = '{"model_type": "fpt_lstm", "hidden_size": 8, "num_hidden_layers": 2}'


def test_a_backbone_is_built_from_its_configuration_and_cut(tmp_path):
    arguments = ["--task_name", "digits", "--output_dir", str(tmp_path / "out"), *QUIET, "--do_train", "--do_eval"]
    arguments += ["--backbone_config", LSTM, "--backbone_init", "random", "--backbone_layers", "1", "--max_steps", "2"]
    results = run_fpt.main([*arguments, "--trainable", "input", "output", "norm", "recurrent"])
    assert results["eval_accuracy"] >= 0 and "eval_floor" in results
    saved = AutoConfig.from_pretrained(tmp_path / "out")
    assert saved.backbone_layers == 1 and saved.base_model_config.num_hidden_layers == 2
    assert AutoModel.from_pretrained(tmp_path / "out").backbone.config.num_hidden_layers == 1


def test_a_backbone_trained_whole_is_saved_and_serves_as_a_base(saved_base, tmp_path):
    whole = ["--trainable", "input", "output", "norm", "position", "attention", "feedforward"]
    train = ["--do_train", "--max_steps", "2", "--save_backbone", str(tmp_path / "backbone")]
    run_fpt.main([*flags("bit-xor", saved_base, tmp_path / "whole", *train), *whole])
    trained = load_file(tmp_path / "backbone" / "model.safetensors")
    before = load_file(saved_base / "model.safetensors")
    assert trained.keys() == before.keys()
    assert not torch.equal(trained["h.0.attn.c_attn.weight"], before["h.0.attn.c_attn.weight"])
    on_it = flags("bit-xor", tmp_path / "backbone", tmp_path / "fpt", "--do_train", "--do_eval", "--max_steps", "2")
    assert "eval_accuracy" in run_fpt.main(on_it)
    with pytest.raises(ValueError, match=r"--save_backbone .* is not empty"):
        run_fpt.main([*flags("bit-xor", saved_base, tmp_path / "again", *train), *whole])
    assert not (tmp_path / "again").exists()


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


def test_there_is_a_recipe_for_every_task():
    assert {path.stem for path in RECIPES} == {*TASKS, "pretrain-bit-memory"}


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
}


@pytest.mark.parametrize("ending", ["yaml", "yml", "json"])
def test_a_recipe_is_run_with_the_flags_on_top(ending, saved_base, tmp_path):
    recipe = tmp_path / f"recipe.{ending}"
    values = RECIPE | {"output_dir": str(tmp_path / "of-the-recipe"), "model_name_or_path": "of/the-recipe"}
    recipe.write_text(json.dumps(values) if ending == "json" else yaml.safe_dump(values))
    on_top = ["--model_name_or_path", str(saved_base), "--output_dir", str(tmp_path / "out"), "--max_steps", "3"]
    arguments = [str(recipe), *on_top]
    model_args, _, _, args, task = run_fpt.parse(arguments)
    assert (args.learning_rate, args.max_steps, model_args.trainable) == (0.01, 3, ["output", "norm"])
    assert (task.patch_size, args.do_predict, model_args.dropout) == (4, False, 0.1)
    results = run_fpt.main(arguments)
    assert results == results_in(tmp_path / "out") and "eval_accuracy" in results
    assert not (tmp_path / "of-the-recipe").exists()
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 3


def test_a_recipes_task_gives_way_to_a_flag(tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"task_name": "digits", "model_name_or_path": "m", "output_dir": "o"}))
    assert run_fpt.parse([str(recipe)])[-1].name == "digits"
    assert run_fpt.parse([str(recipe), "--task_name", "bit-xor"])[-1].name == "bit-xor"


def test_the_papers_settings_are_the_defaults(tmp_path):
    flags = ["--task_name", "digits", "--model_name_or_path", "m", "--output_dir", "o"]
    model_args, _, _, args, _ = run_fpt.parse(flags)
    assert (args.learning_rate, args.lr_scheduler_type, args.weight_decay) == (1e-3, "constant", 0.0)
    assert model_args.trainable == ["input", "output", "norm", "position"]
    assert args.report_to in ("none", [])


def test_help_shows_the_tasks_own_flags(capsys):
    with pytest.raises(SystemExit) as exit_:
        run_fpt.main(["--task_name", "mnist", "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for flag in ("--patch_size", "--validation_share", "--trainable", "--group_learning_rates", "--learning_rate"):
        assert flag in text


# Mistakes


def fails(arguments, monkeypatch, capsys):
    """Run the script as `python run_fpt.py` would. Returns its last line, having seen that it is its only one."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    stderr = capsys.readouterr().err
    assert exit_.value.code == 2, stderr
    assert "Traceback" not in stderr
    lines = stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("run_fpt.py: error: "), stderr
    return lines[0]


TRAIN = ["--do_train", "--max_steps", "2"]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--learningrate", "1"], ["'--learningrate'", "Did you mean --learning_rate"]),
        (["--num_strings", "2"], ["'--num_strings'"]),  # another task's
        (["--trainable", "norms"], ["trainable", "'norms'", "input, output, norm, position"]),
        (["--positions", "none"], ["positions='none'", "trainable"]),
        (["--pooling", "max"], ["pooling", "max", "'auto', 'last', 'mean', 'first'"]),
        (["--dropout", "1.5"], ["input_dropout", "1.5"]),
        (["--patch_size", "3"], ["image_size", "8 pixels", "3"]),
        (["--group_learning_rates", "norm"], ["GROUP=RATE", "'norm'"]),
        (["--group_learning_rates", "norm=fast"], ["GROUP=RATE", "'norm=fast'"]),
        (["--group_learning_rates", "attention=1e-3"], ["'attention'", "input, output, norm, position"]),
        (["--max_train_samples", "0"], ["max_samples['train']", "got 0"]),
        (["--dtype", "int8"], ["dtype", "float32, bfloat16, float16", "'int8'"]),
        (["--base_model", "/my/gpt2"], ["base_model", "Hub id", "'/my/gpt2'"]),
        (["--model_name_or_path", "/absent"], ["--model_name_or_path '/absent'", "no folder '/absent'", "no Hub id"]),
        (["--model_name_or_path", "of/nobody"], ["--model_name_or_path 'of/nobody'", "looked for on the Hub"]),
        (["--model_name_or_path", "."], ["has no config.json", "--model_name_or_path '.'"]),
        (["--resume_from_checkpoint", "last"], ["No checkpoint to resume from"]),
        (["--resume_from_checkpoint", "/nowhere"], ["/nowhere", "no checkpoint of this model"]),
        (["--learning_rate", "1e38", "--max_steps", "30", "--logging_steps", "1"], ["training diverged"]),
    ],
)
def test_wrong_flags_are_told_in_one_line(more, parts, saved_base, tmp_path, monkeypatch, capsys):
    line = fails(flags("digits", saved_base, tmp_path / "out", *TRAIN, *more), monkeypatch, capsys)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ([], ["either --model_name_or_path", "or --backbone_config"]),
        (["--backbone_config", "gpt2"], ["JSON", '"model_type": "gpt2"', "'gpt2'"]),
        (["--backbone_config", '{"n_layer": 3}'], ["needs a model_type", "n_layer"]),
        (["--backbone_config", '{"model_type": "ftp"}'], ["ftp"]),
        (["--backbone_config", '{"model_type": "fpt_lstm", "hidden_size": 0}'], ["hidden_size", "at least 1"]),
        (["--backbone_config", '{"model_type": "fpt_identity"}'], ["backbone_init='random'"]),
        (["--backbone_config", LSTM, "--backbone_init", "random", "--backbone_layers", "3"], ["3", "2 layers"]),
    ],
)
def test_wrong_backbone_configurations_are_told_in_one_line(more, parts, tmp_path, monkeypatch, capsys):
    arguments = ["--task_name", "digits", "--output_dir", str(tmp_path / "out"), *QUIET, *TRAIN, *more]
    line = fails(arguments, monkeypatch, capsys)
    for part in parts:
        assert part in line


def test_an_unknown_task_is_told_with_the_known_ones(saved_base, tmp_path, monkeypatch, capsys):
    line = fails(flags("mist", saved_base, tmp_path / "out", *TRAIN), monkeypatch, capsys)
    for name in ("'mist'", *TASKS):
        assert name in line


def test_what_is_needed_is_told(saved_base, tmp_path, monkeypatch, capsys):
    arguments = flags("digits", saved_base, tmp_path / "out")
    assert "Nothing to do: write --do_train" in fails(arguments, monkeypatch, capsys)
    assert "--task_name is needed: one of bit-memory" in fails(arguments[2:], monkeypatch, capsys)


def test_an_output_folder_is_needed(saved_base, tmp_path, monkeypatch, capsys):
    arguments = ["--task_name", "digits", "--model_name_or_path", str(saved_base), *QUIET, *TRAIN]
    assert "--output_dir is needed" in fails(arguments, monkeypatch, capsys)
    assert not (tmp_path / "trainer_output").exists()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("task_name: digits\npatchsize: 4", ["'patchsize'", "Did you mean patch_size"]),
        ("task_name: digits\nmax_steps: many", ["max_steps", "'many'"]),
        ("task_name: digits\ntrainable: norm", ["trainable", "list", "'norm'"]),
        ("task_name: digits\nmax_steps: [1, 2]", ["max_steps", "one value"]),
        ("task_name: mist", ["'mist'", "digits"]),
        ("- digits", ["task_name: mnist"]),
        ("a: [", ["cannot be read"]),
        ("", ["task_name: mnist"]),
    ],
)
def test_wrong_recipes_are_told_in_one_line(content, parts, saved_base, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    line = fails([recipe, *flags("digits", saved_base, tmp_path / "out", *TRAIN)[2:]], monkeypatch, capsys)
    for part in parts:
        assert part in line


def test_a_missing_recipe_is_told(saved_base, tmp_path, monkeypatch, capsys):
    line = fails(["nowhere.yaml", *flags("digits", saved_base, tmp_path, *TRAIN)], monkeypatch, capsys)
    assert "'nowhere.yaml' is not there" in line


@pytest.mark.parametrize("name", ["no-such-folder", "empty", "foreign", "someone/no-such-model"])
def test_a_missing_base_is_told(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "no-such-type"}')
    base = name if "/" in name else tmp_path / name
    line = fails(flags("digits", base, tmp_path / "out", *TRAIN), monkeypatch, capsys)
    assert name in line or "no-such-type" in line
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_an_output_folder_in_use_is_left_alone(saved_base, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    line = fails(flags("digits", saved_base, tmp_path / "out", *TRAIN), monkeypatch, capsys)
    assert "is not empty" in line and "--resume_from_checkpoint last" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_sequence_longer_than_the_backbone_is_told(saved_base, tmp_path, monkeypatch, capsys):
    more = ["--string_length", "40", *TRAIN]
    line = fails(flags("bit-xor", saved_base, tmp_path / "out", *more), monkeypatch, capsys)
    assert "80 tokens" in line and "positions for 64" in line


@pytest.mark.parametrize(
    ("change", "more", "parts"),
    [
        ({}, ["--label_column", "digit"], ["no column 'digit'", "image, label", "--label_column"]),
        ({}, ["--image_column", "picture"], ["no column 'picture'", "image, label", "--image_column"]),
        ({"labels": [0] * 50 + [12] + [1] * 9}, [], ["0..9", "row 50", "12"]),
        ({"labels": []}, [], ["no rows"]),
        ({"shape": (27, 28)}, [], ["28", "27", "row 0"]),
    ],
)
def test_wrong_data_is_told_in_one_line(change, more, parts, saved_base, tmp_path, monkeypatch, capsys):
    file = write_images(tmp_path / "images.parquet", **change)
    files = ["--train_file", file, "--test_file", file, "--validation_file", file]
    line = fails(flags("mnist", saved_base, tmp_path / "out", *TRAIN, *files, *more), monkeypatch, capsys)
    for part in parts:
        assert part in line


def test_a_missing_file_is_told(saved_base, tmp_path, monkeypatch, capsys):
    more = [*TRAIN, "--train_file", "nowhere.parquet"]
    line = fails(flags("mnist", saved_base, tmp_path / "out", *more), monkeypatch, capsys)
    assert "'nowhere.parquet' is not there" in line


def test_a_delta_needs_its_base_and_its_task(digits, saved_base, tmp_path, monkeypatch, capsys):
    folder, out = digits[0], tmp_path / "out"
    assert "base_model_name_or_path" in fails(flags("digits", folder, out, "--do_eval"), monkeypatch, capsys)
    with_base = ["--do_eval", "--base_model_name_or_path", str(saved_base)]
    line = fails(flags("digits", folder, out, *with_base, "--patch_size", "4"), monkeypatch, capsys)
    assert "The delta was trained with patch_size=2, the task has 4" in line
    line = fails(flags("bit-xor", folder, out, *with_base), monkeypatch, capsys)
    assert "The delta was trained with input_type='images'" in line


def test_a_delta_on_a_changed_base_is_told(digits, saved_base, tmp_path, monkeypatch, capsys):
    other = shutil.copytree(saved_base, tmp_path / "other")
    torch.manual_seed(2)
    AutoModel.from_config(AutoConfig.from_pretrained(other)).save_pretrained(other)
    more = ["--do_eval", "--base_model_name_or_path", str(other)]
    assert "Another base" in fails(flags("digits", digits[0], tmp_path / "out", *more), monkeypatch, capsys)


def test_debugging_shows_where(saved_base, tmp_path, monkeypatch):
    monkeypatch.setenv("FPT_DEBUG", "1")
    arguments = flags("digits", saved_base, tmp_path / "out", *TRAIN, "--resume_from_checkpoint", "/nowhere")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(DeltaError):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def in_a_process(arguments):
    """Run the script in a process of its own, as chatty as by default: exit status, stdout, lines of stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    lines = [line for line in done.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    return done.returncode, done.stdout, lines


def test_a_real_process_ends_with_one_line(saved_base, tmp_path):
    status, _, lines = in_a_process(flags("digits", saved_base, tmp_path / "out", *TRAIN, "--trainable", "norms"))
    assert status == 2
    assert len(lines) == 1 and lines[0].startswith("run_fpt.py: error: trainable takes groups out of"), lines


def test_a_real_process_trains_without_a_word_on_stderr(saved_base, tmp_path):
    status, stdout, lines = in_a_process(flags("digits", saved_base, tmp_path / "out", *TRAIN, "--do_eval"))
    assert (status, lines) == (0, [])
    assert "eval_accuracy" in stdout and "all trained" in stdout
    told = [
        "run_fpt.py: importing torch and transformers ...",
        "reading the data of digits ...",
        f"loading {saved_base} ...",
    ]
    assert stdout.splitlines()[:3] == told
    assert "eval_accuracy" in results_in(tmp_path / "out")


@pytest.mark.parametrize(
    ("script", "rank"),
    [("run_fpt.py", "0"), ("demo.py", "0"), ("reproduce.py", "0"), ("attention_maps.py", "0"), ("run_fpt.py", "1")],
)
def test_the_first_word_comes_before_the_imports_that_take_long(script, rank, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "RANK": rank}
    command = [sys.executable, str(ROOT / "examples" / script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    first = f"{script}: importing torch and transformers ...\n" if rank == "0" else ""
    assert (done.stdout, done.stderr) == (first, "torch\n")


@pytest.mark.parametrize("part", [0.3, 0.96])
def test_a_full_disk_is_told_in_one_line(part, digits, saved_base, small_disk, monkeypatch, capsys):
    """While a checkpoint is written, and while the results are."""
    fill(small_disk, part * used(digits[0]))
    line = fails(flags("digits", saved_base, small_disk / "out", *DIGITS), monkeypatch, capsys)
    assert f"No space left on the disk {small_disk}: to write into" in line and "are free. Make room" in line
    assert str(small_disk / "out") in line


def test_a_flag_that_the_delta_settled_otherwise_is_refused(saved_base, tmp_path, monkeypatch, capsys):
    run_fpt.main(flags("digits", saved_base, tmp_path / "out", *TRAIN))
    again = flags("digits", tmp_path / "out", tmp_path / "eval", "--do_eval", "--base_model_name_or_path", saved_base)
    line = fails([*again, "--pooling", "mean"], monkeypatch, capsys)
    assert "--pooling 'mean' came, but the delta was built with 'last'" in line
