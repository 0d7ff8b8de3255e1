"""What a process still holds in memory after it has copied a table."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from backstay.registry.store import Registry
from tests.support import builders
from tests.support.processes import run_python

ROWS, DIM = 100_000, 128  # 51 MB

COPIES = """
import sys
from pathlib import Path
from backstay.registry.store import Registry
from backstay.serving.copies import Key, open_table_copy

def own():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))

registry = Registry(sys.argv[1])
found = []
for version in (0, 1):
    key = Key("films", "item", version, registry.space("films").manifest(version).sha256)
    open_table_copy(registry, key, cache=Path(sys.argv[2]))
    found.append(own())
print(found[1] - found[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_copied_table_does_not_stay_in_memory(tmp_path):
    space = Registry(tmp_path / "registry").space("films")
    rng = np.random.default_rng(0)
    for version, rows in ((0, 10), (1, ROWS)):  # the first one loads what copying needs
        draft = space.draft(version, run_id=f"run-{version}")
        draft.write_table(
            "item", [(pa.array(range(rows)), rng.random((rows, DIM), dtype=np.float32))]
        )
        builders.publish(draft, method="no-bc")
    done = run_python("-c", COPIES, tmp_path / "registry", tmp_path / "cache", check=True)
    assert int(done.stdout) < 4 * ROWS * DIM / 1000 / 2  # KB: half of the vectors
