"""The attention chosen by device, precision, dropout and length: which one runs, and that both give the same."""

import copy

import pytest
import torch
from conftest import HEADS, LAYERS, TINY_BACKBONES, since, tiny_config
from transformers import AttentionInterface, AutoModel, AutoModelForSequenceClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fpt_adapters import FPTConfig, FPTForSequenceClassification, FPTModel
from fpt_adapters.backbones.cpu import attention
from fpt_adapters.backbones.cpu.attention import attention_forward

OWN = [name for name in TINY_BACKBONES if name not in ("longformer", "openai-gpt", "t5")]  # the rest have their own
CHOOSES = since("5.7", "change ModernBERT's attention")


class Layer(torch.nn.Module):
    """What an attention function is told about the layer that calls it."""

    def __init__(self, is_causal=False, groups=1):
        super().__init__()
        self.is_causal, self.num_key_value_groups = is_causal, groups


def projections(groups=1, tokens=9, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, tokens, 8), (2, 4 // groups, tokens, 8), (2, 4 // groups, tokens, 8)]
    return [torch.randn(shape, generator=generator).requires_grad_(requires_grad) for shape in shapes]


def masks():
    padded = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    padded[1, ..., 6:] = False
    return {
        "none": None,
        "padding": padded,
        "causal": torch.ones(9, 9, dtype=torch.bool).tril()[None, None],
        "added": torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1)),
    }


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_gives_what_sdpa_gives(groups, is_causal, mask, scaling):
    layer, own, other = (
        Layer(is_causal, groups),
        projections(groups, requires_grad=True),
        projections(groups, requires_grad=True),
    )
    out, weights = attention_forward(layer, *own, masks()[mask], scaling=scaling)
    expected, _ = sdpa_attention_forward(layer, *other, masks()[mask], scaling=scaling)
    assert weights is None and out.shape == (2, 9, 4, 8)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    for one, two in zip(own, other, strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.fixture
def calls(monkeypatch):
    """How often transformers' sdpa was asked."""
    counted = []

    def counting(*args, **kwargs):
        counted.append(args[1].shape)
        return sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", counting)
    return counted


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("pieces", [2, 3, 8, 20])
def test_pieces_give_what_the_whole_gives(groups, mask, pieces, monkeypatch):
    layer, own, other = (
        Layer(groups=groups),
        projections(groups, requires_grad=True),
        projections(groups, requires_grad=True),
    )
    whole, _ = attention_forward(layer, *own, masks()[mask])
    whole.square().sum().backward()
    monkeypatch.setattr(attention, "SCORES", 2 * 4 * 9 * 9 // pieces)
    cut, _ = attention_forward(layer, *other, masks()[mask])
    cut.square().sum().backward()
    torch.testing.assert_close(cut, whole)
    for one, two in zip(own, other, strict=True):
        torch.testing.assert_close(two.grad, one.grad)


def test_no_piece_is_larger_than_said(monkeypatch):
    sizes = []
    monkeypatch.setattr(attention, "drop", lambda shares, p: sizes.append(shares.numel()) or shares)
    for scores in (2 * 4 * 81, 4 * 81, 2 * 81, 81, 80):
        sizes.clear()
        monkeypatch.setattr(attention, "SCORES", scores)
        attention_forward(Layer(), *projections(), None)
        assert sum(sizes) == 2 * 4 * 81 and max(sizes) == max(scores, 81)


@pytest.mark.parametrize(("dtype", "longest"), attention.LONGEST.items())
def test_without_dropout_longer_sequences_go_to_sdpa(calls, dtype, longest):
    for tokens in (longest, longest + 1):
        inputs = [tensor.to(dtype) for tensor in projections(tokens=tokens)]
        attention_forward(Layer(), *inputs, None)
        assert len(calls) == (tokens > longest)
        attention_forward(Layer(), *inputs, None, dropout=0.1)
        assert len(calls) == (tokens > longest)


def test_another_device_goes_to_sdpa(calls):
    query, key, value = (tensor.to("meta") for tensor in projections())
    attention_forward(Layer(), query, key, value, None)
    assert len(calls) == 1


def test_a_position_bias_goes_to_sdpa(calls):
    attention_forward(Layer(), *projections(), None, position_bias=torch.zeros(1, 4, 9, 9))
    assert len(calls) == 1


def test_dropout_drops_whole_shares():
    torch.manual_seed(0)
    query, key, _ = projections()
    value = torch.eye(9)[:, :].expand(2, 4, 9, 9).clone()  # so that the output is the shares
    whole, _ = attention_forward(Layer(), query, key, value, None)
    dropped, _ = attention_forward(Layer(), query, key, value, None, dropout=0.5)
    kept = dropped != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=CHOOSES) if name == "modernbert" else name for name in OWN]
)
def test_is_the_backbones_unless_another_is_named(make_model, model_type):
    assert make_model(model_type, FPTModel).backbone.config._attn_implementation == attention.NAME
    named = make_model(model_type, FPTModel, attn_implementation="sdpa")
    assert named.backbone.config._attn_implementation == "sdpa"


