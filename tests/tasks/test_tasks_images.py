"""Image tasks: pixels as Pillow decodes them, splits that share nothing, augmentation, and what data is refused."""

import io
import json
import math

import datasets
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset
from transformers import HfArgumentParser, Trainer, TrainingArguments
from transformers.image_utils import load_image

from fpt_adapters.tasks.augmentation import Augmentation, crop_flip_rotate
from fpt_adapters.tasks.digits import Digits
from fpt_adapters.tasks.images import Cifar10, Cifar10Lra, Mnist
from fpt_adapters.training.epochs import SetEpoch


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def random_pixels(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encoded(pixels, kind="PNG", mode=None):
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(file, kind)
    return file.getvalue()


def write_parquet(path, images, labels, column="image", feature=None):
    feature = feature or datasets.ClassLabel(names=[f"class {i}" for i in range(10)])
    features = datasets.Features({column: datasets.Image(), "label": feature})
    images = [None if image is None else {"bytes": image, "path": None} for image in images]
    datasets.Dataset.from_dict({column: images, "label": labels}, features=features).to_parquet(path)
    return str(path)


@pytest.fixture
def mnist_file(tmp_path):
    pixels = random_pixels(60, (28, 28))
    path = write_parquet(tmp_path / "mnist.parquet", map(encoded, pixels), [i % 10 for i in range(60)])
    return path, pixels


@pytest.fixture
def cifar_file(tmp_path):
    files = [encoded(image, "JPEG") for image in random_pixels(40, (32, 32, 3))]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    path = write_parquet(tmp_path / "cifar.parquet", files, [i % 10 for i in range(40)], column="img")
    return path, pixels


def stacked(split):
    return torch.stack([example["pixel_values"] for example in split.__getitems__(range(len(split)))])


def test_mnist_pixels_and_labels_are_those_of_the_file(mnist_file, tmp_path):
    path, pixels = mnist_file
    test = write_parquet(tmp_path / "test.parquet", map(encoded, pixels[::-1]), [i % 3 for i in range(60)])
    data = Mnist(train_file=path, validation_file=path, test_file=test).load()
    assert stacked(data.train).dtype == torch.float32
    torch.testing.assert_close(stacked(data.train), torch.from_numpy(pixels)[:, None] / 255)
    torch.testing.assert_close(stacked(data.test), torch.from_numpy(pixels[::-1].copy())[:, None] / 255)
    assert [example["labels"] for example in data.test] == [i % 3 for i in range(60)]
    assert data.config["id2label"][3] == "class 3" and data.config["label2id"]["class 3"] == 3
    assert {key: data.config[key] for key in ("input_type", "image_size", "num_channels", "patch_size")} == {
        "input_type": "images",
        "image_size": 28,
        "num_channels": 1,
        "patch_size": 4,
    }
    assert Mnist().floor(data.test) == pytest.approx(1 / 3)


def test_cifar_is_normalised_per_channel_and_validation_is_not_augmented(cifar_file):
    path, pixels = cifar_file
    data = Cifar10(train_file=path, validation_file=path, test_file=path).load()
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    for channel, (mean, std) in enumerate([(0.4914, 0.2023), (0.4822, 0.1994), (0.4465, 0.2010)]):
        torch.testing.assert_close(
            stacked(data.validation)[:, channel], (expected[:, channel] - mean) / std, atol=1e-5, rtol=1e-5
        )
    assert torch.equal(stacked(data.validation), stacked(data.test))
    assert not torch.equal(stacked(data.validation), stacked(data.train))
    plain = Cifar10(train_file=path, test_file=path, validation_file=path, augment=False).load()
    assert torch.equal(stacked(plain.train), stacked(data.validation))


def test_grey_cifar_is_the_rgb_one_in_pillows_grey(cifar_file):
    path, pixels = cifar_file
    data = Cifar10Lra(train_file=path, validation_file=path, test_file=path).load()
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
    torch.testing.assert_close(stacked(data.test)[:, 0], torch.from_numpy(grey) / 127.5 - 1, atol=1e-6, rtol=1e-6)
    assert data.config["num_channels"] == 1 and data.config["patch_size"] == 1


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_lists_of_pixels_read_as_the_encoded_images_do(ending, tmp_path):
    pixels = random_pixels(12, (32, 32, 3))
    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        rows = {"image": [json.dumps(image.tolist()) for image in pixels], "label": [*range(10), 0, 1]}
        datasets.Dataset.from_dict(rows).to_csv(path)
    elif ending == "parquet":
        datasets.Dataset.from_dict({"image": pixels.tolist(), "label": [*range(10), 0, 1]}).to_parquet(path)
    else:
        lines = [json.dumps({"image": p.tolist(), "label": i % 10}) for i, p in enumerate(pixels)]
        path.write_text("\n".join(lines))
    data = Cifar10(train_file=str(path), validation_file=str(path), test_file=str(path)).load()
    read = data.test.pixels[data.test.rows]
    assert torch.equal(read, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_a_struct_of_bytes_and_path_is_an_image(tmp_path):
    pixels = random_pixels(10, (28, 28))
    Image.fromarray(pixels[1]).save(tmp_path / "one.png")
    structs = [{"bytes": encoded(image), "path": None} for image in pixels]
    structs[1] = {"bytes": None, "path": str(tmp_path / "one.png")}
    path = str(tmp_path / "structs.parquet")
    datasets.Dataset.from_dict({"image": structs, "label": list(range(10))}).to_parquet(path)
    data = Mnist(train_file=path, validation_file=path, test_file=path).load()
    assert torch.equal(data.train.pixels[:, 0], torch.from_numpy(pixels))


@pytest.mark.parametrize("form", ["image", "struct", "path"])
def test_photographs_are_turned_upright_as_a_pipeline_does(form, tmp_path):
    files, upright = [], []
    for orientation, pixels in enumerate(random_pixels(9, (28, 28))):  # 0: none is written
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        files.append(tmp_path / f"{orientation}.png")
        Image.fromarray(pixels).save(files[-1], exif=exif if orientation else None)
        upright.append(np.asarray(load_image(str(files[-1])).convert("L")))
    path = str(tmp_path / "rows.parquet")
    if form == "image":
        write_parquet(path, [file.read_bytes() for file in files], [*range(9)])
    else:
        structs = [
            {"bytes": None, "path": str(f)} if form == "path" else {"bytes": f.read_bytes(), "path": None}
            for f in files
        ]
        datasets.Dataset.from_dict({"image": structs, "label": [*range(9)]}).to_parquet(path)
    task = Mnist(train_file=path, validation_file=path, test_file=path)
    expected = torch.from_numpy(np.stack(upright))[:, None] / 255
    torch.testing.assert_close(stacked(task.load().test), expected)
    if form == "image":
        streamed = {row["labels"]: row["pixel_values"] for row in task.stream(buffer_size=None).train}
        torch.testing.assert_close(torch.stack([streamed[label] for label in range(9)]), expected)


def test_held_out_parts_cover_the_training_rows_once(mnist_file, caplog):
    path, pixels = mnist_file
    rows = {}
    for seed in (0, 1):
        data = Mnist(train_file=path, validation_share=0.2).load(seed=seed)
        parts = [data.train.rows, data.validation.rows, data.test.rows]
        assert [len(part) for part in parts] == [36, 12, 12]
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(60))
        for split in (data.train, data.validation, data.test):
            assert (split.labels == split.rows.numpy() % 10).all()
            assert torch.equal(split.pixels[split.rows, 0], torch.from_numpy(pixels)[split.rows])
        rows[seed] = parts
    assert "the test figure is on 12 rows held out" in caplog.text
    assert torch.equal(rows[0][2], rows[1][2])
    assert not torch.equal(rows[0][1], rows[1][1])


def test_given_test_and_validation_files_are_not_cut(mnist_file):
    path, _ = mnist_file
    data = Mnist(train_file=path, test_file=path, validation_examples=7).load()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [53, 7, 60]
    data = Mnist(train_file=path, validation_file=path, validation_examples=7).load()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [53, 60, 7]


def test_max_samples_keeps_seeded_rows_and_leaves_the_others_undecoded(tmp_path):
    files = [encoded(image) for image in random_pixels(60, (28, 28))]
    kept = Mnist(train_file=write_parquet(tmp_path / "good.parquet", files, [0] * 60))
    limits = {"train": 8, "validation": 2, "test": 3}
    first, again, other = (kept.load(seed, limits) for seed in (0, 0, 1))
    assert [len(split) for split in (first.train, first.validation, first.test)] == [8, 2, 3]
    assert torch.equal(stacked(first.train), stacked(again.train))
    assert not torch.equal(stacked(first.train), stacked(other.train))
    whole = kept.load(0)
    decoded = {tuple(image.flatten().tolist()) for image in stacked(whole.train)}
    assert {tuple(image.flatten().tolist()) for image in stacked(first.train)} <= decoded
    assert len(first.train.pixels) == 13


def test_the_hub_is_read_only_without_files(mnist_file, monkeypatch):
    path, _ = mnist_file
    rows = datasets.load_dataset("parquet", data_files=path, split="train")
    hub = datasets.DatasetDict({"train": rows, "valid": rows.select(range(20)), "test": rows.select(range(30))})
    asked = []

    def load_dataset(name, *args, **kwargs):
        asked.append((name, args, kwargs))
        return hub

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    Mnist(train_file=path).load()
    assert not asked
    data = Mnist(dataset_revision="abc").load()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [60, 20, 30]
    assert asked == [("ylecun/mnist", (None,), {"revision": "abc"})]

    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'ylecun/mnist' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"'ylecun/mnist' could not be loaded .*reach.*\): write --train_file"):
        Mnist().load()
    hub.pop("train")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="called train is needed, but 'ylecun/mnist' has valid, test: "):
        Mnist().load()


