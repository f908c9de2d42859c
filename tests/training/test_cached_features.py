"""Training only the head on features computed once: the results of running the backbone in every step, without it."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import COMMON, saved_tensors, sequences
from datasets import Dataset as HubDataset
from runs import (
    IMAGES,
    NO_DROPOUT,
    TOKENS,
    TRAINERS,
    AfterStep,
    assert_close,
    assert_resumes,
    assert_same,
    change_frozen,
    copied,
    count_examples,
    losses,
    own_messages,
    two_processes,
)
from torch.utils.data import Dataset, Subset
from transformers import AutoConfig, Trainer

from fpt_adapters import (
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTTrainer,
    TrainingError,
    cache_features,
)
from fpt_adapters.training import run_card
from fpt_adapters.training.cached_features import CachedFeatures, compute_features

SEQUENCE, TOKEN = FPTForSequenceClassification, FPTForTokenClassification
ONLY_HEAD = {"trainable": ("output",), **NO_DROPOUT}


def sentences(count, seed=0, per_token=False):
    """Examples of 3 to 9 ids, the later the longer, with a mask, and one label or one per token, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        ids = torch.randint(1, 7, (3 + (index // 3) % 8,), generator=generator)
        labels = torch.randint(4, (len(ids),), generator=generator)
        labels[1] = -100
        labels = labels if per_token else int(labels[0])
        examples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return examples


def labelled_sentences(count, seed=0):
    return sentences(count, seed, per_token=True)


def labelled_steps(count, seed=0):
    """The label of an example on each of its tokens."""
    return [example | {"labels": torch.full((10,), example["labels"])} for example in sequences(count, seed)]


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"pixel_values": torch.randn(1, 8, 8, generator=generator), "labels": i % 4} for i in range(count)]


def numbers(count, seed=0):
    return [example | {"labels": float(example["labels"])} for example in sequences(count, seed)]


def several_labels(count, seed=0):
    return [
        example | {"labels": [float(example["labels"] > i) for i in range(4)]} for example in sequences(count, seed)
    ]


def holed(count, seed=0):
    """Sequences whose last steps are masked, and NaN."""
    examples = [example | {"attention_mask": torch.ones(10)} for example in sequences(count, seed)]
    for example in examples[::3]:
        example["input_values"][7:], example["attention_mask"][7:] = math.nan, 0
    return examples


def pad(examples, left=()):
    """Collate to the longest; the columns in `left` out of the batch."""
    batch = {}
    for name in [name for name in examples[0] if name not in left]:
        values = [torch.as_tensor(example[name]) for example in examples]
        if values[0].ndim:
            filler = -100 if name == "labels" else 0
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=filler)
        else:
            batch[name] = torch.stack(values)
    return batch


def pad_without_mask(examples):
    return pad(examples, left=("attention_mask",))


