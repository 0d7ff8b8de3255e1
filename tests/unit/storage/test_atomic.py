import os

import pytest

from backstay.storage import atomic
from backstay.storage.atomic import synced_file, write_file


def test_a_file_is_written_over_the_old_one_and_its_folder_made(tmp_path):
    for content in (b"old", b"new"):
        write_file(tmp_path / "a" / "b.json", content)
    assert (tmp_path / "a" / "b.json").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_file(tmp_path / "a", b"old")

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_bytes_are_on_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.fstat(handle).st_size))
    monkeypatch.setattr(atomic, "sync_folder", lambda folder: events.append(folder.name))
    write_file(tmp_path / "folder" / "a", b"12345")
    assert events == [5, "folder"]


def test_the_files_a_user_makes_are_the_umask_s(tmp_path):
    write_file(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_file_that_fails_half_way_is_removed(tmp_path):
    def write():
        with synced_file(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []
