"""A small marketplace that updates are fitted on."""

from pathlib import Path

import pytest

from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("market") / "dataset"
    generate(MarketplaceConfig(interactions=3_000), out)
    return out