# Augmentation


def test_no_change_asked_for_is_no_change():
    pixels = torch.from_numpy(random_pixels(3, (3, 32, 32)))
    still = crop_flip_rotate(pixels, torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3).bool(), torch.zeros(3))
    assert torch.equal(still, pixels) and still.dtype == torch.uint8


def test_a_flip_mirrors_the_columns():
    pixels = torch.from_numpy(random_pixels(2, (3, 8, 12)))
    flipped = crop_flip_rotate(
        pixels, torch.zeros(2, 2, dtype=torch.int64), torch.tensor([True, False]), torch.zeros(2)
    )
    assert torch.equal(flipped[0], pixels[0].flip(-1))
    assert torch.equal(flipped[1], pixels[1])


def test_a_shift_is_a_crop_of_the_padded_image():
    pixels = torch.from_numpy(random_pixels(81, (1, 10, 10)))
    crops = torch.cartesian_prod(torch.arange(-4, 5), torch.arange(-4, 5))
    shifted = crop_flip_rotate(pixels, crops, torch.zeros(81).bool(), torch.zeros(81))
    for image, (down, right), padded in zip(
        shifted, crops, torch.nn.functional.pad(pixels, (4, 4, 4, 4)), strict=True
    ):
        assert torch.equal(image, padded[:, 4 + down : 14 + down, 4 + right : 14 + right])


