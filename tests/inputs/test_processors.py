"""Processors: raw data -> exactly the inputs that tasks train on, saved beside a model and found by Auto classes."""

import inspect
import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from conftest import FIELDS, outputs
from PIL import ExifTags, Image
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer, pipeline
from transformers.image_utils import load_image
from transformers.models.auto import image_processing_auto
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.5's top name wants torchvision

from fpt_adapters import (
    FPTFeatureExtractor,
    FPTForImageClassification,
    FPTImageProcessor,
    FPTTableProcessor,
    FPTTimeSeriesProcessor,
)
from fpt_adapters.tasks import BitMemory, BitXor, Cifar10, Cifar10Lra, Digits, ListOps, Mnist, RemoteHomology
from fpt_adapters.tasks.listops import TOKENS

EXPRESSIONS = {"min_length": 8, "max_length": 40, "max_depth": 4, "max_args": 4, "train_examples": 40}
EXPRESSIONS |= {"eval_examples": 20}


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pixels_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def flat(value, dtype=None):
    """An image of one value."""
    return np.full((8, 8), value, dtype)


def saved_model(make_model, folder, task, config):
    """A tiny model of a task's configuration in `folder`, with its processor."""
    model = make_model("gpt2", task.model_class, **dict.fromkeys(FIELDS) | config)
    model.save_pretrained(folder)
    task.processor().save_pretrained(folder)
    return model


def scores(answers):
    """What a pipeline says of each label."""
    return {answer["label"]: answer["score"] for answer in answers}


def expected_scores(model, **inputs):
    """What a model says of each label, of one example."""
    found = outputs(model, **inputs).softmax(-1)[0].tolist()
    return pytest.approx({model.config.id2label[label]: score for label, score in enumerate(found)}, abs=1e-6)


def read(processor, *inputs, **arguments):
    """The numbers of a processor, as numpy has them."""
    (values, *_) = processor(*inputs, **arguments).values()
    return values


def saved_again(processor, auto_class, folder):
    """The processor after a save, a load by its Auto class, and the same once more."""
    for name in ("once", "twice"):
        processor.save_pretrained(folder / name)
        processor = auto_class.from_pretrained(folder / name)
        for file in (folder / name).iterdir():
            assert str(folder) not in file.read_text(encoding="utf-8"), f"{file} names a local path"
    return processor


# Images


