"""Settings of the service."""

import pytest

from backstay.errors import UsageError
from backstay.serving.config import ServiceConfig


def test_a_configuration_comes_out_of_yaml_or_a_command_lines_strings():
    config = ServiceConfig.parse({"registry": "1", "refresh_seconds": "0.5", "max_ids": "7"})
    assert config == ServiceConfig(registry="1", refresh_seconds=0.5, max_ids=7)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "`registry` is needed"),
        ({"registry": "r", "caché": "c"}, "found.*caché"),
        ({"registry": "r", "max_ids": "many"}, "are numbers.*many"),
        ({"registry": "r", "max_ids": 0}, "max_ids must be"),
        ({"registry": "r", "refresh_seconds": 0}, "refresh_seconds must be above 0"),
    ],
)
def test_a_configuration_that_can_not_be_meant_says_why(config, says):
    with pytest.raises(UsageError, match=says):
        ServiceConfig.parse(config)
