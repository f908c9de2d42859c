"""Every family of backbones: its norms, positions and groups, padding, parity with transformers, random weights."""

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
    TRANSFORMER_GROUPS,
    VOCABULARY,
    WIDTH,
    since,
    tiny_config,
)
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

from fpt_adapters import (
    PAPER_GROUPS,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
    format_table,
)
from fpt_adapters.backbones.baselines.modeling_identity import IdentityConfig
from fpt_adapters.backbones.baselines.modeling_lstm import LSTMConfig
from fpt_adapters.backbones.building import build_backbone
from fpt_adapters.backbones.causality import is_causal
from fpt_adapters.backbones.fingerprints import BY_LAYER, BY_NAME, fingerprints

FAMILIES = sorted(TINY_BACKBONES)
TEXT_FAMILIES = [name for name in FAMILIES if name not in IMAGE_BACKBONES]  # test_image_backbones.py has the others'


def names(*modules, weight_only=False):
    """Parameter names of modules; `{i}` stands for each layer."""
    paths = [module.format(i=i) for module in modules for i in (range(LAYERS) if "{i}" in module else [0])]
    return {f"{path}.{kind}" for path in paths for kind in (("weight",) if weight_only else ("weight", "bias"))}


BERT_NORMS = names(
    "embeddings.LayerNorm", "encoder.layer.{i}.attention.output.LayerNorm", "encoder.layer.{i}.output.LayerNorm"
)
LLAMA_NORMS = names(
    "layers.{i}.input_layernorm", "layers.{i}.post_attention_layernorm", "norm", weight_only=True
)  # fmt: skip
VIT_NORMS = names("layers.{i}.layernorm_before", "layers.{i}.layernorm_after", "layernorm")
NORMS = {
    "vit": VIT_NORMS,
    "deit": VIT_NORMS,
    "dinov2": names("layers.{i}.norm1", "layers.{i}.norm2", "layernorm"),
    "gpt2": names("h.{i}.ln_1", "h.{i}.ln_2", "ln_f"),
    "openai-gpt": names("h.{i}.ln_1", "h.{i}.ln_2"),
    "bert": BERT_NORMS,
    "roberta": BERT_NORMS,
    "longformer": BERT_NORMS,
    "distilbert": names(
        "embeddings.LayerNorm", "transformer.layer.{i}.sa_layer_norm", "transformer.layer.{i}.output_layer_norm"
    ),
    "albert": names(
        "embeddings.LayerNorm",
        "encoder.albert_layer_groups.0.albert_layers.0.attention.LayerNorm",
        "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm",
    ),
    "t5": names(
        "encoder.block.{i}.layer.0.layer_norm",
        "encoder.block.{i}.layer.1.layer_norm",
        "encoder.final_layer_norm",
        weight_only=True,
    ),
    "opt": names(
        "decoder.layers.{i}.self_attn_layer_norm", "decoder.layers.{i}.final_layer_norm", "decoder.final_layer_norm"
    ),
    "gpt_neox": names("layers.{i}.input_layernorm", "layers.{i}.post_attention_layernorm", "final_layer_norm"),
    "llama": LLAMA_NORMS,
    "qwen3": LLAMA_NORMS,
    "gemma": LLAMA_NORMS,
    "modernbert": names(
        "embeddings.norm", "layers.1.attn_norm", "layers.{i}.mlp_norm", "final_norm", weight_only=True
    ),
}
QK_NORMS = names("layers.{i}.self_attn.q_norm", "layers.{i}.self_attn.k_norm", weight_only=True)
BERT_POSITIONS = "embeddings.position_embeddings.weight"
OWN_POSITIONS = {  # its name and its rows for ten tokens
    "gpt2": ("wpe.weight", 10),
    "openai-gpt": ("positions_embed.weight", 10),
    "bert": (BERT_POSITIONS, 10),
    "distilbert": (BERT_POSITIONS, 10),
    "albert": (BERT_POSITIONS, 10),
    "roberta": (BERT_POSITIONS, 12),  # the padding's row and the one before stay
    "longformer": (BERT_POSITIONS, 12),
    "opt": ("decoder.embed_positions.weight", 12),
    "t5": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 32),  # buckets, not tokens
}
BERT_ATTENTION = names(
    *(f"encoder.layer.{{i}}.attention.{m}" for m in ("self.query", "self.key", "self.value", "output.dense"))
)
BERT_FEEDFORWARD = names("encoder.layer.{i}.intermediate.dense", "encoder.layer.{i}.output.dense")
BERT_OTHER = {"embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"}
GPT_ATTENTION, GPT_FEEDFORWARD = (
    names("h.{i}.attn.c_attn", "h.{i}.attn.c_proj"),
    names("h.{i}.mlp.c_fc", "h.{i}.mlp.c_proj"),
)
LLAMA_ATTENTION = names(*(f"layers.{{i}}.self_attn.{m}_proj" for m in "qkvo"), weight_only=True)
LLAMA_FEEDFORWARD = names(*(f"layers.{{i}}.mlp.{m}_proj" for m in ("gate", "up", "down")), weight_only=True)
LLAMA_PARTS = (LLAMA_ATTENTION, LLAMA_FEEDFORWARD, {"embed_tokens.weight"})
VIT_ATTENTION = names(*(f"layers.{{i}}.attention.{m}_proj" for m in "qkvo"))
VIT_FEEDFORWARD = names("layers.{i}.mlp.fc1", "layers.{i}.mlp.fc2")
LAYER_SCALES = {f"layers.{i}.layer_scale{part}.lambda1" for i in range(LAYERS) for part in (1, 2)}
ALBERT_LAYER = "encoder.albert_layer_groups.0.albert_layers.0."
PARTS = {  # attention, feedforward, other
    "gpt2": (GPT_ATTENTION, GPT_FEEDFORWARD, {"wte.weight"}),
    "openai-gpt": (GPT_ATTENTION, GPT_FEEDFORWARD, {"tokens_embed.weight"}),
    "bert": (BERT_ATTENTION, BERT_FEEDFORWARD, BERT_OTHER),
    "roberta": (BERT_ATTENTION, BERT_FEEDFORWARD, BERT_OTHER),
    "longformer": (
        BERT_ATTENTION,
        BERT_FEEDFORWARD,  # projections of global attention, which no token has here, never train
        BERT_OTHER | names(*(f"encoder.layer.{{i}}.attention.self.{m}_global" for m in ("query", "key", "value"))),
    ),
    "distilbert": (
        names(*(f"transformer.layer.{{i}}.attention.{m}_lin" for m in ("q", "k", "v", "out"))),
        names("transformer.layer.{i}.ffn.lin1", "transformer.layer.{i}.ffn.lin2"),
        {"embeddings.word_embeddings.weight"},
    ),
    "albert": (
        names(*(f"{ALBERT_LAYER}attention.{m}" for m in ("query", "key", "value", "dense"))),
        names(f"{ALBERT_LAYER}ffn", f"{ALBERT_LAYER}ffn_output"),
        BERT_OTHER | names("encoder.embedding_hidden_mapping_in"),
    ),
    "t5": (
        names(*(f"encoder.block.{{i}}.layer.0.SelfAttention.{m}" for m in "qkvo"), weight_only=True),
        names(*(f"encoder.block.{{i}}.layer.1.DenseReluDense.w{m}" for m in "io"), weight_only=True),
        {"shared.weight"},
    ),
    "opt": (
        names(*(f"decoder.layers.{{i}}.self_attn.{m}_proj" for m in ("q", "k", "v", "out"))),
        names("decoder.layers.{i}.fc1", "decoder.layers.{i}.fc2"),
        {"decoder.embed_tokens.weight", "decoder.project_in.weight", "decoder.project_out.weight"},
    ),
    "gpt_neox": (
        names("layers.{i}.attention.query_key_value", "layers.{i}.attention.dense"),
        names("layers.{i}.mlp.dense_h_to_4h", "layers.{i}.mlp.dense_4h_to_h"),
        {"embed_in.weight"},
    ),
    "llama": LLAMA_PARTS,
    "gemma": LLAMA_PARTS,
    "qwen3": (LLAMA_ATTENTION | QK_NORMS, *LLAMA_PARTS[1:]),
    "modernbert": (
        names("layers.{i}.attn.Wqkv", "layers.{i}.attn.Wo", weight_only=True),
        names("layers.{i}.mlp.Wi", "layers.{i}.mlp.Wo", weight_only=True),
        {"embeddings.tok_embeddings.weight"},
    ),
    "vit": (VIT_ATTENTION, VIT_FEEDFORWARD, set()),
    "deit": (VIT_ATTENTION, VIT_FEEDFORWARD, set()),
    "dinov2": (VIT_ATTENTION, VIT_FEEDFORWARD | LAYER_SCALES, set()),
}
EMBEDDING_WIDTHS = {"albert": 16, "opt": 16}
OUTPUT_WIDTHS = {"opt": 16}


