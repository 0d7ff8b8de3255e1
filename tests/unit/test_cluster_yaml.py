"""cluster.yaml against the schema of the Ray that would read it."""

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.processes import ROOT

WORKERS = ("cpu_worker", "gpu_worker")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def check(config: dict[str, Any]) -> dict[str, Any]:
    prepared = prepare_config(deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_it(cluster):
    check(cluster)


def _unknown_key(config):
    config["idle_timeout_minuts"] = 5


def _unknown_head(config):
    config["head_node_type"] = "boss"


def _text_for_a_number(config):
    config["available_node_types"]["cpu_worker"]["max_workers"] = "8"


def _unknown_key_of_a_node_type(config):
    config["available_node_types"]["gpu_worker"]["min_worker"] = 0


def _no_resources(config):
    del config["available_node_types"]["cpu_worker"]["resources"]


def _more_at_least_than_at_most(config):
    config["available_node_types"]["cpu_worker"]["min_workers"] = config["max_workers"] + 1


@pytest.mark.parametrize(
    "plant",
    [
        _unknown_key,
        _unknown_head,
        _text_for_a_number,
        _unknown_key_of_a_node_type,
        _no_resources,
        _more_at_least_than_at_most,
    ],
)
def test_ray_refuses_a_planted_mistake(cluster, plant: Callable[[dict[str, Any]], None]):
    broken = deepcopy(cluster)
    plant(broken)
    with pytest.raises((ValidationError, ValueError)):
        check(broken)


def test_workers_start_from_zero_and_may_grow(cluster):
    types = check(cluster)["available_node_types"]
    assert set(types) == {"head", *WORKERS}
    for name in WORKERS:
        assert types[name]["min_workers"] == 0
        assert types[name]["max_workers"] > 0
    assert types["gpu_worker"]["resources"]["GPU"] > 0
    assert not any(types["head"]["resources"].values())


def test_images_hold_the_locked_ray(cluster):
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (ray_version,) = re.findall(r"^ray==(\S+)", lock, re.MULTILINE)
    images = [cluster["docker"]["image"]]
    images.append(cluster["available_node_types"]["gpu_worker"]["docker"]["worker_image"])
    for image in images:
        assert image.startswith(f"rayproject/ray:{ray_version}-py3")


def test_commands_name_what_the_project_has(cluster):
    ((remote, local),) = cluster["file_mounts"].items()
    assert (ROOT / local / "bootstrap.py").is_file()
    prepared = check(cluster)
    commands = [
        command
        for key, commands in prepared.items()
        if key.endswith("_commands")
        for command in commands
    ]
    assert any(f"cd {remote} && python bootstrap.py setup" in command for command in commands)
    starts = [command for command in commands if re.search(r"\bray (start|stop)\b", command)]
    assert len(starts) == 4
    for command in starts:  # of the environment that the set-up made, not of the image
        assert command.startswith(f"export PATH={remote}/.venv/bin:$PATH;")
    assert "pip install" not in " ".join(commands)  # nothing that the lock doesn't name
