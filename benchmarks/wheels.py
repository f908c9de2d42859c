"""Download what `gpu.py` needs besides torch, transformers, accelerate and peft, for a machine without a network.

    python benchmarks/wheels.py build/wheels                        # datasets, evaluate and the like; bitsandbytes
    python benchmarks/wheels.py build/wheels pandas pyarrow pillow  # more, for a machine that lacks them too

The wheels are for CPython 3.12 on Linux, x86-64. Only one CUDA version's library of bitsandbytes is kept, a tenth of
its size: the machine cannot use the others. `make bench-gpu` installs the wheels into a folder of its own there.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PYTHON = "3.12"
GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)  # manylinux_2_N: pip takes the names one by one
NEEDED = ("datasets", "evaluate", "dill", "multiprocess", "xxhash")  # pure Python or small, whatever else is there
QUANTIZED = "bitsandbytes"
LIBRARY = re.compile(r"libbitsandbytes_(?!cpu)(\w+)\.so")


def download(packages: list[str], folder: Path) -> None:
    """Download a wheel of each package, without its requirements."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    subprocess.run([*command, f"--dest={folder}", *packages], check=True)


def keep_library(wheel: Path, backend: str) -> None:
    """Remove all libraries from bitsandbytes' wheel, except those for one back end and for the CPU."""
    with zipfile.ZipFile(wheel) as source, tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        found = {match[1] for name in source.namelist() if (match := LIBRARY.search(name))}
        if backend not in found:
            raise SystemExit(
                f"{wheel.name} has no library for {backend!r}: --cuda is one of {', '.join(sorted(found))}."
            )
        smaller = Path(folder) / wheel.name
        with zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as target:
            for item in source.infolist():
                match = LIBRARY.search(item.filename)
                if match is None or match[1] == backend:
                    target.writestr(item, source.read(item))
        os.replace(smaller, wheel)


def main() -> None:
    """Download the wheels, and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("more", nargs="*", help="other packages that the machine lacks")
    parser.add_argument("--cuda", default="cuda130", help="bitsandbytes' library that is kept; '' for no bitsandbytes")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for old in arguments.folder.glob("*.whl"):  # two versions of a package would stop pip there
        old.unlink()
    download([*NEEDED, *([QUANTIZED] if arguments.cuda else []), *arguments.more], arguments.folder)
    for wheel in arguments.folder.glob(f"{QUANTIZED}-*.whl"):
        keep_library(wheel, arguments.cuda)
    sizes = {wheel.name: wheel.stat().st_size for wheel in sorted(arguments.folder.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / 2**20:8.2f} MiB in all")


if __name__ == "__main__":
    main()
