"""Image tasks: pixels as Pillow decodes them, splits that share nothing, augmentation, and what data is refused."""

import io
import json
import math
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from data_files import BOOL, INTEGER, encoded, image_rows, random_pixels, write
from PIL import ExifTags, Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainingArguments
from transformers.image_utils import load_image

from fpt_adapters.tasks.augmentation import Augmentation, crop_flip_rotate
from fpt_adapters.tasks.digits import Digits
from fpt_adapters.tasks.images import Cifar10, Cifar10Lra, Mnist
from fpt_adapters.training.epochs import SetEpoch

pytestmark = pytest.mark.usefixtures("quiet")
IMAGES = random_pixels(60, (28, 28))


@pytest.fixture
def mnist_file(tmp_path):
    return write(tmp_path / "mnist.parquet", image_rows(IMAGES))


@pytest.fixture
def cifar_file(tmp_path):
    """The path of a file of forty JPEGs, and their pixels."""
    files = [encoded(image, "JPEG") for image in random_pixels(40, (32, 32, 3))]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    return write(tmp_path / "cifar.parquet", image_rows(files, column="img")), pixels


def whole(task_class, path, **options):
    """A task whose three splits are all rows of one file."""
    return task_class(train_file=path, validation_file=path, test_file=path, **options)


def stacked(split):
    return torch.stack([example["pixel_values"] for example in split.__getitems__(range(len(split)))])


def sizes(data):
    return len(data.train), len(data.validation), len(data.test)


def test_mnist_pixels_and_labels_are_those_of_the_file(mnist_file, tmp_path):
    labels = [i % 3 for i in range(60)]
    test = write(tmp_path / "test.parquet", image_rows(IMAGES[::-1], labels))
    data = Mnist(train_file=mnist_file, validation_file=mnist_file, test_file=test).load()
    torch.testing.assert_close(stacked(data.train), torch.from_numpy(IMAGES)[:, None] / 255)
    torch.testing.assert_close(stacked(data.test), torch.from_numpy(IMAGES[::-1].copy())[:, None] / 255)
    assert [example["labels"] for example in data.test] == labels
    assert data.config["id2label"][3] == "class 3" and data.config["label2id"]["class 3"] == 3
    wanted = {"input_type": "images", "image_size": 28, "num_channels": 1, "patch_size": 4}
    assert data.config.items() >= wanted.items()
    assert Mnist().floor(data.test) == pytest.approx(1 / 3)


