"""Connects every engine to Ray: to the cluster in RAY_ADDRESS, else to a private Ray."""

import json
import logging
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants

import backstay
from backstay.cluster.output import log_folder, quiet_ray
from backstay.errors import BackstayError
from backstay.storage.stores import VARIABLE

_log = logging.getLogger("backstay.engines")

_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send no statistics about this run
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every process listens on the loopback only
}
_LONGEST_ROOT = 24  # bytes; /backstay-…/session_…/sockets/plasma_store follows


@contextmanager
def ray_session(*, cpus: int | None = None, gpus: int = 0) -> Iterator[None]:
    """Hold a connection to Ray.

    An open connection is used and left open. Otherwise this joins the cluster in RAY_ADDRESS, which
    Ray sets in every job, and leaves it running. Otherwise it starts a private Ray on this machine,
    which listens on the loopback only, has no dashboard, and stops at the end or with this process.
    The log files of a private Ray are deleted, unless the work inside failed or `backstay.ray` logs
    at level DEBUG, as it does with --debug.

    Workers import this same copy of Backstay, installed or not: from its own path, or from the
    working directory that came with the job.

    `cpus` (by default all cores) and `gpus` are those of a private Ray.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    with quiet_ray():
        if address == "local":
            with _private_ray(cpus=cpus, gpus=gpus):
                yield
            return
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


@contextmanager
def _private_ray(*, cpus: int | None, gpus: int) -> Iterator[None]:
    _log.info("starting Ray on this machine")
    folder = Path(tempfile.mkdtemp(prefix="backstay-", dir=_temporary_root()))
    keep = logging.getLogger("backstay.ray").isEnabledFor(logging.DEBUG)
    try:
        _start(folder, cpus=cpus, gpus=gpus)
        try:
            log_folder()
            yield
        finally:
            ray.shutdown()
    except BackstayError:
        raise
    except BaseException:
        keep = True
        _log.warning("Ray's log files are kept in %s", folder)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_root() -> str:
    # Ray keeps its sockets there, and the path of a Unix socket has at most 107 bytes.
    usual = tempfile.gettempdir()
    return os.environ.get("RAY_TMPDIR") or (usual if len(usual) <= _LONGEST_ROOT else "/tmp")  # noqa: S108


def _start(folder: Path, *, cpus: int | None, gpus: int) -> None:
    # Ray reads this switch from the environment when it is imported: too early for `_environment`.
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with _environment({**_SWITCHES, **_python_path(_package_root())}):
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
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


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
