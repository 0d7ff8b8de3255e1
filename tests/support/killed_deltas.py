"""A process that is killed while it publishes a delta, or while it compacts one.

Run as `python -m tests.support.killed_deltas ROOT`. Prints, for either, what readers found after
each kill: whether the version was there, or the table compacted.
"""

import json
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

from backstay.registry.compaction import compact
from backstay.registry.garbage import find_garbage, remove_garbage
from backstay.registry.store import Registry
from backstay.registry.stored import deltas
from backstay.registry.verify import verify
from tests.support.deltas import edited, pair, read, rows_of, write
from tests.support.publisher import in_fork, kill_at


def main(root):
    """Kill each of the two at its n-th change to the disk, for many n; then run it again."""
    os.fsync = lambda _: None  # what a killed process has written, the kernel still has
    template = Path(root, "template")

    def make():
        pair(Registry(template).space("movies"))

    assert in_fork(make) == 0  # this process must not have threads
    seen = [kill_each(root, publish, 5), kill_each(root, compacted, 1)]
    print(json.dumps(seen))  # noqa: T201


def publish(space, arm):
    """Publish version 2 as a delta, unless it is there; whether it was."""
    there = 2 in space.versions()
    ids, values = space.table(0, "item").read()
    newer = edited(ids, values, changed=(1, 2), gone=(4,), new=["z"])
    if not there:
        arm()
        write(space, *newer, base=1, mapped=True)
    assert deltas(space, space.manifest(2))["item"].base == 0
    assert dict(read(space.table(2, "item"))) == dict(rows_of(*newer))
    return there


def compacted(space, arm):
    """Compact version 1; whether it was compacted before."""
    there = not deltas(space, space.manifest(1))
    rows = read(space.table(1, "item"))
    arm()
    compact(space, 1)
    assert space.table(1, "item").base is None
    assert read(space.table(1, "item")) == rows
    return there


def kill_each(root, work, stride):
    """Kill `work` at every `stride`-th change; what its second run found."""
    seen = []
    while True:
        copy = Path(root, f"{work.__name__}-{len(seen)}")
        shutil.copytree(Path(root, "template"), copy)

        def doomed(copy=copy):
            work(Registry(copy).space("movies"), lambda: kill_at(stride * len(seen)))

        def rerun(copy=copy):
            registry = Registry(copy)
            space = registry.space("movies")
            whole(space)
            there = work(space, lambda: None)
            whole(space)
            remove_garbage(registry, find_garbage(registry, older_than=timedelta(0)))
            assert find_garbage(registry, older_than=timedelta(0)) == []
            whole(space)
            folders = {n.split("/")[2] for n in space.files.find(space.path(1)) if "full-" in n}
            assert len(folders) == (work is compacted)
            return int(there)

        killed = os.WIFSIGNALED(in_fork(doomed))
        status = in_fork(rerun)
        assert os.WIFEXITED(status), status
        if not killed:
            return seen
        seen.append(os.WEXITSTATUS(status))


def whole(space):
    """Every version that readers see is what was published."""
    for version in space.versions():
        assert verify(space, version) == [], verify(space, version)


if __name__ == "__main__":
    main(sys.argv[1])
