"""Image transformers as backbones: parity with their own forward, what is left of them, checkpoints, padding."""

import pytest
import torch
from conftest import IMAGE_BACKBONES, LAYERS, PICTURES, WIDTH, tiny_config
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    DeiTForImageClassification,
    Dinov2ForImageClassification,
    TrainingArguments,
    ViTForImageClassification,
    ViTModel,
)

from fpt_adapters import FPTForImageClassification, FPTForSequenceClassification, FPTModel, FPTTrainer
from fpt_adapters.backbones.fingerprints import BY_LAYER, fingerprints
from fpt_adapters.backbones.images import IMAGE_FAMILIES, ImageEncoder
from fpt_adapters.backbones.structure import run_backbone

TYPES = list(IMAGE_BACKBONES)
CLASSIFIERS = {
    "vit": ViTForImageClassification,
    "deit": DeiTForImageClassification,
    "dinov2": Dinov2ForImageClassification,
}
IMAGES = {"input_type": "images", "image_size": 12, "num_channels": 1, "patch_size": 4, "num_labels": 3}
VALUES = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
TOKENS = {"input_type": "tokens", "vocab_size": 12, "sequence_length": 10, "num_labels": 4}

if not TYPES:
    pytest.skip("these transformers have no image model that masks padding", allow_module_level=True)


