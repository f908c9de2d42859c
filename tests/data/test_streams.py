"""Streams and their batches: who reads which example, in what order, and what follows any place."""

import itertools
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from fpt_adapters.data.streams import RESHARDS, ExampleStream, HeldOut, Place, share_of_shards
from fpt_adapters.training.resumable_batches import BatchStream, StreamState

SHARDS = (7, 5, 9, 4)  # rows of each
ROWS = [100 * shard + row for shard, count in enumerate(SHARDS) for row in range(count)]
READ = []  # the shards that rows were read of in this process, in order


def rows_of(shards):
    for shard, count in shards:
        for row in range(count):
            READ.append(shard)
            yield {"x": 100 * shard + row}


def source(counts=SHARDS):
    """A stream of `datasets` in which row r of shard s is {"x": 100 s + r}."""
    features = datasets.Features({"x": datasets.Value("int64")})
    return datasets.IterableDataset.from_generator(
        rows_of, gen_kwargs={"shards": list(enumerate(counts))}, features=features
    )


def numbers(examples):
    return [example["x"] for example in examples]


class Numbers(IterableDataset):
    """A stream of torch, as users write it for several workers: each gives its share."""

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from ({"x": row} for row in ROWS[start::step])


# Parts


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 8, 30])
def test_parts_share_every_row_class_and_touch_few_shards(num_shards, num_parts):
    shares = [share_of_shards(num_shards, part, num_parts) for part in range(num_parts)]
    given = [(position, row) for share in shares for position, classes in share for row in classes]
    assert sorted(given) == list(itertools.product(range(num_shards), range(num_parts)))
    assert len({sum(len(classes) for _, classes in share) for share in shares}) == 1
    assert max(map(len, shares)) <= -(-num_shards // num_parts) + 1


@pytest.mark.parametrize("buffer_size", [None, 1, 4, 100])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
@pytest.mark.parametrize("make", [source, Numbers])
def test_together_the_parts_have_each_row_once_an_epoch(make, num_parts, buffer_size):
    stream = ExampleStream(make(), buffer_size=buffer_size)
    for epoch in (0, 1):
        parts = [[example for example, _ in stream.read(part, num_parts, epoch)] for part in range(num_parts)]
        assert sorted(numbers(itertools.chain(*parts))) == ROWS
        assert all(parts)


@pytest.mark.parametrize("buffer_size", [None, 1, 4, 100])
@pytest.mark.parametrize("num_parts", [1, 3])
def test_a_part_goes_on_behind_any_of_its_examples(num_parts, buffer_size):
    stream = ExampleStream(source(), buffer_size=buffer_size, held_out=HeldOut(2, 1))
    whole = list(stream.read(num_parts - 1, num_parts, 3))
    for place, (_, cursor) in enumerate(whole):
        assert list(stream.read(num_parts - 1, num_parts, 3, cursor)) == whole[place + 1 :]


def test_only_the_shards_that_are_needed_are_opened():
    READ.clear()
    assert numbers(example for example, _ in ExampleStream(source()).read(1, 2, 0)) == ROWS[-13:]
    assert set(READ) == {2, 3}
    READ.clear()
    stream = ExampleStream(source(), buffer_size=3)
    *_, (_, cursor) = itertools.islice(stream.read(0, 1, 0), 20)
    done, READ[:] = list(dict.fromkeys(READ)), []
    assert len(list(stream.read(0, 1, 0, cursor))) == 5
    assert len(done) >= 3 and not set(READ) & set(done[:2])


def test_a_buffer_shuffles_shards_and_rows_by_seed_and_epoch():
    def order(epoch, **options):
        return numbers(example for example, _ in ExampleStream(source(), **options).read(0, 1, epoch))

    assert order(0) == order(1) == ROWS
    shuffled = order(0, buffer_size=6, seed=1)
    assert order(0, buffer_size=6, seed=1) == shuffled
    others = [order(1, buffer_size=6, seed=1), order(0, buffer_size=6, seed=2), order(0, buffer_size=7, seed=1), ROWS]
    assert all(other != shuffled and sorted(other) == ROWS for other in others)
    assert len({order(epoch, buffer_size=1)[0] // 100 for epoch in range(20)}) == 4  # only shards


def test_a_row_is_never_far_from_its_place():
    straight = ExampleStream(source((40,)), buffer_size=8)
    assert all(abs(place - row) < 8 for place, row in enumerate(numbers(straight)))


def test_a_transform_gets_the_place():
    stream = ExampleStream(source(), lambda row, place: (row["x"], place), held_out=HeldOut(1, 2))
    examples = [example for example, _ in stream.read(0, 1, 5)]
    assert examples[0] == (2, Place(5, 0, 2)) and (300, Place(5, 3, 0)) in examples
    assert [x for x, _ in examples] == ROWS[2:]
    places = [place.number for _, place in examples]
    assert len(set(places)) == len(places) and all(0 <= number < 2**32 for number in places)


@pytest.mark.skipif(not RESHARDS, reason="older versions of datasets do not divide a parquet file")
def test_a_slow_reader_holds_a_row_group_and_not_the_file(tmp_path):
    rows = [np.random.default_rng(row).bytes(20_000) for row in range(1000)]  # 20 MB in 50 row groups
    pq.write_table(pa.table({"x": rows}), tmp_path / "rows.parquet", row_group_size=20)
    source = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", streaming=True)
    del rows
    before, most, seen = pa.total_allocated_bytes(), 0, []
    for number, row in enumerate(ExampleStream(source)):
        seen.append(row["x"][:8])
        if number % 20 == 0:
            time.sleep(0.01)  # in which a reader that runs ahead would do so
            most = max(most, pa.total_allocated_bytes() - before)
    assert seen == [np.random.default_rng(row).bytes(20_000)[:8] for row in range(1000)]
    assert most < 4_000_000


@pytest.mark.parametrize("options", [{"buffer_size": 0}, {"seed": -1}, {"seed": 2**64}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ExampleStream(source(), **options)


def test_rows_as_tables_are_refused():
    with pytest.raises(ValueError, match="rows of a stream are dictionaries, got a Table"):
        next(iter(ExampleStream(source().with_format("arrow"))))


def test_a_plain_loader_divides_a_stream_among_its_workers():
    loader = DataLoader(ExampleStream(source(), buffer_size=4), batch_size=None, num_workers=2)
    assert sorted(numbers(loader)) == ROWS


def test_a_plain_loader_cannot_divide_a_stream_of_torch():
    batches = iter(DataLoader(ExampleStream(Numbers()), num_workers=2))
    with pytest.raises(ValueError, match="read by one worker, not 2"):
        next(batches)
    batches._shutdown_workers()  # else it is done when garbage is collected, which waits for them


# Batches


def collate(rows):
    return {"x": torch.tensor(numbers(rows))}


def batch_stream(make=source, **options):
    return BatchStream(ExampleStream(make(), buffer_size=4), collate, 4, **options)


def taken(batches, count):
    """The next batches as lists; what is empty stays so."""
    return [batch and batch["x"].tolist() for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("make", [source, Numbers])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_has_each_example_once_and_the_next_follows(make, num_workers):
    batches = batch_stream(make, num_workers=num_workers)
    seen, epochs = [], []
    for batch in itertools.takewhile(lambda _: batches.state.epoch < 2, batches):
        seen.append(batch["x"].tolist())
        epochs.append(batches.state.epoch)
    batches.close()
    for epoch in (0, 1):
        assert sorted(itertools.chain(*[b for b, e in zip(seen, epochs, strict=True) if e == epoch])) == ROWS
    assert seen[: len(seen) // 2] != seen[len(seen) // 2 :]


def test_no_batch_is_short_with_drop_last():
    batches = batch_stream(drop_last=True)
    assert {len(batch) for batch in taken(batches, 20)} == {4}
    assert batches.state.epoch == 3  # of six batches each, not seven


@pytest.mark.parametrize("make", [source, Numbers])
@pytest.mark.parametrize(("num_workers", "stops"), [(0, range(1, 15)), (2, [1, 4, 7, 9])])
def test_batches_go_on_from_a_state(make, num_workers, stops, tmp_path):
    whole = batch_stream(make, num_workers=num_workers)
    expected = taken(whole, 15)
    whole.close()
    for stop in stops:
        stopped = batch_stream(make, num_workers=num_workers)
        taken(stopped, stop)
        stopped.save(tmp_path / "state.json")
        stopped.close()
        again = batch_stream(make, num_workers=num_workers)
        again.load(tmp_path / "state.json")
        assert taken(again, 15) == [{}] * stop + expected[stop:]
        again.close()


def test_a_look_at_the_first_batch_takes_nothing():
    batches = batch_stream()
    first = batches.peek()["x"].tolist()
    assert batches.state == StreamState(cursors=batches.state.cursors) and batches.peek()["x"].tolist() == first
    assert taken(batches, 3) == taken(batch_stream(), 3) and first == taken(batch_stream(), 1)[0]


@pytest.mark.parametrize("options", [{"num_processes": 2}, {"num_workers": 2}, {"drop_last": True}])
def test_a_state_of_other_settings_is_refused(options, tmp_path):
    batch_stream().save(tmp_path / "state.json")
    with pytest.raises(ValueError, match=rf"written with {next(iter(options))}=\w+ and now it is"):
        batch_stream(**options).load(tmp_path / "state.json")
    batch_stream(num_workers=1).load(tmp_path / "state.json")  # reads as none does


def test_a_share_without_an_example_is_refused():
    few = BatchStream(ExampleStream(source((1,))), collate, 4, process_index=1, num_processes=2)
    with pytest.raises(ValueError, match="no batch of 4 for process 1 of 2: it is empty, or too short"):
        few.peek()
