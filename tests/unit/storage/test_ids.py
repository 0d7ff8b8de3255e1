"""Keys of ids: equal for equal ids, and different for others."""

import numpy as np
import pyarrow as pa

from backstay.storage.ids import id_keys, key_shares

NAMES = ["", "a", "a\0", "\0a", "aa", "ä", "item-1", "item-10", "1234567", "12345678", "123456789"]


def test_equal_strings_have_equal_keys_wherever_they_stand():
    alone = [id_keys(pa.array([name]))[0] for name in NAMES]
    assert id_keys(pa.array(NAMES)).tolist() == alone
    assert id_keys(pa.array(["before", *NAMES, "after"])[1:-1]).tolist() == alone


def test_different_strings_have_different_keys():
    names = [*NAMES, *(f"{first}{n}" for first in ("", "x", "a-long-prefix-") for n in range(9999))]
    names += ["a" * n for n in range(2, 99)]
    assert len(np.unique(id_keys(pa.array(names)))) == len(set(names))


def test_no_strings_have_no_keys():
    assert len(id_keys(pa.array([], pa.string()))) == 0


def test_shares_are_about_equal_even_for_multiples():
    counts = np.bincount(key_shares(np.arange(0, 80_000, 8), 8).astype(int), minlength=8)
    assert counts.min() > 1000
    assert counts.sum() == 10_000
