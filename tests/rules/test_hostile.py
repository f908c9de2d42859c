"""A stranger's delta: it runs no code, reads no file but its own, has no absurd size, changes no frozen weight.

Each test takes a good delta, changes it as its author could (with digests that fit), and loads it.
"""

import json
import os
import pickle
import runpy
import shutil
import time
from pathlib import Path

import conftest
import pytest
import torch
from conftest import (
    COMMON,
    FIELDS,
    IMAGES,
    SERIES,
    TINY_BACKBONES,
    example,
    forked,
    needs_fork,
    rewrite_config,
    sign,
    tiny_config,
)
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    pipeline,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the top name wants torchvision in 5.5
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import fpt_adapters.backbones.baselines.modeling_lstm
import fpt_adapters.backbones.building
import fpt_adapters.models.base
from fpt_adapters import DeltaError, FPTConfig, FPTForSequenceClassification, FPTModel
from fpt_adapters.hub.download import commit_of
from fpt_adapters.hub.repository import repository_files, write_repository
from fpt_adapters.rules.config_rules import build_base_config

resource = pytest.importorskip("resource")  # where memory can be limited and measured

HUGE = 10**12
KERNEL = "evil/kernel"
REFUSALS = (ValueError, StrictDataclassError)  # by transformers' release, it or the library checks the types of labels


def edit(file, **changes):
    """Change a JSON file; a change of a dict goes into it."""
    values = json.loads(file.read_text())
    for name, change in changes.items():
        both = isinstance(change, dict) and isinstance(values.get(name), dict)
        values[name] = values[name] | change if both else change
    file.write_text(json.dumps(values))


def replace(folder, **fields):
    """Write fields of a config.json, whatever was there."""
    rewrite_config(folder, json.loads((folder / "config.json").read_text()) | fields)
    return folder


@pytest.fixture(scope="module")
def good(saved_base, tmp_path_factory):
    """Two good deltas: one on the saved base, one on random weights."""
    folder = tmp_path_factory.mktemp("good")
    for init in ("pretrained", "random"):
        fields = FIELDS | {"base_model": "someone/tiny", "backbone_init": init}
        FPTForSequenceClassification.from_backbone(saved_base, **fields).save_pretrained(folder / init)
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
    def load(folder, loader=FPTForSequenceClassification, base_model_name_or_path=saved_base, **arguments):
        return loader.from_pretrained(folder, base_model_name_or_path=base_model_name_or_path, **arguments)

    return load


@pytest.fixture
def refused(load):
    def refused(folder, *words, error=REFUSALS, **arguments):
        with conftest.refused(*words, error=error):
            load(folder, **arguments)

    return refused


@torch.no_grad()
def outputs(model):
    return model(**example()).logits


@pytest.fixture
def expected(good, load):
    return outputs(load(good / "pretrained"))


# Code


IMPLEMENTATIONS = [
    {name: KERNEL}
    for stem in ("attn_implementation", "experts_implementation")
    for name in (stem, f"_{stem}", f"_{stem}_internal")
] + [{"attn_implementation": value} for value in (f"paged|{KERNEL}", {"": KERNEL}, [KERNEL])]


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
        assert load(folder, loader).fpt.backbone.config._attn_implementation == "fpt"
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
    "extra_files": ["../../others/model.safetensors"],
    "extra_config_files": ["../../others/config.json"],
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


@pytest.mark.parametrize("model_type", ["swin", "resnet", "clip"])
def test_what_takes_no_embeddings_is_refused_before_it_is_built(hostile, refused, monkeypatch, model_type):
    def build(*args, **kwargs):
        raise AssertionError("built")

    folder = replace(hostile("random", backbone_init_scheme=None), base_model_config={"model_type": model_type})
    sign(folder)
    monkeypatch.setattr(PreTrainedModel, "__init__", build)
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
    "id2label": {"0": ["evil"]},
    "label2id": 3,
    "num_labels": HUGE,
    "output_attentions": True,
    "output_hidden_states": ["evil"],
    "problem_type": "evil",
    "quantization_config": None,
    "return_dict": False,
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


@pytest.mark.parametrize("dtype", ["load", "os", "float64", "torch.float16", ["float32"], 5, {"a": 1}], ids=str)
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


