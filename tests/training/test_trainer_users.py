"""What users of the stock Trainer do, and get of FPTTrainer likewise: searches, any metrics, columns, resumes."""

import copy
import itertools
import json
import math
import os
import random
import shutil
import signal
import time

import accelerate
import datasets
import numpy as np
import pytest
import torch
from conftest import arguments, forked, needs_fork, saved_tensors, sequences, tiny_config, tiny_model, trainer_of
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from runs import IMAGES, NO_DROPOUT, TRAINERS, WEIGHTS, assert_same, copied, functions_of, labelled_tokens, losses
from safetensors.torch import load_file
from transformers import (
    AutoFeatureExtractor,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    default_data_collator,
    hyperparameter_search,
    integrations,
)
from transformers.trainer_utils import BestRun, HPSearchBackend

from fpt_adapters import (
    DeltaError,
    FPTFeatureExtractor,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTTrainer,
)
from fpt_adapters.heads.scores import confusion_of
from fpt_adapters.tasks import TASKS, Digits
from fpt_adapters.tasks.bits import BitMemory, BitXor

# model_init


@pytest.mark.parametrize("positional", [False, True])
def test_each_training_starts_from_a_new_model(positional, tmp_path):
    names = ("args", "data_collator", "train_dataset", "eval_dataset", "processing_class", "model_init")
    curves = []
    for trainer_class in (Trainer, FPTTrainer):
        given = (arguments(tmp_path), None, sequences(32), None, None, lambda: tiny_model("gpt2"))
        trainer = trainer_class(None, *given) if positional else trainer_class(**dict(zip(names, given, strict=True)))
        first = trainer.model
        for _ in range(2):
            trainer.train()
            assert trainer.model is not first
            curves.append(losses(trainer))
    assert all(curve == curves[0] for curve in curves)
    assert trainer.data_collator.config is trainer.model.config and trainer.card is trainer.model.card


class GridBackend:
    """Three learning rates, as optuna's integration tries them; installing that takes long."""

    def ensure_available(self):
        """It is here."""

    def run(self, trainer, n_trials, direction):
        """Train and evaluate each, and forget its model."""
        found = {}
        for number, rate in enumerate([1e-3, 1e-2, 1e-1]):
            trial = type("Trial", (), {"number": number, "params": {"learning_rate": rate}})()
            trainer.train(trial=trial)
            found[trainer.evaluate()["eval_loss"]] = number, trial.params
            trainer.model = trainer.model_wrapped = None
        objective = min(found)
        return BestRun(str(found[objective][0]), objective, found[objective][1])


