"""Frozen weights in 8 and 4 bits: they load, train, and save the delta that the unquantised base has."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import (
    IMAGE_BACKBONES,
    VALUES,
    assert_same,
    build_seeded,
    labelled_examples,
    move,
    moved,
    outputs,
    reloaded,
    run_trainer,
    tiny_config,
    trained,
    trained_names,
    weights,
)
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from test_peft_calls import plain
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, BitsAndBytesConfig, QuantoConfig, Trainer
from transformers.pytorch_utils import Conv1D

from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification, FPTModel, FPTTrainer, LSTMConfig
from fpt_adapters.backbones.counting import count_by_group
from fpt_adapters.backbones.quantized_layers import parameter_size
from fpt_adapters.backbones.structure import is_quantized
from fpt_adapters.hub.card_template import describe_base
from fpt_adapters.rules.quantization import SETTINGS, checked_quantization, settings_of
from fpt_adapters.run import training as run_fpt
from fpt_adapters.run.arguments import ModelArguments

IMAGES = [name for name in IMAGE_BACKBONES if name == "vit"]
EIGHT = {"load_in_8bit": True}
FOUR = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
DOUBLE = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}
STORED = FOUR | {"bnb_4bit_quant_storage": "bfloat16"}
LAYERS = {"bert": ["query", "intermediate.dense"], "gpt2": ["c_attn", "c_fc"]}
WIDTHS = pytest.mark.parametrize("settings", [EIGHT, FOUR], ids=["8bit", "4bit"])
FAMILIES = ("gpt2", "bert", "llama", "t5", "opt", "albert", "modernbert", *IMAGES)


def quantised(base, settings, **fields):
    pytest.importorskip("bitsandbytes")
    return build_seeded(base, quantization_config=BitsAndBytesConfig(**settings), **fields)


def codes(model):
    return {n: p.data.clone().view(torch.uint8) for n, p in model.named_parameters() if is_quantized(p)}


def frozen_state(model):
    """All that a state dict says of what is frozen: codes, scales and biases."""
    trains = trained_names(model)
    return {n: t.clone() for n, t in model.state_dict().items() if n not in trains} | codes(model)


# Training


@pytest.mark.parametrize(
    ("trainer_class", "mixed"),
    [(FPTTrainer, False), (FPTTrainer, True), (Trainer, False)],
    ids=["FPTTrainer", "FPTTrainer in bf16", "Trainer"],
)
@WIDTHS
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", *IMAGES])
def test_training_moves_the_delta_and_no_code(bases, tmp_path, model_type, settings, trainer_class, mixed):
    model = quantised(bases(model_type), settings, pooling="mean")  # "auto" would run it before it is looked at
    before, frozen = weights(model), frozen_state(model)
    assert len(codes(model)) >= 2 * 4
    assert {tensor.dtype for tensor in trained(model).values()} == {torch.float32}
    changes = {"eval_strategy": "steps", "eval_steps": 1, "bf16": mixed}  # in evaluation, 4-bit layers may be packed
    run_trainer(model, tmp_path, trainer_class, trainer={"eval_dataset": labelled_examples()[:4]}, **changes)
    assert_same(frozen_state(model), frozen)
    assert moved(model, before) == trained_names(model)


@WIDTHS
@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_an_adapter_trains_on_quantised_layers(bases, tmp_path, model_type, settings):
    adapter = {"peft_type": "lora", "target_modules": LAYERS[model_type]}
    model = quantised(bases(model_type), settings, peft_config=adapter)
    before, frozen = weights(model), codes(model)
    assert {tensor.dtype for tensor in trained(model).values()} == {torch.float32}
    run_trainer(model, tmp_path / "run")
    assert_same(codes(model), frozen)
    assert moved(model, before) == trained_names(model)
    again = reloaded(model, tmp_path / "delta", base_model_name_or_path=bases(model_type))
    assert torch.equal(outputs(again), outputs(model))


@WIDTHS
def test_what_peft_prepares_keeps_the_policy(bases, tmp_path, settings):
    model = quantised(bases("bert"), settings)
    policy = trained_names(model)
    prepare_model_for_kbit_training(model)  # which freezes all
    with pytest.raises(ValueError, match=r"Nothing would train.*apply_policy\(\)"):
        run_trainer(model, tmp_path)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["query"]))
    assert {name for name in plain(trained_names(wrapped)) if "lora" not in name} == policy
    assert {tensor.dtype for tensor in trained(wrapped).values()} == {torch.float32}
    before = weights(wrapped)
    run_trainer(wrapped, tmp_path, Trainer)
    assert moved(wrapped, before) == trained_names(wrapped)
    other = quantised(bases("bert"), settings)
    prepare_model_for_kbit_training(other).apply_policy()
    run_trainer(other, tmp_path)


def copy_dequantised(model, plain_model):
    """Give `plain_model` the weights that the quantised layers of `model` compute with."""
    functional = pytest.importorskip("bitsandbytes.functional")
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and is_quantized(module.weight):
            if "load_in_4bit" in model.config.base_quantization:
                weight = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            else:
                scale = module.state.SCB if module.weight.SCB is None else module.weight.SCB
                weight = functional.int8_vectorwise_dequant(module.weight.data, scale)
            target = plain_model.get_submodule(path)
            target.weight.data = weight.T if isinstance(target, Conv1D) else weight


@pytest.mark.parametrize("settings", [EIGHT, FOUR | {"bnb_4bit_compute_dtype": "float32"}], ids=["8bit", "4bit"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_gradients_pass_through_quantised_layers(bases, model_type, settings):
    """They are those of the same backbone whose linear layers have the dequantised weights in fp32."""
    fields = {"input_dropout": 0.0, "backbone_dropout": 0.0}
    models = quantised(bases(model_type), settings, **fields), build_seeded(bases(model_type), **fields)
    copy_dequantised(*models)
    for model in models:
        model.train()(input_values=VALUES, labels=torch.tensor([0, 1, 2])).loss.backward()
    gradients = [{name: p.grad for name, p in model.named_parameters() if p.requires_grad} for model in models]
    assert_same(*gradients, rtol=2e-3, atol=2e-5)


@WIDTHS
def test_resumed_equals_uninterrupted(bases, tmp_path, settings):
    def run(settings, folder, resume=None):
        saving = {"save_strategy": "steps", "save_steps": 2}
        return trained(
            run_trainer(quantised(bases("gpt2"), settings), tmp_path / folder, resume=resume, **saving).model
        )

    checkpoint = os.fspath(tmp_path / "whole" / "checkpoint-2")
    assert_same(run(settings, "whole"), run(settings, "half", checkpoint))
    with pytest.raises(DeltaError, match="was trained on a base quantised by"):
        run(DOUBLE, "other", checkpoint)


# The delta


@pytest.mark.parametrize("settings", [EIGHT, FOUR, DOUBLE, STORED], ids=["8bit", "4bit", "double", "bf16 storage"])
@pytest.mark.parametrize("model_type", ["gpt2", *IMAGES])
def test_the_delta_is_that_of_the_plain_base(bases, tmp_path, model_type, settings):
    base, load = bases(model_type), FPTForSequenceClassification.from_pretrained
    model, unquantised = move(quantised(base, settings)), move(build_seeded(base))
    assert model.config.base_model_fingerprint == unquantised.config.base_model_fingerprint
    again = reloaded(model, tmp_path / "quantised", base_model_name_or_path=base)
    unquantised.save_pretrained(tmp_path / "plain")
    assert_same(*(load_file(tmp_path / name / "model.safetensors") for name in ("quantised", "plain")))
    assert_same(codes(again), codes(model))
    assert torch.equal(outputs(again), outputs(model))
    assert again.config.base_quantization == model.config.base_quantization
    without = load(tmp_path / "quantised", base_model_name_or_path=base, quantization_config=False)
    assert not codes(without)
    assert torch.equal(outputs(without), outputs(unquantised))
    assert not torch.equal(outputs(without), outputs(model))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("model_type", ["bert", *IMAGES])  # with and without token embeddings
@WIDTHS
def test_a_delta_comes_back_with_its_dtype(bases, tmp_path, settings, model_type, dtype):
    model = quantised(bases(model_type), settings, dtype=dtype)
    again = reloaded(model, tmp_path, base_model_name_or_path=bases(model_type))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype
    assert_same(codes(again), codes(model))
    assert torch.equal(outputs(again), outputs(model))


@WIDTHS
def test_auto_classes_quantise_a_plain_delta(bases, tmp_path, settings):
    expected = quantised(bases("gpt2"), settings)
    build_seeded(bases("gpt2")).save_pretrained(tmp_path)
    of_base = {"base_model_name_or_path": bases("gpt2")}
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**settings), **of_base
    )
    assert model.config.base_quantization == checked_quantization(settings)
    assert_same(codes(model), codes(expected))
    headless = AutoModel.from_pretrained(tmp_path, quantization_config=settings, **of_base)
    assert isinstance(headless, FPTModel) and len(codes(headless)) == len(codes(model))


@pytest.mark.parametrize("init", ["random", "statistics"])
def test_drawn_weights_are_quantised_and_come_back(bases, tmp_path, init):
    base = None if init == "random" else bases("gpt2")
    model = quantised(base or tiny_config("gpt2"), FOUR, backbone_init=init, backbone_init_seed=3)
    again = reloaded(model, tmp_path, base_model_name_or_path=base)
    assert_same(codes(again), codes(model))
    assert torch.equal(outputs(again), outputs(model))
    if init == "random":
        assert_same(codes(FPTForSequenceClassification(model.config)), codes(model))


@WIDTHS
def test_a_copy_is_whole(bases, settings):
    model = quantised(bases("gpt2"), settings)
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

def build_seeded(base):
    return FPTForSequenceClassification.from_backbone(
        base, quantization_config={"load_in_8bit": True}, input_type="values", input_size=3, sequence_length=10
    )

build_seeded(sys.argv[1])  # imports what it needs
done, seen = False, [anonymous()]
thread = threading.Thread(target=sample)
thread.start()
model = build_seeded(sys.argv[2])
done = True
thread.join()
print(max(seen) - seen[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_the_whole_is_never_in_memory_in_full_precision(bases, tmp_path):
    pytest.importorskip("bitsandbytes")
    AutoModel.from_config(tiny_config("gpt2", n_embd=768, n_layer=4)).save_pretrained(tmp_path)
    megabytes = (tmp_path / "model.safetensors").stat().st_size / 2**20  # in fp32; a quarter in 8 bits
    command = [sys.executable, "-c", MEASURE, os.fspath(bases("gpt2")), os.fspath(tmp_path)]
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
def test_other_methods_are_refused(bases, other):
    with pytest.raises(ValueError, match=r"a transformers.BitsAndBytesConfig.*got the method '(quanto|gptq)'"):
        build_seeded(bases("gpt2"), quantization_config=other)


def test_without_bitsandbytes_it_says_what_to_install(bases, monkeypatch):
    monkeypatch.setattr("fpt_adapters.rules.quantization.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match=r"to 4 bits.*pip install 'fpt_adapters\[quantized\]'.*=False"):
        build_seeded(bases("gpt2"), quantization_config=FOUR)


@pytest.mark.parametrize("group", ["attention", "feedforward", "last_attention"])
def test_quantised_weights_do_not_train(bases, group):
    with pytest.raises(ValueError, match=f"trainable has '{group}', whose weights are quantised"):
        quantised(bases("gpt2"), EIGHT, trainable=["output", group])


def test_an_lstm_has_nothing_to_quantise():
    with pytest.raises(ValueError, match="LSTMModel has none: leave it out"):
        quantised(LSTMConfig(hidden_size=32, num_hidden_layers=2), EIGHT)


def test_a_quantised_backbone_is_no_base(bases, tmp_path):
    with pytest.raises(ValueError, match="is quantised here: load the delta with quantization_config=False"):
        quantised(bases("gpt2"), FOUR).save_backbone(tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_base_that_came_quantised_is_refused(bases, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = BitsAndBytesConfig(**FOUR)
    AutoModel.from_pretrained(bases("gpt2"), quantization_config=settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not quantised"):
        build_seeded(tmp_path)


# Beside it


@WIDTHS
def test_weights_are_counted_as_weights(bases, settings):
    model, unquantised = quantised(bases("gpt2"), settings), build_seeded(bases("gpt2"))
    expected = unquantised.count_parameters()
    assert model.count_parameters() == count_by_group(model, model.parameter_groups()) == expected
    sizes = {name: p.numel() for name, p in unquantised.named_parameters()}
    assert {name: parameter_size(p) for name, p in model.named_parameters()} == sizes


@pytest.mark.parametrize(("settings", "bits"), [(EIGHT, "8"), (FOUR, "4")], ids=["8bit", "4bit"])
def test_the_card_says_it(bases, settings, bits):
    words = describe_base(quantised(bases("gpt2"), settings).config)
    assert f"quantised to {bits} bits by bitsandbytes; its" in words
    assert "quantised" not in describe_base(build_seeded(bases("gpt2")).config)


@pytest.mark.parametrize("flag", ["--load_in_8bit", "--load_in_4bit"])
def test_the_run_script_quantises(bases, tmp_path, monkeypatch, flag):
    pytest.importorskip("bitsandbytes")
    monkeypatch.chdir(tmp_path)
    base = os.fspath(bases("gpt2"))
    shared = "--task_name bit-xor --use_cpu --disable_tqdm true --save_strategy no --max_eval_samples 8 --do_eval"
    new = ["--model_name_or_path", base, *f"--output_dir out --do_train --max_steps 1 {flag}".split()]
    again = [*"--model_name_or_path out --output_dir again".split(), "--base_model_name_or_path", base]
    for arguments in (new, again):
        run_fpt.main([*shared.split(), *arguments])
    saved = json.loads(Path("out/config.json").read_text())["base_quantization"]
    assert saved[flag.removeprefix("--")] is True
    assert saved.get("bnb_4bit_quant_type", "nf4") == "nf4"
    assert saved.get("bnb_4bit_compute_dtype", "bfloat16") == "bfloat16"
    results = [json.loads(Path(folder, "all_results.json").read_text())["eval_loss"] for folder in ("out", "again")]
    assert results[0] == results[1]


def test_the_run_script_takes_one_width():
    both = {"load_in_8bit": True, "load_in_4bit": True}
    arguments = ModelArguments(**both)
    with pytest.raises(ValueError, match="only one"):
        _ = arguments.quantization_config
