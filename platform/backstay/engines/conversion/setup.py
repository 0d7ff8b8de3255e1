"""From what is asked to what is converted: maps, input, sizes and schemas."""

import os
import sys
from dataclasses import fields
from functools import partial
from shlex import quote
from typing import Literal

import numpy as np
import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.engines.conversion.config import ConvertConfig
from backstay.engines.conversion.input import ConvertInput, survey
from backstay.engines.conversion.part import Conversion, Target
from backstay.engines.conversion.plan import sizes
from backstay.engines.conversion.source import dataset, stored_table
from backstay.registry.store import Registry, Space
from backstay.registry.table_layout import table_schema

_REPEATED = {"entity", "id_column", "embedding_column", "dtype", "on_error"}
"""Options that a suggested command repeats where they were given."""

LOCAL_BYTES = 64 << 20  # of vectors; for fewer, tasks of a cluster take longer than the work


def set_up(config: ConvertConfig) -> Conversion:
    """Read the maps of the registry and the footers of the input; raises like `convert`."""
    space = Registry(config.registry).space(config.space)
    chains = [space.chain(config.source, target) for target in config.targets]
    source = (
        stored_table(space, config.source, config.entity)
        if config.input is None
        else dataset(config.input)
    )
    table = survey(
        source,
        space=config.space,
        version=config.source,
        fingerprint=space.manifest(config.source).fingerprint,
        dim=chains[0].matrix.shape[1],
        entity=config.entity,
        id_column=config.id_column,
        embedding_column=config.embedding_column,
        assume_version=config.assume_version,
        keep_corrupt=config.on_error == "quarantine",
        command=partial(_command, config, space),
    )
    return Conversion(
        table=table,
        targets=tuple(
            Target(
                chain=chain,
                schema=_schema(
                    config, table, chain, space.manifest(chain.target).fingerprint(table.entity)
                ),
            )
            for chain in chains
        ),
        size=sizes(table, chains),
        quarantine=config.on_error == "quarantine",
        repeated=(np.zeros(0, np.int64), np.zeros(0, np.int64)),
    )


def _command(config: ConvertConfig, space: Space, source: int) -> str | None:
    """The command that converts the same input as a table of another version, if there is one."""
    if source not in space.versions() or source < max(config.targets):
        return None
    words = ["backstay", "convert", "--registry", config.registry, "--space", config.space]
    words += ["--from", str(source), "--to", *map(str, config.targets)]
    words += ["--input", config.input or "", "--output", config.output]
    for field in fields(config):
        if field.name in _REPEATED and (value := getattr(config, field.name)) != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return " ".join(map(quote, words))


def _schema(
    config: ConvertConfig, table: ConvertInput, chain: BackwardMap, fingerprint: str
) -> pa.Schema:
    """The input's columns, with id and embedding as a table of the target version has them."""
    own = table_schema(
        len(chain.matrix),
        table.id_type,
        space=chain.space,
        entity=table.entity,
        version=chain.target,
        dtype=config.dtype,
        fingerprint=fingerprint,
    )
    names = {config.id_column: "id", config.embedding_column: "embedding"}
    columns = [own.field(names[f.name]) if f.name in names else f for f in table.schema]
    return pa.schema(columns, metadata=own.metadata)


def input_name(config: ConvertConfig, table: ConvertInput) -> str:
    """What reports call the input."""
    if config.input is not None:
        return config.input
    return f"{config.space} version {config.source}, {table.entity}"


def choose_engine(config: ConvertConfig, conversion: Conversion) -> Literal["local", "ray"]:
    """The engine that was asked for; "auto" takes Ray for a large table on a cluster."""
    if config.engine != "auto":
        return config.engine
    ray = sys.modules.get("ray")
    on_cluster = os.environ.get("RAY_ADDRESS", "local") != "local" or (
        ray is not None and bool(ray.is_initialized())
    )
    vectors = 4 * conversion.table.rows * max(conversion.dims)
    return "ray" if on_cluster and vectors >= LOCAL_BYTES else "local"
