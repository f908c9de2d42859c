"""peft's own calls on an FPT model: what the policy trains stays trained and is saved, or the call is refused."""

import warnings

import peft
import pytest
import torch
from conftest import FIELDS, assert_same, moved, outputs, run_trainer, saved_tensors, trained_names, weights
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_adapters import BATCH, CASES, LAYERS, adapted, learn, settings, trained_adapter
from transformers import Trainer
from transformers.integrations.peft import PeftAdapterMixin

from fpt_adapters.adapters.peft_mixin import PeftMixin


def lora(model_type="bert", **changes):
    return LoraConfig(**{"target_modules": LAYERS[model_type], "fan_in_fan_out": model_type == "gpt2"} | changes)


def plain(names):
    """Parameter names without what peft adds to them."""
    marks = ("default", "fpt_delta", "modules_to_save")
    return {".".join(p for p in n.removeprefix("base_model.model.").split(".") if p not in marks) for n in names}


def new_state(model):
    """What a state dict has outside the backbone."""
    return {name: tensor for name, tensor in model.state_dict().items() if "backbone" not in name}


# What peft wraps keeps its policy


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_peft_trains_and_saves_what_ours_would(model_type, tmp_path):
    ours = adapted({"peft_type": "lora", "target_modules": LAYERS[model_type]}, model_type)
    config = lora(model_type)
    theirs = get_peft_model(adapted(None, model_type), config)
    assert plain(trained_names(theirs)) == plain(trained_names(ours)) and config.modules_to_save
    adapter = {name: p for name, p in theirs.named_parameters() if ".lora_" in name}
    for name, parameter in ours.named_parameters():  # which peft drew at another moment
        if ".lora_" in name:
            parameter.data.copy_(adapter["base_model.model." + name.replace("fpt_delta", "default")])
    one, other = learn(ours, 5), learn(theirs, 5)
    assert one == pytest.approx(other, abs=1e-6) and one[-1] < one[0] - 0.05
    theirs.save_pretrained(tmp_path)
    assert plain(load_file(tmp_path / "adapter_model.safetensors")) == plain(ours.delta_tensors())
    assert torch.equal(outputs(PeftModel.from_pretrained(adapted(None, model_type), tmp_path)), outputs(theirs))
    taken = adapted(None, model_type)
    taken.load_adapter(tmp_path)
    assert torch.equal(outputs(taken), outputs(theirs))
    assert "adapter" in taken.config.trainable


def test_a_peft_model_trains_under_trainer(tmp_path):
    model = get_peft_model(adapted(), lora())
    before = weights(model)
    run_trainer(model, tmp_path, Trainer)
    first = {name for name in trained_names(model) if "lora_A" not in name}  # which gets no gradient at once
    assert first <= moved(model, before) <= trained_names(model)
    with pytest.raises(TypeError, match="FPTTrainer trains an FPT model, got PeftModel"):
        run_trainer(model, tmp_path)


def test_a_second_adapter_must_train_the_policy_too():
    config = lora(target_modules=["query"])
    model = get_peft_model(adapted(), config)
    model.add_adapter("forgetful", lora(target_modules=["value"]))
    model.add_adapter("other", lora(target_modules=["value"], modules_to_save=config.modules_to_save))
    model.train()(**BATCH)
    model.set_adapter("forgetful")
    with pytest.raises(ValueError, match=r"added later does not train fpt\..*modules_to_save=\["):
        model(**BATCH)
    outputs(model)
    model.set_adapter("other")
    model.train()(**BATCH).loss.backward()
    assert model.base_model.model.head.modules_to_save["other"].weight.grad is not None
    with model.disable_adapter():
        model(**BATCH)


