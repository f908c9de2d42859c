"""Sharded models: FSDP2 by torch and by accelerate, DeepSpeed where it is installed; what would pass in silence."""

import importlib.util
import json

import pytest
import torch
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from conftest import LAYERS, TINY_BACKBONES, load_script, saved_tensors
from runs import CONFIGS, SCRIPTS, assert_close, assert_same, copied, launch_and_read, losses
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.integrations import deepspeed

from fpt_adapters import FPTForImageClassification, FPTForSequenceClassification, LSTMConfig

FULLY_SHARDED, TRAIN_SHARDED = SCRIPTS / "fully_sharded.py", SCRIPTS / "train_sharded.py"
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not DEEPSPEED, reason="DeepSpeed is not installed")


def assert_answers(model, batch, logits):
    """The model, loaded in one process, answers as it did where it was sharded."""
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, torch.tensor(logits), atol=1e-6, rtol=0)


# torch alone


@pytest.fixture(scope="module")
def by_torch(tmp_path_factory):
    """The folder of two processes that train with `fully_shard`, and the record of the first."""
    folder = tmp_path_factory.mktemp("fully_sharded")
    return folder, launch_and_read(FULLY_SHARDED, folder)[0]


def test_fully_sharded_training_is_that_of_one_process(by_torch):
    folder, record = by_torch
    script = load_script(FULLY_SHARDED)
    model = script.build_model()
    assert record["losses"] == pytest.approx(script.train(model), abs=1e-5)
    assert_close(saved_tensors(folder / "saved", model), copied(model, trained=True))


def test_a_gathered_delta_loads_in_one_process(by_torch):
    folder, record = by_torch
    model = FPTForSequenceClassification.from_pretrained(folder / "saved")
    assert_answers(model, load_script(FULLY_SHARDED).examples(), record["logits"])


def test_a_part_is_not_saved_as_the_whole(by_torch):
    folder, record = by_torch
    assert "spread over processes" in record["refused"]
    assert "accelerator.get_state_dict(model)" in record["refused"]
    assert not (folder / "ungathered").exists()


