"""Deltas for machines with transformers alone: the library's code travels with them where that is asked for."""

import ast
import builtins
import functools
import json
import os
import shutil
import site
import sys
from pathlib import Path

import pytest
import transformers
from conftest import IMAGE_BACKBONES
from packaging.version import Version
from safetensors.torch import load
from transformers import GPT2Config, ViTConfig
from transformers.dynamic_module_utils import check_imports, get_relative_import_files, get_relative_imports

import fpt_adapters
from fpt_adapters import FPTConfig, IdentityConfig, LSTMConfig
from fpt_adapters.hub.code_export import code_files

OLD_TRANSFORMERS = Version(transformers.__version__) < Version("5.6")
FOLDERS = "of code in a folder, old versions of transformers copy only what the first file imports itself"
LIBRARY = Path(fpt_adapters.__file__).parent
MAY_IMPORT = {"PIL", "huggingface_hub", "jinja2", "numpy", "safetensors", "torch", "transformers"}
PROCESSORS = {"image_processing_fpt.py", "feature_extraction_fpt.py", "table_processing_fpt.py"}
PROCESSORS |= {"time_series_processing_fpt.py"}
OPTIONAL = {"fpt_adapters.py": ["peft"], "fpt_series_grid.py": ["pandas"], "fpt_series_times.py": ["pandas"]}
OPTIONAL |= {"time_series_processing_fpt.py": ["pandas"]}
MODELS = {"owner/image": "AutoModelForImageClassification", "owner/text": "AutoModelForSequenceClassification"}
MODELS |= {"owner/values": "AutoModelForTokenClassification", "owner/adapter": "AutoModelForImageClassification"}
TRUST = {"trust_remote_code": True}

SETUP = """
import json, os, sys
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers import AutoModelForTokenClassification, AutoFeatureExtractor, AutoTokenizer, PreTrainedTokenizerFast
from transformers import GPT2Config, TrainingArguments, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # transformers hides it in old versions

INPUTS = {
    "owner/image": {"pixel_values": torch.linspace(-1, 1, 128).view(2, 1, 8, 8)},
    "owner/text": {"input_ids": torch.arange(1, 17).view(2, 8)},
    "owner/values": {"input_values": torch.linspace(-1, 1, 60).view(2, 10, 3)},
}
INPUTS["owner/adapter"] = INPUTS["owner/image"]

@torch.no_grad()
def logits(model, repo_id):
    return model(**INPUTS[repo_id]).logits.flatten().tolist()

def load(repo_id, auto_class="AutoModelForImageClassification", **trusted):
    return getattr(transformers, auto_class).from_pretrained(repo_id, **trusted)
"""

PUSHING = """
from fpt_adapters import *
from transformers import pipeline  # and not the library's own

def text_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = ["<pad>", "<unk>", "one", "two", "three", *map(str, range(20))]
    words = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")

def make(repo_id):
    torch.manual_seed(0)
    if repo_id in ("owner/image", "owner/adapter"):
        fields = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 2, "num_labels": 3}
        if repo_id == "owner/adapter":
            fields["peft_config"] = {"peft_type": "lora", "r": 2, "init_lora_weights": False}
        model = FPTForImageClassification.from_backbone("owner/base", **fields)
        model.processor = FPTImageProcessor(8, 1, image_mean=0.5, image_std=0.25)
    elif repo_id == "owner/text":
        fields = {"input_type": "tokens", "vocab_size": 25, "sequence_length": 8, "num_labels": 2, "pad_token_id": 0}
        model = FPTForSequenceClassification.from_backbone("owner/base", **fields)
        model.processor = text_tokenizer()
    else:
        fields = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 2}
        model = FPTForTokenClassification.from_backbone("owner/base", **fields)
        model.processor = FPTFeatureExtractor(feature_size=3, max_length=10, mean=1.0, std=2.0)
    return model.eval()
"""


@pytest.fixture(scope="module")
def library(make_client):
    """A process that has the library."""
    return make_client("library", token="hf_owner", setup=SETUP + PUSHING)


@pytest.fixture(scope="module")
def make_clean(make_client, home):
    """Start a process that has all that is installed here, but for the packages whose names begin with `missing`."""

    def make(name, *missing):
        folder = home / f"packages-of-{name}"
        folder.mkdir()
        for path in [path for place in site.getsitepackages() for path in Path(place).iterdir()]:
            if not path.name.startswith((*missing, "__editable__")) and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)
        how = {"modules": ("transformers",), "python": (sys.executable, "-S"), "setup": SETUP}
        return make_client(name, token="hf_owner", variables={"PYTHONPATH": folder}, **how)

    return make


