"""Shared fixtures: tiny backbones, built once a session and copied for each test; no network, no warnings unseen."""

import contextlib
import copy
import gc
import importlib.util
import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import pytest
import safetensors.torch
import torch
import transformers
from client import Client
from hub_server import StandInHub
from packaging.version import Version
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

import fpt_adapters
from fpt_adapters.deltas.file import CONFIG_KEY, CONFIG_TEXT_KEY, DIGESTS_KEY, FORMAT, FORMAT_KEY
from fpt_adapters.deltas.tensors import tensor_digest
from fpt_adapters.rules.config_digest import config_digest

EXAMPLES = Path(__file__).parents[1] / "examples"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, os.fspath(EXAMPLES))  # as for a script that is run there
torch.set_num_threads(1)  # tiny models are faster so, above all beside other processes
gc.freeze()  # Trainer collects garbage at every start: not the imported modules each time

WIDTH, LAYERS, HEADS, VOCABULARY, POSITIONS = 32, 2, 2, 100, 64
COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
}
GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "vocab_size": VOCABULARY}
GPT |= {"bos_token_id": 1, "eos_token_id": 1}  # GPT-2's own lie outside this vocabulary, of which transformers warns
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
TINY_BACKBONES = {
    "gpt2": GPT,
    "openai-gpt": GPT,
    "bert": COMMON,
    "roberta": COMMON | {"max_position_embeddings": POSITIONS + 2},
    "distilbert": {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 64}
    | {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS},
    "albert": COMMON | {"embedding_size": 16},
    "t5": {"d_model": WIDTH, "d_kv": 16, "num_layers": LAYERS, "num_heads": HEADS, "d_ff": 64}
    | {"vocab_size": VOCABULARY},
    "longformer": COMMON | {"max_position_embeddings": POSITIONS + 2, "attention_window": [8, 8]},
    "opt": {name: size for name, size in COMMON.items() if name != "intermediate_size"}
    | {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "gpt_neox": COMMON,
    "llama": COMMON | {"num_key_value_heads": 1},
    "qwen3": COMMON | {"num_key_value_heads": 1, "head_dim": 16},
    "gemma": COMMON | {"num_key_value_heads": 1, "head_dim": 16},
    "modernbert": COMMON | SPECIAL,
}
PICTURES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
PICTURES |= {"image_size": 8, "patch_size": 4}
IMAGE_BACKBONES = {
    "vit": PICTURES | {"intermediate_size": 64},
    "deit": PICTURES | {"intermediate_size": 64},
    "dinov2": PICTURES | {"mlp_ratio": 2},
}
TINY_LSTM = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS}  # of the type fpt_lstm
TRANSFORMERS = Version(transformers.__version__)
if TRANSFORMERS < Version("5.18"):  # in older ones these models cannot mask padding
    del IMAGE_BACKBONES["dinov2"]
if TRANSFORMERS < Version("5.9"):
    IMAGE_BACKBONES.clear()
TINY_BACKBONES |= IMAGE_BACKBONES

TRANSFORMER_GROUPS = ("input", "output", "norm", "position", "attention", "feedforward")  # that all of these have
CAUSAL = ("gpt2", "openai-gpt", "opt", "gpt_neox", "llama", "qwen3", "gemma")

NUMBERS = {"input_type": "values", "input_size": 3, "sequence_length": 10}
TOKENS = {"input_type": "tokens", "vocab_size": 12, "sequence_length": 10}
IMAGES = {"input_type": "images", "image_size": 8, "num_channels": 3, "patch_size": 4}
SERIES = {"input_type": "series", "series_length": 20, "num_channels": 2, "patch_length": 4, "patch_stride": 3}
PATCHES = {"patch_length": 4, "patch_stride": 3}
WINDOWS = {"input_type": "windows", "context_length": 20, "num_input_channels": 2, "mix_channels": True, **PATCHES}
INPUTS = {"values": NUMBERS, "tokens": TOKENS, "images": IMAGES, "series": SERIES, "windows": WINDOWS}  # a config's
FIELDS = NUMBERS | {"num_labels": 4}


