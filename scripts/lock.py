#!/usr/bin/env python3
"""Write the three lock files from pyproject.toml.

    pip install uv
    python scripts/lock.py [--upgrade] [--upgrade-package NAME]

They pin every package by version and SHA-256, for Python 3.11 and newer:

    requirements.lock        all of it: what Backstay runs, tests and builds with
    requirements-cuda.lock   what torch's GPU build for Linux needs in addition: several gigabytes
    requirements-cpu.lock    torch's CPU build, which needs none of that; PyTorch publishes it on an
                             index of its own, so pip may not find it

bootstrap.py chooses between the builds. Locked versions are kept, unless an option changes that;
options are passed to `uv pip compile`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
CPU_LOCK = ROOT / "requirements-cpu.lock"
CUDA_LOCK = ROOT / "requirements-cuda.lock"

TORCH = "2.13.0"
TORCH_CPU_WHEELS = {
    "cp311-manylinux_2_28_x86_64": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
    ),
}

UV_COMPILE = (
    *("pip", "compile", "pyproject.toml", "--all-extras", "--group", "dev"),
    *("--constraint", "-"),
    *("--no-config", "--universal", "--python-version", "3.11", "--generate-hashes"),
    *("--no-header", "--no-annotate", "--quiet"),
)

_CUDA = re.compile(r"(cuda|nvidia)-|triton\b")
_HEADER = "# Written by scripts/lock.py from pyproject.toml; edit that and run the script.\n"


def resolve(options: list[str]) -> list[str]:
    """Resolve all requirements: one text for each, with its hashes."""
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("uv is needed to resolve the lock: pip install uv")
    known = "".join(path.read_text(encoding="utf-8") for path in (LOCK, CUDA_LOCK) if path.exists())
    draft = ROOT / ".requirements.draft"  # uv keeps the versions in this file
    draft.write_text(known, encoding="utf-8")
    try:
        subprocess.run(
            [uv, *UV_COMPILE, "--output-file", draft.name, *options],
            input=f"torch=={TORCH}\n",
            text=True,
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return re.split(r"^(?=\S)", draft.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    finally:
        draft.unlink()


def main() -> None:
    """Resolve the requirements and write them to the three files."""
    requirements = resolve(sys.argv[1:])
    hashes = " ".join(f"\\\n    --hash=sha256:{digest}" for digest in TORCH_CPU_WHEELS.values())
    split = {
        LOCK: [text for text in requirements if not _CUDA.match(text)],
        CPU_LOCK: [f"torch=={TORCH}+cpu {hashes}\n"],
        CUDA_LOCK: [text for text in requirements if _CUDA.match(text)],
    }
    for path, texts in split.items():
        path.write_text(_HEADER + "".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
