"""Training with transformers' own Trainer and with FPTTrainer: what moves, checkpoints, resume, precision, guards."""

import dataclasses
import importlib
import json
import math
import pkgutil
import shutil
import warnings
from pathlib import Path
from types import FunctionType

import datasets
import numpy as np
import pytest
import torch
from conftest import TRANSFORMER_GROUPS, saved_tensors
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments

import fpt_adapters
from fpt_adapters import (
    DeltaError,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTTrainer,
    TrainingError,
)
from fpt_adapters.training.batch_checks import wrong_input

ROOT = Path(__file__).parents[2]
TRAINERS = pytest.mark.parametrize("trainer_class", [Trainer, FPTTrainer])
NO_DROPOUT = {"input_dropout": 0.0, "backbone_dropout": 0.0}
WEIGHTS = "model.safetensors"


def sequences(count, seed=0, labels=4):
    """Examples of the fixture's default model: 10 tokens of 3 numbers, 4 classes."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 10, 3, generator=generator)
    classes = torch.randint(labels, (count,), generator=generator).tolist()
    return [{"input_values": v, "labels": c} for v, c in zip(values, classes, strict=True)]


def labelled_tokens(count, seed=0):
    """Examples with one label per token, of which 1 to 10 are given: no two micro batches have as many."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        labels = torch.randint(4, (10,), generator=generator)
        labels[1 + (7 * index) % 10 :] = -100
        examples.append({"input_values": torch.randn(10, 3, generator=generator), "labels": labels})
    return examples


def arguments(folder, **changes):
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
    }
    return TrainingArguments(**(defaults | changes))


def copied(model, trained=None):
    """Copies of the parameters by name: all, the trained or the frozen ones."""
    named = model.named_parameters()
    return {name: p.detach().clone() for name, p in named if trained is None or p.requires_grad == trained}


def assert_same(first, second):
    assert first.keys() == second.keys() and first
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