def members(model, group):
    """Names of a group's parameters, those of the backbone without their prefix."""
    return {name.partition("backbone.")[2] or name for name, its in model.parameter_groups().items() if its == group}


def build(config, **fields):
    fields = {"input_type": "values", "input_size": 3, "sequence_length": 10, "backbone_init": "random"} | fields
    return FPTForSequenceClassification.from_backbone(config, **fields)


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """stock(model_type): the folder of an ordinary checkpoint, with no weight at a default, and its encoder."""
    made = {}

    def make(model_type):
        if model_type not in made:
            folder = tmp_path_factory.mktemp("stock") / model_type
            torch.manual_seed(2)
            model = AutoModel.from_config(tiny_config(model_type)).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            model.save_pretrained(folder)
            made[model_type] = folder, (model.get_encoder() if model.config.is_encoder_decoder else model)
        return made[model_type]

    return make


# Shapes, padding, pooling


@pytest.mark.parametrize("model_type", FAMILIES)
def test_it_builds_and_runs(make_model, model_type):
    inputs = torch.randn(2, 7, 3)
    width = OUTPUT_WIDTHS.get(model_type, WIDTH)
    assert make_model(model_type, FPTModel)(input_values=inputs).last_hidden_state.shape == (2, 7, width)
    assert make_model(model_type)(input_values=inputs).logits.shape == (2, 4)
    assert make_model(model_type, FPTForTokenClassification)(input_values=inputs).logits.shape == (2, 7, 4)
    model = make_model(model_type)
    assert model.fpt.input_projection.projection.out_features == EMBEDDING_WIDTHS.get(model_type, WIDTH)
    assert not model.fpt.backbone.training


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("pooling", ["auto", "mean", "last", "first"])
def test_padding_changes_nothing(make_model, model_type, pooling):
    model = make_model(model_type, pooling=pooling).eval()
    generator = torch.Generator().manual_seed(3)
    alone = torch.randn(2, 6, 3, generator=generator)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[:, 6:] = 0
    with torch.no_grad():
        expected = model(input_values=alone)
        for content in (0.0, 100.0):
            padded = torch.full((2, 10, 3), content)
            padded[:, :6] = alone
            got = model(input_values=padded, attention_mask=mask)
            torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
        mixed = torch.randn(2, 10, 3, generator=generator)
        mixed[1, :6] = alone[1]
        mask[0] = 1
        got = model(input_values=mixed, attention_mask=mask)
        torch.testing.assert_close(got.logits[1], expected.logits[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.logits[0], model(input_values=mixed[:1]).logits[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_pooling_reads_the_token_that_saw_the_most(make_model, model_type):
    model = make_model(model_type, FPTModel).eval()
    assert model.config.pooling == ("last" if model_type in CAUSAL else "mean")
    inputs = torch.randn(1, 6, 3)
    changed = inputs.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        before, after = (model(input_values=x).last_hidden_state[:, 0] for x in (inputs, changed))
    assert torch.allclose(before, after, atol=1e-6) is (model_type in CAUSAL)


@pytest.mark.parametrize(
    "config, pooling, kept",
    [
        (LSTMConfig(hidden_size=WIDTH), "last", torch.bfloat16),
        (IdentityConfig(hidden_size=WIDTH), "mean", torch.float32),  # each token sees itself alone; nothing to keep
    ],
    ids=["lstm", "identity"],
)
def test_a_model_without_tokens_is_a_backbone(config, pooling, kept):
    model = build(config, dtype="bfloat16", trainable=["input", "output", "position"])
    assert (model.config.pooling, model.config.positions, model.config.dtype) == (pooling, "new", kept)
    assert model.fpt.input_projection.projection.out_features == WIDTH and model.fpt.embedding_scale == 1.0
    assert model(input_values=torch.randn(2, 7, 3)).logits.dtype == torch.float32


def test_a_chosen_pooling_stays(make_model):
    assert make_model("gpt2", pooling="mean").config.pooling == "mean"
    assert make_model("bert", pooling="first").config.pooling == "first"


# Parity with the untouched backbone


@pytest.mark.parametrize("model_type", TEXT_FAMILIES)
def test_projected_inputs_meet_the_untouched_backbone(stock, model_type):
    folder, reference = stock(model_type)
    model = FPTModel.from_backbone(folder, input_type="values", input_size=3, sequence_length=9).eval()
    with torch.no_grad():
        inputs = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1))
        scale = math.sqrt(WIDTH) if model_type == "gemma" else 1.0
        embeds = model.input_projection(inputs).states * scale
        expected = reference(inputs_embeds=embeds).last_hidden_state
        got = model(input_values=inputs).last_hidden_state
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [7, POSITIONS])
@pytest.mark.parametrize("model_type", TEXT_FAMILIES)
def test_the_backbones_own_embeddings_give_its_own_hidden_states(stock, model_type, length):
    """Positions start at the right row, embeddings are scaled as the family does, padding is masked."""
    folder, reference = stock(model_type)
    model = FPTModel.from_backbone(
        folder, input_type="tokens", vocab_size=VOCABULARY, sequence_length=length, trainable=["input", "norm"]
    ).eval()
    ids = torch.randint(5, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.no_grad():
        model.input_projection.embedding.weight.copy_(reference.get_input_embeddings().weight)
        expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state
        got = model(input_ids=ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    torch.testing.assert_close(got[real], expected[real], rtol=1e-4, atol=1e-5)


def test_gemmas_scale_reaches_positions_and_inputs_alike(make_model):
    model = make_model("gemma", FPTModel).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        model.position_embeddings.weight.normal_()
        inputs = torch.randn(1, 4, 3)
        model(input_values=inputs)
        expected = (model.input_projection(inputs).states + model.position_embeddings.weight[:4]) * math.sqrt(WIDTH)
    torch.testing.assert_close(seen[0]["inputs_embeds"], expected)
    assert make_model("llama", FPTModel).embedding_scale == 1.0


# Refusals

VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    "config, words",
    [
        (SwinConfig(image_size=8, patch_size=2, embed_dim=8, depths=[1, 1]), ["SwinModel", "swin", "inputs_embeds"]),
        (BeitConfig(**VISION, image_size=8, patch_size=4), ["BeitModel", "beit", "inputs_embeds", "GPT-2", "vit,"]),
        (CLIPVisionConfig(**VISION, image_size=8, patch_size=4), ["CLIPVisionModel", "inputs_embeds", "dinov2"]),
        (
            Wav2Vec2Config(**VISION, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2),
            ["Wav2Vec2Model", "inputs_embeds"],
        ),
    ],
)
def test_a_backbone_that_takes_no_embeddings_is_refused(config, words):
    with pytest.raises(ValueError) as error:
        build(config)
    for word in words:
        assert word in str(error.value)


def test_of_several_models_in_one_the_text_model_is_a_backbone(tmp_path):
    config = Gemma3Config(
        text_config=TINY_BACKBONES["gemma"], vision_config=VISION | {"image_size": 8, "patch_size": 4}
    )
    with pytest.raises(ValueError, match=r"Gemma3Model.* has no hidden_size of its own, as where several models are"):
        build(config)
    AutoModel.from_config(config).language_model.save_pretrained(tmp_path)
    assert type(build(tmp_path, backbone_init="pretrained").fpt.backbone).__name__ == "Gemma3TextModel"


def test_a_backbone_without_norms_cannot_train_them():
    config = OlmoConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    with pytest.raises(ValueError, match="trainable has 'norm', but the backbone OlmoModel has no norm parameters"):
        build(config)
    model = build(config, trainable=["input", "output", "position"])
    assert {row.group for row in model.count_parameters() if row.trained} == {"input", "output", "position"}


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "modernbert"])
def test_positions_of_a_backbone_that_has_none_are_refused(model_type):
    with pytest.raises(ValueError, match=r"positions='backbone', but \w+ has no learned positions.*positions='new'"):
        build(tiny_config(model_type), positions="backbone")


