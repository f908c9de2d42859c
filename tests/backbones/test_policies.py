"""The groups of every family's parameters, and what trains: those that are named and that an input reaches."""

import re
from collections import defaultdict
from itertools import product

import pytest
import torch
from conftest import (
    IMAGE_BACKBONES,
    LAYERS,
    TINY_BACKBONES,
    TRANSFORMER_GROUPS,
    VALUES,
    WIDTH,
    assert_same,
    build_seeded,
    moved,
    reloaded,
    run_trainer,
    tiny_config,
    trained_names,
    weights,
)
from transformers import Lfm2Config

from fpt_adapters import (
    PAPER_GROUPS,
    FPTForImageClassification,
    FPTForTokenClassification,
    FPTModel,
    IdentityConfig,
    format_table,
)

IDENTITY = IdentityConfig(hidden_size=WIDTH)
LAST = [*PAPER_GROUPS, "last_attention"]


def names(modules, kinds="weight bias"):
    """Parameter names of modules: # stands for each layer, and (a|b) for a and for b."""
    paths = set()
    for module in modules.replace("#", f"({'|'.join(map(str, range(LAYERS)))})").split():
        paths |= {"".join(parts) for parts in product(*(part.split("|") for part in re.split("[()]", module)))}
    return {f"{path}.{kind}" for path in paths for kind in kinds.split()}


GPT = {
    "norm": names("h.#.ln_(1|2)"),
    "attention": names("h.#.attn.(c_attn|c_proj)"),
    "feedforward": names("h.#.mlp.(c_fc|c_proj)"),
}
BERT = {
    "norm": names("embeddings.LayerNorm encoder.layer.#.(attention.output|output).LayerNorm"),
    "position": names("embeddings.position_embeddings", "weight"),
    "attention": names("encoder.layer.#.attention.(self.query|self.key|self.value|output.dense)"),
    "feedforward": names("encoder.layer.#.(intermediate|output).dense"),
    "other": names("embeddings.(word|token_type)_embeddings", "weight"),
}
LLAMA = {
    "norm": names("layers.#.(input|post_attention)_layernorm norm", "weight"),
    "attention": names("layers.#.self_attn.(q|k|v|o)_proj", "weight"),
    "feedforward": names("layers.#.mlp.(gate|up|down)_proj", "weight"),
    "other": {"embed_tokens.weight"},
}
QK_NORMS = names("layers.#.self_attn.(q|k)_norm", "weight")
VIT = {
    "norm": names("layers.#.layernorm_(before|after) layernorm"),
    "attention": names("layers.#.attention.(q|k|v|o)_proj"),
    "feedforward": names("layers.#.mlp.fc(1|2)"),
}
ALBERT_LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
GROUPS = {
    "gpt2": GPT | {"norm": GPT["norm"] | names("ln_f"), "position": {"wpe.weight"}, "other": {"wte.weight"}},
    "openai-gpt": GPT | {"position": {"positions_embed.weight"}, "other": {"tokens_embed.weight"}},
    "bert": BERT,
    "roberta": BERT,
    "longformer": BERT  # projections of global attention, which no token has here, never train
    | {"other": BERT["other"] | names("encoder.layer.#.attention.self.(query|key|value)_global")},
    "distilbert": {
        "norm": names("embeddings.LayerNorm transformer.layer.#.(sa|output)_layer_norm"),
        "position": BERT["position"],
        "attention": names("transformer.layer.#.attention.(q|k|v|out)_lin"),
        "feedforward": names("transformer.layer.#.ffn.lin(1|2)"),
        "other": {"embeddings.word_embeddings.weight"},
    },
    "albert": {
        "norm": names(f"embeddings.LayerNorm {ALBERT_LAYER}.(attention.LayerNorm|full_layer_layer_norm)"),
        "position": BERT["position"],
        "attention": names(f"{ALBERT_LAYER}.attention.(query|key|value|dense)"),
        "feedforward": names(f"{ALBERT_LAYER}.(ffn|ffn_output)"),
        "other": BERT["other"] | names("encoder.embedding_hidden_mapping_in"),
    },
    "t5": {
        "norm": names("encoder.block.#.layer.(0|1).layer_norm encoder.final_layer_norm", "weight"),
        "position": names("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", "weight"),
        "attention": names("encoder.block.#.layer.0.SelfAttention.(q|k|v|o)", "weight"),
        "feedforward": names("encoder.block.#.layer.1.DenseReluDense.w(i|o)", "weight"),
        "other": {"shared.weight"},
    },
    "opt": {
        "norm": names("decoder.layers.#.(self_attn|final)_layer_norm decoder.final_layer_norm"),
        "position": {"decoder.embed_positions.weight"},
        "attention": names("decoder.layers.#.self_attn.(q|k|v|out)_proj"),
        "feedforward": names("decoder.layers.#.fc(1|2)"),
        "other": names("decoder.(embed_tokens|project_in|project_out)", "weight"),
    },
    "gpt_neox": {
        "norm": names("layers.#.(input|post_attention)_layernorm final_layer_norm"),
        "attention": names("layers.#.attention.(query_key_value|dense)"),
        "feedforward": names("layers.#.mlp.(dense_h_to_4h|dense_4h_to_h)"),
        "other": {"embed_in.weight"},
    },
    "llama": LLAMA,
    "gemma": LLAMA,
    "qwen3": LLAMA | {"attention": LLAMA["attention"] | QK_NORMS},
    "modernbert": {
        "norm": names("embeddings.norm layers.1.attn_norm layers.#.mlp_norm final_norm", "weight"),
        "attention": names("layers.#.attn.(Wqkv|Wo)", "weight"),
        "feedforward": names("layers.#.mlp.(Wi|Wo)", "weight"),
        "other": {"embeddings.tok_embeddings.weight"},
    },
    "fpt_lstm": {
        "norm": names("layers.#.norm"),
        "recurrent": names("layers.#.lstm", "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0"),
    },
    "vit": VIT,
    "deit": VIT,
    "dinov2": VIT
    | {
        "norm": names("layers.#.norm(1|2) layernorm"),
        "feedforward": VIT["feedforward"] | names("layers.#.layer_scale(1|2)", "lambda1"),
    },
}
EVERY = pytest.mark.parametrize("model_type", [*TINY_BACKBONES, "fpt_lstm"])
ROWS = {"roberta": 12, "longformer": 12, "opt": 12, "t5": 32}  # of positions, for 10 tokens: two of padding; buckets