AUTO = AutoModelForSequenceClassification
NAMED = {
    "from_backbone": lambda config, folder, named: FPTForSequenceClassification.from_backbone(
        config.base_model_config, config, **named
    ),
    "from_pretrained": lambda config, folder, named: FPTForSequenceClassification.from_pretrained(folder, **named),
    "AutoModel's": lambda config, folder, named: AUTO.from_pretrained(folder, **named),
    "from_config": lambda config, folder, named: AUTO.from_config(config, **named),
    "the constructor": lambda config, folder, named: FPTForSequenceClassification(
        FPTConfig(**config.to_dict() | named)
    ),
    "set": lambda config, folder, named: set_to(FPTForSequenceClassification(config), **named),
    "set by part": lambda config, folder, named: set_to(
        FPTForSequenceClassification(config), {"base_model_config": named["attn_implementation"]}
    ),
    "set at the top": lambda config, folder, named: set_to(
        FPTForSequenceClassification(config), {"": named["attn_implementation"]}
    ),
    "by part": lambda config, folder, named: FPTForSequenceClassification.from_backbone(
        config.base_model_config, config, attn_implementation={"base_model_config": named["attn_implementation"]}
    ),
}


def set_to(model, attn_implementation):
    model.set_attn_implementation(attn_implementation)
    return model


def running(model):
    """What the configurations of a model, of its base and of its backbone say of the attention."""
    configs = (model.config, model.config.base_model_config, model.fpt.config, model.fpt.backbone.config)
    return {config._attn_implementation for config in configs}


@pytest.mark.parametrize("name", ["eager", "sdpa", attention.NAME])
@pytest.mark.parametrize("way", NAMED)
@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_the_configuration_says_which_one_runs(model_type, way, name, tmp_path, warned):
    fields = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
    config = FPTConfig(base_model_config=tiny_config(model_type), backbone_init="random", **fields)
    default = FPTForSequenceClassification(copy.deepcopy(config))
    default.save_pretrained(tmp_path / "default")
    assert running(default) == running(FPTForSequenceClassification(default.config)) == {attention.NAME}
    model = NAMED[way](config, tmp_path / "default", {"attn_implementation": name})
    assert running(model) == {name} and not warned.records
    model.save_pretrained(tmp_path / "named")
    assert (tmp_path / "named" / "config.json").read_bytes() == (tmp_path / "default" / "config.json").read_bytes()
    assert running(FPTForSequenceClassification.from_pretrained(tmp_path / "named")) == {attention.NAME}
    output = model.eval()(input_values=torch.randn(2, 5, 3), output_attentions=name == "eager")
    assert (output.attentions is not None) == (name == "eager")


def test_the_configuration_asks_for_attentions_where_there_are_some(make_model):
    model, inputs = make_model("bert"), {"input_values": torch.randn(2, 5, 3)}
    with pytest.raises(ValueError, match="'eager'"):
        model.config.output_attentions = True
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    assert [tuple(one.shape) for one in model(**inputs).attentions] == [(2, HEADS, 5, 5)] * LAYERS


def test_a_backbone_that_cannot_change_its_attention_keeps_it(make_model, warned):
    model = make_model("longformer")
    model.set_attn_implementation("sdpa")
    assert running(model) == {"eager"} and "does not support setting" in warned.text


@pytest.mark.parametrize("model_type", OWN)
@pytest.mark.parametrize("padded", [False, True])
def test_the_models_agree(make_model, model_type, padded):
    own = make_model(model_type, FPTModel).eval()
    other = make_model(model_type, FPTModel, attn_implementation="sdpa").eval()
    inputs = {"input_values": torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(2))}
    if padded:
        inputs["attention_mask"] = torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    real = inputs.get("attention_mask", torch.ones(3, 5)).bool()
    one, two = own(**inputs).last_hidden_state, other(**inputs).last_hidden_state
    torch.testing.assert_close(one[real], two[real], rtol=1e-4, atol=1e-5)


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
        torch.testing.assert_close(traced(**inputs(batch))["logits"], model(**inputs(batch)).logits)


def test_transformers_knows_it():
    assert attention.NAME in AttentionInterface().valid_keys()
    model = AutoModel.from_config(tiny_config("bert"), attn_implementation=attention.NAME)
    assert model.config._attn_implementation == attention.NAME