@pytest.fixture
def code(hostile, saved_base, tmp_path, marker):
    """A delta and a base with code that every configuration file names, at both levels."""
    classes = ("Config", "Model", "ModelForSequenceClassification", "FeatureExtractor", "ImageProcessor", "Processor")
    auto_map = {f"Auto{name}": "evil.Evil" for name in classes} | {"AutoTokenizer": ["evil.Evil", None]}
    pipelines = {"evil-task": {"impl": "evil.Evil", "pt": ["AutoModel"]}}
    folder = hostile(nested={"auto_map": auto_map}, auto_map=auto_map, custom_pipelines=pipelines)
    base = shutil.copytree(saved_base, tmp_path / "base")
    edit(base / "config.json", auto_map=auto_map)
    for where in (folder, base):
        (where / "evil.py").write_text(f"open({os.fspath(marker)!r}, 'w').close()\n")
        for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
            kinds = ("tokenizer_class", "image_processor_type", "feature_extractor_type", "processor_class")
            (where / name).write_text(json.dumps({"auto_map": auto_map, **dict.fromkeys(kinds, "Evil")}))
        runpy.run_path(where / "evil.py")
        assert marker.exists()
        marker.unlink()
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
    for loader in (AutoTokenizer, AutoImageProcessor, AutoFeatureExtractor, AutoProcessor):
        with pytest.raises((ValueError, OSError, ImportError)):
            loader.from_pretrained(folder, **trust)
    with pytest.raises(ValueError, match=r"trust_remote_code|custom code"):
        pipeline("evil-task", model=os.fspath(folder), **trust)
    assert not marker.exists()


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


PATHS = ("../base", "./base", "/etc", "a/b/c", "", ".", "..", "~", "~/base", "https://evil/x", "file:///etc", "a\\b")


