"""Every family of backbones: shapes, padding, parity with transformers, what is refused, weights, fingerprints."""

import copy
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from conftest import (
    CAUSAL,
    IMAGE_BACKBONES,
    LAYERS,
    POSITIONS,
    TINY_BACKBONES,
    VALUES,
    VOCABULARY,
    WIDTH,
    assert_same,
    build_seeded,
    outputs,
    since,
    tiny_config,
    weights,
)
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    BeitConfig,
    CLIPVisionConfig,
    Gemma3Config,
    GPT2Config,
    OlmoConfig,
    SwinConfig,
    Wav2Vec2Config,
)

from fpt_adapters import FPTForTokenClassification, FPTModel
from fpt_adapters.backbones.building import build_backbone
from fpt_adapters.backbones.causality import is_causal
from fpt_adapters.backbones.fingerprints import BY_LAYER, BY_NAME, fingerprints
from fpt_adapters.backbones.structure import most_tokens

EMBEDDING_WIDTHS = {"albert": 16, "opt": 16}
OUTPUT_WIDTHS = {"opt": 16}
TEXT_FAMILIES = [name for name in TINY_BACKBONES if name not in IMAGE_BACKBONES]  # others: test_image_backbones.py
EVERY = pytest.mark.parametrize("model_type", [*TINY_BACKBONES, "fpt_lstm"])
EVERY_TEXT = pytest.mark.parametrize("model_type", TEXT_FAMILIES)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def stock(folder):
    """The untouched encoder of a checkpoint."""
    model = AutoModel.from_pretrained(folder).eval()
    return model.get_encoder() if model.config.is_encoder_decoder else model


# Shapes, padding, pooling


@EVERY
def test_it_builds_and_runs(make_model, model_type):
    inputs = {"input_values": VALUES[:2, :7]}
    width = OUTPUT_WIDTHS.get(model_type, WIDTH)
    model = make_model(model_type)
    assert model.fpt.input_projection.projection.out_features == EMBEDDING_WIDTHS.get(model_type, WIDTH)
    assert not model.fpt.backbone.training
    assert outputs(make_model(model_type, FPTModel), **inputs).shape == (2, 7, width)
    assert outputs(model, **inputs).shape == (2, 4)
    assert outputs(make_model(model_type, FPTForTokenClassification), **inputs).shape == (2, 7, 4)


@EVERY
@pytest.mark.parametrize("pooling", ["auto", "mean", "last", "first"])
def test_padding_changes_nothing(make_model, model_type, pooling):
    model = make_model(model_type, pooling=pooling)
    alone, mask = VALUES[:2, :6], torch.tensor([[1] * 6 + [0] * 4] * 2)
    expected = outputs(model, input_values=alone)
    for content in (0.0, 100.0):
        padded = torch.full((2, 10, 3), content)
        padded[:, :6] = alone
        assert_close(outputs(model, input_values=padded, attention_mask=mask), expected, **TOLERANCE)
    mask[0] = 1  # one sequence is longer than the other
    got = outputs(model, input_values=VALUES[:2], attention_mask=mask)
    assert_close(got, torch.cat([outputs(model, input_values=VALUES[:1]), expected[1:]]), **TOLERANCE)


@EVERY
def test_pooling_reads_the_token_that_saw_the_most(make_model, model_type):
    model = make_model(model_type, FPTModel)
    causal = model_type in (*CAUSAL, "fpt_lstm")
    assert model.config.pooling == ("last" if causal else "mean")
    values = VALUES[:1, :6]
    changed = values.clone()
    changed[:, -1] += 1
    before, after = (outputs(model, input_values=one)[:, 0] for one in (values, changed))
    assert torch.allclose(before, after, atol=1e-6) is causal


def test_a_chosen_pooling_stays(make_model):
    assert make_model("gpt2", pooling="mean").config.pooling == "mean"
    assert make_model("bert", pooling="first").config.pooling == "first"


# Parity with the untouched backbone


@EVERY_TEXT
@torch.no_grad()
def test_projected_inputs_meet_the_untouched_backbone(bases, model_type):
    model, reference = build_seeded(bases(model_type), FPTModel).eval(), stock(bases(model_type))
    scale = math.sqrt(WIDTH) if model_type == "gemma" else 1.0
    embeds = model.input_projection(VALUES).states * scale
    assert_close(outputs(model), reference(inputs_embeds=embeds).last_hidden_state, **TOLERANCE)


