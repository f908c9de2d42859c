"""The attention chosen by device, precision, dropout and length: which one runs, and that both give the same."""

import copy

import pytest
import torch
from conftest import FIELDS, HEADS, LAYERS, TINY_BACKBONES, VALUES, since, tiny_config
from torch.testing import assert_close
from transformers import AttentionInterface, AutoModel, AutoModelForSequenceClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fpt_adapters import FPTConfig, FPTForSequenceClassification, FPTModel
from fpt_adapters.backbones.cpu import attention
from fpt_adapters.backbones.cpu.attention import attention_forward

OWN = [name for name in TINY_BACKBONES if name not in ("longformer", "openai-gpt", "t5")]  # the rest have their own
CHOOSES = since("5.7", "change ModernBERT's attention")
PADDED = torch.ones(2, 1, 9, 9, dtype=torch.bool)
PADDED[1, ..., 6:] = False
MASKS = {
    "none": None,
    "padding": PADDED,
    "causal": torch.ones(9, 9, dtype=torch.bool).tril()[None, None],
    "added": torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1)),
}


class Layer(torch.nn.Module):
    """What an attention function is told about the layer that calls it."""

    def __init__(self, is_causal=False, groups=1):
        super().__init__()
        self.is_causal, self.num_key_value_groups = is_causal, groups


def projections(groups=1, tokens=9):
    """Query, key and value."""
    generator = torch.Generator().manual_seed(0)
    heads = (4, 4 // groups, 4 // groups)
    return [torch.randn(2, number, tokens, 8, generator=generator) for number in heads]


def with_gradients(function, layer, mask, **arguments):
    """What an attention function gives, and the gradients of query, key and value."""
    inputs = [tensor.requires_grad_() for tensor in projections(layer.num_key_value_groups)]
    out, weights = function(layer, *inputs, MASKS[mask], **arguments)
    assert weights is None and out.shape == (2, 9, 4, 8)
    out.square().sum().backward()
    return out, *(tensor.grad for tensor in inputs)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_gives_what_sdpa_gives(groups, is_causal, mask, scaling):
    layer = Layer(is_causal, groups)
    ours, theirs = (
        with_gradients(function, layer, mask, scaling=scaling)
        for function in (attention_forward, sdpa_attention_forward)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("pieces", [2, 3, 8, 20])
def test_pieces_give_what_the_whole_gives(groups, mask, pieces, monkeypatch):
    whole = with_gradients(attention_forward, Layer(groups=groups), mask)
    monkeypatch.setattr(attention, "SCORES", 2 * 4 * 9 * 9 // pieces)
    assert_close(with_gradients(attention_forward, Layer(groups=groups), mask), whole)


@pytest.mark.parametrize("scores", [2 * 4 * 81, 4 * 81, 2 * 81, 81, 80])
def test_no_piece_is_larger_than_said(scores, monkeypatch):
    sizes = []
    monkeypatch.setattr(attention, "drop", lambda shares, p: sizes.append(shares.numel()) or shares)
    monkeypatch.setattr(attention, "SCORES", scores)
    attention_forward(Layer(), *projections(), None)
    assert sum(sizes) == 2 * 4 * 81 and max(sizes) == max(scores, 81)


FP32, BF16 = attention.LONGEST[torch.float32], attention.LONGEST[torch.bfloat16]


@pytest.mark.parametrize(
    ("asked", "tokens", "to", "arguments"),
    [
        (0, FP32, torch.float32, {}),
        (1, FP32 + 1, torch.float32, {}),
        (0, FP32 + 1, torch.float32, {"dropout": 0.1}),
        (0, BF16, torch.bfloat16, {}),
        (1, BF16 + 1, torch.bfloat16, {}),
        (0, BF16 + 1, torch.bfloat16, {"dropout": 0.1}),
        (1, 9, "meta", {}),
        (1, 9, "cpu", {"position_bias": torch.zeros(1, 4, 9, 9)}),
    ],
    ids=str,
)
def test_what_goes_to_sdpa(asked, tokens, to, arguments, monkeypatch):
    """Longer sequences without dropout, another device, and a position bias."""
    counted = []

    def counting(*args, **kwargs):
        counted.append(args)
        return sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", counting)
    attention_forward(Layer(), *(tensor.to(to) for tensor in projections(tokens=tokens)), None, **arguments)
    assert len(counted) == asked and set(attention.LONGEST) == {torch.float32, torch.bfloat16}


def test_dropout_drops_whole_shares():
    torch.manual_seed(0)
    query, key, _ = projections()
    value = torch.eye(9).expand(2, 4, 9, 9).clone()  # so that the output is the shares
    whole, _ = attention_forward(Layer(), query, key, value, None)
    dropped, _ = attention_forward(Layer(), query, key, value, None, dropout=0.5)
    kept = dropped != 0
    assert 0.4 < kept.float().mean() < 0.6
    assert_close(dropped[kept], 2 * whole[kept])


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=CHOOSES) if name == "modernbert" else name for name in OWN]
)
def test_is_the_backbones_unless_another_is_named(make_model, model_type):
    for fields, name in (({}, attention.NAME), ({"attn_implementation": "sdpa"}, "sdpa")):
        assert make_model(model_type, FPTModel, **fields).backbone.config._attn_implementation == name


