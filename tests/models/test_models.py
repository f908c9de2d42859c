"""The models: outputs, losses, wrong inputs, pooling, patching, initialisation, half precision, checkpointing."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from conftest import LAYERS, TINY_BACKBONES, TRANSFORMER_GROUPS, VOCABULARY, WIDTH, tiny_config
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_outputs import (
    BaseModelOutput,
    ImageClassifierOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from fpt_adapters import (
    FPTConfig,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
)
from fpt_adapters.heads.problems import classification_loss
from fpt_adapters.heads.sequence import pool

NO_VALUES = {"input_size": None, "sequence_length": None}
VALUES = {"input_type": "values", "input_size": 3, "sequence_length": 10}
TOKENS = {"input_type": "tokens", "input_size": None, "vocab_size": 12, "pad_token_id": 0}
IMAGES = NO_VALUES | {"input_type": "images", "image_size": 8, "num_channels": 3, "patch_size": 4}
SERIES = NO_VALUES | {
    "input_type": "series", "series_length": 20, "num_channels": 2, "patch_length": 4, "patch_stride": 3
}  # fmt: skip
INPUTS = {"values": VALUES, "tokens": TOKENS, "images": IMAGES, "series": SERIES}
NO_DROPOUT = {"input_dropout": 0.0, "backbone_dropout": 0.0}


def example(input_type, batch=2, seed=0):
    """A batch of an input type, for the shapes above."""
    generator = torch.Generator().manual_seed(seed)
    if input_type == "tokens":
        return {"input_ids": torch.randint(1, 12, (batch, 10), generator=generator)}
    if input_type == "images":
        return {"pixel_values": torch.randn(batch, 3, 8, 8, generator=generator)}
    size = (batch, 20, 2) if input_type == "series" else (batch, 10, 3)
    return {"input_values": torch.randn(size, generator=generator)}


TOKEN_COUNT = {"values": 10, "tokens": 10, "images": 4, "series": 7}


# Outputs


@pytest.mark.parametrize("input_type", INPUTS)
def test_every_input_type_passes_every_head(make_model, input_type):
    batch, tokens = example(input_type), TOKEN_COUNT[input_type]
    output = make_model("gpt2", FPTModel, **INPUTS[input_type])(**batch)
    assert type(output) is BaseModelOutput
    assert output.last_hidden_state.shape == (2, tokens, WIDTH)
    output = make_model("gpt2", **INPUTS[input_type])(**batch)
    assert type(output) is SequenceClassifierOutput
    assert output.logits.shape == (2, 4) and output.loss is None
    output = make_model("gpt2", FPTForTokenClassification, **INPUTS[input_type])(**batch)
    assert type(output) is TokenClassifierOutput
    assert output.logits.shape == (2, tokens, 4) and output.loss is None


def test_images_have_a_head_of_their_own(make_model):
    output = make_model("gpt2", FPTForImageClassification, **IMAGES)(**example("images"), labels=torch.tensor([0, 3]))
    assert type(output) is ImageClassifierOutput
    assert output.logits.shape == (2, 4) and output.loss.shape == ()
    with pytest.raises(ValueError, match="FPTForImageClassification needs input_type='images', got 'values'"):
        make_model("gpt2", FPTForImageClassification)


def test_a_token_carries_one_label_or_several(make_model):
    batch = example("values")
    several = make_model("gpt2", FPTForTokenClassification, labels_per_token=5, num_labels=2)
    assert several(**batch).logits.shape == (2, 10, 5, 2)
    assert several.head.out_proj.out_features == 10
    labels = torch.randint(0, 2, (2, 10, 5))
    labels[:, :4] = -100
    output = several.eval()(**batch, labels=labels)
    reference = F.cross_entropy(output.logits[:, 4:].reshape(-1, 2), labels[:, 4:].reshape(-1))
    torch.testing.assert_close(output.loss, reference)
    flat = several.head.out_proj(several.fpt(**batch).last_hidden_state)
    torch.testing.assert_close(output.logits[..., 3, 1], flat[..., 3 * 2 + 1])


BUILDERS = {
    "the constructor": lambda config, folder: FPTForSequenceClassification(config),
    "from_config": lambda config, folder: AutoModel.from_config(config),
    "from_backbone": lambda config, folder: FPTModel.from_backbone(
        config.base_model_config, config, peft_config="lora"
    ),
    "from_pretrained": lambda config, folder: FPTModel.from_pretrained(folder, config=config, dtype="bfloat16"),
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_configuration_given_stays_as_it_is(builder, make_model, tmp_path):
    config = FPTConfig(base_model_config=tiny_config("gpt2"), backbone_init="random", num_labels=1, **VALUES)
    if builder == "from_pretrained":
        make_model("gpt2").save_pretrained(tmp_path)
        config = FPTConfig.from_pretrained(tmp_path)
    before, attention = config.to_dict(), config._attn_implementation
    model = BUILDERS[builder](config, tmp_path)
    assert (config.to_dict(), config._attn_implementation) == (before, attention)
    assert model.config is not config and model.config.base_model_fingerprint


@pytest.mark.parametrize("model_class", [FPTModel, FPTForSequenceClassification, FPTForTokenClassification])
def test_hidden_states_and_attentions_on_request(make_model, model_class):
    model = make_model("gpt2", model_class).eval()
    batch = example("values")
    assert model(**batch).hidden_states is None and model(**batch).attentions is None
    output = model(**batch, output_hidden_states=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 10, WIDTH)] * (LAYERS + 1)
    last = model(**batch).last_hidden_state if model_class is FPTModel else model.fpt(**batch).last_hidden_state
    torch.testing.assert_close(output.hidden_states[-1], last)
    model.config.output_hidden_states = True
    assert len(model(**batch).hidden_states) == LAYERS + 1


@pytest.mark.parametrize("kept", [[0], [1, -1], [-LAYERS - 1], 0, -1, (0, 1, 2)], ids=str)
@pytest.mark.parametrize("model_class", [FPTModel, FPTForSequenceClassification])
@pytest.mark.parametrize("model_type", ["gpt2", "t5", *(name for name in TINY_BACKBONES if name == "vit")])
def test_some_hidden_states_on_request(make_model, model_type, model_class, kept):
    model, batch = make_model(model_type, model_class).eval(), example("values")
    every = model(**batch, output_hidden_states=True).hidden_states
    some = model(**batch, output_hidden_states=kept).hidden_states
    numbers = [number % len(every) for number in ([kept] if isinstance(kept, int) else kept)]
    assert [number for number, state in enumerate(some) if state is not None] == sorted(numbers)
    assert all(torch.equal(some[number], every[number]) for number in numbers)
    model.config.output_hidden_states = True
    assert model(**batch, output_hidden_states=False).hidden_states is None


def test_a_hidden_state_that_is_not_there_is_refused(make_model):
    with pytest.raises(ValueError, match=r"There are 3 hidden states: .*from 0 to 2, .*-3 to -1; got 3"):
        make_model("gpt2")(**example("values"), output_hidden_states=[0, 3])


@pytest.mark.parametrize("trainable", [["input", "output"], ["output"]])
def test_the_vocabulary_can_be_resized(make_model, tmp_path, trainable):
    fields = {"input_type": "tokens", "input_size": None, "vocab_size": 9, "trainable": trainable}
    model = make_model("bert", **fields).eval()
    ids = torch.arange(9).repeat(2, 1)
    before = model(input_ids=ids).logits
    table = model.resize_token_embeddings(12)
    assert model.get_input_embeddings() is table and model.config.vocab_size == 12
    assert table.weight.requires_grad == ("input" in trainable)
    torch.testing.assert_close(model(input_ids=ids).logits, before)
    model.save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids=ids + 3).logits, model(input_ids=ids + 3).logits)
    loaded.set_input_embeddings(nn.Embedding(5, WIDTH))
    loaded.save_pretrained(tmp_path)
    assert FPTForSequenceClassification.from_pretrained(tmp_path).config.vocab_size == 5
    with pytest.raises(TypeError, match="Embedding"):
        make_model("bert").resize_token_embeddings(12)


def test_attentions_are_those_of_an_eager_backbone(make_model):
    model = make_model("gpt2", FPTForSequenceClassification, attn_implementation="eager").eval()
    output = model(**example("values"), output_attentions=True)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 2, 10, 10)] * LAYERS
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(2, 2, 10))
    assert make_model("gpt2").eval()(**example("values")).attentions is None


@pytest.mark.parametrize("model_class", [FPTModel, FPTForSequenceClassification])
def test_a_tuple_on_request(make_model, model_class):
    model = make_model("gpt2", model_class).eval()
    batch = example("values")
    output = model(**batch, return_dict=False)
    assert isinstance(output, tuple) and len(output) == 1
    torch.testing.assert_close(output[0], model(**batch)[0])
    model.config.return_dict = False
    assert isinstance(model(**batch), tuple)


# Losses


@pytest.mark.parametrize("num_labels", [2, 5])
def test_the_loss_of_a_sequence_is_cross_entropy(make_model, num_labels):
    model = make_model("gpt2", num_labels=num_labels).eval()
    labels = torch.tensor([1, 0, -100])
    output = model(**example("values", 3), labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[:2], labels[:2]))
    output.loss.backward()


def test_the_loss_of_tokens_leaves_unlabelled_ones_out(make_model):
    model = make_model("bert", FPTForTokenClassification).eval()
    labels = torch.arange(20).reshape(2, 10) % 4
    labels[0, :7] = -100
    output = model(**example("values"), labels=labels)
    kept = labels != -100
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[kept], labels[kept]))


def test_the_loss_by_problem_type(make_model):
    batch = example("values", 3)
    multi = make_model("gpt2", problem_type="multi_label_classification").eval()
    labels = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]])
    output = multi(**batch, labels=labels)
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, labels.float()))
    one = make_model("gpt2", problem_type="regression", num_labels=1).eval()
    targets = torch.tensor([0.5, -2.0, 3.0])
    output = one(**batch, labels=targets)
    reference = ((output.logits[:, 0] - targets) ** 2).mean()
    torch.testing.assert_close(output.loss, reference)
    torch.testing.assert_close(one(**batch, labels=targets[:, None]).loss, reference)
    several = make_model("gpt2", problem_type="regression", num_labels=2).eval()
    targets = torch.randn(3, 2)
    output = several(**batch, labels=targets)
    torch.testing.assert_close(output.loss, F.mse_loss(output.logits, targets))
    single = make_model("gpt2", problem_type="single_label_classification").eval()
    labels = torch.tensor([0, 3, 1])
    torch.testing.assert_close(
        single(**batch, labels=labels).loss, F.cross_entropy(single(**batch).logits, labels)
    )  # fmt: skip


@pytest.mark.parametrize(
    "num_labels, labels", [(1, [6, 0]), (1, [0.5, 2.0]), (3, [2, 0]), (3, [[0.0, 1, 1], [1, 0, 1]])]
)
def test_the_problem_is_found_as_transformers_finds_it(make_model, num_labels, labels):
    model, labels = make_model("gpt2", num_labels=num_labels).eval(), torch.tensor(labels)
    before = model.config.to_dict()
    output = model(**example("values", 2), labels=labels)
    floats = labels.float() if num_labels == 1 else labels  # which transformers' loss wants from its caller
    expected = ForSequenceClassificationLoss(floats, output.logits, copy.deepcopy(model.config))
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(classification_loss(output.logits, labels, None), expected)
    assert model.config.to_dict() == before and before["problem_type"] == ("regression" if num_labels == 1 else None)


def test_a_head_of_one_number_is_saved_as_a_regression(make_model, tmp_path):
    make_model("gpt2", num_labels=1).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "regression"
    one_label = make_model("gpt2", num_labels=1, problem_type="multi_label_classification")
    assert one_label.config.problem_type == "multi_label_classification"


def targets(problem_type, shape):
    """Labels of each kind for logits of `shape`, the second of them not labelled."""
    if problem_type is None:
        labels = torch.randint(0, shape[-1], shape[:-1])
    elif problem_type == "regression":
        labels = torch.randn(shape)
    else:
        labels = torch.randint(0, 2, shape).float()
    labels.view(-1)[1] = -100
    return labels


PROBLEMS = pytest.mark.parametrize("problem_type", [None, "multi_label_classification", "regression"])
HEADS = pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification])


@PROBLEMS
@HEADS
def test_parts_of_a_batch_add_up_to_its_loss(make_model, problem_type, model_class):
    model = make_model("gpt2", model_class, problem_type=problem_type).eval()
    batch = example("values", 4)
    labels = targets(problem_type, (4, 10, 4) if model_class is FPTForTokenClassification else (4, 4))
    count = (labels != -100).sum()
    whole = model(**batch, labels=labels)
    parts = [
        model(input_values=batch["input_values"][rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole.loss)
    torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=int(count)).loss, whole.loss)


@PROBLEMS
@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 5, 2, 4)])
def test_what_is_not_labelled_is_left_out_of_the_loss(problem_type, shape):
    logits, labels = torch.randn(shape, requires_grad=True), targets(problem_type, shape)
    labels[1] = -100
    loss = classification_loss(logits, labels, problem_type)
    (gradient,) = torch.autograd.grad(loss, logits)
    kept = labels != -100
    plain = {"regression": F.mse_loss, None: F.cross_entropy}.get(problem_type, F.binary_cross_entropy_with_logits)
    torch.testing.assert_close(loss, plain(logits[kept], labels[kept]))
    assert not gradient[~kept].any() and gradient[kept].any()


@pytest.mark.parametrize(
    "problem_type, shape, labels",
    [
        (None, (2, 5, 4), torch.zeros(5, 2, dtype=torch.long)),
        (None, (2, 4), torch.zeros(2, 4, dtype=torch.long)),
        (None, (2, 4), torch.zeros(2)),  # floats: several labels at once
        ("multi_label_classification", (2, 4), torch.zeros(2, dtype=torch.long)),
        ("multi_label_classification", (2, 4), torch.zeros(4, 2)),
        ("regression", (2, 4), torch.zeros(2)),
        ("regression", (2, 5, 1), torch.zeros(5, 2)),
    ],
)
def test_labels_of_another_shape_are_refused(problem_type, shape, labels):
    with pytest.raises(ValueError, match=re.escape(str(tuple(labels.shape))) + r" \(torch.* problem_type says which"):
        classification_loss(torch.randn(shape), labels, problem_type)


def test_classes_that_are_floats_are_refused():
    with pytest.raises(
        ValueError, match=r"Classes are whole numbers, but these labels are torch.float32: write labels\.l"
    ):
        classification_loss(torch.randn(2, 4), torch.tensor([0.0, 1.5]), "single_label_classification")


def test_labels_may_have_any_type_that_holds_them_exactly():
    logits = torch.randn(3, 2)
    expected = classification_loss(logits, torch.tensor([1, 0, 1]), None)
    for dtype in (torch.int32, torch.uint8, torch.bool):
        assert classification_loss(logits, torch.tensor([1, 0, 1]).to(dtype), None) == expected
    several = torch.tensor([[1, 0], [0, 0], [1, 1]])
    expected = classification_loss(logits, several, "multi_label_classification")
    for dtype in (torch.bool, torch.float64):
        assert classification_loss(logits, several.to(dtype), "multi_label_classification") == expected


@PROBLEMS
@HEADS
@pytest.mark.parametrize("num_items_in_batch", [None, 0, torch.tensor(0)])
def test_the_loss_over_nothing_is_zero_and_changes_nothing(make_model, problem_type, model_class, num_items_in_batch):
    model = make_model("gpt2", model_class, problem_type=problem_type)
    labels = targets(problem_type, (4, 10, 4) if model_class is FPTForTokenClassification else (4, 4))
    labels[:] = -100
    loss = model(**example("values", 4), labels=labels, num_items_in_batch=num_items_in_batch).loss
    loss.backward()
    assert loss == 0
    for name, parameter in model.named_parameters():  # DDP wants one of each that trains
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or not parameter.grad.any(), name


def test_the_loss_is_taken_in_fp32():
    logits = torch.randn(64, 10).bfloat16()
    labels = torch.randint(0, 10, (64,))
    for problem_type, targets in ((None, labels), ("regression", logits.float() + 0.5)):
        loss = classification_loss(logits, targets, problem_type)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, classification_loss(logits.float(), targets, problem_type))


# Wrong inputs


@pytest.mark.parametrize(
    "input_type, given, words",
    [
        ("values", {"input_ids": torch.ones(1, 3, dtype=torch.long)}, ["'values' takes input_values", "input_ids"]),
        ("values", {}, ["'values' takes input_values", "none"]),
        ("values", {"input_values": torch.ones(1, 10, 4)}, ["input_size=3", "(1, 10, 4)"]),
        ("values", {"input_values": torch.ones(1, 10)}, ["input_size=3", "(1, 10)"]),
        (
            "values",
            {"input_values": torch.ones(1, 3, 10)},
            ["(1, 3, 10): the 3 come before", "values.transpose(1, 2)"],
        ),
        ("values", {"input_values": torch.ones(1, 11, 3)}, ["11 tokens", "at most 10"]),
        ("tokens", {"input_values": torch.ones(1, 3, 3)}, ["'tokens' takes input_ids", "input_values"]),
        ("tokens", {"input_ids": torch.ones(1, 11, dtype=torch.long)}, ["11 tokens", "at most 10"]),
        ("images", {"input_values": torch.ones(1, 3, 3)}, ["'images' takes pixel_values", "input_values"]),
        ("images", {"pixel_values": torch.ones(1, 3, 8, 12)}, ["(batch, 3, 8, 8)", "(1, 3, 8, 12)", "resize"]),
        ("images", {"pixel_values": torch.ones(1, 1, 8, 8)}, ["(batch, 3, 8, 8)", "(1, 1, 8, 8)"]),
        (
            "images",
            {"pixel_values": torch.ones(1, 8, 8, 3)},
            ["(1, 8, 8, 3): the channels come last", "permute(0, 3"],
        ),
        ("images", {"pixel_values": torch.ones(3, 8, 8)}, ["(batch, 3, 8, 8)", "(3, 8, 8)"]),
        ("series", {"input_values": torch.ones(1, 20, 3)}, ["num_channels=2", "(1, 20, 3)"]),
        (
            "series",
            {"input_values": torch.ones(1, 2, 20)},
            ["(1, 2, 20): the 2 come before the steps", "transpose(1, 2)"],
        ),
        ("series", {"input_values": torch.ones(1, 0, 2)}, ["no steps: give at least one"]),
        ("series", {"input_values": torch.ones(1, 20)}, ["num_channels=2", "(1, 20)"]),
        ("series", {"input_values": torch.ones(1, 24, 2)}, ["8 tokens", "at most 7"]),
        (
            "images",
            {"pixel_values": torch.ones(1, 3, 8, 8), "input_values": torch.ones(1, 10, 3)},
            ["'images' takes pixel_values", "pixel_values, input_values"],
        ),
    ],
)
@pytest.mark.parametrize("model_class", [FPTModel, FPTForSequenceClassification])
def test_a_wrong_input_is_named_with_what_was_expected(make_model, model_class, input_type, given, words):
    with pytest.raises(ValueError) as error:
        make_model("gpt2", model_class, **INPUTS[input_type])(**given)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "model_class, name",
    [
        (FPTModel, "input_values"),
        (FPTModel, "attention_mask"),
        (FPTForSequenceClassification, "input_values"),
        (FPTForSequenceClassification, "labels"),
        (FPTForSequenceClassification, "head_inputs"),
    ],
)
@pytest.mark.parametrize("convert", [torch.Tensor.tolist, np.asarray])
def test_lists_and_arrays_are_refused_by_name(make_model, model_class, name, convert):
    given = example("values") | {name: convert(torch.ones(2, 10, 3))}
    with pytest.raises(TypeError, match=rf"{name} is a tensor, got (list|ndarray): write torch.as_tensor\({name}\)"):
        make_model("gpt2", model_class)(**given)


@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification])
@pytest.mark.parametrize("input_type", ["values", "series"])
def test_what_lies_under_the_mask_changes_nothing(make_model, input_type, model_class):
    model = make_model("bert", model_class, **INPUTS[input_type]).eval()
    batch = example(input_type)
    batch["attention_mask"] = torch.ones(batch["input_values"].shape[:2])
    batch["attention_mask"][0, 4:] = 0
    results = []
    for content in (0.0, math.nan, math.inf):
        batch["input_values"][0, 4:] = content
        results.append(model(**batch).logits)
        assert results[-1].isfinite().all() and torch.equal(results[-1], results[0])


# Pooling


def naive_pool(hidden, mask, pooling):
    rows = []
    for states, real in zip(hidden, mask.bool(), strict=True):
        tokens = [state for state, keep in zip(states, real, strict=True) if keep]
        rows.append({"last": tokens[-1], "first": tokens[0], "mean": sum(tokens) / len(tokens)}[pooling])
    return torch.stack(rows)


MASKS = {
    "right": [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    "left": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "both": [[0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0]],
}


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32])
@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_pooling_equals_a_loop_over_real_tokens(pooling, side, dtype):
    hidden, mask = torch.randn(3, 5, 6), torch.tensor(MASKS[side])
    torch.testing.assert_close(pool(hidden, mask.to(dtype), pooling), naive_pool(hidden, mask, pooling))


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_pooling_without_a_mask_reads_all(pooling):
    hidden = torch.randn(3, 5, 6)
    torch.testing.assert_close(pool(hidden, None, pooling), naive_pool(hidden, torch.ones(3, 5), pooling))


@pytest.mark.parametrize("pooling", ["last", "first"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_pooling_finds_the_token_in_long_half_precision_sequences(pooling, dtype):
    tokens = 3000
    hidden = torch.arange(tokens, dtype=torch.float32).expand(12, tokens)[..., None]
    hidden = torch.cat([hidden // 64, hidden % 64], dim=-1).to(dtype)  # (12, tokens, 2): exact in every dtype
    lengths = torch.tensor([1, 255, 257, 258, 259, 513, 1023, 1025, 2049, 2051, 2999, 3000])
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    if pooling == "first":
        mask = mask.flip(1)
    expected = lengths - 1 if pooling == "last" else tokens - lengths
    pooled = pool(hidden, mask, pooling).long()
    torch.testing.assert_close(pooled[:, 0] * 64 + pooled[:, 1], expected)


def test_the_head_reads_the_pooled_states(make_model):
    mask = torch.tensor([[1] * 10, [1] * 4 + [0] * 6])
    for pooling in ("last", "first", "mean"):
        model = make_model("gpt2", pooling=pooling).eval()
        hidden = model.fpt(**example("values"), attention_mask=mask).last_hidden_state
        logits = model(**example("values"), attention_mask=mask).logits
        torch.testing.assert_close(logits, model.head(naive_pool(hidden, mask, pooling)))


# Patching


def module_for(**fields):
    config = FPTConfig(**{k: v for k, v in fields.items() if v is not None})
    return config.input.build(config, WIDTH)


@pytest.mark.parametrize("height, width, p, channels", [(8, 8, 4, 3), (4, 12, 4, 1), (6, 4, 2, 2), (3, 5, 1, 3)])
def test_image_patches_equal_a_loop(height, width, p, channels):
    module = module_for(input_type="images", image_size=[height, width], num_channels=channels, patch_size=p)
    images = torch.randn(2, channels, height, width)
    encoded = module.to_tokens(images, None)
    patches = encoded.states
    assert encoded.mask is None and patches.shape == (2, (height // p) * (width // p), p * p * channels)
    for b in range(2):
        token = 0
        for top in range(0, height, p):
            for left in range(0, width, p):
                expected = [
                    images[b, c, top + y, left + x].item() for y in range(p) for x in range(p) for c in range(channels)
                ]
                assert patches[b, token].tolist() == expected
                token += 1


SHAPES = [(20, 4, 3, 2), (20, 4, 4, 2), (20, 4, 2, 1), (19, 4, 3, 2), (17, 5, 4, 3), (3, 4, 2, 2), (4, 4, 1, 1)]


def series_module(steps, length, stride, channels):
    fields = {"num_channels": channels, "patch_length": length, "patch_stride": stride}
    return module_for(input_type="series", series_length=max(steps, 20), **fields)


def naive_patches(series, length, stride):
    """Patches of one series (steps, channels), channel by channel, until no step is left; the end is zeros."""
    steps, channels = series.shape
    patches, start = [], 0
    while True:
        patches.append(
            [series[t, c].item() if t < steps else 0.0 for c in range(channels) for t in range(start, start + length)]
        )
        if start + length >= steps:
            return torch.tensor(patches)
        start += stride


@pytest.mark.parametrize("steps, length, stride, channels", SHAPES)
def test_series_patches_equal_a_loop(steps, length, stride, channels):
    module = series_module(steps, length, stride, channels)
    series = torch.randn(2, steps, channels)
    encoded = module.to_tokens(series, None)
    patches, mask = encoded.states, encoded.mask
    assert mask is None
    assert torch.equal(patches, torch.stack([naive_patches(one, length, stride) for one in series]))
    assert patches.shape[1] <= module.config.num_tokens


@pytest.mark.parametrize("real", [1, 3, 4, 5, 7, 10, 19, 20])
@pytest.mark.parametrize("length, stride", [(4, 4), (4, 3), (4, 1), (5, 2)])
def test_a_padded_series_has_the_patches_of_the_series_alone(length, stride, real):
    module = series_module(20, length, stride, 2)
    series = torch.randn(1, 20, 2)
    mask = (torch.arange(20) < real).long()[None]
    encoded = module.to_tokens(series, mask)
    patches, token_mask = encoded.states, encoded.mask
    alone = naive_patches(series[0, :real], length, stride)
    assert token_mask.shape == patches.shape[:2]
    assert token_mask.sum().item() == len(alone)
    assert torch.equal(patches[0, : len(alone)], alone)
    assert token_mask[0, : len(alone)].all()


def test_a_full_mask_is_no_mask():
    for shape in SHAPES:
        module = series_module(*shape)
        series = torch.randn(2, shape[0], shape[3])
        encoded = module.to_tokens(series, torch.ones(2, shape[0], dtype=torch.long))
        patches, mask = encoded.states, encoded.mask
        assert torch.equal(patches, module.to_tokens(series, None).states)
        assert mask.all()


@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
@pytest.mark.parametrize("stride", [2, 4])
def test_padding_a_series_changes_nothing(make_model, model_type, stride):
    model = make_model(model_type, **SERIES | {"patch_stride": stride}).eval()
    alone = torch.randn(2, 9, 2)
    for content in (0.0, 50.0):
        padded = torch.full((2, 20, 2), content)
        padded[:, :9] = alone
        mask = (torch.arange(20) < 9).long().expand(2, 20)
        with torch.no_grad():
            got, expected = model(input_values=padded, attention_mask=mask), model(input_values=alone)
        torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_one_channel_may_be_left_out_of_the_shape(make_model):
    model = make_model("gpt2", **SERIES | {"num_channels": 1}).eval()
    series, mask = torch.randn(2, 20), (torch.arange(20) < 12).long().expand(2, 20)
    for given in (None, mask):
        flat = model(input_values=series, attention_mask=given).logits
        torch.testing.assert_close(flat, model(input_values=series[..., None], attention_mask=given).logits)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_of_any_dtype_mean_the_same(make_model, dtype):
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, 8:] = 0
    for model_type in ("gpt2", "bert"):
        model = make_model(model_type, **SERIES).eval()
        with torch.no_grad():
            expected = model(**example("series"), attention_mask=mask).logits
            got = model(**example("series"), attention_mask=mask.to(dtype)).logits
        torch.testing.assert_close(got, expected)


def test_padding_ids_are_masked_where_no_mask_is_given(make_model):
    model = make_model("bert", **TOKENS).eval()
    ids = torch.tensor([[3, 4, 5, 0, 0, 0]])
    with torch.no_grad():
        expected = model(input_ids=ids[:, :3]).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
        torch.testing.assert_close(model(input_ids=ids, attention_mask=(ids != 0).long()).logits, expected)
        seen = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert not torch.allclose(seen, expected)
        plain = make_model("bert", **TOKENS | {"pad_token_id": None}).eval()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(plain(input_ids=ids).logits, seen)


# Initialisation


@pytest.mark.parametrize("input_type", ["values", "images", "series"])
def test_projections_are_orthogonal_with_the_papers_gain(make_model, input_type):
    layer = make_model("gpt2", **INPUTS[input_type]).fpt.input_projection.projection
    weight = layer.weight.detach()
    small = min(weight.shape)
    gram = weight.T @ weight if weight.shape[1] == small else weight @ weight.T
    torch.testing.assert_close(gram, 1.41**2 * torch.eye(small), rtol=1e-4, atol=1e-5)
    assert not layer.bias.any()


def test_token_embeddings_are_standard_normal(make_model):
    table = make_model("gpt2", **TOKENS | {"vocab_size": 500}).fpt.input_projection.embedding.weight.detach()
    assert abs(table.mean()) < 0.02 and abs(table.std() - 1) < 0.02
    assert table[0].abs().mean() > 0.5  # the padding's row is drawn as well


@pytest.mark.parametrize("input_type", INPUTS)
@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_dropout_follows_the_input(make_model, input_type, probability):
    changes = {} if probability == 0.1 else {"input_dropout": probability}
    module = make_model("gpt2", **INPUTS[input_type] | changes).fpt.input_projection
    batch = next(iter(example(input_type, batch=60).values()))
    torch.manual_seed(0)
    dropped, whole = module.train()(batch).states, module.eval()(batch).states
    zeros = dropped == 0
    assert zeros.float().mean().item() == pytest.approx(probability, abs=0.02)
    torch.testing.assert_close(dropped[~zeros], whole[~zeros] / (1 - probability), rtol=1e-4, atol=0)


def test_new_positions_start_at_zero_and_are_added(make_model):
    model = make_model("llama", FPTModel).eval()
    assert not model.position_embeddings.weight.any()
    batch = {"input_values": torch.ones(1, 5, 3)}
    with torch.no_grad():
        before = model(**batch).last_hidden_state
        model.position_embeddings.weight[2] = 1.0
        after = model(**batch).last_hidden_state
    changed = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert changed.tolist() == [False, False, True, True, True]


def test_new_modules_are_drawn_from_the_global_seed():
    def build(seed):
        torch.manual_seed(seed)
        config = FPTConfig(**VALUES, backbone_init="random", base_model_config=tiny_config("gpt2"))
        return FPTForSequenceClassification(config)

    one, same, other = build(3), build(3), build(4)
    for name in ("fpt.input_projection.projection.weight", "head.weight"):
        assert torch.equal(one.get_parameter(name), same.get_parameter(name))
        assert not torch.equal(one.get_parameter(name), other.get_parameter(name))
    assert torch.equal(one.fpt.backbone.wte.weight, other.fpt.backbone.wte.weight)


def test_the_embeddings_module_is_that_of_the_inputs(make_model):
    assert isinstance(make_model("gpt2", **TOKENS).get_input_embeddings(), nn.Embedding)
    assert make_model("gpt2", **TOKENS).get_input_embeddings().num_embeddings == 12 != VOCABULARY
    assert isinstance(make_model("gpt2").get_input_embeddings(), nn.Linear)


@pytest.mark.parametrize("input_type, name", [("values", "input_values"), ("tokens", "input_ids"),
                                              ("images", "pixel_values"), ("series", "input_values")])  # fmt: skip
def test_the_main_input_is_named(make_model, input_type, name):
    assert make_model("gpt2", **INPUTS[input_type]).main_input_name == name
    assert make_model("gpt2", FPTModel, **INPUTS[input_type]).main_input_name == name


# Half precision

POLICIES = {
    "paper": {},
    "head": {"trainable": ["output"]},
    "no norms": {"trainable": ["input", "output"]},
    "all": {"trainable": list(TRANSFORMER_GROUPS)},
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_a_bf16_backbone_trains_in_fp32_without_autocast(make_model, model_type, policy):
    model = make_model(model_type, dtype="bfloat16", **NO_DROPOUT, **policy)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "backbone." not in name:
            assert parameter.dtype == torch.float32, name
    kept = {p.dtype for p in model.fpt.backbone.parameters() if not p.requires_grad}
    assert torch.bfloat16 in kept or not kept  # an image model has nothing that never trains
    reference = make_model(model_type, **NO_DROPOUT, **policy).eval()
    batch, mask = example("values"), torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
    with torch.no_grad():
        expected = reference(**batch, attention_mask=mask).logits
        got = model.eval()(**batch, attention_mask=mask).logits
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0.1, atol=0.1)
    model.train()(**batch, attention_mask=mask, labels=torch.tensor([0, 1])).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", "t5", "opt"])
def test_a_model_cast_whole_still_runs(make_model, model_type, dtype):
    """As for evaluation in half precision, which casts what trained as well."""
    model = make_model(model_type).eval()
    with torch.no_grad():
        expected = model(**example("values")).logits
        got = model.to(dtype)(**example("values")).logits
    torch.testing.assert_close(got.float(), expected, rtol=0.1, atol=0.1)


def test_trained_norms_of_queries_and_keys_meet_a_bf16_backbone(make_model):
    model = make_model("qwen3", dtype="bfloat16", train_qk_norms=True)
    for module in ("q_norm", "k_norm"):
        assert model.fpt.backbone.get_parameter(f"layers.0.self_attn.{module}.weight").dtype == torch.float32
    model.train()(**example("values"), labels=torch.tensor([0, 1])).loss.backward()
    assert model.fpt.backbone.layers[0].self_attn.q_norm.weight.grad.any()


@pytest.mark.parametrize("input_type", INPUTS)
def test_every_input_type_meets_a_bf16_backbone(make_model, input_type):
    model = make_model("gpt2", FPTForTokenClassification, dtype="bfloat16", **INPUTS[input_type])
    labels = torch.zeros(2, TOKEN_COUNT[input_type], dtype=torch.long)
    model.train()(**example(input_type), labels=labels).loss.backward()
    assert model.head.out_proj.weight.grad.any()
    hidden = make_model("gpt2", FPTModel, dtype="bfloat16", **INPUTS[input_type])(**example(input_type))
    assert hidden.last_hidden_state.isfinite().all()


def test_other_dtypes_are_refused(make_model):
    with pytest.raises(ValueError, match="dtype is one of float32, bfloat16, float16; got 'int8'"):
        make_model("gpt2", dtype="int8")


# Activation checkpointing


@pytest.mark.parametrize(
    "trainable, reentrant",
    [
        (None, False),
        (None, True),
        (["output", "norm", "position"], False),
        (["output", "norm", "position"], True),
        (["output"], False),
    ],
)
@pytest.mark.parametrize("input_type", INPUTS)
def test_activation_checkpointing_gives_equal_gradients(make_model, input_type, trainable, reentrant):
    fields = INPUTS[input_type] | NO_DROPOUT | ({"trainable": trainable} if trainable else {})
    gradients = []
    for checkpointing in (False, True):
        model = make_model("gpt2", **fields).train()
        calls = []
        model.fpt.backbone.h[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
        model(**example(input_type), labels=torch.tensor([0, 3])).loss.backward()
        if trainable != ["output"]:
            assert len(calls) == 1 + checkpointing  # run again in the backward pass
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


@pytest.mark.parametrize("model_type", [name for name in TINY_BACKBONES if name not in ("openai-gpt", "albert")])
def test_activation_checkpointing_works_in_every_family_that_has_it(make_model, model_type):
    plain, checked = (make_model(model_type, **NO_DROPOUT).train() for _ in range(2))
    enable = getattr(checked, "activation_checkpointing_enable", None) or checked.gradient_checkpointing_enable
    enable()
    for model in (plain, checked):
        model(**example("values"), labels=torch.tensor([0, 3])).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), checked.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(other.grad, one.grad, msg=name)


# Auto classes


@pytest.mark.parametrize(
    "auto_class, model_class, fields",
    [
        (AutoModel, FPTModel, VALUES),
        (AutoModelForSequenceClassification, FPTForSequenceClassification, VALUES),
        (AutoModelForTokenClassification, FPTForTokenClassification, VALUES),
        (AutoModelForImageClassification, FPTForImageClassification, IMAGES),
    ],
)
def test_auto_classes_build_and_load(make_model, tmp_path, auto_class, model_class, fields):
    model = make_model("gpt2", model_class, **fields)
    assert type(auto_class.from_config(model.config)) is model_class
    model.save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is model_class


def test_a_model_of_a_configuration_alone_needs_random_weights():
    with pytest.raises(ValueError, match="no weights for backbone_init='pretrained'"):
        FPTForSequenceClassification(FPTConfig(**VALUES))
    with pytest.raises(ValueError, match="base_model_config"):
        FPTModel(FPTConfig(**VALUES, backbone_init="random"))


@pytest.mark.parametrize("fields", [{"input_type": "tokens", "vocab_size": 9, "input_size": None}, {}])
def test_an_input_without_tokens_is_refused(make_model, fields):
    model = make_model("bert", **fields)
    empty = {"input_ids": torch.zeros(1, 0, dtype=torch.long)} if fields else {"input_values": torch.zeros(1, 0, 3)}
    with pytest.raises(ValueError, match="no tokens: give at least one"):
        model(**empty)


def replica_of(model):
    """As `nn.DataParallel` makes one on each GPU: a module's weights are attributes, and no parameters."""
    copies = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in copies.items():
        for name, child in module.named_children():
            replica._modules[name] = copies[child]
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.detach().clone())
    return copies[model]


@pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", "vit"])
def test_a_replica_for_several_gpus_gives_what_the_model_gives(make_model, model_type, dtype, model_class):
    if model_type not in TINY_BACKBONES:
        pytest.skip("these layers take no mask with this version of transformers")
    model = make_model(model_type, model_class, dtype=dtype).eval()
    inputs = torch.randn(2, 10, 3)
    replica = replica_of(model)
    assert not list(replica.parameters())
    assert torch.equal(replica(input_values=inputs).logits, model(input_values=inputs).logits)