def example(input_type: str = "values", batch: int = 2) -> dict[str, torch.Tensor]:
    """A batch that fits the fields of an input type in `INPUTS`."""
    generator = torch.Generator().manual_seed(0)
    if input_type == "tokens":
        return {"input_ids": torch.randint(1, 12, (batch, 10), generator=generator)}
    name = {"images": "pixel_values", "windows": "past_values"}.get(input_type, "input_values")
    size = {"values": (10, 3), "images": (3, 8, 8), "series": (20, 2), "windows": (20, 2)}[input_type]
    return {name: torch.randn(batch, *size, generator=generator)}


def since(version: str, what: str) -> pytest.MarkDecorator:
    """Skip a test of `what` older transformers cannot do."""
    return pytest.mark.skipif(Version(version) > TRANSFORMERS, reason=f"transformers before {version} cannot {what}")


def load_script(path: Path) -> ModuleType:
    """A script as a module, loaded once: classes that are pickled by name must be the ones of that name."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    return sys.modules[path.stem]


# What `activation_checkpointing` is called in TrainingArguments, and in a model's method that switches it on.
CHECKPOINTING = "activation_checkpointing" if TRANSFORMERS >= Version("5.23") else "gradient_checkpointing"


def checkpoint_activations(model, reentrant=False):
    """Switch activation checkpointing on."""
    getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": reentrant})


def tiny_config(model_type: str, **changes) -> PreTrainedConfig:
    """The configuration of a tiny backbone."""
    return AutoConfig.for_model(model_type, **(TINY_BACKBONES.get(model_type, TINY_LSTM) | changes))


VALUES = torch.randn(3, 10, 3, generator=torch.Generator().manual_seed(0))


def build(base, model_class=fpt_adapters.FPTForSequenceClassification, **fields):
    """A model on a base, or on weights drawn for a configuration.

    What the fields leave out of their input type, `INPUTS` says; None leaves a field out.
    """
    drawn = {"backbone_init": "random"} if isinstance(base, PreTrainedConfig) else {}
    fields = INPUTS.get(fields.get("input_type", "values"), {}) | {"num_labels": 4} | drawn | fields
    return model_class.from_backbone(base, **{name: value for name, value in fields.items() if value is not None})


def build_seeded(base, *arguments, **fields):
    """As `build`; the new modules are drawn from one seed."""
    torch.manual_seed(0)
    return build(base, *arguments, **fields)


@torch.no_grad()
def outputs(model, **inputs) -> torch.Tensor:
    """What a model answers in eval mode, to three sequences of numbers where nothing else is given."""
    return model.eval()(**inputs or {"input_values": VALUES})[0]


def reloaded(model, folder: Path, **arguments):
    """The model that comes back from its delta."""
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, **arguments)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The names of the parameters that are no longer as they were."""
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def trained_names(model: torch.nn.Module) -> set[str]:
    """The names of what trains in a model."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what trains in a model."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], **tolerance: float) -> None:
    """Tensors of the same names, at least one, and of the same bits unless `tolerance` (rtol, atol) is given."""
    assert first
    torch.testing.assert_close(dict(first), dict(second), **{"rtol": 0, "atol": 0} | tolerance)


def losses(trainer) -> list[float]:
    """What a Trainer logged of its steps."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def tiny_model(model_type: str, *arguments, **fields):
    """A random tiny model, as `build` makes it."""
    return build(tiny_config(model_type), *arguments, **fields)


@pytest.fixture(scope="session")
def make_model():
    """Build (once a session) and copy a random tiny model: make_model("gpt2", fpt_adapters.FPTModel, **fields)."""
    models = {}

    def make(model_type: str, model_class=fpt_adapters.FPTForSequenceClassification, **fields):
        key = (model_type, model_class, repr(sorted(fields.items())))
        if key not in models:
            models[key] = build_seeded(tiny_config(model_type), model_class, **fields)
        return copy.deepcopy(models[key])

    return make