def test_a_quarter_turn_is_exact_and_other_angles_are_pillows():
    pixels = torch.from_numpy(random_pixels(2, (1, 32, 32)))
    nothing = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2).bool()
    turned = crop_flip_rotate(pixels, *nothing, torch.tensor([90.0, -90.0]))
    assert torch.equal(turned[0], torch.rot90(pixels[0], 1, (1, 2)))
    assert torch.equal(turned[1], torch.rot90(pixels[1], -1, (1, 2)))
    turned = crop_flip_rotate(pixels, *nothing, torch.tensor([13.7, -8.1]))
    for image, original, angle in zip(turned, pixels, (13.7, -8.1), strict=True):
        expected = np.asarray(Image.fromarray(original[0].numpy()).rotate(angle, Image.Resampling.NEAREST))
        assert (image[0].numpy() == expected).mean() > 0.99


def test_all_three_at_once_are_crop_then_flip_then_rotation():
    pixels = torch.from_numpy(random_pixels(4, (3, 32, 32))) | 1  # black is padding alone
    crops, flips = torch.tensor([[4, -4], [0, 3], [-2, 2], [1, 0]]), torch.tensor([True, False, True, True])
    angles = torch.tensor([20.0, -20.0, 5.5, 11.0])
    no_crop, no_flip, no_angle = torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4).bool(), torch.zeros(4)
    steps = crop_flip_rotate(pixels, crops, no_flip, no_angle)
    steps = crop_flip_rotate(steps, no_crop, flips, no_angle)
    steps = crop_flip_rotate(steps, no_crop, no_flip, angles)
    assert torch.equal(crop_flip_rotate(pixels, crops, flips, angles), steps)


