"""New folders on a local disk."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from backstay.errors import InputError
from backstay.storage.files import HALF_WRITTEN
from backstay.storage.folders import new_folder, remove_abandoned, resumable_folder
from tests.support.processes import start_python


@pytest.mark.parametrize("error", [None, KeyError, KeyboardInterrupt])
def test_a_folder_has_what_was_written_or_is_not_there(tmp_path, error):
    def write():
        with new_folder(tmp_path / "deep" / "out") as new:
            (new / "a").write_bytes(b"12")
            (new / f"{HALF_WRITTEN}b").touch()  # of a worker that was killed
            if error:
                raise error

    if error is None:
        write()
        assert [path.name for path in (tmp_path / "deep" / "out").iterdir()] == ["a"]
        return
    with pytest.raises(error):
        write()
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("name", ["out/x", "out"])
def test_what_is_there_is_not_overwritten(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    for folder in (new_folder(tmp_path / "out"), resumable_folder(tmp_path / "out", key="k")):
        with pytest.raises(InputError, match="is not empty"), folder:
            pass
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_resumable_folder_stays_for_the_same_key_alone(tmp_path):
    def fail():
        with resumable_folder(tmp_path / "out", key="one") as hidden:
            (hidden / "content" / "a").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with resumable_folder(tmp_path / "out", key="one") as hidden:
        assert (hidden / "content" / "a").exists()
        with (
            pytest.raises(InputError, match="another process is writing"),
            resumable_folder(tmp_path / "out", key="one"),
        ):
            pass
    with new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_of_two_writers_the_first_to_finish_has_it(tmp_path):
    def write_both():
        with new_folder(tmp_path / "out") as slow:
            with new_folder(tmp_path / "out") as quick:
                (quick / "a").write_bytes(b"quick")
            (slow / "a").write_bytes(b"slow")

    with pytest.raises(InputError, match="someone else wrote there meanwhile"):
        write_both()
    assert (tmp_path / "out" / "a").read_bytes() == b"quick"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_every_file_is_on_disk_before_the_folder_appears(tmp_path, monkeypatch):
    synced = set()

    def note(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        assert path == tmp_path or not (tmp_path / "out").exists()
        synced.add(path.name)

    monkeypatch.setattr(os, "fsync", note)
    with new_folder(tmp_path / "out") as new:
        (new / "sub").mkdir()
        (new / "sub" / "a").touch()
    assert {"a", "sub", "content", tmp_path.name} <= synced


KILLED = """
import sys, time
from pathlib import Path
from backstay.storage.folders import new_folder
with new_folder(Path(sys.argv[1])) as new:
    (new / "a").touch()
    print("half-way", flush=True)
    time.sleep(600)
"""


def test_the_folder_of_a_killed_writer_goes_a_living_one_s_stays(tmp_path):
    with start_python("-c", KILLED, tmp_path / "out[1]", stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half-way\n"
        remove_abandoned(tmp_path)
        [hidden] = tmp_path.iterdir()
        writer.send_signal(signal.SIGKILL)
    remove_abandoned(tmp_path, name="another")
    assert hidden.is_dir()
    with new_folder(tmp_path / "out[1]"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out[1]"]
