import json
from dataclasses import replace

import pytest

from backstay.errors import InputError, UsageError
from backstay.evaluation.comparison.results import Record, Results


def test_round_trip(tmp_path, results):
    path = tmp_path / "run" / "results.json"
    results.write(path)
    assert Results.load(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_has_the_fields_of_the_contract(results):
    raw = json.loads(results.to_json())
    assert set(raw) == {
        "dataset",
        "protocol",
        "summary",
        "records",
        "maps",
        "replicates",
        "failures",
    }
    assert set(raw["summary"][0]) == {
        "method",
        "intended_recall50",
        "intended_pct",
        "unintended_auc",
        "unintended_pct",
        "total_pct",
        "alignment_error",
        "fit_seconds",
        "peak_rss_mb",
        "intended_interval",
        "unintended_interval",
        "total_interval",
    }
    assert set(raw["records"][0]) == {
        "method",
        "version",
        "task",
        "metric",
        "seed",
        "value",
        "interval",
    }


def test_a_failed_write_leaves_the_old_file(tmp_path, results, monkeypatch):
    path = tmp_path / "results.json"
    results.write(path)
    old = path.read_bytes()

    def broken(_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        replace(results, protocol={}).write(path)
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_fields_of_a_later_version_are_ignored(results):
    raw = json.loads(results.to_json())
    raw["summary"][0]["carbon"] = 1
    raw["records"][0]["note"] = "new"
    raw["more"] = []
    assert Results.from_json(json.dumps(raw)) == results


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("records", 0, "value"), "0.3", "valid number at records.0.value"),
        (("records", 0, "version"), True, "valid integer at records.0.version"),
        (("records", 0, "metric"), "mrr", "'recall@50'.* at records.0.metric"),
        (("records", 0, "seed"), None, "valid integer at records.0.seed"),
        (("summary", 0, "method"), None, "valid string at summary.0.method"),
        (("summary",), 3, "valid array at summary"),
    ],
)
def test_refuses_what_is_broken(tmp_path, results, place, value, message):
    raw = json.loads(results.to_json())
    inner = raw
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "results.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=message) as error:
        Results.load(path)
    assert str(path) in str(error.value)


def test_refuses_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        Results.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="required at dataset"):
        Results.from_json("{}")
    with pytest.raises(InputError, match="backstay compare"):
        Results.from_json("[")


def test_an_unknown_metric_is_refused():
    with pytest.raises(UsageError, match="unknown metric 'mrr'"):
        Record(method="no-bc", version=0, task="edge_rating", metric="mrr", seed=0, value=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_undefined_value_is_no_record(value):
    with pytest.raises(UsageError, match="finite"):
        Record(method="no-bc", version=0, task="edge_rating", metric="roc_auc", seed=0, value=value)