def test_cifar_is_normalised_per_channel_and_validation_is_not_augmented(cifar_file):
    path, pixels = cifar_file
    data = whole(Cifar10, path).load()
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    expected = torch.from_numpy((pixels / 255 - mean) / std).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(stacked(data.validation), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(stacked(data.validation), stacked(data.test))
    assert not torch.equal(stacked(data.validation), stacked(data.train))
    assert torch.equal(stacked(whole(Cifar10, path, augment=False).load().train), stacked(data.validation))


def test_grey_cifar_is_the_rgb_one_in_pillows_grey(cifar_file):
    path, pixels = cifar_file
    data = whole(Cifar10Lra, path).load()
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
    torch.testing.assert_close(stacked(data.test)[:, 0], torch.from_numpy(grey) / 127.5 - 1, atol=1e-6, rtol=1e-6)
    assert data.config["num_channels"] == 1 and data.config["patch_size"] == 1


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_lists_of_pixels_read_as_the_encoded_images_do(ending, tmp_path):
    pixels = random_pixels(12, (32, 32, 3))
    lists = [json.dumps(image.tolist()) for image in pixels] if ending == "csv" else pixels.tolist()
    path = write(tmp_path / f"rows.{ending}", {"image": lists, "label": [*range(10), 0, 1]})
    test = whole(Cifar10, path).load().test
    assert torch.equal(test.pixels[test.rows], torch.from_numpy(pixels).permute(0, 3, 1, 2))


@pytest.mark.parametrize("form", ["image", "struct, even ones as paths", "struct, odd ones as paths"])
def test_photographs_are_turned_upright_as_a_pipeline_does(form, tmp_path):
    files = [tmp_path / f"{orientation}.png" for orientation in range(9)]  # 0: none is written
    structs, upright = [], []
    for orientation, file in enumerate(files):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(IMAGES[orientation]).save(file, exif=exif if orientation else None)
        upright.append(np.asarray(load_image(str(file)).convert("L")))
        as_path = ("even" if orientation % 2 == 0 else "odd") in form
        structs.append({"bytes": None if as_path else file.read_bytes(), "path": str(file) if as_path else None})
    images = image_rows([file.read_bytes() for file in files])
    rows = images if form == "image" else {"image": structs, "label": [*range(9)]}
    task = whole(Mnist, write(tmp_path / "rows.parquet", rows))
    expected = torch.from_numpy(np.stack(upright))[:, None] / 255
    torch.testing.assert_close(stacked(task.load().test), expected)
    if form == "image":
        streamed = {row["labels"]: row["pixel_values"] for row in task.stream(buffer_size=None).train}
        torch.testing.assert_close(torch.stack([streamed[label] for label in range(9)]), expected)


def test_given_test_and_validation_files_are_not_cut(mnist_file):
    task = partial(Mnist, train_file=mnist_file, validation_examples=7)
    assert sizes(task(test_file=mnist_file).load()) == (53, 7, 60)
    assert sizes(task(validation_file=mnist_file).load()) == (53, 60, 7)


def test_rows_that_are_left_out_are_not_decoded(mnist_file):
    train = Mnist(train_file=mnist_file).load(max_samples={"train": 8, "validation": 2, "test": 3}).train
    assert len(train.pixels) == 13


def test_the_hub_is_read_only_without_files(mnist_file, monkeypatch):
    rows = datasets.load_dataset("parquet", data_files=mnist_file, split="train")
    hub = datasets.DatasetDict({"train": rows, "valid": rows.select(range(20)), "test": rows.select(range(30))})
    asked = []

    def load_dataset(name, *args, **kwargs):
        asked.append((name, args, kwargs))
        return hub

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    Mnist(train_file=mnist_file).load()
    assert not asked
    assert sizes(Mnist(dataset_revision="abc").load()) == (60, 20, 30)
    assert asked == [("ylecun/mnist", (None,), {"revision": "abc"})]
    hub.pop("train")
    with pytest.raises(ValueError, match="called train is needed, but 'ylecun/mnist' has valid, test: "):
        Mnist().load()

    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'ylecun/mnist' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"'ylecun/mnist' could not be loaded .*reach.*\): write --train_file"):
        Mnist().load()


# Augmentation


def changed(pixels, crops=None, flips=None, angles=None):
    """The images after what is given of crops, flips and rotations."""
    count = len(pixels)
    return crop_flip_rotate(
        pixels,
        torch.zeros(count, 2, dtype=torch.int64) if crops is None else crops,
        torch.zeros(count).bool() if flips is None else torch.tensor(flips),
        torch.zeros(count) if angles is None else torch.tensor(angles),
    )


def test_no_change_asked_for_is_no_change():
    pixels = torch.from_numpy(random_pixels(3, (3, 32, 32)))
    assert torch.equal(changed(pixels), pixels) and changed(pixels).dtype == torch.uint8


def test_a_flip_mirrors_the_columns():
    pixels = torch.from_numpy(random_pixels(2, (3, 8, 12)))
    flipped = changed(pixels, flips=[True, False])
    assert torch.equal(flipped[0], pixels[0].flip(-1))
    assert torch.equal(flipped[1], pixels[1])


def test_a_shift_is_a_crop_of_the_padded_image():
    pixels = torch.from_numpy(random_pixels(81, (1, 10, 10)))
    crops = torch.cartesian_prod(torch.arange(-4, 5), torch.arange(-4, 5))
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4))
    for image, (down, right), room in zip(changed(pixels, crops), crops, padded, strict=True):
        assert torch.equal(image, room[:, 4 + down : 14 + down, 4 + right : 14 + right])


