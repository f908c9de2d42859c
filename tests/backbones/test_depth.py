"""Keeping a base's first layers: their weights and configuration, in every family, and the delta that names them."""

import json

import pytest
import torch
from conftest import (
    FIELDS,
    TINY_BACKBONES,
    VALUES,
    assert_same,
    build_seeded,
    outputs,
    reloaded,
    rewrite_config,
    saved_once,
    tiny_config,
    weights,
)
from transformers import AutoConfig, AutoModel, Qwen3Config

from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification, FPTModel
from fpt_adapters.backbones.baselines.configuration_identity import IdentityConfig
from fpt_adapters.backbones.building import build_backbone, check_same_architecture
from fpt_adapters.backbones.fingerprints import fingerprints
from fpt_adapters.rules.depth import first_layers

DEPTH, KEPT = 3, 2
TYPES = [*TINY_BACKBONES, "fpt_lstm"]
INITS = pytest.mark.parametrize("init", ["random", "pretrained", "statistics"])
PER_LAYER = {"longformer": {"attention_window": [4, 8, 16]}}


def three_layers(model_type):
    """The configuration of a tiny backbone of three layers."""
    depth = {tiny_config(model_type).attribute_map.get("num_hidden_layers", "num_hidden_layers"): DEPTH}
    return tiny_config(model_type, **depth | PER_LAYER.get(model_type, {}))


@pytest.fixture(scope="session")
def deep(tmp_path_factory):
    """deep(model_type): the folder of a checkpoint of three layers."""
    return saved_once(tmp_path_factory, lambda model_type: AutoModel.from_config(three_layers(model_type)))


def cut(base, layers=KEPT, model_class=FPTModel, **fields):
    return build_seeded(base, model_class, backbone_layers=layers, **fields).eval()


@pytest.mark.parametrize("model_type", TYPES)
def test_the_first_layers_compute_what_they_did(deep, model_type):
    whole, first = cut(deep(model_type), None), cut(deep(model_type))
    kept, all_of_them = weights(first.backbone), weights(whole.backbone)
    assert_same(kept, {name: all_of_them[name] for name in kept})
    assert (len(kept) < len(all_of_them)) is (model_type != "albert")  # whose layers share their weights
    first.load_state_dict(whole.state_dict(), strict=False)  # the new modules, too
    with torch.no_grad():
        states, got = (model(input_values=VALUES, output_hidden_states=True).hidden_states for model in (whole, first))
    assert (len(states), len(got)) == (DEPTH + 1, KEPT + 1)
    torch.testing.assert_close(got[:KEPT], states[:KEPT])  # after the last layer comes the norm


@INITS
@pytest.mark.parametrize("model_type", TYPES)
def test_the_backbones_configuration_says_so_and_the_bases_does_not(deep, model_type, init):
    model = cut(deep(model_type), backbone_init=init)
    assert model.backbone.config.num_hidden_layers == KEPT
    assert model.config.base_model_config.num_hidden_layers == DEPTH
    check_same_architecture(model.config.base_model_config, three_layers(model_type), "itself")


@pytest.mark.parametrize(
    ("model_type", "name"),
    [("qwen3", "layer_types"), ("modernbert", "layer_types"), ("longformer", "attention_window")],
)
def test_lists_of_layers_are_cut_too(deep, model_type, name):
    model = cut(deep(model_type))
    whole = getattr(model.config.base_model_config, name)
    assert len(whole) == DEPTH and getattr(model.backbone.config, name) == whole[:KEPT]


def test_lists_of_other_things_stay():
    config = Qwen3Config(num_hidden_layers=DEPTH, eos_token_id=[1, 2, 3])
    assert first_layers(config, KEPT).eos_token_id == [1, 2, 3]
    assert config.num_hidden_layers == len(config.layer_types) == DEPTH