@pytest.mark.parametrize("length", [7, POSITIONS])
@EVERY_TEXT
@torch.no_grad()
def test_the_backbones_own_embeddings_give_its_own_hidden_states(bases, model_type, length):
    """Positions start at the right row, embeddings are scaled as the family does, padding is masked."""
    tokens = {"input_type": "tokens", "vocab_size": VOCABULARY, "sequence_length": length, "input_size": None}
    model = build_seeded(bases(model_type), FPTModel, trainable=["input", "norm"], **tokens)
    reference = stock(bases(model_type))
    model.input_projection.embedding.weight.copy_(reference.get_input_embeddings().weight)
    ids = torch.randint(5, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    inputs, real = {"input_ids": ids, "attention_mask": mask}, mask.bool()
    assert_close(outputs(model, **inputs)[real], reference(**inputs).last_hidden_state[real], **TOLERANCE)


@torch.no_grad()
def test_gemmas_scale_reaches_positions_and_inputs_alike(make_model):
    model = make_model("gemma", FPTModel)
    seen = []
    model.backbone.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    model.position_embeddings.weight.normal_()
    outputs(model)
    expected = (model.input_projection(VALUES).states + model.position_embeddings.weight) * math.sqrt(WIDTH)
    assert_close(seen[0]["inputs_embeds"], expected)
    assert make_model("llama", FPTModel).embedding_scale == 1.0


# Refusals


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VISION = SIZES | {"image_size": 8, "patch_size": 4}
SOUND = SIZES | {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SwinConfig(image_size=8, patch_size=2, embed_dim=8, depths=[1, 1]), ["SwinModel", "swin", "inputs_embeds"]),
        (BeitConfig(**VISION), ["BeitModel", "beit", "inputs_embeds", "GPT-2", "vit,"]),
        (CLIPVisionConfig(**VISION), ["CLIPVisionModel", "inputs_embeds", "dinov2"]),
        (Wav2Vec2Config(**SOUND), ["Wav2Vec2Model", "inputs_embeds"]),
    ],
)
def test_a_backbone_that_takes_no_embeddings_is_refused(config, words):
    with pytest.raises(ValueError) as error:
        build_seeded(config)
    assert [word for word in words if word not in str(error.value)] == []


def test_of_several_models_in_one_the_text_model_is_a_backbone(tmp_path):
    config = Gemma3Config(text_config=TINY_BACKBONES["gemma"], vision_config=VISION)
    with pytest.raises(ValueError, match=r"Gemma3Model.* has no hidden_size of its own, as where several models are"):
        build_seeded(config)
    AutoModel.from_config(config).language_model.save_pretrained(tmp_path)
    assert type(build_seeded(tmp_path).fpt.backbone).__name__ == "Gemma3TextModel"


def test_a_backbone_without_norms_cannot_train_them():
    config = OlmoConfig(**SIZES, vocab_size=50)
    with pytest.raises(ValueError, match="trainable has 'norm', but the backbone OlmoModel has no norm parameters"):
        build_seeded(config)
    model = build_seeded(config, trainable=["input", "output", "position"])
    assert {row.group for row in model.count_parameters() if row.trained} == {"input", "output", "position"}


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "modernbert"])
def test_positions_of_a_backbone_that_has_none_are_refused(model_type):
    with pytest.raises(ValueError, match=r"positions='backbone', but \w+ has no learned positions.*positions='new'"):
        build_seeded(tiny_config(model_type), positions="backbone")


@pytest.mark.parametrize("model_type", [name for name in TEXT_FAMILIES if name != "t5"])
def test_too_long_inputs_name_both_lengths(model_type):
    assert most_tokens(tiny_config(model_type)) == POSITIONS
    build_seeded(tiny_config(model_type), sequence_length=POSITIONS)
    message = f"makes {POSITIONS + 1} tokens, but {model_type} has positions for {POSITIONS}"
    with pytest.raises(ValueError, match=message):
        build_seeded(tiny_config(model_type), sequence_length=POSITIONS + 1)