@contextlib.contextmanager
def refused(*words: str, error: type[Exception] | tuple = ValueError):
    """`pytest.raises(error)` with all of these words, in any order, in a message that a person still reads."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message[:2000]}"
    assert len(message) < 2000, message


def move(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with every parameter that trains moved, as training would, and in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in [parameter for parameter in model.parameters() if parameter.requires_grad]:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def contents(folder: Path) -> dict[str, bytes | None]:
    """What lies in a folder, by its place there (None: a folder); nothing where there is no folder."""
    found = {os.fspath(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {place: path.read_bytes() if path.is_file() else None for place, path in found.items()}


def rewrite_config(folder: Path, values: dict) -> None:
    """Give a saved delta another configuration, in both of its files, as only a stranger would."""
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    sign(folder)


def sign(folder: Path, change: Callable[[dict], None] | None = None) -> None:
    """Write the weights of a delta again, with `change` made to its tensors, and with the digests that fit."""
    file = folder / "model.safetensors"
    file.write_bytes(signed(file.read_bytes(), json.loads((folder / "config.json").read_text()), change))


def signed(weights: bytes, values: dict, change: Callable[[dict], None] | None = None) -> bytes:
    """The weights of a delta, changed or not, with the digests and the configuration of `values` that fit."""
    tensors = safetensors.torch.load(weights)
    if change is not None:
        change(tensors)
    metadata = {
        "format": "pt",
        FORMAT_KEY: str(FORMAT),
        DIGESTS_KEY: ",".join(tensor_digest(tensors[name]) for name in sorted(tensors)),
        CONFIG_KEY: config_digest(values),
        CONFIG_TEXT_KEY: json.dumps(values),
    }
    return safetensors.torch.save(tensors, metadata)


def saved_tensors(folder: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a saved delta by the names that they have in a model."""
    names = {place: name for name, place in model.tensor_places().items()}
    return {names[place]: tensor for place, tensor in load_file(folder / "model.safetensors").items()}


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")


def forked(work: Callable[[], object]) -> int:
    """The id of a child process that does `work` with what this one holds, and ends with 1 if that raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads are not copied
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def saved_once(tmp_path_factory, model_of):
    """A function from a family to a checkpoint of `model_of(family)`, of which no weight is at a default."""
    made = {}

    def base(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = tmp_path_factory.mktemp("bases") / model_type
            torch.manual_seed(0)
            move(model_of(model_type)).save_pretrained(made[model_type])
        return made[model_type]

    return base


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """bases(model_type): the folder of a tiny checkpoint of a family, made once."""
    return saved_once(tmp_path_factory, lambda model_type: AutoModel.from_config(tiny_config(model_type)))


def labelled_examples() -> list[dict]:
    """Eight sequences of 10 x 3 numbers in four classes."""
    generator = torch.Generator().manual_seed(1)
    return [{"input_values": torch.randn(10, 3, generator=generator), "labels": number % 4} for number in range(8)]


def sequences(count: int, seed: int = 0, labels: int = 4) -> list[dict]:
    """Random examples of the default model of `make_model`."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 10, 3, generator=generator)
    classes = torch.randint(labels, (count,), generator=generator).tolist()
    return [{"input_values": v, "labels": c} for v, c in zip(values, classes, strict=True)]


def arguments(folder: Path, **changes) -> TrainingArguments:
    """Those of four steps of eight examples, each logged; what is given in steps or epochs is done so."""
    defaults = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "max_steps": -1 if "num_train_epochs" in changes else 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "steps" if "save_steps" in changes else "no",
        "eval_strategy": "steps" if "eval_steps" in changes else "no",
        "lr_scheduler_type": "constant",
    }
    return TrainingArguments(os.fspath(folder), **(defaults | changes))


TRAINER_FIELDS = {*inspect.signature(Trainer).parameters, "group_learning_rates", "cache_features"}


def trainer_of(model, folder: Path, trainer_class=fpt_adapters.FPTTrainer, **fields) -> Trainer:
    """A Trainer that learns 32 sequences as `arguments` says; `fields`: its own, and those of its arguments."""
    given = {name: value for name, value in fields.items() if name in TRAINER_FIELDS}
    changes = {name: value for name, value in fields.items() if name not in TRAINER_FIELDS}
    return trainer_class(model, arguments(folder, **changes), **({"train_dataset": sequences(32)} | given))


