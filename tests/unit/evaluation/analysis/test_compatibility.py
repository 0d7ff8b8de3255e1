import pytest

from backstay.evaluation.analysis.by_version import VersionFigures
from backstay.evaluation.analysis.compatibility import compatibility
from backstay.evaluation.comparison.results import MapFigures, Record, Results, Summary


def map_figures(source, target, recall, old_recall, *, method="ours"):
    return MapFigures(
        method=method,
        source=source,
        target=target,
        spectral_norm=1.0,
        condition_number=None,
        alignment_error=0.0,
        recall=recall,
        old_recall=old_recall,
    )


def results_of(maps, recalls):
    """Maps, and the recall@50 of each version of the method `ours`."""
    nothing = dict.fromkeys(Summary.__dataclass_fields__)
    return Results(
        dataset={},
        protocol={},
        summary=tuple(Summary(**nothing | {"method": name}) for name in ("ours", "none")),
        records=tuple(
            Record(
                method="ours",
                version=version,
                task="recommendation",
                metric="recall@50",
                seed=0,
                value=value,
            )
            for version, value in recalls.items()
        ),
        maps=tuple(maps),
    )


def analysed(results):
    return compatibility(results, VersionFigures.of(results.records).recall)


def update_gain(results):
    return {method: found.update_gain for method, found in analysed(results).items()}


def average_compatibility(results):
    return {method: found.average_compatibility for method, found in analysed(results).items()}


def test_update_gain_is_the_share_of_what_a_new_index_would_gain():
    maps = [
        map_figures(1, 0, 0.25, 0.20),  # half of the way to 0.30
        map_figures(2, 0, 0.20, 0.24),  # as far below as the new model is above
        map_figures(2, 1, 0.99, 0.01),  # not to version 0
        map_figures(3, 0, 0.30, 0.30),  # the new model gains nothing: no share
        map_figures(4, 0, 0.30, 0.40),  # and here it loses
        map_figures(5, 0, 0.30, 0.10),  # no recall of its own
    ]
    results = results_of(maps, {0: 0.3, 1: 0.30, 2: 0.28, 3: 0.30, 4: 0.30})
    assert update_gain(results) == {"ours": pytest.approx((0.5 - 1) / 2), "none": None}
    assert update_gain(results_of(maps[3:], {3: 0.3}))["ours"] is None


def test_average_compatibility_is_the_share_of_pairs_that_meet_the_criterion():
    maps = [
        map_figures(1, 0, 0.25, 0.20),
        map_figures(2, 0, 0.20, 0.24),
        map_figures(2, 1, 0.30, 0.30),  # as good as before is not better
        map_figures(3, 0, 0.30, 0.29),
        map_figures(3, 0, 0.30, 0.0, method="another"),
    ]
    assert average_compatibility(results_of(maps, {})) == {"ours": 0.5, "none": None}


def test_a_map_that_loses_a_direction_can_be_written_as_json():
    results = results_of([map_figures(1, 0, 0.25, 0.20)], {})
    assert Results.from_json(results.to_json()) == results
