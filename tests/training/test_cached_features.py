"""Training only the head, on features computed once: the results are those of running the backbone in every step."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import saved_tensors
from datasets import Dataset as HubDataset
from test_distributed import launch
from test_training import TRAINERS, AfterStep, arguments, assert_same, copied, losses, sequences, stop_after
from torch.utils.data import Dataset, Subset
from transformers import ConvBertConfig, Trainer

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

HEAD_ALONE = {"trainable": ("output",), "input_dropout": 0.0, "backbone_dropout": 0.0}
TOKENS = {"input_type": "tokens", "input_size": None, "vocab_size": 7}
IMAGES = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 2}
TRAIN_HEAD = Path(__file__).parents[1] / "scripts" / "train_head.py"


def epochs(folder, **changes):
    """Three epochs, each in another order."""
    return arguments(folder, **({"max_steps": -1, "num_train_epochs": 3} | changes))


def sentences(count, seed=0, per_token=False):
    """Examples of 3 to 9 ids, the later the longer, with a mask, and one label or one per token, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        ids = torch.randint(1, 7, (3 + (index // 3) % 8,), generator=generator)
        labels = torch.randint(4, (len(ids),), generator=generator)
        labels[1] = -100
        examples.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "labels": labels if per_token else int(labels[0]),
            }
        )
    return examples


FILLERS = {"labels": -100}


def pad(examples, left=()):
    """Collate to the longest; the columns in `left` out of the batch."""
    batch = {}
    for name in [name for name in examples[0] if name not in left]:
        values = [torch.as_tensor(example[name]) for example in examples]
        if values[0].ndim:
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=FILLERS.get(name, 0))
        else:
            batch[name] = torch.stack(values)
    return batch


def pad_without_mask(examples):
    return pad(examples, left=("attention_mask",))


def pad_left(examples):
    flipped = [{n: v.flip(0) if torch.is_tensor(v) else v for n, v in example.items()} for example in examples]
    return {name: value.flip(1) if value.ndim > 1 else value for name, value in pad(flipped).items()}


