"""Files that last: deltas of every format load to the bit, whatever transformers calls the modules of their base."""

import json
import shutil
from collections import Counter

import pytest
import torch
import transformers
from conftest import TINY_BACKBONES
from golden import GOLDEN, KINDS
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel
from transformers.models.bert import modeling_bert

import fpt_adapters
from fpt_adapters import DeltaError, FPTForSequenceClassification
from fpt_adapters.deltas.file import FORMAT, read_metadata
from fpt_adapters.deltas.tensors import tensor_digest

FORMATS = ("format-0-configuration-beside", "format-0", "format-1")


def load(folder, kind):
    base, class_name, _ = KINDS[kind]
    if base not in TINY_BACKBONES and base != "fpt_lstm":
        pytest.skip(f"transformers {transformers.__version__} is too old for {base}")
    return getattr(fpt_adapters, class_name).from_pretrained(folder, base_model_name_or_path=GOLDEN / "bases" / base)


def digests(tensors):
    return Counter(map(tensor_digest, tensors))


@torch.no_grad()
def check(model, expected):
    """That a model has the tensors of `expected`, to the bit, and its outputs, as exactly as processors agree."""
    inputs = {name: expected[name] for name in ("input_ids", "pixel_values", "input_values") if name in expected}
    stored = digests(tensor for name, tensor in expected.items() if name.startswith("trained."))
    assert digests(model.delta_tensors().values()) == stored
    torch.testing.assert_close(model(**inputs)[0], expected["expected"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", FORMATS)
def test_a_golden_delta_loads_to_the_bit(version, kind, tmp_path):
    folder = GOLDEN / version / kind
    expected = load_file(folder / "expected.safetensors")
    model = load(folder, kind)
    check(model, expected)
    model.save_pretrained(tmp_path)
    assert read_metadata(tmp_path / "model.safetensors")["fpt_format"] == str(FORMAT)
    check(load(tmp_path, kind), expected)


def test_every_format_has_its_golden_deltas():
    assert {path.name for path in GOLDEN.iterdir()} == {*FORMATS, "bases"} and f"format-{FORMAT}" in FORMATS
    for version in FORMATS:
        assert {path.name for path in (GOLDEN / version).iterdir()} == KINDS.keys()
        named = {read_metadata(GOLDEN / version / kind / "model.safetensors").get("fpt_format", "0") for kind in KINDS}
        assert named == {version.split("-")[1]}


@pytest.fixture
def renamed(monkeypatch):
    """BERT as a later transformers might have it: a part of its layers under other names, and in another order."""

    class Output(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.post_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.projection = nn.Linear(config.hidden_size, config.hidden_size)

        def forward(self, hidden_states, input_tensor):
            return self.post_norm(self.projection(hidden_states) + input_tensor)

    monkeypatch.setattr(modeling_bert, "BertSelfOutput", Output)


def test_a_delta_outlives_the_names_of_its_bases_modules(renamed, tmp_path):
    old = load_file(GOLDEN / "bases" / "bert" / "model.safetensors")
    names = {"attention.output.LayerNorm": "attention.output.post_norm", "output.dense": "output.projection"}
    new = {}
    for name, tensor in old.items():
        for before, after in names.items():
            name = name.replace(before, after) if "attention.output" in name else name
        new[name] = tensor
    assert new.keys() != old.keys()
    base = shutil.copytree(GOLDEN / "bases" / "bert", tmp_path / "base")
    save_file(new, base / "model.safetensors", metadata={"format": "pt"})
    assert "encoder.layer.0.attention.output.post_norm.weight" in AutoModel.from_pretrained(base).state_dict()
    folder = GOLDEN / "format-1" / "bert-tokens"
    model = FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=base)
    check(model, load_file(folder / "expected.safetensors"))
    with pytest.raises(DeltaError, match="Another base"):  # whose fingerprint and keys are names
        FPTForSequenceClassification.from_pretrained(GOLDEN / "format-0" / "bert-tokens", base_model_name_or_path=base)


def test_a_format_of_the_future_names_the_release_that_reads_it(make_model, tmp_path):
    make_model("gpt2").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    metadata = read_metadata(file) | {"fpt_format": str(FORMAT + 1), "fpt_version": "7.5.0"}
    save_file(load_file(file), file, metadata=metadata)
    with pytest.raises(DeltaError, match=rf"of format {FORMAT + 1}, .* reads those up to {FORMAT}: .* 7\.5\.0 wrote"):
        FPTForSequenceClassification.from_pretrained(tmp_path)


def test_an_edited_delta_keeps_its_format(tmp_path):
    for version in FORMATS:
        folder = shutil.copytree(GOLDEN / version / "gpt2-values", tmp_path / version)
        fpt_adapters.update_config(folder, id2label={0: "a", 1: "b", 2: "c"})
        assert json.loads((folder / "config.json").read_text())["label2id"] == {"a": 0, "b": 1, "c": 2}
        assert read_metadata(folder / "model.safetensors").get("fpt_format", "0") == version.split("-")[1]
        check(load(folder, "gpt2-values"), load_file(folder / "expected.safetensors"))