@pytest.mark.parametrize("model_type", [name for name in TEXT_FAMILIES if name != "t5"])
def test_too_long_inputs_name_both_lengths(model_type):
    build(tiny_config(model_type), sequence_length=POSITIONS)
    limit = POSITIONS + 2 if model_type in ("roberta", "longformer") else POSITIONS
    limit = POSITIONS if model_type in OWN_POSITIONS else limit
    with pytest.raises(ValueError, match=f"makes {POSITIONS + 1} tokens, but {model_type} has positions for {limit}"):
        build(tiny_config(model_type), sequence_length=POSITIONS + 1)


@pytest.mark.parametrize("model_type", ["t5", *IMAGE_BACKBONES])
def test_relative_and_unused_positions_have_no_longest_input(model_type):
    assert build(tiny_config(model_type), sequence_length=1000).fpt.backbone.device.type == "cpu"


def test_a_configuration_alone_cannot_be_a_pretrained_backbone():
    for init in ("pretrained", "statistics"):
        with pytest.raises(ValueError, match=f"no weights for backbone_init='{init}'"):
            build(tiny_config("gpt2"), backbone_init=init)


def test_a_configuration_of_another_architecture_is_refused(saved_base):
    deeper = AutoConfig.from_pretrained(saved_base, n_layer=LAYERS + 1)
    with pytest.raises(ValueError, match=r"n_layer=3, but the config\.json of the base '.*' has 2"):
        build(saved_base, backbone_init="pretrained", base_model_config=deeper)


