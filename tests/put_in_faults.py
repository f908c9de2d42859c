"""A fault put into each of some twenty places of the package, and the tests that find it.

    python tests/put_in_faults.py [NAME ...]

Each is put into a copy of the package, one at a time, and its tests are run: they must fail, and pass without it.
Five minutes on two cores.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAULTS = {  # name: file, what stands there, what is put in its place, the tests that find it
    "policy: RMS norms are no norms": (
        "backbones/structure.py",
        'or "LayerNorm" in name or "RMSNorm" in name',
        'or "LayerNorm" in name',
        "backbones/test_policies.py -k every_parameter_is_in_its_group",
    ),
    "policy: all trains": (
        "backbones/policy.py",
        "parameter.requires_grad_(groups[name] in trainable)",
        "parameter.requires_grad_(True)",
        "backbones/test_policies.py -k exactly_the_named_groups_train",
    ),
    "positions: one row less": (
        "backbones/structure.py",
        "module.weight[: first + num_tokens].clone()",
        "module.weight[: first + num_tokens - 1].clone()",
        "backbones/test_policies.py -k papers_number",
    ),
    "mask: pooling reads padding": (
        "heads/sequence.py",
        "mask.to(torch.long) * (order",
        "torch.ones_like(mask, dtype=torch.long) * (order",
        "models/test_models.py -k pooling_equals_a_loop",
    ),
    "loss: an accumulated batch counts only itself": (
        "heads/problems.py",
        "items = (labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch",
        "items = (labels != IGNORED_LABEL).sum()",
        "models/test_models.py -k add_up",
    ),
    "digest: half of a tensor": (
        "deltas/tensors.py",
        "hashlib.sha256(flat.numpy())",
        "hashlib.sha256(flat[: len(flat) // 2].numpy())",
        "deltas/test_delta.py -k flipped_bit",
    ),
    "digest: the configuration's leaves pooling out": (
        "rules/config_digest.py",
        '    "label2id",\n',
        '    "label2id",\n    "pooling",\n',
        "deltas/test_delta.py -k edited_configuration",
    ),
    "fingerprint: shapes only": (
        "backbones/fingerprints.py",
        "hashlib.sha256(about.encode() + sample)",
        "hashlib.sha256(about.encode())",
        "backbones/test_backbones.py -k noise",
    ),
    "fingerprint: layers in any order": (
        "backbones/fingerprints.py",
        "number = OUTSIDE if numbers[name] is None else numbers[name]",
        "number = OUTSIDE",
        "backbones/test_backbones.py -k tell_shapes",
    ),
    "places: layers have one number": (
        "backbones/places.py",
        'return start + int(name.removeprefix(f"{path}.").partition(".")[0])',
        "return start",
        "deltas/test_golden.py",
    ),
    "places: a name serves as a place": (
        "deltas/file.py",
        "if unknown := sorted(place for place in self.tensors if place not in names):",
        "names |= {name: name for name in places}\n        if unknown := [p for p in self.tensors if p not in names]:",
        "deltas/test_delta.py -k unexpected",
    ),
    "format: a later one is read": (
        "deltas/file.py",
        "if named not in map(str, range(FORMAT + 1)):",
        "if not named.isdecimal():",
        "deltas/test_golden.py -k future",
    ),
    "saving: the weights are written before their checks": (
        "models/saving_mixin.py",
        "if infinite:",
        "if infinite and False:",
        "deltas/test_delta.py -k diverged",
    ),
    "shared base: what trains is shared": (
        "backbones/sharing.py",
        "parameter.data = parameter.data.clone()",
        "pass",
        "models/test_frozen_base.py -k leaves_the_others",
    ),
    "shared base: dropout of another model": (
        "backbones/sharing.py",
        "if type(value) is float:",
        "if type(value) is complex:",
        "models/test_frozen_base.py -k leaves_the_others",
    ),
    "resume: no optimizer is no matter": (
        "training/resuming.py",
        "return None if DEEPSPEED in files or (OPTIMIZER in files and SCHEDULER_NAME in files) else OPTIMIZER_STATE",
        "return None",
        "training/test_trainer_users.py -k model_alone",
    ),
    "guard: frozen weights are not compared": (
        "training/guards.py",
        "if changed:",
        "if changed and False:",
        "training/test_training.py -k frozen",
    ),
    "download: a file without its hash passes": (
        "hub/download.py",
        "whole = _hash_of(blob) == blob.name and _state_of(blob) == state",
        "whole = True",
        "hub/test_hub_pull.py -k came_damaged",
    ),
    "links: are followed out of a folder": (
        "hub/download.py",
        "if not target.is_relative_to(home):",
        "if False:",
        "rules/test_hostile.py -k link_out",
    ),
    "attention: a causal backbone sees what comes": (
        "backbones/cpu/attention.py",
        "attention_mask = query.new_ones(tokens, tokens, dtype=torch.bool).tril()",
        "attention_mask = query.new_ones(tokens, tokens, dtype=torch.bool)",
        "backbones/test_attention.py",
    ),
    "input: a short series is filled up in front": (
        "inputs/series.py",
        "F.pad(inputs, (0, 0, 0, fill))",
        "F.pad(inputs, (0, 0, fill, 0))",
        "models/test_models.py -k series_patches",
    ),
    "disk: a full one is somebody else's error": (
        "deltas/disk.py",
        "return error.errno in FULL",
        "return False",
        "deltas/test_disk.py -k leaves_nothing",
    ),
}


def passes(package: Path, tests: str) -> bool:
    """Whether tests pass with the package in the folder `package`."""
    path, *more = tests.split()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-c", os.fspath(ROOT / "pyproject.toml")]
    command += ["--rootdir", os.fspath(ROOT), os.fspath(ROOT / "tests" / path), *more]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.fspath(package)}
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{tests} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Put the faults called `names` in, one at a time (none named: all); returns how many were not found."""
    missed = 0
    for name in names or FAULTS:
        file, before, after, tests = FAULTS[name]
        with tempfile.TemporaryDirectory() as folder:
            package = Path(shutil.copytree(ROOT / "fpt_adapters", Path(folder) / "fpt_adapters"))
            text = (package / file).read_text(encoding="utf-8")
            if text.count(before) != 1:
                raise ValueError(f"{file} has {before!r} {text.count(before)} times: mend the fault {name!r}.")
            whole = passes(package.parent, tests)
            (package / file).write_text(text.replace(before, after), encoding="utf-8")
            found = whole and not passes(package.parent, tests)
        missed += not found
        print(f"{'found ' if found else 'MISSED' if whole else 'FAILS WITHOUT IT'}  {name}  ({tests})", flush=True)
    print(f"{missed} of {len(names or FAULTS)} were not found")
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