@pytest.fixture(scope="module")
def clean(make_clean):
    """A process that has transformers, and not the library."""
    return make_clean("clean", "fpt_adapters")


@pytest.fixture(scope="module")
def other_clean(make_clean):
    """Another of these, on another machine."""
    return make_clean("other-clean", "fpt_adapters")


@pytest.fixture(scope="module")
def with_code(library):
    """Logits by repo, all of which hold the code."""
    code = """
    result = {}
    for repo_id in INPUTS:
        model = make(repo_id)
        model.push_to_hub(repo_id, with_code=True)
        result[repo_id] = logits(model, repo_id)
    """
    return library.run(code)


@pytest.fixture(scope="module")
def without_code(library):
    """The image classifier is pushed without code."""
    library.run('make("owner/image").push_to_hub("owner/plain")')
    return "owner/plain"


@pytest.fixture(params=MODELS)
def repo_id(request):
    return request.param


def code_in(names):
    return {name for name in names if name.endswith(".py")}


def tensors_of(files):
    return {name: tensor.tolist() for name, tensor in load(files["model.safetensors"]).items()}


def json_of(files, name):
    return json.loads(files[name])


def check_no_code(files):
    """Neither code nor a word of it."""
    assert not code_in(files)
    assert b"auto_map" not in b"".join(data for name, data in files.items() if name.endswith(".json"))
    assert b"trust_remote_code" not in files["README.md"]


# Where the library is imported, nobody is asked

ASKED_FOR = {  # by the kind of model: what is loaded from its folder
    "image": [
        *(("pipeline", "image-classification"), ("pipeline", "image-feature-extraction"), ("AutoProcessor", None)),
        *(("AutoImageProcessor", None), ("AutoVideoProcessor", "takes no videos")),
        *(("AutoConfig", None), ("AutoModel", None), ("AutoModelForImageClassification", None)),
    ],
    "text": [
        *(("pipeline", "text-classification"), ("pipeline", "feature-extraction"), ("AutoProcessor", None)),
        *(("AutoTokenizer", None), ("AutoModelForSequenceClassification", None)),
    ],
    "values": [("AutoFeatureExtractor", None), ("AutoProcessor", None), ("AutoModelForTokenClassification", None)],
}


@pytest.mark.parametrize("kind", ASKED_FOR)
def test_a_local_folder_with_code_loads_without_a_question(kind, saved_base, library, tmp_path):
    scope = {}
    base = f'{str(saved_base)!r}, base_model="owner/base"'
    exec((SETUP + PUSHING).replace('"owner/base"', base), scope)
    model = scope["make"](f"owner/{kind}")
    model.with_code = True
    model.processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "modeling_fpt.py").is_file()
    code = """
    import builtins
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    def ask(prompt):
        raise AssertionError(prompt)

    builtins.input = ask
    for loader, wanted in loaders:
        try:
            if loader == "pipeline":
                pipeline(wanted, model=folder)
            else:
                (globals().get(loader) or getattr(transformers, loader)).from_pretrained(folder)
        except ValueError as error:
            assert wanted and wanted in str(error), (loader, error)
    """
    library.run(code, loaders=ASKED_FOR[kind], folder=str(tmp_path))


# What travels