@pytest.mark.parametrize("model_type", ["t5", *IMAGE_BACKBONES])
def test_relative_and_unused_positions_have_no_longest_input(model_type):
    assert most_tokens(tiny_config(model_type)) is None
    assert build_seeded(tiny_config(model_type), sequence_length=1000).fpt.backbone.device.type == "cpu"


@pytest.mark.parametrize("init", ["pretrained", "statistics"])
def test_a_configuration_alone_cannot_be_a_pretrained_backbone(init):
    with pytest.raises(ValueError, match=f"no weights for backbone_init='{init}'"):
        build_seeded(tiny_config("gpt2"), backbone_init=init)


def test_what_does_not_fit_the_weights_is_refused(saved_base, tmp_path):
    deeper = AutoConfig.from_pretrained(saved_base, n_layer=LAYERS + 1)
    with pytest.raises(ValueError, match=r"n_layer=3, but the config\.json of the base '.*' has 2"):
        build_seeded(saved_base, base_model_config=deeper)
    folder = shutil.copytree(saved_base, tmp_path / "deeper")
    deeper.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"a GPT2Model: 12 tensors .* the first is h\.2\."):
        build_seeded(folder)


# Random and statistics weights


def drawn(config, folder=None, **arguments):
    """The weights of a backbone, and its fingerprints."""
    defaults = {"init": "random", "seed": 0, "scheme": None, "dropout": None, "dtype": None}
    defaults |= {"attn_implementation": None}
    backbone, digests = build_backbone(config, folder and Path(folder), **defaults | arguments)
    assert not any(p.requires_grad for p in backbone.parameters())
    return weights(backbone), digests


@EVERY
def test_a_seed_draws_the_same_weights_whatever_the_global_state(model_type):
    torch.manual_seed(1)
    first, digest = drawn(tiny_config(model_type), seed=5)
    torch.manual_seed(2)
    second, same = drawn(tiny_config(model_type), seed=5)
    other, another = drawn(tiny_config(model_type), seed=6)
    assert_same(first, second)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert digest == same != another


@pytest.mark.parametrize("init", ["random", "statistics", "pretrained"])
def test_drawing_a_backbone_leaves_the_global_random_state(saved_base, init):
    torch.manual_seed(9)
    random.seed(9)
    before, python = torch.get_rng_state(), random.getstate()
    drawn(tiny_config("gpt2"), saved_base, init=init, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


def test_a_random_base_is_the_same_whatever_device_is_the_default():
    expected, digest = drawn(tiny_config("gpt2"))
    with torch.device("meta"):
        found, same_digest = drawn(tiny_config("gpt2"))
    assert same_digest == digest
    assert_same(found, expected)


@pytest.mark.parametrize("scheme", [None, "gpt2-scaled-residual", "gpt2-flat"])
def test_gpt2s_residual_projections_are_flat_or_scaled(scheme):
    config = GPT2Config(n_embd=64, n_layer=8, n_head=2, n_positions=16, vocab_size=50)
    found, digest = drawn(config, scheme=scheme)
    residual = 0.02 if scheme == "gpt2-flat" else 0.02 / math.sqrt(2 * 8)
    for name, std in (("attn.c_proj", residual), ("mlp.c_proj", residual), ("mlp.c_fc", 0.02)):
        stds = [found[f"h.{layer}.{name}.weight"].std().item() for layer in range(8)]
        assert stds == pytest.approx([std] * 8, rel=0.1), name
    again, same = drawn(config, scheme=scheme)
    assert_same(again, found)
    assert digest == same
    assert (digest == drawn(config)[1]) is (scheme != "gpt2-flat")


@pytest.mark.parametrize(
    ("model_type", "given", "written"),
    [
        ("gpt2", None, "gpt2-scaled-residual"),
        ("bert", None, "transformers"),
        ("gpt2", "gpt2-flat", "gpt2-flat"),
    ],
)
def test_the_scheme_is_written_down(make_model, model_type, given, written):
    assert make_model(model_type, backbone_init_scheme=given).config.backbone_init_scheme == written


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "t5", *IMAGE_BACKBONES])
def test_statistics_weights_keep_each_tensors_mean_and_spread(bases, model_type):
    folder = bases(model_type)

    def found(init, seed):
        return drawn(AutoConfig.from_pretrained(folder), folder, init=init, seed=seed)

    pretrained, own = found("pretrained", 1)
    (one, digest), (same, _), (other, another) = (found("statistics", seed) for seed in (1, 1, 2))
    for name, original in pretrained.items():
        n, std = original.numel(), original.std(unbiased=False).item()
        assert not torch.equal(one[name], original), name
        assert abs(one[name].mean() - original.mean()) < 5 * std / math.sqrt(n), name
        assert abs(one[name].std(unbiased=False) / std - 1) < 5 / math.sqrt(2 * n), name
    assert_same(same, one)
    assert not all(torch.equal(other[name], one[name]) for name in one)
    assert len({str(digests) for digests in (own, digest, another, found("random", 1)[1])}) == 4


