"""Training from streams: what is seen and when, resume to the bit, processes and workers."""

import itertools
import json
import shutil

import pytest
import torch
from conftest import load_script, since
from runs import SCRIPTS, assert_same, copied, losses, own_messages, stop_after, two_processes
from test_streams import ROWS, source
from torch.utils.data import IterableDataset

from fpt_adapters.data.streams import ExampleStream

script = load_script(SCRIPTS / "two_processes.py")
to_example = script.to_example


def examples(**options):
    return ExampleStream(source(), to_example, **({"buffer_size": 6, "seed": 1} | options))


def a_datasets_stream():
    return source().map(to_example).shuffle(seed=3, buffer_size=5)


class Once(IterableDataset):
    """A stream that is read once: it has no second start."""

    def __init__(self):
        self.rows = iter(range(40))

    def __iter__(self):
        yield from (to_example({"x": row}) for row in self.rows)


STREAMED = {
    "trainer_class": script.Recorder,
    "lr_scheduler_type": "linear",
    "max_steps": 10,
    "per_device_train_batch_size": 4,
    "save_steps": 3,
}


@pytest.fixture
def make_streamed(make_trainer):
    """Build a Recorder that takes ten steps of four examples of a stream."""

    def make(stream=None, **changes):
        return make_trainer(**(STREAMED | {"train_dataset": examples() if stream is None else stream} | changes))

    return make


@pytest.fixture
def stream(make_streamed):
    """As `make_streamed`, and train."""

    def make(stream=None, resume=None, **changes):
        trainer = make_streamed(stream, **changes)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return make


def test_training_takes_every_example_once_an_epoch(stream):
    seen = stream(max_steps=14).seen
    assert list(map(len, seen)) == [4, 4, 4, 4, 4, 4, 1] * 2
    assert sorted(itertools.chain(*seen[:7])) == sorted(itertools.chain(*seen[7:])) == ROWS
    assert seen[:7] != seen[7:]


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (examples, {}),
        (examples, {"dataloader_num_workers": 2, "gradient_accumulation_steps": 2}),
        (a_datasets_stream, {}),
        (a_datasets_stream, {"dataloader_num_workers": 1, "dataloader_drop_last": True}),
    ],
)
def test_a_resumed_run_sees_what_the_whole_one_saw(make, changes, stream, make_model, tmp_path, warned):
    def run(folder, **resume):
        model = make_model("gpt2", backbone_dropout=0.2, input_dropout=0.1)
        trainer = stream(make(), model=model, folder=folder, **changes, **resume)
        return trainer, [row.get("epoch") for row in trainer.state.log_history]

    whole, logged = run("whole")
    for step in (3, 9):  # within the first epoch, and in the second
        checkpoint = f"checkpoint-{step}"
        shutil.copytree(tmp_path / "whole" / checkpoint, tmp_path / str(step) / checkpoint)
        resumed, logged_again = run(str(step), resume=True)
        done = step * changes.get("gradient_accumulation_steps", 1)
        assert resumed.seen == whole.seen[done:] and len(whole.seen) == 10 * (done // step)
        assert_same(copied(resumed.model), copied(whole.model))
        assert losses(resumed) == losses(whole) and logged_again == logged
    assert own_messages(warned) == []


@pytest.fixture
def checkpoint(stream, tmp_path):
    """A checkpoint of three steps on a stream."""
    stream(folder="first", callbacks=[stop_after(3)])
    return tmp_path / "first" / "checkpoint-3"


def test_without_its_state_a_stream_is_read_again(checkpoint, stream, warned):
    (checkpoint / "stream_state_0.json").unlink()
    resumed, whole = stream(resume=str(checkpoint)), stream(folder="whole")
    assert resumed.seen == whole.seen[3:]
    assert_same(copied(resumed.model), copied(whole.model))
    assert "stream_state_0.json is not there: the stream is read from its start" in warned.text


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
def test_resume_refuses_another_stream(options, changes, message, checkpoint, make_streamed):
    trainer = make_streamed(examples(**options), **changes)
    with pytest.raises(ValueError, match=message):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.seen == []


def test_data_may_start_anew(checkpoint, stream):
    trainer = stream(examples(seed=2), ignore_data_skip=True, max_steps=5, resume=str(checkpoint))
    rows = [script.row_of(example["input_values"]) for example in itertools.islice(examples(seed=2), 8)]
    assert trainer.seen == [rows[:4], rows[4:]] and trainer.state.global_step == 5


def test_a_finished_run_is_not_trained_further(stream):
    finished, again = stream(max_steps=3), stream(max_steps=3, resume=True)
    assert again.seen == [] and again.state.global_step == 3
    assert_same(copied(again.model), copied(finished.model))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_check_loses_no_example_of_a_stream_that_is_read_once(num_workers, stream):
    trainer = stream(Once(), max_steps=5, dataloader_num_workers=num_workers)
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
def test_a_wrong_first_batch_is_refused_before_a_step(stream, message, make_streamed):
    trainer = make_streamed(stream, remove_unused_columns=False)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.seen == []


def test_columns_that_the_model_does_not_take_are_left_out(stream):
    data = source().map(to_example).map(lambda row: {"note": "text", "attention_pattern": [1]})
    assert stream(data, max_steps=2).seen == [ROWS[:4], ROWS[4:8]]


def test_what_a_stream_cannot_do_is_refused(make_streamed, make_model):
    with pytest.raises(ValueError, match="max_steps"):
        make_streamed(max_steps=-1)
    model = make_model("gpt2", trainable=["output"], input_dropout=0.0, backbone_dropout=0.0)
    trainer = make_streamed(model=model, cache_features=True)
    with pytest.raises(ValueError, match="a stream is not held"):
        trainer.train()


# Processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes saw of each stream."""
    return two_processes(tmp_path_factory.getbasetemp())[1]


EACH_STREAM = pytest.mark.parametrize("name", script.STREAMS)


@EACH_STREAM
def test_two_processes_see_every_example_once_an_epoch(name, ranks):
    expected = [100 * shard + row for shard, count in enumerate(script.STREAMS[name][0]) for row in range(count)]
    runs = [rank[name]["whole"]["seen"] for rank in ranks]
    assert all(run[-1][0] >= 1 and len(run) == 7 for run in runs)  # both are through with the first epoch
    first = [row for run in runs for epoch, rows in run if epoch == 0 for row in rows]
    assert sorted(first) == expected
    assert all(any(epoch == 0 for epoch, _ in run) for run in runs)


@since("5.18", "resume several processes on a CPU")
@EACH_STREAM
def test_two_resumed_processes_go_on_each_where_it_was(name, ranks):
    for rank in ranks:
        assert rank[name]["again"]["seen"] == rank[name]["whole"]["seen"][3:]
    assert len({rank[name][run]["weights"] for rank in ranks for run in ("whole", "again")}) == 1


def test_no_process_reads_for_the_other(ranks):
    seen = [[rows for epoch, rows in rank["shards"]["whole"]["seen"] if epoch == 0] for rank in ranks]
    shards = [{row // 100 for rows in batches for row in rows} for batches in seen]
    assert len(shards[0]) == len(shards[1]) == 2 and len(shards[0] & shards[1]) == 1  # three for two processes
