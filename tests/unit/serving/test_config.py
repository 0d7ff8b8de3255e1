"""Settings of the service."""

from pathlib import Path

import pytest

from backstay.errors import UsageError
from backstay.serving.cache import default_cache
from backstay.serving.config import ServiceConfig


def test_a_configuration_comes_out_of_yaml_or_a_command_lines_strings():
    config = ServiceConfig.parse({"registry": "1", "refresh_seconds": "0.5", "max_ids": "7"})
    assert config == ServiceConfig(registry="1", refresh_seconds=0.5, max_ids=7)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "registry must be given; found {}"),
        ({"registry": "r", "caché": "c"}, "caché must be one of registry, cache, .*found 'c'"),
        ({"registry": "r", "max_ids": "many"}, "max_ids must be .*integer.*found 'many'"),
        ({"registry": "r", "max_ids": 0}, "max_ids must be"),
        ({"registry": "r", "refresh_seconds": 0}, "refresh_seconds must be greater than 0; fo"),
        ({"registry": "r", "refresh_seconds": "nan"}, "refresh_seconds must be a finite number"),
    ],
)
def test_an_invalid_configuration_is_refused_with_the_reason(config, says):
    with pytest.raises(UsageError, match=says):
        ServiceConfig.parse(config)


def test_copies_of_tables_go_to_the_user_s_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == "/somewhere/backstay"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == str(Path.home() / ".cache" / "backstay")
