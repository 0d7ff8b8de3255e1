"""What `ray job submit --working-dir .` uploads."""

import shutil
import zipfile

import pytest
from ray._private.runtime_env.packaging import (
    create_package,
    get_excludes_from_ignore_files,
    get_uri_for_directory,
)

from tests.support.processes import ROOT

MIB = 2**20


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout, with the data that the README's commands put beside the code."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    for name in ("registry", "ml-25m", "items-v0"):
        (copy / name).mkdir()
        (copy / name / "part.bin").write_bytes(bytes(30 * MIB))
    (copy / "items.parquet").write_bytes(bytes(30 * MIB))
    return copy


def test_the_code_travels_and_data_beside_it_does_not(checkout, tmp_path):
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    with zipfile.ZipFile(package) as archive:
        entries = {entry.filename: entry.file_size for entry in archive.infolist()}
    size = sum(entries.values())
    assert size < 20 * MIB
    assert {name.partition("/")[0] for name in entries} == {"jobs", "platform", "serve"}
    for path in (ROOT / "jobs").glob("*.py"):
        assert f"jobs/{path.name}" in entries
    assert "platform/backstay/cli/__init__.py" in entries


def test_a_new_file_beside_the_code_changes_nothing(checkout):
    def uri() -> str:
        ignored = get_excludes_from_ignore_files(checkout, include_gitignore=True)
        assert len(ignored) == 2
        return get_uri_for_directory(str(checkout), include_gitignore=True)

    before = uri()
    (checkout / "notes.txt").write_text("mine")
    assert uri() == before  # the cluster's copy is used again
    (checkout / "jobs" / "mine.py").write_text("print(1)")
    assert uri() != before
