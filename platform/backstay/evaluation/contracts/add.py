"""Making a contract: its files are checked and its baseline is measured before it is written."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backstay.errors import BackstayError, InputError, UsageError
from backstay.evaluation.contracts.check import figure
from backstay.evaluation.contracts.labelled import PAIR, read_labelled
from backstay.evaluation.contracts.models import load_model
from backstay.evaluation.contracts.vectors import Converted, PublishedVectors
from backstay.registry.contracts import Contract, Metric, Policy, file_name, write
from backstay.registry.store import Space


@dataclass(frozen=True, kw_only=True)
class ContractRequest:
    """A contract as its consumer asks for it."""

    name: str
    contact: str
    version: int  # whose vectors they read
    metric: Metric | None = None  # None: the version only has to stay readable
    k: int | None = None  # of recall
    table: Path | None = None  # labelled ids, Parquet or CSV
    entity: str | None = None  # of the column id
    model: Path | None = None  # safetensors of our consumer, or ONNX
    tolerance: float = 0.01
    policy: Policy = "refuse"


def add_contract(space: Space, asked: ContractRequest) -> Contract:
    """Measure the baseline and write the contract.

    The baseline is the metric on the version's own table; for a retired version, on the newest
    table read as that version. For cosine, the vectors themselves become part of the contract.

    Raises:
        UsageError: Options that don't go together.
        InputError: A file breaks its format, or the metric can't be computed.
        NotFoundError: The version, or the vector of a labelled id, is not there.
    """
    if not asked.contact.strip():
        raise UsageError("contact must name whom to ask, such as an e-mail address; found nothing.")
    if (asked.metric is None) != (asked.table is None):
        raise UsageError("--metric and --table go together: give both, or neither.")
    if asked.model and asked.metric not in {"roc-auc", "accuracy", "rmse"}:
        raise UsageError(
            f"--model goes with --metric roc-auc, accuracy or rmse; found {asked.metric or 'none'}."
        )
    manifest = space.manifest(asked.version)
    source = space.latest() if space.retired(asked.version) else asked.version
    converted = Converted(PublishedVectors(space, source), asked.version)
    files: dict[str, bytes] = {}
    model_file = table_file = baseline = None
    entities = space.manifest(source).entities
    if asked.model:
        data, extension = asked.model.read_bytes(), asked.model.suffix.removeprefix(".")
        model = load_model(data, extension)
        model_file = file_name(data, extension)
        files[model_file] = data
    else:
        model = None
    entity = asked.entity
    if asked.metric and asked.table:
        id_types = {name: entry.id_type for name, entry in entities.items()}
        labelled = read_labelled(asked.table, entity=entity, id_types=id_types)
        entity = None if tuple(labelled.ids) == PAIR else next(iter(labelled.ids))
        try:
            if asked.metric == "cosine":
                vectors = [converted.of(name, ids) for name, ids in labelled.ids.items()]
                labelled = replace(labelled, reference=np.concatenate(vectors, axis=1))
            baseline = figure(asked.metric, labelled, converted, model=model, k=asked.k)
        except BackstayError as error:
            raise InputError(
                f"the contract of {asked.name} can't be measured on version {asked.version}: "
                f"{str(error).rstrip('.')}. Correct --table, --model or --metric."
            ) from error
        data = labelled.to_bytes()
        table_file = file_name(data, "parquet")
        files[table_file] = data
    new = Contract(
        name=asked.name,
        n=0,
        state="active",
        contact=asked.contact,
        version=manifest.version,
        entity=entity,
        metric=asked.metric,
        k=asked.k,
        baseline=baseline,
        tolerance=asked.tolerance,
        policy=asked.policy,
        model=model_file,
        table=table_file,
        who="",
        when="",
    )
    return write(space, new, files)