def test_what_is_drawn_is_uniform_and_follows_seed_epoch_and_example():
    augmentation = Augmentation(padding=4, flip=True, degrees=20)
    crops, flips, angles = augmentation.draw(0, 0, range(4000))
    assert crops.unique().tolist() == list(range(-4, 5)) and crops.double().mean().abs() < 0.15
    assert abs(flips.double().mean() - 0.5) < 0.05
    assert angles.abs().max() <= 20 and angles.abs().max() > 19.5
    assert angles.std().item() == pytest.approx(40 / math.sqrt(12), rel=0.05)
    for seed, epoch, examples in ((1, 0, range(4000)), (0, 1, range(4000)), (0, 0, range(4000, 8000))):
        assert (augmentation.draw(seed, epoch, examples)[2] == angles).sum() == 0
    assert not Augmentation(padding=0, flip=False, degrees=0).draw(0, 0, range(50))[1].any()


def test_augmentation_depends_on_no_batch_worker_or_subset(cifar_file):
    task = Cifar10(train_file=cifar_file[0])
    train = task.load(seed=3).train
    alone = [train[i]["pixel_values"] for i in range(len(train))]
    backwards = train.__getitems__(range(len(train) - 1, -1, -1))[::-1]
    assert all(torch.equal(a, b["pixel_values"]) for a, b in zip(alone, backwards, strict=True))
    loader = DataLoader(train, batch_size=5, num_workers=2, collate_fn=task.collate)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), torch.stack(alone))
    subset = Subset(train, [7, 2, 5])
    batch = next(iter(DataLoader(subset, batch_size=3, collate_fn=task.collate)))
    assert torch.equal(batch["pixel_values"], torch.stack([alone[i] for i in (7, 2, 5)]))
    assert batch["labels"].tolist() == [int(train.labels[i]) for i in (7, 2, 5)]
    assert task.floor(subset) == max(np.bincount(train.labels[[7, 2, 5]])) / 3
    again, other = task.load(seed=3).train, task.load(seed=4).train
    assert torch.equal(stacked(again), torch.stack(alone))
    same = Cifar10(train_file=cifar_file[0]).load(seed=3).train
    same.seed = 4
    assert not torch.equal(stacked(same), torch.stack(alone)) and other.seed == 4