def image_task(kind, folder):
    """An image task, the PIL images of its test split, and the split."""
    if kind is Digits:
        split = Digits().load().test
        return Digits(), [Image.fromarray(grey) for grey in split.pixels[split.rows, 0].numpy()], split
    shape = (28, 28) if kind is Mnist else (32, 32, 3)
    files = []
    for pixels in pixels_of(12, *shape):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
    rows = {"image": [{"bytes": file, "path": None} for file in files], "label": [i % 10 for i in range(12)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    path = str(folder / "rows.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    task = kind(train_file=path, validation_file=path, test_file=path)
    return task, [Image.open(io.BytesIO(file)) for file in files], task.load().test


@pytest.mark.parametrize("kind", [Mnist, Cifar10, Cifar10Lra, Digits])
def test_the_processor_of_an_image_task_makes_its_pixel_values_bit_by_bit(kind, tmp_path):
    task, images, split = image_task(kind, tmp_path)
    expected = torch.stack([split[i]["pixel_values"] for i in range(len(split))])
    for processor in (task.processor(), saved_again(task.processor(), AutoImageProcessor, tmp_path)):
        assert type(processor) is FPTImageProcessor
        made = processor(images, return_tensors="pt")["pixel_values"]
        assert made.dtype == torch.float32 and torch.equal(made, expected)
        assert torch.equal(processor(images[0], return_tensors="pt")["pixel_values"], expected[:1])
        opened = [image.convert("RGB") for image in images]  # as pipelines open files
        assert torch.equal(processor(opened, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize(("channels", "read_as"), [(1, "L"), (3, "RGB")])
def test_any_mode_is_read_as_a_pipeline_would(mode, channels, read_as):
    image = Image.fromarray(pixels_of(6, 5, 3)).convert(mode)
    expected = np.asarray(image.convert("RGB").convert(read_as)).reshape(6, 5, channels).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(FPTImageProcessor((6, 5), channels, do_rescale=False), image)[0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_as_a_pipeline_does(orientation, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels_of(6, 5, 3)).save(tmp_path / "photo.png", exif=exif)
    height, width = (5, 6) if orientation > 4 else (6, 5)
    processor = FPTImageProcessor((height, width), 3, do_resize=False)
    lying = Image.open(tmp_path / "photo.png")
    upright = load_image(str(tmp_path / "photo.png"))
    expected = np.asarray(upright).transpose(2, 0, 1)[None] * np.float32(1 / 255)
    for image in (lying, upright, lying.convert("RGBA")):
        np.testing.assert_array_equal(processor(image)["pixel_values"], expected)


def test_sixteen_bits_fit_in_eight_as_the_message_says():
    image = Image.fromarray(np.linspace(500, 65535, 64).astype(np.uint16).reshape(8, 8))
    with pytest.raises(ValueError, match=r"convert it by the range of your values, as in Image\.fromarray") as error:
        FPTImageProcessor(8, 1)(image)
    code = re.search(r"as in (.*?), with your largest", str(error.value))[1]
    converted = eval(code, {"Image": Image, "np": np, "image": image})
    made = FPTImageProcessor(8, 1, do_rescale=False)(converted)["pixel_values"]
    assert made.mean() == pytest.approx(128.5, abs=1)
    assert np.asarray(image.convert("L")).mean() > 250  # what `convert` would give


def test_black_is_black_in_every_scale():
    for image in (np.zeros((8, 8)), np.zeros((8, 8), np.uint8), torch.zeros(1, 8, 8), Image.new("F", (8, 8))):
        assert not FPTImageProcessor(8, 1)(image)["pixel_values"].any()
    assert FPTImageProcessor(8, 1, do_rescale=False)(flat(1.0))["pixel_values"].min() == 1


SCALARS = [np.float32(0.5), np.float64(0.5), np.array(0.5), np.array(0.5, np.float16), torch.tensor(0.5), 0.5]
SCALARS += [torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(0.5, requires_grad=True)]


@pytest.mark.parametrize("number", SCALARS, ids=repr)
def test_numbers_of_numpy_and_torch_are_stored_as_plain_ones(number, tmp_path):
    images = FPTImageProcessor(np.int64(4), np.int64(3), image_mean=number, image_std=number, rescale_factor=number)
    assert (images.image_mean, images.image_std, images.rescale_factor) == ([0.5] * 3, [0.5] * 3, 0.5)
    sequences = FPTFeatureExtractor(np.int64(2), np.int32(9), number, number, np.int64(4), np.int64(2), np.float32(1))
    assert (sequences.mean, sequences.std) == ([0.5, 0.5], [0.5, 0.5])
    three, two = [number] * 3, [number] * 2
    assert FPTImageProcessor((np.int64(4), 5), 3, image_mean=three, image_std=np.full(3, 2)).image_mean == [0.5] * 3
    assert FPTFeatureExtractor(2, 9, two, torch.full((2,), 0.5)).std == [0.5, 0.5]
    for name, processor, auto_class in (("i", images, AutoImageProcessor), ("s", sequences, AutoFeatureExtractor)):
        assert saved_again(processor, auto_class, tmp_path / name).to_dict() == processor.to_dict()


def test_a_transparent_palette_is_read_without_a_warning():
    image = Image.fromarray(pixels_of(4, 4, 3)).quantize(8)
    expected = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)
    image.info["transparency"] = bytes([0, 255])
    np.testing.assert_array_equal(FPTImageProcessor(4, 3, do_rescale=False)(image)["pixel_values"][0], expected)


GREY, COLOUR = pixels_of(6, 5), pixels_of(6, 5, 3)
FITTED = {  # images, arguments of fit, the fields of the model
    "one size": ([pixels_of(9, 12)] * 2, {}, ([8, 12], 1, 4)),
    "several sizes": ([pixels_of(9, 30, 3), pixels_of(13, 20, 3), pixels_of(11, 40)], {}, (12, 3, 4)),
    "large": ([pixels_of(300, 400)], {}, (224, 1, 14)),
    "said": ([pixels_of(9, 12)], {"image_size": 10, "num_channels": 3, "patch_size": 5}, (10, 3, 5)),
}


@pytest.mark.parametrize(("images", "arguments", "expected"), FITTED.values(), ids=FITTED)
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, Image.fromarray])
def test_it_is_fitted_to_images(images, arguments, expected, kind, tmp_path):
    processor = FPTImageProcessor.fit([kind(image) for image in images], **arguments)
    fields = dict(zip(("image_size", "num_channels", "patch_size"), expected, strict=True))
    assert processor.config_fields == {"input_type": "images"} | fields
    pixels = processor(images)["pixel_values"]
    np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(pixels.std(axis=(0, 2, 3)), 1, atol=1e-3)
    processor.save_pretrained(tmp_path)
    assert FPTImageProcessor.from_pretrained(tmp_path).config_fields == processor.config_fields


def test_patches_that_nobody_named_are_not_in_the_file(tmp_path):
    FPTImageProcessor(8, 1).save_pretrained(tmp_path)
    assert "patch_size" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    with pytest.raises(ValueError, match="write patch_size, or make it with fit"):
        _ = FPTImageProcessor(8, 1).config_fields
    assert FPTImageProcessor(8, 1, patch_size=2).config_fields["patch_size"] == 2


TO_GREY = FPTImageProcessor((6, 5), 1, image_mean=0.5)
TO_COLOUR = FPTImageProcessor((6, 5), 3, image_std=[1, 2, 3])


@pytest.mark.parametrize(
    ("processor", "image", "same"),
    [
        (TO_GREY, GREY, [GREY[None], GREY[..., None], torch.from_numpy(GREY), GREY.astype(np.float64)]),
        (TO_COLOUR, GREY, [np.repeat(GREY[..., None], 3, 2), Image.fromarray(GREY)]),
        (TO_COLOUR, COLOUR, [COLOUR.transpose(2, 0, 1), torch.from_numpy(COLOUR).to(torch.bfloat16)]),
        (TO_GREY, COLOUR, [torch.from_numpy(COLOUR).permute(2, 0, 1), np.dstack([COLOUR, GREY]), COLOUR.astype(int)]),
    ],
    ids=["grey", "grey to colour", "colour", "colour to grey"],
)
def test_arrays_and_tensors_are_read_in_every_layout(processor, image, same):
    expected = read(processor, Image.fromarray(image))
    assert expected.shape == (1, processor.num_channels, 6, 5) and expected.dtype == np.float32
    for other in (image, *same):
        np.testing.assert_array_equal(read(processor, other), expected)
    np.testing.assert_array_equal(read(processor, [image, *same]), np.repeat(expected, 1 + len(same), axis=0))


def test_a_batch_may_be_one_array():
    batch = pixels_of(4, 6, 5, 3)
    expected = read(TO_COLOUR, list(batch))
    for same in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        np.testing.assert_array_equal(read(TO_COLOUR, same), expected)


def test_an_array_whose_channels_could_be_first_or_last_needs_a_word():
    array = pixels_of(3, 6, 3)
    for size, layout, expected in (
        ((6, 3), "channels_first", array / 255),
        ((3, 6), "channels_last", array.transpose(2, 0, 1) / 255),
    ):
        made = read(FPTImageProcessor(size, 3), array, input_data_format=layout)
        np.testing.assert_allclose(made[0], expected, rtol=1e-6)
    for other, layout, message in (
        (array, None, r"\(3, 6, 3\) may have its channels first or last: write input_data_format="),
        (pixels_of(3, 8, 9), "channels_last", r"got \(3, 8, 9\), read as channels_last"),
        (array, "first", "input_data_format is 'channels_first' or 'channels_last', got 'first'"),
    ):
        with pytest.raises(ValueError, match=message):
            FPTImageProcessor((3, 6), 3)(other, input_data_format=layout)


@pytest.mark.parametrize("size", [100_000, (1, 100_000), {"height": 8193, "width": 1}], ids=str)
def test_a_stranger_asks_for_no_absurd_size(size):
    with pytest.raises(ValueError, match="size is at most 8192 pixels a side"):
        FPTImageProcessor(size, 3)


def test_other_sizes_are_resized_by_pillow_or_refused():
    image = Image.fromarray(pixels_of(20, 30))
    processor = FPTImageProcessor(size={"height": 8, "width": 6}, num_channels=1)
    made = processor([image, Image.fromarray(pixels_of(8, 6))])["pixel_values"]
    expected = np.asarray(image.resize((6, 8), Image.Resampling.BILINEAR), dtype=np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(made[0, 0], expected)
    np.testing.assert_array_equal(made[1, 0], pixels_of(8, 6) * np.float32(1 / 255))
    other = processor(image, resample=Image.Resampling.NEAREST)["pixel_values"]
    assert not np.array_equal(other[0], made[0])
    with pytest.raises(ValueError, match=r"6 x 8 pixels \(width x height\), but one has 30 x 20: resize it"):
        processor(image, do_resize=False)


def test_floats_that_are_scaled_already_are_normalised_alone():
    scaled = pixels_of(6, 5, 3) / 255
    processor = FPTImageProcessor((6, 5), 3, do_rescale=False, image_mean=0.5, image_std=0.25)
    expected = ((scaled.transpose(2, 0, 1) - 0.5) / 0.25).astype(np.float32)
    np.testing.assert_allclose(processor(scaled)["pixel_values"][0], expected, rtol=1e-6, atol=1e-6)
    plain = processor(torch.from_numpy(scaled).permute(2, 0, 1), do_normalize=False)["pixel_values"]
    np.testing.assert_array_equal(plain[0], scaled.transpose(2, 0, 1).astype(np.float32))
    with pytest.raises(ValueError, match=r"own height, width and channels \(6, 5, 3\), but one image has \(6, 5, 1\)"):
        processor(scaled[..., 0])
    with pytest.raises(ValueError, match="an image has NaN or infinity"):
        processor(np.full((6, 5, 3), np.nan))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image is needed"),
        ("one.png", r"got str: open files with PIL.Image.open"),
        ([[[0, 255], [255, 0]]], "got list: open files .* lists of numbers into arrays"),
        (np.zeros((2, 2, 2), np.uint8), r"1, 3 or 4 channels; got \(2, 2, 2\)"),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), r"got \(2, 3, 8, 8, 3\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.zeros((0, 8), np.uint8), "but one has 8 x 0"),
        (flat(256), "whole numbers in 0..255, but one is 256"),
        (flat(-1), "whole numbers in 0..255, but one is -1"),
        (flat(np.nan), "whole numbers in 0..255, but one is nan"),
        (flat(1.5), r"but one is 1.5: scale the image to 0..255 .*, or write do_rescale=False"),
        (flat(0.5), r"floats ends at 1 or below, .* as black: write \(image \* 255\).round\(\).astype"),
        (torch.ones(1, 8, 8), "an image of floats ends at 1 or below"),
        (Image.fromarray(flat(0.25, np.float32)), "an image of floats ends at 1 or below"),
        (np.ones((8, 8), bool), "whole numbers in 0..255, got bool"),
        (Image.fromarray(flat(4000, np.uint16)), "images have 8 bits a pixel, but one has mode I;16"),
        (Image.fromarray(flat(40, np.uint16)), "images have 8 bits a pixel, but one has mode I;16"),
        (Image.fromarray(flat(4000, np.int32)), "whole numbers in 0..255, but one is 4000: scale the image"),
    ],
)
def test_refuses_what_is_no_image(images, message):
    with pytest.raises(ValueError, match=message):
        FPTImageProcessor(8, 1)(images)


BEYOND = "rescale_factor, image_mean and image_std give numbers beyond float32"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"size": 0}, ValueError, "size is one number of pixels, .* each at least 1; got 0"),
        ({"size": {"shortest_edge": 8}}, ValueError, "size is one number of pixels, .* got {'shortest_edge': 8}"),
        ({"size": (8, 8, 8)}, ValueError, r"got \(8, 8, 8\)"),
        ({"num_channels": 4}, ValueError, r"num_channels is 1 \(grey\) or 3 \(RGB\), got 4"),
        ({"image_mean": "0.5"}, ValueError, "image_mean is one number, .* got '0.5'"),
        ({"image_mean": np.zeros((3, 1, 1))}, ValueError, "image_mean is one number, or one for each of the 3"),
        ({"image_mean": [0.5]}, ValueError, r"image_mean is .* each of the 3 channels; got \[0.5\]"),
        ({"image_std": 0}, ValueError, "image_std lies above 0, got 0.0"),
        ({"rescale_factor": -1}, ValueError, "rescale_factor lies above 0, got -1"),
        ({"resample": 9}, ValueError, r"resample is one of Pillow's filters 0 \(nearest\), .*; got 9"),
        ({"image_men": 0.5}, TypeError, "has no field 'image_men'; its fields are size, .*, image_mean, image_std"),
        ({"__class__": 1}, TypeError, "has no field '__class__'"),
        ({"size": 0.5}, ValueError, r"size is one number of pixels, .* got 0\.5"),
        ({"num_channels": {}}, ValueError, r"num_channels is 1 \(grey\) or 3 \(RGB\), got {}"),
        ({"image_mean": [1, [2], 3]}, ValueError, "image_mean is one number, or one for each of the 3"),
        ({"image_std": 1e-320}, ValueError, BEYOND),
        ({"rescale_factor": 1e308}, ValueError, BEYOND),
    ],
)
def test_refuses_wrong_image_fields(fields, error, message):
    with pytest.raises(error, match=message):
        FPTImageProcessor(**({"size": 8, "num_channels": 3} | fields))
    with pytest.raises(error, match=message):
        FPTImageProcessor(8, 3)(pixels_of(8, 8), **fields)


