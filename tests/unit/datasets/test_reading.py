import gzip
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.datasets import reading, skipped_rows
from backstay.datasets.reading import Block, blocks, head, parsed
from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows
from backstay.errors import InputError


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["\n", "a\n", "bé\n", '"x\n', 'y"\n', "long " * 9])),
    skip=st.integers(0, 2),
    size=st.integers(1, 40),
    quoted=st.booleans(),
)
def test_blocks_hold_every_line_once_under_its_number(pieces, skip, size, quoted, tmp_path_factory):
    path = tmp_path_factory.mktemp("in") / "x"
    text = "".join(pieces)
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", size)
        got = list(blocks(path, skip_lines=skip, quoted=quoted))
    expected = text.encode().split(b"\n")
    assert b"".join(block.data for block in got) == b"\n".join(expected[skip:])
    halves = [half for block in got for half in block.halves(quoted=quoted)]
    assert b"".join(half.data for half in halves) == b"\n".join(expected[skip:])
    for block in got + halves:
        assert block.data.split(b"\n")[0] == expected[block.line - 1]


def test_a_quoted_field_is_not_cut_through():
    block = Block(Path("x"), 5, b'a\nb\nc,"1\n2\n3\n4",d\n')
    first, second = block.halves(quoted=True)
    assert (first.data, second.data) == (b"a\nb\n", b'c,"1\n2\n3\n4",d\n')
    assert (first.line, second.line) == (5, 7)
    assert second.halves(quoted=True) == (second,)


def test_an_open_quote_breaks_its_own_line_only():
    def fields(line: bytes) -> list[bytes]:
        if line.count(b",") != 1:
            raise BrokenRowError("wrong number of fields")
        return line.split(b",")

    skipped = SkippedRows()
    block = Block(Path("x"), 2, b'a,b\n"c,d\ne,f\ng,h\n')
    assert list(parsed(block, fields, skipped, quoted=True)) == [
        [b"a", b"b"],
        [b'"c', b"d"],
        [b"e", b"f"],
        [b"g", b"h"],
    ]
    torn = Block(Path("x"), 2, b'a,b\nc,"d,\ne,f\ng,h"\n')
    assert list(parsed(torn, fields, skipped, quoted=True)) == [
        [b"a", b"b"],
        [b"e", b"f"],
        [b"g", b'h"'],
    ]
    assert skipped.summary() == "1 × wrong number of fields (first: x, line 3)"


def test_a_line_without_end_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100)
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    (tmp_path / "x").write_bytes(b"a\n" + b"x" * 5000)
    with pytest.raises(InputError, match=r"x, line 2: expected text, found no line break"):
        list(blocks(tmp_path / "x"))


def test_a_damaged_archive_is_refused(tmp_path):
    packed = bytearray(gzip.compress(b"line\n" * 100_000))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "x.gz").write_bytes(packed)
    with pytest.raises(InputError, match="breaks off or is damaged after line"):
        list(blocks(tmp_path / "x.gz"))


def test_archives_one_after_another_are_one_text(tmp_path):
    (tmp_path / "x").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    assert b"".join(block.data for block in blocks(tmp_path / "x")) == b"a\nb\n"


def test_latin_1_is_taken_where_a_release_is_from_before_utf_8(tmp_path):
    (tmp_path / "x").write_bytes("Misérables\n".encode("latin-1"))
    assert head(tmp_path / "x") == ["Misérables"]


def test_a_folder_cannot_be_read_as_a_file(tmp_path):
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        head(tmp_path)


def test_progress_is_logged_from_time_to_time(monkeypatch, caplog):
    monkeypatch.setattr(skipped_rows, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "backstay.datasets"):
        SkippedRows().advance(Path("a/b.csv"), rows=1200, size=3_000_000)
    assert caplog.messages == ["read 1,200 rows, 3 MB, now in b.csv"]