def test_a_search_gives_what_stock_trainer_gives(tmp_path, monkeypatch):
    backends = hyperparameter_search.ALL_HYPERPARAMETER_SEARCH_BACKENDS
    monkeypatch.setitem(backends, HPSearchBackend.OPTUNA, GridBackend)
    monkeypatch.setattr(integrations, "hp_params", lambda trial: trial.params)  # knows only optuna's own trials
    best = []
    for trainer_class in (Trainer, FPTTrainer):
        settings = {"save_steps": 500, "eval_dataset": sequences(8, seed=1)}
        settings["model_init"] = lambda trial: tiny_model("gpt2")
        trainer = trainer_of(None, tmp_path / trainer_class.__name__, trainer_class, **settings)
        if trainer_class is FPTTrainer:
            trainer.card.task_name = "mine"
        best.append(trainer.hyperparameter_search(lambda trial: trial.params, backend="optuna"))
    assert best[0] == best[1]
    assert sorted(os.listdir(tmp_path / "FPTTrainer")) == ["run-0", "run-1", "run-2"]
    assert trainer.card.task_name == "mine"
    trainer.args.learning_rate = best[1].hyperparameters["learning_rate"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == best[1].objective
    assert "# " in (tmp_path / "FPTTrainer" / "README.md").read_text() and trainer.card.task_name == "mine"


def test_a_new_model_without_a_group_that_is_to_learn_is_refused(tmp_path):
    made = iter([tiny_model("gpt2"), tiny_model("gpt2", trainable=("input", "output"))])
    trainer = trainer_of(None, tmp_path, model_init=lambda: next(made), group_learning_rates={"norm": 1e-3})
    with pytest.raises(ValueError, match="has 'norm'; the groups that train here are input, output"):
        trainer.train()


# Metrics and answers of any kind


EVERY_KIND = {
    "list": [0.5, 1.0],
    "dict": {"a": {"f1": 0.5}},
    "none": None,
    "text": "fine",
    "array": np.eye(2),
    "in_array": np.array(0.5),
    "float32": np.float32(0.5),
    "int64": np.int64(3),
    "tensor": torch.tensor(0.5),
    "nan": math.nan,
    "accuracy": 0.5,
}
RETURNED = {  # and what the card shows of it
    "every kind": (EVERY_KIND, {"in_array", "float32", "int64", "tensor", "nan", "accuracy"}),
    "no number for accuracy": ({"accuracy": [0.5, 0.5]}, set()),
    "nothing": ({}, set()),
}


@pytest.mark.parametrize(("given", "shown"), RETURNED.values(), ids=RETURNED)
def test_metrics_of_any_kind_are_returned_as_by_stock_trainer(given, shown, train):
    metrics = []
    for trainer_class in (Trainer, FPTTrainer):
        settings = {"trainer_class": trainer_class, "eval_steps": 2, "eval_dataset": sequences(8)}
        trainer = train(compute_metrics=lambda prediction: dict(given), **settings)
        found = trainer.evaluate().items()
        metrics.append({name: value for name, value in found if "second" not in name and "time" not in name})
    assert repr(metrics[0]) == repr(metrics[1])
    results = trainer.card.results
    found = results["validation"].metrics if results else {}
    assert found.keys() == shown and all(isinstance(value, float) for value in found.values())


LABELS = np.array([0, 0, 0, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.6, 0.9, 0.8, 0.4], dtype=np.float32)  # of class 1
COUNTS = [[2, 1], [1, 2]]
ANSWERS = {
    "class ids": ((PROBABILITIES > 0.5).astype(np.int64), LABELS, COUNTS),
    "truth values": (PROBABILITIES > 0.5, LABELS, COUNTS),
    "logits": (np.stack([1 - PROBABILITIES, PROBABILITIES], axis=1), LABELS, COUNTS),
    "batches": ([PROBABILITIES[:4] > 0.5, PROBABILITIES[4:] > 0.5], [LABELS[:4], LABELS[4:]], COUNTS),
    "probabilities of class 1": (PROBABILITIES, LABELS, None),
    "margins": (PROBABILITIES - 0.5, LABELS, None),
    "ids as floats": ((PROBABILITIES > 0.5).astype(np.float32), LABELS, None),
    "ranked classes": (np.array([[0, 1]] * 6), LABELS, None),
    "ids out of range": (np.array([0, 0, 2, 1, 1, 0]), LABELS, None),
    "logits that are not finite": (np.full((6, 2), np.nan), LABELS, None),
    "several outputs": ((PROBABILITIES, PROBABILITIES), LABELS, None),
    "several labels": (np.eye(2, dtype=int), np.eye(2, dtype=int), None),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_confusion_matrix_is_drawn_only_of_classes(kind, make_model):
    predictions, labels, counts = ANSWERS[kind]
    problem_type = "multi_label_classification" if kind == "several labels" else None
    config = make_model("gpt2", num_labels=2, problem_type=problem_type).config
    found = confusion_of(predictions, labels, config)
    assert (None if found is None else found.tolist()) == counts


@pytest.mark.parametrize("task", [BitMemory(num_strings=2, string_length=6, bits_per_token=3), BitXor(), Digits()])
def test_the_tasks_metrics_take_batches_of_any_size(task, make_trainer):
    data = task.load(0, {"validation": 20})
    model = task.model_class.from_backbone(tiny_config("bert"), backbone_init="random", **data.config)

    def metrics(**changes):
        settings = {"remove_unused_columns": False, "per_device_eval_batch_size": 8, "train_dataset": None} | changes
        settings["include_for_metrics"] = list(task.include_for_metrics)
        trainer = make_trainer(model, **functions_of(task), **settings)
        found = trainer.evaluate(data.validation)
        return found["eval_accuracy"], trainer.card.results["validation"].confusion.tolist()

    assert metrics(eval_do_concat_batches=False) == metrics()


@pytest.mark.parametrize(("trainer_class", "smoothing"), [(Trainer, 0), (FPTTrainer, 0), (FPTTrainer, 0.1)])
def test_batches_in_which_nothing_is_labelled_change_nothing(trainer_class, smoothing, make_model, train):
    data = labelled_tokens(16)
    for example in data[8:]:
        example["labels"] = torch.full_like(example["labels"], -100)
    best = {"eval_steps": 1, "save_strategy": "best", "metric_for_best_model": "loss", "per_device_eval_batch_size": 8}
    settings = {
        "train_sampling_strategy": "sequential",
        "logging_nan_inf_filter": False,
        "trainer_class": trainer_class,
    }
    settings |= {"train_dataset": data, "eval_dataset": data, "label_smoothing_factor": smoothing}
    if smoothing:  # of which transformers before 5.9 make NaN as they evaluate nothing
        best, settings["logging_nan_inf_filter"] = {}, True
    trainer = train(make_model("gpt2", FPTForTokenClassification), **settings, **best)
    assert [loss > 0 for loss in losses(trainer)] == [True, False, True, False]
    assert all(math.isfinite(row["eval_loss"]) for row in trainer.state.log_history if "eval_loss" in row)
    assert smoothing or trainer.state.best_global_step is not None


# Columns that Trainer removes


def pictures():
    return [{"image": np.full((1, 8, 8), number, np.float32), "labels": number % 4} for number in range(8)]


def transformed():
    data = datasets.Dataset.from_list([row | {"image": row["image"].tolist()} for row in pictures()])
    data.set_transform(lambda rows: {"pixel_values": torch.tensor(rows["image"]), "labels": rows["labels"]})
    return data


def collate(rows):
    if "pixel_values" in rows[0]:
        return default_data_collator(rows)
    pixels = torch.stack([torch.from_numpy(row["image"]) for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}


KINDS = {  # data that need a column that the model does not take, and a collator
    "a transform": (transformed, None),
    "a collator": (pictures, collate),
    "a collator of a subset": (lambda: torch.utils.data.Subset(pictures(), range(4)), collate),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["train", "eval in training", "evaluate", "predict"])
def test_a_column_that_is_removed_but_needed_names_the_flag(kind, place, make_model, make_trainer):
    data, collator = KINDS[kind][0](), KINDS[kind][1]
    good = [{"pixel_values": torch.zeros(1, 8, 8), "labels": 0}] * 4
    train, held = (data, good) if place == "train" else (good, data)

    def trainer(**changes):
        changes["eval_strategy"] = "epoch" if place == "eval in training" else "no"
        model = make_model("gpt2", FPTForImageClassification, **IMAGES, patch_size=4)
        return make_trainer(model, data_collator=collator, train_dataset=train, eval_dataset=held, **changes)

    calls = {"evaluate": FPTTrainer.evaluate, "predict": lambda one: one.predict(data)}
    call = calls.get(place, FPTTrainer.train)
    stopped = trainer()
    message = r"asks for 'image', .* Write TrainingArguments\(remove_unused_columns=False\)"
    with pytest.raises(ValueError, match=message):
        call(stopped)
    assert stopped.state.global_step == 0
    call(trainer(remove_unused_columns=False))


# Evaluations in half precision


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_an_evaluation_in_half_precision_rounds_nothing(dtype, call, make_model, make_trainer, tmp_path):
    model, held = make_model("llama"), sequences(8, seed=1)  # its rotary frequencies are buffers
    full = {f"{dtype}_full_eval": True}
    trainer = make_trainer(model, eval_steps=2, eval_dataset=held, **full)
    seen = set()
    model.head.register_forward_pre_hook(lambda module, _: seen.add(module.weight.dtype))

    def score():
        before = {**copied(model), **{name: buffer.clone() for name, buffer in model.named_buffers()}}
        getattr(trainer, call)(held)
        assert_same({**copied(model), **dict(model.named_buffers())}, before)

    score()
    assert seen == {torch.bfloat16 if dtype == "bf16" else torch.float16}
    trainer.train()
    score()
    trainer.save_model(tmp_path / "saved")
    assert_same(saved_tensors(tmp_path / "saved", model), copied(model, trained=True))


def test_an_evaluation_that_would_round_a_sharded_model_is_refused(make_trainer):
    class Sharding(FPTTrainer):
        shards = True

    with pytest.raises(ValueError, match="round the weights of a sharded model"):
        make_trainer(trainer_class=Sharding, bf16_full_eval=True)


# What a training leaves


@pytest.mark.parametrize("changes", [{}, {"save_steps": 2}])
def test_a_training_leaves_a_folder_that_loads(changes, train, tmp_path, capsys):
    processor = FPTFeatureExtractor(max_length=10, feature_size=3)
    trainer = train(compute_metrics=lambda _: {"accuracy": 0.625}, processing_class=processor, **changes)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Saved")]
    load = f"AutoModelForSequenceClassification.from_pretrained('{tmp_path}')"
    assert said == [f"Saved in {tmp_path}: `import fpt_adapters`, then {load}"]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_same(copied(loaded, trained=True), copied(trainer.model, trained=True))
    assert AutoFeatureExtractor.from_pretrained(tmp_path).feature_size == 3
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert "training_args.bin" not in left and {"README.md", "config.json", WEIGHTS} <= left
    card = tmp_path / "README.md"
    assert "62.5" not in card.read_text()
    trainer.evaluate(sequences(8))
    assert "62.5" in card.read_text() and "validation" in card.read_text()
    trainer.predict(sequences(8))
    assert "| test |" in card.read_text()


def test_an_evaluation_without_a_training_leaves_the_folder_alone(train, make_trainer, tmp_path):
    train()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make_trainer(train_dataset=None, compute_metrics=lambda _: {"accuracy": 0.5}).evaluate(sequences(8))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_training_beside_another_model_is_refused_before_it(make_trainer, tmp_path, saved_base):
    shutil.copytree(saved_base, tmp_path / "out")
    trainer = make_trainer(folder="out")
    with pytest.raises(DeltaError, match="holds a model of type 'gpt2', which saving a delta there would overwrite"):
        trainer.train()
    assert trainer.state.global_step == 0


# What a user's own data and optimizer may be


class Augmented(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = torch.randn(10, 3) + float(np.random.rand()) + random.random()
        return {"input_values": noise, "labels": index % 4}


def test_the_checks_draw_nothing(train):
    stock, own = (train(trainer_class=one, train_dataset=Augmented()) for one in (Trainer, FPTTrainer))
    assert losses(stock) == losses(own)


def test_the_training_set_gives_no_result_of_the_card(train):
    data = sequences(16)
    trainer = train(train_dataset=data, eval_dataset=sequences(8), compute_metrics=lambda _: {"accuracy": 0.5})
    trainer.evaluate()
    trainer.evaluate(data)
    trainer.predict(data)
    assert {split: result.examples for split, result in trainer.card.results.items()} == {"validation": 8}


def test_the_card_names_the_optimizer_that_ran(make_model, train, tmp_path):
    model = make_model("gpt2")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.25)
    own = (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0))
    for given, expected in (
        ({"optimizers": own}, ["| optimizer | SGD |", "| learning_rate | 0.25 |", "ConstantLR"]),
        ({}, ["| optimizer | adamw", "| betas | 0.9, 0.999 |"]),
    ):
        train(model, **given)
        text = (tmp_path / "README.md").read_text().replace("\\", "")
        assert [line for line in expected if line not in text] == []
        assert ("betas" in text) == (not given)


# Collators


def test_a_collator_that_is_set_later_serves(make_trainer):
    seen = []

    def collator(features):
        seen.append(len(features))
        return default_data_collator(features)

    trainer = make_trainer()
    trainer.data_collator = collator
    trainer.train()
    assert seen
    trainer.train_dataset = [{"input_values": torch.full((10, 3), math.nan), "labels": 0}]
    with pytest.raises(ValueError, match="row 0 of the training set"):
        trainer.train()


def test_the_tokenizer_of_a_collator_is_saved(make_model, train, tmp_path):
    tokenizer = TASKS["listops"]().processor()
    model = make_model("gpt2", input_type="tokens", input_size=None, vocab_size=len(tokenizer), pad_token_id=0)
    rows = [{"input_ids": [1, 2, 3], "labels": number % 4} for number in range(8)]
    train(model, data_collator=DataCollatorWithPadding(tokenizer), train_dataset=rows)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


# Resume


def test_a_checkpoint_of_the_model_alone_is_no_place_to_resume(train, make_trainer, tmp_path):
    train(save_only_model=True, save_steps=2)
    trainer = make_trainer()
    with pytest.raises(ValueError, match="holds only the model, as save_only_model=True leaves it: resumed, the opti"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(DeltaError, match=r"has no trainer_state\.json"):
        trainer.train(resume_from_checkpoint=str(tmp_path))


def killed_run(model, folder, seconds):
    """Train in a child process, from the last checkpoint on if there is one, and kill it; whether it ended before."""

    def train():
        args = arguments(folder, max_steps=12, save_steps=1, save_total_limit=3)
        trainer = FPTTrainer(model, args, train_dataset=sequences(40))
        trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))

    child, ended, deadline = forked(train), 0, time.monotonic() + seconds
    while not ended and time.monotonic() < deadline:
        time.sleep(0.005)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    assert status == 0
    return True


@needs_fork
@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_runs_go_on_to_the_same_weights(rounds, make_model, tmp_path, record_property):
    start = time.monotonic()
    assert killed_run(make_model("gpt2"), tmp_path / "whole", 600)
    needed, expected = time.monotonic() - start, load_file(tmp_path / "whole" / WEIGHTS)
    draws, kills = random.Random(rounds), 0
    for number in itertools.count():
        if number >= rounds and kills:
            break
        folder, needed = tmp_path / str(number), needed if kills else 0.7 * needed  # it was busier before
        longest = 0.7 * needed
        while not killed_run(make_model("gpt2"), folder, draws.uniform(0.05, longest)):
            kills, longest = kills + 1, 1.3 * longest  # so that it ends, however busy the machine is
        assert_same(load_file(folder / WEIGHTS), expected)
    record_property("counts", f"{rounds} runs, {kills} SIGKILLs: {rounds} ended in the weights of an unharmed one")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "trainer_state.json").unlink(), "it has no trainer_state.json"),
        (lambda folder: (folder / "trainer_state.json").write_text("{"), "it has no whole trainer_state.json"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "it has no state of the optimizer"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"it has no {WEIGHTS}"),
    ],
)
def test_the_last_whole_checkpoint_is_resumed(damage, message, train, tmp_path, warned):
    train(save_steps=2)
    expected = load_file(tmp_path / "checkpoint-4" / WEIGHTS)
    for number, begun in ((4, "checkpoint-4 is passed over"), (2, "the training begins anew")):
        damage(tmp_path / f"checkpoint-{number}")
        if number == 2 and "optimizer" in message:  # as save_only_model leaves all of them
            break
        train(resume=True, save_steps=2)
        assert message in warned.text and begun in warned.text
        assert_same(load_file(tmp_path / "checkpoint-4" / WEIGHTS), expected)
        damage(tmp_path / "checkpoint-4")
        warned.clear()


