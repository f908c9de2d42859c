"""Loading a stranger's delta: it runs no code, reads no file but its own, has no absurd size, changes no frozen weight.

Each test takes a good delta, changes it as its author could (with digests that fit), and loads it.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import COMMON
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification, FPTModel
from fpt_adapters.delta import CONFIG_KEY, DIGESTS_KEY, _config_digest, tensor_digest

FIELDS = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
INPUTS = torch.linspace(-1, 1, 60).reshape(2, 10, 3)
HUGE = 10**12
KERNEL = "evil/kernel"


def edit(file, **changes):
    """Change a JSON file; a change of a dict goes into it."""
    values = json.loads(file.read_text())
    for name, change in changes.items():
        values[name] = values[name] | change if isinstance(change, dict) and values.get(name) else change
    file.write_text(json.dumps(values))


def sign(folder, change=None):
    """Write the weights of a delta again, with `change` made to its tensors, and with the digests that fit."""
    tensors = load_file(folder / "model.safetensors")
    if change is not None:
        change(tensors)
    metadata = {
        "format": "pt",
        DIGESTS_KEY: ",".join(tensor_digest(tensors[name]) for name in sorted(tensors)),
        CONFIG_KEY: _config_digest(folder / "config.json"),
    }
    save_file(tensors, folder / "model.safetensors", metadata=metadata)


@pytest.fixture(scope="module")
def good(saved_base, tmp_path_factory):
    """Two good deltas: one on the saved base, one on random weights."""
    folder = tmp_path_factory.mktemp("good")
    for init in ("pretrained", "random"):
        model = FPTForSequenceClassification.from_backbone(
            saved_base, base_model="someone/tiny", backbone_init=init, **FIELDS
        )
        model.save_pretrained(folder / init)
    return folder


@pytest.fixture
def hostile(good, tmp_path):
    """Make a hostile delta: hostile("random", nested={...} of base_model_config, tensors=a change, **fields)."""

    def make(init="pretrained", nested=None, tensors=None, **fields):
        folder = tmp_path / "delta"
        shutil.copytree(good / init, folder)
        edit(folder / "config.json", **fields, **({"base_model_config": nested} if nested else {}))
        sign(folder, tensors)
        return folder

    return make


@pytest.fixture
def load(saved_base):
    def load(folder, loader=FPTForSequenceClassification, **arguments):
        return loader.from_pretrained(folder, **{"base_model_name_or_path": saved_base} | arguments)

    return load


@pytest.fixture
def refused(load):
    def refused(folder, *words, error=ValueError, **arguments):
        with pytest.raises(error) as caught:
            load(folder, **arguments)
        for word in words:
            assert word in str(caught.value)
        assert len(str(caught.value)) < 2000

    return refused


@torch.no_grad()
def outputs(model):
    return model(input_values=INPUTS).logits


@pytest.fixture
def expected(good, load):
    return outputs(load(good / "pretrained"))


def test_the_helpers_damage_nothing(hostile, load, expected):
    assert torch.equal(outputs(load(hostile())), expected)


# Code


IMPLEMENTATIONS = [
    {name: KERNEL}
    for stem in ("attn_implementation", "experts_implementation")
    for name in (stem, f"_{stem}", f"_{stem}_internal")
] + [
    {"attn_implementation": f"paged|{KERNEL}"},
    {"attn_implementation": {"": KERNEL}},
    {"attn_implementation": [KERNEL]},
]


@pytest.mark.parametrize("values", IMPLEMENTATIONS, ids=str)
@pytest.mark.parametrize("loader", [FPTForSequenceClassification, AutoModelForSequenceClassification])
def test_no_file_chooses_a_kernel_from_the_hub(hostile, refused, values, loader):
    words = (next(iter(values)), KERNEL, "from_pretrained(..., attn_implementation=...)")
    refused(hostile(**values), *words, loader=loader)


@pytest.mark.parametrize("values", IMPLEMENTATIONS, ids=str)
@pytest.mark.parametrize("place", ["base_model_config", "text_config", "per_layer_config", "a list"])
def test_no_nested_configuration_chooses_a_kernel(hostile, refused, values, place):
    nested = {"text_config": {"text_config": values}, "per_layer_config": {"per_layer_config": {"0": values}}}
    nested = nested.get(place) or ({"x": [[values]]} if place == "a list" else values)
    refused(hostile(nested=nested), next(iter(values)), KERNEL, "base_model_config")


def test_which_attention_runs_is_up_to_the_caller(hostile, load):
    folder = hostile(nested={"attn_implementation": "eager"}, attn_implementation="eager")
    for loader in (FPTForSequenceClassification, AutoModelForSequenceClassification):
        assert load(folder, loader).fpt.backbone.config._attn_implementation == "sdpa"
        model = load(folder, loader, attn_implementation="eager")
        assert model.fpt.backbone.config._attn_implementation == "eager"
    for config_class in (FPTConfig, AutoConfig):
        config = config_class.from_pretrained(folder, attn_implementation="mine/kernel")
        assert config._attn_implementation == "mine/kernel"


LOADS_MORE = {
    "quantization_config": {"quant_method": "gptq", "bits": 4},
    "compression_config": {"quant_method": "compressed-tensors"},
    "transformers_weights": "../../others/model.safetensors",
    "fusion_config": {"patch_embeddings": True},
    "kernel_config": {"RMSNorm": "evil/kernel:RMSNorm"},
    "distributed_config": {"tp_plan": "auto"},
    "backbone": "evil/backbone",
    "use_timm_backbone": True,
    "use_pretrained_backbone": True,
    "backbone_kwargs": {"pretrained": True},
    "backbone_config": {"model_type": "resnet"},
    "architecture": "hf-hub:evil/model",
}


@pytest.mark.parametrize("name, value", LOADS_MORE.items(), ids=LOADS_MORE)
@pytest.mark.parametrize("place", ["the backbone's", "one inside it"])
def test_a_nested_configuration_makes_nothing_else_be_loaded(hostile, refused, name, value, place):
    nested = {name: value} if place == "the backbone's" else {"text_config": {name: value}}
    refused(hostile(nested=nested), f"{name}=", "more than a model's own weights")


@pytest.mark.parametrize("name, value", LOADS_MORE.items(), ids=LOADS_MORE)
def test_nor_does_the_deltas_own(hostile, refused, name, value):
    refused(hostile(**{name: value}), f"FPTConfig has no field {name!r}", error=TypeError)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "detr", "backbone": "evil/backbone", "use_timm_backbone": False},
        {"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"},
        {"model_type": "timm_wrapper", "architecture": "local-dir:/etc"},
        {"model_type": "fpt", "base_model_config": {"model_type": "fpt"}},
        {"model_type": "evil"},
        {"model_type": ["gpt2"]},
        {"model_type": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_a_nested_configuration_is_a_text_models(hostile, refused, values, init):
    refused(hostile(init, nested=values), "base_model_config", "backbone")


@pytest.mark.parametrize("model_type", ["vit", "resnet", "clip"])
def test_what_takes_no_embeddings_is_refused_before_it_is_built(hostile, refused, monkeypatch, model_type):
    def build(*args, **kwargs):
        raise AssertionError("built")

    monkeypatch.setattr(torch.nn.Module, "__init__", build)
    fields = {"backbone_init_scheme": None, "base_model_config": None}
    folder = hostile("random", **fields)
    edit(folder / "config.json", base_model_config={"model_type": model_type})
    refused(folder, "cannot be a backbone", "inputs_embeds")


STRIPPED = {
    "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    "custom_pipelines": {"evil": {"impl": "evil.Evil", "pt": ["AutoModel"]}},
    "name_or_path": "/etc",
    "_name_or_path": "../../others",
    "_commit_hash": "../../others",
    "_auto_class": "AutoConfig",
    "_anything": {"a": 1},
    "__class__": "evil",
    "__dict__": {},
    "attn_implementation": "flash_attention_2",
    "_experts_implementation": "eager",
    "attribute_map": {"hidden_size": "n_layer"},
    "base_model_tp_plan": {"h.*": "colwise"},
    "extra_files": ["../../others/model.safetensors"],
    "id2label": {"0": ["evil"]},
    "label2id": 3,
    "num_labels": HUGE,
    "problem_type": "evil",
    "quantization_config": None,
    "sub_configs": {"x": "y"},
    "to_dict": "evil",
    "validate": None,
}


@pytest.mark.parametrize("name, value", STRIPPED.items(), ids=STRIPPED)
def test_what_is_no_setting_reaches_no_backbone(good, hostile, load, expected, tmp_path, name, value):
    model = load(hostile(nested={name: value}))
    assert torch.equal(outputs(model), expected)
    for config in (model.config.base_model_config, model.fpt.backbone.config):
        assert vars(config).get(name, "nothing") != value
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (good / "pretrained" / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["_name_or_path", "_auto_class", "_attn_implementation_internal", "name_or_path"])
def test_private_names_reach_no_configuration(hostile, load, name):
    model = load(hostile(**{name: "evil"}))
    assert "evil" not in model.config.to_json_string() and "evil" not in map(str, vars(model.config).values())


@pytest.mark.parametrize("dtype", ["load", "os", "float64", "int8", ["float32"], 5, {"a": 1}], ids=str)
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype_is_looked_up_nowhere(hostile, refused, tmp_path, dtype, name):
    folder = hostile(nested={name: dtype})
    refused(folder, "dtype is one of float32, bfloat16, float16", str(dtype))
    shutil.rmtree(folder)
    refused(hostile(**{name: dtype}), "dtype is one of float32, bfloat16, float16", str(dtype))


@pytest.fixture
def marker(tmp_path):
    """A file that hostile code makes when it is run."""
    return tmp_path / "marker"


def write_evil(folder, marker):
    (folder / "evil.py").write_text(f"open({os.fspath(marker)!r}, 'w').close()\n")


@pytest.fixture
def code(hostile, saved_base, tmp_path, marker):
    """A delta and a base with code that every configuration file names, at both levels."""
    auto_map = {
        name: "evil.Evil"
        for name in ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoFeatureExtractor")
    } | {"AutoImageProcessor": "evil.Evil", "AutoProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    pipelines = {"evil-task": {"impl": "evil.Evil", "pt": ["AutoModel"]}}
    folder = hostile(nested={"auto_map": auto_map}, auto_map=auto_map, custom_pipelines=pipelines)
    base = shutil.copytree(saved_base, tmp_path / "base")
    edit(base / "config.json", auto_map=auto_map)
    for where in (folder, base):
        write_evil(where, marker)
        for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
            kinds = ("tokenizer_class", "image_processor_type", "feature_extractor_type", "processor_class")
            (where / name).write_text(json.dumps({"auto_map": auto_map, **dict.fromkeys(kinds, "Evil")}))
    return folder, base


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": False}, {"trust_remote_code": True}], ids=str)
def test_code_beside_a_delta_is_not_run_where_the_library_is_installed(code, marker, expected, trust):
    """Nor is the code that the delta's configuration of the base names, and that lies beside either."""
    folder, base = code
    for loader in (AutoModelForSequenceClassification, FPTForSequenceClassification):
        model = loader.from_pretrained(folder, base_model_name_or_path=base, **trust)
        assert type(model) is FPTForSequenceClassification and torch.equal(outputs(model), expected)
    assert type(AutoConfig.from_pretrained(folder, **trust)) is FPTConfig
    assert not marker.exists()


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": False}], ids=str)
def test_code_of_a_processor_or_pipeline_is_not_run_without_trust(code, marker, monkeypatch, trust):
    monkeypatch.setattr("builtins.input", lambda *args: "n")  # what a person who is asked would answer
    folder, _ = code
    loaders = [AutoTokenizer, AutoImageProcessor, AutoFeatureExtractor, AutoProcessor]
    for loader in loaders:
        with pytest.raises((ValueError, OSError)):
            loader.from_pretrained(folder, **trust)
    with pytest.raises(ValueError, match="trust_remote_code|custom code"):
        pipeline("evil-task", model=os.fspath(folder), **trust)
    assert not marker.exists()