def bare(names):
    """Parameter names, those of the backbone without their prefix."""
    return {name.partition("backbone.")[2] or name for name in names}


def groups_of(model):
    """The bare names of the parameters of each group."""
    groups = defaultdict(set)
    for name, group in model.parameter_groups().items():
        groups[group] |= bare([name])
    return groups


# Groups


@EVERY
def test_every_parameter_is_in_its_group(make_model, model_type):
    model, own = make_model(model_type), GROUPS[model_type]
    groups = {"input": names("fpt.input_projection.projection"), "output": names("head")}
    assert groups_of(model) == groups | {"position": {"fpt.position_embeddings.weight"}} | own
    assert set(model.parameter_groups()) == set(weights(model))
    assert model.config.positions == ("backbone" if "position" in own else "new")
    if "position" in own:
        assert model.fpt.position_embeddings is None
        assert model.fpt.backbone.get_parameter(*own["position"]).shape[0] == ROWS.get(model_type, 10)
    else:
        assert model.fpt.position_embeddings.weight.shape == (10, WIDTH)


@EVERY
def test_new_positions_leave_the_backbones_own_frozen(make_model, model_type):
    groups = groups_of(make_model(model_type, positions="new"))
    assert groups["position"] == {"fpt.position_embeddings.weight"}
    assert groups["other"] == GROUPS[model_type].get("other", set()) | GROUPS[model_type].get("position", set())


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "t5"])
def test_positions_can_be_left_out(make_model, model_type):
    model = make_model(model_type, positions="none", trainable=["input", "output", "norm"])
    assert "position" not in groups_of(model)
    assert model.fpt.position_embeddings is None


def test_alberts_shared_norms_count_once():
    counts = {}
    for layers in (1, 2, 12):
        model = build_seeded(tiny_config("albert", num_hidden_layers=layers), FPTModel)
        counts[layers] = {row.group: (row.tensors, row.parameters) for row in model.count_parameters()}
    assert counts[1] == counts[2] == counts[12]
    assert counts[2]["norm"] == (6, 2 * 16 + 4 * WIDTH)


def test_norms_of_queries_and_keys_train_by_choice(make_model):
    for chosen, norms in ((False, LLAMA["norm"]), (True, LLAMA["norm"] | QK_NORMS)):
        model = make_model("qwen3", train_qk_norms=chosen)
        assert groups_of(model)["norm"] == trained_names(model.fpt.backbone) == norms


@EVERY
def test_the_table_adds_up_to_the_model(make_model, model_type):
    model = make_model(model_type)
    rows = model.count_parameters()
    assert sum(row.parameters for row in rows) == model.num_parameters()
    assert sum(row.tensors for row in rows) == len(list(model.parameters()))
    assert sum(row.percent for row in rows) == pytest.approx(100)
    trained = sum(row.parameters for row in rows if row.trained)
    assert trained == model.num_parameters(only_trainable=True)
    assert {row.group for row in rows if row.trained} == set(PAPER_GROUPS)
    assert f"{trained:,}" in format_table(rows).splitlines()[-1]


def test_gpt2_base_on_cifar10_trains_the_papers_number(gpt2_base):
    rows = {row.group: row.parameters for row in gpt2_base.count_parameters() if row.trained}
    assert rows == {"input": 37_632, "output": 7_690, "norm": 38_400, "position": 49_152}
    assert gpt2_base.num_parameters(only_trainable=True) == 132_874
    assert type(gpt2_base) is FPTForImageClassification


