"""A trained backbone saved as an ordinary checkpoint: it computes the same, and is a base like any other."""

import json

import pytest
import torch
from conftest import (
    EXAMPLES,
    GPT,
    NUMBERS,
    POSITIONS,
    TINY_BACKBONES,
    arguments,
    contents,
    example,
    tiny_config,
)
from safetensors.torch import load_file
from transformers import AutoModel, BartConfig
from transformers.utils import logging

from fpt_adapters import PAPER_GROUPS, FPTForTokenClassification, FPTModel, FPTTrainer
from fpt_adapters.backbones.baselines.modeling_lstm import LSTMConfig
from fpt_adapters.backbones.images import IMAGE_FAMILIES
from fpt_adapters.backbones.structure import POSITION_TABLES, output_width
from fpt_adapters.run import training as run_fpt
from fpt_adapters.tasks import BitMemory

RECIPE = EXAMPLES / "recipes" / "pretrain-bit-memory.yaml"

WHOLE_GROUPS = [*PAPER_GROUPS, "attention", "feedforward"]
BART = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
BART |= {"d_model": 32, "vocab_size": 99}


@pytest.fixture(autouse=True)
def without_progress_bars():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def trained(model):
    """The model, every parameter moved as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def rebuilt(folder, model, **fields):
    """A new model on the saved backbone, with the other parameters of the one that it is from."""
    new = FPTModel.from_backbone(folder, **NUMBERS, **fields).eval()
    others = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    assert new.load_state_dict(others, strict=False).unexpected_keys == []
    return new


@torch.no_grad()
def hidden(model):
    return model(**example(batch=4)).last_hidden_state


def assert_same(found, expected):
    """That two dicts hold the same tensors, to the bit."""
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize("model_type", [*(t for t in TINY_BACKBONES if t not in IMAGE_FAMILIES), "fpt_lstm"])
def test_a_saved_backbone_computes_what_the_trained_one_did(model_type, tmp_path):
    lstm = model_type == "fpt_lstm"
    config = LSTMConfig(hidden_size=32, num_hidden_layers=2) if lstm else tiny_config(model_type)
    model = trained(FPTModel.from_backbone(config, backbone_init="random", backbone_dropout=0.3, **NUMBERS))
    model.save_backbone(tmp_path / "base")
    again = rebuilt(tmp_path / "base", model)
    assert_same(again.backbone.state_dict(), model.backbone.state_dict())
    torch.testing.assert_close(hidden(again), hidden(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "roberta", "opt", "llama"])
def test_it_is_an_ordinary_checkpoint(model_type, tmp_path):
    own = tiny_config(model_type)
    model = FPTModel.from_backbone(own, backbone_init="random", backbone_dropout=0.3, **NUMBERS)
    model.save_backbone(tmp_path / "base")
    base, found = AutoModel.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert all(name.startswith("pooler.") for name in found["missing_keys"])
    assert not found["unexpected_keys"] and not found["mismatched_keys"]
    assert base(input_ids=torch.arange(POSITIONS)[None]).last_hidden_state.shape == (1, POSITIONS, output_width(own))
    assert sorted(file.name for file in (tmp_path / "base").iterdir()) == ["config.json", "model.safetensors"]
    written = json.loads((tmp_path / "base" / "config.json").read_text())
    expected = own.to_dict() | {"architectures": [type(base).__name__], "dtype": "float32"}
    assert written == {name: expected[name] for name in written}  # dropout, use_cache, sizes: the base's own
    modes = {file.stat().st_mode for file in (tmp_path / "base").iterdir()}
    assert len(modes) == 1  # who may read one may read the other


@pytest.mark.parametrize("model_type", ["gpt2", "roberta", "opt"])
def test_positions_beyond_the_trained_ones_are_drawn_from_a_fixed_seed(model_type, tmp_path, make_model):
    model = trained(make_model(model_type, FPTModel))
    for name in ("one", "two"):
        model.save_backbone(tmp_path / name)
        torch.randn(1)  # the caller's generator has no part in it
    path = POSITION_TABLES[model_type].path
    used = model.backbone.get_submodule(path).weight
    one, two = (AutoModel.from_pretrained(tmp_path / name).get_submodule(path).weight for name in ("one", "two"))
    assert torch.equal(one, two) and torch.equal(one[: len(used)], used)
    drawn = one[len(used) :]
    assert len(drawn) == POSITIONS - 10
    assert drawn.std().item() == pytest.approx(0.02, rel=0.1) and abs(drawn.mean().item()) < 0.002
    assert drawn.std(dim=1).min() > 0.01  # each of them


def test_saving_leaves_the_model_alone(tmp_path, make_model):
    model = trained(make_model("gpt2", FPTModel))
    before, generator = hidden(model), torch.get_rng_state()
    configurations = model.config.to_dict(), model.backbone.config.to_dict()
    model.save_backbone(tmp_path / "base")
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(hidden(model), before) and model.backbone.wpe.weight.shape[0] == 10
    assert (model.config.to_dict(), model.backbone.config.to_dict()) == configurations


def test_a_cut_backbone_is_saved_with_the_layers_it_has(tmp_path):
    config = tiny_config("qwen3", num_hidden_layers=3, layer_types=["full_attention"] * 3)
    model = trained(FPTModel.from_backbone(config, backbone_init="random", backbone_layers=2, **NUMBERS))
    model.save_backbone(tmp_path / "base")
    again = rebuilt(tmp_path / "base", model)
    assert again.config.base_model_config.num_hidden_layers == 2 and again.config.backbone_layers is None
    torch.testing.assert_close(hidden(again), hidden(model), rtol=0, atol=1e-5)


def test_half_precision_is_saved_without_a_loss(tmp_path, saved_base):
    """Frozen weights in bf16 and trained norms in fp32 stay what they are, in a file of one dtype."""
    model = FPTModel.from_backbone(saved_base, dtype="bfloat16", **NUMBERS)
    with torch.no_grad():
        model.backbone.ln_f.weight.add_(1e-4)  # which bf16 would round away
    model.save_backbone(tmp_path / "base")
    read = AutoModel.from_pretrained(tmp_path / "base").state_dict()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(read[name][: len(tensor)], tensor.float()) and read[name].dtype == torch.float32


def test_tied_weights_are_stored_once(tmp_path, make_model):
    make_model("t5", FPTModel, dtype="bfloat16").save_backbone(tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    assert len({"shared.weight", "encoder.embed_tokens.weight"} & stored.keys()) == 1
    again = FPTModel.from_backbone(tmp_path / "base", **NUMBERS).backbone
    assert again.shared.weight is again.encoder.embed_tokens.weight


def train(model, data, task, folder):
    args = arguments(folder, max_steps=4, per_device_train_batch_size=4, remove_unused_columns=False)
    trainer = FPTTrainer(model, args, train_dataset=data.train, data_collator=task.collate)
    trainer.train()
    trainer.save_model()


def test_a_backbone_is_pretrained_whole_and_frozen_under_a_new_delta(tmp_path):
    """As the paper does with bit memory: real training twice, a delta on the saved base, and its reload."""
    task = BitMemory(num_strings=2, string_length=20, bits_per_token=5, train_examples=16, eval_examples=4)
    data = task.load()
    model = FPTForTokenClassification.from_backbone(
        tiny_config("gpt2"), backbone_init="random", trainable=WHOLE_GROUPS, **data.config
    )
    drawn = {name: tensor.clone() for name, tensor in model.fpt.backbone.state_dict().items()}
    train(model, data, task, tmp_path / "pretraining")
    model.save_backbone(tmp_path / "base")

    base = AutoModel.from_pretrained(tmp_path / "base").state_dict()
    assert not torch.equal(base["h.0.attn.c_attn.weight"], drawn["h.0.attn.c_attn.weight"])
    assert torch.equal(base["wte.weight"], drawn["wte.weight"])  # reached by no input
    delta = FPTForTokenClassification.from_backbone(tmp_path / "base", **data.config)
    train(delta, data, task, tmp_path / "delta")
    frozen = delta.fpt.backbone.state_dict()
    assert torch.equal(frozen["h.0.attn.c_attn.weight"], base["h.0.attn.c_attn.weight"])
    assert not torch.equal(frozen["ln_f.weight"], base["ln_f.weight"])
    again = FPTForTokenClassification.from_pretrained(tmp_path / "delta", base_model_name_or_path=tmp_path / "base")
    assert_same(again.state_dict(), delta.state_dict())


def test_the_recipe_makes_a_base(tmp_path, monkeypatch):
    """By the run script, on a smaller backbone and shorter strings; the same groups train."""
    monkeypatch.chdir(tmp_path)
    small = ["--string_length", "20", "--bits_per_token", "5", "--eval_examples", "8", "--max_steps", "2"]
    small += ["--backbone_config", json.dumps({"model_type": "gpt2", **GPT})]
    quiet = ["--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no", "--eval_strategy", "no"]
    results = run_fpt.main([str(RECIPE), *small, *quiet])
    assert {"eval_masked_accuracy", "test_masked_accuracy"} <= results.keys()
    model = FPTForTokenClassification.from_pretrained("outputs/pretrain-bit-memory")
    assert {row.group for row in model.count_parameters() if row.trained} == set(WHOLE_GROUPS)
    base = FPTModel.from_backbone("outputs/pretrain-bit-memory-backbone", **NUMBERS).backbone
    assert torch.equal(base.h[1].mlp.c_fc.weight, model.fpt.backbone.h[1].mlp.c_fc.weight)


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path, make_model):
    model = make_model("gpt2", FPTModel)
    (tmp_path / "empty").mkdir()
    model.save_backbone(tmp_path / "empty")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for name in ("empty", "notes", "file"):
        with pytest.raises(ValueError, match=f"new folder, but .*{name} holds something"):
            model.save_backbone(tmp_path / name)
    assert contents(tmp_path) == before


def test_a_failure_and_other_processes_leave_nothing_behind(tmp_path, make_model):
    model = make_model("gpt2", FPTModel)
    model.save_backbone(tmp_path / "base", is_main_process=False)
    model.backbone.ln_f.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"ln_f\.weight is not finite"):
        model.save_backbone(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


PARTS = {"bart": "BartEncoder"} | {name: "ImageEncoder" for name in TINY_BACKBONES if name == "vit"}


@pytest.mark.parametrize("model_type, part", PARTS.items())
def test_a_part_of_a_model_is_refused(model_type, part, tmp_path):
    config = BartConfig(**BART) if model_type == "bart" else tiny_config(model_type)
    model = FPTModel.from_backbone(config, backbone_init="random", positions="none", trainable=["input"], **NUMBERS)
    with pytest.raises(ValueError, match=f"{part} is a part of a {model_type} model"):
        model.save_backbone(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []
