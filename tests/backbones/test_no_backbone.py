"""The control without a backbone: embeddings go in and come out, and the library treats it as every other backbone."""

import json

import pytest
import torch
from conftest import rewrite_config
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, TrainingArguments

from fpt_adapters import (
    FPTConfig,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
    FPTTrainer,
    IdentityConfig,
    IdentityModel,
)
from fpt_adapters.backbones.fingerprints import fingerprints

WIDTH = 16
CONTROL = {"trainable": ["input", "output"], "positions": "none", "pooling": "mean"}
VALUES = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 2}


def build(model_class=FPTForSequenceClassification, **fields):
    torch.manual_seed(0)
    base = IdentityConfig(hidden_size=WIDTH)
    return model_class.from_backbone(base, backbone_init="random", **(VALUES | CONTROL | fields))


def identity():
    return AutoModel.from_config(IdentityConfig(hidden_size=WIDTH))


# As a transformers model


def test_the_auto_classes_know_it():
    config = AutoConfig.for_model("fpt_identity", hidden_size=WIDTH)
    assert type(config) is IdentityConfig and type(AutoModel.from_config(config)) is IdentityModel


def test_what_goes_in_comes_out():
    model, embeddings = identity(), torch.randn(2, 7, WIDTH, requires_grad=True)
    output = model(inputs_embeds=embeddings, attention_mask=torch.ones(2, 7), output_hidden_states=True)
    assert output.last_hidden_state is embeddings
    assert len(output.hidden_states) == 1 and output.hidden_states[0] is embeddings
    assert model(embeddings).hidden_states is None
    assert model(embeddings, return_dict=False) == (embeddings,)
    with pytest.raises(ValueError, match="no attentions: leave output_attentions out"):
        model(embeddings, output_attentions=True)


def test_it_has_a_place_and_a_kind_though_no_parameter():
    model = identity()
    assert list(model.parameters()) == [] and model.num_parameters() == 0
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    model.to("meta", torch.bfloat16)
    assert (model.device, model.dtype) == (torch.device("meta"), torch.bfloat16)


def test_it_is_saved_and_loaded_as_every_model(tmp_path):
    identity().save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is IdentityModel and loaded.config.hidden_size == WIDTH
    assert not any(info.values())
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)


def test_there_is_nothing_to_tell_two_apart_by():
    assert fingerprints(identity()) == fingerprints(identity().to(torch.bfloat16))
    assert len({build(backbone_init_seed=seed).config.base_model_fingerprint for seed in (0, 1)}) == 1


# As a backbone


@torch.no_grad()
def test_the_answer_is_the_head_of_the_mean_projection():
    model, values = build().eval(), torch.randn(2, 7, 3)
    projection = model.fpt.input_projection.projection
    expected = model.head(projection(values).mean(dim=1))
    torch.testing.assert_close(model(input_values=values).logits, expected)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]])
    got = model(input_values=values, attention_mask=mask).logits
    expected = torch.stack([projection(values[0, :5]).mean(dim=0), projection(values[1, 3:]).mean(dim=0)])
    torch.testing.assert_close(got, model.head(expected))


def test_only_the_new_modules_have_parameters():
    rows = {row.group: (row.parameters, row.percent, row.trained) for row in build().count_parameters()}
    share = 100 * (4 * WIDTH) / (4 * WIDTH + 2 * (WIDTH + 1))
    assert rows == {"input": (4 * WIDTH, share, True), "output": (2 * (WIDTH + 1), 100 - share, True)}
    rows = build(positions="auto", trainable=["input", "output", "position"]).count_parameters()
    assert {row.group: row.parameters for row in rows}["position"] == 10 * WIDTH


@pytest.mark.parametrize("group", ["norm", "attention", "feedforward", "recurrent"])
def test_a_group_that_it_lacks_is_refused(group):
    with pytest.raises(ValueError, match=f"IdentityModel has no {group} parameters: leave '{group}' out"):
        build(trainable=["input", "output", group])