class AfterStep(TrainerCallback):
    """Calls a function with (step, model, optimizer, control) after every step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.function(state.global_step, model, optimizer, control)


def stop_after(last):
    def stop(step, model, optimizer, control):
        control.should_training_stop = step == last

    return AfterStep(stop)


# What moves


PAPER = ("input", "output", "norm", "position")
POLICIES = [
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
]


@TRAINERS
@pytest.mark.parametrize(("model_type", "trainable"), POLICIES)
def test_the_policys_groups_move_and_nothing_else_does(trainer_class, model_type, trainable, make_model, tmp_path):
    model = make_model(model_type, trainable=trainable)
    groups = model.parameter_groups()
    before = copied(model)
    trainer_class(model, arguments(tmp_path), train_dataset=sequences(32)).train()
    after = copied(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name, group in groups.items() if group in trainable}
    assert {groups[name] for name in moved} == set(trainable)
    assert len(moved) < len(before)


def test_training_learns(make_model, tmp_path):
    model = make_model("gpt2", **NO_DROPOUT)
    trainer = FPTTrainer(model, arguments(tmp_path, max_steps=80), train_dataset=sequences(8))
    trainer.train()
    curve = losses(trainer)
    assert curve[0] > 1.0 and curve[-1] < 0.1


# Checkpoints


@TRAINERS
@pytest.mark.parametrize(
    ("model_type", "trainable"),
    [("gpt2", PAPER), ("bert", TRANSFORMER_GROUPS), ("llama", PAPER)],
)
def test_checkpoints_hold_the_trained_tensors_alone(trainer_class, model_type, trainable, make_model, tmp_path):
    model = make_model(model_type, trainable=trainable)
    trainer = trainer_class(
        model, arguments(tmp_path, save_strategy="steps", save_steps=2), train_dataset=sequences(32)
    )
    trainer.train()
    trainer.save_model()
    trained = copied(model, trained=True)
    for folder in (tmp_path / "checkpoint-4", tmp_path):
        assert_same(saved_tensors(folder, model), trained)
        assert sorted(path.name for path in folder.glob("*.safetensors*")) == [WEIGHTS]
        assert not list(folder.glob("*.bin*")) or [p.name for p in folder.glob("*.bin*")] == ["training_args.bin"]
        size, text = ((folder / name).stat().st_size for name in (WEIGHTS, "config.json"))  # whose text it has too
        assert size < sum(tensor.nbytes for tensor in trained.values()) + 200 * len(trained) + 500 + text
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    assert_same(copied(loaded, trained=False), copied(model, trained=False))
    assert not torch.equal(loaded.head.weight, model.head.weight)  # those of step 2, not of step 4


@TRAINERS
def test_the_optimizer_holds_only_what_trains(trainer_class, make_model, tmp_path):
    model = make_model("gpt2")
    args = arguments(tmp_path, save_strategy="steps", save_steps=4, weight_decay=0.1)
    trainer = trainer_class(model, args, train_dataset=sequences(32))
    trainer.train()
    held = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {id(p) for p in trainer.optimizer.state} == set(held)
    saved = torch.load(tmp_path / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert len(saved["state"]) == len(held)


@pytest.mark.parametrize("trainer_class", [Trainer, FPTTrainer])
def test_the_best_step_is_restored_at_the_end(trainer_class, make_model, tmp_path, warned):
    model = make_model("gpt2")
    at_step = {}
    scores = iter([0.1, 0.9, 0.3])

    def remember(step, model, optimizer, control):
        at_step[step] = copied(model)

    args = arguments(
        tmp_path,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trainer = trainer_class(
        model,
        args,
        train_dataset=sequences(24),
        eval_dataset=sequences(8, seed=1),
        compute_metrics=lambda prediction: {"score": next(scores)},
        callbacks=[AfterStep(remember)],
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert_same(copied(model), at_step[2])
    assert not torch.equal(at_step[2]["head.weight"], at_step[3]["head.weight"])
    assert "keys in the checkpoint" not in warned.text


def test_predict_gives_the_models_logits_and_metrics(make_model, tmp_path):
    model = make_model("bert", num_labels=None, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    data = sequences(10, labels=3)

    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    trainer = FPTTrainer(
        model, arguments(tmp_path, per_device_eval_batch_size=4), train_dataset=data, compute_metrics=accuracy
    )
    trainer.train()
    output = trainer.predict(data)
    model.eval()
    with torch.no_grad():
        logits = model(input_values=torch.stack([example["input_values"] for example in data])).logits.numpy()
    labels = np.array([example["labels"] for example in data])
    np.testing.assert_allclose(output.predictions, logits, atol=1e-5)
    np.testing.assert_array_equal(output.label_ids, labels)
    assert output.metrics["test_accuracy"] == (logits.argmax(-1) == labels).mean()


# Resume


def resumable(folder, **changes):
    return arguments(folder, max_steps=6, save_strategy="steps", save_steps=3, lr_scheduler_type="linear", **changes)


LORA = {"peft_type": "lora", "target_modules": ["query", "value"], "lora_dropout": 0.1}


@TRAINERS
@pytest.mark.parametrize(
    ("model_type", "peft_config"), [("gpt2", None), ("bert", None), ("llama", None), ("bert", LORA)]
)
def test_resume_continues_bit_by_bit(trainer_class, model_type, peft_config, make_model, tmp_path, warned):
    data = sequences(20)  # 2.5 batches: the resume lies within the second epoch
    dropout = {"backbone_dropout": 0.2, "input_dropout": 0.1, "peft_config": peft_config}
    whole = trainer_class(make_model(model_type, **dropout), resumable(tmp_path / "whole"), train_dataset=data)
    whole.train()

    halted = trainer_class(
        make_model(model_type, **dropout),
        resumable(tmp_path / "halves"),
        train_dataset=data,
        callbacks=[stop_after(3)],
    )
    halted.train()
    assert halted.state.global_step == 3
    fresh = make_model(model_type, **dropout)
    with torch.no_grad():
        for parameter in fresh.parameters():  # what trains must come from the checkpoint, all of it
            if parameter.requires_grad:
                parameter.add_(1.0)
    resumed = trainer_class(fresh, resumable(tmp_path / "halves"), train_dataset=data)
    resumed.train(resume_from_checkpoint=str(tmp_path / "halves" / "checkpoint-3"))

    assert len(losses(whole)) == 6
    assert losses(resumed) == losses(whole)
    assert_same(copied(resumed.model), copied(whole.model))
    assert "missing keys" not in warned.text and "unexpected keys" not in warned.text

    cold = FPTForSequenceClassification.from_pretrained(tmp_path / "halves" / "checkpoint-3")
    trainer = trainer_class(cold, resumable(tmp_path / "cold"), train_dataset=data)
    trainer.train()
    assert not torch.equal(cold.head.weight, whole.model.head.weight)


def test_resume_true_takes_the_last_checkpoint(make_model, tmp_path):
    data = sequences(24)
    whole = FPTTrainer(make_model("gpt2"), resumable(tmp_path / "whole"), train_dataset=data)
    whole.train()
    again = FPTTrainer(make_model("gpt2"), resumable(tmp_path / "half"), train_dataset=data, callbacks=[stop_after(3)])
    again.train()
    resumed = FPTTrainer(make_model("gpt2"), resumable(tmp_path / "half"), train_dataset=data)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert_same(copied(resumed.model), copied(whole.model))


def test_the_stock_trainer_warns_when_a_trained_tensor_lacks(make_model, tmp_path, warned):
    data = sequences(24)
    Trainer(make_model("gpt2"), resumable(tmp_path), train_dataset=data, callbacks=[stop_after(3)]).train()
    file = tmp_path / "checkpoint-3" / WEIGHTS
    tensors = load_file(file)
    del tensors["output.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    Trainer(make_model("gpt2"), resumable(tmp_path), train_dataset=data).train(resume_from_checkpoint=True)
    assert "missing keys" in warned.text and "head.weight" in warned.text


@pytest.fixture
def checkpoint(make_model, tmp_path):
    """A checkpoint of three steps of the paper's policy on a tiny GPT-2."""
    folder = tmp_path / "first"
    FPTTrainer(make_model("gpt2"), resumable(folder), train_dataset=sequences(24), callbacks=[stop_after(3)]).train()
    return folder / "checkpoint-3"