@pytest.mark.parametrize("model_type", TYPES)
def test_random_weights_are_those_of_the_shorter_model(model_type):
    config, new = three_layers(model_type), {"dropout": None, "dtype": None, "attn_implementation": None}
    new |= {"init": "random", "seed": 5, "scheme": None}
    shorter, expected = build_backbone(first_layers(config, KEPT), None, **new)
    first, digest = build_backbone(config, None, layers=KEPT, **new)
    assert_same(weights(first), weights(shorter))
    assert digest == expected == fingerprints(first)


def test_gpt2s_residual_projections_are_scaled_by_the_layers_that_are_kept():
    for block in cut(tiny_config("gpt2", n_layer=8, n_embd=64)).backbone.h:
        assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / (2 * KEPT) ** 0.5, rel=0.05)


def test_statistics_are_those_of_the_layers_that_are_kept(deep):
    drawn, again, original = (
        weights(cut(deep("gpt2"), backbone_init=init).backbone) for init in ("statistics", "statistics", "pretrained")
    )
    assert_same(drawn, again)
    for name, tensor in original.items():
        assert drawn[name].mean().item() == pytest.approx(tensor.mean().item(), abs=0.05)
        assert drawn[name].std().item() == pytest.approx(tensor.std().item(), rel=0.3, abs=1e-6)
    assert not torch.equal(drawn["h.1.mlp.c_fc.weight"], original["h.1.mlp.c_fc.weight"])


def test_each_depth_has_its_fingerprint_and_the_full_one_is_the_bases(deep):
    prints = {layers: cut(deep("gpt2"), layers).config.base_model_fingerprint for layers in (None, 1, 2, 3)}
    assert len(set(prints.values())) == 3 and prints[None] == prints[DEPTH]


# The delta


@INITS
@pytest.mark.parametrize("model_type", ["gpt2", "t5", "fpt_lstm"])
def test_a_delta_brings_its_depth_along(deep, tmp_path, model_type, init):
    model = cut(deep(model_type), model_class=FPTForSequenceClassification, backbone_init=init)
    loaded = reloaded(model, tmp_path, base_model_name_or_path=deep(model_type))
    assert loaded.config.backbone_layers == KEPT and loaded.fpt.backbone.config.num_hidden_layers == KEPT
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    assert torch.equal(outputs(loaded), outputs(model))


def test_a_delta_of_another_depth_is_refused(deep, tmp_path):
    cut(deep("gpt2")).save_pretrained(tmp_path)
    config = FPTConfig.from_pretrained(tmp_path)
    config.backbone_layers = 1
    with pytest.raises(DeltaError, match="Another base"):
        FPTModel.from_pretrained(tmp_path, config=config, base_model_name_or_path=deep("gpt2"))
    rewrite_config(tmp_path, json.loads((tmp_path / "config.json").read_text()) | {"backbone_layers": 1})
    with pytest.raises(DeltaError, match="Another base"):
        FPTModel.from_pretrained(tmp_path, base_model_name_or_path=deep("gpt2"))


# Refusals


@pytest.mark.parametrize("model_type", TYPES)
def test_more_layers_than_there_are_are_refused(model_type):
    with pytest.raises(ValueError, match=rf"backbone_layers=4, but this {model_type} has 3 layers"):
        FPTConfig(base_model_config=three_layers(model_type), backbone_layers=DEPTH + 1, **FIELDS)


def test_a_base_is_asked_before_it_is_loaded(deep):
    with pytest.raises(ValueError, match=r"backbone_layers=9, but this bert has 3 layers"):
        cut(deep("bert"), 9)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (tiny_config("albert", num_hidden_layers=4, num_hidden_groups=2), "num_hidden_groups=2"),
        (IdentityConfig(hidden_size=32), "fpt_identity counts none"),
        (AutoConfig.for_model("funnel"), "funnel"),
    ],
    ids=["albert", "identity", "funnel"],
)
def test_where_the_first_layers_make_no_backbone_they_are_refused(config, words):
    with pytest.raises(ValueError, match=words):
        cut(config)
