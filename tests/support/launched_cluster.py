"""A cluster started by cluster.yaml's own commands on made-up machines; prints what it did as JSON.

    unshare --net --pid --fork --kill-child --mount-proc \
        python -m tests.support.launched_cluster FOLDER REGISTRY TABLE DATASET

In namespaces of its own no port is taken, no other Ray is stopped, and everything ends with this
process. Ray's fake provider starts the machines that the autoscaler asks for.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.support.processes import ROOT

HEAD = "10.77.0.2"
HEAD_TYPE = "ray.head.default"  # the fake provider names it so
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
MACHINES = 2  # at most, of one CPU each


class Report:
    """What happened, by the seconds since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.parts: dict[str, object] = {}

    def line(self, text: str) -> str:
        return f"{time.monotonic() - self.began:5.1f} s  {text}"


def shell(command: str, **options) -> None:
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, **options)
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout.decode()}\n{done.stderr.decode()}")


def network() -> None:
    """Give this namespace a loopback and a private address, which `hostname -I` then names."""
    shell("ip link set lo up && ip link add eth0 type veth peer name eth1")
    shell(f"ip address add {HEAD}/24 dev eth0 && ip link set eth0 up && ip link set eth1 up")
    shell("ip route add default dev eth0")


def environment(home: Path) -> dict[str, str]:
    """The variables of the container, and those that the fake provider needs."""
    options = (option.removeprefix("--env=") for option in CONFIG["docker"]["run_options"])
    container = dict(option.split("=", 1) for option in options)
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **given,
        **container,
        "HOME": str(home),
        "RAY_AUTH_TOKEN_PATH": str(home / ".ray" / "auth_token"),
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # no listener
        # On a node the image has the project's environment on PATH, here Python's own folder.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "platform"))),
    }


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


def start(home: Path, variables: dict[str, str]) -> None:
    """Make the token and run the head's commands."""
    subprocess.run(
        [sys.executable, "-m", "backstay", "cluster", "token"], env=variables, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(fake_config()), "utf-8")
    (cpus,) = CONFIG["available_node_types"]["head"]["resources"].values()
    for command in CONFIG["head_start_ray_commands"]:
        # The launcher passes the head's resources in a variable, which the fake provider, in the
        # same process tree, would take for those of every machine.
        flag = f" --num-cpus={cpus}" if "ray start" in command else ""
        shell(command + flag, env={**variables, **FAKE})


def scan(report: Report) -> None:
    """Ask every port without the token, from a process that has none."""
    path = Path(__file__).with_name("port_scan.py")
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, path, HEAD], env=given, check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    lines = [
        report.line(f"{host}:{port}, {process}: {count} requests without the token")
        for host, port, process, count in found["asked"]
    ]
    lines += [
        f"answered: {host}:{port}, {process}: {request} → {answer}"
        for host, port, process, request, answer in found["answered"]
    ]
    report.parts["scan"] = {**found, "lines": lines}


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


def fit(report: Report, variables: dict[str, str], registry: str, dataset: str) -> None:
    with watched(report, "fit", "an update with --workers 1:2") as part:
        part["answer"] = command(
            variables,
            *("update", "--registry", registry, "--space", "market", "--dataset", dataset),
            *("--until", "0.5", "--dim", "8", "--epochs", "20", "--workers", "1:2"),
        )


def main() -> None:
    folder, registry, table, dataset = sys.argv[1:]
    home, report = Path(folder), Report()
    network()
    variables = environment(home)
    os.environ.update({k: v for k, v in variables.items() if k.startswith("RAY_")})
    os.environ["HOME"] = folder
    try:
        start(home, variables)
        import ray  # noqa: PLC0415

        ray.init(address=f"{HEAD}:6379", log_to_driver=False)
        report.parts["start"] = {"lines": [report.line("the head is up")]}
        for name, run in {
            "scan": lambda: scan(report),
            "convert": lambda: convert(report, variables, registry, table),
            "fit": lambda: fit(report, variables, registry, dataset),
        }.items():
            try:
                run()
            except Exception:  # noqa: BLE001 - a part that fails leaves the others alone
                report.parts[f"{name} failed"] = traceback.format_exc()
    except Exception:  # noqa: BLE001 - reported
        report.parts["failed"] = traceback.format_exc()
    sys.stdout.write(json.dumps(report.parts) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the end of this process ends every other in its namespace


if __name__ == "__main__":
    main()
