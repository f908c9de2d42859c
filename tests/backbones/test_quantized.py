"""Frozen weights in 8 and 4 bits: they load, train, and save the delta that the unquantised base has."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import IMAGE_BACKBONES, saved_once, tiny_config
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from test_peft_calls import plain
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    QuantoConfig,
    Trainer,
    TrainingArguments,
)
from transformers.pytorch_utils import Conv1D

from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification, FPTModel, FPTTrainer, LSTMConfig
from fpt_adapters.backbones.counting import count_by_group
from fpt_adapters.backbones.quantized_layers import parameter_size
from fpt_adapters.backbones.structure import is_quantized
from fpt_adapters.hub.card_template import describe_base
from fpt_adapters.rules.quantization import SETTINGS, checked_quantization, settings_of
from fpt_adapters.run import training as run_fpt
from fpt_adapters.run.arguments import ModelArguments

ROOT = Path(__file__).parents[2]
IMAGES = [name for name in IMAGE_BACKBONES if name == "vit"]
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
EIGHT = {"load_in_8bit": True}
FOUR = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
DOUBLE = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}
STORED = FOUR | {"bnb_4bit_quant_storage": "bfloat16"}
LAYERS = {"bert": ["query", "intermediate.dense"], "gpt2": ["c_attn", "c_fc"]}
WIDTHS = pytest.mark.parametrize("settings", [EIGHT, FOUR], ids=["8bit", "4bit"])
FAMILIES = ("gpt2", "bert", "llama", "t5", "opt", "albert", "modernbert", *IMAGES)
INPUTS = torch.randn(3, 10, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def base_of(tmp_path_factory):
    """A saved tiny base of a family, made once: base_of("bert")."""
    return saved_once(tmp_path_factory, tiny_config, seed=1)


def build(base, settings=None, model_class=FPTForSequenceClassification, **changes):
    pytest.importorskip("bitsandbytes")
    config = None if settings is None else BitsAndBytesConfig(**settings)
    torch.manual_seed(0)
    return model_class.from_backbone(base, quantization_config=config, **FIELDS | changes)


@torch.no_grad()
def outputs(model):
    return model.eval()(input_values=INPUTS)[0]


def examples(count=8):
    generator = torch.Generator().manual_seed(1)
    return [{"input_values": torch.randn(10, 3, generator=generator), "labels": number % 4} for number in range(count)]


def arguments(folder, **changes):
    defaults = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True}
    defaults |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    return TrainingArguments(os.fspath(folder), **defaults | {"dataloader_pin_memory": False} | changes)


def codes(model):
    return {n: p.data.clone().view(torch.uint8) for n, p in model.named_parameters() if is_quantized(p)}


def scales(model):
    """All that a state dict says of the frozen weights besides the codes: scales and biases."""
    names = {name for name, p in model.named_parameters() if not p.requires_grad and not is_quantized(p)}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    state = model.state_dict()
    return {name: t.clone() for name, t in state.items() if name in names or name not in {*trained, *codes(model)}}


def assert_same(first, second):
    assert first.keys() == second.keys() and first
    assert [n for n in first if first[n].dtype != second[n].dtype or not torch.equal(first[n], second[n])] == []


# Training


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
@WIDTHS
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", *IMAGES])
def test_training_moves_the_delta_and_no_code(base_of, tmp_path, model_type, settings, trainer_class):
    model = build(base_of(model_type), settings)
    frozen, others = codes(model), scales(model)
    assert len(frozen) >= 2 * 4
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    trainer = trainer_class(
        model,
        arguments(tmp_path, eval_strategy="steps", eval_steps=1),  # a 4-bit layer may pack its weights in evaluation
        train_dataset=examples(),
        eval_dataset=examples(4),
    )
    trainer.train()
    assert_same(codes(model), frozen)
    assert_same(scales(model), others)
    assert [name for name, p in model.named_parameters() if p.requires_grad and torch.equal(p, trained[name])] == []


@WIDTHS
@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_an_adapter_trains_on_quantised_layers(base_of, tmp_path, model_type, settings):
    base = base_of(model_type)
    model = build(base, settings, peft_config={"peft_type": "lora", "target_modules": LAYERS[model_type]})
    frozen = codes(model)
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    FPTTrainer(model, arguments(tmp_path / "run"), train_dataset=examples()).train()
    assert_same(codes(model), frozen)
    still = [name for name, p in model.named_parameters() if p.requires_grad and torch.equal(p, trained[name])]
    assert still == []
    model.save_pretrained(tmp_path / "delta")
    again = FPTForSequenceClassification.from_pretrained(tmp_path / "delta", base_model_name_or_path=base)
    assert torch.equal(outputs(again), outputs(model))


@WIDTHS
def test_what_peft_prepares_keeps_the_policy(base_of, tmp_path, settings):
    model = build(base_of("bert"), settings)
    policy = {name for name, p in model.named_parameters() if p.requires_grad}
    prepare_model_for_kbit_training(model)  # which freezes all
    with pytest.raises(ValueError, match=r"Nothing would train.*apply_policy\(\)"):
        FPTTrainer(model, arguments(tmp_path), train_dataset=examples()).train()
    wrapped = get_peft_model(model, LoraConfig(target_modules=["query"]))
    trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert {name for name in plain(trained) if "lora" not in name} == policy
    assert {p.dtype for p in trained.values()} == {torch.float32}
    before = {name: p.detach().clone() for name, p in trained.items()}
    Trainer(wrapped, arguments(tmp_path), train_dataset=examples()).train()
    assert [name for name, p in trained.items() if torch.equal(p, before[name])] == []
    other = build(base_of("bert"), settings)
    prepare_model_for_kbit_training(other).apply_policy()
    FPTTrainer(other, arguments(tmp_path), train_dataset=examples()).train()


@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "bf16"])
@WIDTHS
def test_mixed_precision_casts_no_frozen_bias(base_of, tmp_path, settings, mixed):
    model = build(base_of("bert"), settings, pooling="mean")  # "auto" would run the backbone before it is looked at
    others = scales(model)
    FPTTrainer(model, arguments(tmp_path, bf16=mixed), train_dataset=examples()).train()
    assert_same(scales(model), others)


def copy_dequantised(quantised, plain):
    """Give `plain` the weights that the quantised layers compute with."""
    functional = pytest.importorskip("bitsandbytes.functional")
    for path, module in quantised.named_modules():
        if isinstance(module, nn.Linear) and is_quantized(module.weight):
            if "load_in_4bit" in quantised.config.base_quantization:
                weight = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            else:
                scale = module.state.SCB if module.weight.SCB is None else module.weight.SCB
                weight = functional.int8_vectorwise_dequant(module.weight.data, scale)
            target = plain.get_submodule(path)
            target.weight.data = weight.T if isinstance(target, Conv1D) else weight


@pytest.mark.parametrize("settings", [EIGHT, FOUR | {"bnb_4bit_compute_dtype": "float32"}], ids=["8bit", "4bit"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_gradients_pass_through_quantised_layers(base_of, model_type, settings):
    """They are those of the same backbone whose linear layers have the dequantised weights in fp32."""
    changes = {"input_dropout": 0.0, "backbone_dropout": 0.0}
    quantised, plain = (build(base_of(model_type), one, **changes) for one in (settings, None))
    copy_dequantised(quantised, plain)
    for model in (quantised, plain):
        model.train()(input_values=INPUTS, labels=torch.tensor([0, 1, 2])).loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in quantised.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=2e-3, atol=2e-5, msg=name)


@WIDTHS
def test_resumed_equals_uninterrupted(base_of, tmp_path, settings):
    states = []
    for folder, resume in ((tmp_path / "whole", None), (tmp_path / "half", tmp_path / "whole" / "checkpoint-2")):
        trainer = FPTTrainer(
            build(base_of("gpt2"), settings),
            arguments(folder, save_strategy="steps", save_steps=2),
            train_dataset=examples(),
        )
        trainer.train(resume_from_checkpoint=resume and os.fspath(resume))
        states.append({name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad})
    assert_same(*states)
    other = FPTTrainer(build(base_of("gpt2"), DOUBLE), arguments(tmp_path / "other"), train_dataset=examples())
    with pytest.raises(DeltaError, match="was trained on a base quantised by"):
        other.train(resume_from_checkpoint=os.fspath(tmp_path / "whole" / "checkpoint-2"))


# The delta


def moved(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@pytest.mark.parametrize("settings", [EIGHT, FOUR, DOUBLE, STORED], ids=["8bit", "4bit", "double", "bf16 storage"])
@pytest.mark.parametrize("model_type", ["gpt2", *IMAGES])
def test_the_delta_is_that_of_the_plain_base(base_of, tmp_path, model_type, settings):
    quantised, plain = (moved(build(base_of(model_type), one)) for one in (settings, None))
    assert quantised.config.base_model_fingerprint == plain.config.base_model_fingerprint
    quantised.save_pretrained(tmp_path / "quantised")
    plain.save_pretrained(tmp_path / "plain")
    assert_same(*(load_file(tmp_path / name / "model.safetensors") for name in ("quantised", "plain")))

    again = FPTForSequenceClassification.from_pretrained(
        tmp_path / "quantised", base_model_name_or_path=base_of(model_type)
    )
    assert_same(codes(again), codes(quantised))
    assert torch.equal(outputs(again), outputs(quantised))
    assert again.config.base_quantization == quantised.config.base_quantization
    unquantised = FPTForSequenceClassification.from_pretrained(
        tmp_path / "quantised", base_model_name_or_path=base_of(model_type), quantization_config=False
    )
    assert not codes(unquantised)
    assert torch.equal(outputs(unquantised), outputs(plain))
    assert not torch.equal(outputs(unquantised), outputs(quantised))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@WIDTHS
def test_a_delta_comes_back_with_its_dtype(base_of, tmp_path, settings, dtype):
    for model_type in ("bert", *IMAGES):  # with and without token embeddings
        model = build(base_of(model_type), settings, dtype=dtype)
        model.save_pretrained(tmp_path / model_type)
        assert json.loads((tmp_path / model_type / "config.json").read_text())["dtype"] == dtype
        base = base_of(model_type)
        again = FPTForSequenceClassification.from_pretrained(tmp_path / model_type, base_model_name_or_path=base)
        assert_same(codes(again), codes(model))
        assert torch.equal(outputs(again), outputs(model))


@WIDTHS
def test_auto_classes_quantise_a_plain_delta(base_of, tmp_path, settings):
    build(base_of("gpt2")).save_pretrained(tmp_path / "plain")
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "plain",
        base_model_name_or_path=base_of("gpt2"),
        quantization_config=BitsAndBytesConfig(**settings),
    )
    assert model.config.base_quantization == checked_quantization(settings)
    assert_same(codes(model), codes(build(base_of("gpt2"), settings)))
    headless = AutoModel.from_pretrained(
        tmp_path / "plain", base_model_name_or_path=base_of("gpt2"), quantization_config=settings
    )
    assert isinstance(headless, FPTModel) and len(codes(headless)) == len(codes(model))


@pytest.mark.parametrize("init", ["random", "statistics"])
def test_drawn_weights_are_quantised_and_come_back(base_of, tmp_path, init):
    config = tiny_config("gpt2") if init == "random" else base_of("gpt2")
    model = build(config, FOUR, backbone_init=init, backbone_init_seed=3)
    model.save_pretrained(tmp_path / "delta")
    base = None if init == "random" else base_of("gpt2")
    again = FPTForSequenceClassification.from_pretrained(tmp_path / "delta", base_model_name_or_path=base)
    assert_same(codes(again), codes(model))
    assert torch.equal(outputs(again), outputs(model))
    if init == "random":
        assert_same(codes(FPTForSequenceClassification(model.config)), codes(model))


def test_a_copy_is_whole(base_of):
    for settings in (EIGHT, FOUR):
        model = build(base_of("gpt2"), settings)
        assert torch.equal(outputs(copy.deepcopy(model)), outputs(model))


# Memory


MEASURE = """
import sys, threading, time
from fpt_adapters import FPTForSequenceClassification

