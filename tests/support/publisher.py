"""A process that publishes while others do, or is killed while it publishes.

Run as `python -m tests.support.publisher race ROOT RUN RIVAL ROUNDS` or `… kill ROOT`.
"""

import functools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from backstay.errors import VersionExistsError
from backstay.registry.store import Registry
from backstay.registry.verify import verify
from backstay.storage import files
from tests.support import builders


def publish(space, version, run_id, *, recall=0.25, before=lambda: None):
    """Stage a version, call `before`, and publish the version."""
    draft = space.draft(version, run_id=run_id)
    builders.stage(draft, previous_dim=4 if version else None, recall=recall)
    before()
    builders.publish(draft)


def race(root, run_id, rival, rounds):
    """Publish version 0 of space after space at the moment the rival does; print who won."""
    registry = Registry(root)
    won = []
    for n in range(int(rounds)):

        def meet(n=n):
            Path(root, f"{run_id}-{n}").touch()
            while not Path(root, f"{rival}-{n}").exists():
                time.sleep(0)

        try:
            publish(registry.space(f"space-{n}"), 0, run_id, recall=len(run_id), before=meet)
            won.append(True)
        except VersionExistsError:
            won.append(False)
    print(json.dumps(won))  # noqa: T201


def kill(root):
    """Kill a publisher at its n-th change to the disk, for many n; then let it run again.

    While it stages, at every 6th; while it publishes, at each. Prints, for either phase, the latest
    version that a reader saw after each kill. Each step is a fork of this process, which has
    everything imported and has read nothing, so that no threads are lost.
    """
    os.fsync = lambda _: None  # what a killed process has written, the kernel still has
    publish(Registry(Path(root, "template")).space("movies"), 0, "first")
    print(json.dumps([_kill_at_each(root, "staging", 6), _kill_at_each(root, "publishing", 1)]))  # noqa: T201


def _kill_at_each(root, phase, stride):
    seen = []
    while True:
        copy = Path(root, f"{phase}-{len(seen)}")
        shutil.copytree(Path(root, "template"), copy)
        space = Registry(copy).space("movies")

        def doomed(space=space):
            arm = functools.partial(_kill_at, stride * len(seen))
            if phase == "staging":
                arm()
                publish(space, 1, "doomed", before=lambda: os._exit(0))
            publish(space, 1, "doomed", before=arm)

        def rerun(space=space):
            latest = space.latest()
            _assert_whole(space, latest)
            publish(space, 1, "doomed")
            _assert_whole(space, 1)
            assert space.drafts() == []
            return latest

        killed = os.WIFSIGNALED(_in_fork(doomed))
        status = _in_fork(rerun)
        assert os.WIFEXITED(status), status
        if not killed:
            return seen
        seen.append(os.WEXITSTATUS(status))


def _assert_whole(space, latest):
    assert space.versions() == list(range(latest + 1)), space.versions()
    for version in space.versions():
        assert verify(space, version) == [], verify(space, version)


def _in_fork(step):
    """Run `step` in a fork that exits with what it returns, 255 for an error; its status."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(step() or 0)
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"{error!r}\n")
            os._exit(255)
    return os.waitpid(pid, 0)[1]


def _kill_at(n):
    """Kill this process as it begins its n-th change."""
    left = iter(range(n))

    def counted(change):
        def run(*args, **kwargs):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return run

    for name in ("fsync", "link", "mkdir", "replace", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    files.HashedFile.write = counted(files.HashedFile.write)


if __name__ == "__main__":
    {"race": race, "kill": kill}[sys.argv[1]](*sys.argv[2:])
