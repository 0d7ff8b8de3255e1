import errno
import gc
import os
import shutil
import signal
import subprocess
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backstay.errors import CorruptError, ServiceError
from backstay.serving import cache as caching
from backstay.serving.cache import evict
from tests.support.copies import cached, check_finds, fake, key_of, opened
from tests.support.processes import start_python

FILES = ["vectors.npy", "ids.arrow", "cached.json"]


def folders(cache):
    return sorted(path.name for path in cache.glob("movies/*/*") if path.is_dir())


def partial(cache):
    return list(cache.glob("movies/*/.*.partial"))


def flip(path, byte=-1):
    """Change a byte, as a bad disk or a stray program would."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


def test_processes_that_come_together_copy_once(tmp_path):
    table = fake(list(range(50)))
    threads = [threading.Thread(target=cached, args=(table, tmp_path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.read == [1]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        flip,
        Path.unlink,
    ],
    ids=["half", "empty", "flipped", "gone"],
)
def test_a_damaged_copy_is_thrown_away_and_fetched_again(tmp_path, name, damage, caplog):
    table = fake([3, 1, 2, 9])
    cached(table, tmp_path)
    damage(key_of().folder(tmp_path) / name)
    check_finds(table, cached(table, tmp_path), [9, 5, 3])
    assert table.read == [1, 1]
    assert "thrown away" in caplog.text
    assert partial(tmp_path) == []
    cached(table, tmp_path)
    assert table.read == [1, 1]


@pytest.mark.parametrize("name", FILES[:2])
def test_a_copy_that_a_bad_disk_changed_unnoticed_is_fetched_again(tmp_path, name):
    table = fake([3, 1, 2, 9])
    cached(table, tmp_path)
    path = key_of().folder(tmp_path) / name
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CorruptError, match=r"can't be opened.*thrown away"):
        cached(table, tmp_path)
    check_finds(table, cached(table, tmp_path), [9, 5, 3])
    assert table.read == [1, 1]


def test_a_copy_that_was_moved_by_a_backup_is_hashed_once_and_used(tmp_path, monkeypatch):
    table = fake([3, 1, 2])
    cached(table, tmp_path)
    for path in key_of().folder(tmp_path).iterdir():
        os.utime(path)
    check_finds(table, cached(table, tmp_path), [3, 2])
    monkeypatch.setattr(caching.hashlib, "file_digest", None)
    cached(table, tmp_path)
    assert table.read == [1]


@pytest.mark.parametrize("name", FILES[:2])
def test_a_copy_that_is_written_to_while_it_is_open_is_not_trusted_any_more(tmp_path, name):
    held = opened(fake([1, 2, 3]), tmp_path)
    assert held.copy.intact()
    with (key_of().folder(tmp_path) / name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert not held.copy.intact()


def test_opening_hashes_nothing(tmp_path, monkeypatch):
    table = fake([1, 2])
    cached(table, tmp_path)
    monkeypatch.setattr(caching.hashlib, "file_digest", None)
    check_finds(table, cached(table, tmp_path), [2])


def test_eviction_spares_what_is_kept_and_what_another_process_has_open(tmp_path):
    tables = [fake([k]) for k in range(3)]
    keys = [key_of(k) for k in range(3)]
    held = [opened(table, tmp_path, key=key) for table, key in zip(tables, keys, strict=True)]
    del held[2]
    gc.collect()
    evict(tmp_path / "movies", keep={keys[0].folder(tmp_path)})
    assert [name[0] for name in folders(tmp_path)] == ["0", "1"]
    held.clear()
    gc.collect()
    evict(tmp_path / "movies", keep={keys[0].folder(tmp_path)})
    assert [name[0] for name in folders(tmp_path)] == ["0"]
    check_finds(tables[0], cached(tables[0], tmp_path), [0, 1])
    assert tables[0].read == [1]


def test_a_mapped_table_answers_after_its_copy_is_gone(tmp_path):
    table = fake([1, 2])
    held = opened(table, tmp_path)
    shutil.rmtree(tmp_path)
    assert held.copy.intact()
    check_finds(table, held.table, [2, 1, 3])


def test_the_folder_of_a_dropped_space_goes_with_its_copies(tmp_path):
    cached(fake([1]), tmp_path)
    gc.collect()
    evict(tmp_path / "movies", keep=set())
    assert list(tmp_path.iterdir()) == []


def test_copies_of_an_older_format_are_evicted(tmp_path):
    old = tmp_path / "movies" / "user" / "0-abc.f1"
    old.mkdir(parents=True)
    (old / "vectors.npy").write_bytes(b"x")
    evict(tmp_path / "movies", keep=set())
    assert not old.exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(tmp_path, bad):
    table = fake([1, 2])
    table.values[1, 0] = bad
    with pytest.raises(CorruptError, match="NaN"):
        cached(table, tmp_path)
    assert folders(tmp_path) == partial(tmp_path) == []


def test_an_id_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(CorruptError, match="id 7 more than once"):
        cached(fake([7, 1, 7]), tmp_path)


def test_rows_that_are_lacking_are_refused(tmp_path):
    table = fake([1, 2, 3])
    table.ids = table.ids[:2]
    table.batches = lambda: [(table.ids, table.values[:2])]
    with pytest.raises(CorruptError, match="must hold 3 ids; found 2"):
        cached(table, tmp_path)


def test_a_version_that_was_replaced_by_another_build_is_refused(tmp_path):
    with pytest.raises(CorruptError, match="It was replaced"):
        opened(fake([1]), tmp_path, key=key_of(0, "b" * 64))


def test_a_full_disk_is_named_before_anything_is_copied(tmp_path, monkeypatch):
    table = fake([1, 2, 3])
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: SimpleNamespace(free=23))
    with pytest.raises(ServiceError, match=r"needs 24 bytes; found 23 bytes free.*--cache"):
        cached(table, tmp_path)
    assert table.read == folders(tmp_path) == partial(tmp_path) == []


def test_a_disk_that_fills_up_while_copying_is_named_and_nothing_stays(tmp_path):
    table = fake([1, 2, 3])

    def full():
        yield table.ids[:1], table.values[:1]
        raise OSError(errno.ENOSPC, "No space left on device")

    table.batches = full
    with pytest.raises(ServiceError, match=r"is full \(No space left on device\).*--cache"):
        cached(table, tmp_path)
    assert folders(tmp_path) == partial(tmp_path) == []


KILLED_HALF_WAY = """
import sys, numpy as np, pyarrow as pa
from pathlib import Path
from tests.support.copies import FakeTable, opened

class Table(FakeTable):
    def batches(self):
        yield pa.array([1, 2]), np.ones((2, 2), np.float32)
        print("half", flush=True)
        sys.stdin.read()

opened(Table(pa.array([1, 2, 3, 4]), np.ones((4, 2), np.float32)), Path(sys.argv[1]))
"""


def test_a_copier_killed_half_way_leaves_nothing_that_is_taken_for_a_copy(tmp_path):
    with start_python(
        *("-c", textwrap.dedent(KILLED_HALF_WAY), tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as copier:
        assert copier.stdout.readline() == b"half\n"
        assert list(tmp_path.glob("movies/user/.*.partial/content/vectors.npy"))
        copier.send_signal(signal.SIGKILL)
    table = fake([5, 6, 7, 8])
    check_finds(table, cached(table, tmp_path), [8, 1, 5])
    assert partial(tmp_path) == []