# Fingerprints


@pytest.mark.parametrize("model_type", ["gpt2", "albert", "t5", "qwen3", "fpt_lstm"])
def test_noise_in_any_tensor_changes_the_fingerprints(make_model, model_type):
    backbone = make_model(model_type, FPTModel).backbone
    digests = fingerprints(backbone)
    torch.manual_seed(0)
    for name, parameter in backbone.named_parameters():
        original = parameter.data.clone()
        parameter.data += 1e-4 * torch.randn_like(parameter)
        assert all(fingerprints(backbone)[kind] != digest for kind, digest in digests.items()), name
        parameter.data = original
    assert fingerprints(backbone) == digests


def reshape(gpt2):
    gpt2.wte.weight.data = gpt2.wte.weight.data.reshape(WIDTH, VOCABULARY)


def rename(gpt2):
    for block in gpt2.h:
        block.ln_1, block.first_norm = None, block.ln_1
    gpt2.blocks = gpt2.__dict__["_modules"].pop("h")


def exchange_layers(gpt2):
    gpt2.h = gpt2.h[::-1]


def to_bfloat16(gpt2):
    gpt2.to(torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (to_bfloat16, {BY_LAYER, BY_NAME}),
        (reshape, {BY_LAYER, BY_NAME}),
        (exchange_layers, {BY_LAYER, BY_NAME}),
        (rename, {BY_NAME}),
        (id, set()),
    ],
)
def test_the_fingerprints_tell_shapes_dtypes_and_layers_apart_and_one_of_them_names(make_model, change, kinds):
    backbone = make_model("gpt2", FPTModel).backbone
    changed = copy.deepcopy(backbone)
    change(changed)
    before, after = fingerprints(backbone), fingerprints(changed)
    assert {kind for kind in before if before[kind] != after[kind]} == kinds


@pytest.mark.parametrize(
    "fields", [{"dtype": "float16", "pooling": "last"}, {"sequence_length": 5, "trainable": ["output"]}], ids=str
)
def test_one_fingerprint_serves_every_dtype_and_task(make_model, fields):
    plain = make_model("gpt2").config.base_model_fingerprint
    assert make_model("gpt2", **fields).config.base_model_fingerprint == plain


# Dropout and devices


@EVERY
@torch.no_grad()
def test_dropout_inside_the_backbone_can_be_set(make_model, model_type):
    def equal(backbone_dropout):
        torch.manual_seed(0)
        model = make_model(model_type, backbone_dropout=backbone_dropout, input_dropout=0.0).train()
        one, other = (model(input_values=VALUES).logits for _ in range(2))
        return torch.allclose(one, other)

    assert equal(0.0) and not equal(0.5)
    modules = make_model(model_type, backbone_dropout=0.0).fpt.backbone.modules()
    assert {module.p for module in modules if isinstance(module, torch.nn.Dropout)} <= {0.0}


OPT = pytest.param("opt", marks=since("5.6", "run OPT under a default device"))


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", OPT])
def test_a_default_device_moves_nothing_of_a_model_elsewhere(model_type, make_model, tmp_path):
    model = make_model(model_type, FPTModel)
    with torch.device("meta"):  # as with another default device and a model on the CPU
        assert is_causal(model.backbone) == (model_type in CAUSAL)
        assert model.train()(input_values=VALUES).last_hidden_state.isfinite().all()
        model.save_backbone(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).device.type == "cpu"