def test_there_is_nothing_to_checkpoint_in_it():
    model = build()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    with pytest.raises(ValueError, match="cannot checkpoint the layers of IdentityModel"):
        enable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_trains_is_fp32_whatever_is_asked(dtype):
    model = build(dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(input_values=torch.randn(2, 7, 3)).logits.dtype == torch.float32


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_any_choice_of_attention_is_honoured_by_having_none(attention):
    assert type(build(FPTModel, attn_implementation=attention).backbone) is IdentityModel


@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification, FPTModel])
@torch.no_grad()
def test_its_delta_gives_the_same_bits(model_class, tmp_path):
    model = build(model_class).eval()
    model.save_pretrained(tmp_path)
    loaded, inputs = model_class.from_pretrained(tmp_path), torch.randn(2, 7, 3)
    assert torch.equal(loaded(input_values=inputs)[0], model(input_values=inputs)[0])
    assert not [name for name in model.delta_tensors() if "backbone" in name]


def test_a_models_own_configuration_builds_another():
    model = build(FPTModel)
    assert type(FPTModel(model.config).backbone) is IdentityModel
    assert FPTModel(model.config).config._attn_implementation == model.config._attn_implementation == "fpt"


def test_a_saved_one_is_a_base_too(tmp_path):
    identity().save_pretrained(tmp_path / "base")
    model = FPTForSequenceClassification.from_backbone(tmp_path / "base", **VALUES, **CONTROL)
    model.save_pretrained(tmp_path / "delta")
    loaded = FPTForSequenceClassification.from_pretrained(
        tmp_path / "delta", base_model_name_or_path=tmp_path / "base"
    )
    assert loaded.config.backbone_init == "pretrained" and type(loaded.fpt.backbone) is IdentityModel


def test_it_trains_and_comes_back_by_the_auto_class(tmp_path):
    values = torch.randn(64, 10, 3, generator=torch.Generator().manual_seed(0))
    labels = (values.mean(dim=(1, 2)) > 0).long()
    examples = [{"input_values": v, "labels": label} for v, label in zip(values, labels, strict=True)]
    arguments = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=16,
        max_steps=40,
        learning_rate=1e-1,
        logging_steps=1,
        save_steps=40,
    )
    model = build(input_dropout=0.0)
    trainer = FPTTrainer(model, arguments, train_dataset=examples)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] > 0.6 and losses[-1] < 0.3
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-40")
    with torch.no_grad():
        assert torch.equal(loaded(input_values=values).logits, model.eval()(input_values=values).logits)
    resumed = FPTTrainer(build(input_dropout=0.0), arguments, train_dataset=examples)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(resumed.model.head.weight, model.head.weight)


# Wrong settings


@pytest.mark.parametrize("hidden_size", [0, -1, -(2**40), 1.5, "768", None])
def test_a_wrong_width_is_refused(hidden_size):
    with pytest.raises(StrictDataclassError, match="hidden_size"):
        IdentityConfig(hidden_size=hidden_size)


@pytest.mark.parametrize(
    "hidden_size, words",
    [
        (2**40, "hidden_size=1099511627776"),
        (-(2**40), "hidden_size=-1099511627776"),
        (-16, "hidden_size is a whole number of at least 1"),
    ],
)
def test_a_delta_cannot_ask_for_an_absurd_width(hidden_size, words, tmp_path):
    build().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    values["base_model_config"]["hidden_size"] = hidden_size
    rewrite_config(tmp_path, values)
    for load in (FPTForSequenceClassification.from_pretrained, FPTConfig.from_pretrained):
        with pytest.raises((ValueError, StrictDataclassError), match=words):
            load(tmp_path)


def test_new_modules_larger_than_memory_are_refused_before_they_are_built():
    base = IdentityConfig(hidden_size=2**24)
    with pytest.raises(ValueError, match="new modules are larger than this machine's memory"):
        FPTForSequenceClassification.from_backbone(
            base, backbone_init="random", **(VALUES | CONTROL | {"sequence_length": 2**20})
        )
