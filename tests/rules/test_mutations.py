"""Thousands of mutated deltas and processors: the same model, what the changed values say, or an error; none wrong.

They are loaded in another process, whose memory and time are limited and whose files, sockets and processes are
looked at. `benchmarks/faults.py` prints the counts of the long run.
"""

import contextlib
import json
import linecache
import logging
import os
import random
import shutil
import signal
import sys
import sysconfig
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    IMAGES,
    NUMBERS,
    SERIES,
    TINY_BACKBONES,
    TOKENS,
    contents,
    example,
    forked,
    move,
    needs_fork,
    tiny_config,
)
from huggingface_hub.constants import HF_HOME
from huggingface_hub.errors import StrictDataclassError
from mutations import CONFIG, WEIGHTS, Files, mutate, mutate_bytes, mutate_fields, read_header, with_metadata
from safetensors.torch import load as load_tensors
from tokenizers import normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the top name wants torchvision in 5.5

import fpt_adapters
from fpt_adapters import (
    FPTConfig,
    FPTFeatureExtractor,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTImageProcessor,
)
from fpt_adapters.deltas.file import CONFIG_TEXT_KEY
from fpt_adapters.inputs.vocabulary import fixed_tokenizer
from fpt_adapters.rules.config_digest import EDITABLE

resource = pytest.importorskip("resource")  # where memory can be limited and measured

ALLOWED = (ValueError, TypeError, OSError, StrictDataclassError)  # DeltaError is a ValueError
MOST_SECONDS = 1.0  # of a processor, for one load
MOST_MEGABYTES = 300  # that all loads together may take beyond what good ones do
MOST_DATA = 8 * 2**30  # bytes for the whole process
KILLED_AFTER = 60  # seconds of a processor

