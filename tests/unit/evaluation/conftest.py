import pytest

from backstay.evaluation.figures import Cost, summarise
from backstay.evaluation.labels import TASKS
from backstay.evaluation.results import Record, Results

METHODS = ("fix-m0", "no-bc", "posthoc-linear-single", "bc-aligner")
INTENDED = dict(zip(METHODS, (-0.22, 0.0, 0.0, -0.05), strict=True))
UNINTENDED = dict(zip(METHODS, (0.0, -0.35, -0.08, -0.04), strict=True))
ERRORS = dict(zip(METHODS, (0.0, 5.2, 1.7, 0.9), strict=True))


def made_up_results(*, methods=METHODS, versions=5, seeds=3, gap_se=0.01):
    """A comparison with known costs: every task loses the method's share at every version."""
    records = []
    for method in methods:
        for version in range(versions):
            share = 1 + INTENDED[method] if version else 1.0
            for metric, value in (
                ("recall@50", (0.25 + 0.02 * version) * share),
                ("recall@50_se", 0.012),
                ("recall@50_gap_se", gap_se if version and method != "no-bc" else 0.0),
            ):
                records.append(
                    Record(
                        method=method,
                        version=version,
                        task="recommendation",
                        metric=metric,
                        seed=42,
                        value=value,
                    )
                )
            records.append(
                Record(
                    method=method,
                    version=version,
                    task="alignment",
                    metric="alignment_error",
                    seed=42,
                    value=ERRORS[method] * bool(version),
                )
            )
        for number, task in enumerate(TASKS):
            for version in range(2 if "activity" in task else 1, versions):
                records.extend(
                    Record(
                        method=method,
                        version=version,
                        task=task,
                        metric="roc_auc",
                        seed=seed,
                        value=(0.7 + 0.05 * number) * (1 + UNINTENDED[method] * (0.9 + 0.1 * seed)),
                    )
                    for seed in range(seeds)
                )
    costs = {
        method: Cost(fit_seconds=61.5 * place, peak_rss_mb=812.0)
        for place, method in enumerate(methods, 1)
    }
    return Results(
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
        },
        summary=summarise(records, methods, costs=costs),
        records=tuple(records),
    )


@pytest.fixture(scope="session")
def results():
    return made_up_results()


@pytest.fixture(scope="session")
def make_results():
    return made_up_results
