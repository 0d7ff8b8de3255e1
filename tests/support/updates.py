"""Short updates through the command line, and the registry that they begin from."""

import shutil

import pytest
from click.testing import CliRunner

from backstay.cli import main

SHORT = ("--epochs", "4", "--evaluate-every", "2", "--workers", "0")


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def update(registry, dataset, *options):
    at = ("--registry", registry, "--space", "market", "--dataset", dataset)
    return run("update", *at, *SHORT, "--json", *options)


@pytest.fixture(scope="module")
def published(dataset, tmp_path_factory):
    """A registry with versions 0 and 1 of dimensions 8 and 10."""
    root = tmp_path_factory.mktemp("published")
    for until, dim in ((0.5, 8), (0.6, 10)):
        done = update(root, dataset, "--until", until, "--dim", dim)
        assert done.exit_code == 0, done.output
    return root


@pytest.fixture
def registry(published, tmp_path):
    return shutil.copytree(published, tmp_path / "registry")
