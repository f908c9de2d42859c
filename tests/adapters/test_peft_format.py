"""FPT in peft's form: the same parameters train, the same losses come out, and a delta becomes an adapter and back."""

import json

import pytest
import torch
from conftest import TINY_BACKBONES, tiny_config
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_adapters import CASES, build, settings, train
from test_peft_calls import logits, plain, train_both, trained

from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification

POLICIES = [
    ["input", "output", "norm", "position"],
    ["input", "output"],
    ["input", "output", "norm", "position", "attention", "feedforward"],
]


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_peft_trains_the_same_to_the_same_losses(model_type, tmp_path):
    torch.manual_seed(0)
    ours, model = build(None, model_type), build(None, model_type)
    config = model.to_peft_config()
    assert config.peft_type == "LN_TUNING"
    theirs = get_peft_model(model, config)
    assert plain({name.replace("ln_tuning_layers.", "") for name in trained(theirs)}) == trained(ours)
    one, other = train_both(ours, theirs, steps=3)
    assert one == pytest.approx(other, abs=1e-6)
    ours.save_peft_adapter(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(build(None, model_type), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(ours))
    loaded.merge_and_unload().save_pretrained(tmp_path / "delta")
    ours.save_pretrained(tmp_path / "own")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("delta", "own"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("trainable", POLICIES)
@pytest.mark.parametrize("positions", ["backbone", "new"])
@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_any_policy(trainable, positions, model_type, tmp_path):
    def make():
        return build(None, model_type, trainable=trainable, positions=positions)

    if positions == "new" and "position" not in trainable:
        with pytest.raises(ValueError, match=r"position_embeddings.weight is new and frozen"):
            make().to_peft_config()
        return
    ours, model = make(), make()
    theirs = get_peft_model(model, model.to_peft_config())
    assert plain({name.replace("ln_tuning_layers.", "") for name in trained(theirs)}) == trained(ours)
    one, other = train_both(ours, theirs)
    assert one == pytest.approx(other, abs=1e-6) and one[-1] < one[0]
    theirs.save_pretrained(tmp_path / "theirs")
    taken = make()
    taken.load_adapter(tmp_path / "theirs")
    assert torch.equal(logits(taken), logits(theirs))


@pytest.mark.parametrize(("method", "model_type"), CASES)
def test_every_adapter_becomes_a_peft_folder_and_comes_back(method, model_type, tmp_path):
    model, _ = train(build(settings(method, model_type), model_type))
    model.save_peft_adapter(tmp_path)
    theirs = PeftModel.from_pretrained(build(None, model_type), tmp_path)
    assert torch.equal(logits(theirs), logits(model))
    for given in (None, settings(method, model_type)):
        ours = build(given, model_type)
        ours.load_adapter(tmp_path)
        assert torch.equal(logits(ours), logits(model)) and ours.config.peft_config == model.config.peft_config


def test_the_folder_says_what_it_needs(tmp_path):
    model = build(None)
    model.config.base_model, model.config.base_model_revision = "org/base", "0" * 40
    model.save_peft_adapter(tmp_path / "new" / "adapter")
    names = ["adapter_config.json", "adapter_model.safetensors", "config.json"]
    assert sorted(file.name for file in (tmp_path / "new" / "adapter").iterdir()) == names
    written = json.loads((tmp_path / "new" / "adapter" / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == ("org/base", "0" * 40)
    config = FPTConfig.from_pretrained(tmp_path / "new" / "adapter")
    again = FPTForSequenceClassification.from_backbone(tiny_config("bert"), config=config)
    again.load_adapter(tmp_path / "new" / "adapter")
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(ValueError, match="A peft adapter is saved into a new folder"):
        model.save_peft_adapter(tmp_path / "new" / "adapter")


def test_what_does_not_fit_is_refused(tmp_path):
    model = build(None)
    before = logits(model)
    build(None, num_labels=5).save_peft_adapter(tmp_path / "wider")
    with pytest.raises(DeltaError, match=r"head\.(bias|weight) has shape"):
        model.load_adapter(tmp_path / "wider")
    build(None).save_peft_adapter(tmp_path / "short")
    file = tmp_path / "short" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.head.bias"]
    save_file(tensors, file)
    with pytest.raises(DeltaError, match=r"head.bias"):
        model.load_adapter(tmp_path / "short")
    build("lora").save_peft_adapter(tmp_path / "lora")
    with pytest.raises(
        DeltaError, match="no adapter like the model's: lora_alpha is 'as peft has it' there and 16 here"
    ):
        build({"peft_type": "lora", "lora_alpha": 16}).load_adapter(tmp_path / "lora")
    with pytest.raises(DeltaError, match="no adapter like the model's"):
        build("lora").load_adapter(tmp_path / "short")
    other = tmp_path / "other"
    build(None, backbone_init_seed=5).save_peft_adapter(other)
    with pytest.raises(DeltaError, match="was trained on a base with the fingerprint"):
        model.load_adapter(other)
    (other / "config.json").unlink()
    file = other / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DeltaError, match="is truncated or no safetensors file"):
        model.load_adapter(other)
    for text in ("[]", "{"):
        (other / "adapter_config.json").write_text(text)
        with pytest.raises(DeltaError, match=r"holds settings by name|is no JSON"):
            model.load_adapter(other)
    with pytest.raises(OSError, match=r"adapter_config.json"):
        model.load_adapter(tmp_path)
    assert torch.equal(logits(model), before)


def test_a_stranger_names_layers_without_patterns(tmp_path):
    build("lora").save_peft_adapter(tmp_path)
    file = tmp_path / "adapter_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"target_modules": "(.*)*query"}))
    with pytest.raises(ValueError, match="by a pattern"):
        build(None).load_adapter(tmp_path)


def test_a_part_of_a_module_is_no_module():
    model = build(None)
    norm = model.fpt.backbone.encoder.layer[0].output.LayerNorm
    norm.register_parameter("extra", torch.nn.Parameter(torch.zeros(1), requires_grad=False))
    with pytest.raises(ValueError, match=r"trains whole modules.*LayerNorm.extra"):
        get_peft_model(model, LoraConfig(target_modules=["query"]))
