"""cluster.yaml against the schema of the Ray that would read it."""

import tomllib
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


def test_images_are_those_of_the_dockerfile(cluster):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    gpu = cluster["available_node_types"]["gpu_worker"]["docker"]["worker_image"]
    assert cluster["docker"]["image"] == f"backstay:{version}-cpu"
    assert gpu == f"backstay:{version}-gpu"
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    for image in (cluster["docker"]["image"], gpu):
        target = image.rpartition("-")[2]
        assert f"FROM base AS {target}\n" in dockerfile
        assert f"docker build --target {target} --tag {image} ." in dockerfile


def test_every_process_asks_for_the_token(cluster):
    ((remote, local),) = cluster["file_mounts"].items()
    assert local == "~/.ray/auth_token"  # where `backstay cluster token` puts it
    options = cluster["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    assert f"--env=RAY_AUTH_TOKEN_PATH={remote}" in options


def test_nodes_need_no_set_up(cluster):
    prepared = check(cluster)
    assert not any(
        commands
        for key, commands in prepared.items()
        if key.endswith(("setup_commands", "initialization_commands"))
    )


def test_nodes_use_their_private_address(cluster):
    assert cluster["provider"]["use_internal_ips"]
    for role in ("head", "worker"):
        _, start = cluster[f"{role}_start_ray_commands"]
        assert "--node-ip-address=$(hostname -I | cut -d' ' -f1)" in start
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][1]