def imported_names(text):
    """What a module imports: pairs of a module's name and the level of its relative import (0: absolute)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node.level


IMAGES = {"input_type": "images", "image_size": 8, "num_channels": 1, "patch_size": 2}
VALUES = {"input_type": "values", "input_size": 3, "sequence_length": 10}
TABLE = {"input_type": "table", "column_sizes": [1, 3]}
WINDOWS = {
    "input_type": "windows",
    "context_length": 20,
    "num_input_channels": 2,
    "patch_length": 4,
    "patch_stride": 2,
}
FORECAST = WINDOWS | {"prediction_length": 5}
TOKENS = {"input_type": "tokens", "vocab_size": 25, "sequence_length": 8}
LORA = {"peft_type": "lora", "r": 2, "target_modules": ["c_attn"]}
IMAGE_PROCESSOR = b'{"image_processor_type": "FPTImageProcessor"}'
EXTRACTOR = b'{"feature_extractor_type": "FPTFeatureExtractor"}'
SERIES_PROCESSOR = b'{"feature_extractor_type": "FPTTimeSeriesProcessor"}'
TABLE_PROCESSOR = b'{"feature_extractor_type": "FPTTableProcessor"}'
GPT2 = GPT2Config()
TRAVELLERS = {  # by kind of model: its base, its fields, and its processor's configuration
    "text": (GPT2, TOKENS, b"{}"),
    "image": (GPT2, IMAGES, IMAGE_PROCESSOR),
    "values": (GPT2, VALUES, EXTRACTOR),
    "table": (GPT2, TABLE, TABLE_PROCESSOR),
    "forecast": (GPT2, FORECAST, SERIES_PROCESSOR),
    "image backbone": (ViTConfig(), IMAGES, IMAGE_PROCESSOR),
    "lstm": (LSTMConfig(), VALUES, EXTRACTOR),
    "identity": (IdentityConfig(), VALUES, EXTRACTOR),
    "random": (GPT2, TOKENS | {"backbone_init": "random"}, b"{}"),
    "layers": (GPT2, TOKENS | {"backbone_layers": 2}, b"{}"),
    "quantized": (GPT2, TOKENS | {"base_quantization": {"load_in_8bit": True}}, b"{}"),
    "adapter": (GPT2, IMAGES | {"peft_config": LORA}, IMAGE_PROCESSOR),
}
MOST_FILES, MOST_BYTES = 20, 150_000
MOST_WITH_TIMES = 175_000  # where the processor knows calendars and zones


@functools.cache
def code_of(kind):
    """The files that travel with a kind of model."""
    base, fields, processor = TRAVELLERS[kind]
    return code_files(FPTConfig(base_model_config=base, **fields), processor)


@pytest.fixture(params=TRAVELLERS)
def travelling(request, tmp_path):
    """The files that travel with each kind of model; they are in `tmp_path`, too."""
    for name, text in code_of(request.param).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return code_of(request.param)


@pytest.mark.parametrize("kind", [kind for kind in TRAVELLERS if kind != "adapter"])
def test_what_travels_is_little(kind):
    files = code_of(kind)
    size = sum(len(text.encode()) for text in files.values())
    print(f"{kind}: {len(files)} files, {size:,} bytes")
    assert len(files) <= MOST_FILES and size <= (MOST_WITH_TIMES if kind == "forecast" else MOST_BYTES)


def test_each_file_is_needed(travelling, tmp_path):
    entries = {"configuration_fpt.py", "modeling_fpt.py", *PROCESSORS} & travelling.keys()
    needed = {Path(file).name for name in entries for file in get_relative_import_files(tmp_path / name)}
    assert {"configuration_fpt.py", "modeling_fpt.py"} <= travelling.keys() == needed | entries


MARKS = {  # of what only some models need: what begins its definition
    "class FPTImageProcessor(": {"image", "image backbone", "adapter"},
    "class FPTFeatureExtractor(": {"values", "lstm", "identity"},
    "class FPTTableProcessor(": {"table"},
    "class FPTTimeSeriesProcessor(": {"forecast"},
    "class ColumnsEmbedding(": {"table"},
    "class WindowsProjection(": {"forecast"},
    "class FPTForTimeSeriesPrediction(": {"forecast"},
    "class FPTForImageClassification(": {"image", "image backbone", "adapter"},
    "class FPTForAudioClassification(": set(),
    "class ImageEncoder(": {"image backbone"},
    "class LSTMModel(": {"lstm"},
    "class IdentityModel(": {"identity"},
    "def draw_random(": {"random"},
    "def first_layers(": {"layers"},
    "def load_placed(": {"quantized"},
    "    from peft import": {"adapter"},
    "class FPTPreTrainedModel(": set(TRAVELLERS),
    "def read_delta(": set(TRAVELLERS),
}
AT_HOME = ("class FPTCard", "class Flattener", "def upload(", "def find_deltas(", "class NoLargerThan(")
MARKS |= {mark: set() for mark in AT_HOME}


@pytest.mark.parametrize("mark", MARKS)
def test_a_model_takes_along_what_it_needs(mark):
    assert any(mark in path.read_text(encoding="utf-8") for path in LIBRARY.rglob("*.py"))
    assert {kind for kind in TRAVELLERS if mark in "".join(code_of(kind).values())} == MARKS[mark]


def loose_names(text):
    """Names that a module uses at its top or in its functions, and nowhere defines, imports or takes."""
    used, known = set(), {*dir(builtins), "__file__"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.ExceptHandler)):
            known.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            known.add(node.arg)
    return used - known


def own_names(text):
    """Names that a module defines at its top."""
    names = set()
    for node in ast.parse(text).body:
        stored = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load)]
        names |= {node.name} if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else set(stored)
    return names


def test_a_travelling_file_needs_nothing_uncommon(travelling, tmp_path):
    for name, text in travelling.items():
        assert not loose_names(text), name
        for module, level in imported_names(text):
            assert level in (0, 1) and module is not None, f"from . import, or from .. import: {module}"
            if level == 1:
                assert f"{module}.py" in travelling and module in get_relative_imports(tmp_path / name)
            else:
                assert module.partition(".")[0] in {*MAY_IMPORT, *OPTIONAL.get(name, ()), *sys.stdlib_module_names}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert {alias.name for alias in node.names} <= own_names(travelling[f"{node.module}.py"]), name
        check_imports(tmp_path / name)  # raises ImportError for what is missing, as a clean machine would


def travelling_in(files):
    """The code that should be in a repo, by what its other files say."""
    return code_files(FPTConfig.from_dict(json_of(files, "config.json")), files.get("preprocessor_config.json", b"{}"))


def test_code_travels_when_asked(repo_id, with_code, hub):
    files = hub.files(repo_id)
    assert code_in(files) == set(travelling_in(files))
    for name, text in travelling_in(files).items():
        assert files[name].decode() == text
    auto_map = json_of(files, "config.json")["auto_map"]
    assert auto_map["AutoConfig"] == "configuration_fpt.FPTConfig"
    assert auto_map[MODELS[repo_id]].startswith("modeling_fpt.FPTFor")
    assert "trust_remote_code=True" in files["README.md"].decode()
    assert not [name for name in files if "/" in name or name.endswith((".pyc", ".bin"))]


def test_what_an_auto_map_names_is_there(repo_id, with_code, hub):
    files = hub.files(repo_id)
    maps = [json_of(files, name).get("auto_map", {}) for name in files if name.endswith(".json")]
    for place in [place for auto_map in maps for place in auto_map.values()]:
        module, _, name = place.partition(".")
        assert f"class {name}(" in files[f"{module}.py"].decode()


def test_no_code_travels_unless_asked(without_code, hub):
    check_no_code(hub.files(without_code))


# Without the library


def test_a_clean_machine_has_no_library(clean, other_clean):
    for client in (clean, other_clean):
        assert "ModuleNotFoundError" in client.fails("import fpt_adapters").kinds


def test_the_attention_of_one_repo_takes_no_place_of_anothers(with_code, clean):
    code = """
    from transformers import AttentionInterface
    for repo_id in ("owner/text", "owner/values"):
        AutoModel.from_pretrained(repo_id, trust_remote_code=True)
    names = [name for name in AttentionInterface() if "fpt" in name]
    result = [len(names), all(AttentionInterface()[name].__module__ == name for name in names)]
    """
    count, own = clean.run(code)
    assert count >= 2 and own


LOADED = """
model = load(source, auto_class, **trusted)
result = [logits(model, repo_id), type(model).__module__.partition(".")[0], "fpt_adapters" in sys.modules]
"""


def test_a_repo_with_code_loads_without_the_library(repo_id, with_code, clean):
    got = clean.run(LOADED, source=repo_id, repo_id=repo_id, auto_class=MODELS[repo_id], trusted=TRUST)
    assert got == [with_code[repo_id], "transformers_modules", False]


RARE = {  # a base that is drawn from its seed, and fields of the model on it
    "lstm": ("LSTMConfig(hidden_size=16)", {}),
    "identity": ("IdentityConfig(hidden_size=16)", {"trainable": ["input", "output"]}),
    "layers": ("GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=9)", {"backbone_layers": 2}),
    "vit": ("transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)", {}),
}


@pytest.mark.parametrize("kind", [kind for kind in RARE if kind != "vit" or IMAGE_BACKBONES])
def test_what_only_some_models_need_runs_without_the_library(kind, library, clean):
    code = """
    torch.manual_seed(0)
    fields |= {"input_size": 3, "sequence_length": 10, "num_labels": 2, "backbone_init": "random"}
    model = FPTForSequenceClassification.from_backbone(eval(base), **fields).eval()
    model.push_to_hub(repo_id, with_code=True)
    result = logits(model, "owner/values")
    """
    base, fields = RARE[kind]
    expected = library.run(code, repo_id=f"owner/{kind}", base=base, fields=fields)
    code = 'result = logits(load(repo_id, "AutoModelForSequenceClassification", **trusted), "owner/values")'
    assert clean.run(code, repo_id=f"owner/{kind}", trusted=TRUST) == expected


NATIVE = {  # a base that is drawn from its seed, its processor, the model, its pipeline and a raw row
    "pictures": (
        "transformers.ViTConfig(**small, image_size=8, patch_size=4)",
        *("FPTImageProcessor(8, 3)", "FPTForImageClassification", {}),
        *("image-classification", 'Image.new("RGB", (9, 12), "red")'),
    ),
    "sound": (
        "transformers.Wav2Vec2Config(**small, conv_dim=[16], conv_kernel=[10], conv_stride=[5])",
        *("transformers.Wav2Vec2FeatureExtractor()", "FPTForAudioClassification", {"sequence_length": 400}),
        *("audio-classification", "np.sin(np.arange(300.0))"),
    ),
    "text": (
        "transformers.BertConfig(**small, vocab_size=25)",
        *("text_tokenizer()", "FPTForSequenceClassification", {"sequence_length": 8}),
        *("text-classification", '"one two three"'),
    ),
}


@pytest.mark.parametrize("kind", NATIVE)
def test_native_input_is_read_without_the_library(kind, library, clean):
    base, processor, model, fields, task, row = NATIVE[kind]
    code = """
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    fields |= {"input_type": "native", "num_labels": 2, "backbone_init": "random"}
    model = eval(model).from_backbone(eval(base), **fields).eval()
    model.processor = eval(processor)
    model.push_to_hub(repo_id, with_code=True)
    """
    library.run(code, repo_id=f"owner/native-{kind}", base=base, processor=processor, model=model, fields=fields)
    code = """
    import numpy as np
    from PIL import Image
    result = transformers.pipeline(task, model=repo_id, **trusted)(eval(row))
    """
    asked = {"repo_id": f"owner/native-{kind}", "task": task, "row": row}
    assert clean.run(code, trusted=TRUST, **asked) == library.run(code, trusted={}, **asked)


def test_an_adapter_without_peft_says_so(with_code, make_clean):
    code = "result = logits(load(repo_id, **trusted), repo_id)"
    client = make_clean("no-peft", "fpt_adapters", "peft")
    error = client.fails(code, repo_id="owner/adapter", trusted=TRUST)
    assert "ImportError" in error.kinds and "pip install peft" in str(error)
    assert client.run(code, repo_id="owner/image", trusted=TRUST) == with_code["owner/image"]


IMAGE_FEATURES = """
pixels = torch.arange(64, dtype=torch.uint8).view(8, 8)
found = AutoImageProcessor.from_pretrained(repo_id, **trusted)(pixels, return_tensors="pt")
result = {name: value.tolist() for name, value in found.items()}
"""
ALIKE = {  # code that leaves the same result on a machine without the library as on one with it
    ("owner/image", "headless model"): """
        model = AutoModel.from_pretrained(repo_id, **trusted)
        with torch.no_grad():
            result = model(**INPUTS[repo_id]).last_hidden_state.flatten().tolist()
    """,
    ("owner/image", "pipeline"): """
        from PIL import Image
        classify = pipeline("image-classification", model=repo_id, **trusted)
        result = classify(Image.linear_gradient("L").resize((8, 8)))
        assert len(result) == 3
    """,
    ("owner/image", "processor"): IMAGE_FEATURES,
    ("owner/adapter", "processor"): IMAGE_FEATURES,
    ("owner/text", "tokenizer"): """
        found = AutoTokenizer.from_pretrained(repo_id, **trusted)("one two 7", return_tensors="pt")
        result = {name: value.tolist() for name, value in found.items()}
    """,
    ("owner/values", "feature extractor"): """
        steps = torch.linspace(0, 1, 30).view(10, 3).numpy()
        found = AutoFeatureExtractor.from_pretrained(repo_id, **trusted)(steps, return_tensors="pt")
        result = {name: value.tolist() for name, value in found.items()}
    """,
}


@pytest.mark.parametrize("repo_id, what", ALIKE)
def test_it_does_without_the_library_what_it_does_with_it(repo_id, what, with_code, clean, library):
    expected = library.run(ALIKE[repo_id, what], repo_id=repo_id, trusted={})
    assert expected and clean.run(ALIKE[repo_id, what], repo_id=repo_id, trusted=TRUST) == expected


def test_nothing_is_executed_without_trust(with_code, other_clean, home):
    modules = home / "other-clean" / "modules"
    code = """
    transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE = 1  # seconds that transformers waits for a yes
    globals()[auto_class].from_pretrained(repo_id, **trusted)
    """
    asked = [(repo_id, auto_class, {"trust_remote_code": False}) for repo_id, auto_class in MODELS.items()]
    asked += [("owner/image", "AutoConfig", {}), ("owner/image", "AutoImageProcessor", {"trust_remote_code": False})]
    for repo_id, auto_class, trusted in asked:
        error = other_clean.fails(code, repo_id=repo_id, auto_class=auto_class, trusted=trusted)
        assert "ValueError" in error.kinds
        assert "trust_remote_code=True" in str(error) and "custom code" in str(error)
    assert not list(modules.rglob("*fpt*.py"))
    assert other_clean.run('result = [name for name in sys.modules if "fpt" in name]') == []


@pytest.mark.parametrize("trusted", [{}, TRUST], ids=["untrusted", "trusted"])
def test_a_repo_without_code_is_not_known_without_the_library(trusted, without_code, clean):
    error = clean.fails("load(repo_id, **trusted)", repo_id=without_code, trusted=trusted)
    assert "does not recognize this architecture" in str(error)


# Saved again


@pytest.fixture(scope="module")
def saved_again(with_code, clean, home):
    """Folders that a clean machine saved into, by repo; each was also pushed, to a repo with "-again"."""
    folders = {repo_id: str(home / repo_id.replace("/", "-")) for repo_id in MODELS}
    code = """
    for repo_id, auto_class in models.items():
        model = load(repo_id, auto_class, trust_remote_code=True)
        model.save_pretrained(folders[repo_id])
        model.push_to_hub(repo_id + "-again")
    """
    clean.run(code, models=MODELS, folders=folders)
    return folders


def test_saved_again_it_keeps_its_code(repo_id, saved_again, hub):
    old, new = hub.files(repo_id), hub.files(f"{repo_id}-again")
    code = code_in(old) - PROCESSORS
    assert code == code_in(os.listdir(saved_again[repo_id])) == code_in(new)
    assert new.keys() - code == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    for name in code:
        assert new[name] == old[name], name
    assert json_of(new, "config.json") == json_of(old, "config.json")
    assert tensors_of(new) == tensors_of(old)
    assert "- fpt\n" in new["README.md"].decode()  # by which others find it


def test_the_stock_trainer_trains_it_without_the_library(with_code, clean, library):
    code = """
    model = load("owner/image", trust_remote_code=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    rows = [{"pixel_values": pixels, "labels": 1} for pixels in INPUTS["owner/image"]["pixel_values"]]
    arguments = TrainingArguments("run", use_cpu=True, disable_tqdm=True, report_to="none", max_steps=2, save_steps=1)
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    result = [sorted(changed), sorted(trained), logits(model.eval(), "owner/image")]
    """
    changed, trained, expected = clean.run(code)
    assert changed == trained
    assert library.run('result = logits(load("run/checkpoint-2"), "owner/image")') == expected


AT_HOME_ONLY = ("from_backbone('owner/base')", "print_trainable_parameters()", "save_backbone('backbone')")
AT_HOME_ONLY += ("add_adapter('lora')", "gradient_checkpointing_enable()")


@pytest.mark.parametrize("call", AT_HOME_ONLY)
def test_what_stays_at_home_says_so(call, with_code, clean):
    error = clean.fails(f'load("owner/image", trust_remote_code=True).{call}')
    assert "ImportError" in error.kinds and "pip install fpt_adapters" in str(error)


def test_a_base_without_a_hub_id_is_not_pushed_from_code_either(with_code, clean):
    code = """
    model = load("owner/image", trust_remote_code=True)
    model.config.base_model = None
    model.push_to_hub("owner/nameless")
    """
    assert "names the Hub id of its base" in str(clean.fails(code))


@pytest.mark.parametrize("place", ["folder", "repo"])
def test_saved_again_it_loads_on_a_third_machine(place, repo_id, saved_again, with_code, other_clean, library):
    if place == "folder" and OLD_TRANSFORMERS:
        pytest.skip(FOLDERS)
    source = saved_again[repo_id] if place == "folder" else f"{repo_id}-again"
    values = {"source": source, "repo_id": repo_id, "auto_class": MODELS[repo_id]}
    assert other_clean.run(LOADED, trusted=TRUST, **values) == [with_code[repo_id], "transformers_modules", False]
    assert library.run(LOADED, trusted={}, **values) == [with_code[repo_id], "fpt_adapters", True]


def test_the_library_drops_the_code_again(repo_id, with_code, library, hub, tmp_path):
    code = """
    model = load(repo_id, auto_class)
    model.save_pretrained(folder)
    model.push_to_hub(repo_id + "-plain")
    result = logits(load(folder, auto_class), repo_id)
    """
    values = {"folder": str(tmp_path), "repo_id": repo_id, "auto_class": MODELS[repo_id]}
    assert library.run(code, **values) == with_code[repo_id]
    check_no_code(hub.files(f"{repo_id}-plain"))
    check_no_code({path.name: path.read_bytes() for path in tmp_path.iterdir()} | {"README.md": b""})


def test_saving_without_code_over_a_folder_with_code_leaves_nothing_stale(with_code, library, tmp_path):
    code = """
    model = load("owner/image")
    model.save_pretrained(folder, with_code=True)
    before = os.listdir(folder)
    model.save_pretrained(folder, with_code=False)
    result = [before, "auto_map" in json.load(open(folder + "/config.json"))]
    """
    before, mapped = library.run(code, folder=str(tmp_path))
    assert "modeling_fpt.py" in before and not mapped


@pytest.mark.skipif(OLD_TRANSFORMERS, reason=FOLDERS)
def test_code_in_a_folder_runs_without_the_library(with_code, library, other_clean, tmp_path):
    library.run('load("owner/image").save_pretrained(folder, with_code=True)', folder=str(tmp_path / "saved"))
    moved = shutil.move(tmp_path / "saved", tmp_path / "moved")
    code = 'result = logits(load(folder, trust_remote_code=True), "owner/image")'
    assert other_clean.run(code, folder=str(moved)) == with_code["owner/image"]


def test_no_code_names_a_local_path(repo_id, with_code, saved_again, hub, home):
    for name in (repo_id, f"{repo_id}-again"):
        for file, data in hub.files(name).items():
            assert str(home).encode() not in data and b"site-packages" not in data, file


def test_the_trainer_pushes_code_when_asked(library, clean, hub):
    code = """
    model = make("owner/image")
    model.with_code = True
    rows = [{"pixel_values": pixels, "labels": 1} for pixels in INPUTS["owner/image"]["pixel_values"]]
    arguments = TrainingArguments(
        "trained", use_cpu=True, disable_tqdm=True, report_to="none", max_steps=2, save_steps=1, push_to_hub=True,
        hub_model_id="owner/trained", hub_strategy="checkpoint", hub_always_push=True,
    )
    trainer = FPTTrainer(model, arguments, train_dataset=rows, processing_class=model.processor)
    trainer.train()
    trainer.push_to_hub()
    trainer.model.push_to_hub("owner/trained-too")
    result = logits(trainer.model.eval(), "owner/image")
    """
    expected = library.run(code)
    files, others = hub.files("owner/trained"), hub.files("owner/trained-too")
    assert {name for name in files if "/" not in name} == others.keys()
    for name in others.keys() - {"README.md", "model.safetensors"}:  # whose header is in any order
        assert others[name] == files[name], name
    assert tensors_of(others) == tensors_of(files)
    assert {name for name in code_in(files) if "/" not in name} == set(travelling_in(files))
    assert "auto_map" in json_of(files, "config.json") and "auto_map" in json_of(files, "preprocessor_config.json")
    code = """
    model = load("owner/trained", trust_remote_code=True)
    AutoImageProcessor.from_pretrained("owner/trained", trust_remote_code=True)
    result = logits(model, "owner/image")
    """
    assert clean.run(code) == expected