def anonymous():  # megabytes that are no file's
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) / 1024

def sample():
    while not done:
        seen.append(anonymous())
        time.sleep(0.002)

def build(base):
    return FPTForSequenceClassification.from_backbone(
        base, quantization_config={"load_in_8bit": True}, input_type="values", input_size=3, sequence_length=10
    )

build(sys.argv[1])  # imports what it needs
done, seen = False, [anonymous()]
thread = threading.Thread(target=sample)
thread.start()
model = build(sys.argv[2])
done = True
thread.join()
print(max(seen) - seen[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_the_whole_is_never_in_memory_in_full_precision(base_of, tmp_path):
    pytest.importorskip("bitsandbytes")
    AutoModel.from_config(tiny_config("gpt2", n_embd=768, n_layer=4)).save_pretrained(tmp_path)
    megabytes = (tmp_path / "model.safetensors").stat().st_size / 2**20  # in fp32; a quarter in 8 bits
    command = [sys.executable, "-c", MEASURE, os.fspath(base_of("gpt2")), os.fspath(tmp_path)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back, and does not count
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 0.2 * megabytes < float(result.stdout) < 0.6 * megabytes


# What is refused


REFUSED = [
    ({}, "load_in_8bit=True or by load_in_4bit=True"),
    ({"load_in_8bit": True, "load_in_4bit": True}, "load_in_8bit=True or by load_in_4bit=True"),
    ({"load_in_4bit": 1}, "load_in_8bit=True or by load_in_4bit=True"),
    ({"load_in_4bit": True, "load_in_8bit": "no"}, "leave it out"),
    ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp8"}, "bnb_4bit_quant_type is one of fp4, nf4; got 'fp8'"),
    ({"load_in_4bit": True, "bnb_4bit_use_double_quant": 1}, "is one of False, True; got 1"),
    ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "os.system"}, "bnb_4bit_compute_dtype is one of"),
    ({"load_in_4bit": True, "bnb_4bit_compute_dtype": ["bfloat16"]}, "bnb_4bit_compute_dtype is one of"),
    ({"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "load_in_8bit goes with llm_int8_threshold; got bnb_4bit"),
    ({"load_in_8bit": True, "llm_int8_threshold": -1}, "a number from 0 to 10000; got -1"),
    ({"load_in_8bit": True, "llm_int8_threshold": float("nan")}, "a number from 0"),
    ({"load_in_8bit": True, "llm_int8_threshold": True}, "a number from 0"),
    ({"load_in_8bit": True, "llm_int8_skip_modules": ["(a+)+"]}, "got llm_int8_skip_modules"),
    ({"load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True}, "got llm_int8_enable_fp32_cpu_offload"),
    ({"load_in_8bit": True, "auto_map": {"a": "b"}}, "got auto_map"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_a_delta_names_nothing_but_the_known_settings(values, message):
    for build_config in (checked_quantization, lambda values: FPTConfig(base_quantization=values)):
        with pytest.raises(ValueError, match=message):
            build_config(values)


def test_settings_are_those_of_transformers():
    """The names, and what a name means where it is not given."""
    for width, defaults in SETTINGS.items():
        ours, theirs = checked_quantization({width: True}), BitsAndBytesConfig(**{width: True})
        assert {name: theirs.to_dict()[name] for name in ours} == ours == {width: True} | defaults
        assert settings_of(theirs) == ours
        assert BitsAndBytesConfig(**ours).to_dict() == theirs.to_dict()
    assert settings_of(BitsAndBytesConfig(**FOUR)) == checked_quantization(FOUR)


@pytest.mark.parametrize("other", [QuantoConfig(weights="int8"), {"quant_method": "gptq", "bits": 4}])
def test_other_methods_are_refused(base_of, other):
    with pytest.raises(ValueError, match=r"a transformers.BitsAndBytesConfig.*got the method '(quanto|gptq)'"):
        FPTForSequenceClassification.from_backbone(base_of("gpt2"), quantization_config=other, **FIELDS)


def test_without_bitsandbytes_it_says_what_to_install(base_of, monkeypatch):
    monkeypatch.setattr("fpt_adapters.rules.quantization.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match=r"to 4 bits.*pip install 'fpt_adapters\[quantized\]'.*=False"):
        FPTForSequenceClassification.from_backbone(base_of("gpt2"), quantization_config=FOUR, **FIELDS)


def test_quantised_weights_do_not_train(base_of):
    for group in ("attention", "feedforward", "last_attention"):
        with pytest.raises(ValueError, match=f"trainable has '{group}', whose weights are quantised"):
            build(base_of("gpt2"), EIGHT, trainable=["output", group])


def test_an_lstm_has_nothing_to_quantise():
    with pytest.raises(ValueError, match="LSTMModel has none: leave it out"):
        build(LSTMConfig(hidden_size=32, num_hidden_layers=2), EIGHT, backbone_init="random")


def test_a_quantised_backbone_is_no_base(base_of, tmp_path):
    with pytest.raises(ValueError, match="is quantised here: load the delta with quantization_config=False"):
        build(base_of("gpt2"), FOUR).save_backbone(tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_base_that_came_quantised_is_refused(base_of, tmp_path):
    pytest.importorskip("bitsandbytes")
    AutoModel.from_pretrained(base_of("gpt2"), quantization_config=BitsAndBytesConfig(**FOUR)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="not quantised"):
        FPTForSequenceClassification.from_backbone(tmp_path, **FIELDS)


# Beside it


@WIDTHS
def test_weights_are_counted_as_weights(base_of, settings):
    quantised, plain = build(base_of("gpt2"), settings), build(base_of("gpt2"))
    assert quantised.count_parameters() == plain.count_parameters()
    assert count_by_group(quantised, quantised.parameter_groups()) == plain.count_parameters()
    sizes = {name: p.numel() for name, p in plain.named_parameters()}
    assert {name: parameter_size(p) for name, p in quantised.named_parameters()} == sizes


@WIDTHS
def test_the_card_says_it(base_of, settings):
    bits = "8" if settings is EIGHT else "4"
    assert f"quantised to {bits} bits by bitsandbytes; its" in describe_base(build(base_of("gpt2"), settings).config)
    assert "quantised" not in describe_base(build(base_of("gpt2")).config)


@pytest.mark.parametrize("flag", ["--load_in_8bit", "--load_in_4bit"])
def test_the_run_script_quantises(base_of, tmp_path, monkeypatch, flag):
    pytest.importorskip("bitsandbytes")
    monkeypatch.chdir(tmp_path)
    shared = ["--task_name", "bit-xor", "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no"]
    shared += ["--max_eval_samples", "8", "--do_eval"]
    new = ["--model_name_or_path", os.fspath(base_of("gpt2")), "--output_dir", "out", "--do_train", "--max_steps", "1"]
    run_fpt.main([*shared, *new, flag])
    saved = json.loads(Path("out/config.json").read_text())["base_quantization"]
    assert saved[flag.removeprefix("--")] is True
    assert saved.get("bnb_4bit_quant_type", "nf4") == "nf4"
    assert saved.get("bnb_4bit_compute_dtype", "bfloat16") == "bfloat16"
    again = ["--model_name_or_path", "out", "--base_model_name_or_path", os.fspath(base_of("gpt2"))]
    run_fpt.main([*shared, *again, "--output_dir", "again"])
    results = [json.loads(Path(folder, "all_results.json").read_text())["eval_loss"] for folder in ("out", "again")]
    assert results[0] == results[1]


def test_the_run_script_takes_one_width():
    arguments = ModelArguments(load_in_8bit=True, load_in_4bit=True)
    with pytest.raises(ValueError, match="only one"):
        _ = arguments.quantization_config
