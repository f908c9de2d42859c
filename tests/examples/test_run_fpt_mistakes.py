"""The run script tells of each of a user's mistakes in one line."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from data_files import INTEGER, image_rows, random_pixels, write
from test_run_fpt import LSTM, SCRIPT, TRAIN, flags, run
from transformers import AutoConfig, AutoModel

from fpt_adapters import DeltaError
from fpt_adapters.tasks import TASKS

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("--learningrate 1", ["'--learningrate'", "Did you mean --learning_rate"]),
        ("--num_strings 2", ["'--num_strings'"]),  # another task's
        ("--trainable norms", ["trainable", "'norms'", "input, output, norm, position"]),
        ("--positions none", ["positions='none'", "trainable"]),
        ("--pooling max", ["pooling", "max", "'auto', 'last', 'mean', 'first'"]),
        ("--dropout 1.5", ["input_dropout", "1.5"]),
        ("--patch_size 3", ["image_size", "8 pixels", "3"]),
        ("--group_learning_rates norm", ["GROUP=RATE", "'norm'"]),
        ("--group_learning_rates norm=fast", ["GROUP=RATE", "'norm=fast'"]),
        ("--group_learning_rates attention=1e-3", ["'attention'", "input, output, norm, position"]),
        ("--max_train_samples 0", ["max_samples['train']", "got 0"]),
        ("--dtype int8", ["dtype", "float32, bfloat16, float16", "'int8'"]),
        ("--base_model /my/gpt2", ["base_model", "Hub id", "'/my/gpt2'"]),
        ("--model_name_or_path /absent", ["--model_name_or_path '/absent'", "no folder '/absent'", "no Hub id"]),
        ("--model_name_or_path of/nobody", ["--model_name_or_path 'of/nobody'", "looked for on the Hub"]),
        ("--model_name_or_path .", ["has no config.json", "--model_name_or_path '.'"]),
        ("--resume_from_checkpoint last", ["No checkpoint to resume from"]),
        ("--resume_from_checkpoint /nowhere", ["/nowhere", "no checkpoint of this model"]),
        ("--learning_rate 1e38 --max_steps 30 --logging_steps 1", ["training diverged"]),
        ("--task_name mist", ["'mist'", *TASKS]),
        ("--task_name bit-xor --string_length 40", ["80 tokens", "positions for 64"]),
        ("--task_name mnist --train_file nowhere.parquet", ["'nowhere.parquet' is not there"]),
    ],
)
def test_wrong_flags_are_told(more, parts, saved_base, assert_told):
    assert_told(SCRIPT, flags("digits", saved_base, f"{TRAIN} {more}"), *parts)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("", ["either --model_name_or_path", "or --backbone_config"]),
        ("--backbone_config gpt2", ["JSON", '"model_type": "gpt2"', "'gpt2'"]),
        ("""--backbone_config '{"n_layer": 3}'""", ["needs a model_type", "n_layer"]),
        ("""--backbone_config '{"model_type": "ftp"}'""", ["ftp"]),
        ("""--backbone_config '{"model_type": "fpt_lstm", "hidden_size": 0}'""", ["hidden_size", "at least 1"]),
        ("""--backbone_config '{"model_type": "fpt_identity"}'""", ["backbone_init='random'"]),
        (f"--backbone_config '{LSTM}' --backbone_init random --backbone_layers 3", ["3", "2 layers"]),
    ],
)
def test_wrong_backbone_configurations_are_told(more, parts, assert_told):
    assert_told(SCRIPT, flags("digits", None, f"{TRAIN} {more}"), *parts)


def test_what_is_needed_is_told(saved_base, assert_told):
    arguments = flags("digits", saved_base)
    assert_told(SCRIPT, arguments, "Nothing to do: write --do_train")
    assert_told(SCRIPT, arguments[2:], "--task_name is needed: one of bit-memory")
    place = arguments.index("--output_dir")
    assert_told(SCRIPT, [*arguments[:place], *arguments[place + 2 :], "--do_train"], "--output_dir is needed")
    assert not Path("trainer_output").exists()


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
        (None, ["'recipe.yaml' is not there"]),
    ],
)
def test_wrong_recipes_are_told(content, parts, saved_base, assert_told):
    if content is not None:
        Path("recipe.yaml").write_text(content)
    assert_told(SCRIPT, ["recipe.yaml", *flags("digits", saved_base, TRAIN)[2:]], *parts)


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("no-such-folder", "no-such-folder"),
        ("empty", "empty"),
        ("foreign", "no-such-type"),
        ("someone/no-such-model", "someone/no-such-model"),
    ],
)
def test_a_missing_base_is_told(base, part, tmp_path, assert_told):
    for folder in ("empty", "foreign"):
        Path(folder).mkdir()
    Path("foreign/config.json").write_text('{"model_type": "no-such-type"}')
    assert_told(SCRIPT, flags("digits", base if "/" in base else tmp_path / base, TRAIN), part)
    assert not Path("out").exists() or not any(Path("out").iterdir())


def test_an_output_folder_in_use_is_left_alone(saved_base, assert_told):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    assert_told(SCRIPT, flags("digits", saved_base, TRAIN), "is not empty", "--resume_from_checkpoint last")
    assert [path.name for path in Path("out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("more", "labels", "shape", "parts"),
    [
        ("--label_column digit", [0], (28, 28), ["no column 'digit'", "image, label", "--label_column"]),
        ("--image_column picture", [0], (28, 28), ["no column 'picture'", "image, label", "--image_column"]),
        ("", [0] * 50 + [12] + [1] * 9, (28, 28), ["0..9", "row 50", "12"]),
        ("", [], (28, 28), ["no rows"]),
        ("", [0], (27, 28), ["28", "27", "row 0"]),
    ],
    ids=["label column", "image column", "label", "no rows", "size"],
)
def test_wrong_data_is_told(more, labels, shape, parts, saved_base, assert_told):
    write(Path("images.parquet"), image_rows(random_pixels(len(labels), shape), labels, feature=INTEGER))
    files = " ".join(f"--{split}_file images.parquet" for split in ("train", "validation", "test"))
    assert_told(SCRIPT, flags("mnist", saved_base, f"{TRAIN} {files} {more}"), *parts)


@pytest.fixture(scope="module")
def delta(saved_base, tmp_path_factory):
    """The folder of a delta that two steps on the digits trained."""
    folder = tmp_path_factory.mktemp("digits") / "out"
    run("digits", saved_base, TRAIN, folder)
    return folder


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ("--patch_size 4", "The delta was trained with patch_size=2, the task has 4"),
        ("--task_name bit-xor", "The delta was trained with input_type='images'"),
        ("--pooling mean", "--pooling 'mean' came, but the delta was built with 'last'"),
    ],
)
def test_what_does_not_fit_a_delta_is_told(more, part, delta, saved_base, assert_told):
    assert_told(SCRIPT, flags("digits", delta, f"--do_eval --base_model_name_or_path {saved_base} {more}"), part)


def test_a_delta_needs_its_base(delta, saved_base, assert_told):
    assert_told(SCRIPT, flags("digits", delta, "--do_eval"), "base_model_name_or_path")
    other = shutil.copytree(saved_base, "other")
    torch.manual_seed(2)
    AutoModel.from_config(AutoConfig.from_pretrained(other)).save_pretrained(other)
    assert_told(SCRIPT, flags("digits", delta, "--do_eval --base_model_name_or_path other"), "Another base")


def test_debugging_shows_where(saved_base, monkeypatch):
    monkeypatch.setenv("FPT_DEBUG", "1")
    arguments = flags("digits", saved_base, f"{TRAIN} --resume_from_checkpoint /nowhere")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(DeltaError):
        runpy.run_path(str(SCRIPT), run_name="__main__")
