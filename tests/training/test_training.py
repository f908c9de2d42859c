"""Training with transformers' own Trainer and with FPTTrainer: what moves, checkpoints, resume, precision, guards."""

import importlib
import json
import math
import pkgutil
import shutil
import warnings
from types import FunctionType

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CHECKPOINTING, TRANSFORMER_GROUPS, arguments, saved_tensors, sequences, tiny_model, trainer_of
from runs import (
    IMAGES,
    NO_DROPOUT,
    ROOT,
    TOKENS,
    TRAINERS,
    WEIGHTS,
    AfterStep,
    assert_close,
    assert_resumes,
    assert_same,
    change_frozen,
    copied,
    labelled_tokens,
    losses,
    own_messages,
    stop_after,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Trainer

import fpt_adapters
from fpt_adapters import (
    DeltaError,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
    FPTTrainer,
    TrainingError,
)
from fpt_adapters.training.batch_checks import wrong_input

PAPER = ("input", "output", "norm", "position")

# What moves


@TRAINERS
@pytest.mark.parametrize(
    ("model_type", "trainable"),
    [
        ("gpt2", PAPER),
        ("gpt2", TRANSFORMER_GROUPS),
        ("gpt2", ("output",)),
        ("gpt2", ("norm", "feedforward")),
        ("bert", PAPER),
        ("bert", ("input", "output", "attention", "feedforward")),
        ("albert", PAPER),
        ("t5", TRANSFORMER_GROUPS),
        ("llama", PAPER),
        ("qwen3", ("input", "output", "norm", "attention")),
        ("modernbert", PAPER),
    ],
)
def test_the_policys_groups_move_and_nothing_else_does(trainer_class, model_type, trainable, make_model, train):
    model = make_model(model_type, trainable=trainable)
    groups, before = model.parameter_groups(), copied(model)
    after = copied(train(model, trainer_class=trainer_class).model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name, group in groups.items() if group in trainable}
    assert {groups[name] for name in moved} == set(trainable)
    assert len(moved) < len(before)


def test_training_learns(make_model, train):
    curve = losses(train(make_model("gpt2", **NO_DROPOUT), max_steps=80, train_dataset=sequences(8)))
    assert curve[0] > 1.0 and curve[-1] < 0.1


# Checkpoints


@TRAINERS
@pytest.mark.parametrize(
    ("model_type", "trainable"), [("gpt2", PAPER), ("bert", TRANSFORMER_GROUPS), ("llama", PAPER)]
)
def test_checkpoints_hold_only_the_trained_tensors(trainer_class, model_type, trainable, make_model, train, tmp_path):
    model = make_model(model_type, trainable=trainable)
    train(model, trainer_class=trainer_class, save_steps=2).save_model()
    trained = copied(model, trained=True)
    for folder in (tmp_path / "checkpoint-4", tmp_path):
        assert_same(saved_tensors(folder, model), trained)
        assert [path.name for path in folder.glob("*.safetensors*")] == [WEIGHTS]
        assert {path.name for path in folder.glob("*.bin*")} <= {"training_args.bin"}
        size, text = ((folder / name).stat().st_size for name in (WEIGHTS, "config.json"))  # whose text it has too
        assert size < sum(tensor.nbytes for tensor in trained.values()) + 200 * len(trained) + 500 + text
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    assert_same(copied(loaded, trained=False), copied(model, trained=False))
    assert not torch.equal(loaded.head.weight, model.head.weight)  # those of step 2, not of step 4
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trainable"] == list(trainable)
    assert config["base_model_fingerprint"] == model.config.base_model_fingerprint


@TRAINERS
def test_the_optimizer_holds_only_what_trains(trainer_class, train, tmp_path):
    trainer = train(trainer_class=trainer_class, save_steps=4, weight_decay=0.1)
    held = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in trainer.model.parameters() if p.requires_grad)
    assert {id(p) for p in trainer.optimizer.state} == set(held)
    saved = torch.load(tmp_path / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert len(saved["state"]) == len(held)


@TRAINERS
def test_the_best_step_is_restored_at_the_end(trainer_class, train, warned):
    at_step, scores = {}, iter([0.1, 0.9, 0.3])

    def remember(step, model, optimizer, control):
        at_step[step] = copied(model)

    trainer = train(
        trainer_class=trainer_class,
        max_steps=3,
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        eval_dataset=sequences(8, seed=1),
        compute_metrics=lambda prediction: {"score": next(scores)},
        callbacks=[AfterStep(remember)],
    )
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert_same(copied(trainer.model), at_step[2])
    assert not torch.equal(at_step[2]["head.weight"], at_step[3]["head.weight"])
    assert "keys in the checkpoint" not in warned.text


def test_predict_gives_the_models_logits_and_metrics(make_model, train):
    model = make_model("bert", num_labels=None, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    data = sequences(10, labels=3)

    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    output = train(model, train_dataset=data, compute_metrics=accuracy, per_device_eval_batch_size=4).predict(data)
    with torch.no_grad():
        logits = model.eval()(input_values=torch.stack([example["input_values"] for example in data])).logits.numpy()
    labels = np.array([example["labels"] for example in data])
    np.testing.assert_allclose(output.predictions, logits, atol=1e-5)
    np.testing.assert_array_equal(output.label_ids, labels)
    assert output.metrics["test_accuracy"] == (logits.argmax(-1) == labels).mean()


# Resume


RESUMABLE = {"max_steps": 6, "save_steps": 3, "lr_scheduler_type": "linear"}
RESUMABLE["train_dataset"] = sequences(20)  # 2.5 batches: the resume lies within the second epoch
LORA = {"peft_type": "lora", "target_modules": ["query", "value"], "lora_dropout": 0.1}


@TRAINERS
@pytest.mark.parametrize(
    ("model_type", "peft_config"), [("gpt2", None), ("bert", None), ("llama", None), ("bert", LORA)]
)
def test_resume_continues_bit_by_bit(
    trainer_class, model_type, peft_config, make_model, make_trainer, train, tmp_path, warned
):
    def make(folder, **more):
        model = make_model(model_type, backbone_dropout=0.2, input_dropout=0.1, peft_config=peft_config)
        return make_trainer(model, folder, trainer_class=trainer_class, **RESUMABLE, **more)

    checkpoint = tmp_path / "halves" / "checkpoint-3"
    _, whole = assert_resumes(make, 3, str(checkpoint))
    assert "missing keys" not in warned.text and "unexpected keys" not in warned.text
    cold = FPTForSequenceClassification.from_pretrained(checkpoint)
    train(cold, folder="cold", trainer_class=trainer_class, **RESUMABLE)
    assert not torch.equal(cold.head.weight, whole.model.head.weight)


def test_resume_true_takes_the_last_checkpoint_and_keeps_the_rates_of_groups(make_trainer):
    def make(folder, **more):
        return make_trainer(folder=folder, group_learning_rates={"norm": 1e-3}, **RESUMABLE, **more)

    assert_resumes(make, 3)


def test_the_stock_trainer_warns_when_a_trained_tensor_lacks(train, tmp_path, warned):
    train(trainer_class=Trainer, callbacks=[stop_after(3)], **RESUMABLE)
    file = tmp_path / "checkpoint-3" / WEIGHTS
    tensors = load_file(file)
    del tensors["output.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    train(trainer_class=Trainer, resume=True, **RESUMABLE)
    assert "missing keys" in warned.text and "head.weight" in warned.text


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint of three steps of the paper's policy on a tiny GPT-2."""
    folder = tmp_path_factory.mktemp("written")
    trainer_of(tiny_model("gpt2"), folder, callbacks=[stop_after(3)], **RESUMABLE).train()
    return folder / "checkpoint-3"


@pytest.fixture
def checkpoint(written, tmp_path):
    """A copy of it, which may be damaged."""
    return shutil.copytree(written, tmp_path / "first" / "checkpoint-3")


def refused(trainer, checkpoint, message):
    before = copied(trainer.model)
    with pytest.raises(DeltaError, match=message):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert_same(copied(trainer.model), before)
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable": (*PAPER, "attention")}, r"trains|train "),  # the checkpoint lacks tensors
        ({"trainable": ("input", "output", "norm")}, r"trains|train "),  # the checkpoint has too many
        ({"trainable": ("norm", "position")}, r"trains|train "),  # the same: new modules are saved in any case
        ({"backbone_init_seed": 1}, "another base"),
        ({"num_labels": 5}, r"head\.\w+ has shape \(4,.*, but this model needs \(5,"),
    ],
)
def test_resume_refuses_a_checkpoint_of_another_model(fields, message, checkpoint, make_model, make_trainer):
    refused(make_trainer(make_model("gpt2", **fields), **RESUMABLE), checkpoint, message)


def truncate(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def flip_a_bit(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def drop_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    del tensors["output.bias"]
    save_file(tensors, folder / WEIGHTS, metadata=metadata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated"),
        (flip_a_bit, "corrupt"),
        (drop_a_tensor, "corrupt"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "f'), r"config\.json"),
        (shutil.rmtree, "no checkpoint of this model"),
    ],
)
def test_resume_refuses_a_damaged_checkpoint(damage, message, checkpoint, make_trainer):
    damage(checkpoint)
    refused(make_trainer(**RESUMABLE), checkpoint, message)


@pytest.mark.parametrize("exists", [True, False])
def test_resume_true_without_a_checkpoint_is_refused(exists, make_trainer, tmp_path):
    trainer, folder = make_trainer(folder="out"), tmp_path / "out"
    if exists:
        folder.mkdir(exist_ok=True)
    elif folder.is_dir():
        folder.rmdir()
    with pytest.raises(ValueError, match="No checkpoint to resume from"):
        trainer.train(resume_from_checkpoint=True)


# One batch, however it is cut


def relabelled(data, label_of):
    """The same examples with `label_of(old label)`; where there was none, there is none."""

    def new(old):
        labels = label_of(torch.as_tensor(old))
        labels[torch.as_tensor(old) == -100] = -100
        return labels

    return [example | {"labels": new(example["labels"])} for example in data]


def several_labels(old):
    return torch.stack([old == 0, old > 1, old % 2 == 0, old < 3], dim=-1).float()


SEQUENCE, TOKEN = FPTForSequenceClassification, FPTForTokenClassification


@TRAINERS
@pytest.mark.parametrize(
    ("model_class", "num_labels", "data"),
    [
        (SEQUENCE, 4, sequences(40)),
        (TOKEN, 4, labelled_tokens(40)),
        (SEQUENCE, 1, relabelled(sequences(40), lambda old: old / 2.0)),
        (TOKEN, 1, relabelled(labelled_tokens(40), lambda old: old / 2.0)),
        (SEQUENCE, 4, relabelled(sequences(40), several_labels)),
        (TOKEN, 4, relabelled(labelled_tokens(40), several_labels)),
    ],
)
def test_accumulation_is_one_large_batch(trainer_class, model_class, num_labels, data, make_model, train):
    def model():
        return make_model("gpt2", model_class, num_labels=num_labels, **NO_DROPOUT)

    one, *others = [
        train(
            model(),
            trainer_class=trainer_class,
            train_dataset=data,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=16 // micro_batch,
            num_train_epochs=2,  # of 16, 16 and 8 examples
            optim="sgd",  # unlike Adam's, its steps follow the scale of the gradient
            learning_rate=1.0 if num_labels > 1 else 0.1,
            max_grad_norm=0.0,
        )
        for micro_batch in (16, 8, 4)
    ]
    start, weights = copied(model(), trained=True), copied(one.model, trained=True)
    for name, tensor in weights.items():
        assert (tensor - start[name]).abs().max() > 2e-4, name  # far more than the tolerance
    assert one.state.global_step == 6
    for other in others:
        assert other.state.global_step == 6
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        assert_close(copied(other.model, trained=True), weights)


# Precision and memory


@pytest.fixture(scope="module")
def fp32_losses():
    """Those of a training in fp32, by Trainer and family, filled by the first test that needs them."""
    return {}


FAMILIES = pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", "t5"])


@TRAINERS
@FAMILIES
@pytest.mark.parametrize(("dtype", "autocast"), [(None, True), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_bf16_keeps_what_trains_in_fp32(
    trainer_class, model_type, dtype, autocast, make_model, train, tmp_path, fp32_losses
):
    settings = {"trainer_class": trainer_class, "learning_rate": 1e-3}
    if (trainer_class, model_type) not in fp32_losses:
        reference = train(make_model(model_type, **NO_DROPOUT), **settings)
        fp32_losses[trainer_class, model_type] = losses(reference)
    expected = fp32_losses[trainer_class, model_type]
    model = make_model(model_type, dtype=dtype, **NO_DROPOUT)
    before, frozen = copied(model), torch.float32 if dtype is None else dtype
    trainer = train(model, bf16=autocast, save_steps=4, **settings)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else frozen), name
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert losses(trainer) != expected
    assert losses(trainer) == pytest.approx(expected, abs=0.05)
    saved = load_file(tmp_path / "checkpoint-4" / WEIGHTS)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


@FAMILIES
def test_bf16_weights_serve_where_no_norm_trains(model_type, make_model, train):
    trainer = train(make_model(model_type, trainable=("input", "output"), dtype=torch.bfloat16))
    assert all(map(math.isfinite, losses(trainer)))


@TRAINERS
@pytest.mark.parametrize(
    ("model_type", "trainable"), [("gpt2", PAPER), ("gpt2", ("norm", "output")), ("bert", PAPER), ("llama", PAPER)]
)
def test_activation_checkpointing_changes_only_memory(trainer_class, model_type, trainable, make_model, train):
    def run(checkpointing):
        model, calls = make_model(model_type, trainable=trainable, backbone_dropout=0.1), []
        attention = next(module for module in model.modules() if "Attention" in type(module).__name__)
        attention.register_forward_pre_hook(lambda *_: calls.append(1))
        trainer = train(model, trainer_class=trainer_class, **{CHECKPOINTING: checkpointing})
        return len(calls), losses(trainer), copied(model, trained=True)

    (calls, curve, weights), (calls_again, curve_again, weights_again) = run(False), run(True)
    assert calls_again == 2 * calls > 0  # the layers really ran again in the backward pass
    assert curve_again == pytest.approx(curve, abs=1e-6)
    assert_close(weights_again, weights)


# Learning rates by group


def test_each_group_has_its_learning_rate_and_the_schedule_scales_all(make_model, train):
    model, seen = make_model("gpt2"), []
    names, groups = {id(p): name for name, p in model.named_parameters()}, model.parameter_groups()

    def record(step, model, optimizer, control):
        seen.append({groups[names[id(p)]]: g["lr"] for g in optimizer.param_groups for p in g["params"]})

    trainer = train(
        model,
        lr_scheduler_type="linear",
        weight_decay=0.1,
        group_learning_rates={"norm": 1e-3, "input": 4e-2},
        callbacks=[AfterStep(record)],
    )
    full = {"input": 4e-2, "norm": 1e-3, "position": 1e-2, "output": 1e-2}
    for step, lrs in enumerate(seen, start=1):
        assert lrs == pytest.approx({group: lr * (1 - step / 4) for group, lr in full.items()}, rel=1e-6)
    assert len(seen) == 4
    decays = {names[id(p)]: g["weight_decay"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert decays["head.weight"] == 0.1 and decays["head.bias"] == 0.0  # as the stock Trainer has it
    assert {value for name, value in decays.items() if ".ln_" in name} == {0.0}


def test_a_groups_learning_rate_scales_its_steps(make_model, train):
    model = make_model("gpt2")
    before = copied(model)
    train(model, max_steps=1, learning_rate=1e-3, group_learning_rates={"output": 1e-1})
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in copied(model).items()}
    assert moved["head.weight"] == pytest.approx(1e-1, rel=1e-2)  # Adam's first step is the learning rate
    assert moved["fpt.input_projection.projection.weight"] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("group", ["attention", "norms"])
def test_a_learning_rate_for_what_does_not_train_is_refused(group, make_trainer):
    with pytest.raises(ValueError, match=f"has '{group}'; the groups that train here are input, output, norm, pos"):
        make_trainer(group_learning_rates={group: 1e-3})


def test_group_learning_rates_beside_an_own_optimizer_are_refused(make_model, train):
    model = make_model("gpt2")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    with pytest.raises(ValueError, match="group_learning_rates"):
        train(model, optimizers=(optimizer, None), group_learning_rates={"norm": 1e-3})


# Guards


def test_find_unused_parameters_is_off_unless_asked_for(make_trainer):
    assert make_trainer().args.ddp_find_unused_parameters is False
    assert make_trainer(ddp_find_unused_parameters=True).args.ddp_find_unused_parameters is True


def test_another_kind_of_model_is_refused(make_trainer):
    with pytest.raises(TypeError, match="FPTTrainer trains an FPT model, got Linear"):
        make_trainer(torch.nn.Linear(2, 2))


def test_trained_weights_below_fp32_are_refused(make_model, train):
    with pytest.raises(ValueError, match=r"must be float32, but fpt\.\S+ is torch.bfloat16"):
        train(make_model("gpt2").to(torch.bfloat16))


def renamed(**names):
    return [{names.get(name, name): value for name, value in example.items()} for example in sequences(8)]


def alike(**example):
    return [example] * 8


def steps(count, **labels):
    return {"input_values": torch.zeros(count, 3), "labels": 0} | labels


IDS = alike(input_ids=torch.tensor([1, 7]), labels=0)
FEW, PER_TOKEN = alike(**steps(10, labels=torch.zeros(9, dtype=torch.long))), {"model_class": TOKEN}
LARGE = alike(pixel_values=torch.zeros(1, 8, 10), labels=0)
SPLITS, FRAME = {"train": [], "test": []}, pd.DataFrame({"input_values": [1.0]})
SMALL = IMAGES | {"model_class": FPTForImageClassification, "patch_size": 2}
REFUSED = {  # the training set, fields of the model, and what is said
    "nothing that trains": (sequences(8), {"trainable": ()}, "Nothing would train"),
    "no set": (None, {}, "needs a train_dataset"),
    "an empty set": ([], {}, "The training set is empty"),
    "several sets": (SPLITS, {}, "train_dataset is one data set, got a mapping of train, test"),
    "a frame": (FRAME, {}, r"give datasets\.Dataset\.from_pandas"),
    "no input": (
        renamed(input_values="pixel_values"),
        {},
        "takes input_values, but the data has labels, pixel_values",
    ),
    "no labels": (renamed(labels="target"), {}, "needs labels to learn from, but has only input_values, target"),
    "unequal": ([steps(10), steps(9)] * 4, {}, "one has (9 where others have 10|10 where others have 9): pad them"),
    "too long": (alike(**steps(11)), {}, "11 tokens, but this model was built for at most 10"),
    "an id": (IDS, TOKENS, r"input_ids must lie in 0\.\.6 \(vocab_size=7\), got 7"),
    "large images": (LARGE, SMALL, r"\(batch, 1, 8, 8\), got \(1, 1, 8, 10\): resize"),
    "few labels": (FEW, PER_TOKEN, "an example with 10 tokens has 9 of them: write -100 where there is none"),
}


@pytest.mark.parametrize(("data", "fields", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_is_refused_before_the_first_step(data, fields, message, make_model, make_trainer):
    trainer = make_trainer(make_model("gpt2", **fields), train_dataset=data)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def values_with(value, *place):
    values = torch.zeros(10, 3)
    values[place] = value
    return {"input_values": values}


NOT_FINITE = r"input_values must be finite, but one is NaN or infinity, at"
WRONG_EXAMPLES = [
    (values_with(math.nan, 3, 1), rf"{NOT_FINITE} \[3, 1\]: clean it"),
    (values_with(math.inf, 0, 0), rf"{NOT_FINITE} \[0, 0\]: clean it"),
    ({"labels": 4}, r"labels must lie in 0\.\.3 \(num_labels=4\), got 4"),
    ({"labels": -1}, r"labels must lie in 0\.\.3 .*, got -1"),
]


@pytest.mark.parametrize("place", [0, 20])  # found before the first step, and in a later batch
@pytest.mark.parametrize(("wrong", "message"), WRONG_EXAMPLES)
def test_wrong_examples_are_refused(place, wrong, message, make_trainer):
    data = sequences(24)
    data[place] |= wrong
    trainer = make_trainer(train_dataset=data)
    with pytest.raises(ValueError, match=rf"{message}\. This is row {place} of the training set"):
        trainer.train()
    assert place > 0 or trainer.state.global_step == 0
    with pytest.raises(ValueError, match=rf"{message}\. This is row {place} of the evaluation set"):
        make_trainer().evaluate(data)


def test_a_wrong_example_is_named_from_a_worker_too(train):
    data = sequences(24)
    wrong, message = WRONG_EXAMPLES[0]
    data[20] |= wrong
    with pytest.raises(ValueError, match=rf"{message}\. This is row 20 of the training set"):
        train(train_dataset=data, dataloader_num_workers=1)


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([[1.0], [math.inf], [-math.inf]], 1),
        ([[1.0], [2.0], [math.nan]], 2),
        ([[3e38], [3e38], [3e38]], None),  # whose sum is infinite
        ([[1], [2], [3]], None),
    ],
)
def test_of_values_it_is_the_first_that_is_not_finite(values, row, make_model):
    wrong = wrong_input({"input_values": torch.tensor(values)[..., None]}, make_model("gpt2").config)
    assert (None if wrong is None else wrong.row) == row


WRONG_LABEL = [*sequences(20), sequences(1)[0] | {"labels": 7}]
SEVERAL_SETS = {"one": sequences(24), "other": datasets.Dataset.from_list(WRONG_LABEL)}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"train_dataset": WRONG_LABEL}, "the training set, 'labels'"),
        ({"eval_dataset": WRONG_LABEL}, "the evaluation set, 'labels'"),
        ({"eval_dataset": SEVERAL_SETS}, "the evaluation set 'other', column 'labels'"),
    ],
    ids=["training", "evaluation", "one of several"],
)
def test_a_wrong_label_of_any_data_set_is_named_before_the_first_step(data, where, make_trainer):
    trainer = make_trainer(**data)
    with pytest.raises(ValueError, match=rf"num_labels=4\), got 7\. This is row 20 of {where}\."):
        trainer.train()
    assert trainer.state.global_step == 0


def test_labels_that_a_transform_numbers_are_trained_on(train):
    names = ["cat", "dog", "bee", "ant"]
    data = datasets.Dataset.from_list([example | {"labels": names[example["labels"]]} for example in sequences(16)])
    data.set_transform(lambda rows: rows | {"labels": [names.index(name) for name in rows["labels"]]})
    train(max_steps=1, train_dataset=data, eval_dataset=data)


def test_two_classes_may_be_bools_and_classes_any_whole_numbers(make_model, train):
    def curve(kind):
        data = [example | {"labels": kind(example["labels"] % 2)} for example in sequences(16)]
        return losses(train(make_model("gpt2", num_labels=2, **NO_DROPOUT), train_dataset=data))

    expected = curve(int)
    assert curve(bool) == curve(np.int32) == curve(lambda label: torch.tensor(bool(label))) == expected


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [(4, 1, None), (3, [0.0, 1.0, 1.0], "multi_label_classification"), (1, 2, "regression")],
)
def test_training_notes_the_problem_for_the_card_and_pipelines(
    num_labels, labels, problem_type, make_model, train, tmp_path
):
    data = [example | {"labels": labels} for example in sequences(8)]
    train(make_model("gpt2", num_labels=num_labels), max_steps=1, train_dataset=data).model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("problem_type") == problem_type


