"""The model card: its numbers, its words, its metadata as the Hub's client reads it, and its code, which is run."""

import re
import shlex
import time
from enum import Enum

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainingArguments

from fpt_adapters import (
    FPTCard,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTImageProcessor,
    FPTModel,
    FPTTrainer,
    GroupCount,
    symbol_tokenizer,
)
from fpt_adapters.backbones.counting import trained_sum
from fpt_adapters.heads.scores import confusion_counts, majority_floor_of, mean_floors
from fpt_adapters.hub.card import MARKER, SplitResult, example_text, hub_id, pipeline_tag
from fpt_adapters.hub.card_metrics import better_high, is_share, main_metric
from fpt_adapters.hub.card_model import auto_class
from fpt_adapters.hub.card_numbers import best_step, delta_size, last_loss
from fpt_adapters.hub.card_reading import read_summary, retitle
from fpt_adapters.hub.card_template import (
    byte_size,
    code,
    describe_base,
    duration,
    fenced,
    percent,
    readable,
    score,
    setting,
    share,
)
from fpt_adapters.hub.local_paths import command_without_paths, without_paths
from fpt_adapters.rules.wording import counted, one_line, plain, thousands

REPO = "someone/a-delta"
IMAGES = {"input_type": "images", "image_size": [8, 12], "num_channels": 1, "patch_size": 4}
TOKENS = {"input_type": "tokens", "sequence_length": 10, "vocab_size": 9, "pad_token_id": 0}
SERIES = {"input_type": "series", "series_length": 10, "num_channels": 2, "patch_length": 4, "patch_stride": 3}
VALUES = {"input_type": "values", "sequence_length": 10, "input_size": 3}
NO_VALUES = dict.fromkeys(VALUES)
KINDS = {  # class, fields, and the widget that the Hub has for it
    "images": (FPTForImageClassification, NO_VALUES | IMAGES, "image-classification"),
    "image sequences": (FPTForSequenceClassification, NO_VALUES | IMAGES, None),
    "tokens": (FPTForSequenceClassification, NO_VALUES | TOKENS, "text-classification"),
    "tokens one by one": (FPTForTokenClassification, NO_VALUES | TOKENS, "token-classification"),
    "series": (FPTForSequenceClassification, NO_VALUES | SERIES, None),
    "values": (FPTForSequenceClassification, VALUES, None),
    "bits": (FPTForTokenClassification, VALUES | {"labels_per_token": 3, "num_labels": 2}, None),
    "headless": (FPTModel, VALUES | {"num_labels": None}, None),
    "headless images": (FPTModel, NO_VALUES | IMAGES | {"num_labels": None}, None),
}
NASTY = "a|b `c`\n---\n# d <!-- e --> [f](g) *h* __i__ \"j\" 'k': {{ 1 }} {% l %} \\ $m$ \x00\x1b[0m é 猫 \ud800"


def full_card(**fields):
    """A card that has every fact."""
    confusion = np.array([[90, 10], [25, 75]])
    facts = {
        "task_name": "digits",
        "dataset_name": "Optical digits",
        "dataset_id": "someone/digits",
        "dataset_license": "CC BY 4.0",
        "license": "apache-2.0",
        "language": "en",
        "limits": ["Anything but digits."],
        "example_text": "1 2",
        "command": "python examples/run_fpt.py --task_name digits",
        "tags": ["tiny"],
        "recipe": {"learning_rate": 0.002, "optimizer": "adamw_torch"},
        "seed": 7,
        "history": [
            {"step": 10, "loss": 2.25},
            {"step": 10, "eval_accuracy": 0.8},
            {"step": 20, "loss": 1.125},
            {"step": 20, "eval_accuracy": 0.9},
        ],
        "results": {
            "validation": SplitResult("validation", 300, {"accuracy": 0.8633}, 0.127),
            "test": SplitResult("test", 12345, {"accuracy": 0.825, "masked_accuracy": 0.5}, None, confusion),
        },
        "train_examples": 1197,
        "steps": 1000,
        "seconds": 110.4,
        "hardware": "2 cores of a processor",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "pictures": {"learning_curve.png": b"curve", "confusion_matrix.png": b"matrix"},
    }
    return FPTCard(**(facts | fields))


@pytest.fixture
def make_kind(make_model):
    """Build a model of one of KINDS."""
    return lambda kind: make_model("gpt2", KINDS[kind][0], **KINDS[kind][1])


@pytest.fixture
def model(make_kind):
    return make_kind("images")


@pytest.fixture
def pretrained_model(model):
    """As a model on a pretrained base from the Hub would be."""
    model.config.backbone_init = "pretrained"
    model.config.base_model = "openai-community/gpt2"
    model.config.base_model_revision = "0123456789abcdef"
    return model


def rendered(model, card=None):
    """The text of a card, by default of one without any fact."""
    return (card or FPTCard()).render(model, REPO, 5)