@pytest.fixture
def make_trainer(make_model, tmp_path):
    """As `trainer_of`, of a tiny GPT-2 unless another model is given; `folder`: below tmp_path."""

    def make(model=None, folder="", **fields):
        return trainer_of(make_model("gpt2") if model is None else model, tmp_path / folder, **fields)

    return make


@pytest.fixture
def train(make_trainer):
    """As `make_trainer`, and train; `resume`: a checkpoint, or True for the last one."""

    def make(model=None, resume=None, **fields):
        trainer = make_trainer(model, **fields)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return make


def run_trainer(model, folder, trainer_class=fpt_adapters.FPTTrainer, data=None, resume=None, trainer=(), **changes):
    """The Trainer, after three steps on `labelled_examples` or on `data`; `changes`: of the training arguments."""
    settings = {"max_steps": 3, "lr_scheduler_type": "linear", "dataloader_pin_memory": False} | changes
    done = trainer_class(
        model, arguments(folder, **settings), train_dataset=data or labelled_examples(), **dict(trainer)
    )
    done.train(resume_from_checkpoint=resume)
    return done


@pytest.fixture(scope="session")
def saved_base(tmp_path_factory):
    """A tiny GPT-2 saved as an ordinary transformers checkpoint, as a pretrained base would be."""
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    torch.manual_seed(1)
    AutoModel.from_config(tiny_config("gpt2")).save_pretrained(folder)
    return folder


PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")  # with their places as ids
PIECES += ("good", "bad", "very", "film", "ann", "##a", "##s", "saw", "paris", "not")


@pytest.fixture(scope="session")
def text_base(tmp_path_factory):
    """A tiny BERT with a tokenizer of fourteen pieces, and the same without one."""
    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(1)
    model = AutoModel.from_config(tiny_config("bert"))
    model.save_pretrained(folder / "base")
    model.save_pretrained(folder / "bare")
    backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **special)
    tokenizer.save_pretrained(folder / "base")
    return folder / "base"


@pytest.fixture(scope="session")
def gpt2_base():
    """A random model of the paper's size on CIFAR-10, shared: read it, do not change it."""
    fields = {"image_size": 32, "num_channels": 3, "patch_size": 4, "num_labels": 10, "pooling": "last"}
    return fpt_adapters.FPTForImageClassification.from_backbone(
        GPT2Config(), backbone_init="random", input_type="images", **fields
    )


@pytest.fixture(scope="module")
def hub(saved_base):
    """A stand-in of the Hub that has a base; nobody else is asked for anything."""
    with StandInHub() as hub:
        hub.add_repo("owner/base", saved_base)
        yield hub
    assert [url for url in hub.elsewhere if "://datasets-server." not in url] == []  # which knows no data set of ours


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder below which every client works."""
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def make_client(hub, home):
    """Start a process that talks to the stand-in, with a cache of its own: make_client("owner", token="hf_owner")."""
    with contextlib.ExitStack() as clients:

        def make(name, token=None, variables=None, **how):
            environment = hub.environment(home / name, token=token, **(variables or {}))
            return clients.enter_context(Client(environment, cwd=home, **how))

        yield make


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, left: float) -> None:
    """Leave `left` bytes of a small disk free, by a file called filling."""
    (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free - int(left)))


def used(folder: Path) -> int:
    """The bytes that a small disk gives out, 4096 at once, for what lies in `folder`."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def warned(caplog):
    """The records of transformers' and the library's warnings, which conftest's verbosity would hide."""
    level = logging.get_verbosity()
    logging.set_verbosity_warning()
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()
    logging.set_verbosity(level)


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """No file outside tmp_path, and no progress bars on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("FPT_DEBUG", raising=False)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def assert_told(quiet, monkeypatch, capsys):
    """Assert that a script, run as `python script.py` would, ends with one line, which has all of `parts`."""

    def assert_told(script: Path, arguments: list, *parts: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(script), run_name="__main__")
        lines = capsys.readouterr().err.strip().splitlines()
        assert exit_.value.code == 2 and len(lines) == 1, lines
        assert lines[0].startswith(f"{script.name}: error: ")
        assert [part for part in parts if part not in lines[0]] == [], lines[0]

    return assert_told
