"""A cluster started by cluster.yaml's own commands on made-up machines; see `namespaces`.

Ray's fake provider starts the machines that the autoscaler asks for.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from backstay.registry.store import Registry
from tests.support.autoscaled_service import Load, replicas, serve_cli, serve_config
from tests.support.cluster_page import Reader
from tests.support.namespaces import CONFIG, Report, container, scan, shell, use_token

HEAD = "10.77.0.2"
HEAD_TYPE = "ray.head.default"  # the fake provider names it so
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
MACHINES = 2  # at most, of one CPU each


def network() -> None:
    """Give this namespace a loopback and a private address, which `hostname -I` then names."""
    shell("ip link set lo up && ip link add eth0 type veth peer name eth1")
    shell(f"ip address add {HEAD}/24 dev eth0 && ip link set eth0 up && ip link set eth1 up")
    shell("ip route add default dev eth0")


FAKE = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}


def fake_config() -> dict[str, object]:
    """cluster.yaml with small machines of Ray's fake provider, which go away after 6 seconds."""
    types = CONFIG["available_node_types"]
    worker = {**types["cpu_worker"], "resources": {"CPU": 1}, "max_workers": MACHINES}
    module = "ray.autoscaler._private.fake_multi_node.node_provider"
    return {
        **CONFIG,
        "provider": {
            "type": "external",
            "module": f"{module}.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
        },
        "available_node_types": {
            HEAD_TYPE: {**types["head"], "node_config": {}, "max_workers": 0},
            "cpu_worker": {**worker, "node_config": {}},
        },
        "head_node_type": HEAD_TYPE,
        "max_workers": MACHINES,
        "idle_timeout_minutes": 0.1,
        # The launcher adds the rest to the file that it writes on the head.
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "docker": {},
    }


def head_script() -> str:
    """The commands that the launcher runs on the head, for `ray up`."""
    (cpus,) = CONFIG["available_node_types"]["head"]["resources"].values()
    # The launcher passes the head's resources in a variable, which the fake provider, in the
    # same process tree, would take for those of every machine.
    stop, begin = CONFIG["head_start_ray_commands"]
    fake = "".join(f"export {name}={value}\n" for name, value in FAKE.items())
    return f"{fake}{stop}\n{begin} --num-cpus={cpus}\n"


def start(reader: Reader, report: Report) -> None:
    """Follow the page up to `ray up`, and join."""
    network()
    home = Path(reader.variables["HOME"])
    (home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(fake_config()), "utf-8")
    reader.follow("Start it")
    use_token(reader.variables)
    import ray  # noqa: PLC0415 - it reads the variables when it is imported

    ray.init(address=f"{HEAD}:6379", log_to_driver=False)
    report.parts["start"] = {"lines": [report.line("the head is up")]}


def machines() -> int:
    import ray  # noqa: PLC0415

    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


@contextlib.contextmanager
def watched(report: Report, name: str, asked: str) -> Iterator[dict[str, object]]:
    """Record how many machines there are, until the block is over and all have gone."""
    lines = [report.line(f"asked: {asked}")]
    part: dict[str, object] = {"lines": lines, "most": 0, "left": None}
    report.parts[name] = part
    ended = threading.Event()

    def follow() -> None:
        before, idle = machines(), None
        while idle is None or (before and time.monotonic() - idle < 60):
            now = machines()
            if now != before:
                lines.append(report.line(f"{now} machines"))
            before = now
            part["most"] = max(int(str(part["most"])), now)
            if ended.is_set() and idle is None:
                lines.append(report.line("done"))
                idle = time.monotonic()
            time.sleep(0.25)
        part["left"] = before

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield part
    finally:
        ended.set()
        thread.join()


def command(variables: dict[str, str], *arguments: str) -> dict[str, object]:
    """Run a `backstay` command on the cluster, and return its answer."""
    done = subprocess.run(
        [sys.executable, "-m", "backstay", *arguments, "--json"],
        env={**variables, "RAY_ADDRESS": f"{HEAD}:6379"},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def convert(report: Report, variables: dict[str, str], registry: str, table: str) -> None:
    with watched(report, "convert", "a conversion over Ray with 2 workers") as part:
        part["answer"] = command(
            variables,
            *("convert", "--registry", registry, "--space", "movies", "--from", "2", "--to", "0"),
            *("--input", table, "--output", f"{table}-0", "--engine", "ray", "--workers", "2"),
        )


def fit(report: Report, reader: Reader, registry: str, dataset: str) -> None:
    with watched(report, "fit", "the page's update with --workers 1:2, as a job"):
        reader.follow(
            "Run a version through it",
            {"s3://bucket/registry": registry, "/shared/ml-25m": dataset},
        )


def serve(report: Report, variables: dict[str, str], registry: str, home: Path) -> None:
    """Serve on the cluster; load comes and goes."""
    file = home / "serve.yaml"
    config = serve_config(registry, home / "cache", most=MACHINES)
    file.write_text(yaml.safe_dump(config), "utf-8")
    with watched(report, "serve", "look-ups by 1 replica, 2 under load") as part:
        lines, seen = part["lines"], part.setdefault("replicas", [0])

        def wait(count: int) -> None:
            until = time.monotonic() + 90
            while seen[-1] != count and time.monotonic() < until:
                if (now := replicas()) != seen[-1]:
                    seen.append(now)
                    lines.append(report.line(f"{now} replicas"))
                time.sleep(0.25)

        load = Load(registry, threads=24)  # makes its token first: replicas poll for new ones
        serve_cli(variables, "deploy", str(file))
        wait(1)
        lines.append(report.line(f"load: {len(load.threads)} clients ask all the time"))
        with load:
            wait(2)
            enough = load.answers + 200
            while load.answers < enough and not load.failures:
                time.sleep(0.25)
        lines.append(report.line(f"the load ends after {load.answers} answers"))
        wait(1)
        part["answers"], part["failures"] = load.answers, load.failures[:3]
        serve_cli(variables, "shutdown", "-y")
        lines.append(report.line("shut down"))


def page(report: Report, reader: Reader, registry: str) -> None:
    """Follow the page's last section: deploy, look up, take down."""
    part = report.parts["page"] = {"lines": [report.line("asked: the page's look-up service")]}
    ids, values = Registry(registry).space("movies").table(0, "item").read()
    place = {"s3://bucket/registry": registry}
    reader.edit("serve/cluster.yaml", place)
    part["answer"] = reader.follow(
        "Serve it", place | {"NODE": HEAD, "--entity item 1": f"--entity item {ids[0]}"}
    )
    part["looked up"] = ids[:1].to_pylist(), values[0, :6].tolist()
    part["lines"] += [report.line("the service has answered, and the cluster is down")]


def main() -> None:
    folder, registry, table, dataset = sys.argv[1:]
    home, report = Path(folder), Report()
    variables = container(home)
    reader = Reader(home, variables, up=head_script())
    published = f"{registry}-of-the-page"
    report.run(
        {
            "scan": lambda: scan(report, HEAD),
            "convert": lambda: convert(report, variables, registry, table),
            "fit": lambda: fit(report, reader, published, dataset),
            "serve": lambda: serve(report, variables, registry, home),
            "page": lambda: page(report, reader, published),
        },
        start=lambda: start(reader, report),
    )


if __name__ == "__main__":
    main()