@pytest.mark.parametrize("name", [*PATHS, "a b", "x" * 200, "a--b", "a/..b", "a/b.git", "\0"], ids=ascii)
def test_a_base_is_a_hub_id_and_never_a_path(hostile, refused, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    refused(hostile(base_model=name), "base_model is a Hub id", base_model_name_or_path=None)


def test_a_folder_with_the_name_of_the_base_is_not_read(hostile, refused, saved_base, monkeypatch, tmp_path):
    shutil.copytree(saved_base, tmp_path / "someone" / "tiny")
    monkeypatch.chdir(tmp_path)
    refused(hostile(), "'someone/tiny'", "a folder has that name", base_model_name_or_path=None)


# Sizes


def nested_dicts(depth):
    return {"x": nested_dicts(depth - 1)} if depth else {"n": 1}


RANDOM = {"backbone_init": "random", "backbone_init_scheme": None, "backbone_init_seed": 0}
LAYERS_512 = {"n_layer": 512, "n_embd": 1024, "n_head": 1}
TINY = COMMON | {"num_attention_heads": 1, "hidden_size": 8, "intermediate_size": 8}
NO_VALUES = {"sequence_length": None, "input_size": None}
IMAGES, SERIES = IMAGES | NO_VALUES, SERIES | NO_VALUES
NO_NAMES, MANY_NAMES = {"id2label": None, "label2id": None}, {str(number): "x" for number in range(2**17 + 1)}
MOST, DEEP = "at most 8192 values", "nested more than 8 levels deep"
ABSURD = {  # fields of config.json (base_model_config: changes, or all of it where it has a model type), and words
    "labels": (NO_NAMES | {"num_labels": HUGE}, ["num_labels", "131072", str(HUGE)]),
    "labels beside their names": ({"num_labels": HUGE}, ["num_labels", "131072"]),
    "labels per token": ({"labels_per_token": HUGE}, ["labels_per_token", "131072"]),
    "labels per token and label": (
        NO_NAMES | {"labels_per_token": 2**15, "num_labels": 2**10},
        ["labels_per_token * num_labels"],
    ),
    "a seed": ({"backbone_init_seed": 10**30}, ["backbone_init_seed", str(10**30)]),
    "a number that Python does not print": ({"sequence_length": 10**4000}, ["sequence_length", "..."]),
    "a depth": ({"backbone_layers": HUGE}, ["backbone_layers", "at most 512", str(HUGE)]),
    "a depth beyond the base's": ({"backbone_layers": 512}, ["backbone_layers=512", "has 2 layers"]),
    "tokens": ({"sequence_length": HUGE}, ["sequence_length", str(HUGE)]),
    "tokens that the backbone has not": ({"sequence_length": 10**6}, ["1000000 tokens"]),
    "numbers": ({"input_size": HUGE}, ["input_size", str(HUGE)]),
    "numbers that the file lacks": ({"input_size": 2**24}, ["input_projection", "(32, 16777216)"]),
    "new positions": ({"positions": "new", "sequence_length": 2**24}, ["positions for 64"]),
    "a vocabulary": ({"input_type": "tokens", "vocab_size": HUGE, "input_size": None}, ["vocab_size", str(HUGE)]),
    "a side": (IMAGES | {"image_size": HUGE}, ["image_size", str(HUGE)]),
    "a patch": (IMAGES | dict.fromkeys(("image_size", "num_channels", "patch_size"), 2**20), ["numbers per token"]),
    "patches": (IMAGES | {"image_size": 2**20, "num_channels": 1, "patch_size": 1}, ["tokens", str(2**40)]),
    "a long window": (
        SERIES | {"patch_stride": 1} | dict.fromkeys(("series_length", "num_channels", "patch_length"), 2**24),
        ["numbers per token"],
    ),
    "text": ({"base_model_fingerprint": "x" * 10**7}, ["base_model_fingerprint is a hash"]),
    "groups": ({"trainable": ["norm"] * 10**3}, ["trainable names each group once"]),
    "many groups": ({"trainable": ["norm"] * 10**5}, [MOST, "100000 of them in config.json.trainable"]),
    "deep settings": ({"base_model_config": nested_dicts(100)}, [DEEP]),
    "deep labels": ({"id2label": {"0": nested_dicts(240)}}, [DEEP]),
    "deep code": ({"auto_map": nested_dicts(240)}, [DEEP]),
    "deep lists": ({"base_model_config": {"x": [[[[[[[[[[1]]]]]]]]]]}}, [DEEP]),
    "many settings": (
        {"base_model_config": {"x": [[0] * 5000] * 2}},
        [MOST, "5000 of them in config.json.base_model_config.x"],
    ),
    "a base's labels": (
        {"base_model_config": {"id2label": MANY_NAMES}},
        [MOST, "131073 of them in config.json.base_model_config.id2label"],
    ),
    "more labels than there may be": ({"id2label": MANY_NAMES}, [MOST, "131073 of them in config.json.id2label"]),
    "names of layers": (
        {"base_model_config": TINY | {"model_type": "qwen3", "layer_types": ["full_attention"] * 10**3}},
        ["must be equal to the number of", "1000"],
    ),
}
IMAGE_SIZES = TINY | {"model_type": "vit", "image_size": 2**16, "patch_size": 1}
GROUPS = TINY | {"model_type": "albert", "embedding_size": 8, "num_hidden_groups": 10**6}
BIG, WIDE_32 = "larger than this machine's memory", "larger than any model of width 32, 167772160 bytes"
WIDE_8, OTHER = "larger than any model of width 8", "belongs to another base"
BACKBONES = {  # base_model_config, and the words for all weights, or for random and for pretrained ones
    "hidden size": ({"n_embd": HUGE}, ["n_embd=1000000000000", "add up to more than"]),
    "hidden size by another name": ({"hidden_size": HUGE}, ["hidden_size=1000000000000"]),
    "layers": ({"n_layer": HUGE}, ["n_layer=1000000000000", "no backbone has more than 512 layers"]),
    "layers by another name": ({"num_hidden_layers": 10**6}, ["num_hidden_layers=1000000", "512 layers"]),
    "vocabulary": ({"vocab_size": HUGE}, ["vocab_size=1000000000000"]),
    "a narrow vocabulary": ({"vocab_size": 2**24}, {"random": WIDE_32, "pretrained": "vocab_size=16777216"}),
    "narrow layers": ({"n_inner": 2**24}, {"random": WIDE_32, "pretrained": "n_inner=16777216"}),
    "narrow positions": ({"n_positions": 2**24}, {"random": WIDE_32, "pretrained": "n_positions=16777216"}),
    "feed-forward": ({"n_inner": HUGE}, ["n_inner=1000000000000"]),
    "heads": ({"n_head": HUGE}, ["n_head=1000000000000"]),
    "positions": ({"n_positions": HUGE}, ["n_positions=1000000000000"]),
    "a token id": ({"eos_token_id": -HUGE}, ["eos_token_id=-1000000000000"]),
    "a list": ({"model_type": "gpt_neo", "attention_types": [[["global"], HUGE]]}, ["attention_types="]),
    "many in a list": ({"x": [2**20] * 33}, ["add up to more than 33554432"]),
    "large layers": (LAYERS_512 | {"n_inner": 2**24}, {"random": BIG, "pretrained": OTHER}),
    "wide": ({"n_embd": 2**22}, {"random": BIG, "pretrained": "has 32"}),
    "pictures": (IMAGE_SIZES, {"random": WIDE_8, "pretrained": OTHER}),
    "gates": ({"model_type": "fpt_lstm", "hidden_size": 2**20}, {"random": BIG, "pretrained": OTHER}),
    "experts": (TINY | {"model_type": "mixtral", "num_local_experts": 2**24}, {"random": WIDE_8, "pretrained": OTHER}),
    "many small groups": (GROUPS, {"random": "over 8192 tensors", "pretrained": OTHER}),
}
for name, (values, words) in BACKBONES.items():
    words = words if isinstance(words, dict) else dict.fromkeys(("random", "pretrained", "statistics"), words)
    for init, said in words.items():
        fields = RANDOM if init == "random" else {"backbone_init": init}
        said = [said] if isinstance(said, str) else said
        ABSURD[f"{name} of {init} weights"] = {"base_model_config": values} | fields, said
BASES = {  # a base that the author of the delta made, too, and whose configuration is not its weights'
    "wide": {"n_embd": 2**14, "n_head": 2},
    "long": {"n_positions": 2**24},
    "deep": {"n_layer": 500, "n_inner": 2**14},
}
MOST_DATA = 6 * 2**30  # bytes for the whole process, many times what loading a good delta takes


def load_and_measure(cases):
    """Load deltas, and say how each was refused and what that cost."""
    results = {}
    for name, folder, base in cases:
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            FPTForSequenceClassification.from_pretrained(folder, base_model_name_or_path=base)
            kinds, message = [], "loaded"
        except Exception as error:
            kinds, message = [kind.__name__ for kind in type(error).__mro__], str(error)
        seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results[name] = {"kinds": kinds, "message": message, "seconds": seconds, "megabytes": (after - before) / 1024}
    return results


@pytest.fixture(scope="module")
def absurd(good, saved_base, tmp_path_factory):
    """How each absurd delta was refused, and what that cost, in another process, whose memory is limited."""
    root, cases = tmp_path_factory.mktemp("absurd"), []

    def add(name, fields, base=saved_base):
        folder = shutil.copytree(good / "pretrained", root / str(len(cases)))
        edit(folder / "config.json", **fields)
        nested = fields.get("base_model_config", {})
        if "model_type" in nested:  # of another class: nothing of the good one's
            replace(folder, base_model_config=nested)
        sign(folder)
        cases.append((name, folder, base))

    for name, (fields, _) in ABSURD.items():
        add(name, fields)
    for name, values in BASES.items():
        base = shutil.copytree(saved_base, root / f"base-{name}")
        edit(base / "config.json", **values)
        add(f"base {name}", {"base_model_config": values}, base)

    def measure():
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, MOST_DATA))
        (root / "results").write_text(json.dumps(load_and_measure(cases)))

    os.waitpid(forked(measure), 0)
    return json.loads((root / "results").read_text())


