"""Keeping a base's first layers: their weights and configuration, in every family, and the delta that names them."""

import json

import pytest
import torch
from conftest import TINY_BACKBONES, rewrite_config, saved_once, tiny_config
from transformers import AutoConfig, AutoModelForSequenceClassification, Qwen3Config

from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification, FPTModel
from fpt_adapters.backbones.baselines.configuration_identity import IdentityConfig
from fpt_adapters.backbones.baselines.modeling_lstm import LSTMConfig
from fpt_adapters.backbones.building import build_backbone, check_same_architecture
from fpt_adapters.backbones.fingerprints import fingerprints
from fpt_adapters.rules.depth import first_layers

DEPTH, KEPT = 3, 2
TYPES = [*TINY_BACKBONES, "fpt_lstm"]
PER_LAYER = {"longformer": {"attention_window": [4, 8, 16]}}
FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}


def three_layers(model_type):
    """The configuration of a tiny backbone of three layers."""
    if model_type == "fpt_lstm":
        return LSTMConfig(hidden_size=32, num_hidden_layers=DEPTH)
    depth = {tiny_config(model_type).attribute_map.get("num_hidden_layers", "num_hidden_layers"): DEPTH}
    return tiny_config(model_type, **depth | PER_LAYER.get(model_type, {}))


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """bases(model_type): the folder of a checkpoint of three layers."""
    return saved_once(tmp_path_factory, three_layers, seed=3)


def build(base, layers, init="pretrained", **fields):
    return FPTModel.from_backbone(base, backbone_init=init, backbone_layers=layers, **FIELDS | fields).eval()


def weights(model):
    return dict(model.backbone.named_parameters())


@pytest.mark.parametrize("model_type", TYPES)
def test_the_first_layers_compute_what_they_did(bases, model_type):
    whole, cut = (build(bases(model_type), layers) for layers in (None, KEPT))
    kept = weights(cut)
    assert [name for name, tensor in kept.items() if not torch.equal(tensor, weights(whole)[name])] == []
    assert (len(kept) < len(weights(whole))) is (model_type != "albert")  # whose layers share their weights
    cut.load_state_dict(whole.state_dict(), strict=False)  # the new modules, which were drawn for each
    inputs = torch.randn(2, 7, 3)
    with torch.no_grad():
        expected, got = (model(input_values=inputs, output_hidden_states=True).hidden_states for model in (whole, cut))
    assert (len(expected), len(got)) == (DEPTH + 1, KEPT + 1)
    for one, other in zip(got[:KEPT], expected, strict=False):  # after the last layer comes the norm
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("init", ["random", "pretrained", "statistics"])
@pytest.mark.parametrize("model_type", TYPES)
def test_the_backbones_configuration_says_so_and_the_bases_does_not(bases, model_type, init):
    model = build(bases(model_type), KEPT, init)
    assert model.backbone.config.num_hidden_layers == KEPT
    assert model.config.base_model_config.num_hidden_layers == DEPTH
    check_same_architecture(model.config.base_model_config, three_layers(model_type), "itself")


@pytest.mark.parametrize(
    "model_type, name", [("qwen3", "layer_types"), ("modernbert", "layer_types"), ("longformer", "attention_window")]
)
def test_lists_of_layers_are_cut_too(bases, model_type, name):
    model = build(bases(model_type), KEPT)
    whole = getattr(model.config.base_model_config, name)
    assert len(whole) == DEPTH and getattr(model.backbone.config, name) == whole[:KEPT]


def test_lists_of_other_things_stay():
    config = Qwen3Config(num_hidden_layers=DEPTH, eos_token_id=[1, 2, 3])
    assert first_layers(config, KEPT).eos_token_id == [1, 2, 3]
    assert config.num_hidden_layers == len(config.layer_types) == DEPTH


@pytest.mark.parametrize("model_type", TYPES)
def test_random_weights_are_those_of_the_shorter_model(model_type):
    config = three_layers(model_type)
    arguments = {"init": "random", "seed": 5, "scheme": None, "dropout": None, "dtype": None}
    arguments |= {"attn_implementation": None}
    shorter, expected = build_backbone(first_layers(config, KEPT), None, **arguments)
    cut, digest = build_backbone(config, None, layers=KEPT, **arguments)
    assert digest == expected == fingerprints(cut)
    assert all(map(torch.equal, cut.parameters(), shorter.parameters()))