def read(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def parsed(text):
    """Metadata as the Hub's client reads it."""
    assert text.startswith("---\n") and text.endswith("\n") and not text.endswith("\n\n")
    return ModelCard(text).data.to_dict()


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run_blocks(text):
    for block in python_blocks(text):
        exec(compile(block, "card", "exec"), {})


def section(text, title):
    """The lines under a heading."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0].strip()


def prose(text):
    """A card without its metadata and its code."""
    return re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text.partition(MARKER)[2], flags=re.MULTILINE | re.DOTALL)


def check_form(text):
    """What every card holds to: no fact that is not there, tables that are tables, fences that close."""
    assert text.count(MARKER) == 1
    body = prose(text)
    assert "```" not in body
    assert "\n\n\n" not in text and not re.search(r"\b(None|nan|Undefined)\b", body)
    columns = None
    for line in body.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert columns in (None, cells), line
        columns = cells


# The numbers


def test_confusion_counts_by_hand():
    counts = confusion_counts(np.array([0, 1, 1, 2, 0]), np.array([0, 1, 0, 2, -100]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]] and counts.dtype == np.int64
    per_token = confusion_counts(np.array([[[0, 1], [1, 1]]]), np.array([[[-100, 1], [0, 1]]]), 2)
    assert per_token.tolist() == [[0, 1], [0, 2]]
    assert confusion_counts(np.array([], int), np.array([], int), 2).tolist() == [[0, 0], [0, 0]]
    assert confusion_counts(np.array([200], np.uint8), np.array([200], np.uint8), 201)[200, 200] == 1
    # what is answered where there is no label counts nowhere, and may be anything
    assert confusion_counts(np.array([9, 0]), np.array([-100, 1]), 2).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        ([0, 1], [0], r"one shape, got \(2,\) and \(1,\)"),
        ([0, 3], [0, 1], r"predictions must lie in 0..2 \(num_labels=3\), got 3"),
        ([0, -1], [0, 1], "predictions .* got -1"),
        ([0, 1], [0, 3], "labels .* got 3"),
        ([0, 1], [0, -1], "labels .* got -1"),
    ],
)
def test_confusion_counts_refuses(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        confusion_counts(np.array(predictions), np.array(labels), 3)


def test_the_floor_of_a_confusion_matrix():
    assert majority_floor_of(np.array([[3, 1], [2, 0]])) == 4 / 6  # rows are the truth
    assert majority_floor_of(np.array([[0, 5], [0, 0]])) == 1.0
    with pytest.raises(ValueError, match="at least one labelled position"):
        majority_floor_of(np.zeros((2, 2), int))


def test_a_results_floor_is_its_own_or_its_matrix():
    matrix = np.array([[3, 1], [2, 0]])
    assert SplitResult("test", 6, {}, 0.25, matrix).floors() == {"accuracy": 0.25}
    assert SplitResult("test", 6, {}, 0.0, matrix).floors() == {"accuracy": 0.0}
    assert SplitResult("test", 6, {}, {"mse": 3, "mae": float("nan")}, matrix).floors() == {"mse": 3.0}
    assert SplitResult("test", 6, {}, None, matrix).floors() == {"accuracy": 4 / 6}
    assert SplitResult("test", 6, {}).floors() == SplitResult("test", 0, {}, None, 0 * matrix).floors() == {}


def test_the_sum_of_what_trains():
    rows = [GroupCount("a", 2, 30, 3.0, True), GroupCount("b", 5, 900, 90.0, False), GroupCount("c", 1, 70, 7.0, True)]
    assert trained_sum(rows) == GroupCount("all trained", 3, 100, 10.0, True)
    assert trained_sum(rows[1:2]) == GroupCount("all trained", 0, 0, 0, True)


def test_best_step_and_last_loss():
    history = [
        {"step": 1, "loss": 3.0},
        {"step": 1, "eval_accuracy": 0.5, "eval_f1": 0.9, "eval_mse": 2.0, "eval_mine": 1.0},
        {"step": 2, "eval_accuracy": 0.75, "eval_f1": float("nan"), "eval_mse": 0.1, "eval_mine": 2.0},
        {"step": 3, "loss": 1.5},
        {"step": 3, "eval_accuracy": 0.75},
        {"step": 3, "train_loss": 2.0, "train_runtime": 1.0},
    ]
    assert best_step(history) == (2, 0.75)
    assert best_step(history, "eval_mse") == (2, 0.1)
    assert best_step(history, "eval_f1") is None  # one number alone
    assert best_step(history, "eval_mine") is None  # nobody knows which one is better
    assert best_step(history[:2]) is None and best_step([]) is None
    assert best_step([{"step": 3, "eval_accuracy": 0.5}, {"step": 3, "eval_accuracy": 0.5}]) is None  # one step only
    assert last_loss(history) == 1.5 and last_loss([]) is None and last_loss(history[-1:]) is None


def test_delta_size(tmp_path):
    assert delta_size(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    assert delta_size(tmp_path) == 5


# The words


WORDS = [
    (thousands, [(999, "999"), (1234567, "1,234,567")]),
    (lambda number: counted(number, "step"), [(2000, "2,000 steps"), (1, "1 step")]),
    (lambda number: counted(number, "patch", "patches"), [(1, "1 patch"), (64, "64 patches")]),
    (percent, [(0.96333, "96.3 %"), (1.0, "100.0 %")]),
    (lambda examples: percent(0.96333, examples), [(9_999, "96.3 %"), (10_000, "96.33 %")]),
    (lambda metric: score(metric, 0.5, 10), [("accuracy", "50.0 %"), ("r2", "0.5"), ("mine", "0.5")]),
    (lambda value: score("accuracy", value, 10), [(96.34567, "96.35"), (None, "")]),
    (lambda value: score("f1_macro", value, 10_000), [(0.0, "0.00 %")]),
    (lambda value: score("mse", value, 10), [(0.353, "0.353")]),
    (lambda value: score("mcc", value, 10), [(-0.5, "-0.5")]),
    (share, [(0.09834, "0.098"), (100, "100.000")]),
    (byte_size, [(1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (65568, "65.6 kB"), (999_949, "999.9 kB")]),
    (byte_size, [(999_950, "1.0 MB"), (537_440_000, "537.4 MB"), (2_500_000_000, "2.5 GB")]),
    (duration, [(0.25, "0.2 s"), (25.3, "25 s"), (119.4, "119 s"), (120, "2 min"), (150, "2 min 30 s")]),
    (duration, [(3599.9, "1 h"), (5400, "1 h 30 min"), (7199, "2 h")]),
    (one_line, [(" a\n\tb\x00 ", "a b"), (0, "0"), (None, None), ("\n", None)]),
    (plain, [("a|b `c`", r"a\|b \`c\`"), ("<!-- x -->", r"\<!-- x --\>")]),
    (plain, [("snake_case, _emphasis_ and __more__", r"snake_case, \_emphasis\_ and \_\_more\_\_")]),
    (plain, [("[a](b) *c* ~d~ \\", r"\[a\](b) \*c\* \~d\~ \\"), ("# a", r"\# a"), ("1. a", r"1\. a")]),
    (plain, [("- a", r"\- a"), ("---", r"\---"), ("2.13.0 - a #1", "2.13.0 - a #1"), ("-1", "-1")]),
    (readable, [("masked_accuracy", "masked accuracy")]),
    (code, [("a`b\nc", "`a'b c`")]),
    (fenced, [("a\nb", "```\na\nb\n```"), ("```\na````b", "`````\n```\na````b\n`````")]),
    (setting, [(0.002, "0.002"), (1e-5, "1e-05"), (True, "True"), (["input", 0.5], "input, 0.5")]),
    (hub_id, [("org/name", "org/name"), ("org/a.b-c_d", "org/a.b-c_d"), ("your-name/..", "your-name/model")]),
    (hub_id, [("your-name/my run (2)", "your-name/my-run-2"), ('your-name/a--b"é', "your-name/a-b")]),
    (setting, [(Enum("Kind", {"LINEAR": "linear"}).LINEAR, "linear"), ("/home/me/two words/base", "base")]),
]


@pytest.mark.parametrize("words_of, value, wanted", [(function, *row) for function, rows in WORDS for row in rows])
def test_words(words_of, value, wanted):
    assert words_of(value) == wanted


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("run.py --file /data/a/b.csv --out=/x/y/", "run.py --file b.csv --out=y"),
        ("run.py --file '/two words/b c.csv' \"~/x/d\"", "run.py --file 'b c.csv' \"d\""),
        (r"run.py C:\Users\me\base D:/x/y", "run.py base y"),
        ("/usr/bin/python -m x ~/.cache/a.b", "python -m x a.b"),
        ("org/base ./c ../d e/f 1/2 a / b https://x.org/y", "org/base ./c ../d e/f 1/2 a / b https://x.org/y"),
    ],
)
def test_absolute_paths_are_cut(text, wanted):
    assert without_paths(text) == wanted


PATHS = ["/absolute path/with spaces/file.csv", '/o\'brien/"x" $y/file.csv', "/a=b, c;d/file.csv", "/a/b/c/file.csv/"]
PATHS += ["~/my data/file.csv", "~me/data/file.csv", "$HOME/my data/file.csv", "${HOME}/my data/file.csv"]
PATHS += ["file:///my data/x/file.csv", "C:/my data/x/file.csv"]
PATHS += ["C:\\my data\\x\\file.csv", "\\\\server\\my share\\file.csv"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", ["{}", "--flag={}", "-f={}", "key={}", "--flag=key={}"])
def test_no_form_of_a_path_keeps_its_folders(form, path):
    """As shlex quotes an argument, and as people do."""
    argument, wanted = form.format(path), form.format("file.csv")
    escaped = re.sub(r'(["\\])', r"\\\1", argument)
    quotings = [shlex.quote(argument), f'"{escaped}"', re.sub(r"(\W)", r"\\\1", argument)]
    flag, _, value = argument.rpartition("=")
    quotings += [f"{flag}={shlex.quote(value)}"] if flag else []
    for quoted in quotings[:1] if "\\" in path else quotings:
        command = f"python x.py  --a 'b c' {quoted} \\\n  --d e/f"
        assert command_without_paths(command) == f"python x.py  --a 'b c' {wanted} \\\n  --d e/f", quoted


@pytest.mark.parametrize(
    "arguments, wanted",  # None: they stay as they are
    [
        ("""--peft '{"file": "/my data/a.json", "r": 4}'""", """--peft '{"file": "a.json", "r": 4}'"""),
        ("/data/rows-*.parquet", "'rows-*.parquet'"),
        ("--limits 'as in /data/notes.txt, or not'", "--limits 'as in notes.txt, or not'"),
        ("org/base ../d './e f' a=1/2 'a / b' /", None),
        ("https://x.org/y hf://datasets/a/b s3://c/d --u=https://x.org/y", None),
        ("'unclosed /data/a.csv \"", "'unclosed a.csv \""),
        ("--files /x/a.csv,/y/b.csv", "--files a.csv,b.csv"),
        ("--f=train=/x/a.csv,test=/x/b.csv", "--f=train=a.csv,test=b.csv"),
        ("--train_file /x/a.csv:/x/b.csv", "--train_file a.csv:b.csv"),
        ("--kw path:/secret/x", "--kw path:x"),
        ("-f/secret/a.csv", "-fa.csv"),
        (r"--f=%USERPROFILE%\secret\a.csv", "--f=a.csv"),
        ("--url https://host/a:8/b,c", None),
        ("--rate lr=1e-3,wd=0", None),
    ],
)
def test_what_else_a_command_may_have(arguments, wanted):
    assert command_without_paths(f"/usr/bin/python x.py {arguments}") == f"python x.py {wanted or arguments}"


@pytest.mark.parametrize(
    "kind, wanted",
    [
        ("images", "images of 8 x 12 pixels and 1 channel, as 6 patches of 4 x 4."),
        ("tokens", "up to 10 token ids out of 9."),
        ("values", "up to 10 tokens of 3 numbers each."),
        ("series", "series of up to 10 steps and 2 channels, as up to 3 patches of 4 steps, 3 apart."),
    ],
)
def test_the_input_in_words(make_kind, kind, wanted):
    config = make_kind(kind).config
    assert config.input.describe(config) == wanted


def test_the_answers_in_words(make_kind):
    model = make_kind("bits")
    config, describe_answers = model.config, model.head_type.describe
    assert describe_answers(config) == "3 for each token, each one of 2 labels."
    config.labels_per_token, config.id2label = 1, {0: "no", 1: "a|b"}
    assert describe_answers(config) == r"one of 2 labels: no, a\|b."
    config.problem_type = "multi_label_classification"
    assert describe_answers(config).startswith("any of 2 labels")
    config.problem_type = "regression"
    assert describe_answers(config) == "2 numbers (regression)."
    config.problem_type, config.id2label = None, {index: f"family {index}" for index in range(1195)}
    assert describe_answers(config).startswith("one of 1,195 labels: family 0, family 1, ")
    assert describe_answers(config).endswith("family 19 and 1,175 more.")


def test_the_base_in_words(pretrained_model):
    config = pretrained_model.config
    link = "[openai-community/gpt2](https://huggingface.co/openai-community/gpt2) (gpt2)"
    facts = f"{link}, commit `0123456789abcdef`, fingerprint `{config.base_model_fingerprint}`"
    drawn = "**random weights, not pretrained**,"
    assert describe_base(config) == f"{facts}; its pretrained weights, frozen."
    config.backbone_init, config.backbone_init_seed = "statistics", 5
    wanted = f"{drawn} with each tensor's mean and spread from {facts}; drawn from seed 5, frozen."
    assert describe_base(config) == wanted
    config.backbone_init, config.backbone_init_scheme = "random", "gpt2-flat"
    wanted = f"{drawn} in the shape of {facts}; drawn from seed 5 by the scheme gpt2-flat, frozen."
    assert describe_base(config) == wanted
    config.base_model = config.base_model_revision = config.base_model_fingerprint = config.backbone_init_scheme = None
    wanted = f"{drawn} in the shape of a gpt2 without a Hub id; drawn from seed 5, frozen."
    assert describe_base(config) == wanted
    config.backbone_layers, config.trainable = 1, ["input", "output", "norm", "attention", "feedforward"]
    wanted = "a gpt2 without a Hub id, the first 1 layers only; drawn from seed 5, trained: attention, feedforward."
    assert describe_base(config).endswith(wanted)


# The whole card


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("card", [FPTCard, full_card])
@pytest.mark.parametrize("with_code", [False, True])
@pytest.mark.parametrize("with_processor", [False, True])
def test_a_card_has_form_whatever_the_model(kind, card, with_code, with_processor, make_kind):
    model, tag = make_kind(kind), KINDS[kind][2]
    text = card().render(model, REPO, 12345, with_code, with_processor)
    check_form(text)
    assert f"# {REPO}\n" in text and ("trust_remote_code=True" in text) == with_code
    data = parsed(text)
    assert data["fpt_delta_bytes"] == 12345 and data.get("pipeline_tag") == pipeline_tag(model) == tag
    assert f'model = {auto_class(model)}.from_pretrained("{REPO}"' in text
    first_lines = [line for line in text.partition("\n---\n")[2].splitlines() if line][:8]
    assert first_lines[:2] == [MARKER, f"# {REPO}"] and "pip install fpt_adapters" in first_lines
    assert python_blocks(text)[0].startswith("import fpt_adapters")


def test_an_empty_card_says_what_the_model_knows(model):
    text = FPTCard().render(model, REPO, None)
    check_form(text)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{trained:,} parameters" in text
    for heading in ("Results", "Training", "Licence and data"):
        assert f"## {heading}" not in text
    tags = ["fpt", "frozen-pretrained-transformer"]
    wanted = {"library_name": "fpt_adapters", "pipeline_tag": "image-classification", "tags": tags}
    assert parsed(text) == wanted | {"fpt_repo_id": REPO}


def test_a_full_card_says_everything(pretrained_model):
    text = full_card().render(pretrained_model, REPO, 92_312, with_code=True)
    check_form(text)
    trained = sum(p.numel() for p in pretrained_model.parameters() if p.requires_grad)
    part = f"{trained:,} parameters ({100 * trained / pretrained_model.num_parameters():.3f} % of the whole)"
    assert f"\ndigits: {part} trained on a frozen transformer, shared as a delta of 92.3 kB.\n" in text
    rows = {row.group: row for row in pretrained_model.count_parameters()}
    head = rows["output"]
    assert f"| output | {head.tensors} | {head.parameters} | {head.percent:.3f} | yes |" in text
    assert f"| attention | {rows['attention'].tensors} |" in text and text.count(" | no |") == 3
    assert section(text, "Results") == (
        "| split | examples | accuracy | masked accuracy | floor | seed |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| validation | 300 | 86.3 % |  | 12.7 % | 7 |\n"
        "| test | 12,345 | 82.50 % | 50.00 % | 50.00 % | 7 |\n\n"
        "The floor is the accuracy that needs no learning.\n\n"
        "![Learning curve](learning_curve.png)\n\n"
        "![Confusion matrix](confusion_matrix.png)"
    )
    assert section(text, "Training") == (
        "- Training examples: 1,197.\n- Steps: 1,000.\n- Time: 110 s.\n- Hardware: 2 cores of a processor.\n"
        "- Best validation accuracy while training: 90.0 %, at step 20.\n- Training loss, as last logged: 1.125.\n\n"
        "| setting | value |\n|---|---|\n| learning_rate | 0.002 |\n| optimizer | adamw_torch |\n\n"
        "```\npython examples/run_fpt.py --task_name digits\n```\n\n"
        "Versions: torch 2.13.0, transformers 5.23.0."
    )
    assert section(text, "Licence and data") == (
        "- The delta: apache-2.0. The base has a licence of its own.\n"
        "- Data: [Optical digits](https://huggingface.co/datasets/someone/digits), licence CC BY 4.0."
    )
    limits = section(text, "Limits")
    assert limits.startswith("- Anything but digits.\n- One training run, with seed 7: ")
    assert "loading fetches the base too" in limits and "samples every tensor" in limits


def test_the_metadata_is_what_the_hub_reads(pretrained_model):
    data = parsed(full_card().render(pretrained_model, REPO, 92_312))
    index = data.pop("model-index")
    assert data == {
        "base_model": "openai-community/gpt2",
        "base_model_relation": "adapter",
        "datasets": ["someone/digits"],
        "language": "en",
        "library_name": "fpt_adapters",
        "license": "apache-2.0",
        "metrics": ["accuracy", "masked_accuracy"],
        "pipeline_tag": "image-classification",
        "tags": ["fpt", "frozen-pretrained-transformer", "digits", "tiny"],
        "fpt_repo_id": REPO,
        "fpt_task": "digits",
        "fpt_delta_bytes": 92_312,
    }
    name, results = model_index_to_eval_results(index)
    assert name == REPO
    found = {(r.dataset_split, r.metric_type): (r.metric_value, r.metric_args, r.dataset_args) for r in results}
    assert found == {
        ("validation", "accuracy"): (0.8633, {"seed": 7}, {"examples": 300}),
        ("validation", "accuracy_floor"): (0.127, None, {"examples": 300}),
        ("test", "accuracy"): (0.825, {"seed": 7}, {"examples": 12345}),
        ("test", "masked_accuracy"): (0.5, {"seed": 7}, {"examples": 12345}),
        ("test", "accuracy_floor"): (0.5, None, {"examples": 12345}),
    }
    assert {(r.task_type, r.dataset_type, r.dataset_name) for r in results} == {
        ("image-classification", "someone/digits", "Optical digits")
    }


@pytest.mark.parametrize("name", vars(FPTCard()))
def test_each_fact_may_lack(pretrained_model, name):
    text = rendered(pretrained_model, full_card(**{name: getattr(FPTCard(), name)}))
    check_form(text)
    parsed(text)


def test_metrics_that_are_no_shares(pretrained_model):
    metrics = {"accuracy": np.float32(0.5), "error": 0.125, "broken": float("nan")}
    results = {"test": SplitResult("test", np.int64(10), metrics)}  # numpy's numbers are numbers too
    text = FPTCard(results=results, seed=np.int64(3)).render(pretrained_model, REPO, np.int64(5))
    assert "| test | 10 | 50.0 % | 0.125 | nan | 3 |" in text and "floor" not in section(text, "Results")
    (row,) = parsed(text)["model-index"][0]["results"]
    assert [(m["type"], m["value"]) for m in row["metrics"]] == [("accuracy", 0.5), ("error", 0.125)]
    assert row["dataset"]["name"] == row["dataset"]["type"] == "unknown"


def test_a_regression_has_numbers_and_floors_of_its_own(pretrained_model):
    floors = {"mse": 3.25, "r2": 0.0}
    results = {"test": SplitResult("test", 100, {"mse": 0.353, "r2": 0.891, "mine": 0.5}, floors)}
    history = [{"step": step, "eval_loss": mse, "eval_mse": mse} for step, mse in ((1, 0.5), (2, 0.25), (3, 1.0))]
    text = rendered(pretrained_model, full_card(results=results, history=history, pictures={}))
    check_form(text)
    assert section(text, "Results") == (
        "| split | examples | mse | r2 | mine | mse floor | r2 floor | seed |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
        "| test | 100 | 0.353 | 0.891 | 0.5 | 3.25 | 0 | 7 |\n\n"
        "A floor is the score that needs no learning, such as that of always answering the mean."
    )
    assert "- Best validation mse while training: 0.25, at step 2." in text
    data = parsed(text)
    assert data["metrics"] == ["mse", "r2", "mine"]
    values = {m["type"]: m["value"] for m in data["model-index"][0]["results"][0]["metrics"]}
    assert values == {"mse": 0.353, "r2": 0.891, "mine": 0.5, "mse_floor": 3.25, "r2_floor": 0.0}
    summary = read_summary(data)
    assert (summary["metric"], summary["score"], summary["floor"]) == ("mse", 0.353, 3.25)


def test_the_card_of_a_regression_that_was_trained(make_model, tmp_path):
    """Numbers as the user's function gives them, beside the score of the labels' mean, and a panel of each curve."""
    model = make_model("gpt2", num_labels=1, problem_type="regression")
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(12, 10, 3, generator=generator), torch.randn(12, generator=generator)
    data = [{"input_values": value, "labels": label} for value, label in zip(values, labels, strict=True)]
    folder = tmp_path / "run"
    shared = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1, "disable_tqdm": True}
    arguments = TrainingArguments(folder, use_cpu=True, report_to="none", **shared)

    def compute_metrics(prediction):
        rest = (prediction.predictions[:, 0] - prediction.label_ids) ** 2
        return {"mse": rest.mean(), "r2": 1 - rest.mean() / prediction.label_ids.var()}

    FPTTrainer(model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=compute_metrics).train()
    text = (folder / "README.md").read_text(encoding="utf-8")
    check_form(text)
    metrics = parsed(text)["model-index"][0]["results"][0]["metrics"]
    value = {metric["type"]: metric["value"] for metric in metrics}
    assert value["mse_floor"] == pytest.approx(labels.numpy().var()) and value["r2_floor"] == pytest.approx(0)
    assert f"| validation | 12 | {value['mse']:.4g} | {value['r2']:.4g} | {value['mse_floor']:.4g} | " in text
    assert "%" not in section(text, "Results") and re.search(r"Best validation mse while training: \d\.\d+, at", text)
    with Image.open(folder / "learning_curve.png") as picture:
        assert picture.width > 1200  # both panels


METRICS = {  # by what they are: a share of 1, and better high
    (True, True): ["accuracy", "masked_accuracy", "f1_macro", "Precision"],
    (False, True): ["neg_mean_squared_error", "r2", "pearson-correlation"],
    (False, False): ["mse", "mean_absolute_error", "accuracy_loss", "perplexity"],
    (False, None): ["mine", "accurate", ""],
}


@pytest.mark.parametrize("name, kind", [(name, kind) for kind, names in METRICS.items() for name in names])
def test_what_a_metric_is(name, kind):
    assert (is_share(name, [0.5]), better_high(name)) == kind


@pytest.mark.parametrize(
    "row, metric",
    [
        ({"eval_loss": 1.0, "eval_f1": 0.5, "eval_accuracy": 0.5, "eval_runtime": 2.0}, "eval_accuracy"),
        ({"eval_loss": 1.0, "eval_runtime": 2.0, "eval_log_loss": 1.0, "eval_f1": 0.5, "eval_mse": 1.0}, "eval_f1"),
        ({"eval_loss": 1.0, "eval_samples_per_second": 2.0, "eval_list": [1.0], "eval_nan": np.nan}, "eval_loss"),
        ({"eval_accuracy": "0.5", "eval_mse": True, "loss": 1.0, "epoch": 1.0}, None),
    ],
)
def test_what_speaks_for_a_run(row, metric):
    assert main_metric([{"loss": 1.0}, row]) == metric


def test_the_floor_of_numbers_is_their_mean():
    labels = np.array([[1.0, 10.0], [3.0, 30.0]])
    answers = np.array([[1.0, 10.0], [3.0, 20.0]])
    right = {"mse": 25.0, "mae": 2.5, "rmse": 5.0, "r2_score": 0.75}
    assert mean_floors(answers, labels, right) == {"mse": 50.5, "mae": 5.5, "rmse": 50.5**0.5, "r2_score": 0.0}
    # in other units, of another definition, unknown, or of labels that are no numbers: nothing is claimed
    assert mean_floors(answers, labels, {"mse": 0.25, "r2": 0.6, "mine": 25.0, "mae": "2.5"}) == {}
    assert mean_floors(answers, np.array([[1, 10], [3, 30]]), right) == mean_floors((answers,), labels, right) == {}
    assert mean_floors(np.full((2, 2), "a"), labels, right) == mean_floors(np.float64(1), np.float64(1), right) == {}
    assert mean_floors(answers * np.inf, labels * np.nan, right) == {}
    assert mean_floors(answers[:0], labels[:0], right) == mean_floors(answers[:1], labels, right) == {}
    assert mean_floors(np.ones((2, 1)), np.ones(2), {"mse": 0.0, "r2": 1.0}) == {"mse": 0.0}  # R2 of what is constant


def test_what_limits_depend_on(pretrained_model):
    config = pretrained_model.config
    only_validation = {"validation": SplitResult("validation", 3, {"accuracy": 1.0})}
    assert "No test split" in section(rendered(pretrained_model, full_card(results=only_validation)), "Limits")
    for card in (full_card(), FPTCard()):
        assert "No test split" not in rendered(pretrained_model, card)
    assert "One training run" not in rendered(pretrained_model)
    config.base_model = config.base_model_revision = None
    text = rendered(pretrained_model)
    assert "must have the base, and say where it is with `base_model_name_or_path=`." in text
    assert 'from_pretrained("someone/a-delta", base_model_name_or_path="path/to/the/base")' in text
    assert 'model="someone/a-delta", model_kwargs={"base_model_name_or_path": "path/to/the/base"})' in text
    config.backbone_init = "random"
    text = rendered(pretrained_model)
    assert "draws the random base again" in text
    assert "path/to/the/base" not in text and "fingerprint, which" not in text


@pytest.mark.parametrize("init, named", [("random", False), ("statistics", True)])
def test_a_random_base_is_no_base(pretrained_model, init, named):
    """Of a random base nothing is used but its shape: the Hub would list the delta below a model it does not need."""
    pretrained_model.config.backbone_init = init
    data = parsed(rendered(pretrained_model))
    assert data.get("base_model") == ("openai-community/gpt2" if named else None)
    assert ("base_model_relation" in data) == named


# Text of others


def test_nothing_that_others_wrote_breaks_the_card(pretrained_model):
    pretrained_model.config.id2label = {index: f"{NASTY} {index}" for index in range(4)}
    pretrained_model.config.label2id = {f"{NASTY} {index}": index for index in range(4)}
    pretrained_model.config.base_model_revision = NASTY
    results = {NASTY: SplitResult(NASTY, 3, {NASTY: 0.5, "accuracy": 0.5}, 0.5)}
    texts = dict.fromkeys(
        ("task_name", "dataset_name", "dataset_license", "language", "example_text", "hardware"), NASTY
    )
    lists = {"limits": [NASTY], "tags": [NASTY], "recipe": {NASTY: NASTY, "list": [NASTY]}, "versions": {NASTY: NASTY}}
    card = full_card(command=f"{NASTY}\n```\n# h", results=results, **texts, **lists)
    text = rendered(pretrained_model, card)
    text.encode()  # no lone surrogate is left
    check_form(text)
    data = parsed(text)
    shown = one_line(NASTY)
    assert data["fpt_task"] == shown and data["tags"][-1] == shown and data["language"] == shown
    assert data["model-index"][0]["results"][0]["dataset"]["split"] == shown
    headings = [line for line in prose(text).splitlines() if line.startswith("#")]
    names = ["Load it", "What it is", "Results", "Training", "Licence and data", "Limits"]
    assert headings == [f"# {REPO}", *(f"## {name}" for name in names)]
    compile("".join(python_blocks(text)), "card", "exec")


def test_the_hub_would_refuse_these(pretrained_model):
    with pytest.raises(ValueError, match="dataset_id is a Hub id such as 'ylecun/mnist', got '/data/mnist'"):
        FPTCard(dataset_id="/data/mnist")
    with pytest.raises(ValueError, match=r"license is a Hub identifier .* got 'Apache-2.0'"):
        FPTCard(license="Apache-2.0")
    with pytest.raises(ValueError, match=r"PNG files beside the card .* got '../x.png'"):
        FPTCard(pictures={"../x.png": b""})
    card = FPTCard()
    card.license = "My own"
    with pytest.raises(ValueError, match="license"):
        card.render(pretrained_model, REPO, 5)


# The code


def tokenizer(**special):
    words = {"[PAD]": 0, "some": 1, "words": 2, "only": 3}
    words |= {special["unk_token"]: 4} if special else {}
    backend = Tokenizer(models.WordLevel(words, unk_token=special.get("unk_token", "")))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", model_input_names=names, model_max_length=10, **special
    )


def processor_for(model):
    kind = model.config.input
    return tokenizer() if kind.modality == "text" else kind.processor(model.config)


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_runs_as_it_stands(kind, make_kind, tmp_path, monkeypatch, capsys):
    model, folder = make_kind(kind), tmp_path / REPO
    model.save_pretrained(folder)
    model.processor = processor_for(model)
    model.processor.save_pretrained(folder)
    FPTCard(example_text="some words only " * 9).write(folder, model, REPO)  # text is cut to what the model takes
    blocks = python_blocks(read(folder))
    assert len(blocks) == (1 if kind in ("image sequences", "headless images") else 2)
    monkeypatch.chdir(tmp_path)  # where the repo's id is the path of a folder
    run_blocks(read(folder))
    printed = capsys.readouterr().out
    shape = re.search(r"# \((.+)\)\n", blocks[0])[1].replace("hidden size", "32")
    assert printed.startswith(f"torch.Size([{shape}])\n")
    assert len(blocks) == 1 or re.search(r"LABEL_|tensor\(", printed)


def test_the_code_for_a_base_of_ones_own(saved_base, tmp_path, monkeypatch, capsys):
    model, folder = FPTForImageClassification.from_backbone(saved_base, num_labels=4, **IMAGES), tmp_path / REPO
    model.save_pretrained(folder)
    processor_for(model).save_pretrained(folder)
    FPTCard().write(folder, model, REPO)
    text = read(folder)
    assert str(saved_base) not in text and str(tmp_path) not in text
    monkeypatch.chdir(tmp_path)
    run_blocks(text.replace("path/to/the/base", str(saved_base)))
    assert "LABEL_" in capsys.readouterr().out


def test_what_the_code_classifies():
    assert example_text(None) == example_text(object()) == "your text"
    assert example_text(tokenizer(unk_token="[UNK]")) == example_text(tokenizer()) == "some words only"
    assert example_text(symbol_tokenizer(["GATC", "CC"])) == "ACG"
    assert example_text(symbol_tokenizer([["open", "read"], ["shut"]], " ")) == "open"


@pytest.mark.parametrize("pad, example", [(None, "torch.zeros(1, 10, dtype"), (0, "torch.ones(1, 10, dtype")])
def test_padding_is_no_example(make_model, pad, example):
    assert example in rendered(make_model("gpt2", **(NO_VALUES | TOKENS | {"pad_token_id": pad})))


def test_colours_that_pillow_does_not_know(make_model):
    model = make_model("gpt2", FPTForImageClassification, **(NO_VALUES | IMAGES | {"num_channels": 2}))
    assert len(python_blocks(rendered(model))) == 1


# Files


def test_a_card_is_written_with_its_pictures(model, tmp_path):
    folder = tmp_path / "my run"
    model.save_pretrained(folder)
    assert full_card().write(folder, model) is True
    text = read(folder)
    assert "# your-name/my-run\n" in text
    assert parsed(text)["fpt_delta_bytes"] == (folder / "model.safetensors").stat().st_size
    pictures = [(folder / name).read_bytes() for name in ("learning_curve.png", "confusion_matrix.png")]
    assert pictures == [b"curve", b"matrix"]
    assert "pipeline(" not in text  # there is no processor
    FPTImageProcessor(8, 1).save_pretrained(folder)
    assert FPTCard().write(folder, model, "org/new", 77) is True  # ours may be written again
    text = read(folder)
    assert "# org/new\n" in text and parsed(text)["fpt_delta_bytes"] == 77 and "pipeline(" in text


@pytest.mark.parametrize(
    "own", ["# Mine\n", "ours, but for the marker", b"\xff\xfe"], ids=["words", "no marker", "bytes"]
)
def test_somebodys_own_card_is_kept(model, tmp_path, warned, own):
    if own == "ours, but for the marker":
        own = rendered(model, full_card()).replace(MARKER + "\n", "")
    own = own if isinstance(own, bytes) else own.encode()
    file = tmp_path / "README.md"
    file.write_bytes(own)
    assert FPTCard().write(tmp_path, model, REPO) is False
    assert file.read_bytes() == own and str(file) in warned.text


def test_no_path_of_this_machine(saved_base, tmp_path):
    folder = tmp_path / "run"
    FPTForSequenceClassification.from_backbone(saved_base, **VALUES).save_pretrained(folder)
    model = FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=saved_base)
    command = f"python x.py --model_name_or_path {saved_base} --output_dir '{tmp_path}/a b'"
    recipe = {"output_dir": str(tmp_path), "files": [str(saved_base)]}
    full_card(command=command, recipe=recipe).write(folder, model)
    text = read(folder)
    assert str(tmp_path) not in text and str(saved_base.parent) not in text
    assert "python x.py --model_name_or_path gpt2 --output_dir 'a b'" in text


# Another repo


@pytest.mark.parametrize("new", ["org/other", "org/a-delta", "someone/a-delta-2", "12345", "org/1.0"])
@pytest.mark.parametrize("card", [FPTCard, full_card])
def test_a_new_title_is_as_if_it_had_been_the_first(new, card, pretrained_model):
    text = card().render(pretrained_model, REPO, 5, with_code=True)
    renamed = retitle(text, new)
    assert renamed == card().render(pretrained_model, new, 5, with_code=True)
    assert retitle(renamed, REPO) == text


def test_only_the_models_own_id_is_replaced(pretrained_model):
    """A data set may well have the model's id, and another model's may begin with it."""
    card = full_card(dataset_id=REPO, limits=[f"Worse than {REPO}-large."], command=f'python x.py --name "{REPO}"')
    renamed = retitle(rendered(pretrained_model, card), "org/other")
    data = parsed(renamed)
    assert data["datasets"] == [REPO] and data["fpt_repo_id"] == data["model-index"][0]["name"] == "org/other"
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == REPO
    assert f"(https://huggingface.co/datasets/{REPO})" in renamed
    assert f"- Worse than {REPO}-large." in renamed and f'--name "{REPO}"' in renamed
    assert all(REPO not in block for block in python_blocks(renamed))


@pytest.mark.parametrize("text", ["", "# Mine\n", "---\nfpt_repo_id: a/b\n---\n# a/b\n", f"{MARKER}\n# a/b\n"])
def test_a_card_that_is_not_ours_keeps_its_title(text):
    assert retitle(text, "org/other") == text


# Reading


SUMMARY = ("task", "split", "examples", "metric", "score", "floor", "delta_bytes")


def test_a_summary_comes_back(pretrained_model):
    def summary(card, delta_bytes):
        return read_summary(parsed(card.render(pretrained_model, REPO, delta_bytes)))

    only_validation = {"validation": SplitResult("validation", 300, {"accuracy": 0.8633})}
    for card, delta_bytes, values in (
        (full_card(), 92_312, ("digits", "test", 12345, "accuracy", 0.825, 0.5, 92_312)),
        (full_card(results=only_validation), 5, ("digits", "validation", 300, "accuracy", 0.8633, None, 5)),
        (FPTCard(), None, [None] * len(SUMMARY)),
    ):
        assert summary(card, delta_bytes) == dict(zip(SUMMARY, values, strict=True))


METRIC = {"type": "accuracy", "value": 0.5}
RESULT = {"dataset": {"split": "test", "args": {"examples": 3}}, "metrics": [METRIC]}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "text",
        {},
        {"fpt_task": 1, "fpt_delta_bytes": "5"},
        {"fpt_task": ["a"], "fpt_delta_bytes": True},
        {"fpt_delta_bytes": -1},
        {"fpt_delta_bytes": 5.0},
        *({"model-index": index} for index in (None, "x", {"results": []}, [None, 1])),
        *({"model-index": [{"results": results}]} for results in (None, "x", {}, [None, {}])),
    ],
)
def test_a_malformed_card_says_nothing(data):
    assert set(read_summary(data).values()) == {None}


NO_METRICS = [None, METRIC, [{"value": 0.5}, {"type": ["mse"], "value": 0.5}]]
NO_SHARES = [None, "0.5", True, -0.1, 1.1, float("nan"), float("inf"), [0.5]]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"dataset": dataset} for dataset in (None, [], "test", {"split": 3}, {"split": "train"})),
        *({"metrics": metrics} for metrics in NO_METRICS),
        *({"metrics": [METRIC | {"value": value}]} for value in NO_SHARES),
    ],
    ids=str,
)
def test_a_malformed_result_says_nothing(wrong):
    assert set(read_summary({"model-index": [{"results": [RESULT | wrong]}]}).values()) == {None}


def test_what_is_sound_of_a_malformed_card_is_read():
    data = {"fpt_task": 3, "model-index": [None, {"results": [RESULT | {"dataset": {"split": "test", "args": []}}]}]}
    assert read_summary(data) == dict.fromkeys(SUMMARY) | {"split": "test", "metric": "accuracy", "score": 0.5}


@pytest.mark.parametrize("line", ["```python\n", "Or without installing: x\n", "```\n", "# x\n"])
def test_a_card_of_many_fences_is_renamed_at_once(line):
    text = f"---\nfpt_repo_id: a/b\n---\n{MARKER}\n" + 20_000 * line
    start = time.process_time()
    retitle(text, "c/d", with_code=False)
    assert time.process_time() - start < 0.5