def test_a_checkpoint_that_does_not_fill_the_backbone_is_refused(saved_base, tmp_path):
    folder = shutil.copytree(saved_base, tmp_path / "deeper")
    AutoConfig.from_pretrained(saved_base, n_layer=LAYERS + 1).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"a GPT2Model: 12 tensors .* the first is h\.2\."):
        build(folder, backbone_init="pretrained")


# Random and statistics weights


def raw(config, folder=None, **arguments):
    """A backbone and its fingerprints."""
    defaults = {"init": "random", "seed": 0, "scheme": None, "dropout": None, "dtype": None}
    defaults |= {"attn_implementation": None}
    return build_backbone(config, folder and Path(folder), **defaults | arguments)


def weights(backbone):
    return dict(backbone.named_parameters())


def all_equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_seed_draws_the_same_weights_whatever_the_global_state(model_type):
    torch.manual_seed(1)
    first, digest = raw(tiny_config(model_type), seed=5)
    torch.manual_seed(2)
    second, same = raw(tiny_config(model_type), seed=5)
    other, another = raw(tiny_config(model_type), seed=6)
    assert all_equal(weights(first), weights(second))
    assert not all_equal(weights(first), weights(other))
    assert digest == same != another
    assert not any(p.requires_grad for p in first.parameters())


