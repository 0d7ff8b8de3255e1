"""A Ray cluster of three hosts, of which one is cut off in the middle of a command.

Each host has its own network, /dev/shm and Ray folder, and a link to a bridge; see `namespaces`.
They share the disk, as machines share a folder or an object store.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.namespaces import CONFIG, Report, container, make_token, scan, shell

HOSTS = ("head", "left", "right")
NETWORK = "10.77.0"
GCS = f"{NETWORK}.1:6379"
CPUS = 1  # of each host
STEPS = ("scan", "convert", "update", "compare", "head")

# A host that does not answer is dead after about 6 seconds; cluster.yaml's own values take longer.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "2000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
SMALL = (
    *("--dims=8,12", "--epochs=2", "--seeds=1", "--widths=8", "--consumer-epochs=2"),
    "--methods=fix-m0,no-bc,posthoc-ridge",
)


class Host:
    """One machine: namespaces that last as long as their first process."""

    def __init__(self, name: str, home: Path, variables: dict[str, str]) -> None:
        self.name, self.address = name, f"{NETWORK}.{1 + HOSTS.index(name)}"
        self.link = f"to-{name}"
        self._own, self._shown = home / name, home / "ray"  # its Ray folder, and where it sees it
        self._own.mkdir()
        self.variables = {**variables, "RAY_TMPDIR": str(self._shown)}

    def power_on(self) -> None:
        first = ("--fork", "--kill-child", "--mount-proc", "bash", "-c", "sleep infinity & wait")
        holder = subprocess.Popen(["unshare", "--net", "--pid", "--mount", *first])
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.05)
        (self._first,) = map(int, found)
        shell(f"ip link add {self.link} type veth peer name eth0 netns {self._first}")
        shell(f"ip link set {self.link} master switch up")
        self.run(f"mount --bind {self._own} {self._shown} && mount -t tmpfs tmpfs /dev/shm")
        self.run("ip link set lo up && ip link set eth0 up")
        self.run(f"ip address add {self.address}/24 dev eth0 && ip route add default dev eth0")

    def power_off(self) -> None:
        """Kill all of its processes."""
        shell(f"ip link delete {self.link}")
        os.kill(self._first, signal.SIGKILL)

    def reboot(self) -> None:
        self.power_off()
        self.power_on()
        self.start()

    def cut(self) -> None:
        shell(f"ip link set {self.link} down")

    def mend(self) -> None:
        shell(f"ip link set {self.link} up")

    def inside(self, *command: str) -> list[str]:
        """A command that runs on this host."""
        return ["nsenter", f"--target={self._first}", "--net", "--pid", "--mount", *command]

    def run(self, command: str) -> None:
        done = subprocess.run(
            self.inside("bash", "-c", command),
            env=self.variables, check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{command}\n{done.stdout}\n{done.stderr}")

    def start(self) -> None:
        """Run the commands of cluster.yaml that start Ray."""
        kind = "head" if self.name == "head" else "worker"
        _stop, start = CONFIG[f"{kind}_start_ray_commands"]
        start = start.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")
        start = start.replace("--dashboard-host", "--include-dashboard=false --dashboard-host")
        self.run(f"export RAY_HEAD_IP={NETWORK}.1; {start} --num-cpus={CPUS}")

    def processes(self, name: str) -> list[int]:
        """The pids of its processes whose command has this name."""
        mine = Path(f"/proc/{self._first}/ns/pid").readlink()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns" / "pid").readlink() == mine:
                    command = (process / "cmdline").read_bytes()
                    found += [int(process.name)] * (name.encode() in command)
        return found


class Run:
    """A `backstay` command that runs on the head."""

    def __init__(self, head: Host, log: Path, *command: object) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                head.inside(sys.executable, "-m", "backstay", *map(str, command)),
                env={**head.variables, "RAY_ADDRESS": GCS},
                stdout=output,
                stderr=output,
            )

    def text(self) -> str:
        return self.log.read_text("utf-8")

    def until(self, condition, *, seconds: float = 90):
        """Wait until the condition is true while the command runs; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}:\n{self.text()}")
            time.sleep(0.05)
        raise RuntimeError(f"it did not happen in {seconds} seconds:\n{self.text()}")

    def finish(self) -> None:
        if self.process.wait(timeout=90):
            raise RuntimeError(self.text())