class OwnLoss(FPTTrainer):
    """A Trainer with a loss that takes no label, or one of its own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**{name: value for name, value in inputs.items() if name not in ("labels", "targets")})
        loss = outputs[0].square().mean()
        return (loss, outputs) if return_outputs else loss


def own_loss(outputs, labels, num_items_in_batch):
    return ((outputs.logits.sum(-1) - labels) ** 2).mean()


HALVES = [example | {"labels": example["labels"] + 0.5} for example in sequences(16)]
IGNORED = [example | {"labels": -100.0 if i < 3 else 0.5} for i, example in enumerate(sequences(16))]
UNLABELLED = {"trainer_class": OwnLoss, "train_dataset": [{"input_values": e["input_values"]} for e in sequences(8)]}
TARGETS = UNLABELLED | {"remove_unused_columns": False, "label_names": ["targets"]}
TARGETS["train_dataset"] = [{"input_values": e["input_values"], "targets": 1.5} for e in sequences(8)]
A_FLOAT = ("a float: for a regression", "own loss")
TO_IGNORE = "3 targets of the training set, 'labels' are -100"
STAY = "10 of 15 trained tensors did not change in 4 steps, the first is fpt.backbone.h.0.ln_1.weight"
WARNED = {  # fields of the model, and of the Trainer, and what is said
    "nothing in an ordinary run": ({}, {}, []),
    "nothing without labels": ({}, UNLABELLED, []),
    "nothing without labels or head": ({"model_class": FPTModel}, UNLABELLED, []),
    "nothing with targets": ({}, TARGETS, []),
    "nothing with targets or head": ({"model_class": FPTModel}, TARGETS, []),
    "labels for an own loss": ({}, {"train_dataset": HALVES, "trainer_class": OwnLoss}, A_FLOAT),
    "labels for a loss function": ({}, {"train_dataset": HALVES, "compute_loss_func": own_loss}, A_FLOAT),
    "targets that are ignored": ({"num_labels": 1}, {"train_dataset": IGNORED}, [TO_IGNORE]),
    "tensors that stay": ({}, {"group_learning_rates": {"norm": 0.0}}, [STAY]),
}


@pytest.mark.parametrize(("fields", "changes", "parts"), WARNED.values(), ids=WARNED)
def test_what_may_be_meant_is_warned_of_once(fields, changes, parts, make_model, train, warned):
    train(make_model("gpt2", **fields), **changes)
    messages = own_messages(warned)
    assert len(messages) == bool(parts)
    assert [part for part in parts if part not in messages[0]] == []


SERIES = {"input_type": "series", "series_length": 10, "num_channels": 3, "patch_length": 4, "patch_stride": 2}
SERIES |= {"input_size": None, "sequence_length": None}


@pytest.mark.parametrize("fields", [{}, SERIES], ids=["values", "series"])
def test_what_lies_under_the_mask_does_not_stop_training(fields, make_model, train):
    data = [example | {"attention_mask": torch.ones(10, dtype=torch.long)} for example in sequences(16)]
    data[5]["input_values"][6:], data[5]["attention_mask"][6:] = math.nan, 0
    assert all(map(math.isfinite, losses(train(make_model("gpt2", **fields), train_dataset=data))))
    data[5]["attention_mask"][6] = 1
    with pytest.raises(ValueError, match=r"finite, .*, at \[6, 0\]: clean it\. This is row 5 of the tr"):
        train(make_model("gpt2", **fields), train_dataset=data)
    data[5]["attention_mask"][:] = 0
    with pytest.raises(ValueError, match=r"at least one real step, but one has none: drop it\. This is row 5"):
        train(make_model("gpt2", **fields), train_dataset=data)


def test_whole_numbers_can_be_regressed(make_model, train):
    model = make_model("gpt2", num_labels=1, problem_type="regression", **NO_DROPOUT)
    curve = losses(train(model, train_dataset=[example | {"labels": 5} for example in sequences(8)]))
    assert curve[0] > curve[-1] > 1


@pytest.mark.parametrize("filtered", [True, False])
def test_diverging_weights_stop_training(filtered, make_trainer, tmp_path):
    trainer = make_trainer(learning_rate=1e38, max_steps=50, logging_nan_inf_filter=filtered)
    with pytest.raises(TrainingError, match=r"is not finite at step [1-9]: training diverged. Lower learning_rate"):
        trainer.train()
    assert trainer.state.global_step < 10 and trainer.args.logging_nan_inf_filter is filtered
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize("filtered", [True, False])
def test_a_loss_that_is_not_finite_once_does_not(filtered, make_trainer):
    def loss(outputs, labels, num_items_in_batch):
        value = torch.nn.functional.cross_entropy(outputs.logits, labels)
        return value + (math.inf if trainer.state.global_step == 1 else 0)  # whose gradient is finite

    trainer = make_trainer(logging_nan_inf_filter=filtered, compute_loss_func=loss)
    trainer.train()
    assert [math.isfinite(one) for one in losses(trainer)] == [True, *[filtered] * 3]  # the sum of losses stays so


def test_weights_that_are_not_finite_are_told_without_a_log(train):
    with pytest.raises(TrainingError, match="is not finite after training"):
        train(learning_rate=1e38, logging_strategy="no")


def test_a_frozen_weight_that_changes_is_told(train):
    with pytest.raises(TrainingError, match=r"frozen weight fpt.backbone.h.0.mlp.c_fc.weight changed .*\(1 tensors"):
        train(callbacks=[AfterStep(change_frozen)])


# What it leaves alone


WARNS = pytest.mark.skipif(datasets.__version__ < "5", reason="datasets before 5 warns of its own tensors")
STREAM = pytest.param(0, datasets.Dataset.to_iterable_dataset, marks=WARNS)


@pytest.mark.parametrize(("workers", "data"), [(0, list), (1, list), STREAM])
def test_no_loader_warns_of_pinned_memory(workers, data, make_model, tmp_path):
    """Nobody's choice is changed either: pinned memory is what Trainer asks for by default."""
    settings = arguments(tmp_path, dataloader_num_workers=workers, use_cpu=False)  # which would turn it off
    rows = data(datasets.Dataset.from_list(sequences(8)).with_format("torch"))
    trainer = FPTTrainer(make_model("gpt2"), settings, train_dataset=rows, eval_dataset=sequences(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train()
        trainer.evaluate()
        trainer.predict(sequences(4))
    assert settings.dataloader_pin_memory is trainer.args.dataloader_pin_memory is True


# The house


def test_there_is_one_class_over_trainer_and_it_has_no_state():
    for module in pkgutil.walk_packages(fpt_adapters.__path__, "fpt_adapters."):
        importlib.import_module(module.name)
    found, left = set(), [Trainer]
    while left:
        below = [cls for cls in left.pop().__subclasses__() if cls.__module__.startswith("fpt_adapters")]
        found, left = found | set(below), left + below
    assert found == {FPTTrainer} and FPTTrainer.__bases__ == (Trainer,)
    own = {name: value for name, value in vars(FPTTrainer).items() if not name.startswith("__")}
    assert [name for name, value in own.items() if not isinstance(value, (FunctionType, property))] == []


PRIVATE = {
    "_get_train_sampler",
    "_finish_current_push",
    "_push_from_checkpoint",
    "_save_checkpoint",
    "_save_optimizer_and_scheduler",
    "_save_rng_state",
}


def test_the_private_methods_that_are_overridden_are_trainers_and_listed():
    own = {name for name in vars(FPTTrainer) if name.startswith("_") and not name.startswith("__")}
    assert PRIVATE <= own and own & set(dir(Trainer)) == PRIVATE
    used = PRIVATE | {"_get_collator_with_removed_columns", "_save"}
    assert used <= set(vars(Trainer))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in used | {"_train_batch_size"} if f"`{name}`" not in text] == []
