"""Processes that are killed at their n-th change to a disk or a bucket, for many n.

Each step is a fork of a process that has everything imported and has read nothing, so that no
threads are lost. That process never opens a bucket: s3fs survives no fork.
"""

import functools
import os
import signal
import sys

from backstay.storage import files


def kill_each(doomed, rerun):
    """Run `doomed(n)` for n = 0, 1, … until it is not killed; what `rerun(n)` found after each.

    `rerun` answers 0 or 1.
    """
    seen = []
    while True:
        n = len(seen)
        killed = os.WIFSIGNALED(in_fork(functools.partial(doomed, n)))
        code = os.waitstatus_to_exitcode(in_fork(functools.partial(rerun, n)))
        assert code in (0, 1), code
        if not killed:
            return seen
        seen.append(code)


def in_fork(step):
    """Run `step` in a fork that exits with what it returns, 255 for an error; its status."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(step() or 0)
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"{error!r}\n")
            os._exit(255)
    return os.waitpid(pid, 0)[1]


def kill_at(n):
    """Kill this process as it begins its n-th change to the disk."""
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


def kill_at_request(n):
    """Kill this process before its n-th request that changes a bucket."""
    from s3fs import S3FileSystem  # noqa: PLC0415

    changes = {"put_object", "copy_object", "delete_object", "delete_objects", "upload_part"}
    changes |= {"create_multipart_upload", "complete_multipart_upload"}
    left = iter(range(n))
    call = S3FileSystem._call_s3

    async def counted(self, method, *args, **kwargs):
        if method in changes and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return await call(self, method, *args, **kwargs)

    S3FileSystem._call_s3 = counted