def test_an_adapter_for_inference_stays_as_it_is(tmp_path):
    get_peft_model(adapted(), lora(target_modules=["query"])).save_pretrained(tmp_path)
    assert any("lora" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    held = PeftModel.from_pretrained(adapted(), tmp_path)
    assert not trained_names(held)
    held.train()(**BATCH)
    held.add_adapter("later", lora(target_modules=["value"]))
    held.set_adapter("later")
    with pytest.raises(ValueError, match="added later does not train"):
        held(**BATCH)
    linear_probe = PeftModel.from_pretrained(adapted(trainable=["output"]), tmp_path)  # fit for inference only
    assert not trained_names(linear_probe)
    resumed = PeftModel.from_pretrained(adapted(), tmp_path, is_trainable=True)
    assert plain(trained_names(resumed)) > {"head.weight", "fpt.input_projection.projection.weight"}


def test_unloading_gives_the_model_back(tmp_path):
    model = adapted()
    policy = trained_names(model)
    peft_model = get_peft_model(model, lora())
    learn(peft_model)
    head = model.head.modules_to_save["default"].weight.detach().clone()
    with pytest.raises(ValueError, match="peft is around this model"):
        model.save_pretrained(tmp_path)
    back = peft_model.unload()
    assert back is model and trained_names(model) == policy and not hasattr(model, "peft_config")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["output.weight"], head)  # what peft trained there stays


@pytest.mark.parametrize("config", [lora(), lora(init_lora_weights="pissa")], ids=["lora", "pissa"])
def test_what_is_merged_into_the_base_is_not_lost(config, tmp_path):
    peft_model = get_peft_model(adapted(), config)
    learn(peft_model)
    expected = outputs(peft_model)
    model = peft_model.merge_and_unload()
    torch.testing.assert_close(outputs(model), expected)
    with pytest.raises(ValueError, match=r"merged into the base.*save_backbone\(\)"):
        model.save_pretrained(tmp_path / "delta")
    assert not (tmp_path / "delta").exists()
    model.save_backbone(tmp_path / "base")
    model.config.backbone_init = "pretrained"
    merged = type(model).from_backbone(tmp_path / "base", config=model.config)
    merged.load_state_dict(new_state(model), strict=False)
    torch.testing.assert_close(outputs(merged), expected)


def test_a_base_that_peft_changes_at_the_start_is_not_mistaken(tmp_path):
    model = get_peft_model(adapted(), lora(init_lora_weights="pissa")).unload()
    with pytest.raises(ValueError, match="merged into the base"):
        model.save_pretrained(tmp_path)


# What is refused, and undone

OVERLAP = {"trainable": ["input", "output", "norm", "position", "feedforward"]}
REFUSED = {
    "a task's own model": ({}, lora(task_type="SEQ_CLS"), "write task_type=None"),
    "a trained layer": (OVERLAP, lora(), "The adapter goes on fpt.backbone.encoder.layer.0.intermediate.dense, which"),
    "a frozen new input": ({"trainable": ["output"]}, lora(), "input_projection.*is new and frozen"),
    "a second adapter": ({"peft_config": "lora"}, lora(target_modules=["query"]), "an adapter that its delta saves"),
    "another around it": (
        {"peft_config": "lora"},
        peft.IA3Config(target_modules=["query"], feedforward_modules=[]),
        "an adapter that its delta saves",
    ),
}