# Training


@pytest.mark.parametrize(
    "trainable",
    [["output"], ["input", "norm"], ["attention", "position"], ["feedforward"], [], ["input", "output", "position"]],
    ids=" ".join,
)
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "albert", "qwen3"])
def test_exactly_the_named_groups_train(make_model, model_type, trainable):
    model = make_model(model_type, trainable=trainable)
    groups = model.parameter_groups()
    assert trained_names(model) == {name for name, group in groups.items() if group in trainable}


def gradients(model):
    """The gradient of each parameter of a model that labels tokens, None where no input reaches it."""
    torch.manual_seed(0)
    labels = torch.arange(30).reshape(3, 10) % 4
    model.train()(input_values=VALUES, labels=labels).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@EVERY
@pytest.mark.parametrize("whole", [False, True], ids=["paper", "all"])
def test_every_trained_tensor_gets_a_gradient(make_model, model_type, whole):
    trainable = {*PAPER_GROUPS, *GROUPS[model_type]} - {"other"} if whole else PAPER_GROUPS
    model = make_model(model_type, FPTForTokenClassification, trainable=sorted(trainable))
    found = gradients(model)
    assert {name for name, gradient in found.items() if gradient is not None} == trained_names(model)
    assert [name for name in trained_names(model) if not found[name].any()] == []


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "vit", "dinov2"])
def test_all_groups_are_all_that_an_input_reaches(make_model, model_type):
    if model_type not in TINY_BACKBONES:
        pytest.skip("cannot mask padding with these transformers")
    model = make_model(model_type, FPTForTokenClassification, trainable=list(TRANSFORMER_GROUPS))
    named = trained_names(model)
    model.requires_grad_(True)
    assert {name for name, gradient in gradients(model).items() if gradient is not None and gradient.any()} == named


@pytest.mark.parametrize(
    ("config", "name", "group"),
    [
        (tiny_config("bert"), "BertModel", "recurrent"),
        *product([tiny_config("fpt_lstm")], ["LSTMModel"], ["attention", "last_attention", "feedforward"]),
        *product([IDENTITY], ["IdentityModel"], ["norm", "attention", "feedforward", "recurrent"]),
    ],
)
def test_a_group_that_a_backbone_lacks_is_refused(config, name, group):
    message = f"trainable has '{group}', but the backbone {name} has no {group} parameters: leave '{group}' out"
    with pytest.raises(ValueError, match=message):
        build_seeded(config, trainable=["input", "output", group], positions="none")


# The last layer's attention


@pytest.mark.parametrize("model_type", TINY_BACKBONES)
def test_the_last_attention_is_that_of_the_last_layer(make_model, model_type):
    plain, model = make_model(model_type), make_model(model_type, trainable=LAST)
    before, after = groups_of(plain), groups_of(model)
    attention, last = before["attention"], after["last_attention"]
    of_the_last = {name for name in attention if f".{LAYERS - 1}." in name.replace("layer.0.SelfAttention", "")}
    assert last == (attention if model_type == "albert" else of_the_last) != set()
    assert after["attention"] == attention - last and "last_attention" not in before
    assert after == before | {"attention": after["attention"], "last_attention": last}
    assert bare(trained_names(model)) == bare(trained_names(plain)) | last


def test_a_last_layer_without_attention_is_passed_over():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Lfm2Config(**sizes, num_hidden_layers=4, layer_types=["full_attention"] * 3 + ["conv"], vocab_size=50)
    names = groups_of(build_seeded(config, trainable=LAST))["last_attention"]
    assert {name.partition("layers.")[2][0] for name in names} == {"2"}


def test_it_gets_the_gradients_that_it_gets_among_all(make_model):
    one, every = (
        make_model("gpt2", FPTForTokenClassification, trainable=[*PAPER_GROUPS, group], backbone_dropout=0.0)
        for group in ("last_attention", "attention")
    )
    groups, some, others = groups_of(one), gradients(one), gradients(every)
    last = {f"fpt.backbone.{name}" for name in groups["last_attention"]}
    assert_same({name: some[name] for name in last}, {name: others[name] for name in last}, rtol=1e-5, atol=1e-6)
    assert all(some[f"fpt.backbone.{name}"] is None for name in groups["attention"])


@pytest.mark.parametrize("model_type", ["gpt2", *list(IMAGE_BACKBONES)[:1]])
def test_it_trains_with_a_rate_of_its_own_and_comes_back(bases, model_type, tmp_path):
    model = build_seeded(bases(model_type), trainable=LAST)
    before = weights(model)
    run_trainer(model, tmp_path / "out", trainer={"group_learning_rates": {"last_attention": 1e-2}})
    assert moved(model, before) == trained_names(model)
    assert bare(moved(model, before)) > groups_of(model)["last_attention"] != set()
    loaded = reloaded(model, tmp_path / "delta", base_model_name_or_path=bases(model_type))
    assert trained_names(loaded) == trained_names(model)
    assert_same(weights(loaded), weights(model))