def test_preprocessor_config_alone_is_enough_and_may_be_overridden(tmp_path, warned, monkeypatch):
    processor = FPTImageProcessor([8, 6], 3, False, 0, True, 0.5, True, [0.1, 0.2, 0.3], 2)
    processor.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["preprocessor_config.json"]
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written == {
        "image_processor_type": "FPTImageProcessor",
        "size": {"height": 8, "width": 6},
        "num_channels": 3,
        "do_resize": False,
        "resample": 0,
        "do_rescale": True,
        "rescale_factor": 0.5,
        "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [2.0, 2.0, 2.0],
    }
    for torchvision in (False, True):  # with it installed, transformers asks for the classes made for it
        monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda answer=torchvision: answer)
        loaded = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(loaded) is FPTImageProcessor and loaded.to_dict() == written
    changed = AutoImageProcessor.from_pretrained(tmp_path, do_normalize=False)
    assert changed.to_dict() == written | {"do_normalize": False}
    assert warned.text == ""


def test_image_classification_pipeline_loads_from_the_folder_alone(make_model, tmp_path, warned):
    task, images, split = image_task(Digits, tmp_path)
    model = saved_model(make_model, tmp_path, task, task.load().config)
    assert type(model) is FPTForImageClassification
    assert type(AutoProcessor.from_pretrained(tmp_path)) is FPTImageProcessor
    classify = pipeline("image-classification", model=str(tmp_path), top_k=10)
    assert type(classify.image_processor) is FPTImageProcessor
    images[0].save(tmp_path / "digit.png")
    answers = classify(str(tmp_path / "digit.png"))
    assert scores(answers) == expected_scores(model, pixel_values=split[0]["pixel_values"][None])
    assert classify(images[0]) == answers and classify(images[0].convert("RGB")) == answers
    batch = classify(images[:3], batch_size=3)
    assert [answer["label"] for answer in batch[0]] == [answer["label"] for answer in answers]
    assert warned.text == ""