def test_a_quarter_turn_is_exact_and_other_angles_are_pillows():
    pixels = torch.from_numpy(random_pixels(2, (1, 32, 32)))
    turned = changed(pixels, angles=[90.0, -90.0])
    assert torch.equal(turned[0], torch.rot90(pixels[0], 1, (1, 2)))
    assert torch.equal(turned[1], torch.rot90(pixels[1], -1, (1, 2)))
    angles = [13.7, -8.1]
    for image, original, angle in zip(changed(pixels, angles=angles), pixels, angles, strict=True):
        expected = np.asarray(Image.fromarray(original[0].numpy()).rotate(angle, Image.Resampling.NEAREST))
        assert (image[0].numpy() == expected).mean() > 0.99


def test_all_three_at_once_are_crop_then_flip_then_rotation():
    pixels = torch.from_numpy(random_pixels(4, (3, 32, 32))) | 1  # only padding is black
    crops, flips = torch.tensor([[4, -4], [0, 3], [-2, 2], [1, 0]]), [True, False, True, True]
    angles = [20.0, -20.0, 5.5, 11.0]
    steps = changed(changed(changed(pixels, crops), flips=flips), angles=angles)
    assert torch.equal(changed(pixels, crops, flips, angles), steps)


def test_what_is_drawn_is_uniform_and_follows_seed_epoch_and_example():
    augmentation = Augmentation(padding=4, flip=True, degrees=20)
    crops, flips, angles = augmentation.draw(0, 0, range(4000))
    assert crops.unique().tolist() == list(range(-4, 5)) and crops.double().mean().abs() < 0.15
    assert abs(flips.double().mean() - 0.5) < 0.05
    assert 19.5 < angles.abs().max() <= 20
    assert angles.std().item() == pytest.approx(40 / math.sqrt(12), rel=0.05)
    for seed, epoch, examples in ((1, 0, range(4000)), (0, 1, range(4000)), (0, 0, range(4000, 8000))):
        assert (augmentation.draw(seed, epoch, examples)[2] == angles).sum() == 0
    assert not Augmentation(padding=0, flip=False, degrees=0).draw(0, 0, range(50))[1].any()