@pytest.mark.parametrize(
    "trainable",
    [
        ("input", "output", "norm", "position", "attention"),  # the checkpoint lacks tensors
        ("input", "output", "norm"),  # the checkpoint has too many
        ("norm", "position"),  # the same tensors: new modules are saved whether they train or not
    ],
)
def test_resume_refuses_a_checkpoint_of_another_policy(trainable, checkpoint, make_model, tmp_path):
    trainer = FPTTrainer(make_model("gpt2", trainable=trainable), resumable(tmp_path), train_dataset=sequences(24))
    before = copied(trainer.model)
    with pytest.raises(DeltaError, match=r"trains|train "):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert_same(copied(trainer.model), before)


def test_resume_refuses_a_checkpoint_on_another_base(checkpoint, make_model, tmp_path):
    trainer = FPTTrainer(make_model("gpt2", backbone_init_seed=1), resumable(tmp_path), train_dataset=sequences(24))
    with pytest.raises(DeltaError, match="another base"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_resume_refuses_a_head_of_another_size(checkpoint, make_model, tmp_path):
    trainer = FPTTrainer(make_model("gpt2", num_labels=5), resumable(tmp_path), train_dataset=sequences(24))
    with pytest.raises(DeltaError, match=r"head\.\w+ has shape \(4,.*, but this model needs \(5,"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


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
        (shutil.rmtree, "no checkpoint of this model"),
    ],
)
def test_resume_refuses_a_damaged_checkpoint(damage, message, checkpoint, make_model, tmp_path):
    damage(checkpoint)
    trainer = FPTTrainer(make_model("gpt2"), resumable(tmp_path), train_dataset=sequences(24))
    with pytest.raises(DeltaError, match=message):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 0


def test_resume_refuses_a_cut_config(checkpoint, make_model, tmp_path):
    (checkpoint / "config.json").write_text('{"model_type": "f')
    trainer = FPTTrainer(make_model("gpt2"), resumable(tmp_path), train_dataset=sequences(24))
    with pytest.raises(DeltaError, match=r"config\.json"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("exists", [True, False])
def test_resume_true_without_a_checkpoint_is_refused(exists, make_model, tmp_path):
    folder = tmp_path / "out"
    trainer = FPTTrainer(make_model("gpt2"), resumable(folder), train_dataset=sequences(24))
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


def one_number(old):
    return old / 2.0


def several_labels(old):
    return torch.stack([old == 0, old > 1, old % 2 == 0, old < 3], dim=-1).float()


SEQUENCE, TOKEN = FPTForSequenceClassification, FPTForTokenClassification


@TRAINERS
@pytest.mark.parametrize(
    ("model_class", "num_labels", "data"),
    [
        (SEQUENCE, 4, sequences(40)),
        (TOKEN, 4, labelled_tokens(40)),
        (SEQUENCE, 1, relabelled(sequences(40), one_number)),
        (TOKEN, 1, relabelled(labelled_tokens(40), one_number)),
        (SEQUENCE, 4, relabelled(sequences(40), several_labels)),
        (TOKEN, 4, relabelled(labelled_tokens(40), several_labels)),
    ],
)
def test_accumulation_is_one_large_batch(trainer_class, model_class, num_labels, data, make_model, tmp_path):
    fields = NO_DROPOUT | {"num_labels": num_labels}
    runs = []
    for micro_batch, accumulated in ((16, 1), (8, 2), (4, 4)):
        args = arguments(
            tmp_path,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulated,
            max_steps=-1,
            num_train_epochs=2,  # of 16, 16 and 8 examples
            optim="sgd",  # unlike Adam's, its steps follow the scale of the gradient
            learning_rate=1.0 if num_labels > 1 else 0.1,
            max_grad_norm=0.0,
        )
        trainer = trainer_class(make_model("gpt2", model_class, **fields), args, train_dataset=data)
        trainer.train()
        assert trainer.state.global_step == 6
        runs.append((losses(trainer), copied(trainer.model, trained=True)))
    start = copied(make_model("gpt2", model_class, **fields), trained=True)
    for curve, weights in runs[1:]:
        assert curve == pytest.approx(runs[0][0], abs=1e-5)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, runs[0][1][name], atol=1e-5, rtol=0)
            assert (tensor - start[name]).abs().max() > 1e-4  # far more than the tolerance


