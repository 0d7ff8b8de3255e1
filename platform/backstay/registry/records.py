"""Numbered records that never change: <folder>/0.json, 1.json, … The highest number is in force."""

import getpass
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from backstay.storage.documents import parse_sealed, seal
from backstay.storage.files import Files

T = TypeVar("T")


def author() -> str:
    """Who writes a record: the user and host of this process."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@dataclass(frozen=True)
class Records(Generic[T]):
    """The records in one folder."""

    files: Files
    folder: str
    adapter: TypeAdapter[T]

    def history(self) -> list[T]:
        """All records, oldest first; CorruptError where one was changed."""
        return [self.read(number) for number in self.numbers()]

    def last(self) -> T | None:
        """The record in force; None where there is none."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def append(self, number: int, record: Mapping[str, object]) -> bool:
        """Write a record; False where someone else has written one of this number."""
        return self.files.create(self._path(number), seal(record, what="a record"))

    def numbers(self) -> list[int]:
        """The numbers of the records, ascending."""
        stems = [name.removesuffix(".json") for name in self.files.find(self.folder)]
        return sorted(int(stem) for stem in stems if stem.isdecimal() and str(int(stem)) == stem)

    def read(self, number: int) -> T:
        """One record."""
        path = self._path(number)
        return parse_sealed(self.adapter, self.files.read(path), path=self.files.full(path))

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number}.json"
