"""Starts or joins Ray, for the engines and the service: the only place that does."""

import json
import logging
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray
from ray._private import ray_constants

import backstay
from backstay.cluster.environment import environment
from backstay.cluster.output import log_folder, quiet_ray
from backstay.errors import BackstayError
from backstay.storage.stores import VARIABLE

_log = logging.getLogger("backstay.cluster")

_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send no statistics about this run
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every process listens on the loopback only
}
_KILL_SECONDS = 5  # then a killed process is left to the system
_LONGEST_ROOT = 24  # bytes; /backstay-…/session_…/sockets/plasma_store follows


@contextmanager
def ray_session(
    *,
    cpus: int | None = None,
    gpus: int = 0,
    object_store_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Hold a connection to Ray.

    An open connection is used and left open. Otherwise this joins the cluster in RAY_ADDRESS, which
    Ray sets in every job, and leaves it running. Otherwise it starts a private Ray on this machine,
    which listens on the loopback only, has no dashboard, and stops at the end or with this process.
    The log files of a private Ray are deleted, unless the work inside failed or `backstay.ray` logs
    at level DEBUG, as it does with --debug.

    Workers import this same copy of Backstay, installed or not: from its own path, or from the
    working directory that came with the job.

    Args:
        cpus: The CPUs of a private Ray; by default all cores.
        gpus: The GPUs of a private Ray.
        object_store_bytes: The memory for shared objects of a private Ray; by default Ray's choice.
        environment: Further variables for the processes of a private Ray.
    """
    if ray.is_initialized():
        yield
        return
    with quiet_ray():
        if starts_ray():
            settings = {
                "num_cpus": cpus,
                "num_gpus": gpus,
                "object_store_memory": object_store_bytes,
            }
            with _private_ray(settings, environment or {}):
                yield
            return
        address = os.environ["RAY_ADDRESS"]
        _log.info("joining the Ray cluster at %s", address)
        ray.init(
            address="auto" if "://" not in address else address,
            runtime_env=runtime_env(),
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        try:
            log_folder()
            yield
        finally:
            ray.shutdown()


def starts_ray() -> bool:
    """Whether `ray_session` would start a private Ray, and not use one that already runs."""
    return not ray.is_initialized() and os.environ.get("RAY_ADDRESS", "local") == "local"


@contextmanager
def _private_ray(
    settings: Mapping[str, int | None], environment: Mapping[str, str]
) -> Iterator[None]:
    _log.info("starting Ray on this machine")
    folder = Path(tempfile.mkdtemp(prefix="backstay-", dir=temporary_root()))
    keep = logging.getLogger("backstay.ray").isEnabledFor(logging.DEBUG)
    try:
        try:
            _start(folder, settings, environment)
            log_folder()
            yield
        finally:
            ray.shutdown()
            _kill_rest(folder)
    except (BackstayError, KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into the last
        raise
    except BaseException:
        keep = True
        _log.warning("Ray's log files are kept in %s", folder)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _kill_rest(folder: Path) -> None:
    """Kill what an interrupted start leaves: `ray.shutdown` does not know the half-started node."""
    left = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(str(folder) in argument for argument in process.cmdline()):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=_KILL_SECONDS)


def temporary_root() -> str:
    """A folder with a short path, for sockets: the path of a Unix socket has at most 107 bytes."""
    usual = tempfile.gettempdir()
    return os.environ.get("RAY_TMPDIR") or (usual if len(usual) <= _LONGEST_ROOT else "/tmp")  # noqa: S108


def _start(folder: Path, settings: Mapping[str, int | None], variables: Mapping[str, str]) -> None:
    # Ray reads this switch from the environment when it is imported: too early for `environment`.
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with environment({**_SWITCHES, **_python_path(_package_root()), **variables}):
            ray.init(
                address="local",
                **settings,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def runtime_env() -> dict[str, dict[str, str]]:
    """The settings that workers of a cluster need, beyond those of the job.

    They import this Backstay, and open the same object stores.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    given = job.get("env_vars", {})  # Ray refuses a second value for these
    root = _package_root()
    # Each node unpacks the working directory to a different path, and workers start in it.
    if root and "working_dir" in job and Path(root).is_relative_to(Path.cwd()):
        root = str(Path(root).relative_to(Path.cwd()))
    needed = {VARIABLE: os.environ.get(VARIABLE, ""), **_python_path(root)}
    variables = {name: value for name, value in needed.items() if value and name not in given}
    return {"env_vars": variables} if variables else {}


def _package_root() -> str:
    """The folder to import Backstay from; empty if Backstay is installed."""
    root = str(Path(backstay.__file__).resolve().parents[1])
    return "" if root == str(Path(sysconfig.get_path("purelib")).resolve()) else root


def _python_path(root: str) -> dict[str, str]:
    if not root:
        return {}
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{root}{os.pathsep}{before}" if before else root}
