"""Options and drivers of object stores."""

import json
import os
import sys

import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.errors import RegistryError, UsageError
from backstay.storage.files import open_files
from backstay.storage.stores import EXTRAS, VARIABLE, options_of, parse_options


def test_options_are_pairs_or_json_and_a_later_one_wins():
    found = parse_options(['{"anon": true, "key": "a"}', "key=b", "endpoint_url=http://h:1/?x=y"])
    assert found == {"anon": True, "key": "b", "endpoint_url": "http://h:1/?x=y"}
    assert parse_options(['client_kwargs={"region_name": "eu"}', "anon=false", 'key="12"']) == {
        "client_kwargs": {"region_name": "eu"},
        "anon": False,
        "key": "12",
    }


@pytest.mark.parametrize("text", ["anon", "=true", "{broken"])
def test_a_text_that_is_neither_is_wrong_usage(text):
    words = ["versions", "--registry", "s3://b/r", "--space", "s", "--storage-options", text]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert f"expected NAME=VALUE or a JSON object, found {text}" in result.stderr
    assert VARIABLE not in os.environ


def test_an_option_that_the_driver_lacks_is_named_with_those_it_has():
    words = ["versions", "--registry", "s3://b/r", "--space", "s"]
    result = CliRunner().invoke(main, [*words, "--storage-options", "endpoint=http://h:1"])
    assert result.exit_code == 2
    assert "--storage-options must be options of the driver of s3://" in result.stderr
    assert "endpoint_url" in result.stderr
    assert "found endpoint." in result.stderr


def test_an_option_may_be_for_one_store_only(monkeypatch):
    given = {"s3.endpoint_url": "http://h:1", "gs.token": "anon", "anon": True}
    monkeypatch.setenv(VARIABLE, json.dumps(given))
    assert options_of("s3://b/r") == {"endpoint_url": "http://h:1", "anon": True}
    assert options_of("folder") == options_of("memory://m") == {}
    with pytest.raises(UsageError, match="driver of gs://"):
        options_of("gs://b/r")
    monkeypatch.setenv(VARIABLE, json.dumps({"s4.anon": True}))
    with pytest.raises(UsageError, match="the store 's4'"):
        options_of("s3://b/r")
    monkeypatch.setenv(VARIABLE, "[1]")
    with pytest.raises(UsageError, match="must hold a JSON object"):
        options_of("s3://b/r")


@pytest.mark.parametrize(("protocol", "extra"), EXTRAS.items())
def test_a_missing_driver_is_named_by_its_extra(protocol, extra, monkeypatch):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    for module in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RegistryError, match=rf"pip install 'backstay\[{extra}\]'"):
        open_files(f"{protocol}://bucket/root")


def test_a_store_that_lacks_settings_says_how_to_give_them(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(RegistryError, match="--storage-options NAME=VALUE"):
        open_files("az://container/root")


def test_options_of_the_command_reach_an_s3_server(s3, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    words = ["versions", "--registry", f"{s3.bucket()}/registry", "--space", "movies"]
    for name, value in s3.storage_options.items():
        words += ["--storage-options", f"{name}={value}"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "found no registry at s3://" in result.stderr
    assert VARIABLE not in os.environ