# Precision and memory


@TRAINERS
@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", "t5"])
@pytest.mark.parametrize(("dtype", "autocast"), [(None, True), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_bf16_keeps_what_trains_in_fp32(trainer_class, model_type, dtype, autocast, make_model, tmp_path):
    reference = trainer_class(
        make_model(model_type, **NO_DROPOUT), arguments(tmp_path, learning_rate=1e-3), train_dataset=sequences(32)
    )
    reference.train()
    model = make_model(model_type, dtype=dtype, **NO_DROPOUT)
    before = copied(model)
    args = arguments(tmp_path, bf16=autocast, learning_rate=1e-3, save_strategy="steps", save_steps=4)
    trainer = trainer_class(model, args, train_dataset=sequences(32))
    trainer.train()
    frozen = torch.float32 if dtype is None else dtype
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else frozen), name
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert losses(trainer) != losses(reference)
    assert losses(trainer) == pytest.approx(losses(reference), abs=0.05)
    saved = load_file(tmp_path / "checkpoint-4" / WEIGHTS)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "llama", "t5"])
def test_bf16_weights_serve_where_no_norm_trains(model_type, make_model, tmp_path):
    model = make_model(model_type, trainable=("input", "output"), dtype=torch.bfloat16)
    trainer = FPTTrainer(model, arguments(tmp_path), train_dataset=sequences(32))
    trainer.train()
    assert all(map(math.isfinite, losses(trainer)))


@TRAINERS
@pytest.mark.parametrize(
    ("model_type", "trainable"), [("gpt2", PAPER), ("gpt2", ("norm", "output")), ("bert", PAPER), ("llama", PAPER)]
)
def test_activation_checkpointing_changes_nothing_but_memory(
    trainer_class, model_type, trainable, make_model, tmp_path
):
    named = {field.name for field in dataclasses.fields(TrainingArguments)}  # the name depends on the version
    flag = "activation_checkpointing" if "activation_checkpointing" in named else "gradient_checkpointing"
    calls, curves, weights = {}, {}, {}
    for checkpointing in (False, True):
        model = make_model(model_type, trainable=trainable, backbone_dropout=0.1)
        attention = next(module for module in model.modules() if "Attention" in type(module).__name__)
        calls[checkpointing] = 0

        def count(*_, key=checkpointing):
            calls[key] += 1

        attention.register_forward_pre_hook(count)
        trainer = trainer_class(model, arguments(tmp_path, **{flag: checkpointing}), train_dataset=sequences(32))
        trainer.train()
        curves[checkpointing], weights[checkpointing] = losses(trainer), copied(model, trained=True)
    assert calls[True] == 2 * calls[False] > 0  # the layers really ran again in the backward pass
    assert curves[True] == pytest.approx(curves[False], abs=1e-6)
    for name, tensor in weights[True].items():
        torch.testing.assert_close(tensor, weights[False][name], atol=1e-5, rtol=0)


# Learning rates by group