# Values and series


@pytest.mark.parametrize("task", [BitXor(), BitMemory(num_strings=2, string_length=12, bits_per_token=4)])
def test_the_processor_of_a_bit_task_changes_nothing(task, tmp_path):
    split = task.load().train
    examples = [split[i]["input_values"] for i in range(3)]
    for processor in (task.processor(), saved_again(task.processor(), AutoFeatureExtractor, tmp_path)):
        assert type(processor) is FPTFeatureExtractor
        batch = processor(examples, return_tensors="pt")
        assert batch["input_values"].dtype == torch.float32
        assert torch.equal(batch["input_values"], torch.stack(examples))
        assert batch["attention_mask"].dtype == torch.int64 and batch["attention_mask"].all()
        assert torch.equal(processor(examples[0], return_tensors="pt")["input_values"][0], examples[0])
    assert type(AutoProcessor.from_pretrained(tmp_path / "once")) is FPTFeatureExtractor


NO_VALUES = {"input_size": None, "sequence_length": None}
PATCHES = {"patch_length": 4, "patch_stride": 2}
SERIES = NO_VALUES | PATCHES | {"input_type": "series", "series_length": 12}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("input_type", ["values", "series"])
def test_a_padded_batch_gives_what_single_sequences_do(input_type, channels, make_model):
    patches = PATCHES if input_type == "series" else {}
    fields = SERIES | {"num_channels": channels} if patches else {"sequence_length": 12, "input_size": channels}
    model = make_model("gpt2", **fields)
    processor = FPTFeatureExtractor(channels, 12, mean=0.5, std=2, **patches)
    rows = [np.random.default_rng(length).normal(size=(length, channels)) for length in (12, 3, 7, 1)]
    batch = processor(rows, return_tensors="pt")
    assert batch["input_values"].shape == (4, 12, channels)
    assert batch["attention_mask"].sum(1).tolist() == [12, 3, 7, 1]
    alone = torch.cat([outputs(model, **processor(row, return_tensors="pt")) for row in rows])
    torch.testing.assert_close(outputs(model, **batch), alone)


