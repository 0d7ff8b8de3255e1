"""The project's set-up: what a change elsewhere could break without any other test noticing."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import backstay
from tests.support.processes import ROOT, environment, run_python

LOCKS = sorted(ROOT.glob("requirements*.lock"))
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.py") if not path.name.startswith("_"))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return run_python(*arguments, cwd=ROOT, env=environment(PYTHONPATH=path))


@pytest.mark.parametrize("folder", ["platform", "jobs", "serve"])
def test_a_folder_of_programs_is_no_package(folder):
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("path", [str(ROOT), "platform", "."])
def test_platform_stays_the_standard_library_s(path):
    result = python("-c", "import platform; print(platform.system())", path=path)
    assert result.stdout == "Linux\n", result.stderr


def test_importing_the_package_loads_neither_ray_nor_torch():
    code = (
        "import sys, backstay, backstay.errors\n"
        "print([m for m in ('ray', 'torch', 'numpy') if m in sys.modules])"
    )
    result = python("-c", code, path="platform")
    assert result.stdout == "[]\n", result.stderr


def test_all_public_names_can_be_had():
    assert backstay.__all__ == sorted(backstay.__all__)
    assert dir(backstay) == sorted([*backstay.__all__, "__version__"])
    for name in backstay.__all__:
        assert getattr(backstay, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = backstay.nonsense


@pytest.mark.parametrize(
    "module",
    [
        ".".join(path.relative_to(ROOT / "platform").with_suffix("").parts)
        for path in sorted((ROOT / "platform" / "backstay").rglob("*.py"))
        if "__all__" in path.read_text(encoding="utf-8") and path.name != "__init__.py"
    ],
)
def test_a_module_s_public_names_exist(module):
    loaded = importlib.import_module(module)
    assert loaded.__all__ == sorted(loaded.__all__)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_the_version_stands_in_three_places_and_agrees():
    version = project()["version"]
    assert backstay.__version__ == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version)}\b", changes, re.MULTILINE)


def test_there_are_locks_and_they_name_no_place():
    assert [path.name for path in LOCKS] == [
        "requirements-cpu.lock",
        "requirements-cuda.lock",
        "requirements.lock",
    ]
    for path in LOCKS:
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        assert "index" not in re.sub(r"[\w.-]+==\S+", "", text)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_a_hash(path):
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    requirements = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert requirements
    for requirement in requirements:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", requirement)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement


def test_the_lock_holds_every_direct_requirement():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *settings["project"]["dependencies"],
        *settings["dependency-groups"]["dev"],
        *settings["build-system"]["requires"],
    ]
    locked = re.findall(
        r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE
    )
    names = {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in wanted}
    assert names <= set(locked)


def test_everything_the_package_imports_is_a_requirement_of_its_own():
    imported = set()
    for path in (ROOT / "platform").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"backstay", "_typeshed"}  # types only
    extra = project()["optional-dependencies"]["onnx"]  # contracts with ONNX models
    named = {re.match(r"[\w.-]+", text)[0] for text in project()["dependencies"] + extra}
    other_names = {"mimeparse": "python-mimeparse", "yaml": "pyyaml"}
    assert {other_names.get(name, name.lower().replace("_", "-")) for name in foreign} <= named


def test_both_builds_of_torch_are_locked_at_one_version():
    texts = {path.name: path.read_text(encoding="utf-8") for path in LOCKS}
    (full,) = re.findall(r"^torch==(\S+)", texts["requirements.lock"], re.MULTILINE)
    (cpu,) = re.findall(r"^torch==(\S+)", texts["requirements-cpu.lock"], re.MULTILINE)
    assert cpu == f"{full}+cpu"
    assert "nvidia-" not in texts["requirements.lock"]
    assert "nvidia-" in texts["requirements-cuda.lock"]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_runs_by_itself_and_is_a_command(path):
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")
    # Without the package on any path, as where only the working directory was sent.
    result = python(str(path.relative_to(ROOT)), "-h")
    assert result.returncode == 0, result.stderr
    # Without the command's own name, which the job adds.
    assert result.stdout.startswith(f"Usage: jobs/{path.name} [OPTIONS]")
    assert "--json" in result.stdout


def test_there_is_a_job_for_each_command_that_a_cluster_runs():
    assert [path.stem for path in JOBS] == [
        "compare_methods",
        "convert_table",
        "tune_weight",
        "update_version",
    ]


# The checks.


def bootstrap_checks() -> list[str]:
    tree = ast.parse((ROOT / "bootstrap.py").read_text(encoding="utf-8"))
    (checks,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS"
    )
    return list(ast.literal_eval(checks))


def test_pre_commit_runs_the_same_checks_and_downloads_nothing():
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = settings["repos"]
    hooks = repository["hooks"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in hooks] == [
        f".venv/bin/{check}" for check in bootstrap_checks()
    ]
    assert {(hook["language"], hook["pass_filenames"]) for hook in hooks} == {("system", False)}


def test_the_workflow_runs_what_continuous_integration_runs():
    text = (ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    tests, faults = (step["run"] for step in job["steps"] if "run" in step)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ci.splitlines()[-2:] == [tests, f"exec {faults}"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "://" not in text
    actions = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
    assert actions == {"actions/checkout", "actions/setup-python"}


def test_an_import_that_goes_up_breaks_the_contract(tmp_path):
    """Also where it stands inside a function or under TYPE_CHECKING."""
    shutil.copytree(ROOT / "platform" / "backstay", tmp_path / "backstay")
    maps = tmp_path / "backstay" / "compat" / "maps.py"
    maps.write_text(
        maps.read_text(encoding="utf-8")
        + "\n\nif TYPE_CHECKING:\n    from backstay.registry import store\n"
        + "\n\ndef upwards():\n    import ray\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        [
            Path(sys.executable).with_name("lint-imports"),
            "--no-cache",
            str(ROOT / "pyproject.toml"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "data flows downwards BROKEN" in result.stdout
    assert "only cluster, engines and serving import Ray BROKEN" in result.stdout
    assert "backstay.compat.maps -> backstay.registry.store" in result.stdout
    assert "backstay.compat.maps -> ray" in result.stdout


# bootstrap.py, as far as it goes without installing anything.


def test_bootstrap_says_what_it_can_do_without_setting_anything_up():
    result = python("bootstrap.py", "--help")
    assert result.returncode == 0
    assert "bootstrap.py demo" in result.stdout
    assert result.stderr == ""


def test_bootstrap_tells_an_old_python_what_it_needs():
    code = (
        "import sys; sys.version_info = (3, 9, 2)\n"
        "exec(compile(open('bootstrap.py').read(), 'bootstrap.py', 'exec'))"
    )
    result = python("-c", code)
    assert result.returncode == 1
    assert "needs Python 3.11 or newer" in result.stderr
    assert "3.9.2" in result.stderr
    assert "Traceback" not in result.stderr


def test_bootstrap_reads_as_far_as_its_check_on_an_old_python():
    """Nothing before or after the check may be a syntax error there."""
    ast.parse((ROOT / "bootstrap.py").read_text(encoding="utf-8"), feature_version=(3, 8))