def test_each_group_has_its_learning_rate_and_the_schedule_scales_all(make_model, tmp_path):
    model = make_model("gpt2")
    rates = {"norm": 1e-3, "input": 4e-2}
    seen = []

    def record(step, model, optimizer, control):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = model.parameter_groups()
        seen.append({groups[names[id(p)]]: g["lr"] for g in optimizer.param_groups for p in g["params"]})

    args = arguments(tmp_path, lr_scheduler_type="linear", weight_decay=0.1)
    trainer = FPTTrainer(
        model, args, train_dataset=sequences(32), group_learning_rates=rates, callbacks=[AfterStep(record)]
    )
    trainer.train()
    full = {"input": 4e-2, "norm": 1e-3, "position": 1e-2, "output": 1e-2}
    for step, lrs in enumerate(seen, start=1):
        assert lrs == pytest.approx({group: lr * (1 - step / 4) for group, lr in full.items()}, rel=1e-6)
    assert len(seen) == 4
    decays = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        decays |= {names[id(parameter)]: group["weight_decay"] for parameter in group["params"]}
    assert decays["head.weight"] == 0.1 and decays["head.bias"] == 0.0  # as the stock Trainer has it
    assert {value for name, value in decays.items() if ".ln_" in name} == {0.0}


def test_a_groups_learning_rate_scales_its_steps(make_model, tmp_path):
    model = make_model("gpt2")
    before = copied(model)
    args = arguments(tmp_path, max_steps=1, learning_rate=1e-3)
    FPTTrainer(model, args, train_dataset=sequences(8), group_learning_rates={"output": 1e-1}).train()
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in copied(model).items()}
    assert moved["head.weight"] == pytest.approx(1e-1, rel=1e-2)  # Adam's first step is the learning rate
    assert moved["fpt.input_projection.projection.weight"] == pytest.approx(1e-3, rel=1e-2)


def test_group_learning_rates_resume_bit_by_bit(make_model, tmp_path):
    data, rates = sequences(20), {"norm": 1e-3}
    whole = FPTTrainer(
        make_model("gpt2"), resumable(tmp_path / "whole"), train_dataset=data, group_learning_rates=rates
    )
    whole.train()
    resumed = FPTTrainer(
        make_model("gpt2"), resumable(tmp_path / "whole"), train_dataset=data, group_learning_rates=rates
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same(copied(resumed.model), copied(whole.model))


@pytest.mark.parametrize("group", ["attention", "norms"])
def test_a_learning_rate_for_what_does_not_train_is_refused(group, make_model, tmp_path):
    with pytest.raises(ValueError, match=f"has '{group}'; the groups that train here are input, output, norm, pos"):
        FPTTrainer(make_model("gpt2"), arguments(tmp_path), group_learning_rates={group: 1e-3})


def test_group_learning_rates_beside_an_own_optimizer_are_refused(make_model, tmp_path):
    model = make_model("gpt2")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    with pytest.raises(ValueError, match="group_learning_rates"):
        FPTTrainer(
            model,
            arguments(tmp_path),
            train_dataset=sequences(8),
            optimizers=(optimizer, None),
            group_learning_rates={"norm": 1e-3},
        ).train()


# Guards


def test_find_unused_parameters_is_off_unless_asked_for(make_model, tmp_path):
    assert FPTTrainer(make_model("gpt2"), arguments(tmp_path)).args.ddp_find_unused_parameters is False
    asked = arguments(tmp_path, ddp_find_unused_parameters=True)
    assert FPTTrainer(make_model("gpt2"), asked).args.ddp_find_unused_parameters is True


def test_another_kind_of_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match="FPTTrainer trains an FPT model, got Linear"):
        FPTTrainer(torch.nn.Linear(2, 2), arguments(tmp_path))


def test_a_model_that_trains_nothing_is_refused(make_model, tmp_path):
    trainer = FPTTrainer(make_model("gpt2", trainable=()), arguments(tmp_path), train_dataset=sequences(8))
    with pytest.raises(ValueError, match="Nothing would train"):
        trainer.train()


def test_trained_weights_below_fp32_are_refused(make_model, tmp_path):
    model = make_model("gpt2").to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"must be float32, but fpt\.\S+ is torch.bfloat16"):
        FPTTrainer(model, arguments(tmp_path), train_dataset=sequences(8)).train()