def test_gpt2s_residual_projections_are_scaled_by_the_layers_that_are_kept():
    model = build(tiny_config("gpt2", n_layer=8, n_embd=64), KEPT, "random")
    for block in model.backbone.h:
        assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / (2 * KEPT) ** 0.5, rel=0.05)


def test_statistics_are_those_of_the_layers_that_are_kept(bases):
    drawn, again, original = (
        weights(build(bases("gpt2"), KEPT, init)) for init in ("statistics", "statistics", "pretrained")
    )
    for name, tensor in original.items():
        assert drawn[name].mean().item() == pytest.approx(tensor.mean().item(), abs=0.02)
        assert drawn[name].std().item() == pytest.approx(tensor.std().item(), rel=0.3, abs=1e-6)
        assert torch.equal(drawn[name], again[name])
    assert not torch.equal(drawn["h.1.mlp.c_fc.weight"], original["h.1.mlp.c_fc.weight"])


def test_each_depth_has_its_fingerprint_and_the_full_one_is_the_bases(bases):
    prints = {layers: build(bases("gpt2"), layers).config.base_model_fingerprint for layers in (None, 1, 2, 3)}
    assert len(set(prints.values())) == 3 and prints[None] == prints[DEPTH]


# The delta


@pytest.mark.parametrize("init", ["pretrained", "random", "statistics"])
@pytest.mark.parametrize("model_type", ["gpt2", "t5", "fpt_lstm"])
def test_a_delta_brings_its_depth_along(bases, tmp_path, model_type, init):
    model = FPTForSequenceClassification.from_backbone(
        bases(model_type), backbone_init=init, backbone_layers=KEPT, **FIELDS
    ).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=bases(model_type))
    assert loaded.config.backbone_layers == KEPT and loaded.fpt.backbone.config.num_hidden_layers == KEPT
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    inputs = torch.randn(2, 7, 3)
    with torch.no_grad():
        assert torch.equal(loaded(input_values=inputs).logits, model(input_values=inputs).logits)


def test_a_delta_of_another_depth_is_refused(bases, tmp_path):
    build(bases("gpt2"), KEPT).save_pretrained(tmp_path)
    config = FPTConfig.from_pretrained(tmp_path)
    config.backbone_layers = 1
    with pytest.raises(DeltaError, match="Another base"):
        FPTModel.from_pretrained(tmp_path, config=config, base_model_name_or_path=bases("gpt2"))
    rewrite_config(tmp_path, json.loads((tmp_path / "config.json").read_text()) | {"backbone_layers": 1})
    with pytest.raises(DeltaError, match="Another base"):
        FPTModel.from_pretrained(tmp_path, base_model_name_or_path=bases("gpt2"))


# Refusals


@pytest.mark.parametrize("model_type", TYPES)
def test_more_layers_than_there_are_are_refused(model_type):
    with pytest.raises(ValueError, match=rf"backbone_layers=4, but this {model_type} has 3 layers"):
        FPTConfig(base_model_config=three_layers(model_type), backbone_layers=DEPTH + 1, **FIELDS)


def test_a_base_is_asked_before_it_is_loaded(bases):
    with pytest.raises(ValueError, match=r"backbone_layers=9, but this bert has 3 layers"):
        build(bases("bert"), 9)


@pytest.mark.parametrize(
    "config, words",
    [
        (tiny_config("albert", num_hidden_layers=4, num_hidden_groups=2), "num_hidden_groups=2"),
        (IdentityConfig(hidden_size=32), "fpt_identity counts none"),
        (AutoConfig.for_model("funnel"), "funnel"),
    ],
    ids=["albert", "identity", "funnel"],
)
def test_where_the_first_layers_make_no_backbone_they_are_refused(config, words):
    with pytest.raises(ValueError, match=words):
        build(config, 2, "random")