# accelerate's own sharding


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The Trainer of one process that trained with the whole batch."""
    trainer = load_script(TRAIN_SHARDED).build_trainer(tmp_path_factory.mktemp("alone"), 16, alone=True)
    trainer.train()
    return trainer


@pytest.fixture(
    scope="module",
    params=[
        "fsdp2",
        pytest.param("deepspeed_zero2", marks=[needs_deepspeed, pytest.mark.slow]),
        pytest.param("deepspeed_zero3", marks=[needs_deepspeed, pytest.mark.slow]),
    ],
)
def sharded(request, tmp_path_factory):
    """A back end's name, the folder of two processes that trained and resumed with it, and the first's record."""
    folder = tmp_path_factory.mktemp(request.param)
    config = CONFIGS / f"{request.param}.yaml"
    config = sharding_all(folder) if request.param == "deepspeed_zero3" else config
    return request.param, folder, launch_and_read(TRAIN_SHARDED, folder, config)[0]


def sharding_all(folder):
    """A configuration of ZeRO-3 as in the examples, which would keep parameters as small as these whole."""
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    fields = {name: "auto" for name in ("gradient_accumulation_steps", "train_micro_batch_size_per_gpu")}
    (folder / "zero3.json").write_text(json.dumps({"zero_optimization": zero, **fields}))
    config = yaml.safe_load((CONFIGS / "deepspeed_zero3.yaml").read_text())
    config["deepspeed_config"] = {"deepspeed_config_file": str(folder / "zero3.json"), "zero3_init_flag": False}
    del config["mixed_precision"]  # accelerate takes it from one of the two files alone
    (folder / "zero3.yaml").write_text(yaml.safe_dump(config))
    return folder / "zero3.yaml"


def test_each_back_end_trains_as_one_process(sharded, alone):
    name, _, record = sharded
    assert record["strategy"] == name.partition("_")[0].rstrip("2").upper()
    assert bool(record["sharded"]) == (name != "deepspeed_zero2")
    assert record["losses"] == pytest.approx(losses(alone), abs=1e-4)


def test_each_back_end_writes_the_delta_that_one_process_writes(sharded, alone):
    _, folder, _ = sharded
    one = alone.model.delta_tensors()
    for place in ("whole", "whole/checkpoint-3", "whole/checkpoint-6", "resumed"):
        saved = saved_tensors(folder / place, alone.model)
        assert saved.keys() == one.keys()
        assert all(t.dtype == torch.float32 and t.shape == one[name].shape for name, t in saved.items())
    assert_close(saved_tensors(folder / "whole", alone.model), copied(alone.model, trained=True), atol=1e-4)


def test_the_delta_of_each_back_end_loads_in_one_process(sharded, alone):
    _, folder, record = sharded
    model = FPTForImageClassification.from_pretrained(folder / "whole")
    batch = alone.data_collator([alone.eval_dataset[i] for i in range(16)])
    assert_answers(model, {"pixel_values": batch["pixel_values"]}, record["logits"])
    assert model.config.architectures == ["FPTForImageClassification"]
    assert "FSDP" not in (folder / "whole" / "README.md").read_text()


def test_a_resumed_run_of_each_back_end_is_the_uninterrupted_one(sharded):
    _, folder, _ = sharded
    assert_same(*(load_file(folder / name / "model.safetensors") for name in ("whole", "resumed")))


def test_what_a_run_resumes_from_has_no_copy_of_the_base(sharded, alone):
    def names_in(file):
        state = torch.load(file, weights_only=file.suffix == ".bin")
        return state if file.suffix == ".bin" else [*state["module"], *(state["frozen_param_fragments"] or {})]

    checkpoint = sharded[1] / "whole" / "checkpoint-3"
    states = [*checkpoint.glob("pytorch_model_fsdp.bin"), *checkpoint.rglob("*_model_states.pt")]  # DeepSpeed's
    base = sum(p.nbytes for p in alone.model.parameters() if not p.requires_grad)
    assert base > 2 * sum(file.stat().st_size for file in states)
    assert all(not name.endswith("wte.weight") for file in states for name in names_in(file))


def test_a_sharded_model_is_not_saved_in_parts(sharded):
    name, folder, record = sharded
    if name != "deepspeed_zero2":
        assert "spread over processes" in record["delta"]
        assert "spread over processes" in record["backbone"]
        assert not (folder / "ungathered" / "model.safetensors").exists()


def test_a_base_is_loaded_whole_before_it_is_sharded(sharded):
    name, _, record = sharded
    if name == "fsdp2":
        assert "fsdp_cpu_ram_efficient_loading is on" in record["split loading"]


# DeepSpeed, simulated: a placeholder in each parameter's place, values handed over in half precision


@pytest.fixture
def placeholders(make_model):
    """A model as ZeRO-3 leaves it, and its parameters as they were before."""
    model = make_model("gpt2")
    whole = copied(model)
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_shape = number, parameter.shape
        parameter.data = torch.empty(0)
    return model, whole


def test_a_placeholder_is_no_tensor_to_save(placeholders, tmp_path):
    model, _ = placeholders
    with pytest.raises(ValueError, match=r"projection\.weight is spread over processes"):
        model.save_pretrained(tmp_path / "delta")
    with pytest.raises(ValueError, match="is spread over processes"):
        model.save_backbone(tmp_path / "backbone")
    assert not any(tmp_path.rglob("*.safetensors"))


def test_placeholders_are_counted_by_what_they_stand_for(placeholders, make_model):
    assert placeholders[0].count_parameters() == make_model("gpt2").count_parameters()


def test_values_gathered_in_half_precision_are_saved_in_fp32(placeholders, tmp_path):
    model, whole = placeholders
    model.save_pretrained(tmp_path, state_dict={name: tensor.bfloat16() for name, tensor in whole.items()})
    delta = FPTForSequenceClassification.from_pretrained(tmp_path).delta_tensors()
    assert {tensor.dtype for tensor in delta.values()} == {torch.float32}
    assert_same(delta, {name: whole[name].bfloat16().float() for name in delta})


def test_values_in_fp32_stay_so_though_the_model_was_cast(make_model, tmp_path):
    model = make_model("gpt2")
    whole = copied(model)
    model.bfloat16().save_pretrained(tmp_path, state_dict=whole)
    saved = saved_tensors(tmp_path, model)
    assert_same(saved, {name: whole[name] for name in saved})


# Which modules are sharded one by one


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_every_family_is_wrapped_layer_by_layer(model_type, make_model):
    model = make_model(model_type)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)
    wrapped = list(filter(fsdp2_prepare_auto_wrap_policy(plugin, model), model.modules()))
    assert len(wrapped) >= (1 if model_type == "albert" else LAYERS)  # ALBERT's layers are one
    assert not any(module is model or module is model.fpt for module in wrapped)


BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 100}
BART |= {"encoder_ffn_dim": 64, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "fields", "layer"),
    [
        (AutoConfig.for_model("bart", **BART), {}, "BartEncoderLayer"),  # the decoder was left behind
        (LSTMConfig(hidden_size=8), {"positions": "none", "trainable": ["input", "output"]}, "LSTMLayer"),
    ],
    ids=["bart", "lstm"],
)
def test_only_layers_that_the_backbone_has_are_asked_for(config, fields, layer):
    model = FPTForSequenceClassification.from_backbone(config, backbone_init="random", **FIELDS, **fields)
    assert model._no_split_modules == {layer}


# What would go wrong in silence


def test_fsdp_on_a_cpu_is_refused(make_trainer, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"FSDP shards a model over accelerators, but this runs on a cpu.*DDP"):
        make_trainer()


class Zero3Settings:
    """What DeepSpeed's settings look like to transformers as it loads a model."""

    def is_zero3(self):
        return True


def test_a_base_is_loaded_whole_for_zero3_too(saved_base):
    fingerprint = FPTForSequenceClassification.from_backbone(saved_base, **FIELDS).config.base_model_fingerprint
    settings = Zero3Settings()  # transformers keeps no more than a weak reference
    deepspeed.set_hf_deepspeed_config(settings)
    try:
        model = FPTForSequenceClassification.from_backbone(saved_base, **FIELDS)
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    assert model.config.base_model_fingerprint == fingerprint


@pytest.mark.parametrize("several", [True, False])
def test_a_launch_that_started_one_process_of_several_is_told(several, make_trainer, monkeypatch, warned):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # as accelerate launch --cpu sets it
    if several:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # for --num_processes above 1 alone
    make_trainer()
    assert any("asked for several processes" in message for message in warned.messages) == several
