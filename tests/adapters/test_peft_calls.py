"""peft's own calls on an FPT model: what the policy trains stays trained and is saved, or the call is refused."""

import warnings

import peft
import pytest
import torch
from conftest import saved_tensors
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_adapters import CASES, LAYERS, build, settings, train
from transformers import Trainer, TrainingArguments
from transformers.integrations.peft import PeftAdapterMixin

from fpt_adapters import FPTTrainer
from fpt_adapters.adapters.peft_mixin import PeftMixin

VALUES = torch.randn(8, 10, 3, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(8) % 4


def lora(model_type="bert", **changes):
    return LoraConfig(**{"target_modules": LAYERS[model_type], "fan_in_fan_out": model_type == "gpt2"} | changes)


def plain(names):
    """Parameter names without what peft adds to them."""
    marks = ("default", "fpt_delta", "modules_to_save")
    return {".".join(p for p in n.removeprefix("base_model.model.").split(".") if p not in marks) for n in names}


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model):
    with torch.no_grad():
        return model.eval()(input_values=VALUES).logits


def train_both(*models, steps=5):
    """The losses of each, on the same data, with the same seed."""
    curves = []
    for model in models:
        torch.manual_seed(0)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        losses = []
        for _ in range(steps):
            loss = model.train()(input_values=VALUES, labels=LABELS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(losses)
    return curves


# What peft wraps keeps its policy


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_peft_trains_and_saves_what_ours_would(model_type, tmp_path):
    ours = build({"peft_type": "lora", "target_modules": LAYERS[model_type]}, model_type)
    config = lora(model_type)
    theirs = get_peft_model(build(None, model_type), config)
    assert plain(trained(theirs)) == plain(trained(ours)) and config.modules_to_save
    adapter = {name: p for name, p in theirs.named_parameters() if ".lora_" in name}
    for name, parameter in ours.named_parameters():  # which peft drew at another moment
        if ".lora_" in name:
            parameter.data.copy_(adapter["base_model.model." + name.replace("fpt_delta", "default")])
    one, other = train_both(ours, theirs)
    assert one == pytest.approx(other, abs=1e-6) and one[-1] < one[0] - 0.05
    theirs.save_pretrained(tmp_path / "peft")
    saved = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert plain(saved) == plain(ours.delta_tensors())
    again = PeftModel.from_pretrained(build(None, model_type), tmp_path / "peft")
    assert torch.equal(logits(again), logits(theirs))
    taken = build(None, model_type)
    taken.load_adapter(tmp_path / "peft")
    assert torch.equal(logits(taken), logits(theirs))
    assert "adapter" in taken.config.trainable


def test_a_peft_model_trains_under_trainer(tmp_path):
    model = get_peft_model(build(None), lora())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = [{"input_values": value, "labels": label} for value, label in zip(VALUES, LABELS, strict=True)]
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, learning_rate=1e-2, use_cpu=True, report_to="none", save_strategy="no"
    )
    Trainer(model, args, train_dataset=rows).train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name in trained(model) if "lora_A" not in name} <= moved <= trained(model)
    with pytest.raises(TypeError, match="FPTTrainer trains an FPT model, got PeftModel"):
        FPTTrainer(model, args, train_dataset=rows)


def test_a_second_adapter_must_train_the_policy_too():
    config = lora(target_modules=["query"])
    model = get_peft_model(build(None), config)
    model.add_adapter("forgetful", lora(target_modules=["value"]))
    model.add_adapter("other", lora(target_modules=["value"], modules_to_save=config.modules_to_save))
    model.train()(input_values=VALUES, labels=LABELS)
    model.set_adapter("forgetful")
    with pytest.raises(ValueError, match=r"added later does not train fpt\..*modules_to_save=\["):
        model(input_values=VALUES, labels=LABELS)
    model.eval()(input_values=VALUES)
    model.set_adapter("other")
    model.train()(input_values=VALUES, labels=LABELS).loss.backward()
    assert model.base_model.model.head.modules_to_save["other"].weight.grad is not None
    with model.disable_adapter():
        model(input_values=VALUES, labels=LABELS)


def test_an_adapter_for_inference_stays_as_it_is(tmp_path):
    model = build(None)
    config = lora(target_modules=["query"])
    get_peft_model(model, config).save_pretrained(tmp_path)
    alone = {name: t for name, t in load_file(tmp_path / "adapter_model.safetensors").items() if "lora" in name}
    assert alone
    held = PeftModel.from_pretrained(build(None), tmp_path)
    assert not trained(held)
    held.train()(input_values=VALUES, labels=LABELS)
    held.add_adapter("later", lora(target_modules=["value"]))
    held.set_adapter("later")
    with pytest.raises(ValueError, match="added later does not train"):
        held(input_values=VALUES, labels=LABELS)
    linear_probe = PeftModel.from_pretrained(build(None, trainable=["output"]), tmp_path)  # fit for inference alone
    assert not trained(linear_probe)
    resumed = PeftModel.from_pretrained(build(None), tmp_path, is_trainable=True)
    assert plain(trained(resumed)) > {"head.weight", "fpt.input_projection.projection.weight"}


def test_unloading_gives_the_model_back(tmp_path):
    model = build(None)
    policy = trained(model)
    peft_model = get_peft_model(model, lora())
    train_both(peft_model)
    head = model.head.modules_to_save["default"].weight.detach().clone()
    with pytest.raises(ValueError, match="peft is around this model"):
        model.save_pretrained(tmp_path)
    back = peft_model.unload()
    assert back is model and trained(model) == policy and not hasattr(model, "peft_config")
    model.save_pretrained(tmp_path)
    assert torch.equal(
        load_file(tmp_path / "model.safetensors")["output.weight"], head
    )  # what peft trained there stays