@pytest.mark.parametrize("init", ["random", "statistics", "pretrained"])
def test_drawing_a_backbone_leaves_the_global_random_state(saved_base, init):
    torch.manual_seed(9)
    random.seed(9)
    before, python = torch.get_rng_state(), random.getstate()
    raw(tiny_config("gpt2"), str(saved_base), init=init, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


def test_a_random_base_is_the_same_whatever_device_is_the_default():
    expected, digest = raw(tiny_config("gpt2"))
    with torch.device("meta"):
        drawn, same_digest = raw(tiny_config("gpt2"))
    assert same_digest == digest
    assert all_equal(weights(drawn), weights(expected))


def test_gpt2s_residual_projections_are_flat_or_scaled():
    config = GPT2Config(n_embd=64, n_layer=8, n_head=2, n_positions=16, vocab_size=50)
    stds = {}
    for scheme in (None, "gpt2-scaled-residual", "gpt2-flat"):
        backbone, _ = raw(config, scheme=scheme)
        for block in backbone.h:
            for name, part in (("attn", block.attn.c_proj), ("mlp", block.mlp.c_proj), ("rest", block.mlp.c_fc)):
                stds.setdefault((scheme, name), []).append(part.weight.std().item())
    scaled = 0.02 / math.sqrt(2 * 8)
    for (scheme, name), values in stds.items():
        expected = 0.02 if scheme == "gpt2-flat" or name == "rest" else scaled
        assert values == pytest.approx([expected] * 8, rel=0.1)


def test_the_flat_scheme_is_seeded_too_and_the_default_is_written_down(make_model):
    flat, digest = raw(tiny_config("gpt2"), scheme="gpt2-flat", seed=3)
    same, again = raw(tiny_config("gpt2"), scheme="gpt2-flat", seed=3)
    assert all_equal(weights(flat), weights(same)) and digest == again
    assert raw(tiny_config("gpt2"), seed=3)[1] != digest
    assert make_model("gpt2").config.backbone_init_scheme == "gpt2-scaled-residual"
    assert make_model("bert").config.backbone_init_scheme == "transformers"
    model = make_model("gpt2", backbone_init_scheme="gpt2-flat")
    assert model.config.backbone_init_scheme == "gpt2-flat"


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "t5"])
def test_statistics_weights_keep_each_tensors_mean_and_spread(stock, model_type):
    folder, _ = stock(model_type)
    config = AutoConfig.from_pretrained(folder)
    pretrained, drawn = (weights(raw(config, folder, init=init, seed=1)[0]) for init in ("pretrained", "statistics"))
    for name, original in pretrained.items():
        n, std = original.numel(), original.std(unbiased=False).item()
        assert not torch.equal(drawn[name], original), name
        assert abs(drawn[name].mean() - original.mean()) < 5 * std / math.sqrt(n), name
        assert abs(drawn[name].std(unbiased=False) / std - 1) < 5 / math.sqrt(2 * n), name
    same, other = (raw(config, folder, init="statistics", seed=seed) for seed in (1, 2))
    assert all_equal(weights(same[0]), drawn)
    assert not all_equal(weights(other[0]), drawn)
    assert same[1] != other[1]