@pytest.mark.parametrize(("data", "message"), [([], "The training set is empty"), (None, "needs a train_dataset")])
def test_training_without_examples_is_refused(data, message, make_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        FPTTrainer(make_model("gpt2"), arguments(tmp_path), train_dataset=data).train()


def with_nan(example):
    example["input_values"][3, 1] = math.nan


def with_infinity(example):
    example["input_values"][0, 0] = math.inf


WRONG_EXAMPLES = [
    (with_nan, r"input_values must be finite, but one is NaN or infinity, at \[3, 1\]: clean it"),
    (with_infinity, r"input_values must be finite, but one is NaN or infinity, at \[0, 0\]: clean it"),
    (lambda example: example.update(labels=4), r"labels must lie in 0\.\.3 \(num_labels=4\), got 4"),
    (lambda example: example.update(labels=-1), r"labels must lie in 0\.\.3 .*, got -1"),
]


@pytest.mark.parametrize("place", [0, 20])  # found before the first step, and in a later batch
@pytest.mark.parametrize(("spoil", "message"), WRONG_EXAMPLES)
def test_wrong_examples_are_refused(place, spoil, message, make_model, tmp_path):
    data = sequences(24)
    spoil(data[place])
    trainer = FPTTrainer(make_model("gpt2"), arguments(tmp_path), train_dataset=data)
    with pytest.raises(ValueError, match=rf"{message}\. This is row {place} of the training set"):
        trainer.train()
    if place == 0:
        assert trainer.state.global_step == 0
    clean = FPTTrainer(make_model("gpt2"), arguments(tmp_path), train_dataset=sequences(8))
    with pytest.raises(ValueError, match=rf"{message}\. This is row {place} of the evaluation set"):
        clean.evaluate(data)


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
    batch = {"input_values": torch.tensor(values)[..., None]}
    wrong = wrong_input(batch, make_model("gpt2").config)
    assert (None if wrong is None else wrong.row) == row


def test_a_wrong_example_is_named_from_a_worker_too(make_model, tmp_path):
    data = sequences(24)
    with_nan(data[20])
    trainer = FPTTrainer(make_model("gpt2"), arguments(tmp_path, dataloader_num_workers=1), train_dataset=data)
    with pytest.raises(
        ValueError, match=r"NaN or infinity, at \[3, 1\]: clean it\. This is row 20 of the training set"
    ):
        trainer.train()


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("train", "the training set, 'labels'"),
        ("eval", "the evaluation set, 'labels'"),
        ("one of several", "the evaluation set 'other', column 'labels'"),
    ],
)
def test_a_wrong_label_of_any_data_set_is_named_before_the_first_step(place, where, make_model, tmp_path):
    clean, wrong = sequences(24), sequences(24)
    wrong[20]["labels"] = 7
    data = {
        "train": {"train_dataset": wrong},
        "eval": {"train_dataset": clean, "eval_dataset": wrong},
        "one of several": {
            "train_dataset": clean,
            "eval_dataset": {"one": clean, "other": datasets.Dataset.from_list(wrong)},
        },
    }[place]
    trainer = FPTTrainer(make_model("gpt2"), arguments(tmp_path), **data)
    with pytest.raises(ValueError, match=rf"num_labels=4\), got 7\. This is row 20 of {where}\."):
        trainer.train()
    assert trainer.state.global_step == 0


def test_labels_that_a_transform_numbers_are_trained_on(make_model, tmp_path):
    names = ["cat", "dog", "bee", "ant"]
    data = datasets.Dataset.from_list([example | {"labels": names[example["labels"]]} for example in sequences(16)])
    data.set_transform(lambda rows: rows | {"labels": [names.index(name) for name in rows["labels"]]})
    FPTTrainer(make_model("gpt2"), arguments(tmp_path, max_steps=1), train_dataset=data, eval_dataset=data).train()


def test_two_classes_may_be_bools_and_classes_any_whole_numbers(make_model, tmp_path):
    plain = [example | {"labels": example["labels"] % 2} for example in sequences(16)]
    results = []
    for kind in (int, bool, np.int32, lambda label: torch.tensor(bool(label))):
        data = [example | {"labels": kind(example["labels"])} for example in plain]
        trainer = FPTTrainer(make_model("gpt2", num_labels=2, **NO_DROPOUT), arguments(tmp_path), train_dataset=data)
        trainer.train()
        results.append(losses(trainer))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [(4, 1, None), (3, [0.0, 1.0, 1.0], "multi_label_classification"), (1, 2, "regression")],
)
def test_training_notes_the_problem_for_the_card_and_pipelines(num_labels, labels, problem_type, make_model, tmp_path):
    data = [example | {"labels": labels} for example in sequences(8)]
    model = make_model("gpt2", num_labels=num_labels)
    FPTTrainer(model, arguments(tmp_path, max_steps=1), train_dataset=data).train()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("problem_type") == problem_type


