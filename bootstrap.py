#!/usr/bin/env python3
"""Set Backstay up in .venv and run it; needs Python 3.11 or newer with pip, and nothing else.

    python3 bootstrap.py demo            the whole loop on the built-in marketplace
    python3 bootstrap.py test            linters, types, layers, docs, every test
    python3 bootstrap.py test -- -k registry    one run of pytest with these arguments
    python3 bootstrap.py setup           only set up
    python3 bootstrap.py COMMAND ...     any other `backstay` command

The first run installs the locked packages; later runs start at once, until a lock file changes.
"""

import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit("Backstay needs Python 3.11 or newer; " + sys.executable + " is " + found + ".")

import hashlib
import os
import re
import subprocess
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
CPU_LOCK = ROOT / "requirements-cpu.lock"  # torch's CPU build, if pip can find it
CUDA_LOCK = ROOT / "requirements-cuda.lock"  # what torch's GPU build needs in addition
STAMP = VENV / "backstay-stamp"  # what was installed; written last

PIP = (22, 3)  # the first version that can install into another environment
CHECKS = (
    "ruff check",
    "ruff format --check",
    "mypy",
    "lint-imports --no-logo",
    "mkdocs build --strict --quiet",
)


def main() -> None:
    """Set up the environment, then run the command."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in {"-h", "--help"}:
        print(__doc__.strip())
        return
    set_up()
    if command == "test":
        os.chdir(ROOT)
        for check in CHECKS:
            say(check)
            name, *options = check.split()
            quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme advertises its successor
            subprocess.run([VENV / "bin" / name, *options], check=True, env=quiet)
        chosen = arguments[arguments[:1] == ["--"] :]
        if not chosen:
            say("pytest: what needs no Ray, on every core, with its coverage")
            unit = ("-m", "pytest", "tests/unit", "-n", "auto", "--cov")
            subprocess.run([PYTHON, *unit], check=True)
        run("-m", "pytest", *(chosen or ["tests/cluster", "-m", "not faults"]))
    elif command != "setup":
        run("-m", "backstay", command, *arguments)


def set_up() -> None:
    """Create the environment and install the locked packages, unless that is done."""
    stamp = fingerprint()
    installed = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    if installed == stamp:
        return
    require_pip()
    began = time.monotonic()
    say(f"setting up {VENV} (once; a few minutes)")
    STAMP.unlink(missing_ok=True)
    # Without pip in it, the environment needs no ensurepip, which some distributions leave out.
    same_python = installed.partition(" ")[0] == stamp.partition(" ")[0]
    venv.EnvBuilder(clear=not same_python, symlinks=True).create(VENV)
    if not has_gpu():
        install_locked(CPU_LOCK, optional=True)
    install_locked(LOCK)
    if not torch_is_cpu_build():
        install_locked(CUDA_LOCK)
    pip("install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    pip("check")
    STAMP.write_text(stamp, encoding="utf-8")
    say(f"set up in {time.monotonic() - began:.0f} s")


def fingerprint() -> str:
    """The interpreter, and a hash of every file that decides what is installed."""
    digest = hashlib.sha256()
    for path in (LOCK, CPU_LOCK, CUDA_LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return f"{sys.base_prefix}-{sys.version_info[0]}.{sys.version_info[1]} {digest.hexdigest()}"


def require_pip() -> None:
    """Exit with instructions if pip is missing or too old."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=False
    )
    version = re.match(r"pip (\d+)\.(\d+)", found.stdout)
    if version is None:
        sys.exit(
            f"{sys.executable} has no pip; install it (Debian, Ubuntu: apt install python3-pip)."
        )
    if tuple(map(int, version.groups())) < PIP:
        sys.exit(
            f"pip 22.3 or newer is needed, found {found.stdout.split()[1]}: pip install -U pip"
        )


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded, or BACKSTAY_GPU=1 asks for the GPU build without one."""
    return os.environ.get("BACKSTAY_GPU") == "1" or Path("/proc/driver/nvidia/version").exists()


def torch_is_cpu_build() -> bool:
    """Whether the installed torch needs no CUDA packages."""
    return any(VENV.glob("lib/python*/site-packages/torch-*+cpu.dist-info"))


def install_locked(lock: Path, *, optional: bool = False) -> None:
    """Install a lock's packages, checked by hash, without dependencies: a lock is complete."""
    names = re.findall(r"^[\w.-]+(?===)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    say(f"installing {lock.name}: " + (f"{len(names)} packages" if names[1:] else names[0]))
    arguments = ("--require-hashes", "--only-binary=:all:", "--requirement", lock)
    if pip("install", "--no-deps", *arguments, check=not optional, show_errors=not optional):
        say(f"pip finds no {names[0]} of {lock.name}; continuing without it")


def pip(*arguments: str | Path, check: bool = True, show_errors: bool = True) -> int:
    """Run the pip of this Python on the environment; returns the exit code."""
    environment = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", "--python", PYTHON, *arguments]
    command += ["-qq", "--progress-bar=off"] if arguments[0] == "install" else []
    errors = None if show_errors else subprocess.DEVNULL
    done = subprocess.run(command, check=check, env=environment, stdout=sys.stderr, stderr=errors)
    return done.returncode


def run(*arguments: str) -> None:
    """Replace this process by the environment's Python, which then gets all signals."""
    sys.stdout.flush()
    os.execv(PYTHON, [str(PYTHON), *arguments])


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    print(f"bootstrap: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