def test_sequences_are_normalised_per_channel_before_they_are_padded():
    rows = [np.array([[1.0, 10.0], [3.0, 30.0]]), np.array([[5.0, 50.0]])]
    batch = FPTFeatureExtractor(2, 4, mean=[1, 10], std=[2, 20], padding_value=-9)(rows)
    assert batch["input_values"].tolist() == [[[0, 0], [1, 1]], [[2, 2], [-9, -9]]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert FPTFeatureExtractor(1, 4, mean=1, std=2)([1, 2, 3])["input_values"].tolist() == [[[0.0], [0.5], [1.0]]]


def test_one_sequence_and_several_are_told_apart_by_their_axes():
    one = FPTFeatureExtractor(1, 9)
    for sequence in ([1, 2, 3], (1.0, 2.0, 3.0), [[1], [2], [3]], np.arange(1, 4), torch.arange(1, 4)[:, None]):
        assert one(sequence)["input_values"].tolist() == [[[1.0], [2.0], [3.0]]]
    for sequences in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), [torch.tensor([1.0, 2.0]), [3, 4]]):
        assert one(sequences)["input_values"].tolist() == [[[1.0], [2.0]], [[3.0], [4.0]]]
    two = FPTFeatureExtractor(2, 9)
    assert two([[1, 2], [3, 4], [5, 6]])["input_values"].shape == (1, 3, 2)
    assert two(torch.zeros(4, 3, 2), return_tensors="pt")["input_values"].shape == (4, 3, 2)
    assert two([torch.zeros(4, 2), np.ones((3, 2))])["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((11, 2)), "has 11 steps, but the model takes at most 10: shorten it, or write truncation=True"),
        ([[0, 1], [float("nan"), 2]], "number 0 of step 1 is nan: fill or drop it"),
        ([[0, 1], [None, 2]], "number 0 of step 1 is nan"),
        ([[0, float("inf")]], "number 1 of step 0 is inf"),
        ([[0, 1e300]], "number 1 of step 0 is inf"),
        ([1, 2, 3], r"shape \(steps, feature_size=2\) and at least one step, got \(3,\)"),
        (np.zeros((4, 3)), r"got \(4, 3\)"),
        ([], r"got \(0,\)"),
        (np.zeros((0, 2)), r"got \(0, 2\)"),
        (np.zeros((2, 2, 2, 2)), r"got \(2, 2, 2, 2\)"),
        ("1.5", r"got \(\)"),
        ([[1, 2], [3]], "other things or steps of several lengths"),
        ([["a", "b"]], "other things or steps of several lengths"),
    ],
)
def test_refuses_what_is_no_sequence(values, message):
    with pytest.raises(ValueError, match=message):
        FPTFeatureExtractor(2, 10)(values)


ROWS = [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]
PAIRS = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]


def tables(folder, rows):
    """A column of sequences, as libraries read it from a file of the folder."""
    data = datasets.Dataset.from_dict({"values": rows})
    data.to_parquet(folder / "rows.parquet")
    frame = pandas.read_parquet(folder / "rows.parquet")
    return {
        "pandas": frame["values"],
        "its array": frame["values"].to_numpy(),
        "later rows": frame["values"][::-1][::-1],
        "pyarrow": data.with_format("arrow")[:]["values"],
        "datasets": data["values"],
        "arrays": data.with_format("numpy")["values"],
        "tensors": list(data.with_format("torch")["values"]),
    }


@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["one number", "two numbers"])
def test_columns_are_read_as_every_library_reads_them(rows, tmp_path):
    extractor = FPTFeatureExtractor(1 if rows is ROWS else 2, 9)
    expected = extractor(rows)
    assert expected["attention_mask"].sum(1).tolist() == [len(row) for row in rows]
    for name, column in tables(tmp_path, rows).items():
        made = extractor(column)
        np.testing.assert_array_equal(made["input_values"], expected["input_values"], err_msg=name)
        np.testing.assert_array_equal(made["attention_mask"], expected["attention_mask"], err_msg=name)
        one = extractor(next(iter(column)))
        np.testing.assert_array_equal(one["input_values"], extractor(rows[0])["input_values"], err_msg=name)