def test_each_epoch_augments_anew_in_workers_that_live_on(cifar_file):
    task = Cifar10(train_file=cifar_file[0])
    train = task.load().train
    epochs = {}
    for epoch in (0, 1, 0):
        train.set_epoch(epoch)
        assert torch.equal(epochs.setdefault(epoch, stacked(train)), stacked(train))
    assert not torch.equal(epochs[0], epochs[1])
    loader = DataLoader(train, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=task.collate)
    for epoch in (0, 1):
        train.set_epoch(epoch)
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), epochs[epoch])


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3 * 32 * 32, 10)

    def forward(self, pixel_values, labels):
        logits = self.linear(pixel_values.flatten(1))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_set_epoch_is_told_after_a_resume_and_through_a_subset(cifar_file, tmp_path, monkeypatch):
    task = Cifar10(train_file=cifar_file[0])
    train = task.load().train
    seen = []
    make = type(train).__getitems__
    monkeypatch.setattr(type(train), "__getitems__", lambda self, i: seen.append(self.epoch) or make(self, i))
    arguments = TrainingArguments(
        str(tmp_path / "run"), per_device_train_batch_size=8, num_train_epochs=3, save_steps=3, report_to=[],
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    for resume, expected in ((None, [0, 0, 1, 1, 2, 2]), (str(tmp_path / "run" / "checkpoint-3"), [1, 2, 2])):
        seen.clear()
        train.set_epoch(0)
        trainer = Trainer(
            Linear(),
            arguments,
            train_dataset=Subset(train, range(16)),
            data_collator=task.collate,
            callbacks=[SetEpoch(train)],
        )
        trainer.train(resume_from_checkpoint=resume)
        assert seen == expected


# Digits


def test_digits_need_no_file_and_split_once():
    task = Digits()
    data, other = task.load(seed=0), task.load(seed=5)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [1197, 300, 300]
    assert torch.cat([split.rows for split in splits]).unique().numel() == 1797
    assert torch.equal(data.train.rows, other.train.rows)
    values = torch.cat([stacked(split) for split in splits])
    assert values.shape == (1797, 1, 8, 8)
    assert abs(values.mean()) < 1e-3 and abs(values.std() - 1) < 1e-3
    assert task.floor(data.test) < 0.15
    small = task.load(seed=1, max_samples={"train": 50})
    assert len(small.train) == 50 and len(small.test) == 300
    assert set(small.train.rows.tolist()) <= set(data.train.rows.tolist())


def test_digits_are_grey_images_of_8_bits_as_others_are():
    pixels = Digits().load().train.pixels
    assert pixels.dtype == torch.uint8 and pixels.shape == (1797, 1, 8, 8)
    assert pixels.unique().tolist() == [round(level * 255 / 16) for level in range(17)]
    np.testing.assert_array_equal((pixels[:, 0] / 255 * 16).round(), load_digits().images)


def test_every_field_is_a_flag():
    task = HfArgumentParser(Cifar10).parse_args_into_dataclasses(
        ["--train_file", "a.csv", "--augment", "false", "--patch_size", "8", "--validation_examples", "5"]
    )[0]
    assert task == Cifar10(train_file="a.csv", augment=False, patch_size=8, validation_examples=5)


# What is refused


def parquet(tmp_path, images, labels=None, **options):
    return write_parquet(tmp_path / "rows.parquet", images, labels or [0] * len(images), **options)


def test_refuses_arguments_out_of_range():
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match=f"validation_share lies above 0 and below 1, got {share}"):
            Mnist(validation_share=share)
    with pytest.raises(ValueError, match="validation_examples is a whole number of at least 1, got 0"):
        Mnist(validation_examples=0)