@TRAINERS
def test_a_finished_training_trains_no_more(trainer_class, train, tmp_path):
    settings = {"trainer_class": trainer_class, "max_steps": 3, "save_steps": 3}
    train(**settings)  # an epoch has four steps
    resumed = train(resume=True, **settings)
    if trainer_class is FPTTrainer:  # the stock one trains a step more
        assert resumed.state.global_step == 3
        assert_same(copied(resumed.model, trained=True), saved_tensors(tmp_path / "checkpoint-3", resumed.model))


def test_lost_random_numbers_are_told(train, tmp_path, warned):
    train(save_steps=2)
    (tmp_path / "checkpoint-2" / "rng_state.pth").unlink()
    train(resume=str(tmp_path / "checkpoint-2"), save_steps=2)
    assert "has no rng_state.pth: dropout and the order" in warned.text


@pytest.mark.parametrize("restored", [True, False])
def test_early_stopping_goes_on_or_says_that_it_does_not(restored, train, warned):
    def run(folder, max_steps, resume=None):
        best = {"metric_for_best_model": "score", "greater_is_better": True, "load_best_model_at_end": True}
        steps = {"max_steps": max_steps, "eval_steps": 1, "save_steps": 1, "train_dataset": sequences(80)}
        trainer = train(
            folder=folder,
            resume=resume,
            eval_dataset=sequences(8),
            compute_metrics=lambda prediction: {"score": 0.5},
            callbacks=[EarlyStoppingCallback(early_stopping_patience=3)],
            restore_callback_states_from_checkpoint=restored,
            **best,
            **steps,
        )
        return trainer.state.global_step

    assert run("whole", 9) == 4  # the first score is the best
    assert run("halves", 3) == 3
    assert "starts anew" not in warned.text
    assert run("halves", 9, resume=True) == (4 if restored else 6)
    assert ("EarlyStoppingCallback starts anew with {'early_stopping_patience_counter': 0}" in warned.text) != restored


