"""Every method's two figures in every bootstrap replicate."""

from collections.abc import Iterable, Mapping

import numpy as np

from backstay.evaluation.comparison.results import Replicates
from backstay.evaluation.metrics.alignment import Floats


def collect_replicates(
    recalls: Mapping[str, Mapping[int, Floats]],
    aucs: Mapping[str, Mapping[str, Mapping[int, Floats]]],
) -> tuple[Replicates, ...]:
    """Both figures of every method in every replicate, averaged as the figures themselves.

    Args:
        recalls: method -> version -> (B,) Recall@50.
        aucs: method -> task -> version -> (B,) ROC-AUC, mean over consumer seeds.

    If any figure is undefined (NaN) in a replicate, that replicate is left out for all methods.
    Returns () if fewer than half of the replicates remain: there are too few examples for an
    interval.
    """
    figures = {
        method: (
            _mean(recalls.get(method, {}).values()),
            _mean(_mean(versions.values()) for versions in aucs.get(method, {}).values()),
        )
        for method in {**recalls, **aucs}
    }
    parts = [part for pair in figures.values() for part in pair if len(part)]
    if not parts:
        return ()
    defined = np.asarray(np.isfinite(np.stack(parts)).all(axis=0))
    if 2 * defined.sum() < len(defined):
        return ()
    pairs = {
        method: [tuple(part[defined].tolist()) if len(part) else () for part in pair]
        for method, pair in figures.items()
    }
    return tuple(
        Replicates(method=method, recall=recall, auc=auc) for method, (recall, auc) in pairs.items()
    )


def _mean(parts: Iterable[Floats]) -> Floats:
    """The mean of (B,) arrays; (0,) if there are none."""
    found = list(parts)
    return np.mean(found, axis=0) if found else np.empty(0)
