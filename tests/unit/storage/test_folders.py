"""New folders, on a local disk and on a file system without renames."""

import os
import pickle
import signal
import subprocess
from pathlib import Path

import pytest

from backstay.errors import InputError
from backstay.storage.files import open_files
from backstay.storage.folders import MARKER, new_folder, remove_abandoned
from tests.support.processes import start_python


@pytest.fixture(params=["folder", "memory"])
def target(request, tmp_path):
    uri = str(tmp_path / "deep" / "out") if request.param == "folder" else f"memory://{tmp_path}"
    yield uri
    open_files(uri).remove("")


def write(new, name, content):
    with new.part(name) as sink:
        sink.write(content)


def test_a_folder_has_what_was_written(target):
    with new_folder(target) as new:
        for _ in range(2):  # two workers may write the same part
            write(pickle.loads(pickle.dumps(new)) if new.files.is_local else new, "a", b"12")
        new.check_parts({"a": 2})
    found = open_files(target).find("")
    assert found.pop(MARKER, 0) == 0
    assert found == {"a": 2}
    assert open_files(target).is_local or open_files(target).exists(MARKER)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_nothing(target, error):
    def fail():
        with new_folder(target) as new:
            write(new, "a", b"12")
            raise error

    with pytest.raises(error):
        fail()
    assert not open_files(target).exists("")
    assert not Path(target).parent.is_dir() or list(Path(target).parent.iterdir()) == []


def test_a_part_that_is_lost_is_named(target):
    def lose():
        with new_folder(target) as new:
            write(new, "a", b"12")
            new.check_parts({"a": 2, "b": 3})

    with pytest.raises(InputError, match="lacks 1 of 2 parts that workers wrote, such as b"):
        lose()


def test_what_is_there_is_not_overwritten(target):
    open_files(target).write("x", b"")
    with pytest.raises(InputError, match="is not empty"), new_folder(target):
        pass
    assert list(open_files(target).find("")) == ["x"]


def test_of_two_writers_the_first_to_finish_has_it(tmp_path):
    def write_both():
        with new_folder(tmp_path / "out") as slow:
            with new_folder(tmp_path / "out") as quick:
                write(quick, "a", b"quick")
            write(slow, "a", b"slow")

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
        (new.path / "sub").mkdir()
        (new.path / "sub" / "a").touch()
    assert {"a", "sub", "content", tmp_path.name} <= synced


KILLED = """
import sys, time
from backstay.storage.folders import new_folder
with new_folder(sys.argv[1]) as new:
    (new.path / "a").touch()
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
