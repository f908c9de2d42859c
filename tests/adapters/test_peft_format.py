"""FPT in peft's form: the same parameters train, the same losses come out, and a delta becomes an adapter and back."""

import json

import pytest
import torch
from conftest import TINY_BACKBONES, assert_same, outputs, tiny_config, trained_names
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_adapters import CASES, adapted, learn, settings, trained_adapter
from test_peft_calls import plain

from fpt_adapters import PAPER_GROUPS, DeltaError, FPTConfig, FPTForSequenceClassification

POLICIES = [PAPER_GROUPS, ["input", "output"], [*PAPER_GROUPS, "attention", "feedforward"]]


def learn_both(ours, model, steps):
    """`model` in peft's form: the same of it trains as in `ours`, with the same losses, which are returned."""
    theirs = get_peft_model(model, model.to_peft_config())
    assert plain(name.replace("ln_tuning_layers.", "") for name in trained_names(theirs)) == trained_names(ours)
    losses = learn(ours, steps)
    assert losses == pytest.approx(learn(theirs, steps), abs=1e-6)
    return theirs, losses


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_peft_trains_the_same_to_the_same_losses(model_type, tmp_path):
    ours, model = adapted(None, model_type), adapted(None, model_type)
    assert model.to_peft_config().peft_type == "LN_TUNING"
    learn_both(ours, model, 3)
    ours.save_peft_adapter(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(adapted(None, model_type), tmp_path / "adapter")
    assert torch.equal(outputs(loaded), outputs(ours))
    loaded.merge_and_unload().save_pretrained(tmp_path / "delta")
    ours.save_pretrained(tmp_path / "own")
    assert_same(*(load_file(tmp_path / name / "model.safetensors") for name in ("delta", "own")))


@pytest.mark.parametrize("trainable", POLICIES, ids=" ".join)
@pytest.mark.parametrize("positions", ["backbone", "new"])
@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_any_policy(trainable, positions, model_type, tmp_path):
    ours, model, taken = (adapted(None, model_type, trainable=trainable, positions=positions) for _ in range(3))
    if positions == "new" and "position" not in trainable:
        with pytest.raises(ValueError, match=r"position_embeddings.weight is new and frozen"):
            model.to_peft_config()
        return
    theirs, losses = learn_both(ours, model, 5)
    assert losses[-1] < losses[0]
    theirs.save_pretrained(tmp_path)
    taken.load_adapter(tmp_path)
    assert torch.equal(outputs(taken), outputs(theirs))


@pytest.mark.parametrize(("method", "model_type"), CASES)
def test_every_adapter_becomes_a_peft_folder_and_comes_back(method, model_type, tmp_path):
    model = trained_adapter(settings(method, model_type), model_type)
    model.save_peft_adapter(tmp_path)
    theirs = PeftModel.from_pretrained(adapted(None, model_type), tmp_path)
    assert torch.equal(outputs(theirs), outputs(model))
    for given in (None, settings(method, model_type)):
        ours = adapted(given, model_type)
        ours.load_adapter(tmp_path)
        assert torch.equal(outputs(ours), outputs(model)) and ours.config.peft_config == model.config.peft_config


def test_the_folder_says_what_it_needs(tmp_path):
    folder = tmp_path / "new" / "adapter"
    model = adapted()
    model.config.base_model, model.config.base_model_revision = "org/base", "0" * 40
    model.save_peft_adapter(folder)
    names = ["adapter_config.json", "adapter_model.safetensors", "config.json"]
    assert sorted(file.name for file in folder.iterdir()) == names
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == ("org/base", "0" * 40)
    config = FPTConfig.from_pretrained(folder)
    again = FPTForSequenceClassification.from_backbone(tiny_config("bert"), config=config)
    again.load_adapter(folder)
    assert torch.equal(outputs(again), outputs(model))
    with pytest.raises(ValueError, match="A peft adapter is saved into a new folder"):
        model.save_peft_adapter(folder)


def without_a_tensor(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors["base_model.model.head.bias"]
    save_file(tensors, folder / "adapter_model.safetensors")


def truncated(folder):
    (folder / "config.json").unlink()
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def emptied(folder):
    for file in folder.iterdir():
        file.unlink()


SCALED = {"peft_type": "lora", "lora_alpha": 16}
REFUSED = {  # the model whose adapter is saved, what is done to the folder, the model that loads it, what is said
    "wider": ({"num_labels": 5}, None, {}, DeltaError, r"head\.(bias|weight) has shape"),
    "short": ({}, without_a_tensor, {}, DeltaError, r"head.bias"),
    "other settings": (
        {"peft_config": "lora"},
        None,
        {"peft_config": SCALED},
        DeltaError,
        "no adapter like the model's: lora_alpha is 'as peft has it' there and 16 here",
    ),
    "no layers": ({}, without_a_tensor, {"peft_config": "lora"}, DeltaError, "no adapter like the model's"),
    "another base": ({"backbone_init_seed": 5}, None, {}, DeltaError, "was trained on a base with the fingerprint"),
    "truncated": ({}, truncated, {}, DeltaError, "is truncated or no safetensors file"),
    "a list": ({}, "[]", {}, DeltaError, "holds settings by name"),
    "no json": ({}, "{", {}, DeltaError, "is no JSON"),
    "nothing": ({}, emptied, {}, OSError, "adapter_config.json"),
}


@pytest.mark.parametrize(("saved", "change", "fields", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(saved, change, fields, error, message, tmp_path):
    adapted(**saved).save_peft_adapter(tmp_path)
    if isinstance(change, str):
        (tmp_path / "adapter_config.json").write_text(change)
    elif change is not None:
        change(tmp_path)
    model = adapted(**fields)
    before = outputs(model)
    with pytest.raises(error, match=message):
        model.load_adapter(tmp_path)
    assert torch.equal(outputs(model), before)


def test_a_stranger_names_layers_without_patterns(tmp_path):
    adapted("lora").save_peft_adapter(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": "(.*)*query"}))
    with pytest.raises(ValueError, match="by a pattern"):
        adapted().load_adapter(tmp_path)


def test_a_part_of_a_module_is_no_module():
    model = adapted()
    norm = model.fpt.backbone.encoder.layer[0].output.LayerNorm
    norm.register_parameter("extra", torch.nn.Parameter(torch.zeros(1), requires_grad=False))
    with pytest.raises(ValueError, match=r"trains whole modules.*LayerNorm.extra"):
        get_peft_model(model, LoraConfig(target_modules=["query"]))