@pytest.mark.parametrize("config", [lora(), lora(init_lora_weights="pissa")])
def test_what_is_merged_into_the_base_is_not_lost(config, tmp_path):
    peft_model = get_peft_model(build(None), config)
    train_both(peft_model)
    expected = logits(peft_model)
    model = peft_model.merge_and_unload()
    torch.testing.assert_close(logits(model), expected)
    with pytest.raises(ValueError, match=r"merged into the base.*save_backbone\(\)"):
        model.save_pretrained(tmp_path / "delta")
    assert not (tmp_path / "delta").exists()
    model.save_backbone(tmp_path / "base")
    model.config.backbone_init = "pretrained"
    merged = type(model).from_backbone(tmp_path / "base", config=model.config)
    merged.load_state_dict({n: t for n, t in model.state_dict().items() if "backbone" not in n}, strict=False)
    torch.testing.assert_close(logits(merged), expected)


def test_a_base_that_peft_changes_at_the_start_is_not_mistaken(tmp_path):
    model = get_peft_model(build(None), lora(init_lora_weights="pissa")).unload()
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


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_and_undone(case, tmp_path):
    fields, config, message = REFUSED[case]
    model, _ = train(build(fields.get("peft_config"), **{k: v for k, v in fields.items() if k != "peft_config"}))
    before, policy, names = logits(model), trained(model), [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(model, config)
    assert [name for name, _ in model.named_parameters()] == names
    assert trained(model) == policy and torch.equal(logits(model), before)
    model.save_pretrained(tmp_path)


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
def test_virtual_tokens_find_no_way_in(task_type):
    model = build(None)
    policy = trained(model)
    with pytest.raises((ValueError, KeyError)):
        get_peft_model(model, peft.PromptTuningConfig(num_virtual_tokens=2, task_type=task_type))
    assert trained(model) == policy


# transformers' own methods


def test_add_adapter_trains_beside_the_groups(tmp_path):
    model = build(None)
    policy = trained(model)
    model.add_adapter(lora())
    assert trained(model) > policy and model.config.trainable[-1] == "adapter"
    train_both(model)
    model.save_pretrained(tmp_path)
    assert any("lora_B" in name for name in saved_tensors(tmp_path, model))
    again = build(None)
    again.add_adapter(lora())
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again), logits(model))


def test_a_delta_has_one_adapter():
    model = build("lora")
    with pytest.raises(ValueError, match="A delta has one adapter"):
        model.add_adapter(lora())
    with pytest.raises(ValueError, match="leave the name out"):
        build(None).add_adapter(lora(), "mine")


def test_adapters_are_switched_off_and_deleted(tmp_path):
    model = build("lora")
    policy = trained(model)
    train_both(model)
    tuned = logits(model)
    assert model.active_adapters() == ["fpt_delta"]
    model.set_adapter("fpt_delta")
    values = {name.replace(".fpt_delta", ""): tensor for name, tensor in model.state_dict().items() if "lora" in name}
    saved = model.get_adapter_state_dict()
    assert saved.keys() == values.keys() and all(torch.equal(saved[name], values[name]) for name in values)
    model.disable_adapters()
    assert model.active_adapters() == ["fpt_delta"] and not any("lora" in name for name in trained(model))
    without = logits(model)
    assert not torch.equal(without, tuned)
    assert plain(model.delta_tensors()) == plain(policy)  # what is switched off is saved all the same
    model.enable_adapters()
    assert torch.equal(logits(model), tuned) and trained(model) == policy
    model.delete_adapter()
    assert model.config.peft_config is None and "adapter" not in model.config.trainable
    assert trained(model) == trained(build(None)) and torch.equal(logits(model), without)


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
    model = build(None)
    with pytest.raises(ValueError, match=NO_ADAPTER):
        getattr(model, method)(*right)
    with pytest.raises(ValueError, match="call the PeftModel's own methods"):
        getattr(get_peft_model(model, lora()).get_base_model(), method)(*right)
    if other is not None:
        with pytest.raises(ValueError, match=OTHER_NAME):
            getattr(build("lora"), method)(*other)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"adapter_name": "mine"}, ValueError, "A delta has one adapter, 'fpt_delta'; got 'mine'"),
        ({"is_trainable": True}, TypeError, "takes cache_dir, .*, token; got is_trainable"),
        ({"hotswap": True, "peft_config": {}}, TypeError, "got hotswap, peft_config"),
    ],
)
def test_an_adapter_is_loaded_as_part_of_the_delta(given, error, message, tmp_path):
    model = build("lora")
    model.save_peft_adapter(tmp_path / "adapter")
    with pytest.raises(error, match=message):
        model.load_adapter(tmp_path / "adapter", **given)
    model.load_adapter(tmp_path / "adapter", "fpt_delta", local_files_only=True)


def test_no_method_of_transformers_finds_its_way_in():
    """Each works on a delta, or says in this library's words why not."""
    public = {name for name, value in vars(PeftAdapterMixin).items() if callable(value) and not name.startswith("_")}
    assert public <= vars(PeftMixin).keys()
    with pytest.raises(ValueError, match=r"leave enable_peft_hotswap\(\) out"):
        build("lora").enable_peft_hotswap()


@pytest.mark.parametrize(("method", "model_type"), CASES)
def test_a_saved_backbone_has_the_adapter_merged(method, model_type, tmp_path):
    model, _ = train(build(settings(method, model_type), model_type))
    expected, state = logits(model), {name: t.clone() for name, t in model.state_dict().items()}
    model.save_backbone(tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    fields = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
    merged = type(model).from_backbone(tmp_path, **fields)
    new = {name: t for name, t in state.items() if "backbone" not in name}
    merged.load_state_dict(new, strict=False)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
