"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

# Before torch is loaded: the products in tests are too small to share among threads, and threads
# that wait for each other on a busy machine take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.support.builders import marketplace
from tests.support.s3_server import s3

__all__ = ["s3"]  # a fixture


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A small generated data set."""
    return marketplace(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of public data sets that real-data tests read."""
    folder = os.environ.get("BACKSTAY_TEST_DATA")
    if not folder:
        pytest.skip("BACKSTAY_TEST_DATA names no folder of public data sets")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"BACKSTAY_TEST_DATA names {path}, which is no folder")
    return path