def test_the_code_would_leave_its_mark(code, marker):
    folder, _ = code
    subprocess.run([sys.executable, folder / "evil.py"], check=True)
    assert marker.exists()


class Evil:
    """A pickle that makes a file when it is opened."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def evil_pickle(marker):
    content = pickle.dumps(Evil(marker))
    pickle.loads(content)
    assert marker.exists()
    marker.unlink()
    return content


PICKLES = ("pytorch_model.bin", "model.bin", "adapter_model.bin", "training_args.bin", "model.pt", "optimizer.pt")


def test_a_pickle_is_never_opened(hostile, load, refused, evil_pickle, marker, expected):
    folder = hostile()
    for name in PICKLES:
        (folder / name).write_bytes(evil_pickle)
    assert torch.equal(outputs(load(folder)), expected)
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors", error=OSError)
    refused(folder, "model.safetensors", error=OSError, loader=AutoModelForSequenceClassification)
    (folder / "model.safetensors").write_bytes(evil_pickle)
    refused(folder, "no safetensors file", error=DeltaError)
    assert not marker.exists()


def test_a_base_of_pickles_is_not_opened(hostile, refused, saved_base, evil_pickle, marker, tmp_path):
    base = shutil.copytree(saved_base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    for name in PICKLES:
        (base / name).write_bytes(evil_pickle)
    refused(hostile(), "model.safetensors", error=OSError, base_model_name_or_path=base)
    (base / "model.safetensors").write_bytes(evil_pickle)
    with pytest.raises(Exception, match="header"):
        FPTModel.from_pretrained(tmp_path / "delta", base_model_name_or_path=base)
    assert not marker.exists()


# Files


@pytest.mark.parametrize(
    "name",
    [
        "../base",
        "./base",
        "/etc",
        "a/b/c",
        "",
        ".",
        "..",
        "~",
        "~/base",
        "https://evil/x",
        "file:///etc",
        "a\\b",
        "a b",
    ]
    + ["x" * 10**5, "a--b", "a/..b", "a/b.git", "\0"],
    ids=lambda name: repr(name)[:20],
)
def test_a_base_is_a_hub_id_and_never_a_path(hostile, refused, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    refused(hostile(base_model=name), "base_model is a Hub id", base_model_name_or_path=None)


def test_a_folder_with_the_name_of_the_base_is_not_read(hostile, refused, saved_base, monkeypatch, tmp_path):
    shutil.copytree(saved_base, tmp_path / "someone" / "tiny")
    monkeypatch.chdir(tmp_path)
    refused(hostile(), "'someone/tiny'", "a folder has that name", base_model_name_or_path=None)


@pytest.mark.parametrize("revision", ["../../others", "/etc/passwd", "main", "", "607A", "x" * 40, "0" * 65], ids=str)
def test_a_revision_is_a_commit_and_never_a_path(hostile, refused, revision):
    refused(hostile(base_model_revision=revision), "base_model_revision is the hash of a commit")


# Sizes


def nested_dicts(depth):
    values = {"n": 1}
    for _ in range(depth):
        values = {"x": values}
    return values


RANDOM = {"backbone_init": "random", "backbone_init_scheme": None, "backbone_init_seed": 0}
LAYERS_512 = {"n_layer": 512, "n_embd": 1024, "n_head": 1}
TINY = COMMON | {"num_attention_heads": 1, "hidden_size": 8, "intermediate_size": 8}
ABSURD = {  # fields of config.json (base_model_config: changes, or all of it where it has a model type), and words
    "labels": ({"num_labels": HUGE, "id2label": None, "label2id": None}, ["num_labels", "1048576", str(HUGE)]),
    "labels beside their names": ({"num_labels": HUGE}, ["num_labels", "1048576"]),
    "labels per token": ({"labels_per_token": HUGE}, ["labels_per_token", "1048576"]),
    "labels per token and label": ({"labels_per_token": 2**20}, ["labels_per_token * num_labels"]),
    "a seed": ({"backbone_init_seed": 10**30}, ["backbone_init_seed", str(10**30)]),
    "a number that Python does not print": ({"sequence_length": 10**4000}, ["sequence_length", "..."]),
    "tokens": ({"sequence_length": HUGE}, ["sequence_length", str(HUGE)]),
    "tokens that the backbone has not": ({"sequence_length": 10**6}, ["1000000 tokens"]),
    "numbers": ({"input_size": HUGE}, ["input_size", str(HUGE)]),
    "numbers that the file lacks": ({"input_size": 2**24}, ["input_projection", "(32, 16777216)"]),
    "new positions": ({"positions": "new", "sequence_length": 2**24}, ["positions for 64"]),
    "a vocabulary": ({"input_type": "tokens", "vocab_size": HUGE, "input_size": None}, ["vocab_size", str(HUGE)]),
    "a side": (
        {"input_type": "images", "image_size": HUGE, "num_channels": 3, "patch_size": 4}
        | {"sequence_length": None, "input_size": None},
        ["image_size", str(HUGE)],
    ),
    "a patch": (
        {"input_type": "images", "image_size": 2**20, "num_channels": 2**20, "patch_size": 2**20}
        | {"sequence_length": None, "input_size": None},
        ["numbers per token"],
    ),
    "patches": (
        {"input_type": "images", "image_size": 2**20, "num_channels": 1, "patch_size": 1}
        | {"sequence_length": None, "input_size": None},
        ["tokens", str(2**40)],
    ),
    "a long window": (
        {"input_type": "series", "series_length": 2**24, "num_channels": 2**24, "patch_length": 2**24}
        | {"patch_stride": 1, "sequence_length": None, "input_size": None},
        ["numbers per token"],
    ),
    "text": ({"base_model_fingerprint": "x" * 10**7}, ["Another base"]),
    "groups": ({"trainable": ["norm"] * 10**5}, ["trainable names each group once"]),
    "deep": ({"base_model_config": nested_dicts(100)}, ["nested more than 8 levels deep"]),
    "deep lists": ({"base_model_config": {"x": [[[[[[[[[[1]]]]]]]]]]}}, ["nested more than 8 levels deep"]),
    "names of layers": (
        {"base_model_config": TINY | {"model_type": "qwen3", "layer_types": ["full_attention"] * 10**5}},
        ["layer_types"],
    ),
} | {
    f"{name} of {init} weights": (
        {"base_model_config": values} | (RANDOM if init == "random" else {}),
        words if isinstance(words, list) else words[init],
    )
    for init in ("pretrained", "random", "statistics")
    for name, values, words in [
        ("hidden size", {"n_embd": HUGE}, ["n_embd=1000000000000", "add up to more than"]),
        ("hidden size by another name", {"hidden_size": HUGE}, ["hidden_size=1000000000000"]),
        ("layers", {"n_layer": HUGE}, ["n_layer=1000000000000", "no backbone has more than 512 layers"]),
        ("layers by another name", {"num_hidden_layers": 10**6}, ["num_hidden_layers=1000000", "512 layers"]),
        ("vocabulary", {"vocab_size": HUGE}, ["vocab_size=1000000000000"]),
        ("feed-forward", {"n_inner": HUGE}, ["n_inner=1000000000000"]),
        ("heads", {"n_head": HUGE}, ["n_head=1000000000000"]),
        ("positions", {"n_positions": HUGE}, ["n_positions=1000000000000"]),
        ("a token id", {"eos_token_id": -HUGE}, ["eos_token_id=-1000000000000"]),
        ("a list", {"model_type": "gpt_neo", "attention_types": [[["global"], HUGE]]}, ["attention_types="]),
        ("many in a list", {"x": [2**20] * 33}, ["add up to more than 33554432"]),
        (
            "large layers",
            LAYERS_512 | {"n_inner": 2**24},
            {"random": ["larger than this machine's memory"], "pretrained": ["n_layer=512", "has 2"]},
        ),
        ("wide", {"n_embd": 2**22}, {"random": ["larger than this machine's memory"], "pretrained": ["has 32"]}),
        (
            "experts",
            TINY | {"model_type": "mixtral", "num_local_experts": 2**24},
            {"random": ["larger than this machine's memory"], "pretrained": ["num_local_experts=16777216"]},
        ),
        (
            "many small groups",
            TINY | {"model_type": "albert", "embedding_size": 8, "num_hidden_groups": 10**6},
            {"random": ["over 16384 modules"], "pretrained": ["num_hidden_groups=1000000"]},
        ),
    ]
    if init in ("random", "pretrained") or isinstance(words, list)
}
BASES = {  # a base that the author of the delta made, too, and whose configuration is not its weights'
    "wide": {"n_embd": 2**14, "n_head": 2},
    "long": {"n_positions": 2**24},
    "deep": {"n_layer": 500, "n_inner": 2**14},
}
CHILD = """
import json, resource, sys, time, traceback
import torch
from fpt_adapters import FPTForSequenceClassification
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
torch.set_num_threads(1)
results = {}
for name, folder, base in json.load(sys.stdin):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=base)
        kind, message = None, "loaded"
    except BaseException as error:
        kind, message = [c.__name__ for c in type(error).__mro__], str(error)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results[name] = {"kind": kind, "message": message, "seconds": time.monotonic() - start, "megabytes": grown}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def absurd(good, saved_base, tmp_path_factory):
    """Load every absurd delta in another process, which may have 2 GB more than it has at the start."""
    root, cases = tmp_path_factory.mktemp("absurd"), []

    def copy(name, fields, base=saved_base):
        folder = shutil.copytree(good / "pretrained", root / str(len(cases)))
        edit(folder / "config.json", **fields)
        nested = fields.get("base_model_config", {})
        if "model_type" in nested:  # of another class: nothing of the good one's
            values = json.loads((folder / "config.json").read_text()) | {"base_model_config": nested}
            (folder / "config.json").write_text(json.dumps(values))
        sign(folder)
        cases.append((name, os.fspath(folder), os.fspath(base)))

    for name, (fields, _) in ABSURD.items():
        copy(name, fields | ({"backbone_init": "statistics"} if name.endswith("of statistics weights") else {}))
    for name, values in BASES.items():
        base = shutil.copytree(saved_base, root / f"base-{name}")
        edit(base / "config.json", **values)
        copy(f"base {name}", {"base_model_config": values}, base)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (6 * 2**30, 6 * 2**30))"
    result = subprocess.run(
        [sys.executable, "-c", limit + CHILD], input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def check_absurd(result, words):
    assert (result["kind"] and "ValueError" in result["kind"]) or "StrictDataclassError" in result["kind"], result
    for word in words:
        assert word in result["message"]
    assert len(result["message"]) < 2000
    assert result["seconds"] < 2 and result["megabytes"] < 200


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_size_is_refused_before_it_costs_anything(absurd, name):
    check_absurd(absurd[name], ABSURD[name][1])


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_not_built_larger_than_its_weights(absurd, name):
    check_absurd(absurd[f"base {name}"], ["larger than its weights can be", "base_model_config asks for too much"])