class Cluster:
    """The cluster, and what is done to it."""

    def __init__(self, home: Path, disk: Path) -> None:
        self.home, self.disk = home, disk
        self.report = Report()
        self.variables = container(home) | QUICK
        self.hosts: dict[str, Host] = {}

    def start(self) -> None:
        make_token(self.variables)
        (self.home / "ray").mkdir()
        shell("ip link set lo up && ip link add switch type bridge && ip link set switch up")
        shell(f"ip address add {NETWORK}.254/24 dev switch")
        self.hosts = {name: Host(name, self.home, self.variables) for name in HOSTS}
        for host in self.hosts.values():
            host.power_on()
        self.hosts["head"].start()
        self.boot("left", "right")
        part = self.report.parts["start"] = {"lines": []}
        self.tell(part, f"{len(self.alive())} hosts form a cluster")

    def boot(self, *names: str, again: bool = False) -> None:
        """Start hosts at the same time."""
        hosts = [self.hosts[name] for name in names]
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.reboot if again else Host.start, hosts))

    def alive(self) -> set[str]:
        """The hosts that the cluster counts on."""
        from ray._raylet import GcsClient  # noqa: PLC0415

        nodes = GcsClient(address=GCS).get_all_node_info(timeout=10).values()
        addresses = {node.node_manager_address for node in nodes if node.state == 0}
        return {name for name, host in self.hosts.items() if host.address in addresses}

    def wait(self, seconds: float, condition) -> bool:
        """Whether the condition came true in so many seconds."""
        end = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < end:
            time.sleep(0.2)
        return met

    def command(self, log: str, *command: object) -> Run:
        return Run(self.hosts["head"], self.disk / f"{log}.log", *command)

    def cut_at(self, part, run: Run, process: str) -> tuple[str, int]:
        """Cut off a host on which such a process works; the process sleeps from then on."""

        def victim() -> tuple[str, int] | None:
            for name in ("left", "right"):
                for pid in self.hosts[name].processes(process):
                    os.kill(pid, signal.SIGSTOP)
                    if pid in self.hosts[name].processes(process):  # it is still at it
                        return name, pid
                    os.kill(pid, signal.SIGCONT)
            return None

        name, pid = run.until(victim)
        self.hosts[name].cut()
        self.tell(part, f"cut off: {name}, in the middle of {process}")
        run.until(lambda: name not in self.alive())
        self.tell(part, f"{name} is declared dead")
        return name, pid

    def recover(self, part, run: Run, process: str) -> None:
        """Cut a host off, let the command finish, and bring the host and its process back."""
        name, pid = self.cut_at(part, run, process)
        run.finish()
        self.tell(part, "the command has succeeded")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self.hosts[name].mend()
        self.wait(5, lambda: pid not in self.hosts[name].processes(process))
        self.hosts[name].reboot()
        self.tell(part, f"{name} is back: {len(self.alive())} hosts")

    def part(self, name: str, asked: str) -> dict[str, Any]:
        part = self.report.parts[name] = {"lines": []}
        self.tell(part, f"asked: {asked}")
        return part

    def tell(self, part: dict[str, Any], text: str) -> None:
        part["lines"].append(self.report.line(text))

    def undisturbed(self) -> list[subprocess.Popen[bytes]]:
        """Start the same commands in single processes, without Ray."""
        update, convert, compare = self.commands("undisturbed")
        return [
            subprocess.Popen(
                ["nice", sys.executable, "-m", "backstay", *map(str, command)],
                env=self.variables,
                stdout=subprocess.DEVNULL,
            )
            for command in (
                [*update, "--workers", 0],
                [*convert, "--engine", "local"],
                [*compare, "--workers", 1],
            )
        ]

    def commands(self, name: str):
        """An update, a conversion and a comparison; `name` is in all paths of their results."""
        disk = self.disk
        return (
            [
                *("update", "--registry", disk / f"updated-{name}", "--space", "market"),
                *("--dataset", disk / "dataset", "--until", "0.5", "--dim", "64", "--epochs", "60"),
                *("--batch-size", "8192", "--evaluate-every", "1", "--checkpoint-seconds", "1"),
                *("--profile", "paper", "--sampling", "neighbours"),
            ],
            [
                *("convert", "--registry", disk / "registry", "--space", "movies", "--from", 2),
                *("--to", 0, "--input", disk / "table", "--output", disk / f"table-{name}"),
            ],
            ["compare", disk / "dataset", "--out", disk / f"run-{name}", *SMALL],
        )

    def scan(self) -> None:
        """Ask every port of a host that cluster.yaml's commands for workers have started."""
        host = self.hosts["left"]
        scan(self.report, host.address, host.inside())

    def convert(self) -> None:
        part = self.part("convert", "a conversion over Ray with 2 workers")
        _, command, _ = self.commands("cut")
        run = self.command("convert", *command, "--engine", "ray", "--workers", 2)
        self.recover(part, run, "FlatMap")

    def update(self) -> None:
        part = self.part("update", "an update with --workers 2")
        command, _, _ = self.commands("cut")
        run = self.command("update", *command, "--workers", 2)
        run.until(self.checkpoint)
        self.recover(part, run, "RayTrainWorker")
        part["resumed"] = re.findall(r"resuming .* after step (\d+)", run.text())
        self.tell(part, f"the fit resumed after step {', '.join(part['resumed'])}")

    def checkpoint(self) -> bool:
        """Whether Ray Train has noted a checkpoint of the update."""
        notes = self.disk.glob("updated-cut/market/runs/*/checkpoint_manager_snapshot.json")
        return any("checkpoint_2" in path.read_text("utf-8") for path in notes)

    def compare(self) -> None:
        part = self.part("compare", "a comparison with --workers 2")
        _, _, command = self.commands("cut")
        run = self.command("compare", *command, "--workers", 2)
        run.until(lambda: self.cells("cut"))
        self.recover(part, run, "ray::run_cell")

    def cells(self, name: str) -> int:
        return len(list(self.disk.glob(f"run-{name}/cells/*/cell.json")))

    def head(self) -> None:
        part = self.part("head", "a comparison with --workers 2")
        _, _, command = self.commands("head")
        run = self.command("head-1", *command, "--workers", 2)
        run.until(lambda: self.cells("head"))
        self.hosts["head"].power_off()
        part["ended"], part["cells"] = run.process.wait(), self.cells("head")
        self.tell(part, f"the head is killed, and the command with it: {part['cells']} cells")
        self.hosts["head"].power_on()
        self.hosts["head"].start()
        self.tell(part, f"the head is back: {len(self.alive())} hosts")
        self.boot("left", "right", again=True)
        self.tell(part, f"started the others: {len(self.alive())} hosts")
        again = self.command("head-2", *command, "--workers", 2)
        again.finish()
        part["reused"] = again.text().count("reused from an earlier run")
        self.tell(part, f"the same command has succeeded; {part['reused']} cells reused")


def main() -> None:
    home, disk = map(Path, sys.argv[1:])
    cluster = Cluster(home, disk)
    processes = cluster.undisturbed()

    def wait() -> None:
        for process in processes:
            if process.wait():
                raise RuntimeError(f"{process.args} ended with {process.returncode}")

    steps = {name: getattr(cluster, name) for name in STEPS}
    cluster.report.run(steps | {"undisturbed": wait}, start=cluster.start)


if __name__ == "__main__":
    main()
