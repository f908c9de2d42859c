"""Full disks, real ones: small file systems in memory. What was whole stays so, and the error says what to do."""

import errno
import re

import pytest
import torch
from conftest import arguments, contents, fill, labelled_examples, used
from safetensors.torch import load_file

from fpt_adapters import FPTForSequenceClassification, FPTTrainer
from fpt_adapters.deltas.disk import NoSpaceError

LINE = r"\[Errno 28\] No space left on the disk {disk}: to write into '{folder}', about [\d,]+ bytes are needed and "
WHAT_TO_DO = r"[\d,]+ are free\. Make room, or name a folder on another disk; files written before are whole"


def refused(disk, folder):
    """NoSpaceError for a write into `folder`, or into a checkpoint there."""
    line = LINE.format(disk=re.escape(str(disk)), folder=re.escape(str(folder)) + r"(/checkpoint-\d)?")
    return pytest.raises(NoSpaceError, match=f"^{line}{WHAT_TO_DO}$")


SAVES = {
    "delta": lambda model, folder: model.save_pretrained(folder),
    "backbone": lambda model, folder: model.save_backbone(folder),
    "adapter": lambda model, folder: model.save_peft_adapter(folder),
}


@pytest.mark.parametrize("left", [0, 4, 8])
@pytest.mark.parametrize("kind", SAVES)
def test_what_does_not_fit_leaves_nothing(kind, left, make_model, small_disk):
    model, folder = make_model("gpt2"), small_disk / "saved"
    fill(small_disk, left * 1024)
    before = contents(small_disk)
    with refused(small_disk, folder) as caught:
        SAVES[kind](model, folder)
    assert caught.value.errno == errno.ENOSPC
    assert contents(small_disk).items() - {("saved", None)} == before.items()  # but for an empty folder
    (small_disk / "filling").unlink()
    SAVES[kind](model, folder)
    assert contents(folder)


def test_a_delta_that_does_not_fit_leaves_the_one_before(make_model, small_disk):
    folder, other = small_disk / "saved", make_model("gpt2")
    make_model("gpt2").save_pretrained(folder)
    before = contents(folder)
    with torch.no_grad():
        other.head.weight.add_(1)
    fill(small_disk, 8 * 1024)
    with refused(small_disk, folder):
        other.save_pretrained(folder)
    assert contents(folder) == before
    FPTForSequenceClassification.from_pretrained(folder)


def trainer(model, folder):
    args = arguments(folder, max_steps=6, save_strategy="steps", save_steps=2)
    return FPTTrainer(model, args, train_dataset=labelled_examples())


def test_a_training_whose_delta_would_not_fit_does_not_begin(make_model, small_disk):
    fill(small_disk, 12 * 1024)
    with refused(small_disk, small_disk / "out"):
        trainer(make_model("gpt2"), small_disk / "out").train()


@pytest.mark.parametrize("part", [0.35, 0.45, 0.55, 0.7, 0.9, 0.99])
def test_a_training_goes_on_once_there_is_room(part, make_model, small_disk):
    """Wherever in a checkpoint, the last delta or its card the disk becomes full."""
    whole = small_disk.parent / "whole"
    trainer(make_model("gpt2"), whole).train()
    fill(small_disk, part * used(whole))
    with refused(small_disk, small_disk / "out"):
        trainer(make_model("gpt2"), small_disk / "out").train()
    (small_disk / "filling").unlink()
    trainer(make_model("gpt2"), small_disk / "out").train(resume_from_checkpoint=True)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, small_disk / "out"))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