def pad_left(examples):
    flipped = [{n: v.flip(0) if torch.is_tensor(v) else v for n, v in example.items()} for example in examples]
    return {name: value.flip(1) if value.ndim > 1 else value for name, value in pad(flipped).items()}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Most of a tiny training's time would go into the card's pictures."""
    monkeypatch.setattr(run_card, "draw_pictures", lambda card, config: {})


@pytest.fixture
def only_head(make_model, make_trainer):
    """Build a Trainer for three epochs, each in another order, of 16 sequences; where only the head trains."""

    def make(model=None, folder="", **fields):
        model = make_model("gpt2", **ONLY_HEAD) if model is None else model
        defaults = {"train_dataset": sequences(16), "num_train_epochs": 3}
        return make_trainer(model, folder, **(defaults | fields))

    return make


def train_and_count(trainer):
    """Train; the examples that the backbone ran on after the first step."""
    seen, at_step = count_examples(trainer.model), []
    trainer.add_callback(AfterStep(lambda *_: at_step.append(sum(seen))))
    trainer.train()
    return sum(seen) - at_step[0]


def accuracy(prediction):
    answers, labels = np.asarray(prediction.predictions).argmax(-1), np.asarray(prediction.label_ids)
    asked = labels != -100
    return {"accuracy": float((answers[asked] == labels[asked]).mean())}


def curve(trainer):
    """All that was logged, without times."""

    def is_result(name):
        return "runtime" not in name and "per_second" not in name and name != "total_flos"

    return [{name: row[name] for name in row if is_result(name)} for row in trainer.state.log_history]


@pytest.fixture
def assert_same_training(make_model, only_head):
    """Train with features kept and with the backbone in every step: the same, and the first ran it less.

    Given are the model's family, class and fields, then the Trainer's; `evaluated`: examples evaluated in training.
    """

    def check(*kind, model_fields=None, evaluated=0, **fields):
        def make(cached):
            model = make_model(*(kind or ["gpt2"]), **ONLY_HEAD, **(model_fields or {}))
            return only_head(model, cache_features=cached, **({"train_dataset": sequences(20)} | fields))

        kept, run = make(None), make(False)
        assert train_and_count(kept) == evaluated < train_and_count(run)
        assert len(curve(kept)) == len(curve(run)) > 2
        for one, other in zip(curve(kept), curve(run), strict=True):
            assert one == pytest.approx(other, abs=1e-6, rel=1e-5)
        assert_close(copied(kept.model), copied(run.model))

    return check


# The model


SEVERAL = {"problem_type": "multi_label_classification"}
MODELS = {
    "values": ("gpt2", SEQUENCE, {}, sequences),
    "ids": ("bert", SEQUENCE, TOKENS, sentences),
    "mean of ids": ("gpt2", SEQUENCE, TOKENS | {"pooling": "mean"}, sentences),
    "labels of ids": ("bert", TOKEN, TOKENS, labelled_sentences),
    "labels of steps": ("gpt2", TOKEN, {}, labelled_steps),
    "images": ("gpt2", FPTForImageClassification, IMAGES | {"patch_size": 2}, pictures),
    "holes": ("gpt2", SEQUENCE, {}, holed),
    "numbers": ("gpt2", SEQUENCE, {"num_labels": 1, "problem_type": "regression"}, numbers),
    "several labels": ("gpt2", SEQUENCE, SEVERAL, several_labels),
}
EACH_MODEL = pytest.mark.parametrize(("model_type", "model_class", "fields", "data"), MODELS.values(), ids=MODELS)


@EACH_MODEL
def test_the_head_goes_on_from_its_inputs(model_type, model_class, fields, data, make_model):
    model = make_model(model_type, model_class, **ONLY_HEAD, **fields).eval()
    batch = pad(data(6))
    whole = model(**batch)
    labels = batch.pop("labels")
    head_inputs = model.head_inputs(**batch)
    assert head_inputs.shape[-1] == 32 and head_inputs.ndim == (3 if model.per_token else 2)
    split = model(head_inputs=head_inputs, labels=labels)
    assert torch.equal(split.logits, whole.logits) and torch.equal(split.loss, whole.loss)
    assert torch.equal(model(head_inputs=head_inputs, return_dict=False)[0], whole.logits)


@pytest.mark.parametrize(
    ("model_class", "shape", "more", "message"),
    [
        (SEQUENCE, (2, 10, 32), {}, r"has shape \(batch, 32\), got \(2, 10, 32\)"),
        (SEQUENCE, (2, 31), {}, r"has shape \(batch, 32\), got \(2, 31\): give what this model's head_in"),
        (TOKEN, (2, 32), {}, r"has shape \(batch, tokens, 32\), got \(2, 32\)"),
        (SEQUENCE, (2, 32), {"input_values": torch.zeros(2, 10, 3)}, "in place of the raw inputs"),
        (SEQUENCE, (2, 32), {"attention_mask": torch.ones(2, 10)}, "in place of the raw inputs and their mask"),
        (SEQUENCE, (2, 32), {"output_hidden_states": True}, "no hidden states"),
    ],
)
def test_wrong_head_inputs_are_refused(model_class, shape, more, message, make_model):
    with pytest.raises(ValueError, match=message):
        make_model("gpt2", model_class)(head_inputs=torch.zeros(shape), **more)


def test_a_batch_is_cut_to_its_longest_example():
    tensors = {"head_inputs": torch.arange(24.0).view(3, 4, 2), "labels": torch.arange(12).view(3, 4)}
    cached = CachedFeatures(tensors, lengths=torch.tensor([2, 1, 4]))
    batch = cached.batch([1, 0])
    assert batch["labels"].tolist() == [[4, 5], [0, 1]]
    assert torch.equal(batch["head_inputs"], tensors["head_inputs"][[1, 0], :2])
    assert cached[1]["labels"].tolist() == [4, 5, 6, 7]  # the default collator takes examples of one length
    assert len(cached) == 3 and cached.nbytes == 24 * 4 + 12 * 8


# The same results


@EACH_MODEL
def test_training_gives_the_same(model_type, model_class, fields, data, assert_same_training):
    assert_same_training(
        model_type,
        model_class,
        model_fields=fields,
        train_dataset=data(20),
        eval_dataset=data(10, seed=1),
        evaluated=10,
        data_collator=pad,
        compute_metrics=None if "problem_type" in fields else accuracy,
        eval_strategy="epoch",
        per_device_eval_batch_size=4,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 2},
        {"dataloader_drop_last": True},
        {"train_sampling_strategy": "sequential"},
        {"dataloader_num_workers": 1},
        {"bf16": True},
        {"max_steps": 7, "num_train_epochs": 1},
        {"weight_decay": 0.1, "label_smoothing_factor": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_keep_their_meaning(changes, assert_same_training):
    data = labelled_sentences(20)
    kind = ("gpt2", TOKEN)
    assert_same_training(*kind, model_fields=TOKENS, train_dataset=data, data_collator=pad, **changes)


def empty(examples):
    """Collate, and take the labels out of what was given."""
    labels = torch.stack([example.pop("labels") for example in examples])
    return pad(examples) | {"labels": labels}


class Fresh(Dataset):
    """Makes each example anew."""

    examples = [example | {"labels": torch.tensor(example["labels"])} for example in sequences(20)]

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return dict(self.examples[index])


UNMASKED = {"train_dataset": sentences(16), "data_collator": pad_without_mask}
TWO_SETS = {"eval_strategy": "epoch", "compute_metrics": accuracy}
TWO_SETS["eval_dataset"] = {"one": sequences(7, seed=1), "two": sequences(9, seed=2)}
ODD = {  # fields of the model, and of the Trainer, and how many examples are evaluated
    "a collator that empties": ({}, {"train_dataset": Fresh(), "data_collator": empty}, 0),
    "another column": ({}, {"train_dataset": HubDataset.from_list([e | {"extra": 1} for e in sequences(20)])}, 0),
    "a pad id as a mask": (TOKENS | {"pad_token_id": 0}, UNMASKED | {"train_dataset": sentences(20)}, 0),
    "two evaluation sets": ({}, TWO_SETS, 7 + 9),
}


@pytest.mark.parametrize(("model_fields", "fields", "evaluated"), ODD.values(), ids=ODD)
def test_odd_data_are_as_ever(model_fields, fields, evaluated, assert_same_training):
    assert_same_training(model_fields=model_fields, evaluated=evaluated, **fields)


def test_evaluation_is_kept_where_training_draws(make_model, only_head):
    trainers, later = [], []
    for cached in (None, False):
        model = make_model("gpt2", trainable=("output",), input_dropout=0.1)
        data = {"train_dataset": sequences(24), "eval_dataset": sequences(16, seed=1)}
        trainer = only_head(model, eval_steps=1, max_steps=3, cache_features=cached, **data)
        later.append(train_and_count(trainer))
        trainers.append(trainer)
    assert curve(trainers[0]) == curve(trainers[1]) and len(losses(trainers[0])) == 3
    assert later == [16 + 2 * 8, 3 * 16 + 2 * 8]


@pytest.mark.parametrize("kept_by", ["Trainer", "user"])
def test_resume_continues_bit_by_bit(kept_by, make_model, only_head):
    data, seen = sequences(20), []
    if kept_by == "user":
        data = cache_features(make_model("bert", **ONLY_HEAD), data, progress=False)

    def make(folder, **more):
        model = make_model("bert", **ONLY_HEAD)
        seen.append(count_examples(model))
        settings = {"save_steps": 4, "lr_scheduler_type": "linear"}
        return only_head(model, folder, train_dataset=data, **settings, **more)

    resumed, _ = assert_resumes(make, 4)  # within the second epoch
    assert len(losses(resumed)) == 9
    assert sum(seen[-1]) == (20 + 2 * 4 if kept_by == "Trainer" else 0)  # and two looks at four examples before
    assert len(data) == 20  # theirs, and not thrown away


def test_two_processes_share_the_work_and_give_the_same(tmp_path_factory):
    for record in two_processes(tmp_path_factory.getbasetemp())[1]:
        assert record["outlives"] == [False, False]  # a wrapper that does may hang Python's end
        kept, run = record["head"]
        assert kept["wrapper"] == run["wrapper"] == "DistributedDataParallel"
        assert kept["processes"] == 2 and len(kept["losses"]) == 12
        for name in ("losses", "metrics", "weights"):
            assert kept[name] == pytest.approx(run[name], abs=1e-6)
        assert kept["seen"] == 2 * 4 + 32 + 16  # two looks at four examples, then the process's share of both sets
        assert run["seen"] == 3 * (32 + 16)


# What stands in the way


class Noisy(Dataset):
    """16 examples with fresh noise each time, or with that of an epoch."""

    def __init__(self, by_epoch):
        self.examples, self.by_epoch, self.epoch = sequences(16), by_epoch, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        example = self.examples[index]
        noise = self.epoch if self.by_epoch else torch.rand(())
        return example | {"input_values": example["input_values"] + noise}


def shuffle_tokens(examples):
    batch = pad(examples)
    return batch | {"input_values": batch["input_values"][:, torch.randperm(10)]}


def centre(examples):
    batch = pad(examples)
    return batch | {"input_values": batch["input_values"] - batch["input_values"].mean(0)}


@pytest.fixture
def assert_in_the_way(warned):
    """Train, and see that the backbone ran in every step and that one warning said why."""

    def check(trainer, message):
        assert train_and_count(trainer) == 5 * 8  # all later steps
        [warning] = own_messages(warned)
        assert "Only the head trains, but the frozen backbone runs in every step" in warning
        assert message in warning

    return check


BY_LENGTH = {"train_sampling_strategy": "group_by_length", "train_dataset": sentences(16)}
DROPS = "has attn_pdrop, embd_pdrop, resid_pdrop above 0 (write backbone_dropout=0)"
ANEW, GIVE_A_MASK = "draws examples anew each time", "(if that is padding: give a mask)"


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        ({"input_dropout": 0.1}, {}, "input_dropout is 0.1 (write input_dropout=0)"),
        ({"backbone_dropout": 0.2}, {}, DROPS),
        ({"output_hidden_states": True}, {}, "output_hidden_states or output_attentions asks for"),
        (TOKENS, BY_LENGTH, "is 'group_by_length' (write 'random')"),
        ({}, {"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen counts inputs"),
        ({}, {"neftune_noise_alpha": 5.0}, "the backbone is random in training"),
        ({}, {"train_dataset": Subset(Noisy(by_epoch=False), range(16))}, ANEW),
        ({}, {"train_dataset": Subset(Noisy(by_epoch=True), range(16))}, ANEW),
        ({}, {"data_collator": shuffle_tokens}, ANEW),
        ({}, {"data_collator": centre}, "an example depends on those it is batched with"),
        (TOKENS, UNMASKED, GIVE_A_MASK),
        (TOKENS, {"train_dataset": sentences(16), "data_collator": pad_left}, GIVE_A_MASK),
    ],
)
def test_what_changes_features_stands_in_the_way(fields, changes, message, make_model, only_head, assert_in_the_way):
    model = make_model("gpt2", **(ONLY_HEAD | fields))
    assert_in_the_way(only_head(model, **({"data_collator": pad} | changes)), message)


def test_a_layer_that_is_dropped_stands_in_the_way(make_model, only_head, assert_in_the_way):
    model = make_model("opt", **ONLY_HEAD)
    model.fpt.backbone.decoder.layerdrop = 0.5
    assert_in_the_way(only_head(model), "random in training")


def test_a_backbone_that_looks_behind_the_mask_stands_in_the_way(only_head, assert_in_the_way):
    config = AutoConfig.for_model("convbert", **COMMON, embedding_size=32)
    fields = {"input_type": "tokens", "vocab_size": 7, "sequence_length": 10, "num_labels": 4}
    model = FPTForSequenceClassification.from_backbone(config, backbone_init="random", **ONLY_HEAD, **fields)
    trainer = only_head(model, train_dataset=sentences(16), data_collator=pad)
    assert_in_the_way(trainer, "the backbone sees padding in spite of the mask")


def test_too_many_bytes_stand_in_the_way(make_model, only_head, assert_in_the_way):
    trainer = only_head(make_model("gpt2", TOKEN, **ONLY_HEAD), train_dataset=labelled_steps(16))
    trainer.most_cached = 16 * 10 * 32 * 4 - 1
    assert_in_the_way(trainer, "the features of 16 examples take 20,480 bytes, over the 20,479 allowed")


def test_what_is_kept_counts_among_the_bytes(only_head):
    trainer = only_head(eval_strategy="epoch", eval_dataset=sequences(10, seed=1))
    trainer.most_cached = (16 + 9) * 32 * 4
    assert train_and_count(trainer) == 3 * 10  # room for the training set alone


def test_evaluated_data_without_the_input_is_told_as_ever(only_head):
    data = [{"pixel_values": example["input_values"], "labels": example["labels"]} for example in sequences(8)]
    with pytest.raises(ValueError, match="takes input_values; got pixel_values"):
        only_head(eval_strategy="epoch", eval_dataset=data).train()


def test_examples_that_do_not_come_are_told(make_model):
    with pytest.raises(RuntimeError, match="The data set has 3 examples, but 0 came"):
        compute_features(make_model("gpt2", **ONLY_HEAD), [], 3, Accelerator(cpu=True))


@pytest.mark.parametrize(
    ("trainable", "changes", "examples"),
    [(("output",), {"num_train_epochs": 1}, 16), (("output",), {"max_steps": 2}, 16), (("norm", "output"), {}, 48)],
)
def test_what_would_not_pay_or_trains_more_is_left_alone(trainable, changes, examples, make_model, only_head, warned):
    model = make_model("gpt2", trainable=trainable, **NO_DROPOUT)
    seen = count_examples(model)
    only_head(model, **changes).train()
    assert sum(seen) == examples
    assert own_messages(warned) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_dropout": 0.1}, "cache_features=True is not possible: input_dropout is 0.1"),
        ({"trainable": ("norm", "output")}, "of which only the head trains: write trainable="),
    ],
)
def test_what_is_asked_for_and_impossible_is_refused(fields, message, make_model, only_head):
    trainer = only_head(make_model("gpt2", **(ONLY_HEAD | fields)), cache_features=True)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_metrics_that_need_inputs_get_them(only_head):
    seen = []

    def metric(prediction):
        seen.append(prediction.inputs.shape)
        return accuracy(prediction)

    evaluated = {"eval_strategy": "epoch", "eval_dataset": sequences(6, seed=1), "compute_metrics": metric}
    trainer = only_head(include_for_metrics=["inputs"], **evaluated)
    assert train_and_count(trainer) == 3 * 6  # nothing but the evaluations
    assert seen == [(6, 10, 3)] * 3


# Guards, and what comes after


@pytest.mark.parametrize("place", [0, 15])
def test_wrong_examples_are_refused(place, only_head):
    data = sequences(16)
    data[place]["input_values"][3, 1] = math.nan
    with pytest.raises(ValueError, match="input_values must be finite"):
        only_head(train_dataset=data).train()


def test_a_frozen_weight_that_changes_is_told(only_head):
    with pytest.raises(TrainingError, match=r"frozen weight fpt\.backbone\.h\.0"):
        only_head(callbacks=[AfterStep(change_frozen)]).train()


def test_after_training_all_is_as_ever(make_model, only_head, tmp_path):
    data, model = sequences(20), make_model("gpt2", **ONLY_HEAD)
    trainer = only_head(model, eval_strategy="epoch", train_dataset=data, eval_dataset=data, compute_metrics=accuracy)
    trainer.train()
    cached = trainer.callback_handler.train_dataloader.dataset.features
    assert cached.tensors == {}  # its memory is free
    last = next(row for row in reversed(trainer.state.log_history) if "eval_accuracy" in row)
    seen = count_examples(model)
    assert trainer.evaluate()["eval_accuracy"] == last["eval_accuracy"]
    prediction = trainer.predict(data)
    assert sum(seen) == 40
    assert prediction.metrics["test_accuracy"] == last["eval_accuracy"]
    assert next(iter(trainer.get_train_dataloader()))["input_values"].shape == (8, 10, 3)
    trainer.save_model()
    assert_same(saved_tensors(tmp_path, model), model.delta_tensors())
    loaded = FPTForSequenceClassification.from_pretrained(tmp_path)
    logits = loaded(input_values=pad(data)["input_values"]).logits.detach().numpy()
    np.testing.assert_allclose(logits, prediction.predictions, atol=1e-5)
    assert trainer.train_dataset is data and trainer.args.dataloader_drop_last is False


def test_the_time_of_the_features_is_told(only_head, capsys):
    metrics = only_head(disable_tqdm=False, train_dataset=sequences(20)).train().metrics
    assert metrics["train_features_runtime"] > 0
    shown = capsys.readouterr().err
    assert "features: 100%" in shown and "3/3" in shown


# Features that a user keeps


@TRAINERS
@EACH_MODEL
def test_a_head_trains_on_kept_features(trainer_class, model_type, model_class, fields, data, make_model, only_head):
    def run(rows, held, collator, model):
        more = {} if trainer_class is Trainer else {"cache_features": False}
        more |= {"train_dataset": rows, "eval_dataset": held, "data_collator": collator}
        settings = {"eval_strategy": "epoch", "per_device_eval_batch_size": 4}
        trainer = only_head(model, trainer_class=trainer_class, **settings, **more)
        trainer.train()
        return losses(trainer), trainer.evaluate()["eval_loss"], copied(model)

    rows, held = data(20), data(10, seed=1)
    one, other = (make_model(model_type, model_class, **ONLY_HEAD, **fields) for _ in range(2))
    curve, loss, weights = run(rows, held, pad, one)
    kept, kept_held = (cache_features(other, examples, pad, 8, progress=False) for examples in (rows, held))
    assert len(kept) == 20 and kept[0]["head_inputs"].shape[-1] == 32
    seen = count_examples(other)
    collator = pad if trainer_class is FPTTrainer else None  # the stock one would give features to it
    kept_curve, kept_loss, kept_weights = run(kept, kept_held, collator, other)
    assert sum(seen) == 0
    assert kept_curve == pytest.approx(curve, abs=1e-6, rel=1e-5) and len(curve) == 9
    assert kept_loss == pytest.approx(loss, abs=1e-6)
    assert_close(kept_weights, weights)


@pytest.mark.parametrize("training", [True, False])
def test_keeping_features_changes_nothing_else(training, make_model):
    model = make_model("gpt2", **ONLY_HEAD).train(training)
    before, state = copied(model), torch.get_rng_state()
    cache_features(model, sequences(20), batch_size=6, progress=False)
    for data in (Noisy(by_epoch=False), Noisy(by_epoch=True)):
        with pytest.raises(ValueError, match="an augmentation"):
            cache_features(model, data)
    assert model.training is training and data.epoch == 0
    assert_same(copied(model), before)
    assert torch.equal(torch.get_rng_state(), state)


RANDOM = {"input_dropout": 0.1, "output_attentions": True}
SHORT, NAN = torch.zeros(9, 3), torch.full((10, 3), math.nan)


@pytest.mark.parametrize(
    ("fields", "spoil", "options", "message"),
    [
        ({"trainable": ("norm", "output")}, {}, {}, r"only the head trains: write trainable=\['output'\]"),
        (RANDOM, {}, {}, r"input_dropout is 0\.1 \(write .*; output_hidden"),
        ({}, {}, {"most_bytes": 2559}, "the features of 20 examples take 2,560 bytes, over the 2,559 allowed"),
        ({}, {"labels": 4}, {}, r"got 4\. This is row 17 of the data set\."),
        ({}, {"input_values": NAN}, {}, r"NaN or infinity.* This is row 17 of the data set\."),
        ({}, {"input_values": SHORT}, {}, r"one has 9 where others have 10.* This is row 1[67]"),
    ],
)
def test_what_cannot_be_kept_is_told(fields, spoil, options, message, make_model):
    data = sequences(20)
    data[17] |= spoil
    with pytest.raises(ValueError, match=message):
        cache_features(make_model("gpt2", **(ONLY_HEAD | fields)), data, batch_size=6, progress=False, **options)


def test_features_for_evaluation_may_be_of_a_model_with_dropout(make_model):
    model, rows = make_model("gpt2", **(ONLY_HEAD | {"input_dropout": 0.1})), sequences(10)
    features = cache_features(model, rows, for_training=False, progress=False)
    with torch.no_grad():
        whole = model.eval()(**pad(rows))
        kept = model(**features.batch(range(10)))
    torch.testing.assert_close(kept.logits, whole.logits)
    assert kept.loss == pytest.approx(whole.loss.item())


@pytest.fixture
def features(make_model):
    """Features that a user keeps, of 20 sequences."""
    return cache_features(make_model("gpt2", **ONLY_HEAD), sequences(20), progress=False)


def test_kept_features_are_refused_where_more_trains(features, make_model, only_head):
    for kept in ({"train_dataset": features}, {"eval_dataset": features}):
        trainer = only_head(make_model("gpt2"), **kept)
        with pytest.raises(ValueError, match="only the head trains, and this one trains more: write trainable="):
            trainer.train()
    with pytest.raises(ValueError, match="this one trains more"):
        trainer.evaluate(features)


def test_a_wrong_label_of_kept_features_is_named(features, only_head):
    features.labels[13] = 7
    with pytest.raises(ValueError, match=r"got 7\. This is row 13 of the training set, by its labels"):
        only_head(train_dataset=features).train()