class Ordinal(FPTTrainer):
    """A Trainer with a loss of its own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = ordinal(outputs, labels)
        return (loss, outputs) if return_outputs else loss


def ordinal(outputs, labels, num_items_in_batch=None):
    return ((outputs.logits.sum(-1) - labels) ** 2).mean()


@pytest.mark.parametrize(("trainer_class", "more"), [(Ordinal, {}), (FPTTrainer, {"compute_loss_func": ordinal})])
def test_an_own_loss_may_have_labels_of_its_own(trainer_class, more, make_model, tmp_path, warned):
    data = [example | {"labels": example["labels"] + 0.5} for example in sequences(16)]
    trainer_class(make_model("gpt2"), arguments(tmp_path, max_steps=1), train_dataset=data, **more).train()
    messages = [record.getMessage() for record in warned.records if record.name.startswith("fpt_adapters")]
    assert len(messages) == 1 and "a float: for a regression" in messages[0] and "own loss" in messages[0]


def test_targets_that_are_the_ignored_label_are_warned_of(make_model, tmp_path, warned):
    data = [example | {"labels": -100.0 if i < 3 else 0.5} for i, example in enumerate(sequences(16))]
    FPTTrainer(make_model("gpt2", num_labels=1), arguments(tmp_path, max_steps=1), train_dataset=data).train()
    messages = [record.getMessage() for record in warned.records if record.name.startswith("fpt_adapters")]
    assert len(messages) == 1 and messages[0].startswith("3 targets of the training set, 'labels' are -100")


def test_labels_of_tokens_are_one_for_each(make_model, tmp_path):
    data = [example | {"labels": torch.zeros(9, dtype=torch.long)} for example in sequences(8)]
    trainer = FPTTrainer(make_model("gpt2", FPTForTokenClassification), arguments(tmp_path), train_dataset=data)
    with pytest.raises(ValueError, match="an example with 10 tokens has 9 of them: write -100 where there is none"):
        trainer.train()


@pytest.mark.parametrize("input_type", ["values", "series"])
def test_what_lies_under_the_mask_does_not_stop_training(input_type, make_model, tmp_path):
    fields = {"input_type": "series", "series_length": 10, "num_channels": 3, "patch_length": 4, "patch_stride": 2}
    fields = fields | {"input_size": None, "sequence_length": None} if input_type == "series" else {}
    data = [example | {"attention_mask": torch.ones(10, dtype=torch.long)} for example in sequences(16)]
    data[5]["input_values"][6:], data[5]["attention_mask"][6:] = math.nan, 0
    trainer = FPTTrainer(make_model("gpt2", **fields), arguments(tmp_path), train_dataset=data)
    trainer.train()
    assert all(math.isfinite(loss) for loss in losses(trainer))
    data[5]["attention_mask"][6] = 1
    with pytest.raises(ValueError, match=r"finite, .*, at \[6, 0\]: clean it\. This is row 5 of the tr"):
        FPTTrainer(make_model("gpt2", **fields), arguments(tmp_path), train_dataset=data).train()
    data[5]["attention_mask"][:] = 0
    with pytest.raises(ValueError, match=r"at least one real step, but one has none: drop it\. This is row 5"):
        FPTTrainer(make_model("gpt2", **fields), arguments(tmp_path), train_dataset=data).train()


def test_wrong_ids_are_refused(make_model, tmp_path):
    fields = {"input_type": "tokens", "input_size": None, "vocab_size": 7}
    data = [{"input_ids": torch.tensor([1, 2, 7]), "labels": 0} for _ in range(8)]
    with pytest.raises(ValueError, match=r"input_ids must lie in 0\.\.6 \(vocab_size=7\), got 7"):
        FPTTrainer(make_model("gpt2", **fields), arguments(tmp_path), train_dataset=data).train()


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"input_values": "pixel_values"}, "takes input_values, but the data has labels, pixel_values"),
        ({"labels": "target"}, "needs labels to learn from, but has only input_values, target"),
    ],
)
def test_a_missing_column_is_refused(rename, message, make_model, tmp_path):
    data = [{rename.get(name, name): value for name, value in example.items()} for example in sequences(8)]
    with pytest.raises(ValueError, match=message):
        FPTTrainer(make_model("gpt2"), arguments(tmp_path), train_dataset=data).train()


def test_images_of_another_size_are_refused(make_model, tmp_path):
    fields = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 2}
    model = make_model("gpt2", FPTForImageClassification, **fields, input_size=None, sequence_length=None)
    data = [{"pixel_values": torch.zeros(1, 8, 10), "labels": 0} for _ in range(8)]
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\), got \(1, 1, 8, 10\): resize"):
        FPTTrainer(model, arguments(tmp_path), train_dataset=data).train()


def test_sequences_longer_than_the_model_are_refused(make_model, tmp_path):
    data = [{"input_values": torch.zeros(11, 3), "labels": 0} for _ in range(8)]
    with pytest.raises(ValueError, match="11 tokens, but this model was built for at most 10"):
        FPTTrainer(make_model("gpt2"), arguments(tmp_path), train_dataset=data).train()


def test_whole_numbers_can_be_regressed(make_model, tmp_path):
    model = make_model("gpt2", num_labels=1, problem_type="regression", **NO_DROPOUT)
    data = [example | {"labels": 5} for example in sequences(8)]
    trainer = FPTTrainer(model, arguments(tmp_path), train_dataset=data)
    trainer.train()
    assert losses(trainer)[0] > losses(trainer)[-1] > 1


@pytest.mark.parametrize("filtered", [True, False])
def test_diverging_weights_stop_training(filtered, make_model, tmp_path):
    args = arguments(tmp_path, learning_rate=1e38, max_steps=50, logging_nan_inf_filter=filtered)
    trainer = FPTTrainer(make_model("gpt2"), args, train_dataset=sequences(32))
    with pytest.raises(TrainingError, match=r"is not finite at step [1-9]: training diverged. Lower learning_rate"):
        trainer.train()
    assert trainer.state.global_step < 10 and trainer.args.logging_nan_inf_filter is filtered
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize("filtered", [True, False])
def test_a_loss_that_is_not_finite_once_does_not(filtered, make_model, tmp_path):
    def loss(outputs, labels, num_items_in_batch):
        value = torch.nn.functional.cross_entropy(outputs.logits, labels)
        return value + (math.inf if trainer.state.global_step == 1 else 0)  # whose gradient is finite

    args = arguments(tmp_path, logging_nan_inf_filter=filtered)
    trainer = FPTTrainer(make_model("gpt2"), args, train_dataset=sequences(32), compute_loss_func=loss)
    trainer.train()
    assert [math.isfinite(one) for one in losses(trainer)] == [True, *[filtered] * 3]  # the sum of losses stays so


def test_weights_that_are_not_finite_are_told_without_a_log(make_model, tmp_path):
    args = arguments(tmp_path, learning_rate=1e38, logging_strategy="no")
    with pytest.raises(TrainingError, match="is not finite after training"):
        FPTTrainer(make_model("gpt2"), args, train_dataset=sequences(32)).train()


def test_a_frozen_weight_that_changes_is_told(make_model, tmp_path):
    def change(step, model, optimizer, control):
        if step == 2:
            model.fpt.backbone.h[0].mlp.c_fc.weight.data[0, 0] += 1e-6

    trainer = FPTTrainer(
        make_model("gpt2"), arguments(tmp_path), train_dataset=sequences(32), callbacks=[AfterStep(change)]
    )
    with pytest.raises(TrainingError, match=r"frozen weight fpt.backbone.h.0.mlp.c_fc.weight changed .*\(1 tensors"):
        trainer.train()


def test_trained_tensors_that_stay_are_warned_of(make_model, tmp_path, warned):
    model = make_model("gpt2")
    norms = [name for name, group in model.parameter_groups().items() if group == "norm"]
    trained = len(copied(model, trained=True))
    FPTTrainer(model, arguments(tmp_path), train_dataset=sequences(32), group_learning_rates={"norm": 0.0}).train()
    messages = [record.getMessage() for record in warned.records if record.name.startswith("fpt_adapters")]
    assert len(messages) == 1
    assert messages[0].startswith(f"{len(norms)} of {trained} trained tensors did not change in 4 steps, the first is")
    assert norms[0] in messages[0]


def test_nothing_is_warned_of_in_an_ordinary_run(make_model, tmp_path, warned):
    FPTTrainer(make_model("gpt2"), arguments(tmp_path), train_dataset=sequences(32)).train()
    assert [record.getMessage() for record in warned.records if record.name.startswith("fpt_adapters")] == []


def test_the_saved_config_says_what_trained(make_model, tmp_path):
    trainer = FPTTrainer(make_model("gpt2"), arguments(tmp_path), train_dataset=sequences(8))
    trainer.train()
    trainer.save_model()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trainable"] == list(PAPER)
    assert config["base_model_fingerprint"] == trainer.model.config.base_model_fingerprint


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