def perturbed(model):
    """`model` with no weight at a default, so that each of them matters."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """checkpoints(model_type): the folder of an image classifier, as people share them, and its headless model."""
    made = {}

    def make(model_type):
        if model_type not in made:
            folder = tmp_path_factory.mktemp("pictures") / model_type
            model = perturbed(CLASSIFIERS[model_type](tiny_config(model_type, num_labels=7)))
            model.save_pretrained(folder)
            made[model_type] = folder, model.base_model
        return made[model_type]

    return make


def entering_and_leaving(model, layers):
    """What enters the first layer of an image model as it reads pictures, and what it says of them."""
    entered = []
    hook = layers[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    with torch.no_grad():
        output = model(torch.randn(2, 3, 8, 8), output_hidden_states=True, output_attentions=True)
    hook.remove()
    return entered[0], output


# Parity


@pytest.mark.parametrize("model_type", IMAGE_FAMILIES)
def test_the_models_own_embeddings_give_its_own_hidden_states(model_type):
    if model_type.startswith("dinov2") and "dinov2" not in TYPES:
        pytest.skip("cannot mask padding with these transformers")
    sizes = {"mlp_ratio": 2} if model_type.startswith("dinov2") else {"intermediate_size": 64}
    config = AutoConfig.for_model(model_type, **PICTURES, **sizes, attn_implementation="eager")
    model = perturbed(AutoModel.from_config(config))
    embeds, expected = entering_and_leaving(model, model.get_submodule(IMAGE_FAMILIES[model_type]))
    with torch.no_grad():
        got = run_backbone(ImageEncoder(model), embeds, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(got.last_hidden_state, expected.last_hidden_state)
    assert len(got.hidden_states) == LAYERS + 1 and len(got.attentions) == LAYERS
    for one, other in zip(
        got.hidden_states + got.attentions, expected.hidden_states + expected.attentions, strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", TYPES)
def test_padding_reaches_no_hidden_state(make_model, model_type, implementation):
    model = make_model(model_type, FPTModel, attn_implementation=implementation).eval()
    assert model.backbone.config._attn_implementation == implementation
    inputs = torch.randn(2, 10, 3)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 6:] = 0
    with torch.no_grad():
        padded = model(input_values=inputs, attention_mask=mask, output_hidden_states=True)
        alone = model(input_values=inputs[1:, :6], output_hidden_states=True)
        whole = model(input_values=inputs[:1], output_hidden_states=True)
    for got, short, full in zip(padded.hidden_states, alone.hidden_states, whole.hidden_states, strict=True):
        torch.testing.assert_close(got[1:, :6], short, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[:1], full, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded.last_hidden_state[1:, :6], alone.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_attentions_leave_padding_out(make_model):
    model = make_model("vit", attn_implementation="eager").eval()
    mask = torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
    with torch.no_grad():
        output = model(input_values=torch.randn(2, 10, 3), attention_mask=mask, output_attentions=True)
        assert model(input_values=torch.randn(2, 10, 3)).attentions is None
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, 2, 10, 10)] * LAYERS
    assert not output.attentions[0][1, :, :, 6:].any()
    assert not any(layer.attention._forward_hooks for layer in model.fpt.backbone.layers)
    torch.testing.assert_close(output.attentions[1].sum(-1), torch.ones(2, 2, 10))


# What is left of the model


@pytest.mark.parametrize("model_type", TYPES)
def test_only_the_layers_and_the_final_norm_are_kept(checkpoints, model_type):
    folder, reference = checkpoints(model_type)
    model = FPTModel.from_backbone(folder, **VALUES)
    layers = reference.get_submodule(IMAGE_FAMILIES[model_type])
    expected = {f"layers.{name}": tensor for name, tensor in layers.state_dict().items()}
    expected |= {f"layernorm.{name}": tensor for name, tensor in reference.layernorm.state_dict().items()}
    kept = model.backbone.state_dict()
    assert kept.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(kept[name], tensor)] == []
    rows = {row.group: row.parameters for row in model.count_parameters()}
    assert "other" not in rows
    assert sum(rows.values()) == sum(map(torch.numel, expected.values())) + 4 * WIDTH + 10 * WIDTH
    trained = {name for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained == {name for name in expected if "norm" in name}
    assert (model.config.positions, model.config.pooling) == ("new", "mean")


@pytest.mark.parametrize("model_type", TYPES)
def test_the_fingerprint_is_of_what_is_used(checkpoints, tmp_path, model_type):
    folder, reference = checkpoints(model_type)
    original = FPTModel.from_backbone(folder, **VALUES)
    reference = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in reference.embeddings.parameters():
            parameter.add_(1)
    reference.save_pretrained(tmp_path)
    same = FPTModel.from_backbone(tmp_path, **VALUES)
    assert same.config.base_model_fingerprint == original.config.base_model_fingerprint
    assert same.config.base_model_fingerprint == fingerprints(ImageEncoder(reference))[BY_LAYER]
    with torch.no_grad():
        reference.layernorm.bias.add_(1)
    reference.save_pretrained(tmp_path)
    other = FPTModel.from_backbone(tmp_path, **VALUES)
    assert other.config.base_model_fingerprint != original.config.base_model_fingerprint


# Building, training, saving


@pytest.mark.parametrize("init", ["pretrained", "random", "statistics"])
@pytest.mark.parametrize("model_type", TYPES)
def test_a_delta_comes_back(checkpoints, tmp_path, model_type, init):
    folder, _ = checkpoints(model_type)
    torch.manual_seed(0)
    model = FPTForImageClassification.from_backbone(folder, backbone_init=init, backbone_init_seed=3, **IMAGES).eval()
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, base_model_name_or_path=folder)
    assert type(loaded) is FPTForImageClassification
    pictures = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pictures).logits, model(pixel_values=pictures).logits)
    assert loaded.fpt.backbone.config._attn_implementation == "fpt"


def test_each_way_to_start_gives_other_weights(checkpoints):
    folder, _ = checkpoints("vit")
    models = [
        FPTModel.from_backbone(folder, backbone_init=init, **VALUES) for init in ("pretrained", "random", "statistics")
    ]
    assert len({model.config.base_model_fingerprint for model in models}) == 3


@pytest.mark.parametrize("model_type", TYPES)
def test_every_input_type_enters(make_model, model_type):
    ids, pictures = torch.randint(12, (2, 10)), torch.randn(2, 1, 12, 12)
    fields = {"input_size": None, "sequence_length": None}
    assert make_model(model_type, **fields | TOKENS)(input_ids=ids).logits.shape == (2, 4)
    model = make_model(model_type, FPTForImageClassification, **fields | IMAGES)
    assert model(pixel_values=pictures).logits.shape == (2, 3)


def test_the_trainer_leaves_the_layers_as_they_were(checkpoints, tmp_path):
    folder, _ = checkpoints("vit")
    model = FPTForSequenceClassification.from_backbone(folder, **VALUES)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = [{"input_values": torch.randn(10, 3), "labels": i % 4} for i in range(8)]
    arguments = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=4, report_to="none", remove_unused_columns=False
    )
    FPTTrainer(model, arguments, train_dataset=data).train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


def test_transformers_without_masks_for_padding_are_refused(monkeypatch):
    monkeypatch.setattr(ViTModel, "forward", lambda self, pixel_values=None: None)
    with pytest.raises(ValueError, match=r"ViTModel \(vit\) cannot be a backbone with transformers .* before 5\.9"):
        FPTModel.from_backbone(tiny_config("vit"), backbone_init="random", **VALUES)
