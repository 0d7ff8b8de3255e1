"""The config files under serve/: deployed as they are, but for registry, port and code."""

import subprocess
import sys

import httpx
import pytest
import yaml

from backstay.registry import tokens
from backstay.serving import service
from backstay.serving.config import ServiceConfig
from tests.support import served
from tests.support.processes import PLATFORM, ROOT, free_port
from tests.support.running_service import eventually
from tests.support.served import SPACE
from tests.support.sockets import exposed

FILES = ["machine.yaml", "cluster.yaml"]


def read(name):
    return yaml.safe_load((ROOT / "serve" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_names_what_the_code_has(name):
    (application,) = read(name)["applications"]
    (deployment,) = application["deployments"]
    ServiceConfig.parse(deployment["user_config"])
    assert deployment["name"] == service.DEPLOYMENT
    assert application["name"] == service.APP
    module, _, attribute = application["import_path"].partition(":")
    assert getattr(service, attribute).__module__ == module
    assert deployment["max_queued_requests"] == service.MAX_QUEUED_REQUESTS
    assert deployment["max_ongoing_requests"] == service.MAX_ONGOING_REQUESTS


def test_the_file_for_shards_names_what_the_code_has():
    config = read("sharded.yaml")
    (application,) = config["applications"]
    built = service.application(application["args"])
    deployments = {each["name"]: each for each in application["deployments"]}
    shards = [f"shard-{n}" for n in range(application["args"]["shards"])]
    assert list(deployments) == [service.DEPLOYMENT, *shards]
    _, bound = built._bound_deployment.init_args
    assert [each._bound_deployment.name for each in bound] == shards
    assert deployments[service.DEPLOYMENT]["max_ongoing_requests"] == service.MAX_ONGOING_REQUESTS
    assert deployments[service.DEPLOYMENT]["max_queued_requests"] == service.MAX_QUEUED_REQUESTS


def test_a_cluster_s_nodes_share_the_registry_and_answer_other_machines():
    machine, cluster = map(read, FILES)
    assert (machine["proxy_location"], machine["http_options"]["host"]) == ("HeadOnly", "127.0.0.1")
    assert (cluster["proxy_location"], cluster["http_options"]["host"]) == ("EveryNode", "0.0.0.0")
    for config, shared in ((machine, False), (cluster, True)):
        registry = config["applications"][0]["deployments"][0]["user_config"]["registry"]
        assert ("://" in registry) is shared


def serve_cli(cluster, *arguments):
    code = "from ray.serve.scripts import cli; cli()"
    environment = {**cluster.environment, "RAY_DASHBOARD_ADDRESS": cluster.address}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    ).stdout


def status(cluster):
    found = yaml.safe_load(serve_cli(cluster, "status"))["applications"]
    return found[service.APP]["status"] if service.APP in found else "DEPLOYING"


@pytest.mark.parametrize("name", FILES)
def test_a_config_file_is_deployed(name, job_cluster, tmp_path):
    registry = served.build(tmp_path / "registry", versions=2)
    _, token = tokens.create(registry.files, "reader")
    config = read(name)
    port = free_port()
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    (application,) = config["applications"]
    application["runtime_env"] = {"env_vars": {"PYTHONPATH": str(PLATFORM)}}
    application["deployments"][0]["user_config"] |= {
        "registry": str(tmp_path / "registry"),
        "cache": str(tmp_path / "cache"),
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    serve_cli(job_cluster, "deploy", str(file))
    try:
        eventually(lambda: status(job_cluster) != "DEPLOYING")
        assert status(job_cluster) == "RUNNING", serve_cli(job_cluster, "status")
        url = f"http://127.0.0.1:{port}/v1/spaces/{SPACE}/user/40?version=0"
        assert httpx.get(url).status_code == 401
        found = httpx.get(url, headers={"Authorization": f"Bearer {token}"})
        assert found.status_code == 200
        assert exposed(job_cluster.pids()) == []
    finally:
        serve_cli(job_cluster, "shutdown", "-y")
