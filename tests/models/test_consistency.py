"""Policy, configuration and delta fit: what was trained is saved, whoever froze it; what cannot be is refused."""

import json

import pytest
import torch
from conftest import FIELDS, build_seeded, move, outputs, run_trainer, saved_tensors, trained_names

from fpt_adapters import DeltaError, FPTForSequenceClassification, FPTModel, FrozenBase, update_config


@pytest.fixture
def loaded(saved_base, tmp_path):
    """A trained delta's folder, and the model that is loaded from it."""
    folder = tmp_path / "delta"
    move(build_seeded(saved_base)).save_pretrained(folder)
    return folder, FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=saved_base)


@pytest.mark.parametrize("part", ["", "fpt.backbone", "head"])
def test_what_was_frozen_by_hand_is_saved_all_the_same(loaded, part, saved_base, tmp_path):
    _, model = loaded
    names = trained_names(model)
    model.get_submodule(part).requires_grad_(False)
    model.save_pretrained(tmp_path / "again")
    assert set(saved_tensors(tmp_path / "again", model)) == names
    again = FPTForSequenceClassification.from_pretrained(tmp_path / "again", base_model_name_or_path=saved_base)
    assert torch.equal(outputs(again), outputs(model))


def test_a_policy_that_would_lose_trained_values_is_refused(loaded):
    _, model = loaded
    before = trained_names(model)
    model.config.trainable = ["output"]
    with pytest.raises(
        ValueError, match=r"leaves out norm, position, whose trained values .* requires_grad_\(False\)"
    ):
        model.apply_policy()
    assert trained_names(model) == before


def test_what_no_delta_would_hold_is_not_trained(loaded, tmp_path):
    _, model = loaded
    model.requires_grad_(True)
    before = outputs(model)
    with pytest.raises(ValueError, match=r"wte.weight is set to train, but trainable=.* does not name its group"):
        run_trainer(model, tmp_path / "out")
    assert torch.equal(outputs(model), before)
    with pytest.raises(ValueError, match="no delta would hold it"):
        model.save_pretrained(tmp_path / "again")


EDITS = {  # of a configuration: what is refused on saving
    "base_model": ("/home/me/base", "never a path"),
    "base_model_revision": ("main", "is a hash"),
    "backbone_dropout": (5.0, "is a probability"),
    "num_labels": (3, "config.num_labels is 3, but the model was built with 4"),
    "sequence_length": (9, "config.sequence_length is 9, but the model was built with 10"),
    "backbone_init": ("random", "config.backbone_init is 'random'"),
    "base_model_fingerprint": ("sha:0", "config.base_model_fingerprint is 'sha:0'"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_configuration_that_no_longer_fits_is_not_saved(loaded, name, tmp_path):
    _, model = loaded
    value, message = EDITS[name]
    setattr(model.config, name, value)
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


LABELS = {  # of update_config: labels that the delta cannot have
    "fewer": ({"id2label": {0: "a", 1: "b"}}, "the delta has 4 labels, but 2 names came"),
    "twice": ({"id2label": dict.fromkeys(range(4), "a")}, "the other way round, with different names"),
    "another way round": ({"label2id": {"a": 0, "b": 1, "c": 2, "d": 3}}, "the other way round"),
}


@pytest.mark.parametrize(("fields", "message"), LABELS.values(), ids=LABELS)
def test_labels_that_a_delta_cannot_have_are_refused(loaded, fields, message):
    folder, _ = loaded
    before = json.loads((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        update_config(folder, **fields)
    assert json.loads((folder / "config.json").read_text()) == before
    with pytest.raises(DeltaError, match="holds no delta"):
        update_config(folder.parent, id2label={})


@pytest.mark.parametrize("given", [{"base_model": "org/x"}, {"revision": "v1"}, {"cache_dir": "c"}], ids=str)
def test_where_a_base_is_read_means_nothing_to_one_that_is_read(given, saved_base):
    base = FrozenBase.from_pretrained(saved_base)
    with pytest.raises(ValueError, match=f"{next(iter(given))} says where a base is read"):
        FPTForSequenceClassification.from_backbone(base, **FIELDS, **given)
    with pytest.raises(TypeError, match="a base is a folder, a Hub id, a FrozenBase"):
        FPTForSequenceClassification.from_backbone(3, **FIELDS)


def test_another_attention_than_the_shared_ones_is_refused(loaded, saved_base):
    folder, _ = loaded
    base = FrozenBase.from_pretrained(saved_base)
    with pytest.raises(ValueError, match="attn_implementation='eager' came, but models on a FrozenBase have its own"):
        FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=base, attn_implementation="eager")


def test_the_model_under_a_head_is_saved_too(loaded, saved_base, tmp_path):
    _, model = loaded
    model.fpt.save_pretrained(tmp_path / "again")
    again = FPTModel.from_pretrained(tmp_path / "again", base_model_name_or_path=saved_base)
    assert torch.equal(outputs(again), outputs(model.fpt))