LORA = {"peft_type": "lora", "r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}
KINDS = {  # base, whether it is pretrained, fields
    "gpt2": ("gpt2", True, NUMBERS),
    "gpt2 of an earlier version": ("gpt2", True, NUMBERS),
    "bert, tokens": ("bert", True, TOKENS | {"pad_token_id": 0}),
    "gpt2 with an adapter": ("gpt2", True, NUMBERS | {"peft_config": LORA}),
    "gpt2, series, new positions": ("gpt2", True, SERIES | {"positions": "new", "pooling": "mean"}),
    "random gpt2": ("gpt2", False, TOKENS | {"pad_token_id": 0}),
    "random llama": ("llama", False, SERIES),
    "vit": ("vit", True, IMAGES),
    "random vit": ("vit", False, IMAGES),
}
KINDS = {name: kind for name, kind in KINDS.items() if kind[0] in TINY_BACKBONES}


@dataclass
class Truth:
    """A delta and what it is loaded with, its logits, and all weights before training."""

    files: Files
    loaders: tuple
    kwargs: dict[str, Any]
    inputs: dict[str, torch.Tensor]
    logits: torch.Tensor
    config: dict[str, Any]
    base: dict[str, torch.Tensor]


@torch.no_grad()
def logits_of(model, inputs):
    return model.eval()(**inputs).logits


def all_tensors(model):
    """What a model is made of; without what it computes of its configuration, such as rotary frequencies."""
    return {**model.state_dict(), **dict(model.named_parameters())}


def make_truth(name, folder):
    """A trained tiny model of a kind, saved."""
    family, pretrained, fields = KINDS[name]
    model_class, auto_class = FPTForSequenceClassification, AutoModelForSequenceClassification
    if fields["input_type"] == "images":
        model_class, auto_class = FPTForImageClassification, AutoModelForImageClassification
    base, kwargs, init = tiny_config(family), {}, "random"
    if pretrained:
        torch.manual_seed(1)
        AutoModel.from_config(base).save_pretrained(folder / "base")
        base, kwargs, init = folder / "base", {"base_model_name_or_path": folder / "base"}, "pretrained"
    torch.manual_seed(2)
    model = model_class.from_backbone(base, base_model="someone/tiny", backbone_init=init, num_labels=4, **fields)
    before = {name: tensor.clone() for name, tensor in all_tensors(model).items()}
    move(model).save_pretrained(folder / "delta")
    files = contents(folder / "delta")
    if "earlier version" in name:
        files[WEIGHTS] = with_metadata(files[WEIGHTS], CONFIG_TEXT_KEY, None)
    inputs = example(fields["input_type"])
    loaders = (model_class, model_class, auto_class, AutoConfig, FPTConfig)
    config = model_class.from_pretrained(folder / "delta", **kwargs).config.to_dict()
    return Truth(files, loaders, kwargs, inputs, logits_of(model, inputs), config, before)


def plain(value):
    """A value as JSON has it, so that a tuple is a list and the number of a label a text."""
    value = json.loads(json.dumps(value, default=str))
    if value.get("base_model_config"):
        value["base_model_config"].pop("_name_or_path", None)  # which is the base's Hub id
    return value


def changed_fields(truth, model):
    now, before = plain(model.config.to_dict()), plain(truth.config)
    return sorted(name for name in {*now, *before} - {"_name_or_path"} if now.get(name) != before.get(name))


def judge_model(truth, files, fits, model, messages):
    """What came of a load: "same", "told", "honest", or what is wrong with it."""
    if model.config.model_type != "fpt":
        return "another" if fits else "wrong: another kind of model"
    changed = changed_fields(truth, model)
    if not changed and torch.equal(logits_of(model, truth.inputs), truth.logits):
        return "same"
    has_config = CONFIG_TEXT_KEY in read_header(files[WEIGHTS])[0]["__metadata__"]
    if not fits and not set(changed) <= set(EDITABLE):
        return f"wrong: a stale digest, but {changed} differ, or the logits"
    if not fits and has_config and "was edited, or a save was cut off" not in "".join(messages):
        return f"wrong: {changed} differ, and nothing was said"
    values = json.loads(read_header(files[WEIGHTS])[0]["__metadata__"].get(CONFIG_TEXT_KEY) or files[CONFIG])
    return judge_honest(truth, files, values, model) or ("honest" if fits else "told")


FILLED = ("auto", None)  # in the configuration until a model is built


def judge_honest(truth, files, values, model):
    """What is wrong with a model of files that somebody signed: another weight, or another value, than they say."""
    names = {place: name for name, place in model.tensor_places().items()}
    stored = {names[place]: tensor for place, tensor in load_tensors(files[WEIGHTS]).items() if place in names}
    for name, tensor in all_tensors(model).items():
        if name in stored:
            expected = stored[name]
        elif name in truth.base:
            expected = truth.base[name]
        else:
            return f"wrong: {name} is in no file"
        if expected.shape != tensor.shape or not torch.equal(expected.to(tensor.dtype), tensor):
            return f"wrong: {name} is {'not the files' if name in stored else 'changed, and frozen'}"
        if tensor.is_floating_point() and name in stored and not torch.isfinite(tensor).all():
            return f"wrong: {name} is not finite"
    config, known = plain(model.config.to_dict()), FPTConfig.own_fields()
    for name in [name for name in values if name in known and name not in ("base_model_config", "peft_config")]:
        said, got = values[name], config.get(name)
        if name == "trainable":
            said, got = {*said, *(["adapter"] if values.get("peft_config") else [])}, set(got)
        if said not in FILLED and said != got:
            return f"wrong: {name} is {got!r:.60}, where {said!r:.60} is said"
    labels = values.get("id2label")
    if labels is not None and {str(number): name for number, name in labels.items()} != config["id2label"]:
        return "wrong: id2label"
    try:
        logits_of(model, truth.inputs)
    except ValueError:  # inputs that no longer fit
        return None
    except Exception as error:
        return judge_error(error, False).replace("bare", "wrong") + ", in forward"
    return None


# Processors


PIXELS = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(16, 16, 3)


def word_tokenizer():
    return fixed_tokenizer(["[PAD]", *"abcdefgh"], 10, normalizers.Lowercase(), pre_tokenizers.Whitespace())


PROCESSORS = {  # made, loaded by, and used; words are read only by transformers' own classes
    "pictures": (
        lambda: FPTImageProcessor(size=8, num_channels=3, image_mean=0.5, image_std=0.25),
        (FPTImageProcessor, AutoImageProcessor),
        lambda processor: processor(PIXELS)["pixel_values"],
    ),
    "sequences": (
        lambda: FPTFeatureExtractor(feature_size=2, max_length=20, mean=[0.5, 1.0], std=2.0, sampling_rate=8),
        (FPTFeatureExtractor, AutoFeatureExtractor),
        lambda processor: processor(np.ones((5, 2)))["input_values"],
    ),
    "words": (word_tokenizer, (AutoTokenizer,), lambda tokenizer: np.array(tokenizer("a b c")["input_ids"])),
}


def mutate_processor(files, draws):
    """The files of a processor with one mutated."""
    name = draws.choice(sorted(files))
    if draws.random() < 0.4:
        return files | {name: mutate_bytes(files[name], draws)}
    fields = mutate_fields(json.loads(files[name]), draws)
    return files | {name: fields.encode("utf-8", "surrogatepass")}


# The other process


READ_FROM = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
READ_FROM += [sys.prefix, sys.base_prefix, os.fspath(Path(__file__).parents[2]), HF_HOME]
READ_FROM += ["/proc", "/sys", "/dev", "/etc/localtime", "/usr/lib", "/usr/share"]
HARM = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


class Watch:
    """What this process opens, runs and connects to, from the first use on."""

    def __init__(self, folder):
        self.folder, self.found = folder, []
        sys.addaudithook(self._look)

    def _look(self, event, arguments):
        if event in HARM:
            self.found.append(f"{event}{arguments[:1]!r:.200}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not any(path.startswith(place) for place in [os.fspath(self.folder), *READ_FROM]):
                self.found.append(f"open {path}")


class Messages(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def own_frames(error):
    package = os.path.dirname(fpt_adapters.__file__)
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(package)]


def judge_error(error, through_auto):
    """ "refused", "bare" (an allowed error that nobody raised on purpose), "theirs", or what is wrong with it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.filename.rpartition('/')[2]}:{last.name}"
    if own_frames(error):
        own = own_frames(error)[-1]
        place += f" from {own.filename.rpartition('/')[2]}:{own.lineno}"
    allowed = isinstance(error, ALLOWED) or (isinstance(error, ImportError) and "bitsandbytes" in str(error))
    if not allowed:
        word = "theirs" if through_auto and not own_frames(error) else "wrong"
        return f"{word}: {type(error).__name__} in {place}: {error!s:.200}"
    if own_frames(error) and not 0 < len(str(error)) < 3000:
        return f"wrong: a message of {len(str(error))} characters, {type(error).__name__} in {place}"
    raised = "raise" in linecache.getline(last.filename, last.lineno)
    return "refused" if raised else f"bare: {type(error).__name__} in {place}: {error!s:.200}"


def load(loader, folder, kwargs):
    return loader.from_pretrained(folder, **({} if loader in (AutoConfig, FPTConfig) else kwargs))


def run_cases(root, numbers, seed, log):
    """Mutate, load and judge, a line for each in `log`."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, MOST_DATA))
    truths = {}
    for number, name in enumerate(KINDS):
        (root / str(number)).mkdir()
        truths[name] = make_truth(name, root / str(number))
    made = {}
    for name, (make, loaders, use) in PROCESSORS.items():
        make().save_pretrained(root / name)
        made[name] = contents(root / name), loaders, use, use(loaders[-1].from_pretrained(root / name))
    for truth in truths.values():  # imports what loading imports
        for loader in truth.loaders:
            load(loader, write(truth.files, root / "case"), truth.kwargs)
    messages, watch = Messages(), Watch(root)
    logging.getLogger("fpt_adapters").addHandler(messages)
    logging.getLogger("fpt_adapters.deltas.file").setLevel(logging.WARNING)
    for number in numbers:
        draws = random.Random(f"{seed} {number}")
        log.write(json.dumps({"number": number}) + "\n")
        log.flush()
        messages.texts.clear()
        watch.found.clear()
        kind = draws.choice((*truths, *PROCESSORS))
        if kind in PROCESSORS:
            case = run_processor(made[kind], root, draws)
        else:
            case = run_delta(truths[kind], root, draws, messages)
        if watch.found:
            case["outcome"] = f"wrong: {watch.found[0]}"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        log.write(json.dumps({"number": number, "kind": kind, "megabytes": memory} | case) + "\n")


def write(files, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@contextlib.contextmanager
def timed(case):
    """The seconds of a processor that the block takes; the process is ended where they are far too many."""
    signal.setitimer(signal.ITIMER_PROF, KILLED_AFTER)
    start = time.process_time()
    try:
        yield
    finally:
        case["seconds"] = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)


def run_delta(truth, root, draws, messages):
    good = draws.random() < 0.03  # what a load costs here
    what, files, fits = ("nothing", truth.files, False) if good else mutate(truth.files, draws)
    loader = draws.choice(truth.loaders)
    case = {"what": what, "fits": fits, "loader": loader.__name__}
    folder = write(files, root / "case")
    try:
        with timed(case):
            model = load(loader, folder, truth.kwargs)
    except Exception as error:
        return case | {"outcome": judge_error(error, loader.__name__.startswith("Auto"))}
    if isinstance(model, FPTConfig):
        return case | {"outcome": "config"}
    return case | {"outcome": judge_model(truth, files, fits, model, messages.texts)}


def run_processor(made, root, draws):
    files, loaders, use, expected = made
    loader = draws.choice(loaders)
    case = {"what": "processor", "loader": loader.__name__}
    folder = write(mutate_processor(files, draws), root / "case")
    try:
        with timed(case):
            got = use(loader.from_pretrained(folder))
    except Exception as error:
        return case | {"outcome": judge_error(error, loader.__name__.startswith("Auto"))}
    same = np.array_equal(got, expected)
    return case | {"outcome": "same" if same else "honest" if np.isfinite(got).all() else "wrong: not finite"}


def mutated(root, count, seed=0):
    """Run `count` cases; a process that is killed in one is followed by another, behind it."""
    results, following, attempt = [], 0, 0
    while following < count:
        folder, log_file = root / f"run-{attempt}", root / f"log-{attempt}"
        folder.mkdir()

        def work(folder=folder, log_file=log_file, numbers=range(following, count)):
            with open(log_file, "w") as log:
                run_cases(folder, numbers, seed, log)

        _, status = os.waitpid(forked(work), 0)
        lines = [json.loads(line) for line in log_file.read_text().splitlines()]
        results += [line for line in lines if "outcome" in line]
        assert lines, "the process did not begin"
        following = lines[-1]["number"] + 1
        if "outcome" not in lines[-1]:
            ended = {"kind": "?", "outcome": f"wrong: the process ended with {status}", "seconds": KILLED_AFTER}
            results.append(lines[-1] | ended)
        attempt += 1
    return results


@needs_fork
@pytest.mark.parametrize("count", [150, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_mutation_gives_a_wrong_model(count, tmp_path, record_property):
    results = mutated(tmp_path, count)
    outcomes = Counter(result["outcome"].partition(":")[0] for result in results)
    good = max(result["seconds"] for result in results if result.get("what") == "nothing")
    slowest = max((r for r in results if r["kind"] != "words"), key=lambda result: result["seconds"])
    megabytes = [result["megabytes"] for result in results if "megabytes" in result]
    text = (
        f"{count} mutations: {dict(outcomes)}; the slowest {slowest['seconds']:.2f} s (a good load: {good:.2f} s), "
        f"memory {megabytes[0]:.0f} to {megabytes[-1]:.0f} MB"
    )
    print(text)
    record_property("counts", text)
    assert not [result for result in results if result["outcome"].startswith("wrong")]
    assert slowest["seconds"] < MOST_SECONDS, slowest
    assert megabytes[-1] - megabytes[0] < MOST_MEGABYTES