def test_a_data_frame_is_a_sequence_of_its_rows():
    frame = pandas.DataFrame({"x": [1, 2, 3], "y": [0.5, 0.25, 0.0]}, index=[7, 8, 9])
    made = FPTFeatureExtractor(2, 9)(frame)["input_values"]
    assert made.tolist() == [[[1.0, 0.5], [2.0, 0.25], [3.0, 0.0]]]
    assert FPTFeatureExtractor(1, 9)(frame[["y"]])["input_values"].tolist() == [[[0.5], [0.25], [0.0]]]
    assert FPTFeatureExtractor(1, 9)(frame["y"])["input_values"].tolist() == [[[0.5], [0.25], [0.0]]]
    for other in (pandas.DataFrame({"values": [np.zeros((3, 2)), np.ones((1, 2))]}), frame.assign(y=["a", "b", "c"])):
        with pytest.raises(ValueError, match=r"other things .*: of a table, give the column of sequences, or only"):
            FPTFeatureExtractor(2, 9)(other)
    assert FPTFeatureExtractor(2, 9)([frame, frame[:1]])["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, np.ndarray.tolist, pandas.DataFrame])
def test_numbers_before_steps_are_told_to_be_transposed(convert):
    values = np.zeros((2, 5))
    with pytest.raises(ValueError, match=r"got \(2, 5\) in sequence 0: its 2 come before its steps, transpose it"):
        FPTFeatureExtractor(2, 9)(convert(values))
    with pytest.raises(ValueError, match=r"got \(2, 5\) in sequence 1: its 2 come before its steps, transpose it"):
        FPTFeatureExtractor(2, 9)([values.T, convert(values)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1, 2, 3, 4], "sequence 2 has 4 steps"),
        ([], r"at least one step, got \(0, 1\) in sequence 2"),
        ([1, math.nan], "in sequence 2 number 0 of step 1 is nan"),
        (["a"], "but sequence 2 has other things"),
    ],
)
def test_a_wrong_sequence_is_named_by_its_place(wrong, message):
    with pytest.raises(ValueError, match=message):
        FPTFeatureExtractor(1, 3)([[1], [1, 2], wrong])


def test_a_sampling_rate_is_compared_with_the_extractors_own():
    extractor = FPTFeatureExtractor(1, 9, sampling_rate=16_000)
    np.testing.assert_array_equal(read(extractor, [1, 2], sampling_rate=16_000), read(extractor, [1, 2]))
    with pytest.raises(ValueError, match=r"sampling_rate is 16000 here, .* values have 8000: resample them to 16000"):
        extractor([1, 2], sampling_rate=8_000)
    message = r"sampling_rate is None here, .* values have 8000: give this extractor its own"
    with pytest.raises(ValueError, match=message):
        FPTFeatureExtractor(1, 9)([1, 2], sampling_rate=8_000)


@pytest.mark.parametrize("sampling_rate", [16_000, None])
def test_audio_classification_pipeline_answers_as_the_model_does(sampling_rate, make_model):
    model = make_model("gpt2", **SERIES, num_channels=1).eval()
    extractor = FPTFeatureExtractor(1, 12, sampling_rate=sampling_rate, **PATCHES)
    classify = pipeline("audio-classification", model=model, feature_extractor=extractor, top_k=4)
    sound = np.random.default_rng(0).normal(size=11)
    expected = expected_scores(model, **extractor(sound, return_tensors="pt"))
    rate = {"sampling_rate": sampling_rate}
    for form in (sound, torch.from_numpy(sound), {"raw": sound} | rate, {"array": sound} | rate):
        assert scores(classify(form)) == expected


def test_truncation_keeps_the_beginning():
    batch = FPTFeatureExtractor(1, 3)([[1, 2, 3, 4, float("nan")], [5]], truncation=True)
    assert batch["input_values"][..., 0].tolist() == [[1, 2, 3], [5, 0, 0]]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"feature_size": 0}, ValueError, "feature_size is a whole number of at least 1, got 0"),
        ({"max_length": 2.5}, ValueError, "max_length is a whole number of at least 1, got 2.5"),
        ({"mean": 1}, ValueError, "mean and std come together"),
        ({"patch_length": 4}, ValueError, "so do patch_length and patch_stride"),
        ({"patch_length": 2, "patch_stride": 3}, ValueError, "patch_stride is at most patch_length, .* got 3 and 2"),
        ({"patch_length": 2, "patch_stride": 0}, ValueError, "patch_stride is a whole number of at least 1, got 0"),
        ({"mean": [1], "std": 1}, ValueError, r"mean is one number, or one for each of the 2 of a step; got \[1\]"),
        ({"mean": 0, "std": [1, 0]}, ValueError, "std lies above 0, got 0.0"),
        ({"padding_side": "left"}, ValueError, "padding_side is 'right' for these models, got 'left'"),
        ({"max_len": 3}, TypeError, "has no field 'max_len'; its fields are feature_size, max_length"),
        ({"__class__": 1}, TypeError, "has no field '__class__'"),
        ({"mean": [1, [2]], "std": 1}, ValueError, "mean is one number, or one for each of the 2"),
        ({"padding_value": []}, ValueError, "padding_value is one number"),
        ({"padding_value": "x"}, ValueError, "padding_value is one number"),
    ],
)
def test_refuses_wrong_sequence_fields(fields, error, message):
    with pytest.raises(error, match=message):
        FPTFeatureExtractor(**({"feature_size": 2, "max_length": 10} | fields))


