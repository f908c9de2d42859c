"""The package's order: who may import whom, what its public names are, and that importing it is quiet."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fpt_adapters

PACKAGE = Path(fpt_adapters.__file__).parent
ORDER = (  # of the rooms: each imports only from those above it here
    "version",
    "torch_utils",
    "rules",
    "backbones",
    "inputs",
    "heads",
    "configuration_fpt",
    "deltas",
    "hub",
    "adapters",
    "models",
    "modeling_fpt",
    "analysis",
    "data",
    "inference",
    "training",
    "tasks",
    "estimators",
    "run",
    "__main__",
)
MOST_LINES = 300
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """Dotted name inside the package: "tasks.bits", or "" for the package itself."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def own_imports(path, nodes=None):
    """Modules of this package that a file imports, anywhere in it, or in these `nodes` of it."""
    package = name_of(path).split(".") if path.stem == "__init__" else name_of(path).split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(tree_of(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {".".join(name[1:]) for name in names if name[0] == "fpt_adapters"}
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                module = package[: len(package) - node.level + 1] + module
            elif module.pop(0) != "fpt_adapters":
                continue
            inner = [".".join([*module, alias.name]) for alias in node.names]
            found |= {name if name in NAMES else ".".join(module) for name in inner}
    return found


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def test_every_module_has_its_room():
    assert {name.partition(".")[0] for name in NAMES} - {""} == set(ORDER)


@each_module
def test_a_module_imports_only_from_its_room_and_those_below(path):
    room = name_of(path).partition(".")[0]
    for name in own_imports(path) if room else ():
        imported = name.partition(".")[0]
        assert imported, f"{path.name} imports the package itself"
        assert ORDER.index(imported) <= ORDER.index(room), f"{path.name} imports {name}"


@each_module
def test_a_module_is_described_and_no_longer_than_a_reader_holds(path):
    assert ast.get_docstring(tree_of(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    ("file", "imports"),
    [
        (
            "configuration_fpt.py",
            {"rules.config_rules", "rules.quantization", "backbones.baselines.configuration_lstm"}
            | {"heads.table", "inputs.table"},  # inside a function
        ),
        ("modeling_fpt.py", {"backbones.structure", "models.pretrained"}),
        ("tasks/task.py", {"tasks.metrics", "models.pretrained"}),
        ("tasks/__init__.py", {"tasks.bits", "tasks.task"}),
        ("backbones/policy.py", {"backbones.structure"}),
    ],
)
def test_the_imports_are_seen(file, imports):
    """The test above would pass for a package whose imports it cannot read."""
    assert imports <= own_imports(PACKAGE / file)


@pytest.mark.parametrize("room", [room for room in ORDER if (PACKAGE / room).is_dir()])
def test_no_two_modules_of_a_room_import_each_other(room):
    paths = [path for path in (PACKAGE / room).rglob("*.py") if path.stem != "__init__"]
    graph = {name_of(path): own_imports(path) for path in paths}
    done = set()
    while len(done) < len(graph):
        free = {name for name, needed in graph.items() if name not in done and not needed & set(graph) - done}
        assert free, f"a circle among {sorted(set(graph) - done)}"
        done |= free


def test_the_configuration_needs_no_torch():
    """Nor does what it imports in its turn; inputs and heads, which are modules of torch, it asks when it is made."""
    waiting, outside = ["configuration_fpt"], set()
    while waiting:
        path = PACKAGE.joinpath(*waiting.pop().split(".")).with_suffix(".py")
        nodes = [node for node in tree_of(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        outside |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        outside |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        waiting += own_imports(path, nodes)
    assert "transformers" in outside
    assert not {name.partition(".")[0] for name in outside} & {"torch", "safetensors", "numpy"}


@pytest.mark.parametrize("name", fpt_adapters.__all__)
def test_public_names_exist_and_are_described(name):
    value = getattr(fpt_adapters, name)
    if inspect.isclass(value) or callable(value):
        assert value.__module__.startswith("fpt_adapters.")
        own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own and not own.startswith(f"{name}(")  # a dataclass would otherwise get its signature
    else:
        assert value and isinstance(value, (tuple, str))


def test_public_names_are_listed_once_and_in_order():
    assert len(set(fpt_adapters.__all__)) == len(fpt_adapters.__all__)
    nodes = [node for node in ast.walk(tree_of(PACKAGE / "__init__.py")) if isinstance(node, ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in nodes if node.level for alias in node.names}
    assert set(fpt_adapters.__all__) == imported <= set(dir(fpt_adapters))


def test_importing_is_quiet_and_needs_no_trainer():
    code = "import sys, fpt_adapters; assert not {'datasets', 'pandas', 'transformers.trainer'} & set(sys.modules)"
    code += "; print('quiet', flush=True); fpt_adapters.FPTTrainer; assert 'transformers.trainer' in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    environment |= {"PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error::FutureWarning:fpt_adapters", "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.startswith("quiet\n"), done.stdout


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'FPTTrianer'"):
        fpt_adapters.FPTTrianer  # noqa: B018


def test_the_readme_names_every_public_name():
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    assert [name for name in fpt_adapters.__all__ if name != "__version__" and f"`{name}`" not in readme] == []