def test_augmentation_depends_on_no_batch_worker_or_subset(cifar_file):
    task = Cifar10(train_file=cifar_file[0])
    train = task.load(seed=3).train
    one_by_one = torch.stack([train[i]["pixel_values"] for i in range(len(train))])
    backwards = train.__getitems__(range(len(train) - 1, -1, -1))[::-1]
    assert torch.equal(torch.stack([example["pixel_values"] for example in backwards]), one_by_one)
    loader = DataLoader(train, batch_size=5, num_workers=2, collate_fn=task.collate)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), one_by_one)
    rows = [7, 2, 5]
    (batch,) = DataLoader(Subset(train, rows), batch_size=3, collate_fn=task.collate)
    assert torch.equal(batch["pixel_values"], one_by_one[rows])
    assert batch["labels"].tolist() == train.labels[rows].tolist()
    assert task.floor(Subset(train, rows)) == max(np.bincount(train.labels[rows])) / 3
    again = task.load(seed=3).train
    assert torch.equal(stacked(again), one_by_one)
    assert task.load(seed=4).train.seed == 4
    again.seed = 4
    assert not torch.equal(stacked(again), one_by_one)


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
    quick = {"save_steps": 3, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments("run", per_device_train_batch_size=8, num_train_epochs=3, **quick)
    for resume, expected in ((None, [0, 0, 1, 1, 2, 2]), (str(tmp_path / "run" / "checkpoint-3"), [1, 2, 2])):
        seen.clear()
        train.set_epoch(0)
        subset, callbacks = Subset(train, range(16)), [SetEpoch(train)]
        trainer = Trainer(Linear(), arguments, task.collate, train_dataset=subset, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        assert seen == expected


# Digits


def test_digits_need_no_file_and_split_once():
    task = Digits()
    data, other = task.load(seed=0), task.load(seed=5)
    splits = (data.train, data.validation, data.test)
    assert sizes(data) == (1197, 300, 300)
    assert torch.cat([split.rows for split in splits]).unique().numel() == 1797
    assert torch.equal(data.train.rows, other.train.rows)
    values = torch.cat([stacked(split) for split in splits])
    assert values.shape == (1797, 1, 8, 8)
    assert abs(values.mean()) < 1e-3 and abs(values.std() - 1) < 1e-3
    assert task.floor(data.test) < 0.15
    small = task.load(seed=1, max_samples={"train": 50})
    assert sizes(small) == (50, 300, 300)
    assert set(small.train.rows.tolist()) <= set(data.train.rows.tolist())


def test_digits_are_grey_images_of_8_bits_as_others_are():
    pixels = Digits().load().train.pixels
    assert pixels.dtype == torch.uint8 and pixels.shape == (1797, 1, 8, 8)
    assert pixels.unique().tolist() == [round(level * 255 / 16) for level in range(17)]
    np.testing.assert_array_equal((pixels[:, 0] / 255 * 16).round(), load_digits().images)


# What is refused


@pytest.fixture
def odd_files(mnist_file, tmp_path):
    """Files that cannot be trained on, beside one that can."""
    for file, text in {"x.txt": "x", "bad.parquet": "x", "empty.csv": "", "header.csv": "image,label\n"}.items():
        (tmp_path / file).write_text(text)
    write(tmp_path / "none.parquet", {"image": [], "label": []})
    write(tmp_path / "photos.parquet", image_rows(IMAGES[:1], column="photo_image"))
    write(tmp_path / "two.csv", {"left": ["x"] * 9, "right": ["x"] * 9, "label": [0] * 9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_file": "no.parquet"}, "train_file 'no.parquet' is not there: write --train_file"),
        ({"train_file": "x.txt"}, "train_file ends in one of .parquet, .csv, .json, .jsonl, got 'x.txt'"),
        ({"train_file": "bad.parquet"}, r"train_file 'bad.parquet' cannot be read as parquet: \w+"),
        ({"train_file": "empty.csv"}, r"the train split \(empty.csv\) is an empty file"),
        ({"train_file": "header.csv"}, r"the train split \(header.csv\) has no rows"),
        ({"train_file": "none.parquet"}, r"the train split \(none.parquet\) has no rows"),
        ({"train_file": None, "test_file": "a.csv"}, "but only --test_file a.csv came: write --train_file"),
        ({"train_file": None, "dataset_name": None}, "no data was named: write --train_file"),
        ({"label_column": "x"}, r"the train split \(.*\) has no column 'x' but image, label: .*--label_c"),
        ({"image_column": "x"}, "has no column 'x' but image, label: write one of these as --image_col"),
        ({"test_file": "photos.parquet"}, r"the test split \(.*\) has no column 'image' but photo_image, label"),
        ({"train_file": "two.csv"}, "no column that looks right for image_column; its columns are left, right,"),
        ({"validation_examples": 60}, "60 rows of the train split .* held out for test, but it has 60 left"),
    ],
)
def test_refuses_files(options, message, odd_files):
    with pytest.raises(ValueError, match=message):
        Mnist(validation_share=0.2, **{"train_file": "mnist.parquet"} | options).load()


def test_refuses_max_samples_of_no_split(mnist_file):
    with pytest.raises(ValueError, match=r"max_samples takes the splits train, validation, test; got 'dev'"):
        Mnist(train_file=mnist_file).load(max_samples={"dev": 1})


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, 1, 11], INTEGER, r"lie in 0..9, but row 2 of the train split \(.*rows.parquet\) has 11"),
        ([0, -1, 1], INTEGER, r"lie in 0..9, but row 1 of the train split .* has -1"),
        ([0, 1, None], INTEGER, r"needs a label, but row 2 of the train split .* none in column 'label'"),
        ([0.5, 1, 2], datasets.Value("float64"), r"whole numbers or strings, but row 0 .* has 0.5 \(double\)"),
        ([1.0, 0, 2], datasets.Value("float32"), r"has 1.0 \(float\) in column 'label': write whole numbers, or name"),
        ([True, False, True], BOOL, r"has 10 classes, but column 'label' .* has 2"),
        ([0, 1, 2], datasets.ClassLabel(names=["a", "b", "c"]), r"has 10 classes, but column 'label' .* has 3"),
    ],
)
def test_refuses_labels(labels, feature, message, tmp_path):
    path = write(tmp_path / "rows.parquet", image_rows(IMAGES[:3], labels, feature=feature))
    with pytest.raises(ValueError, match=message):
        Mnist(train_file=path).load()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "an image is missing"),
        (b"no image at all", "an image cannot be decoded"),
        (encoded(IMAGES[0])[:200], "an image cannot be decoded"),
        (IMAGES[0, :20], "images here are 28 x 28 pixels .*, but one has 28 x 20: resize"),
        (np.full((28, 28), 4000, np.uint16), "8 bits a pixel, .* mode I;16: .* largest value in place of 65535"),
        (encoded(np.ones((28, 28), np.float32), "TIFF"), "8 bits a pixel, but one has mode F: convert it by the r"),
        (random_pixels(1, (28, 28, 3))[0], r"mode L \(1 channels .*, but one has mode RGB: .*convert\('L'\)"),
    ],
    ids=["none", "text", "cut", "size", "16 bits", "floats", "colours"],
)
def test_refuses_images(image, message, tmp_path):
    path = write(tmp_path / "rows.parquet", image_rows([IMAGES[0], IMAGES[0], image, IMAGES[0]]))
    with pytest.raises(
        ValueError, match=rf"{message}.* This is column 'image', row 2 of the train split \(.*rows.parq"
    ):
        Mnist(train_file=path, validation_examples=1).load()


