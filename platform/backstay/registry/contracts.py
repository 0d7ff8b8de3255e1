"""Consumer contracts: who reads which version of a space, and what loss they tolerate.

<root>/<space>/consumers/<name>/<n>.json            the highest n is in force
<root>/<space>/consumers/<name>/files/<sha256>.<ext>  frozen model and labelled table
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import TypeAdapter

from backstay.errors import CorruptError, NotFoundError, RegistryError
from backstay.registry.manifest import check_name, is_safe_name, now
from backstay.registry.records import Records, author
from backstay.registry.space_files import SpaceFiles

_log = logging.getLogger("backstay.registry")

Metric = Literal["roc-auc", "accuracy", "rmse", "recall", "cosine"]
Policy = Literal["warn", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One record of a consumer's contract."""

    name: str
    n: int
    state: Literal["active", "removed"]
    contact: str
    version: int  # whose vectors they read
    entity: str | None  # of the labelled ids; None for pairs of user and item
    metric: Metric | None  # None: the version only has to stay readable
    k: int | None  # of Recall@K
    baseline: float | None  # the figure when the contract was made
    tolerance: float  # largest loss against the baseline, in the metric's unit
    policy: Policy
    model: str | None  # the file of the frozen model
    table: str | None  # the file of the labelled ids
    who: str  # wrote this record
    when: str  # UTC, ISO 8601


_contract: TypeAdapter[Contract] = TypeAdapter(Contract)


def contracts(space: SpaceFiles) -> list[Contract]:
    """The active contracts of a space, by name."""
    found = (_records(space, name).last() for name in consumers(space))
    return [contract for contract in found if contract and contract.state == "active"]


def consumers(space: SpaceFiles) -> list[str]:
    """Every consumer that has or had a contract, by name."""
    return [name for name in space.files.folders(f"{space.name}/consumers") if is_safe_name(name)]


def contract(space: SpaceFiles, name: str) -> Contract:
    """The active contract of a consumer; NotFoundError if it has none."""
    found = _records(space, check_name(name, what="a consumer")).last()
    if found is None or found.state == "removed":
        known = ", ".join(each.name for each in contracts(space)) or "none"
        raise NotFoundError(
            f"{space.name} has no contract of a consumer {name} (contracts: {known}). Add it with "
            f"`backstay consumers add`, or correct the name."
        )
    return found


def history(space: SpaceFiles, name: str) -> list[Contract]:
    """All records of a consumer, oldest first."""
    return _records(space, name).history()


def write(space: SpaceFiles, new: Contract, files: Mapping[str, bytes]) -> Contract:
    """Write the next record of a consumer, after its files: name from `file_name` -> content.

    `n`, `who` and `when` of `new` are set here.

    Raises:
        RegistryError: It has an active contract already, or someone else wrote at the same moment.
    """
    records = _records(space, check_name(new.name, what="a consumer"))
    numbers = records.numbers()
    last = records.read(numbers[-1]) if numbers else None
    if last and last.state == new.state == "active":
        raise RegistryError(
            f"{new.name} has an active contract on {space.name} already, made by {last.who} at "
            f"{last.when}. Remove it first with `backstay consumers remove`, or use another name."
        )
    for name, data in files.items():
        space.files.create(_file(space, new.name, name), data)
    record = asdict(new) | {"n": len(numbers), "who": author(), "when": now()}
    if not records.append(len(numbers), record):
        raise RegistryError(
            f"someone else has just changed the contract of {new.name} on {space.name}. Look at it "
            "with `backstay consumers show`, and repeat the command if it still holds."
        )
    space.renew_markers()
    _log.info("contract of %s on %s is %s", new.name, space.name, new.state)
    return records.read(len(numbers))


def remove(space: SpaceFiles, name: str) -> Contract:
    """End a consumer's contract. Its records and files stay."""
    ended = asdict(contract(space, name)) | {"state": "removed"}
    return write(space, Contract(**ended), {})


def file_name(data: bytes, extension: str) -> str:
    """The name under which a contract's file is stored; `extension` without a dot."""
    return f"{hashlib.sha256(data).hexdigest()}.{extension}"


def read_file(space: SpaceFiles, owner: Contract, name: str) -> bytes:
    """A file of a contract; CorruptError where its bytes were changed."""
    path = _file(space, owner.name, name)
    data = space.files.read(path)
    if file_name(data, name.rpartition(".")[2]) != name:
        raise CorruptError(
            f"{space.files.full(path)} does not match the SHA-256 in its name: it was changed. "
            "Restore it from a copy, or remove the contract and add it again."
        )
    return data


def _file(space: SpaceFiles, consumer: str, name: str) -> str:
    return f"{space.name}/consumers/{consumer}/files/{check_name(name, what='a file')}"


def _records(space: SpaceFiles, name: str) -> Records[Contract]:
    return Records(space.files, f"{space.name}/consumers/{name}", _contract)