def check_absurd(result, words):
    assert {"ValueError", "StrictDataclassError"} & set(result["kinds"]), result
    assert [word for word in words if word not in result["message"]] == [] and len(result["message"]) < 2000, result
    assert result["seconds"] < 2 and result["megabytes"] < 200


@needs_fork
@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_size_is_refused_before_it_costs_anything(absurd, name):
    if name.startswith("pictures of") and "vit" not in TINY_BACKBONES:
        pytest.skip("this transformers is too old for image backbones")
    check_absurd(absurd[name], ABSURD[name][1])


@needs_fork
@pytest.mark.parametrize("name", BASES)
def test_a_base_is_not_built_larger_than_its_weights(absurd, name):
    check_absurd(absurd[f"base {name}"], ["larger than its weights can be", "base_model_config asks for too much"])


def test_a_configuration_builds_nothing_larger_than_the_machine(hostile, monkeypatch):
    config = AutoConfig.from_pretrained(hostile("random", input_size=2**20))
    with monkeypatch.context() as patch:
        patch.setattr(fpt_adapters.models.base, "MEMORY", 2**26)
        with pytest.raises(ValueError, match="new modules are larger than this machine's memory"):
            AutoModel.from_config(config)
    config.input_size = 3
    assert type(AutoModel.from_config(config)) is FPTModel


def test_the_number_of_layers_is_part_of_the_base(hostile, refused):
    """One layer less is another backbone, even if every tensor of the delta were there."""
    refused(hostile(backbone_layers=1), "Another base", error=DeltaError)


