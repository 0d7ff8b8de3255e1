"""The guard on updates: what would be lost if a candidate became the next version of a space.

Each check returns a finding with its figure and the way out, or None. The checks of a plan need no
fit; those of figures compare the candidate with the version before.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from backstay.compat.methods import Method
from backstay.errors import NotFoundError, RegistryError
from backstay.evaluation.contracts.check import Verdict
from backstay.evaluation.metrics.bootstrap import (
    Interval,
    Resamples,
    Units,
    defined_interval,
    mean_replicates,
)
from backstay.evaluation.metrics.ranking import RecallResult
from backstay.registry.manifest import Manifest
from backstay.registry.store import Space
from backstay.storage.ids import IdType
from backstay.storage.keys import missing_ids

_log = logging.getLogger("backstay.update")

RECALL_LOSS = 0.1
"""Largest loss of recall, as a share of what the version before reaches on the same window."""

ALIGNMENT_ERROR = 0.5
"""Largest alignment error, as a share of the older vectors' mean distance from their mean."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One reason not to publish a candidate."""

    check: str
    message: str  # the figure and the way out, in sentences
    refuses: bool = True  # False: it is a warning


def refuse(findings: Iterable[Finding | None], *, what: str, force: bool) -> list[Finding]:
    """The findings, warnings among them, which are logged.

    Raises RegistryError with all that refuse, unless there are none or `force` is set.
    """
    found = [finding for finding in findings if finding]
    for finding in found:
        if not finding.refuses:
            _log.warning("%s", finding.message)
    reasons = " ".join(finding.message for finding in found if finding.refuses)
    if reasons and not force:
        raise RegistryError(f"{what}: {reasons} --force publishes it all the same.")
    return found


def earlier_until(until: float, parent: Manifest) -> Finding | None:
    """Whether the update trains on less of the timeline than the version before."""
    before = parent.dataset.until
    if before is None or until >= before:
        return None
    return Finding(
        check="until",
        message=f"--until {until:g} is earlier than the {before:g} of version {parent.version}, so "
        f"it would forget interactions. Train up to {before:g} or later.",
    )


def other_dataset(name: str, parent: Manifest) -> Finding | None:
    """Whether the dataset has another name than that of the version before."""
    before = parent.dataset.name
    if before is None or name == before:
        return None
    return Finding(
        check="dataset",
        message=f"--dataset holds {name}, but version {parent.version} was trained on {before}. "
        "Use a dataset of the same name, or another --space.",
    )


def lost_ids(
    space: Space,
    parent: Manifest,
    ids: Mapping[str, tuple[IdType, Iterable[pa.Array]]],
    *,
    advice: str,
) -> Finding | None:
    """Whether ids of the version before have no vector in the candidate.

    Args:
        space: The space.
        parent: The manifest of the version before.
        ids: The type and the batches of the candidate's ids, for each entity.
        advice: The way out, a sentence.
    """
    losses = []
    for entity, entry in parent.entities.items():
        if entity not in ids:
            losses.append(f"the whole table of {entity} ({entry.rows:,} rows)")
            continue
        id_type, batches = ids[entity]
        if id_type != entry.id_type:
            losses.append(
                f"all {entry.rows:,} ids of {entity} ({entry.id_type} there, {id_type} here)"
            )
            continue
        count, examples = missing_ids(space.table(parent.version, entity).id_batches, batches)
        if count:
            losses.append(f"{count:,} of {entry.rows:,} ids of {entity}, such as {examples[0]!r}")
    if not losses:
        return None
    return Finding(
        check="ids",
        message=f"the candidate lacks {' and '.join(losses)} of version {parent.version}. {advice}",
    )


def narrower(dim: int, method: Method, parent: Manifest) -> Finding | None:
    """Whether the candidate has too few dimensions to hold the vectors of the version before."""
    keeps_model = method.model in {"frozen", "continued"}  # and with it the dimension
    if keeps_model or method.map == "none" or dim >= parent.dim:
        return None
    return Finding(
        check="dim",
        message=f"--dim {dim} is narrower than the {parent.dim} of version {parent.version}, so "
        f"--method {method.name} can't keep the older vectors. Use --dim {parent.dim} or more.",
    )


