"""The bytes of a row that a plan counts are those of a copy that the service reads."""

import numpy as np
import pyarrow as pa
import pytest

from backstay.registry.store import Registry
from backstay.serving.lookup import Lookup
from backstay.sizing.service import ID_BYTES

ROWS, DIM = 20_000, 16


@pytest.mark.parametrize("gaps", [False, True])
def test_a_copy_takes_as_much_as_a_plan_counts(gaps, tmp_path):
    draft = Registry(tmp_path / "registry").space("movies").draft(0, run_id="run")
    rng = np.random.default_rng(0)
    ids = rng.integers(2**62, size=ROWS) if gaps else rng.permutation(ROWS)
    draft.write_table("item", [(pa.array(ids), rng.random((ROWS, DIM), np.float32))])
    draft.publish(parent=None, method="no-bc", config={}, dataset_fingerprint="random")
    with Lookup(str(tmp_path / "registry"), cache=tmp_path / "cache") as lookup:
        lookup.vectors("movies", "item", ids[:1].tolist())
    files = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    each = sum(path.stat().st_size for path in files) / ROWS
    assert each == pytest.approx(4 * DIM + ID_BYTES, rel=0.001)  # files have headers
