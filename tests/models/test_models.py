"""The models: outputs, losses, wrong inputs, pooling, patching, initialisation, half precision, checkpointing."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from conftest import (
    IMAGES,
    INPUTS,
    LAYERS,
    NUMBERS,
    TINY_BACKBONES,
    TRANSFORMER_GROUPS,
    VOCABULARY,
    WIDTH,
    checkpoint_activations,
    example,
    refused,
    tiny_config,
)
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    modeling_outputs,
)
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from fpt_adapters import (
    FPTConfig,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
)
from fpt_adapters.heads.problems import classification_loss
from fpt_adapters.heads.sequence import pool

NO_DROPOUT = {"input_dropout": 0.0, "backbone_dropout": 0.0}
TOKEN_COUNT = {"values": 10, "tokens": 10, "images": 4, "series": 7, "windows": 7}
WITH_AND_WITHOUT_HEAD = pytest.mark.parametrize("model_class", [FPTModel, FPTForSequenceClassification])
HEADS = pytest.mark.parametrize("model_class", [FPTForSequenceClassification, FPTForTokenClassification])


# Outputs


@pytest.mark.parametrize("input_type", INPUTS)
def test_every_input_type_passes_every_head(make_model, input_type):
    batch, tokens = example(input_type), TOKEN_COUNT[input_type]
    for model_class, output_class, name, shape in [
        (FPTModel, modeling_outputs.BaseModelOutput, "last_hidden_state", (2, tokens, WIDTH)),
        (FPTForSequenceClassification, modeling_outputs.SequenceClassifierOutput, "logits", (2, 4)),
        (FPTForTokenClassification, modeling_outputs.TokenClassifierOutput, "logits", (2, tokens, 4)),
    ]:
        model = make_model("gpt2", model_class, input_type=input_type)
        output = model(**batch)
        assert type(output) is output_class and list(output) == [name] and output[name].shape == shape
        assert [model.main_input_name] == list(batch)


def test_images_have_a_head_of_their_own(make_model):
    output = make_model("gpt2", FPTForImageClassification, **IMAGES)(**example("images"), labels=torch.tensor([0, 3]))
    assert type(output) is modeling_outputs.ImageClassifierOutput
    assert output.logits.shape == (2, 4) and output.loss.shape == ()
    with pytest.raises(ValueError, match="FPTForImageClassification needs input_type='images', or 'native'"):
        make_model("gpt2", FPTForImageClassification)


def test_a_token_carries_one_label_or_several(make_model):
    several = make_model("gpt2", FPTForTokenClassification, labels_per_token=5, num_labels=2).eval()
    logits = several(**example()).logits
    assert logits.shape == (2, 10, 5, 2) and several.head.out_proj.out_features == 10
    flat = several.head.out_proj(several.fpt(**example()).last_hidden_state)
    assert_close(logits[..., 3, 1], flat[..., 3 * 2 + 1])


BUILDERS = {
    "the constructor": lambda config, folder: FPTForSequenceClassification(config),
    "from_config": lambda config, folder: AutoModel.from_config(config),
    "from_backbone": lambda config, _: FPTModel.from_backbone(config.base_model_config, config, peft_config="lora"),
    "from_pretrained": lambda config, folder: FPTModel.from_pretrained(folder, config=config, dtype="bfloat16"),
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_configuration_given_stays_as_it_is(builder, make_model, tmp_path):
    config = FPTConfig(base_model_config=tiny_config("gpt2"), backbone_init="random", num_labels=1, **NUMBERS)
    if builder == "from_pretrained":
        make_model("gpt2").save_pretrained(tmp_path)
        config = FPTConfig.from_pretrained(tmp_path)
    before, attention = config.to_dict(), config._attn_implementation
    model = BUILDERS[builder](config, tmp_path)
    assert (config.to_dict(), config._attn_implementation) == (before, attention)
    assert model.config is not config and model.config.base_model_fingerprint


@pytest.mark.parametrize("model_class", [FPTModel, FPTForSequenceClassification, FPTForTokenClassification])
def test_hidden_states_and_attentions_on_request(make_model, model_class):
    model, batch = make_model("gpt2", model_class).eval(), example()
    assert model(**batch).hidden_states is None and model(**batch).attentions is None
    output = model(**batch, output_hidden_states=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 10, WIDTH)] * (LAYERS + 1)
    headless = model if model_class is FPTModel else model.fpt
    assert_close(output.hidden_states[-1], headless(**batch).last_hidden_state)
    model.config.output_hidden_states = True
    assert len(model(**batch).hidden_states) == LAYERS + 1


@pytest.mark.parametrize("kept", [[0], [1, -1], [-LAYERS - 1], 0, -1, (0, 1, 2)], ids=str)
@WITH_AND_WITHOUT_HEAD
@pytest.mark.parametrize("model_type", ["gpt2", "t5", *(name for name in TINY_BACKBONES if name == "vit")])
def test_some_hidden_states_on_request(make_model, model_type, model_class, kept):
    model, batch = make_model(model_type, model_class).eval(), example()
    every = model(**batch, output_hidden_states=True).hidden_states
    some = model(**batch, output_hidden_states=kept).hidden_states
    numbers = [number % len(every) for number in ([kept] if isinstance(kept, int) else kept)]
    assert [number for number, state in enumerate(some) if state is not None] == sorted(numbers)
    assert all(torch.equal(some[number], every[number]) for number in numbers)
    model.config.output_hidden_states = True
    assert model(**batch, output_hidden_states=False).hidden_states is None


def test_a_hidden_state_that_is_not_there_is_refused(make_model):
    with pytest.raises(ValueError, match=r"There are 3 hidden states: .*from 0 to 2, .*-3 to -1; got 3"):
        make_model("gpt2")(**example(), output_hidden_states=[0, 3])


@pytest.mark.parametrize("trainable", [["input", "output"], ["output"]])
def test_the_vocabulary_can_be_resized(make_model, tmp_path, trainable):
    model = make_model("bert", input_type="tokens", vocab_size=9, trainable=trainable).eval()
    ids = torch.arange(9).repeat(2, 1)
    before = model(input_ids=ids).logits
    table = model.resize_token_embeddings(12)
    assert model.get_input_embeddings() is table and model.config.vocab_size == 12
    assert table.weight.requires_grad == ("input" in trainable)
    assert_close(model(input_ids=ids).logits, before)
    model.save_pretrained(tmp_path)
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids=ids + 3).logits, model(input_ids=ids + 3).logits)
    loaded.set_input_embeddings(nn.Embedding(5, WIDTH))
    loaded.save_pretrained(tmp_path)
    assert FPTForSequenceClassification.from_pretrained(tmp_path).config.vocab_size == 5
    with pytest.raises(TypeError, match="Embedding"):
        make_model("bert").resize_token_embeddings(12)


def test_attentions_are_those_of_an_eager_backbone(make_model):
    model = make_model("gpt2", attn_implementation="eager").eval()
    output = model(**example(), output_attentions=True)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 2, 10, 10)] * LAYERS
    assert_close(output.attentions[0].sum(-1), torch.ones(2, 2, 10))


@WITH_AND_WITHOUT_HEAD
def test_a_tuple_on_request(make_model, model_class):
    model = make_model("gpt2", model_class).eval()
    output = model(**example(), return_dict=False)
    assert isinstance(output, tuple) and len(output) == 1
    assert_close(output[0], model(**example())[0])
    model.config.return_dict = False
    assert isinstance(model(**example()), tuple)


# Losses

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
CLASSES = torch.arange(30).reshape(3, 10) % 4
CLASSES[0, :7] = -100  # not labelled


def token_loss(logits, labels):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


LOSSES = {  # fields, labels of three sequences, torch's loss
    "2 classes": ({"num_labels": 2}, [1, 0, -100], F.cross_entropy),
    "5 classes": ({"num_labels": 5}, [1, 0, -100], F.cross_entropy),
    "single label": ({"problem_type": SINGLE}, [0, 3, 1], F.cross_entropy),
    "multi-label": (
        {"problem_type": MULTI},
        [[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]],
        lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels.float()),
    ),
    "a number": (
        {"problem_type": REGRESSION, "num_labels": 1},
        [0.5, -2.0, 3.0],
        lambda logits, labels: F.mse_loss(logits[:, 0], labels),
    ),
    "a number in a row": ({"problem_type": REGRESSION, "num_labels": 1}, [[0.5], [-2.0], [3.0]], F.mse_loss),
    "numbers": ({"problem_type": REGRESSION, "num_labels": 2}, [[0.5, 1.5], [-2.0, 0.0], [3.0, -1.0]], F.mse_loss),
    "tokens": ({"model_class": FPTForTokenClassification}, CLASSES, token_loss),
    "several of each token": (
        {"model_class": FPTForTokenClassification, "labels_per_token": 5},
        CLASSES[..., None].expand(3, 10, 5),
        token_loss,
    ),
}


@pytest.mark.parametrize("fields, labels, reference", LOSSES.values(), ids=LOSSES)
def test_the_loss_is_that_of_its_problem(make_model, fields, labels, reference):
    model, labels = make_model("gpt2", **fields).eval(), torch.as_tensor(labels)
    output = model(**example(batch=3), labels=labels)
    assert_close(output.loss, reference(output.logits, labels))
    output.loss.backward()


@pytest.mark.parametrize(
    "num_labels, labels", [(1, [6, 0]), (1, [0.5, 2.0]), (3, [2, 0]), (3, [[0.0, 1, 1], [1, 0, 1]])]
)
def test_the_problem_is_found_as_transformers_finds_it(make_model, num_labels, labels):
    model, labels = make_model("gpt2", num_labels=num_labels).eval(), torch.tensor(labels)
    before = model.config.to_dict()
    output = model(**example(), labels=labels)
    floats = labels.float() if num_labels == 1 else labels  # which transformers' loss wants from its caller
    expected = ForSequenceClassificationLoss(floats, output.logits, copy.deepcopy(model.config))
    assert_close(output.loss, expected)
    assert_close(classification_loss(output.logits, labels, None), expected)
    assert model.config.to_dict() == before and before["problem_type"] == (REGRESSION if num_labels == 1 else None)


def test_a_head_of_one_number_is_saved_as_a_regression(make_model, tmp_path):
    make_model("gpt2", num_labels=1).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == REGRESSION
    assert make_model("gpt2", num_labels=1, problem_type=MULTI).config.problem_type == MULTI


def targets(problem_type, shape):
    """Labels of each kind for logits of `shape`, the second of them not labelled."""
    if problem_type is None:
        labels = torch.randint(0, shape[-1], shape[:-1])
    else:
        labels = torch.randn(shape) if problem_type == REGRESSION else torch.randint(0, 2, shape).float()
    labels.view(-1)[1] = -100
    return labels


PROBLEMS = pytest.mark.parametrize("problem_type", [None, MULTI, REGRESSION])


@PROBLEMS
@HEADS
def test_parts_of_a_batch_add_up_to_its_loss(make_model, problem_type, model_class):
    model = make_model("gpt2", model_class, problem_type=problem_type).eval()
    batch = example(batch=4)
    labels = targets(problem_type, model(**batch).logits.shape)
    count = (labels != -100).sum()
    whole = model(**batch, labels=labels).loss
    parts = [
        model(input_values=batch["input_values"][rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert_close(sum(parts), whole)
    assert_close(model(**batch, labels=labels, num_items_in_batch=int(count)).loss, whole)


@PROBLEMS
@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 5, 2, 4)])
def test_what_is_not_labelled_is_left_out_of_the_loss(problem_type, shape):
    logits, labels = torch.randn(shape, requires_grad=True), targets(problem_type, shape)
    labels[1] = -100
    loss = classification_loss(logits, labels, problem_type)
    (gradient,) = torch.autograd.grad(loss, logits)
    kept = labels != -100
    plain = {REGRESSION: F.mse_loss, None: F.cross_entropy, MULTI: F.binary_cross_entropy_with_logits}[problem_type]
    assert_close(loss, plain(logits[kept], labels[kept]))
    assert not gradient[~kept].any() and gradient[kept].any()


@pytest.mark.parametrize(
    "problem_type, shape, labels",
    [
        (None, (2, 5, 4), torch.zeros(5, 2, dtype=torch.long)),
        (None, (2, 4), torch.zeros(2, 4, dtype=torch.long)),
        (None, (2, 4), torch.zeros(2)),  # floats: several labels at once
        (MULTI, (2, 4), torch.zeros(2, dtype=torch.long)),
        (MULTI, (2, 4), torch.zeros(4, 2)),
        (REGRESSION, (2, 4), torch.zeros(2)),
        (REGRESSION, (2, 5, 1), torch.zeros(5, 2)),
    ],
)
def test_labels_of_another_shape_are_refused(problem_type, shape, labels):
    with pytest.raises(ValueError, match=re.escape(str(tuple(labels.shape))) + r" \(torch.* problem_type says which"):
        classification_loss(torch.randn(shape), labels, problem_type)


def test_classes_that_are_floats_are_refused():
    message = r"Classes are whole numbers, but these labels are torch.float32: write labels\.l"
    with pytest.raises(ValueError, match=message):
        classification_loss(torch.randn(2, 4), torch.tensor([0.0, 1.5]), SINGLE)


@pytest.mark.parametrize(
    "problem_type, labels, dtypes",
    [
        (None, [1, 0, 1], [torch.int32, torch.uint8, torch.bool]),
        (MULTI, [[1, 0], [0, 0], [1, 1]], [torch.bool, torch.float64]),
    ],
)
def test_labels_may_have_any_type_that_holds_them_exactly(problem_type, labels, dtypes):
    logits, labels = torch.randn(3, 2), torch.tensor(labels)
    expected = classification_loss(logits, labels, problem_type)
    for dtype in dtypes:
        assert classification_loss(logits, labels.to(dtype), problem_type) == expected


@PROBLEMS
@HEADS
@pytest.mark.parametrize("num_items_in_batch", [None, 0, torch.tensor(0)])
def test_the_loss_over_nothing_is_zero_and_changes_nothing(make_model, problem_type, model_class, num_items_in_batch):
    model = make_model("gpt2", model_class, problem_type=problem_type)
    labels = targets(problem_type, model(**example(batch=4)).logits.shape).fill_(-100)
    loss = model(**example(batch=4), labels=labels, num_items_in_batch=num_items_in_batch).loss
    loss.backward()
    assert loss == 0
    for name, parameter in model.named_parameters():  # DDP wants one of each that trains
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or not parameter.grad.any(), name


def test_the_loss_is_taken_in_fp32():
    logits = torch.randn(64, 10).bfloat16()
    for problem_type, labels in ((None, torch.randint(0, 10, (64,))), (REGRESSION, logits.float() + 0.5)):
        loss = classification_loss(logits, labels, problem_type)
        assert loss.dtype == torch.float32
        assert_close(loss, classification_loss(logits.float(), labels, problem_type))


# Wrong inputs


def ones(name, *shape):
    return {name: torch.ones(shape, dtype=torch.long if name == "input_ids" else None)}


WRONG_INPUTS = [  # input type, what is given, what is said
    ("values", ones("input_ids", 1, 3), ["'values' takes input_values", "input_ids"]),
    ("values", {}, ["'values' takes input_values", "none"]),
    ("values", ones("input_values", 1, 10, 4), ["input_size=3", "(1, 10, 4)"]),
    ("values", ones("input_values", 1, 10), ["input_size=3", "(1, 10)"]),
    ("values", ones("input_values", 1, 3, 10), ["(1, 3, 10): the 3 come before", "values.transpose(1, 2)"]),
    ("values", ones("input_values", 1, 11, 3), ["11 tokens", "at most 10"]),
    ("values", ones("input_values", 1, 0, 3), ["no tokens: give at least one"]),
    ("tokens", ones("input_values", 1, 3, 3), ["'tokens' takes input_ids", "input_values"]),
    ("tokens", ones("input_ids", 1, 11), ["11 tokens", "at most 10"]),
    ("tokens", ones("input_ids", 1, 0), ["no tokens: give at least one"]),
    ("images", ones("input_values", 1, 3, 3), ["'images' takes pixel_values", "input_values"]),
    ("images", ones("pixel_values", 1, 3, 8, 12), ["(batch, 3, 8, 8)", "(1, 3, 8, 12)", "resize"]),
    ("images", ones("pixel_values", 1, 1, 8, 8), ["(batch, 3, 8, 8)", "(1, 1, 8, 8)"]),
    ("images", ones("pixel_values", 1, 8, 8, 3), ["(1, 8, 8, 3): the channels come last", "permute(0, 3"]),
    ("images", ones("pixel_values", 3, 8, 8), ["(batch, 3, 8, 8)", "(3, 8, 8)"]),
    ("series", ones("input_values", 1, 20, 3), ["num_channels=2", "(1, 20, 3)"]),
    ("series", ones("input_values", 1, 2, 20), ["(1, 2, 20): the 2 come before the steps", "transpose(1, 2)"]),
    ("series", ones("input_values", 1, 0, 2), ["no steps: give at least one"]),
    ("series", ones("input_values", 1, 20), ["num_channels=2", "(1, 20)"]),
    ("series", ones("input_values", 1, 24, 2), ["8 tokens", "at most 7"]),
    (
        "images",
        ones("pixel_values", 1, 3, 8, 8) | ones("input_values", 1, 10, 3),
        ["'images' takes pixel_values", "pixel_values, input_values"],
    ),
]


@pytest.mark.parametrize("input_type, given, words", WRONG_INPUTS)
@WITH_AND_WITHOUT_HEAD
def test_a_wrong_input_is_named_with_what_was_expected(make_model, model_class, input_type, given, words):
    with refused(*words):
        make_model("gpt2", model_class, input_type=input_type)(**given)


@pytest.mark.parametrize(
    "model_class, name",
    [(FPTModel, "input_values"), (FPTModel, "attention_mask")]
    + [(FPTForSequenceClassification, name) for name in ("input_values", "labels", "head_inputs")],
)
@pytest.mark.parametrize("convert", [torch.Tensor.tolist, np.asarray])
def test_lists_and_arrays_are_refused_by_name(make_model, model_class, name, convert):
    given = example() | {name: convert(torch.ones(2, 10, 3))}
    with pytest.raises(TypeError, match=rf"{name} is a tensor, got (list|ndarray): write torch.as_tensor\({name}\)"):
        make_model("gpt2", model_class)(**given)


@HEADS
@pytest.mark.parametrize("input_type", ["values", "series"])
def test_what_lies_under_the_mask_changes_nothing(make_model, input_type, model_class):
    model, batch = make_model("bert", model_class, input_type=input_type).eval(), example(input_type)
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
POOLINGS = ("last", "first", "mean")


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32])
@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_equals_a_loop_over_real_tokens(pooling, side, dtype):
    hidden, mask = torch.randn(3, 5, 6), torch.tensor(MASKS[side])
    assert_close(pool(hidden, mask.to(dtype), pooling), naive_pool(hidden, mask, pooling))
    assert_close(pool(hidden, None, pooling), naive_pool(hidden, torch.ones(3, 5), pooling))


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
    assert_close(pooled[:, 0] * 64 + pooled[:, 1], expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_head_reads_the_pooled_states(make_model, pooling):
    model, mask = make_model("gpt2", pooling=pooling).eval(), torch.tensor([[1] * 10, [1] * 4 + [0] * 6])
    hidden = model.fpt(**example(), attention_mask=mask).last_hidden_state
    logits = model(**example(), attention_mask=mask).logits
    assert_close(logits, model.head(naive_pool(hidden, mask, pooling)))


# Patching


def module_for(**fields):
    config = FPTConfig(**fields)
    return config.input.build(config, WIDTH)


@pytest.mark.parametrize("height, width, p, channels", [(8, 8, 4, 3), (4, 12, 4, 1), (6, 4, 2, 2), (3, 5, 1, 3)])
def test_image_patches_equal_a_loop(height, width, p, channels):
    module = module_for(input_type="images", image_size=[height, width], num_channels=channels, patch_size=p)
    images = torch.randn(2, channels, height, width)
    encoded = module.to_tokens(images, None)
    expected = [
        [
            [image[c, top + y, left + x].item() for y in range(p) for x in range(p) for c in range(channels)]
            for top in range(0, height, p)
            for left in range(0, width, p)
        ]
        for image in images
    ]
    assert encoded.mask is None and torch.equal(encoded.states, torch.tensor(expected))


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
def test_series_patches_equal_a_loop_and_a_full_mask_is_no_mask(steps, length, stride, channels):
    module = series_module(steps, length, stride, channels)
    series = torch.randn(2, steps, channels)
    expected = torch.stack([naive_patches(one, length, stride) for one in series])
    encoded, masked = module.to_tokens(series, None), module.to_tokens(series, torch.ones(2, steps, dtype=torch.long))
    assert torch.equal(encoded.states, expected) and torch.equal(masked.states, expected)
    assert encoded.mask is None and masked.mask.all()
    assert expected.shape[1] <= module.config.num_tokens


@pytest.mark.parametrize("real", [1, 3, 4, 5, 7, 10, 19, 20])
@pytest.mark.parametrize("length, stride", [(4, 4), (4, 3), (4, 1), (5, 2)])
def test_a_padded_series_has_the_patches_of_the_series_alone(length, stride, real):
    series = torch.randn(1, 20, 2)
    encoded = series_module(20, length, stride, 2).to_tokens(series, (torch.arange(20) < real).long()[None])
    alone = naive_patches(series[0, :real], length, stride)
    assert encoded.mask.shape == encoded.states.shape[:2]
    assert encoded.mask.sum().item() == len(alone) and encoded.mask[0, : len(alone)].all()
    assert torch.equal(encoded.states[0, : len(alone)], alone)


@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
@pytest.mark.parametrize("stride", [2, 4])
@torch.no_grad()
def test_padding_a_series_changes_nothing(make_model, model_type, stride):
    model = make_model(model_type, input_type="series", patch_stride=stride).eval()
    alone = torch.randn(2, 9, 2)
    expected, mask = model(input_values=alone).logits, (torch.arange(20) < 9).long().expand(2, 20)
    for content in (0.0, 50.0):
        padded = torch.full((2, 20, 2), content)
        padded[:, :9] = alone
        assert_close(model(input_values=padded, attention_mask=mask).logits, expected, rtol=1e-4, atol=1e-5)


def test_one_channel_may_be_left_out_of_the_shape(make_model):
    model = make_model("gpt2", input_type="series", num_channels=1).eval()
    series, mask = torch.randn(2, 20), (torch.arange(20) < 12).long().expand(2, 20)
    for given in (None, mask):
        flat = model(input_values=series, attention_mask=given).logits
        assert_close(flat, model(input_values=series[..., None], attention_mask=given).logits)


@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
@torch.no_grad()
def test_masks_of_any_dtype_mean_the_same(make_model, model_type):
    model, batch = make_model(model_type, input_type="series").eval(), example("series")
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, 8:] = 0
    expected = model(**batch, attention_mask=mask).logits
    for dtype in (torch.bool, torch.float32):
        assert_close(model(**batch, attention_mask=mask.to(dtype)).logits, expected)


@torch.no_grad()
def test_padding_ids_are_masked_where_no_mask_is_given(make_model):
    model = make_model("bert", input_type="tokens", pad_token_id=0).eval()
    ids = torch.tensor([[3, 4, 5, 0, 0, 0]])
    expected = model(input_ids=ids[:, :3]).logits
    assert_close(model(input_ids=ids).logits, expected)
    assert_close(model(input_ids=ids, attention_mask=(ids != 0).long()).logits, expected)
    seen = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert not torch.allclose(seen, expected)
    plain = make_model("bert", input_type="tokens").eval()
    plain.load_state_dict(model.state_dict())
    assert_close(plain(input_ids=ids).logits, seen)


# Initialisation


@pytest.mark.parametrize("input_type", ["values", "images", "series"])
def test_projections_are_orthogonal_with_the_papers_gain(make_model, input_type):
    layer = make_model("gpt2", input_type=input_type).fpt.input_projection.projection
    weight = layer.weight.detach()
    small = min(weight.shape)
    gram = weight.T @ weight if weight.shape[1] == small else weight @ weight.T
    assert_close(gram, 1.41**2 * torch.eye(small), rtol=1e-4, atol=1e-5)
    assert not layer.bias.any()


def test_token_embeddings_are_standard_normal(make_model):
    model = make_model("gpt2", input_type="tokens", pad_token_id=0, vocab_size=500)
    table = model.fpt.input_projection.embedding.weight.detach()
    assert abs(table.mean()) < 0.02 and abs(table.std() - 1) < 0.02
    assert table[0].abs().mean() > 0.5  # the padding's row is drawn as well


@pytest.mark.parametrize("input_type", INPUTS)
@pytest.mark.parametrize("given, probability", [({}, 0.1), ({"input_dropout": 0.4}, 0.4)])
def test_dropout_follows_the_input(make_model, input_type, given, probability):
    module = make_model("gpt2", input_type=input_type, **given).fpt.input_projection
    batch = next(iter(example(input_type, batch=60).values()))
    torch.manual_seed(0)
    dropped, whole = module.train()(batch).states, module.eval()(batch).states
    zeros = dropped == 0
    assert zeros.float().mean().item() == pytest.approx(probability, abs=0.02)
    assert_close(dropped[~zeros], whole[~zeros] / (1 - probability), rtol=1e-4, atol=0)


@torch.no_grad()
def test_new_positions_start_at_zero_and_are_added(make_model):
    model, batch = make_model("llama", FPTModel).eval(), {"input_values": torch.ones(1, 5, 3)}
    assert not model.position_embeddings.weight.any()
    before = model(**batch).last_hidden_state
    model.position_embeddings.weight[2] = 1.0
    after = model(**batch).last_hidden_state
    changed = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert changed.tolist() == [False, False, True, True, True]


def test_new_modules_are_drawn_from_the_global_seed():
    def build(seed):
        torch.manual_seed(seed)
        config = FPTConfig(**NUMBERS, backbone_init="random", base_model_config=tiny_config("gpt2"))
        return FPTForSequenceClassification(config)

    one, same, other = build(3), build(3), build(4)
    for name in ("fpt.input_projection.projection.weight", "head.weight"):
        assert torch.equal(one.get_parameter(name), same.get_parameter(name))
        assert not torch.equal(one.get_parameter(name), other.get_parameter(name))
    assert torch.equal(one.fpt.backbone.wte.weight, other.fpt.backbone.wte.weight)


def test_the_embeddings_module_is_that_of_the_inputs(make_model):
    table = make_model("gpt2", input_type="tokens").get_input_embeddings()
    assert isinstance(table, nn.Embedding) and table.num_embeddings == 12 != VOCABULARY
    assert isinstance(make_model("gpt2").get_input_embeddings(), nn.Linear)


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
    batch = example() | {"attention_mask": torch.tensor([[1] * 10, [1] * 6 + [0] * 4])}
    with torch.no_grad():
        got = model.eval()(**batch).logits
        assert got.dtype == torch.float32
        assert_close(got, reference(**batch).logits, rtol=0.1, atol=0.1)
    model.train()(**batch, labels=torch.tensor([0, 1])).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", "t5", "opt"])
@torch.no_grad()
def test_a_model_cast_whole_still_runs(make_model, model_type, dtype):
    """As for evaluation in half precision, which casts what trained as well."""
    model = make_model(model_type).eval()
    expected = model(**example()).logits
    assert_close(model.to(dtype)(**example()).logits.float(), expected, rtol=0.1, atol=0.1)


def test_trained_norms_of_queries_and_keys_meet_a_bf16_backbone(make_model):
    model = make_model("qwen3", dtype="bfloat16", train_qk_norms=True)
    attention = model.fpt.backbone.layers[0].self_attn
    assert attention.q_norm.weight.dtype == attention.k_norm.weight.dtype == torch.float32
    model.train()(**example(), labels=torch.tensor([0, 1])).loss.backward()
    assert attention.q_norm.weight.grad.any()


@pytest.mark.parametrize("input_type", INPUTS)
def test_every_input_type_meets_a_bf16_backbone(make_model, input_type):
    fields = {"dtype": "bfloat16", "input_type": input_type}
    model = make_model("gpt2", FPTForTokenClassification, **fields)
    labels = torch.zeros(2, TOKEN_COUNT[input_type], dtype=torch.long)
    model.train()(**example(input_type), labels=labels).loss.backward()
    assert model.head.out_proj.weight.grad.any()
    hidden = make_model("gpt2", FPTModel, **fields)(**example(input_type))
    assert hidden.last_hidden_state.isfinite().all()


def test_other_dtypes_are_refused(make_model):
    with pytest.raises(ValueError, match="dtype is one of float32, bfloat16, float16; got 'int8'"):
        make_model("gpt2", dtype="int8")


# Activation checkpointing


LATE = ["output", "norm", "position"]


@pytest.mark.parametrize(
    "trainable, reentrant", [(None, False), (None, True), (LATE, False), (LATE, True), (["output"], False)]
)
@pytest.mark.parametrize("input_type", INPUTS)
def test_activation_checkpointing_gives_equal_gradients(make_model, input_type, trainable, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = make_model("gpt2", input_type=input_type, trainable=trainable, **NO_DROPOUT).train()
        calls = []
        model.fpt.backbone.h[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        if checkpointing:
            checkpoint_activations(model, reentrant)
        model(**example(input_type), labels=torch.tensor([0, 3])).loss.backward()
        assert len(calls) == 1 + checkpointing or trainable == ["output"]  # run again in the backward pass
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert_close(*gradients)


# Auto classes


@pytest.mark.parametrize(
    "auto_class, model_class, fields",
    [
        (AutoModel, FPTModel, NUMBERS),
        (AutoModelForSequenceClassification, FPTForSequenceClassification, NUMBERS),
        (AutoModelForTokenClassification, FPTForTokenClassification, NUMBERS),
        (AutoModelForImageClassification, FPTForImageClassification, IMAGES),
    ],
)
def test_auto_classes_build_and_load(make_model, tmp_path, auto_class, model_class, fields):
    model = make_model("gpt2", model_class, **fields)
    assert type(auto_class.from_config(model.config)) is model_class
    model.save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is model_class


def test_a_model_of_only_a_configuration_needs_random_weights():
    with pytest.raises(ValueError, match="no weights for backbone_init='pretrained'"):
        FPTForSequenceClassification(FPTConfig(**NUMBERS))
    with pytest.raises(ValueError, match="base_model_config"):
        FPTModel(FPTConfig(**NUMBERS, backbone_init="random"))


# Several GPUs


def replica_of(model):
    """As `nn.DataParallel` makes one on each GPU: a module's weights are attributes, and no parameters."""
    copies = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in copies.items():
        for name, child in module.named_children():
            replica._modules[name] = copies[child]
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.detach().clone())
    return copies[model]


@HEADS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", [name for name in TINY_BACKBONES if name in ("gpt2", "bert", "llama", "vit")])
def test_a_replica_for_several_gpus_gives_what_the_model_gives(make_model, model_type, dtype, model_class):
    model = make_model(model_type, model_class, dtype=dtype).eval()
    replica = replica_of(model)
    assert not list(replica.parameters())
    assert torch.equal(replica(**example()).logits, model(**example()).logits)
