"""The guard on updates, through the command line: each refusal has its figure and its way out."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.datasets.dataset import Dataset
from backstay.datasets.marketplace import generate
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.errors import RegistryError
from backstay.evaluation.contracts import guard
from backstay.evaluation.metrics.ranking import RecallResult
from backstay.registry.store import Registry
from tests.support.updates import update


def refused(result, registry, *words, fitted=False):
    """One line on stderr with all words; nothing is published or staged."""
    line = result.stderr.splitlines()[-1]
    assert result.exit_code == 1
    assert result.stdout == ""
    for word in (*words, "--force publishes it all the same."):
        assert word in line
    space = Registry(registry).space("market")
    assert space.versions() == [0, 1]
    assert space.drafts() == []
    assert ("fitting" in result.stderr) == fitted


def test_an_earlier_position_than_the_version_before_is_refused(registry, dataset):
    result = update(registry, dataset, "--until", 0.55, "--window", 0.2, "--dim", 12)
    refused(result, registry, "--until 0.55", "the 0.6 of version 1", "Train up to 0.6 or later")


def test_another_dataset_is_refused(registry, dataset, tmp_path):
    other = shutil.copytree(dataset, tmp_path / "other")
    info = json.loads((other / "dataset.json").read_text(encoding="utf-8"))
    (other / "dataset.json").write_text(json.dumps(info | {"name": "books"}), encoding="utf-8")
    result = update(registry, other, "--until", 0.7, "--dim", 12)
    refused(result, registry, "holds books", info["name"], "another --space")


def test_a_dataset_that_lost_ids_is_refused(registry, dataset, tmp_path):
    name = Dataset.open(dataset).info.name
    generate(MarketplaceConfig(interactions=2_000, seed=3), tmp_path / "lost")
    assert Dataset.open(tmp_path / "lost").info.name == name
    result = update(registry, tmp_path / "lost", "--until", 0.7, "--dim", 12)
    rows = Registry(registry).space("market").manifest(1).entities["user"].rows
    refused(result, registry, f"of {rows} ids of user, such as", "still holds them")


def test_a_narrower_version_is_refused(registry, dataset):
    result = update(registry, dataset, "--until", 0.7, "--dim", 6)
    refused(result, registry, "--dim 6", "the 10 of version 1", "Use --dim 10 or more")


def test_an_update_without_interactions_to_evaluate_on_is_refused(registry, dataset):
    result = update(registry, dataset, "--until", 1.0, "--dim", 12)
    refused(result, registry, "--until 1 leaves 0 interactions", "a longer --window")


def test_a_method_without_a_map_is_refused_while_older_versions_are_readable(registry, dataset):
    result = update(registry, dataset, "--until", 0.7, "--dim", 12, "--method", "no-bc")
    refused(result, registry, "--method no-bc", "2 older versions (0, 1)", "a method with a map")


def test_all_findings_before_the_fit_are_in_one_message(registry, dataset):
    result = update(registry, dataset, "--until", 0.5, "--dim", 6)
    refused(result, registry, "--until 0.5", "--dim 6")


def test_a_version_with_less_recall_than_the_one_before_is_refused(registry, dataset):
    # A model from scratch, after one epoch of the slow recipe.
    bad = ("--until", 0.7, "--dim", 12, "--profile", "paper", "--epochs", 1)
    result = update(registry, dataset, *bad)
    refused(
        result,
        registry,
        "Recall@50 is 0.",
        "on the same window",
        "--max-recall-loss allows 10.0%",
        fitted=True,
    )
    allowed = update(
        *(registry, dataset, *bad, "--max-recall-loss", 1, "--max-alignment-error", 100)
    )
    assert allowed.exit_code == 0, allowed.stderr


def test_a_version_that_converts_badly_is_refused(registry, dataset):
    options = ("--until", 0.7, "--dim", 12, "--max-alignment-error", 0.01)
    result = update(registry, dataset, *options)
    refused(
        result,
        registry,
        "vectors converted to version",
        "for the version before)",
        "--max-alignment-error allows 1.0%",
        "Raise --weight or --dim",
        fitted=True,
    )


def test_a_forced_update_goes_on_from_the_fit_that_was_refused(registry, dataset):
    options = ("--until", 0.7, "--dim", 12, "--max-alignment-error", 0.01)
    update(registry, dataset, *options)
    result = update(registry, dataset, *options, "--force")
    assert result.exit_code == 0
    assert "resuming from the checkpoint" in result.stderr
    answer = json.loads(result.stdout)
    assert answer["version"] == 2
    (finding,) = answer["metrics"]["guard"]
    assert finding["check"] == "alignment"
    shown = CliRunner().invoke(
        main, ["show", "--registry", str(registry), "--space", "market", "2", "--json"]
    )
    assert json.loads(shown.stdout)["metrics"]["guard"] == [finding]


def test_the_answer_compares_the_candidate_with_the_version_before(registry, dataset):
    answer = json.loads(update(registry, dataset, "--until", 0.7, "--dim", 12).stdout)
    rows = {row["figure"]: (row["version"], row["before"]) for row in answer["comparison"]}
    assert rows["dimension"] == (12, 10)
    assert set(rows) == {
        *("recall@50", "dimension", "fit_seconds"),
        *("alignment_error_to_version_0", "alignment_error_to_version_before"),
    }
    space = Registry(registry).space("market")
    own, before = (space.metrics(k)["relative_alignment_error"] for k in (2, 1))
    assert rows["alignment_error_to_version_before"] == (
        own["to_version_1"],
        before["to_version_0"],
    )
    assert 0 < rows["alignment_error_to_version_0"][0] < 0.5
    assert all(0 < value <= 1 for value in rows["recall@50"])
    assert answer["metrics"]["guard"] == []
    assert answer["next"].startswith("backstay ")


def test_a_finding_of_ids_names_entities_that_would_disappear(published):
    space = Registry(published).space("market")
    users, _ = space.table(1, "user").read()
    ids = {"user": (space.table(1, "user").id_type, [users])}
    finding = guard.lost_ids(space, space.manifest(1), ids, advice="Keep them.")
    assert "the whole table of item" in finding.message
    assert finding.message.endswith("of version 1. Keep them.")
    empty = replace(space.manifest(1), entities={})
    assert guard.lost_ids(space, empty, {}, advice="") is None


def test_ids_of_another_type_count_as_lost(published):
    space = Registry(published).space("market")
    tables = {entity: space.table(1, entity) for entity in ("user", "item")}
    ids = {entity: (table.id_type, table.id_batches()) for entity, table in tables.items()}
    other = {"int64": "string", "string": "int64"}[tables["user"].id_type]
    ids["user"] = other, []
    finding = guard.lost_ids(space, space.manifest(1), ids, advice="")
    expected = f"all {tables['user'].rows:,} ids of user ({tables['user'].id_type} there, {other}"
    assert expected in finding.message


def _recall(mean, *, users=1000, seed=0):
    """Recalls of 0 and 1 with this mean, in an order that depends on the seed."""
    values = np.arange(users) < round(mean * users)
    values = np.random.default_rng(seed).permutation(values).astype(float)
    return RecallResult(np.arange(users), values, 50)


@pytest.mark.parametrize(("found", "before"), [(None, 0.5), (0.4, None), (0.4, 0.0), (0.46, 0.5)])
def test_recall_without_a_comparison_or_within_the_limit_passes(found, before):
    found, before = (None if mean is None else _recall(mean) for mean in (found, before))
    assert guard.worse_recall(found, before, limit=0.1) is None
    assert guard.worse_alignment({}, {}, limit=np.inf) is None


@pytest.mark.parametrize(("users", "certain"), [(4000, True), (30, False)])
def test_a_loss_of_recall_refuses_where_it_is_certain_and_warns_where_not(users, certain, caplog):
    found, before = _recall(0.4, users=users, seed=1), _recall(0.5, users=users)
    finding = guard.worse_recall(found, before, limit=0.1)
    assert finding.refuses is certain
    low, high = re.search(r"users: (-?[\d.]+)% to (-?[\d.]+)%", finding.message).groups()
    assert (float(low) > 0) is certain
    assert float(low) < 20 < float(high)
    assert f"20.0% less (95 % interval over {users:,} users" in finding.message
    if certain:
        with pytest.raises(RegistryError, match="lower --weight"):
            guard.refuse([finding], what="it", force=False)
    else:
        assert guard.refuse([finding], what="it", force=False) == [finding]
        assert "longer --window" in caplog.text


def test_the_interval_of_the_loss_is_paired_by_user():
    """The same users lose: unpaired, 60 users would be too few."""
    before = _recall(0.5, users=60)
    values = before.values.copy()
    values[np.flatnonzero(values)[:9]] = 0
    finding = guard.worse_recall(RecallResult(before.users, values, 50), before, limit=0.1)
    assert finding.refuses