def test_the_number_of_heads_is_the_bases(hostile, refused):
    """It changes no shape, but what the frozen weights compute."""
    refused(hostile(nested={"n_head": 1}), "n_head=1", "the config.json of the base", "has 2")


@pytest.mark.parametrize("name, value", [("attention_window", [4, 8]), ("attention_window", 8), ("pad_token_id", 5)])
def test_integers_in_lists_count(name, value):
    own, nested = tiny_config("longformer"), tiny_config("longformer", **{name: value})
    without_dropout = tiny_config("longformer", attention_probs_dropout_prob=0)
    fpt_adapters.backbones.building.check_same_architecture(own, without_dropout, "x")
    with pytest.raises(ValueError, match=f"{name}="):
        fpt_adapters.backbones.building.check_same_architecture(nested, own, "x")


@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_what_transformers_own_models_say_is_accepted(model_type):
    try:
        config = CONFIG_MAPPING[model_type]()
    except Exception as error:  # not every configuration has defaults that go together
        pytest.skip(str(error))
    if config.sub_configs:
        pytest.skip("more than a text model")
    assert build_base_config(config).to_dict() == config.to_dict()


# Labels and other text


NO_LABELS = {
    "id2label": [{"0": {"a": 1}}, {"0": None}, {"0": 5}, {"zero": "a"}, {"-1": "a"}, {}, ["a", "b"], "abc", 4],
    "label2id": [{"a": [1]}, {"a": {"b": 1}}, [1], "evil"],
}
RULES = [({name: value}, [name]) for name, values in NO_LABELS.items() for value in values] + [
    ({"id2label": {"0": ["a"]}, "label2id": None}, ["id2label"]),
    ({"id2label": {str(10**i): "a" for i in range(4)}}, ["id2label numbers its labels 0..3"]),
    ({"id2label": {str(i): "a" for i in range(1, 10**5)}}, ["id2label numbers its labels", "..."]),
    ({"num_labels": -1}, ["num_labels", "at least 1"]),
    ({"num_labels": 0}, ["num_labels", "at least 1"]),
    ({"num_labels": "4"}, ["num_labels", "'4'"]),
    ({"num_labels": 4.0}, ["num_labels", "4.0"]),
    ({"num_labels": True}, ["num_labels", "True"]),
    ({"problem_type": "evil"}, ["problem_type", "single_label_classification", "evil"]),
    ({"problem_type": ["regression"]}, ["problem_type"]),
    ({"trainable": ["x" * 10**6]}, ["trainable takes groups", "..."]),
    ({"input_dropout": float("nan")}, ["input_dropout", "nan"]),
    ({"input_dropout": 10**400}, ["input_dropout", "10**308"]),
    ({"backbone_dropout": float("inf")}, ["backbone_dropout", "inf"]),
]
RULES += [
    ({"base_model_revision": value}, ["base_model_revision is a hash"])
    for value in ("../../others", "/etc/passwd", "main", "", "607A", "0" * 65)
]
RULES += [
    ({name: value}, [name])  # and a long value is not repeated whole
    for name in ("pooling", "backbone_layers", "base_model", "trainable", "problem_type")
    for value in ("x" * 10**5, {"x" * 10**5: 1})
]


@pytest.mark.parametrize("fields, words", RULES, ids=lambda value: str(value)[:40])
def test_fields_hold_their_rules(hostile, refused, fields, words):
    refused(replace(hostile(), **fields), *words)


UNKNOWN = LOADS_MORE | {name: {"a": 1} for name in ("task_specific_params", "to_dict", "x" * 10**4, "evil\n\x1b[2J")}


@pytest.mark.parametrize("name, value", UNKNOWN.items(), ids=map(ascii, UNKNOWN))
def test_an_unknown_field_is_refused(hostile, refused, name, value):
    refused(hostile(**{name: value}), f"FPTConfig has no field {name!r}"[:60], error=TypeError)


NO_CONFIGURATIONS = ("", "[]", "3", '"x"', "null", "{", "\x00", "[" * 10**5, "1" * 10**5, "NaN")


@pytest.mark.parametrize("content", NO_CONFIGURATIONS, ids=lambda text: ascii(text)[:10])
def test_what_is_no_configuration_is_refused(hostile, content):
    folder = hostile()
    (folder / "config.json").write_text(content)
    for loader in (FPTForSequenceClassification, FPTConfig):
        with pytest.raises((OSError, ValueError), match=r"config\.json|4300 digits"):
            loader.from_pretrained(folder)


