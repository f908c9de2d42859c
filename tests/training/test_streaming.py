"""Training from streams: what is seen and when, resume to the bit, processes and workers, tasks and the script."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import load_script, since
from test_distributed import launch
from test_streams import ROWS, source
from test_training import arguments, assert_same, copied, losses, stop_after
from torch.utils.data import IterableDataset

from fpt_adapters import FPTTrainer
from fpt_adapters.data.streams import ExampleStream

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_stream.py"

# Training


def to_example(row, place=None):
    """An example of the fixture's default model whose first number is the row's."""
    generator = torch.Generator().manual_seed(row["x"])
    values = torch.randn(10, 3, generator=generator)
    values[0, 0] = row["x"] / 1000
    return {"input_values": values, "labels": row["x"] % 4}


class Recorder(FPTTrainer):
    """Keeps the rows of each batch that is trained on."""

    def training_step(self, model, inputs, *args):
        self.seen.append([round(1000 * x) for x in inputs["input_values"][:, 0, 0].tolist()])
        return super().training_step(model, inputs, *args)

    seen = property(lambda self: self.__dict__.setdefault("_seen", []))


def examples(**options):
    return ExampleStream(source(), to_example, **({"buffer_size": 6, "seed": 1} | options))


def streamed(folder, **changes):
    changes = {"max_steps": 10, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 3} | changes
    return arguments(folder, lr_scheduler_type="linear", **changes)


def a_datasets_stream():
    return source().map(to_example).shuffle(seed=3, buffer_size=5)


class Once(IterableDataset):
    """A stream that is read once: it has no second start."""

    def __init__(self):
        self.rows = iter(range(40))

    def __iter__(self):
        yield from (to_example({"x": row}) for row in self.rows)


def test_training_takes_every_example_once_an_epoch(make_model, tmp_path):
    trainer = Recorder(make_model("gpt2"), streamed(tmp_path, max_steps=14), train_dataset=examples())
    trainer.train()
    assert list(map(len, trainer.seen)) == [4, 4, 4, 4, 4, 4, 1] * 2
    assert sorted(itertools.chain(*trainer.seen[:7])) == sorted(itertools.chain(*trainer.seen[7:])) == ROWS
    assert trainer.seen[:7] != trainer.seen[7:]


DROPOUT = {"backbone_dropout": 0.2, "input_dropout": 0.1}


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (examples, {}),
        (examples, {"dataloader_num_workers": 2, "gradient_accumulation_steps": 2}),
        (a_datasets_stream, {}),
        (a_datasets_stream, {"dataloader_num_workers": 1, "dataloader_drop_last": True}),
    ],
)
def test_a_resumed_run_sees_what_the_whole_one_saw(make, changes, make_model, tmp_path, warned):
    whole = Recorder(make_model("gpt2", **DROPOUT), streamed(tmp_path / "whole", **changes), train_dataset=make())
    whole.train()
    for step in (3, 9):  # within the first epoch, and in the second
        folder = tmp_path / f"from{step}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        resumed = Recorder(make_model("gpt2", **DROPOUT), streamed(folder, **changes), train_dataset=make())
        resumed.train(resume_from_checkpoint=True)
        done = step * changes.get("gradient_accumulation_steps", 1)
        assert resumed.seen == whole.seen[done:] and len(whole.seen) == 10 * (done // step)
        assert_same(copied(resumed.model), copied(whole.model))
        assert losses(resumed) == losses(whole)
        logged = [[row.get("epoch") for row in t.state.log_history] for t in (resumed, whole)]
        assert logged[0] == logged[1]
    assert [record for record in warned.records if record.name.startswith("fpt_adapters")] == []


def test_without_its_state_a_stream_is_read_again(make_model, tmp_path, warned):
    first = Recorder(make_model("gpt2"), streamed(tmp_path), train_dataset=examples(), callbacks=[stop_after(3)])
    first.train()
    (tmp_path / "checkpoint-3" / "stream_state_0.json").unlink()
    resumed = Recorder(make_model("gpt2"), streamed(tmp_path), train_dataset=examples())
    resumed.train(resume_from_checkpoint=True)
    whole = Recorder(make_model("gpt2"), streamed(tmp_path / "whole"), train_dataset=examples())
    whole.train()
    assert resumed.seen == whole.seen[3:]
    assert_same(copied(resumed.model), copied(whole.model))
    assert "stream_state_0.json is not there: the stream is read from its start" in warned.text


@pytest.fixture
def checkpoint(make_model, tmp_path):
    """A checkpoint of three steps on a stream."""
    stopped = streamed(tmp_path / "first")
    FPTTrainer(make_model("gpt2"), stopped, train_dataset=examples(), callbacks=[stop_after(3)]).train()
    return tmp_path / "first" / "checkpoint-3"


def test_the_state_is_small_and_names_no_path(checkpoint, tmp_path):
    text = (checkpoint / "stream_state_0.json").read_text()
    assert len(text) < 500 and str(tmp_path) not in text
    state = json.loads(text)["state"]
    assert (state["epoch"], state["batches"], state["cursors"][0][0]) == (0, 3, 12)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"buffer_size": 7}, {}, "buffer_size=6 and now it is 7"),
        ({"seed": 2}, {}, "seed=1 and now it is 2"),
        ({}, {"per_device_train_batch_size": 2}, "batch_size=4 and now it is 2"),
        ({}, {"gradient_accumulation_steps": 2}, "stands after 3 batches, but 3 steps of .*=2 are 6"),
    ],
)
def test_resume_refuses_another_stream(options, changes, message, checkpoint, make_model, tmp_path):
    trainer = Recorder(make_model("gpt2"), streamed(tmp_path, **changes), train_dataset=examples(**options))
    with pytest.raises(ValueError, match=message):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.seen == []


def test_data_may_start_anew(checkpoint, make_model, tmp_path):
    anew = streamed(tmp_path, ignore_data_skip=True, max_steps=5)
    trainer = Recorder(make_model("gpt2"), anew, train_dataset=examples(seed=2))
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.seen == taken_rows(examples(seed=2), 2) and trainer.state.global_step == 5


def taken_rows(stream, batches):
    rows = [round(1000 * example["input_values"][0, 0].item()) for example in itertools.islice(stream, 4 * batches)]
    return [rows[start : start + 4] for start in range(0, len(rows), 4)]


def test_a_finished_run_is_not_trained_further(make_model, tmp_path):
    finished = Recorder(make_model("gpt2"), streamed(tmp_path, max_steps=3), train_dataset=examples())
    finished.train()
    again = Recorder(make_model("gpt2"), streamed(tmp_path, max_steps=3), train_dataset=examples())
    again.train(resume_from_checkpoint=True)
    assert again.seen == [] and again.state.global_step == 3
    assert_same(copied(again.model), copied(finished.model))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_check_loses_no_example_of_a_stream_that_is_read_once(num_workers, make_model, tmp_path):
    args = streamed(tmp_path, max_steps=5, dataloader_num_workers=num_workers)
    trainer = Recorder(make_model("gpt2"), args, train_dataset=Once())
    trainer.train()
    assert trainer.seen == [list(range(start, start + 4)) for start in range(0, 20, 4)]


def spoilt(**changes):
    def spoil(row, place):
        return {name: value for name, value in (to_example(row) | changes).items() if value is not None}

    return ExampleStream(source(), spoil)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (spoilt(labels=4), r"labels must lie in 0\.\.3"),
        (spoilt(labels=None), "needs labels to learn from"),
        (spoilt(input_values=None, pixel_values=torch.zeros(3)), "takes input_values, but the data has labels, pixel"),
        (spoilt(input_values=torch.zeros(11, 3)), "11 tokens, but this model was built for at most 10"),
        (ExampleStream(source((0,)), to_example), "no batch of 4 for process 0 of 1: it is empty"),
    ],
)
def test_a_wrong_first_batch_is_refused_before_a_step(stream, message, make_model, tmp_path):
    args = streamed(tmp_path, remove_unused_columns=False)
    trainer = Recorder(make_model("gpt2"), args, train_dataset=stream)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.seen == []


def test_columns_that_the_model_does_not_take_are_left_out(make_model, tmp_path):
    data = source().map(to_example).map(lambda row: {"note": "text", "attention_pattern": [1]})
    trainer = Recorder(make_model("gpt2"), streamed(tmp_path, max_steps=2), train_dataset=data)
    trainer.train()
    assert trainer.seen == [ROWS[:4], ROWS[4:8]]


def test_what_a_stream_cannot_do_is_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match="max_steps"):
        FPTTrainer(make_model("gpt2"), arguments(tmp_path, max_steps=-1), train_dataset=examples())
    model = make_model("gpt2", trainable=["output"], input_dropout=0.0, backbone_dropout=0.0)
    trainer = FPTTrainer(model, streamed(tmp_path), train_dataset=examples(), cache_features=True)
    with pytest.raises(ValueError, match="a stream is not held"):
        trainer.train()


# Processes

STREAMS = load_script(SCRIPT).STREAMS


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes saw of each stream."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(SCRIPT, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", STREAMS)
def test_two_processes_see_every_example_once_an_epoch(name, ranks):
    expected = [100 * shard + row for shard, count in enumerate(STREAMS[name][0]) for row in range(count)]
    runs = [rank[name]["whole"]["seen"] for rank in ranks]
    assert all(run[-1][0] >= 1 and len(run) == 7 for run in runs)  # both are through with the first epoch
    first = [row for run in runs for epoch, rows in run if epoch == 0 for row in rows]
    assert sorted(first) == expected
    assert all(any(epoch == 0 for epoch, _ in run) for run in runs)


@since("5.18", "resume several processes on a CPU")
@pytest.mark.parametrize("name", STREAMS)
def test_two_resumed_processes_go_on_each_where_it_was(name, ranks):
    for rank in ranks:
        assert rank[name]["again"]["seen"] == rank[name]["whole"]["seen"][3:]
    weights = {rank[name][run]["weights"] for rank in ranks for run in ("whole", "again")}
    assert len(weights) == 1


def test_no_process_reads_for_the_other(ranks):
    seen = [[rows for epoch, rows in rank["shards"]["whole"]["seen"] if epoch == 0] for rank in ranks]
    shards = [{row // 100 for rows in batches for row in rows} for batches in seen]
    assert len(shards[0]) == len(shards[1]) == 2 and len(shards[0] & shards[1]) == 1  # three for two processes