def unmeasured(interactions: int, *, until: float) -> Finding | None:
    """Whether no interaction is left to evaluate the candidate on."""
    if interactions:
        return None
    return Finding(
        check="window",
        message=f"--until {until:g} leaves 0 interactions to evaluate the candidate on. Use an "
        "earlier --until or a longer --window.",
    )


def cut_off(
    space: Space, parent: Manifest, *, what: str, readers: Sequence[str], advice: str
) -> Finding | None:
    """Which versions can't be read any more out of a newest version without a map.

    `what` has no map; `readers` are the consumers of older versions; `advice` is the way out.
    """
    versions = [str(v) for v in space.versions() if _reaches(space, parent.version, v)]
    readers_part = f" Their readers are {', '.join(readers)}." if readers else ""
    return Finding(
        check="map",
        message=f"{what} has no map to the version before, so {len(versions)} older versions "
        f"({', '.join(versions)}) could no longer be read out of the newest table.{readers_part} "
        f"{advice}",
    )


def worse_recall(
    found: RecallResult | None, before: RecallResult | None, *, limit: float
) -> Finding | None:
    """Whether Recall@50 is lower than the version before reaches, by more than `limit`.

    Both are of the same users of the same window. The finding is a warning where the paired
    bootstrap interval of the loss contains 0.
    """
    if found is None or before is None or not before.mean:
        return None
    loss = 1 - found.mean / before.mean
    if loss <= limit:
        return None
    bounds = _relative_loss(found, before)
    shown = "not defined" if bounds is None else f"{bounds[0]:.1%} to {bounds[1]:.1%}"
    certain = bounds is not None and bounds[0] > 0
    advice = (
        "Train longer, or lower --weight."
        if certain
        else "That may be chance: evaluate on a longer --window to be sure."
    )
    return Finding(
        check="recall",
        message=f"Recall@50 is {found.mean:.4f}; the version before reaches {before.mean:.4f} on "
        f"the same window. That is {loss:.1%} less (95 % interval over {len(found.users):,} users: "
        f"{shown}); --max-recall-loss allows {limit:.1%}. {advice}",
        refuses=certain,
    )


def _relative_loss(found: RecallResult, before: RecallResult) -> Interval | None:
    """The paired bootstrap interval of 1 - found / before, over users."""
    units, resamples = Units("user", found.users), Resamples()
    new, old = (mean_replicates(each.values, units, resamples) for each in (found, before))
    with np.errstate(divide="ignore", invalid="ignore"):
        return defined_interval(1 - new / old)


def worse_alignment(
    errors: Mapping[str, float], before: Mapping[str, float], *, limit: float
) -> Finding | None:
    """Whether a relative alignment error of the candidate exceeds the limit.

    Both mappings: name of the older version -> error relative to its vectors' spread; `before` is
    of the version before, for the message.
    """
    name, worst = max(errors.items(), key=lambda item: item[1], default=("", 0.0))
    if worst <= limit:
        return None
    former = max(before.values(), default=None)
    compared = "" if former is None else f" (at most {former:.1%} for the version before)"
    return Finding(
        check="alignment",
        message=f"vectors converted {name.replace('_', ' ')} are off by {worst:.1%} of those "
        f"vectors' spread{compared}; --max-alignment-error allows {limit:.1%}. Raise --weight or "
        "--dim.",
    )


def broken_contract(verdict: Verdict) -> Finding | None:
    """Whether a consumer's contract refuses the candidate."""
    if verdict.verdict != "refuse":
        return None
    return Finding(
        check="contract",
        message=f"the contract of {verdict.consumer} on version {verdict.reads} is broken: "
        f"{verdict.reason.rstrip('.')}. Ask {verdict.contact}, or train a version nearer to it.",
    )


def _reaches(space: Space, source: int, target: int) -> bool:
    try:
        space.chain(source, target)
    except NotFoundError:
        return False
    return True
