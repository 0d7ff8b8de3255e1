"""Results of a comparison that never ran, with known costs."""

from dataclasses import replace
from zlib import crc32

import numpy as np

from backstay.evaluation.analysis.summary import summarise, with_summary
from backstay.evaluation.comparison.results import MapFigures, Record, Replicates, Results, Summary
from backstay.evaluation.consumers.labels import TASKS
from backstay.evaluation.metrics.compatibility import SLICES_OF_ENTITIES

# method: what the intended task loses, what consumers lose, alignment error
COSTS = {
    "fix-m0": (-0.22, 0.0, 0.0),
    "finetune": (-0.08, -0.075, 1.0),
    "no-bc": (0.0, -0.35, 5.2),
    "posthoc-linear-single": (0.0, -0.10, 1.7),
    "posthoc-linear-multi": (0.0, -0.14, 1.8),
    "joint-identity": (-0.09, -0.008, 0.5),
    "joint-linear-single": (-0.043, -0.013, 0.6),
    "bc-aligner": (-0.05, -0.01, 0.9),
    "posthoc-ridge": (0.0, -0.06, 1.2),
    "posthoc-procrustes": (0.0, -0.085, 1.5),
    "posthoc-low-rank": (-0.02, -0.10, 1.6),
    "backstay": (-0.006, -0.004, 0.3),
}
METHODS = tuple(COSTS)
REPLICATES = 200
_WITHOUT_MAPS = ("fix-m0", "no-bc")


def noise(*key, size=None):
    """Standard normal numbers that depend on the key alone."""
    return np.random.default_rng(crc32(repr(key).encode())).standard_normal(size)


def made_up_results(
    *, methods=METHODS, versions=5, seeds=3, costs=None, failures=(), spread=0.004, without=()
):
    """A comparison with known costs: every task loses the method's share at every version.

    `costs` replaces some of COSTS; `spread` is how much replicates of different methods differ, as
    a share; `without` are (method, version) cells that failed and left nothing.
    """
    costs = {**COSTS, **(costs or {})}
    present = [
        (method, version)
        for method in methods
        for version in range(versions)
        if (method, version) not in without
    ]
    records = [
        record
        for method, version in present
        for record in (
            *_of_vectors(method, version, costs[method]),
            *_of_consumers(method, version, costs[method][1], seeds),
        )
    ]
    whole = [method for method in methods if all(method != gone for gone, _ in without)]
    replicates = tuple(_replicates(method, records, spread) for method in whole)
    spent = [
        replace(Summary.blank(method), fit_seconds=61.5 * place, peak_rss_mb=812.0 + 90 * place)
        for place, method in enumerate(methods, 1)
    ]
    made = Results(
        dataset={
            "name": "made-up",
            "counts": {"interactions": 4000, "users": 300, "items": 60},
            "fingerprint": "0" * 64,
        },
        protocol={
            "profile": "fast",
            "dims": [128, 160, 192, 224, 256][:versions],
            "epochs": 30,
            "left_out": [
                {"task": "edge_rating", "version": 3, "reason": "all 2 labels are positive"}
            ],
            "notes": ["Recall@50 is optimistic, for all methods alike."],
        },
        summary=tuple(spent),
        records=tuple(records),
        maps=tuple(
            part
            for method, source in present
            for part in _maps(method, source, costs[method])
            if method not in _WITHOUT_MAPS
        ),
        replicates=replicates,
        failures=tuple(failures),
    )
    return with_summary(made)


def _of_vectors(method, version, costs):
    lost, _, error = costs
    recall = (0.25 + 0.02 * version) * (1 + lost if version else 1.0)
    first = Record(
        method=method,
        version=version,
        task="recommendation",
        metric="recall@50",
        seed=42,
        value=recall,
        interval=(recall - 0.012, recall + 0.012),
    )
    kept = 0.25 * (1 + costs[1] if version else 1.0)
    yield first
    yield replace(first, task="retrieval", value=kept, interval=(kept - 0.012, kept + 0.012))
    distance = error * bool(version)
    aligned = replace(
        first, task="alignment", metric="alignment_error", value=distance, interval=None
    )
    yield aligned
    for place, name in enumerate(SLICES_OF_ENTITIES):
        yield replace(aligned, task=f"alignment/{name}", value=distance * (0.8 + 0.1 * place))


def _of_consumers(method, version, lost, seeds):
    for number, task in enumerate(TASKS):
        if version < (2 if "activity" in task else 1):
            continue
        for seed in range(seeds):
            auc = (0.7 + 0.05 * number) * (1 + lost * (0.9 + 0.1 * seed))
            first = Record(
                method=method,
                version=version,
                task=task,
                metric="roc_auc",
                seed=seed,
                value=auc,
                interval=(auc - 0.01, auc + 0.01),
            )
            yield first
            for metric, value in (
                ("negative_flip_rate", -0.6 * lost * (1 + 0.1 * version)),
                ("positive_flip_rate", -0.2 * lost),
                ("retention", 1 + 2 * lost),
            ):
                yield replace(first, metric=metric, value=value, interval=None)


def _replicates(method, records, spread):
    """Scattered about the figures: users are the same in all methods, and differ a little."""
    (row,) = summarise(records, (method,))
    users, seeds = noise("users", size=REPLICATES), noise("seeds", size=REPLICATES)
    own = [
        noise(method, side, size=REPLICATES) * spread * (0 if method == baseline else 1)
        for side, baseline in (("recall", "no-bc"), ("auc", "fix-m0"))
    ]
    return Replicates(
        method=method,
        recall=tuple((row.intended_recall50 * (1 + 0.03 * users + own[0])).tolist()),
        auc=tuple(((row.unintended_auc or 0.0) * (1 + 0.005 * seeds + own[1])).tolist()),
    )


def _maps(method, source, costs):
    lost, hit, error = costs
    for target in range(source):
        steps = source - target
        old = 0.25 * (1 + 0.01 * target)
        yield MapFigures(
            method=method,
            source=source,
            target=target,
            spectral_norm=1 + 0.4 * error * steps,
            condition_number=None if method == "posthoc-low-rank" else (1 + 2 * error) ** steps,
            alignment_error=error * (1 + 0.1 * steps),
            recall=old * (1.05 + 0.02 * source + lost + hit * (1 + 0.3 * steps)),
            old_recall=old,
        )