@pytest.mark.parametrize("init", ["pretrained", "random"])
@pytest.mark.parametrize("nested", [{"activation_function": "evil"}, {"n_head": 0}, {"n_positions": -5}], ids=str)
def test_what_transformers_cannot_build_is_a_wrong_value(hostile, refused, nested, init):
    refused(hostile(init, nested=nested), "base_model_config")


@pytest.mark.parametrize("name", ["n_embd", "dtype", "layers" + "x" * 10**5])
def test_a_long_value_of_the_base_is_not_repeated_whole(hostile, refused, name):
    refused(hostile(nested={name: "x" * 10**5 if "layers" not in name else HUGE}), name[:20])


# Weights


def adding(name, tensor):
    """A change of the tensors: one more of them."""
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize("loader", [FPTModel, AutoModel])
def test_no_frozen_weight_is_changed_through_the_headless_model(hostile, refused, loader):
    folder = hostile(tensors=adding("fpt.backbone.wte.weight", torch.zeros(100, 32)))
    refused(folder, "backbone.wte.weight", "does not train", error=DeltaError, loader=loader)


@pytest.mark.parametrize("group", ["norm", "position"])
def test_what_the_policy_does_not_name_is_not_changed(hostile, refused, group):
    groups = [name for name in ("input", "output", "norm", "position") if name != group]
    refused(hostile(trainable=groups), "which this model does not train", error=DeltaError)


def test_no_other_file_takes_the_place_of_the_configuration(hostile, refused):
    """transformers reads the file that `configuration_files` names; the one that a person sees says nothing of it."""
    folder = hostile()
    shutil.copyfile(folder / "config.json", folder / "config.4.0.json")
    edit(folder / "config.json", configuration_files=["config.4.0.json"], pooling="mean")
    sign(folder)
    refused(folder, "configuration_files", error=(DeltaError, TypeError))


def test_a_buffer_that_no_training_changes_is_frozen(refused, tmp_path):
    """The bias that chooses the experts of a DeepSeek-V3 is a buffer; only a batch norm's statistics move."""
    sizes = COMMON | {"num_key_value_heads": 2, "moe_intermediate_size": 8, "n_routed_experts": 8, "n_group": 2}
    ranks = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    routing = {"topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    config = CONFIG_MAPPING["deepseek_v3"](**sizes, **ranks, **routing)
    model = FPTForSequenceClassification.from_backbone(config, backbone_init="random", **FIELDS | {"positions": "new"})
    model.save_pretrained(tmp_path / "delta")
    name = "fpt.backbone.layers.1.mlp.gate.e_score_correction_bias"
    assert name in model.state_dict()
    sign(tmp_path / "delta", adding(name, torch.linspace(-9, 9, 8)))
    refused(tmp_path / "delta", name, "does not train", error=DeltaError)


# Links


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "README.md"])
def test_a_link_out_of_the_folder_is_neither_read_nor_uploaded(good, tmp_path, name):
    folder = shutil.copytree(good / "random", tmp_path / "cloned")
    secret = tmp_path / "secret"
    secret.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    message = rf"{name} is a link to .*secret, outside of"
    with pytest.raises(DeltaError, match=message):
        repository_files(folder)
    with pytest.raises(DeltaError, match=message):
        write_repository(FPTForSequenceClassification.from_pretrained(folder), tmp_path / "pushed", "owner/x")
    (folder / name).unlink()
    (folder / "inside").write_bytes(secret.read_bytes())
    (folder / name).symlink_to("inside")
    assert repository_files(folder)[name] == secret.read_bytes()


def test_the_files_of_a_cache_may_be_links_to_its_blobs(good, tmp_path):
    blobs, snapshot = tmp_path / "models--owner--x" / "blobs", tmp_path / "models--owner--x" / "snapshots" / ("0" * 40)
    shutil.copytree(good / "random", blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    FPTForSequenceClassification.from_pretrained(snapshot)


@pytest.mark.parametrize(
    "path, commit",
    [
        ("/hub/models--a--b/snapshots/c0/config.json", "c0"),
        ("/hub/models--a--b/snapshots/c0/sub/folder/config.json", "c0"),
        ("/snapshots/hub/models--a--b/snapshots/c0/config.json", "c0"),
        ("/models--x--y/snapshots/z/hub/models--a--b/snapshots/c0/config.json", "c0"),
        ("/snapshots/mine/config.json", None),
        ("/mine/config.json", None),
    ],
)
def test_the_commit_of_a_cached_file_is_found_wherever_the_cache_is(path, commit):
    assert commit_of(Path(path)) == commit
