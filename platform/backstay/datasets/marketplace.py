"""The built-in marketplace: a seeded generator of interactions that resemble real ones.

Users join, return in sessions and leave. Items launch, come into fashion and age. The meaning of
attributes changes slowly, so an older model becomes less accurate. The generator needs no file and
no network, and yields rows in time order, so they are written as they come.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.datasets import marketplace_catalogue, marketplace_traffic
from backstay.datasets.dataset import DatasetInfo
from backstay.datasets.marketplace_catalogue import DEPARTMENTS, LEAVES, Index
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.datasets.writer import interaction_schema, item_schema, write_dataset

__all__ = ["MarketplaceConfig", "generate", "interaction_batches", "item_batches"]

_BATCH = 65_536  # items


def interaction_batches(config: MarketplaceConfig) -> Iterator[pa.RecordBatch]:
    """The interactions in time order; user_id is an int64, item_id a string.

    Memory holds the state of users and items, one block of interactions, and a table of a byte per
    interaction (64 MiB at most) that prevents a user from taking an item twice.
    """
    schema = interaction_schema(user_id=pa.int64())
    ids = _item_ids(np.arange(config.n_items))
    for block in marketplace_traffic.blocks(config, marketplace_catalogue.build(config)):
        yield pa.record_batch(
            [
                pa.array(block.users),
                ids.take(pa.array(block.items)),
                pa.array(block.ratings),
                pa.array(block.times),
            ],
            schema=schema,
        )


def item_batches(config: MarketplaceConfig) -> Iterator[pa.RecordBatch]:
    """Every item with its attributes, in order of launch."""
    items = marketplace_catalogue.build(config)
    schema = item_schema(("category", "brand", "price_band", "style"))
    leaves = [[name, f"{name}/{leaf + 1}"] for name in DEPARTMENTS for leaf in range(LEAVES)]
    for start in range(0, config.n_items, _BATCH):
        rows = np.arange(start, min(start + _BATCH, config.n_items))
        yield pa.record_batch(
            [
                _item_ids(rows),
                pa.array(leaves, schema.field("category").type).take(
                    pa.array(items.category[rows])
                ),
                _lists("brand", items.brand[rows, None]),
                _lists("price", items.price[rows, None]),
                _lists("style", items.styles[rows]),
            ],
            schema=schema,
        )


def generate(config: MarketplaceConfig, out: Path) -> DatasetInfo:
    """Write the marketplace as the dataset folder `out`."""
    return write_dataset(
        out,
        name="marketplace",
        source={"format": "marketplace", **asdict(config)},
        interactions=interaction_batches(config),
        items=item_batches(config),
        presorted=True,
    )


def _item_ids(numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array([f"item-{number:05d}" for number in numbers.tolist()], pa.string())


def _lists(kind: str, values: Index) -> pa.Array:
    """The values of each row, (rows, slots) with -1 for none, as lists of names."""
    given = values >= 0
    names = pa.array([f"{kind}-{n + 1}" for n in range(int(values.max(initial=-1)) + 1)])
    ends = np.cumsum(given.sum(axis=1), dtype=np.int32)
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[np.int32(0)], ends]), pa.int32()),
        names.take(pa.array(values[given])).cast(pa.string()),
    )