@pytest.mark.parametrize(("fields", "config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_refused_and_undone(fields, config, message, tmp_path):
    model = trained_adapter(**fields)
    before, policy = weights(model), trained_names(model)
    with pytest.raises(ValueError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(model, config)
    assert_same(weights(model), before)
    assert trained_names(model) == policy
    model.save_pretrained(tmp_path)


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
def test_virtual_tokens_find_no_way_in(task_type):
    model = adapted()
    policy = trained_names(model)
    with pytest.raises((ValueError, KeyError)):
        get_peft_model(model, peft.PromptTuningConfig(num_virtual_tokens=2, task_type=task_type))
    assert trained_names(model) == policy


# transformers' own methods


def test_add_adapter_trains_beside_the_groups(tmp_path):
    model, again = adapted(), adapted()
    policy = trained_names(model)
    for one in (model, again):
        one.add_adapter(lora())
    assert trained_names(model) > policy and model.config.trainable[-1] == "adapter"
    learn(model)
    model.save_pretrained(tmp_path)
    assert any("lora_B" in name for name in saved_tensors(tmp_path, model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(outputs(again), outputs(model))


def test_a_delta_has_one_adapter():
    with pytest.raises(ValueError, match="A delta has one adapter"):
        adapted("lora").add_adapter(lora())
    with pytest.raises(ValueError, match="leave the name out"):
        adapted().add_adapter(lora(), "mine")


def test_adapters_are_switched_off_and_deleted():
    model = trained_adapter("lora")
    policy, tuned = trained_names(model), outputs(model)
    assert model.active_adapters() == ["fpt_delta"]
    model.set_adapter("fpt_delta")
    lora_state = {name.replace(".fpt_delta", ""): t for name, t in model.state_dict().items() if "lora" in name}
    assert_same(model.get_adapter_state_dict(), lora_state)
    model.disable_adapters()
    assert model.active_adapters() == ["fpt_delta"] and not any("lora" in name for name in trained_names(model))
    without = outputs(model)
    assert not torch.equal(without, tuned)
    assert plain(model.delta_tensors()) == plain(policy)  # what is switched off is saved all the same
    model.enable_adapters()
    assert torch.equal(outputs(model), tuned) and trained_names(model) == policy
    model.delete_adapter()
    assert model.config.peft_config is None and "adapter" not in model.config.trainable
    assert trained_names(model) == trained_names(adapted()) and torch.equal(outputs(model), without)


NO_ADAPTER, OTHER_NAME = "has no adapter in its delta: call add_adapter", "is called 'fpt_delta'; got 'mine'"
NEEDS_ONE = {  # each method on a model without an adapter, and with another name than the adapter's
    "delete_adapter": ((), ("mine",)),
    "disable_adapters": ((), None),
    "enable_adapters": ((), None),
    "active_adapters": ((), None),
    "set_adapter": (("fpt_delta",), ("mine",)),
    "get_adapter_state_dict": ((), ("mine",)),
}


@pytest.mark.parametrize("method", NEEDS_ONE)
def test_what_needs_an_adapter_says_so(method):
    right, other = NEEDS_ONE[method]
    model = adapted()
    with pytest.raises(ValueError, match=NO_ADAPTER):
        getattr(model, method)(*right)
    with pytest.raises(ValueError, match="call the PeftModel's own methods"):
        getattr(get_peft_model(model, lora()).get_base_model(), method)(*right)
    if other is not None:
        with pytest.raises(ValueError, match=OTHER_NAME):
            getattr(adapted("lora"), method)(*other)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"adapter_name": "mine"}, ValueError, "A delta has one adapter, 'fpt_delta'; got 'mine'"),
        ({"is_trainable": True}, TypeError, "takes cache_dir, .*, token; got is_trainable"),
        ({"hotswap": True, "peft_config": {}}, TypeError, "got hotswap, peft_config"),
    ],
)
def test_an_adapter_is_loaded_as_part_of_the_delta(given, error, message, tmp_path):
    model = adapted("lora")
    model.save_peft_adapter(tmp_path / "adapter")
    with pytest.raises(error, match=message):
        model.load_adapter(tmp_path / "adapter", **given)
    model.load_adapter(tmp_path / "adapter", "fpt_delta", local_files_only=True)


def test_no_method_of_transformers_finds_its_way_in():
    """Each works on a delta, or says in this library's words why not."""
    public = {name for name, value in vars(PeftAdapterMixin).items() if callable(value) and not name.startswith("_")}
    assert public <= vars(PeftMixin).keys()
    with pytest.raises(ValueError, match=r"leave enable_peft_hotswap\(\) out"):
        adapted("lora").enable_peft_hotswap()


@pytest.mark.parametrize(("method", "model_type"), CASES)
def test_a_saved_backbone_has_the_adapter_merged(method, model_type, tmp_path):
    model = trained_adapter(settings(method, model_type), model_type)
    expected, state = outputs(model), {name: t.clone() for name, t in model.state_dict().items()}
    model.save_backbone(tmp_path)
    assert_same(model.state_dict(), state)
    merged = type(model).from_backbone(tmp_path, **FIELDS)
    merged.load_state_dict(new_state(model), strict=False)
    torch.testing.assert_close(outputs(merged), expected, atol=1e-4, rtol=1e-4)
