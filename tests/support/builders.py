"""Small data sets, tables and versions. Equal arguments give equal bytes."""

import numpy as np
import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.models.trained import TrainedModel
from backstay.registry.contracts import Contract


def marketplace(folder, *, interactions=3_000, **options):
    """Write a generated data set into a folder, and return its path."""
    generate(MarketplaceConfig(interactions=interactions, **options), folder / "dataset")
    return folder / "dataset"


def vector_column(vectors):
    """The vectors as a column of a table."""
    flat = pa.array(np.asarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def stage(draft, *, dim=4, previous_dim=None, rows=10, seed=0, recall=0.25):
    """Stage a model, two tables, metrics and, where `previous_dim` is given, a map."""
    space, version = draft.space.name, draft.version
    rng = np.random.default_rng([version, seed])
    weights = {"attr.weight": rng.normal(size=(3, dim)).astype(np.float32)}
    draft.write_model({"layers": 2}, weights, {"genre": ("rock", "köln", "")})
    items = pa.array([f"i{n}" for n in range(rows)])
    draft.write_table(
        "item", [(items, rng.normal(size=(rows, dim)).astype(np.float32))], part_rows=4
    )
    users = pa.array(range(rows))
    draft.write_table("user", [(users, rng.normal(size=(rows, dim)).astype(np.float32))])
    if previous_dim:
        matrix = rng.normal(size=(previous_dim, dim)).astype(np.float32)
        draft.write_backward(BackwardMap(space, version, version - 1, matrix))
    draft.write_metrics({"recall50": recall})


def publish(draft, **options):
    """Publish a draft; arguments that a test doesn't care about have defaults."""
    parent = draft.version - 1 if draft.version else None
    defaults = {"method": "bc-aligner", "config": {"weight": 16}, "dataset_fingerprint": "f00"}
    return draft.publish(**{"parent": parent, **defaults, **options})


def contract(name, *, version, files=(None, None)):
    """A contract of a consumer that reads `version`; `files` are its model and its table."""
    return Contract(
        name=name,
        n=0,
        state="active",
        contact="them@example.com",
        version=version,
        entity="item",
        metric=None,
        k=None,
        baseline=None,
        tolerance=0.0,
        policy="refuse",
        model=files[0],
        table=files[1],
        who="",
        when="",
    )


def fill(space, *dims):
    """Publish a version of each dimension after the latest one, and return the space."""
    for dim in dims:
        versions = space.versions()
        previous_dim = space.manifest(versions[-1]).dim if versions else None
        draft = space.draft(len(versions), run_id=f"run-{len(versions)}")
        stage(draft, dim=dim, previous_dim=previous_dim)
        publish(draft, until=0.5 + len(versions) / 10)
    return space


def model_of(space, version):
    """The model of a published version."""
    stored = space.model(version)
    return TrainedModel.from_parts(stored.config, stored.weights, stored.vocabulary)
