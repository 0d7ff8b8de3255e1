import signal
import subprocess
import threading

import pytest

from backstay.storage.locks import LockedError, locked
from tests.support.processes import start_python

HOLDER = """
import sys, time
from pathlib import Path
from backstay.storage.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_process_however_it_dies(tmp_path):
    path = tmp_path / "lock"
    with start_python("-c", HOLDER, path, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match="another writer"), locked(path, wait=False):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(path, wait=False):
        pass


def test_one_thread_at_a_time_holds_a_lock(tmp_path):
    inside = []
    seen = []

    def hold():
        with locked(tmp_path / "lock"):
            inside.append(1)
            seen.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 8
