"""Attributes of films: genres, and the year and words of the title."""

import re

from backstay.datasets.reading import ItemRow
from backstay.datasets.rows import ITEM_EMPTY
from backstay.datasets.skipped_rows import BrokenRowError

MOVIE_KINDS = ("genre", "year", "title")
"""The attribute kinds of a film."""

WORD_ITEMS = 5
"""Least number of titles in which a word must occur to be an attribute."""

NO_GENRES = ("", "(no genres listed)", "unknown")

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# "Heat (1995)"; series: "(1994–2004)", "(2011-)", "(2005– )"
_YEAR = re.compile(r"\((\d{4})(?:[-–]\s?(?:\d{4})?)?\)\s*$")


def is_title(kind: str) -> bool:
    """Whether an attribute kind holds titles, whose words are its values."""
    return "title" in kind.lower()


def words(title: str) -> list[str]:
    """The distinct words of a title, lower-cased, in their order."""
    return list(dict.fromkeys(_WORD.findall(title.lower())))


def movie(movie_id: str | int, title: str, genres: list[str]) -> ItemRow:
    """A film's row of `MOVIE_KINDS`; the year is taken from the title."""
    if movie_id == "":
        raise BrokenRowError(ITEM_EMPTY)
    found = _YEAR.search(title)
    years = [found.group(1)] if found else []
    name = title[: found.start()] if found else title
    known = [genre for genre in dict.fromkeys(genres) if genre not in NO_GENRES]
    return movie_id, (known, years, words(name))