def test_refuses_files_that_are_not_there_or_not_readable(tmp_path):
    with pytest.raises(ValueError, match=r"train_file is a file, but 'no.parquet' is not there: write --train_file"):
        Mnist(train_file="no.parquet").load()
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(ValueError, match=r"train_file ends in one of .parquet, .csv, .json, .jsonl, got .*rows.txt"):
        Mnist(train_file=str(tmp_path / "rows.txt")).load()
    (tmp_path / "bad.parquet").write_text("this is no parquet")
    with pytest.raises(ValueError, match=r"train_file '.*bad.parquet' cannot be read as parquet: \w+"):
        Mnist(train_file=str(tmp_path / "bad.parquet")).load()
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"the train split \(.*empty.csv\) is an empty file"):
        Mnist(train_file=str(tmp_path / "empty.csv")).load()
    (tmp_path / "header.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match=r"the train split \(.*header.csv\) has no rows"):
        Mnist(train_file=str(tmp_path / "header.csv")).load()
    rows = datasets.Dataset.from_dict({"image": [], "label": []})
    rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"the train split \(.*rows.parquet\) has no rows"):
        Mnist(train_file=str(tmp_path / "rows.parquet")).load()
    with pytest.raises(ValueError, match=r"but only --test_file a.csv came: write --train_file"):
        Mnist(test_file="a.csv").load()
    with pytest.raises(ValueError, match="no data was named: write --train_file"):
        Mnist(dataset_name=None).load()


def test_refuses_columns_that_are_not_there(mnist_file, tmp_path):
    path, _ = mnist_file
    with pytest.raises(
        ValueError, match=r"the train split \(.*\) has no column 'digit' but image, label: .*--label_c"
    ):
        Mnist(train_file=path, label_column="digit").load()
    with pytest.raises(ValueError, match=r"has no column 'photo' but image, label: write one of these as --image_col"):
        Mnist(train_file=path, image_column="photo").load()
    other = parquet(tmp_path, [encoded(random_pixels(1, (28, 28))[0])], column="digit_image")
    with pytest.raises(ValueError, match=r"the test split \(.*\) has no column 'image' but digit_image, label"):
        Mnist(train_file=path, test_file=other).load()
    rows = datasets.Dataset.from_dict({"left": ["[[0]]"], "right": ["[[0]]"], "label": [0]})
    rows.to_csv(tmp_path / "two.csv")
    with pytest.raises(ValueError, match=r"no column that looks right for image_column; its columns are left, right,"):
        Mnist(train_file=str(tmp_path / "two.csv"), test_file=path, validation_file=path).load()


def test_refuses_to_hold_out_all_rows(tmp_path):
    path = parquet(tmp_path, [encoded(image) for image in random_pixels(5, (28, 28))])
    with pytest.raises(ValueError, match=r"5 rows of the train split .* held out for test, but it has 5 left"):
        Mnist(train_file=path, validation_examples=5).load()
    with pytest.raises(ValueError, match=r"max_samples takes the splits train, validation, test; got 'dev'"):
        Mnist(train_file=path).load(max_samples={"dev": 1})


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, 1, 11], datasets.Value("int64"), r"lie in 0..9, but row 2 of the train split \(.*rows.parquet\) has 11"),
        ([0, -1, 1], datasets.Value("int64"), r"lie in 0..9, but row 1 of the train split .* has -1"),
        (
            [0, 1, None],
            datasets.Value("int64"),
            r"needs a label, but row 2 of the train split .* none in column 'label'",
        ),
        ([0.5, 1, 2], datasets.Value("float64"), r"whole numbers or strings, but row 0 .* has 0.5 \(double\)"),
        ([1.0, 0, 2], datasets.Value("float32"), r"has 1.0 \(float\) in column 'label': write whole numbers, or name"),
        ([True, False, True], datasets.Value("bool"), r"has 10 classes, but column 'label' .* has 2"),
        ([0, 1, 2], datasets.ClassLabel(names=["a", "b", "c"]), r"has 10 classes, but column 'label' .* has 3"),
    ],
)
def test_refuses_labels(labels, feature, message, tmp_path):
    path = parquet(tmp_path, [encoded(image) for image in random_pixels(3, (28, 28))], labels, feature=feature)
    with pytest.raises(ValueError, match=message):
        Mnist(train_file=path).load()