MODEL, AUTO = FPTForSequenceClassification, AutoModelForSequenceClassification


def set_to(config, attn_implementation):
    """A model whose attention is chosen once it is built."""
    model = MODEL(config)
    model.set_attn_implementation(attn_implementation)
    return model


def new(config, attn_implementation):
    return MODEL.from_backbone(config.base_model_config, config, attn_implementation=attn_implementation)


NAMED = {  # each way to name the attention: of a configuration, a saved delta, and the name
    "from_backbone": lambda config, delta, name: new(config, name),
    "by part": lambda config, delta, name: new(config, {"base_model_config": name}),
    "from_pretrained": lambda config, delta, name: MODEL.from_pretrained(delta, attn_implementation=name),
    "AutoModel's": lambda config, delta, name: AUTO.from_pretrained(delta, attn_implementation=name),
    "from_config": lambda config, delta, name: AUTO.from_config(config, attn_implementation=name),
    "the constructor": lambda config, delta, name: MODEL(
        FPTConfig(**config.to_dict() | {"attn_implementation": name})
    ),
    "set": lambda config, delta, name: set_to(config, name),
    "set by part": lambda config, delta, name: set_to(config, {"base_model_config": name}),
    "set at the top": lambda config, delta, name: set_to(config, {"": name}),
}


def running(model):
    """What the configurations of a model, of its base and of its backbone say of the attention."""
    configs = (model.config, model.config.base_model_config, model.fpt.config, model.fpt.backbone.config)
    return {config._attn_implementation for config in configs}


@pytest.mark.parametrize("name", ["eager", "sdpa", attention.NAME])
@pytest.mark.parametrize("way", NAMED)
@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_the_configuration_says_which_one_runs(model_type, way, name, tmp_path, warned):
    config = FPTConfig(base_model_config=tiny_config(model_type), backbone_init="random", **FIELDS)
    default = MODEL(copy.deepcopy(config))
    default.save_pretrained(tmp_path / "default")
    assert running(default) == running(MODEL(default.config)) == {attention.NAME}
    model = NAMED[way](config, tmp_path / "default", name)
    assert running(model) == {name} and not warned.records
    model.save_pretrained(tmp_path / "named")
    assert (tmp_path / "named" / "config.json").read_bytes() == (tmp_path / "default" / "config.json").read_bytes()
    assert running(MODEL.from_pretrained(tmp_path / "named")) == {attention.NAME}
    output = model.eval()(input_values=VALUES, output_attentions=name == "eager")
    assert (output.attentions is not None) == (name == "eager")


def test_the_configuration_asks_for_attentions_where_there_are_some(make_model):
    model = make_model("bert")
    with pytest.raises(ValueError, match="'eager'"):
        model.config.output_attentions = True
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    assert [tuple(one.shape) for one in model(input_values=VALUES).attentions] == [(3, HEADS, 10, 10)] * LAYERS


def test_a_backbone_that_cannot_change_its_attention_keeps_it(make_model, warned):
    model = make_model("longformer")
    model.set_attn_implementation("sdpa")
    assert running(model) == {"eager"} and "does not support setting" in warned.text


@pytest.mark.parametrize("model_type", OWN)
@pytest.mark.parametrize("padded", [False, True])
def test_the_models_agree(make_model, model_type, padded):
    mask = torch.arange(10)[None] < torch.tensor([10, 3, 1] if padded else [10] * 3)[:, None]
    inputs = {"input_values": VALUES} | ({"attention_mask": mask} if padded else {})
    one, two = (
        make_model(model_type, FPTModel, attn_implementation=name).eval()(**inputs).last_hidden_state
        for name in (None, "sdpa")
    )
    assert_close(one[mask], two[mask], rtol=1e-4, atol=1e-5)


@since("5.6", "be traced with another batch size")
@pytest.mark.filterwarnings("ignore")  # torch: tracing is deprecated
@pytest.mark.parametrize("padded", [False, True])
def test_a_traced_model_serves_other_batch_sizes(make_model, padded, monkeypatch):
    monkeypatch.setattr(attention, "SCORES", 150)  # several pieces
    model = make_model("bert").eval()

    def inputs(batch):
        values = torch.randn(batch, 5, 3, generator=torch.Generator().manual_seed(2))
        mask = (torch.arange(5) < 3).long().expand(batch, -1).clone()
        return {"input_values": values} | ({"attention_mask": mask} if padded else {})

    traced = torch.jit.trace(model, example_kwarg_inputs=inputs(4), strict=False, check_trace=False)
    for batch in (1, 4, 7):
        assert_close(traced(**inputs(batch))["logits"], model(**inputs(batch)).logits)


def test_transformers_knows_it():
    assert attention.NAME in AttentionInterface().valid_keys()
    model = AutoModel.from_config(tiny_config("bert"), attn_implementation=attention.NAME)
    assert model.config._attn_implementation == attention.NAME