LONG = ["x" * 10**5, [0] * 10**5, {str(number): number for number in range(10**5)}]


SHORT = {
    FPTImageProcessor: {"size": 8, "num_channels": 3},
    FPTFeatureExtractor: {"feature_size": 2, "max_length": 8, "std": 1, "mean": 0, **PATCHES},
}
IMAGE_FIELDS = ("size", "num_channels", "resample", "rescale_factor", "image_mean", "image_std")
SEQUENCE_FIELDS = ("feature_size", "max_length", "mean", "patch_length", "padding_value", "padding_side")


@pytest.mark.parametrize(
    ("processor_class", "name"),
    [*product([FPTImageProcessor], IMAGE_FIELDS), *product([FPTFeatureExtractor], SEQUENCE_FIELDS)],
)
@pytest.mark.parametrize("value", LONG, ids=lambda value: type(value).__name__)
def test_a_long_field_is_not_repeated_whole(processor_class, name, value):
    with pytest.raises(ValueError, match=name) as caught:
        processor_class(**SHORT[processor_class] | {name: value})
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text", ["[]", "3", '"x"', "null", "{", "[" * 10**5, '{"x":' * 10**5], ids=lambda text: text[:6]
)
@pytest.mark.parametrize(
    "processor_class", [FPTImageProcessor, FPTFeatureExtractor, FPTTableProcessor, FPTTimeSeriesProcessor]
)
def test_a_file_without_fields_is_refused(processor_class, text, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises((ValueError, OSError), match=r"nested too deeply|not a valid JSON|Can't load"):
        processor_class.from_pretrained(tmp_path)


def test_a_series_extractor_keeps_all_its_fields(tmp_path):
    fields = {"feature_size": 2, "max_length": 9, "mean": [0.5, 1.0], "std": [2.0, 3.0], "patch_length": 4}
    fields |= {"patch_stride": 2, "padding_value": 1.0, "sampling_rate": 50}
    loaded = saved_again(FPTFeatureExtractor(**fields), AutoFeatureExtractor, tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "once", max_length=20).max_length == 20


# Tokenizers


def nested(tokens):
    """An expression in the form of the Long Range Arena's files, read off the front of a list of tokens."""
    written = tokens.pop(0)
    if written.isdigit():
        return written
    while tokens[0] != "]":
        written = f"( {written} {nested(tokens)} )"
    return f"( {written} {tokens.pop(0)} )"


@pytest.mark.parametrize("variant", ["full", "paper"])
def test_listops_ids_are_those_of_drawn_expressions(variant, tmp_path):
    task = ListOps(variant, **EXPRESSIONS)
    shown, whole = (ListOps(kind, **EXPRESSIONS).load().validation for kind in (variant, "full"))
    tokenize = saved_again(task.processor(), AutoTokenizer, tmp_path)
    for i in range(len(whole)):
        words = [TOKENS[number] for number in whole[i]["input_ids"]]
        text = " ".join(words)
        for written in (text, nested(words), text.replace(" ]", "]")):
            assert tokenize(written)["input_ids"] == shown[i]["input_ids"].tolist()
        assert tokenize.decode(whole[i]["input_ids"]) == text
    assert nested(["[MAX", "4", "3", "]"]) == "( ( ( [MAX 4 ) 3 ) ] )"


def test_the_papers_listops_are_cut_at_512_tokens():
    long = {"train_examples": 5, "eval_examples": 5}
    shown, whole = (ListOps(kind, **long).load().test for kind in ("paper", "full"))
    tokenize = ListOps(**long).processor()
    assert tokenize.model_max_length == 512 and ListOps("full").processor().model_max_length == 2000
    for i in range(5):
        text = " ".join(TOKENS[number] for number in whole[i]["input_ids"])
        assert tokenize(text, truncation=True)["input_ids"] == shown[i]["input_ids"].tolist()


def protein_task(folder, **options):
    """A task of 12 random proteins, some of whose letters are small, and the texts."""
    rng = random.Random(0)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    texts = ["".join(rng.choices(letters, k=rng.randint(1, 30))) for _ in range(12)]
    path = str(folder / "proteins.parquet")
    datasets.Dataset.from_dict({"sequence": texts, "label": [i % 3 for i in range(12)]}).to_parquet(path)
    return RemoteHomology(train_file=path, validation_file=path, test_file=path, **options), texts


def test_protein_ids_are_those_of_the_task(tmp_path):
    task, texts = protein_task(tmp_path, max_length=20)
    split = task.load().test
    for tokenize in (task.processor(), saved_again(task.processor(), AutoTokenizer, tmp_path)):
        ids = tokenize(texts, truncation=True)["input_ids"]
        assert ids == [split[i]["input_ids"].tolist() for i in range(12)]
        assert tokenize.decode(ids[0]) == texts[0].upper()[:20]
        batch = tokenize(texts, truncation=True, padding=True, return_tensors="pt")
        collated = task.collate(list(split))
        assert list(batch) == ["input_ids", "attention_mask"]
        assert all(torch.equal(batch[name], collated[name]) for name in batch)
        assert (tokenize.padding_side, tokenize.pad_token_id, tokenize.model_max_length) == ("right", 0, 20)
        assert len(tokenize) == 27 and tokenize.model_input_names == ["input_ids", "attention_mask"]


NO_PROTEINS = ["AC D", "A1", "A-C", "A*", "AC\n", "\n\n", "A<pad>C", "<pad>", "\u00e9", "\u212a", "\u017f"]
NO_LISTOPS = "[MAX 12 ]|[max 1 ]|[MAX1 ]|[MAX x ]|[MAX <pad> ]|<pad>|[AVG 1 ]|[UNK]".split("|")


@pytest.mark.parametrize(
    ("task", "good", "length", "bad"),
    [(RemoteHomology(), "ACD", 3, NO_PROTEINS), (ListOps("full"), "[MAX 1 2 ]", 4, NO_LISTOPS)],
    ids=["proteins", "listops"],
)
def test_no_other_word_is_dropped_or_read_as_something(task, good, length, bad, tmp_path):
    for tokenize in (task.processor(), saved_again(task.processor(), AutoTokenizer, tmp_path)):
        assert len(tokenize(good)["input_ids"]) == length
        for text in bad:
            with pytest.raises(Exception, match=r"Missing \[UNK\] token"):  # the library's own, of no narrower type
                tokenize(text)


def test_text_classification_pipeline_loads_from_the_folder_alone(make_model, tmp_path, warned):
    task, texts = protein_task(tmp_path)
    task.max_length = 30
    data = task.load()
    model = saved_model(make_model, tmp_path, task, data.config)
    classify = pipeline("text-classification", model=str(tmp_path))
    together = classify(texts, batch_size=5, top_k=None)
    for text, row, answers in zip(texts, data.test, together, strict=True):
        expected = expected_scores(model, input_ids=row["input_ids"][None])
        assert scores(classify(text, top_k=None)) == expected and scores(answers) == expected
    assert warned.text == ""
    with pytest.raises(ValueError, match="has 31 tokens, but this model was built for at most 30: shorten it"):
        classify("A" * 31)
    assert classify("A" * 31, truncation=True) == classify("A" * 30)


def test_listops_pipeline_answers_as_the_model_does(make_model, tmp_path):
    task = ListOps("full", **EXPRESSIONS)
    data = task.load()
    model = saved_model(make_model, tmp_path, task, data.config)
    classify = pipeline("text-classification", model=str(tmp_path))
    rows = [data.test[i]["input_ids"] for i in range(6)]
    answers = classify([" ".join(TOKENS[number] for number in row) for row in rows], batch_size=6)
    expected = [str(outputs(model, input_ids=row[None]).argmax().item()) for row in rows]
    assert [answer["label"] for answer in answers] == expected


# Without this library

LOADER = """
import json, sys
import numpy as np
from transformers import AutoFeatureExtractor, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor
folder, found = sys.argv[1], {}
found["proteins"] = AutoTokenizer.from_pretrained(folder + "/proteins")("MKv")["input_ids"]
found["listops"] = AutoTokenizer.from_pretrained(folder + "/listops")("( ( [MAX 4 ) 1 ) ]")["input_ids"]
images = AutoImageProcessor.from_pretrained(folder + "/images", trust_remote_code=True)
found["images"] = images(np.full((2, 2), 51, np.uint8))["pixel_values"].tolist()
numbers = AutoFeatureExtractor.from_pretrained(folder + "/numbers", trust_remote_code=True)
found["numbers"] = numbers([[1, 2], [3]])["input_values"].tolist()
found["library"] = "fpt_adapters" in sys.modules
print(json.dumps(found))
"""


def test_tokenizers_load_without_the_library_and_the_others_from_their_own_code(make_model, tmp_path):
    proteins, texts = RemoteHomology(), ListOps("full", **EXPRESSIONS)
    config = texts.load(max_samples={"train": 1, "validation": 1, "test": 1}).config
    saved_model(make_model, tmp_path / "listops", texts, config)
    proteins.processor().save_pretrained(tmp_path / "proteins")
    for name, auto, path, processor in (
        ("images", "AutoImageProcessor", "image_processing_fpt.FPTImageProcessor", FPTImageProcessor(2, 1)),
        ("numbers", "AutoFeatureExtractor", "feature_extraction_fpt.FPTFeatureExtractor", FPTFeatureExtractor(1, 4)),
    ):
        processor.save_pretrained(tmp_path / name)
        file = tmp_path / name / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {auto: path}}))
        file = Path(inspect.getfile(type(processor)))
        for source in (file, file.with_name("image_arrays.py"), file.with_name("image_fitting.py")):
            shutil.copy(source, tmp_path / name)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "proteins": [13, 11, 22],
        "listops": [12, 5, 2, 15],
        "images": [[[pytest.approx([0.2, 0.2])] * 2]],
        "numbers": [[[1.0], [2.0]], [[3.0], [0.0]]],
        "library": False,
    }
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "images")) is FPTImageProcessor  # installed code first
