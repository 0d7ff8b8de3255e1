"""A process that is killed while it publishes a delta, or while it compacts one.

Run as `python -m tests.support.killed_deltas ROOT`, a folder or an s3:// URL. Prints, for either,
what readers found after each kill: whether the version was there, or the table compacted.
"""

import functools
import json
import os
import shutil
import sys
from datetime import timedelta

from backstay.registry.compaction import compact
from backstay.registry.garbage import find_garbage, remove_garbage
from backstay.registry.store import Registry
from backstay.registry.stored import deltas
from backstay.registry.verify import verify
from tests.support.deltas import edited, pair, read, rows_of, write
from tests.support.kills import in_fork, kill_at, kill_at_request, kill_each


def main(root):
    """Kill each of the two at its n-th change, for many n; then run it again."""
    if "://" in root:
        strides, make, arm = {publish: 3, compacted: 1}, pair_in, kill_at_request
    else:
        os.fsync = lambda _: None  # what a killed process has written, the kernel still has
        template = f"{root}/template"
        assert in_fork(functools.partial(pair_in, template)) == 0  # this process has no threads
        strides, arm = {publish: 5, compacted: 1}, kill_at
        make = functools.partial(shutil.copytree, template)
    seen = [_kill_at_each(root, work, by, make, arm) for work, by in strides.items()]
    print(json.dumps(seen))  # noqa: T201


def pair_in(root):
    """Make a registry of two versions."""
    pair(Registry(root).space("movies"))


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


def _kill_at_each(root, work, stride, make, arm):
    """Kill `work` at every `stride`-th change; what its second run found."""

    def doomed(n):
        make(f"{root}/{work.__name__}-{n}")
        space = Registry(f"{root}/{work.__name__}-{n}").space("movies")
        work(space, functools.partial(arm, stride * n))

    def rerun(n):
        registry = Registry(f"{root}/{work.__name__}-{n}")
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

    return kill_each(doomed, rerun)


def whole(space):
    """Every version that readers see is what was published."""
    for version in space.versions():
        assert verify(space, version) == [], verify(space, version)


if __name__ == "__main__":
    main(sys.argv[1])