# Fingerprints


@pytest.mark.parametrize("model_type", ["gpt2", "albert", "t5", "qwen3"])
def test_noise_in_any_tensor_changes_the_fingerprints(model_type):
    backbone, digests = raw(tiny_config(model_type))
    assert fingerprints(backbone) == digests
    torch.manual_seed(0)
    for name, parameter in backbone.named_parameters():
        original = parameter.data.clone()
        parameter.data += 1e-4 * torch.randn_like(parameter)
        assert all(fingerprints(backbone)[kind] != digest for kind, digest in digests.items()), name
        parameter.data = original
    assert fingerprints(backbone) == digests


def test_the_fingerprints_tell_shapes_dtypes_and_layers_apart_and_one_of_them_names():
    backbone, digests = raw(tiny_config("gpt2"))

    def differing(change):
        changed = copy.deepcopy(backbone)
        change(changed)
        return {kind for kind, digest in fingerprints(changed).items() if digest != digests[kind]}

    def reshape(gpt2):
        gpt2.wte.weight.data = gpt2.wte.weight.data.reshape(WIDTH, VOCABULARY)

    def rename(gpt2):
        for block in gpt2.h:
            block.ln_1, block.first_norm = None, block.ln_1
        gpt2.blocks = gpt2.__dict__["_modules"].pop("h")

    def exchange_layers(gpt2):
        gpt2.h = gpt2.h[::-1]

    assert differing(lambda gpt2: gpt2.to(torch.bfloat16)) == differing(reshape) == {BY_LAYER, BY_NAME}
    assert differing(exchange_layers) == {BY_LAYER, BY_NAME}
    assert differing(rename) == {BY_NAME}
    assert differing(lambda gpt2: None) == set()


def test_one_fingerprint_serves_every_dtype_and_task(make_model):
    plain = make_model("gpt2").config.base_model_fingerprint
    assert make_model("gpt2", dtype="float16", pooling="last").config.base_model_fingerprint == plain
    assert make_model("gpt2", sequence_length=5, trainable=["output"]).config.base_model_fingerprint == plain


@pytest.mark.parametrize("model_type", FAMILIES)
def test_dropout_inside_the_backbone_can_be_set(make_model, model_type):
    def probabilities(model):
        return {m.p for m in model.fpt.backbone.modules() if isinstance(m, torch.nn.Dropout)}

    assert probabilities(make_model(model_type, backbone_dropout=0.0)) <= {0.0}
    torch.manual_seed(0)
    model = make_model(model_type, backbone_dropout=0.0, input_dropout=0.0).train()
    inputs = torch.randn(2, 10, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(input_values=inputs).logits, model(input_values=inputs).logits)
    dropping = make_model(model_type, backbone_dropout=0.5, input_dropout=0.0).train()
    with torch.no_grad():
        one, other = (dropping(input_values=inputs).logits for _ in range(2))
        assert not torch.allclose(one, other)


OPT = pytest.param("opt", marks=since("5.6", "run OPT under a default device"))


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", OPT])
def test_a_default_device_moves_nothing_of_a_model_elsewhere(model_type, make_model, tmp_path):
    model = make_model(model_type, FPTModel)
    inputs = torch.randn(2, 10, 3)
    with torch.device("meta"):  # as with another default device and a model on the CPU
        assert is_causal(model.backbone) == (model_type in CAUSAL)
        assert model.train()(input_values=inputs).last_hidden_state.isfinite().all()
        model.save_backbone(tmp_path / "base")
    assert AutoModel.from_pretrained(tmp_path / "base").device.type == "cpu"