def label_tokens(examples):
    """The label of an example on each of its tokens."""
    return [example | {"labels": torch.full((10,), example["labels"])} for example in examples]


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


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Most of a tiny training's time would go into the card's pictures."""
    monkeypatch.setattr(run_card, "draw_pictures", lambda card, config: {})


def count_examples(model):
    """A list that grows by the batch size whenever the backbone runs."""
    seen = []
    model.fpt.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    return seen


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
    rows = [
        {n: v for n, v in row.items() if "runtime" not in n and "per_second" not in n}
        for row in trainer.state.log_history
    ]
    return [{name: value for name, value in row.items() if name != "total_flos"} for row in rows]


def assert_same_training(make_trainer, evaluated=0, **tolerance):
    """Train with features kept and with the backbone in every step: the same, and the first ran it less.

    `make_trainer(cache_features)`; `evaluated`: examples that are evaluated in training.
    """
    kept, run = make_trainer(None), make_trainer(False)
    assert train_and_count(kept) == evaluated < train_and_count(run)
    assert len(curve(kept)) == len(curve(run)) > 2
    for one, other in zip(curve(kept), curve(run), strict=True):
        assert one == pytest.approx(other, **({"abs": 1e-6, "rel": 1e-5} | tolerance))
    for name, tensor in copied(run.model).items():
        torch.testing.assert_close(copied(kept.model)[name], tensor, rtol=0, atol=10 * tolerance.get("abs", 1e-6))


# The model


MODELS = [
    ("gpt2", FPTForSequenceClassification, {}, sequences),
    ("bert", FPTForSequenceClassification, TOKENS, sentences),
    ("gpt2", FPTForSequenceClassification, TOKENS | {"pooling": "mean"}, sentences),
    ("bert", FPTForTokenClassification, TOKENS, lambda count, seed=0: sentences(count, seed, per_token=True)),
    ("gpt2", FPTForTokenClassification, {}, lambda count, seed=0: label_tokens(sequences(count, seed))),
    ("gpt2", FPTForImageClassification, IMAGES | {"input_size": None, "sequence_length": None}, pictures),
    ("gpt2", FPTForSequenceClassification, {}, holed),
    ("gpt2", FPTForSequenceClassification, {"num_labels": 1, "problem_type": "regression"}, numbers),
    ("gpt2", FPTForSequenceClassification, {"problem_type": "multi_label_classification"}, several_labels),
]


@pytest.mark.parametrize(("model_type", "model_class", "fields", "data"), MODELS)
def test_the_head_goes_on_from_its_inputs(model_type, model_class, fields, data, make_model):
    model = make_model(model_type, model_class, **HEAD_ALONE, **fields).eval()
    batch = pad(data(6))
    whole = model(**batch)
    labels = batch.pop("labels")
    head_inputs = model.head_inputs(**batch)
    assert head_inputs.shape[-1] == 32 and head_inputs.ndim == (3 if model.per_token else 2)
    split = model(head_inputs=head_inputs, labels=labels)
    assert torch.equal(split.logits, whole.logits) and torch.equal(split.loss, whole.loss)
    assert torch.equal(model(head_inputs=head_inputs, return_dict=False)[0], whole.logits)


def test_wrong_head_inputs_are_refused(make_model):
    model = make_model("gpt2")
    with pytest.raises(ValueError, match=r"has shape \(batch, 32\), got \(2, 10, 32\)"):
        model(head_inputs=torch.zeros(2, 10, 32))
    with pytest.raises(ValueError, match=r"has shape \(batch, 32\), got \(2, 31\): give what this model's head_in"):
        model(head_inputs=torch.zeros(2, 31))
    with pytest.raises(ValueError, match="in place of the raw inputs"):
        model(head_inputs=torch.zeros(2, 32), input_values=torch.zeros(2, 10, 3))
    with pytest.raises(ValueError, match="in place of the raw inputs and their mask"):
        model(head_inputs=torch.zeros(2, 32), attention_mask=torch.ones(2, 10))
    with pytest.raises(ValueError, match="no hidden states"):
        model(head_inputs=torch.zeros(2, 32), output_hidden_states=True)
    with pytest.raises(ValueError, match=r"has shape \(batch, tokens, 32\), got \(2, 32\)"):
        make_model("gpt2", FPTForTokenClassification)(head_inputs=torch.zeros(2, 32))


def test_a_batch_is_cut_to_its_longest_example():
    tensors = {"head_inputs": torch.arange(24.0).view(3, 4, 2), "labels": torch.arange(12).view(3, 4)}
    cached = CachedFeatures(tensors, lengths=torch.tensor([2, 1, 4]))
    batch = cached.batch([1, 0])
    assert batch["labels"].tolist() == [[4, 5], [0, 1]]
    assert torch.equal(batch["head_inputs"], tensors["head_inputs"][[1, 0], :2])
    assert cached[1]["labels"].tolist() == [4, 5, 6, 7]  # the default collator takes examples of one length
    assert len(cached) == 3 and cached.nbytes == 24 * 4 + 12 * 8


# The same results


@pytest.mark.parametrize(("model_type", "model_class", "fields", "data"), MODELS)
def test_training_gives_the_same(model_type, model_class, fields, data, make_model, tmp_path):
    def make(cached):
        model = make_model(model_type, model_class, **HEAD_ALONE, **fields)
        args = epochs(tmp_path, eval_strategy="epoch", per_device_eval_batch_size=4)
        metric = accuracy if model.config.problem_type is None else None
        return FPTTrainer(
            model,
            args,
            train_dataset=data(20),
            eval_dataset=data(10, seed=1),
            data_collator=pad,
            compute_metrics=metric,
            cache_features=cached,
        )

    assert_same_training(make, evaluated=10)


CHANGES = [
    {"gradient_accumulation_steps": 2},
    {"dataloader_drop_last": True},
    {"train_sampling_strategy": "sequential"},
    {"dataloader_num_workers": 1},
    {"bf16": True},
    {"max_steps": 7, "num_train_epochs": 1},
    {"weight_decay": 0.1, "label_smoothing_factor": 0.1},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_settings_keep_their_meaning(changes, make_model, tmp_path):
    def make(cached):
        model = make_model("gpt2", FPTForTokenClassification, **HEAD_ALONE, **TOKENS)
        data = sentences(20, per_token=True)
        args = epochs(tmp_path, **changes)
        return FPTTrainer(model, args, train_dataset=data, data_collator=pad, cache_features=cached)

    assert_same_training(make)


def empty(examples):
    """Collate, and take the labels out of what was given."""
    labels = torch.stack([example.pop("labels") for example in examples])
    return pad(examples) | {"labels": labels}


def test_a_collator_may_empty_what_it_gets(make_model, tmp_path):
    class Fresh(Dataset):
        examples = [example | {"labels": torch.tensor(example["labels"])} for example in sequences(20)]

        def __len__(self):
            return 20

        def __getitem__(self, index):
            return dict(self.examples[index])

    def make(cached):
        model, args = make_model("gpt2", **HEAD_ALONE), epochs(tmp_path)
        return FPTTrainer(model, args, train_dataset=Fresh(), data_collator=empty, cache_features=cached)

    assert_same_training(make)


def test_columns_are_dropped_as_ever(make_model, tmp_path):
    rows = sequences(20)
    data = HubDataset.from_dict({name: [row[name] for row in rows] for name in rows[0]} | {"extra": [1] * 20})

    def make(cached):
        return FPTTrainer(
            make_model("gpt2", **HEAD_ALONE), epochs(tmp_path), train_dataset=data, cache_features=cached
        )

    assert_same_training(make)


def test_several_evaluation_sets_are_kept_each(make_model, tmp_path):
    def make(cached):
        return FPTTrainer(
            make_model("gpt2", **HEAD_ALONE),
            epochs(tmp_path, eval_strategy="epoch"),
            train_dataset=sequences(20),
            eval_dataset={"one": sequences(7, seed=1), "two": sequences(9, seed=2)},
            compute_metrics=accuracy,
            cache_features=cached,
        )

    assert_same_training(make, evaluated=7 + 9)


def test_evaluation_is_kept_where_training_draws(make_model, tmp_path):
    trainers, later = [], []
    for cached in (None, False):
        trainer = FPTTrainer(
            make_model("gpt2", trainable=("output",), input_dropout=0.1),
            epochs(tmp_path, eval_strategy="steps", eval_steps=1, max_steps=3),
            train_dataset=sequences(24),
            eval_dataset=sequences(16, seed=1),
            cache_features=cached,
        )
        later.append(train_and_count(trainer))
        trainers.append(trainer)
    assert curve(trainers[0]) == curve(trainers[1]) and len(losses(trainers[0])) == 3
    assert later == [16 + 2 * 8, 3 * 16 + 2 * 8]


def test_resume_continues_bit_by_bit(make_model, tmp_path):
    def make(folder, **kwargs):
        args = epochs(tmp_path / folder, save_strategy="steps", save_steps=4, lr_scheduler_type="linear")
        return FPTTrainer(make_model("bert", **HEAD_ALONE), args, train_dataset=sequences(20), **kwargs)

    whole = make("whole")
    whole.train()
    make("halves", callbacks=[stop_after(4)]).train()  # within the second epoch
    resumed = make("halves")
    seen = count_examples(resumed.model)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 9
    assert_same(copied(resumed.model), copied(whole.model))
    assert sum(seen) == 20 + 2 * 4  # the features, and two looks at four examples before


def test_two_processes_share_the_work_and_give_the_same(tmp_path):
    launch(TRAIN_HEAD, tmp_path)
    for rank in (0, 1):
        record = json.loads((tmp_path / f"record{rank}.json").read_text())
        assert record["wrapped"] == [False, False]  # one that outlives the process group may hang Python's end
        kept, run = record["runs"]
        assert kept["processes"] == 2 and len(kept["losses"]) == 12
        for name in ("losses", "metrics", "weights"):
            assert kept[name] == pytest.approx(run[name], abs=1e-6)
        assert kept["seen"] == 2 * 4 + 32 + 16  # two looks at four examples, then the process's share of both sets
        assert run["seen"] == 3 * (32 + 16)


# What stands in the way


class Noisy(Dataset):
    """Examples with fresh noise each time, or with that of an epoch."""

    def __init__(self, examples, by_epoch):
        self.examples, self.by_epoch, self.epoch = examples, by_epoch, 0

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


def refused(trainer, message, warned):
    """Train, and see that the backbone ran in every step and that one warning said why."""
    assert train_and_count(trainer) == 5 * 8  # all later steps
    messages = [record.getMessage() for record in warned.records if record.name.startswith("fpt_adapters")]
    assert len(messages) == 1 and "Only the head trains, but the frozen backbone runs in every step" in messages[0]
    assert message in messages[0]


SETTINGS = [
    ({"input_dropout": 0.1}, {}, "input_dropout is 0.1 (write input_dropout=0)"),
    (
        {"backbone_dropout": 0.2},
        {},
        "has attn_pdrop, embd_pdrop, resid_pdrop above 0 (write backbone_dropout=0)",
    ),
    ({"output_hidden_states": True}, {}, "output_hidden_states or output_attentions asks for"),
    ({}, {"train_sampling_strategy": "group_by_length"}, "is 'group_by_length' (write 'random')"),
    ({}, {"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen counts inputs"),
    ({}, {"neftune_noise_alpha": 5.0}, "the backbone is random in training"),
]


@pytest.mark.parametrize(("fields", "changes", "message"), SETTINGS)
def test_settings_stand_in_the_way(fields, changes, message, make_model, tmp_path, warned):
    data = sentences(16) if "train_sampling_strategy" in changes else sequences(16)
    kind = TOKENS if "train_sampling_strategy" in changes else {}
    model = make_model("gpt2", **(HEAD_ALONE | fields | kind))
    trainer = FPTTrainer(model, epochs(tmp_path, **changes), train_dataset=data, data_collator=pad)
    refused(trainer, message, warned)


def test_a_layer_that_is_dropped_stands_in_the_way(make_model, tmp_path, warned):
    model = make_model("opt", **HEAD_ALONE)
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.5
    torch.manual_seed(1)
    refused(FPTTrainer(model, epochs(tmp_path), train_dataset=sequences(16)), "random in training", warned)


@pytest.mark.parametrize(
    ("by_epoch", "collator", "message"),
    [
        (False, pad, "draws examples anew each time"),
        (True, pad, "draws examples anew each time"),
        (None, shuffle_tokens, "draws examples anew each time"),
        (None, centre, "an example depends on those it is batched with"),
    ],
)
def test_data_that_changes_stands_in_the_way(by_epoch, collator, message, make_model, tmp_path, warned):
    data = sequences(16) if by_epoch is None else Subset(Noisy(sequences(20), by_epoch), range(16))
    model = make_model("gpt2", **HEAD_ALONE)
    refused(FPTTrainer(model, epochs(tmp_path), train_dataset=data, data_collator=collator), message, warned)


@pytest.mark.parametrize("collator", [pad_without_mask, pad_left])
def test_padding_that_moves_results_stands_in_the_way(collator, make_model, tmp_path, warned):
    trainer = FPTTrainer(
        make_model("gpt2", **HEAD_ALONE, **TOKENS),
        epochs(tmp_path),
        train_dataset=sentences(16),
        data_collator=collator,
    )
    refused(trainer, "(if that is padding: give a mask)", warned)


def test_a_backbone_that_looks_behind_the_mask_stands_in_the_way(tmp_path, warned):
    config = ConvBertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        embedding_size=32,
    )
    fields = {"input_type": "tokens", "vocab_size": 7, "sequence_length": 10, "num_labels": 4}
    model = FPTForSequenceClassification.from_backbone(config, backbone_init="random", **HEAD_ALONE, **fields)
    trainer = FPTTrainer(model, epochs(tmp_path), train_dataset=sentences(16), data_collator=pad)
    refused(trainer, "the backbone sees padding in spite of the mask", warned)


def test_evaluated_data_without_the_input_is_told_as_ever(make_model, tmp_path):
    data = [{"pixel_values": example["input_values"], "labels": example["labels"]} for example in sequences(8)]
    args = epochs(tmp_path, eval_strategy="epoch")
    trainer = FPTTrainer(make_model("gpt2", **HEAD_ALONE), args, train_dataset=sequences(8), eval_dataset=data)
    with pytest.raises(ValueError, match="takes input_values; got pixel_values"):
        trainer.train()


def test_a_pad_id_is_a_mask(make_model, tmp_path):
    def make(cached):
        model = make_model("gpt2", **HEAD_ALONE, **TOKENS, pad_token_id=0)
        data = sentences(20)
        args = epochs(tmp_path)
        return FPTTrainer(model, args, train_dataset=data, data_collator=pad_without_mask, cache_features=cached)

    assert_same_training(make)


def test_too_many_bytes_stand_in_the_way(make_model, tmp_path, warned):
    trainer = FPTTrainer(
        make_model("gpt2", FPTForTokenClassification, **HEAD_ALONE),
        epochs(tmp_path),
        train_dataset=label_tokens(sequences(16)),
    )
    trainer.most_cached = 16 * 10 * 32 * 4 - 1
    refused(trainer, "the features of 16 examples take 20,480 bytes, over the 20,479 allowed", warned)


def test_what_is_kept_counts_among_the_bytes(make_model, tmp_path):
    trainer = FPTTrainer(
        make_model("gpt2", **HEAD_ALONE),
        epochs(tmp_path, eval_strategy="epoch"),
        train_dataset=sequences(16),
        eval_dataset=sequences(10, seed=1),
    )
    trainer.most_cached = (16 + 9) * 32 * 4
    assert train_and_count(trainer) == 3 * 10  # room for the training set alone


def test_examples_that_do_not_come_are_told(make_model):
    with pytest.raises(RuntimeError, match="The data set has 3 examples, but 0 came"):
        compute_features(make_model("gpt2", **HEAD_ALONE), [], 3, Accelerator(cpu=True))


@pytest.mark.parametrize(
    ("trainable", "changes"),
    [(("output",), {"num_train_epochs": 1}), (("output",), {"max_steps": 2}), (("norm", "output"), {})],
)
def test_what_would_not_pay_or_trains_more_is_left_alone(trainable, changes, make_model, tmp_path, warned):
    model = make_model("gpt2", **(HEAD_ALONE | {"trainable": trainable}))
    seen = count_examples(model)
    FPTTrainer(model, epochs(tmp_path, **changes), train_dataset=sequences(16)).train()
    assert sum(seen) == 16 * changes.get("num_train_epochs", 1 if changes else 3)
    assert [record for record in warned.records if record.name.startswith("fpt_adapters")] == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_dropout": 0.1}, "cache_features=True is not possible: input_dropout is 0.1"),
        ({"trainable": ("norm", "output")}, "of which only the head trains: write trainable="),
    ],
)
def test_what_is_asked_for_and_impossible_is_refused(fields, message, make_model, tmp_path):
    model = make_model("gpt2", **(HEAD_ALONE | fields))
    trainer = FPTTrainer(model, epochs(tmp_path), train_dataset=sequences(16), cache_features=True)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_metrics_that_need_inputs_get_them(make_model, tmp_path):
    seen = []

    def metric(prediction):
        seen.append(prediction.inputs.shape)
        return accuracy(prediction)

    trainer = FPTTrainer(
        make_model("gpt2", **HEAD_ALONE),
        epochs(tmp_path, eval_strategy="epoch", include_for_metrics=["inputs"]),
        train_dataset=sequences(16),
        eval_dataset=sequences(6, seed=1),
        compute_metrics=metric,
    )
    assert train_and_count(trainer) == 3 * 6  # nothing but the evaluations
    assert seen == [(6, 10, 3)] * 3


# Guards, and what comes after


@pytest.mark.parametrize("place", [0, 15])
def test_wrong_examples_are_refused(place, make_model, tmp_path):
    data = sequences(16)
    data[place]["input_values"][3, 1] = math.nan
    trainer = FPTTrainer(make_model("gpt2", **HEAD_ALONE), epochs(tmp_path), train_dataset=data)
    with pytest.raises(ValueError, match="input_values must be finite"):
        trainer.train()


def test_a_frozen_weight_that_changes_is_told(make_model, tmp_path):
    def change(step, model, optimizer, control):
        if step == 2:
            model.fpt.backbone.h[0].mlp.c_fc.weight.data[0, 0] += 1e-6

    model = make_model("gpt2", **HEAD_ALONE)
    trainer = FPTTrainer(model, epochs(tmp_path), train_dataset=sequences(16), callbacks=[AfterStep(change)])
    with pytest.raises(TrainingError, match=r"frozen weight fpt\.backbone\.h\.0"):
        trainer.train()


def test_after_training_all_is_as_ever(make_model, tmp_path):
    data, model = sequences(20), make_model("gpt2", **HEAD_ALONE)
    trainer = FPTTrainer(
        model, epochs(tmp_path, eval_strategy="epoch"), train_dataset=data, eval_dataset=data, compute_metrics=accuracy
    )
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
    inputs = torch.stack([example["input_values"] for example in data])
    assert np.allclose(loaded(input_values=inputs).logits.detach().numpy(), prediction.predictions, atol=1e-5)
    assert trainer.train_dataset is data and trainer.args.dataloader_drop_last is False


def test_the_time_of_the_features_is_told(make_model, tmp_path, capsys):
    trainer = FPTTrainer(
        make_model("gpt2", **HEAD_ALONE), epochs(tmp_path, disable_tqdm=False), train_dataset=sequences(20)
    )
    metrics = trainer.train().metrics
    assert metrics["train_features_runtime"] > 0
    shown = capsys.readouterr().err
    assert "features: 100%" in shown and "3/3" in shown


# Features that a user keeps


@TRAINERS
@pytest.mark.parametrize(("model_type", "model_class", "fields", "data"), MODELS)
def test_a_head_trains_on_kept_features(trainer_class, model_type, model_class, fields, data, make_model, tmp_path):
    results = []
    for cached in (True, False):
        model = make_model(model_type, model_class, **HEAD_ALONE, **fields)
        rows, held, collator = data(20), data(10, seed=1), pad
        if cached:
            seen = count_examples(model)
            rows, held = (cache_features(model, examples, pad, 8, progress=False) for examples in (rows, held))
            seen.clear()
            collator = pad if trainer_class is FPTTrainer else None  # which would not take features
        args = epochs(tmp_path, eval_strategy="epoch", per_device_eval_batch_size=4)
        more = {} if trainer_class is Trainer else {"cache_features": False}
        trainer = trainer_class(model, args, collator, rows, held, **more)
        trainer.train()
        results.append((losses(trainer), trainer.evaluate()["eval_loss"], copied(model)))
        if cached:
            assert sum(seen) == 0 and len(rows) == 20 and rows[0]["head_inputs"].shape[-1] == 32
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6, rel=1e-5) and len(results[0][0]) == 9
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-6)
    for name, tensor in results[1][2].items():
        torch.testing.assert_close(results[0][2][name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_keeping_features_changes_nothing_else(training, make_model):
    model = make_model("gpt2", **HEAD_ALONE).train(training)
    before, state = copied(model), torch.get_rng_state()
    cache_features(model, sequences(20), batch_size=6, progress=False)
    for data in (Noisy(sequences(20), by_epoch=False), Noisy(sequences(20), by_epoch=True)):
        with pytest.raises(ValueError, match="an augmentation"):
            cache_features(model, data)
    assert model.training is training and data.epoch == 0
    assert_same(copied(model), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("fields", "spoil", "options", "message"),
    [
        ({"trainable": ("norm", "output")}, {}, {}, r"only the head trains: write trainable=\['output'\]"),
        (
            {"input_dropout": 0.1, "output_attentions": True},
            {},
            {},
            r"input_dropout is 0\.1 \(write .*; output_hidden",
        ),
        ({}, {}, {"most_bytes": 2559}, "the features of 20 examples take 2,560 bytes, over the 2,559 allowed"),
        ({}, {"labels": 4}, {}, r"got 4\. This is row 17 of the data set\."),
        (
            {},
            {"input_values": torch.full((10, 3), math.nan)},
            {},
            r"NaN or infinity.* This is row 17 of the data set\.",
        ),
        ({}, {"input_values": torch.zeros(9, 3)}, {}, r"one has 9 where others have 10.* This is row 1[67]"),
    ],
)
def test_what_cannot_be_kept_is_told(fields, spoil, options, message, make_model):
    data = sequences(20)
    data[17] |= spoil
    with pytest.raises(ValueError, match=message):
        cache_features(make_model("gpt2", **(HEAD_ALONE | fields)), data, batch_size=6, progress=False, **options)


def test_features_for_evaluation_may_be_of_a_model_with_dropout(make_model):
    model, rows = make_model("gpt2", **(HEAD_ALONE | {"input_dropout": 0.1})), sequences(10)
    features = cache_features(model, rows, for_training=False, progress=False)
    with torch.no_grad():
        whole = model.eval()(**pad(rows))
        kept = model(**features.batch(range(10)))
    torch.testing.assert_close(kept.logits, whole.logits)
    assert kept.loss == pytest.approx(whole.loss.item())


def test_kept_features_are_refused_where_more_trains(make_model, tmp_path):
    features = cache_features(make_model("gpt2", **HEAD_ALONE), sequences(20), progress=False)
    raw = sequences(20)
    for kept in ({"train_dataset": features}, {"train_dataset": raw, "eval_dataset": features}):
        trainer = FPTTrainer(make_model("gpt2"), epochs(tmp_path), **kept)
        with pytest.raises(ValueError, match="only the head trains, and this one trains more: write trainable="):
            trainer.train()
    with pytest.raises(ValueError, match="this one trains more"):
        trainer.evaluate(features)


def test_a_wrong_label_of_kept_features_is_named(make_model, tmp_path):
    features = cache_features(make_model("gpt2", **HEAD_ALONE), sequences(20), progress=False)
    features.labels[13] = 7
    trainer = FPTTrainer(make_model("gpt2", **HEAD_ALONE), epochs(tmp_path), train_dataset=features)
    with pytest.raises(ValueError, match=r"got 7\. This is row 13 of the training set, by its labels"):
        trainer.train()


def test_resume_on_kept_features_continues_bit_by_bit(make_model, tmp_path):
    features = cache_features(make_model("bert", **HEAD_ALONE), sequences(20), progress=False)

    def make(folder, **kwargs):
        args = epochs(tmp_path / folder, save_strategy="steps", save_steps=4, lr_scheduler_type="linear")
        return FPTTrainer(make_model("bert", **HEAD_ALONE), args, train_dataset=features, **kwargs)

    whole = make("whole")
    whole.train()
    make("halves", callbacks=[stop_after(4)]).train()
    resumed = make("halves")
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 9
    assert_same(copied(resumed.model), copied(whole.model))
    assert len(features) == 20  # theirs, and not thrown away