# torch.compile by hand


def wrap(module):
    return torch.compile(module, backend="eager")


def wrap_backbone(model):
    model.fpt.backbone = wrap(model.fpt.backbone)
    return model


def wrap_layers(model):
    for number, layer in enumerate(model.fpt.backbone.h):
        model.fpt.backbone.h[number] = wrap(layer)
    return model


def wrap_inside(model):
    model.fpt = wrap(wrap_backbone(wrap_layers(model)).fpt)
    return model


def compile_in_place(model):
    model.compile(backend="eager")
    return model


WRAPPINGS = [wrap, wrap_backbone, wrap_layers, wrap_inside, compile_in_place]
OLD_ACCELERATE = Version(accelerate.__version__) < Version("1.13")  # whose unwrap_model fails on a model's parts


@pytest.mark.filterwarnings("ignore")  # torch's, of its own tracing
@pytest.mark.parametrize(
    ("trainer_class", "wrapping"), [*((FPTTrainer, one) for one in WRAPPINGS), (Trainer, wrap_inside)]
)
def test_a_model_compiled_by_hand_is_trained_saved_and_resumed(
    trainer_class, wrapping, make_model, train, tmp_path, warned
):
    if OLD_ACCELERATE and wrapping not in (wrap, compile_in_place):
        pytest.skip("needs accelerate 1.13")
    plain = make_model("gpt2", **NO_DROPOUT)
    rates = {"group_learning_rates": {"norm": 1e-3}} if trainer_class is FPTTrainer else {}
    settings = {"trainer_class": trainer_class, "weight_decay": 0.1, "save_steps": 2} | rates
    trainer = train(wrapping(copy.deepcopy(plain)), **settings)
    model = trainer.model
    assert (trainer.is_in_train, model.parameter_groups()) == (False, plain.parameter_groups())
    assert model.count_parameters() == plain.count_parameters()
    assert model.state_dict().keys() == plain.state_dict().keys()
    loaded = copied(FPTForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4"))
    assert_same(loaded, {name: tensor for name, tensor in model.state_dict().items() if name in loaded})
    resumed = train(wrapping(plain), resume=str(tmp_path / "checkpoint-2"), **settings)
    assert losses(resumed) == losses(trainer)
    assert "keys in the checkpoint" not in warned.text


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_model_compiled_by_hand_is_saved_in_each_way(wrapping, make_model, tmp_path):
    plain = make_model("gpt2", peft_config={"peft_type": "lora", "target_modules": ["c_attn"]})
    model = wrapping(copy.deepcopy(plain))
    for name, one in {"plain": plain, "wrapped": getattr(model, "_orig_mod", model)}.items():
        one.save_pretrained(tmp_path / name)
        one.save_backbone(tmp_path / name / "backbone")
        one.save_peft_adapter(tmp_path / name / "adapter")
    for file in (WEIGHTS, f"backbone/{WEIGHTS}", "adapter/adapter_model.safetensors"):
        assert_same(load_file(tmp_path / "plain" / file), load_file(tmp_path / "wrapped" / file))
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "wrapped"))
    assert first == second
    FPTForSequenceClassification.from_pretrained(tmp_path / "wrapped")


@pytest.mark.parametrize("wrapping", [wrap_backbone, wrap_layers])
def test_peft_around_wrapped_parts_is_refused_and_undone(wrapping, make_model):
    plain, model = make_model("gpt2"), wrapping(make_model("gpt2"))
    with pytest.raises(ValueError, match=r"torch.compile's wrappers change those: .* or compile its parts in place"):
        get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    assert model.parameter_groups() == plain.parameter_groups()
    assert model.count_parameters() == plain.count_parameters()
