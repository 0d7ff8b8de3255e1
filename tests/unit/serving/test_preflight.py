"""Checks before the service starts."""

import logging

import pytest

from backstay.errors import InputError
from backstay.serving.preflight import check_published
from tests.support import served
from tests.support.processes import run_python
from tests.support.served import SPACE


def test_spaces_that_are_published_are_fine(registry):
    check_published(registry.uri, None, wait=False)
    check_published(registry.uri, (SPACE,), wait=False)


def test_a_space_that_there_is_not_is_named_with_those_that_there_are(registry):
    with pytest.raises(InputError, match=f"of 'books', found '{SPACE}' at .*Check --space"):
        check_published(registry.uri, (SPACE, "books"), wait=False)


def test_a_registry_without_a_version_is_named(tmp_path):
    with pytest.raises(InputError, match=r"found none at .*nope\. Check --registry"):
        check_published(str(tmp_path / "nope"), None, wait=False)
    assert not (tmp_path / "nope").exists()


def test_what_is_not_there_can_be_waited_for(registry, caplog):
    with caplog.at_level(logging.WARNING):
        check_published(registry.uri, ("books",), wait=True)
    assert "'books'" in caplog.text


def test_serve_refuses_both_with_1_and_one_line(tmp_path):
    served.build(tmp_path / "registry", versions=1)
    for arguments, says in (
        (("--registry", tmp_path / "nope"), "found none at"),
        (("--registry", tmp_path / "registry", "--space", "books"), "--space"),
    ):
        done = run_python("-m", "backstay", "serve", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
