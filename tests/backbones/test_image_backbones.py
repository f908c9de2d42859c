"""Image transformers as backbones: parity with their own forward, what is left of them, checkpoints, padding."""

import pytest
import torch
from conftest import (
    IMAGE_BACKBONES,
    LAYERS,
    PICTURES,
    VALUES,
    WIDTH,
    assert_same,
    build_seeded,
    move,
    outputs,
    saved_once,
    tiny_config,
    trained_names,
)
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    DeiTForImageClassification,
    Dinov2ForImageClassification,
    ViTForImageClassification,
    ViTModel,
)

from fpt_adapters import FPTForImageClassification, FPTModel
from fpt_adapters.backbones.fingerprints import BY_LAYER, fingerprints
from fpt_adapters.backbones.images import IMAGE_FAMILIES, ImageEncoder
from fpt_adapters.backbones.structure import run_backbone

TYPES = pytest.mark.parametrize("model_type", IMAGE_BACKBONES)
CLASSIFIERS = {
    "vit": ViTForImageClassification,
    "deit": DeiTForImageClassification,
    "dinov2": Dinov2ForImageClassification,
}
NO_VALUES = {"input_size": None, "sequence_length": None}
IMAGES = NO_VALUES | {"input_type": "images", "image_size": 12, "num_channels": 1, "patch_size": 4, "num_labels": 3}

if not IMAGE_BACKBONES:
    pytest.skip("these transformers have no image model that masks padding", allow_module_level=True)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """checkpoints(model_type): the folder of an image classifier, as people share them."""
    return saved_once(tmp_path_factory, lambda name: CLASSIFIERS[name](tiny_config(name, num_labels=7)))


# Parity


@pytest.mark.parametrize("model_type", IMAGE_FAMILIES)
@torch.no_grad()
def test_the_models_own_embeddings_give_its_own_hidden_states(model_type):
    if model_type.startswith("dinov2") and "dinov2" not in IMAGE_BACKBONES:
        pytest.skip("cannot mask padding with these transformers")
    sizes = {"mlp_ratio": 2} if model_type.startswith("dinov2") else {"intermediate_size": 64}
    config = AutoConfig.for_model(model_type, **PICTURES, **sizes, attn_implementation="eager")
    model, entered = move(AutoModel.from_config(config)), []
    layers = model.get_submodule(IMAGE_FAMILIES[model_type])
    hook = layers[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    asked = {"output_hidden_states": True, "output_attentions": True}
    expected = model(torch.randn(2, 3, 8, 8), **asked)
    hook.remove()
    got = run_backbone(ImageEncoder(model), entered[0], **asked)
    assert len(got.hidden_states) == LAYERS + 1 and len(got.attentions) == LAYERS
    for name in ("last_hidden_state", "hidden_states", "attentions"):
        assert_close(got[name], expected[name])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@TYPES
def test_padding_reaches_no_hidden_state(make_model, model_type, implementation):
    model = make_model(model_type, FPTModel, attn_implementation=implementation).eval()
    assert model.backbone.config._attn_implementation == implementation
    inputs = VALUES[:2]
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 6:] = 0

    def states(inputs, **mask):
        output = model(input_values=inputs, output_hidden_states=True, **mask)
        return [*output.hidden_states, output.last_hidden_state]

    with torch.no_grad():
        padded, alone, whole = states(inputs, attention_mask=mask), states(inputs[1:, :6]), states(inputs[:1])
    assert_close([state[1:, :6] for state in padded], alone, rtol=1e-4, atol=1e-5)
    assert_close([state[:1] for state in padded], whole, rtol=1e-4, atol=1e-5)


def test_attentions_leave_padding_out(make_model):
    model = make_model("vit", attn_implementation="eager").eval()
    mask = torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
    with torch.no_grad():
        output = model(input_values=VALUES[:2], attention_mask=mask, output_attentions=True)
        assert model(input_values=VALUES).attentions is None
    assert [tuple(shares.shape) for shares in output.attentions] == [(2, 2, 10, 10)] * LAYERS
    assert not output.attentions[0][1, :, :, 6:].any()
    assert not any(layer.attention._forward_hooks for layer in model.fpt.backbone.layers)
    assert_close(output.attentions[1].sum(-1), torch.ones(2, 2, 10))


# What is left of the model


@TYPES
def test_only_the_layers_and_the_final_norm_are_kept(checkpoints, model_type):
    folder = checkpoints(model_type)
    model, reference = build_seeded(folder, FPTModel), AutoModel.from_pretrained(folder)
    layers = reference.get_submodule(IMAGE_FAMILIES[model_type])
    expected = {f"layers.{name}": tensor for name, tensor in layers.state_dict().items()}
    expected |= {f"layernorm.{name}": tensor for name, tensor in reference.layernorm.state_dict().items()}
    assert_same(model.backbone.state_dict(), expected)
    rows = {row.group: row.parameters for row in model.count_parameters()}
    assert "other" not in rows
    assert sum(rows.values()) == sum(map(torch.numel, expected.values())) + 4 * WIDTH + 10 * WIDTH
    assert trained_names(model.backbone) == {name for name in expected if "norm" in name}
    assert (model.config.positions, model.config.pooling) == ("new", "mean")


@TYPES
def test_the_fingerprint_is_of_what_is_used(checkpoints, tmp_path, model_type):
    def fingerprint(folder):
        return build_seeded(folder, FPTModel).config.base_model_fingerprint

    original, reference = fingerprint(checkpoints(model_type)), AutoModel.from_pretrained(checkpoints(model_type))
    move(reference.embeddings)
    reference.save_pretrained(tmp_path)
    assert fingerprint(tmp_path) == original == fingerprints(ImageEncoder(reference))[BY_LAYER]
    move(reference.layernorm)
    reference.save_pretrained(tmp_path)
    assert fingerprint(tmp_path) != original


# Building, training, saving


@pytest.mark.parametrize("init", ["pretrained", "random", "statistics"])
@TYPES
def test_a_delta_comes_back(checkpoints, tmp_path, model_type, init):
    folder = checkpoints(model_type)
    model = build_seeded(folder, FPTForImageClassification, backbone_init=init, backbone_init_seed=3, **IMAGES)
    move(model).save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, base_model_name_or_path=folder)
    assert type(loaded) is FPTForImageClassification
    pictures = torch.randn(2, 1, 12, 12)
    assert torch.equal(outputs(loaded, pixel_values=pictures), outputs(model, pixel_values=pictures))
    assert loaded.fpt.backbone.config._attn_implementation == "fpt"


def test_transformers_without_masks_for_padding_are_refused(monkeypatch):
    monkeypatch.setattr(ViTModel, "forward", lambda self, pixel_values=None: None)
    with pytest.raises(ValueError, match=r"ViTModel \(vit\) cannot be a backbone with transformers .* before 5\.9"):
        build_seeded(tiny_config("vit"))