IMAGE = random_pixels(1, (28, 28))[0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "an image is missing"),
        (b"no image at all", "an image cannot be decoded"),
        (encoded(random_pixels(1, (28, 28))[0])[:200], "an image cannot be decoded"),
        (encoded(random_pixels(1, (20, 28))[0]), r"images here are 28 x 28 pixels .*, but one has 28 x 20: resize"),
        (
            encoded(np.full((28, 28), 4000, np.uint16)),
            r"8 bits a pixel, .* mode I;16: .* largest value in place of 65535",
        ),
        (
            encoded(np.full((28, 28), 0.5, np.float32), "TIFF"),
            r"8 bits a pixel, but one has mode F: convert it by the r",
        ),
        (encoded(random_pixels(1, (28, 28, 3))[0]), r"mode L \(1 channels .*, but one has mode RGB: .*convert\('L'\)"),
    ],
)
def test_refuses_images(image, message, tmp_path):
    path = parquet(tmp_path, [encoded(IMAGE), encoded(IMAGE), image, encoded(IMAGE)])
    with pytest.raises(
        ValueError, match=rf"{message}.* This is column 'image', row 2 of the train split \(.*rows.parq"
    ):
        Mnist(train_file=path, validation_examples=1).load()


def test_names_the_row_of_the_file_even_where_rows_were_left_out(tmp_path):
    path = parquet(tmp_path, [encoded(IMAGE)] * 20 + [b"broken"] + [encoded(IMAGE)] * 9)
    found = set()
    for seed in range(12):
        try:
            Mnist(train_file=path).load(seed=seed, max_samples={"train": 5, "validation": 1, "test": 1})
        except ValueError as error:
            found.add("row 20 of" in str(error))
    assert found == {True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: [[float("nan"), *image[0][1:]], *image[1:]], "whole numbers in 0..255, but one is nan"),
        (lambda image: [[float("inf"), *image[0][1:]], *image[1:]], "whole numbers in 0..255, but one is inf"),
        (lambda image: [[256, *image[0][1:]], *image[1:]], "whole numbers in 0..255, but one is 256"),
        (lambda image: [[0.5, *image[0][1:]], *image[1:]], "whole numbers in 0..255, but one is 0.5"),
        (
            lambda image: [[1.0] * 28] * 28,
            r"floats ends at 1 or below, and would be read as black: write \(image \* 255",
        ),
        (lambda image: [image[0][1:], *image[1:]], "rows need one length and numbers only"),
        (lambda image: image[1:], "images here are 28 x 28 pixels .*, but one has 28 x 27"),
        (lambda image: image[0], r"lists of pixels are .*, but one has the shape \[28\]"),
        (lambda image: [[[1, 2]] * 28] * 28, r"lists of pixels are .*, but one has the shape \[28, 28, 2\]"),
    ],
)
def test_refuses_lists_of_pixels(change, message, tmp_path):
    images = [IMAGE.tolist(), IMAGE.tolist(), change(IMAGE.tolist()), IMAGE.tolist()]
    rows = {"image": [json.dumps(image) for image in images], "label": [0] * 4}
    datasets.Dataset.from_dict(rows).to_csv(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=rf"{message}.* row 2 of the train split"):
        Mnist(train_file=str(tmp_path / "rows.csv"), validation_examples=1).load()


def test_refuses_text_that_is_no_image(tmp_path):
    datasets.Dataset.from_dict({"image": ["one.png"] * 3, "label": [0] * 3}).to_csv(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=r"text that holds an image is JSON, .*'one.png'.* row 0 of"):
        Mnist(train_file=str(tmp_path / "rows.csv")).load()


def test_an_image_has_no_example_outside_its_split(mnist_file):
    train = Mnist(train_file=mnist_file[0]).load().train
    for index in (-1, len(train)):
        with pytest.raises(IndexError, match=f"examples 0..{len(train) - 1}, got {index}"):
            train[index]
