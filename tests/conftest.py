"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest


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
