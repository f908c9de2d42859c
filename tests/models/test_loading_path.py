"""CONTRIBUTING's list of the files between `from_pretrained` and the model is in the order in which they run."""

import re
import sys
from pathlib import Path

from transformers import AutoModelForSequenceClassification

import fpt_adapters

PACKAGE = Path(fpt_adapters.__file__).parent


def test_the_files_run_in_the_order_that_contributing_says(saved_base, tmp_path):
    fields = {"input_type": "values", "input_size": 3, "sequence_length": 4}
    fpt_adapters.FPTForSequenceClassification.from_backbone(saved_base, **fields).save_pretrained(tmp_path)
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. `(.+?)`", text, re.MULTILINE)
    reached = {}  # file: True, in the order in which functions of it are first called

    def note(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and frame.f_code.co_name != "<module>":
            reached[path.relative_to(PACKAGE).as_posix()] = True

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        AutoModelForSequenceClassification.from_pretrained(tmp_path, base_model_name_or_path=saved_base)
    finally:
        sys.setprofile(before)
    assert [file for file in reached if file in listed] == listed
