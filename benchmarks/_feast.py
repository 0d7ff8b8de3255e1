"""Feast's feature server over random vectors, for benchmarks/serving.py.

    python _feast.py fill FOLDER ROWS DIM
    python _feast.py serve FOLDER PORT

Runs in an environment with `feast`; that of Backstay has none.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32

CONFIG = """
project: bench
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""


def fill(folder: Path, rows: int, dim: int) -> None:
    """Define one feature view, and write its rows into the online store."""
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(CONFIG)
    source = folder / "vectors.parquet"
    now = datetime.now(UTC)
    frame = pd.DataFrame(
        {
            "item": np.arange(rows),
            "embedding": list(np.random.default_rng(0).standard_normal((rows, dim), np.float32)),
            "when": now,
        }
    )
    frame.head(10).to_parquet(source)
    item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
    view = FeatureView(
        name="vectors",
        entities=[item],
        ttl=timedelta(days=365),
        schema=[Field(name="embedding", dtype=Array(Float32))],
        source=FileSource(path=str(source), timestamp_field="when"),
    )
    store = FeatureStore(repo_path=str(folder))
    store.apply([item, view])
    for start in range(0, rows, 5000):
        store.write_to_online_store("vectors", frame.iloc[start : start + 5000])


def main() -> None:
    """Fill the store, or serve it."""
    verb, folder, *rest = sys.argv[1:]
    if verb == "fill":
        fill(Path(folder), *map(int, rest))
    else:
        feast = Path(sys.executable).with_name("feast")
        os.execv(  # noqa: S606 - the command in the same environment
            feast, ["feast", "--chdir", folder, "serve", "--port", rest[0], "--no-access-log"]
        )


if __name__ == "__main__":
    main()