def test_names_the_row_of_the_file_even_where_rows_were_left_out(tmp_path):
    path = write(tmp_path / "rows.parquet", image_rows([*IMAGES[:20], b"broken", *IMAGES[:9]]))
    found = set()
    for seed in range(12):
        try:
            Mnist(train_file=path).load(seed=seed, max_samples={"train": 5, "validation": 1, "test": 1})
        except ValueError as error:
            found.add("row 20 of" in str(error))
    assert found == {True}


PIXELS = IMAGES[0].tolist()


def with_first(value):
    return [[value, *PIXELS[0][1:]], *PIXELS[1:]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (with_first(float("nan")), "whole numbers in 0..255, but one is nan"),
        (with_first(float("inf")), "whole numbers in 0..255, but one is inf"),
        (with_first(256), "whole numbers in 0..255, but one is 256"),
        (with_first(0.5), "whole numbers in 0..255, but one is 0.5"),
        ([[1.0] * 28] * 28, r"floats ends at 1 or below, and would be read as black: write \(image \* 255"),
        ([PIXELS[0][1:], *PIXELS[1:]], "rows need one length and numbers only"),
        (PIXELS[1:], "images here are 28 x 28 pixels .*, but one has 28 x 27"),
        (PIXELS[0], r"lists of pixels are .*, but one has the shape \[28\]"),
        ([[[1, 2]] * 28] * 28, r"lists of pixels are .*, but one has the shape \[28, 28, 2\]"),
        ("one.png", "text that holds an image is JSON, .*'one.png'"),
    ],
    ids=["nan", "inf", "256", "half", "floats", "ragged", "rows", "vector", "channels", "text"],
)
def test_refuses_lists_of_pixels(image, message, tmp_path):
    images = [image if isinstance(image, str) else json.dumps(image) for image in (PIXELS, PIXELS, image, PIXELS)]
    path = write(tmp_path / "rows.csv", {"image": images, "label": [0] * 4})
    with pytest.raises(ValueError, match=rf"{message}.* row 2 of the train split"):
        Mnist(train_file=path, validation_examples=1).load()
