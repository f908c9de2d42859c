"""Several deltas on one copy of the frozen weights: each model is as it would be alone, also in threads."""

import copy
import threading

import pytest
import torch
from conftest import FIELDS, TINY_BACKBONES, example, move, run_trainer, tiny_config, trained
from transformers import AutoModel, AutoModelForSequenceClassification, Trainer

from fpt_adapters import DeltaError, FPTForSequenceClassification, FPTModel, FPTTrainer, FrozenBase
from fpt_adapters.backbones.structure import position_parameters

DELTAS = {  # on one base: other inputs, policies, dropouts, adapters
    "the paper's": {},
    "other dropout": {"backbone_dropout": 0.2, "input_dropout": 0.0},
    "attention": {"sequence_length": 12, "trainable": ["input", "output", "attention"], "positions": "new"},
    "the head": {"trainable": ["output"]},
    "an adapter": {"peft_config": {"peft_type": "lora", "r": 2, "init_lora_weights": False}},
}
FAMILIES = [name for name in TINY_BACKBONES if name in ("gpt2", "bert", "llama", "t5", "vit", "albert")]
NO_ADAPTER = ("albert", "vit")  # peft knows no layers of these by itself


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """saved(family): the folder of a base, and those of deltas on it."""
    made = {}

    def save(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            torch.manual_seed(1)
            AutoModel.from_config(tiny_config(family)).save_pretrained(folder / "base")
            for number, (name, fields) in enumerate(DELTAS.items()):
                if family in NO_ADAPTER and name == "an adapter":
                    continue
                torch.manual_seed(number)
                model = FPTForSequenceClassification.from_backbone(folder / "base", **FIELDS | fields)
                move(model, number).save_pretrained(folder / name)
            made[family] = folder
        return made[family]

    return save


def load(folder, name, base, loader=FPTForSequenceClassification, **given):
    return loader.from_pretrained(folder / name, base_model_name_or_path=base, **given)


def shared_base(folder, **given):
    return FrozenBase.from_pretrained(folder / "base", **given)


@torch.no_grad()
def logits(model):
    return model(**example()).logits


def memory(*models):
    """The bytes that the parameters of models and bases take, those in common counted once."""
    modules = [model._base.backbone if isinstance(model, FrozenBase) else model for model in models]
    storages = [parameter.untyped_storage() for module in modules for parameter in module.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_models_on_one_base_are_as_they_would_be_alone(saved, family):
    folder = saved(family)
    base = shared_base(folder)
    names = [name for name in DELTAS if (folder / name).exists()]
    shared = {name: load(folder, name, base) for name in names}
    alone = {name: load(folder, name, folder / "base") for name in names}
    for _ in range(2):  # in turn
        for name, model in shared.items():
            assert torch.equal(logits(model), logits(alone[name])), name
            assert model.config.to_dict() == alone[name].config.to_dict()
    deltas = sum(tensor.nbytes for model in shared.values() for tensor in model.delta_tensors().values())
    cut = sum(tensor.nbytes for model in shared.values() for tensor in position_parameters(model.fpt.backbone))
    assert memory(base, *shared.values()) <= memory(base) + deltas + cut
    assert memory(base, *shared.values()) < memory(*alone.values()) / 2


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_threads_predict_with_models_on_one_base(saved, family):
    folder = saved(family)
    base = shared_base(folder)
    models = {name: load(folder, name, base) for name in ("the paper's", "attention")}
    expected = {name: logits(load(folder, name, folder / "base")) for name in models}
    wrong = []

    def predict(name):
        wrong.extend(name for _ in range(100) if not torch.equal(logits(models[name]), expected[name]))

    threads = [threading.Thread(target=predict, args=(name,)) for name in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("trainer_class", [FPTTrainer, Trainer])
def test_training_one_leaves_the_others_as_they_are(saved, tmp_path, trainer_class):
    folder = saved("gpt2")
    base = shared_base(folder)
    others = {name: load(folder, name, base) for name in DELTAS}
    before = {name: logits(model) for name, model in others.items()}
    for number, fields in enumerate(DELTAS.values()):
        pair = []
        for source in (base, folder / "base"):
            torch.manual_seed(3)
            model = FPTForSequenceClassification.from_backbone(source, **FIELDS | fields)
            pair.append(trained(run_trainer(model, tmp_path / str(number), trainer_class).model))
        torch.testing.assert_close(*pair, rtol=0, atol=0)
    for name, model in others.items():
        assert torch.equal(logits(model), before[name])


def test_a_model_on_a_shared_base_is_saved_as_any_other(saved, tmp_path):
    folder = saved("bert")
    load(folder, "attention", shared_base(folder)).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == (folder / "attention" / "config.json").read_bytes()
    expected = logits(load(folder, "attention", folder / "base"))
    assert torch.equal(logits(load(tmp_path, ".", folder / "base")), expected)
    assert torch.equal(logits(load(tmp_path, ".", shared_base(folder), AutoModelForSequenceClassification)), expected)


def test_what_is_another_base_is_refused(saved, tmp_path):
    folder = saved("gpt2")
    torch.manual_seed(2)
    AutoModel.from_config(tiny_config("gpt2")).save_pretrained(tmp_path / "other")
    with pytest.raises(DeltaError, match="Another base: a FrozenBase"):
        load(folder, "the head", FrozenBase.from_pretrained(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"was read with backbone_layers=1, but the model has None: read one"):
        load(folder, "the head", shared_base(folder, backbone_layers=1))
    AutoModel.from_config(tiny_config("gpt2", n_embd=16)).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"n_embd=32, but the config\.json of the base"):
        load(folder, "the head", FrozenBase.from_pretrained(tmp_path / "narrow"))
    with pytest.raises(TypeError, match="trainable says nothing of the frozen weights: a FrozenBase takes backbone_i"):
        shared_base(folder, trainable=["norm"])


@pytest.mark.parametrize(
    "asked", [{"dtype": "bfloat16"}, {"attn_implementation": "eager"}, {"device_map": "auto"}], ids=str
)
def test_what_only_the_base_can_have_is_refused_for_a_model(saved, asked):
    folder = saved("bert")
    base = shared_base(folder)
    load(folder, "the head", base)
    with pytest.raises(ValueError, match=r"came, but models on a FrozenBase have its own, .*: leave it out, or"):
        load(folder, "the head", base, **asked)
    with pytest.raises(ValueError, match=r"came, but models on a FrozenBase have its own"):
        FPTForSequenceClassification.from_backbone(base, **FIELDS, **asked)
    load(folder, "the head", base, dtype=torch.float32, attn_implementation=base.config._attn_implementation)


def test_a_base_that_was_changed_by_hand_is_refused(saved):
    folder = saved("gpt2")
    base = shared_base(folder)
    model = load(folder, "the head", base)
    with torch.no_grad():
        model.fpt.backbone.h[0].mlp.c_fc.weight.add_(1)
    with pytest.raises(ValueError, match="weights of this FrozenBase were changed since it was read: read it"):
        load(folder, "attention", base)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_base_has_one_dtype_for_all(saved, dtype):
    folder = saved("llama")
    given = {"dtype": dtype, "attn_implementation": "eager"}
    model = load(folder, "attention", shared_base(folder, **given))
    alone = load(folder, "attention", folder / "base", **given)
    assert torch.equal(logits(model), logits(alone)) and model.config._attn_implementation == "eager"
    assert {p.dtype for p in model.parameters()} == {p.dtype for p in alone.parameters()}
    assert copy.deepcopy(model).config.dtype == model.config.dtype == alone.config.dtype


def test_a_random_base_is_shared_too(tmp_path):
    config, drawn = tiny_config("bert"), {"backbone_init": "random", "backbone_init_seed": 5}
    base = FrozenBase.from_pretrained(config, **drawn)
    torch.manual_seed(0)
    model = FPTForSequenceClassification.from_backbone(base, **FIELDS).eval()
    torch.manual_seed(0)
    alone = FPTForSequenceClassification.from_backbone(config, **FIELDS, **drawn).eval()
    assert torch.equal(logits(model), logits(alone))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(FPTForSequenceClassification.from_pretrained(tmp_path)), logits(model))
    assert isinstance(FPTModel.from_pretrained(tmp_path, base_model_name_or_path=base), FPTModel)
