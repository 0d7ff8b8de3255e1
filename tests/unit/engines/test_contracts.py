"""Consumer contracts through the command line, and the whole loop of updates that break them."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from backstay.engines import estimate
from backstay.evaluation.consumers.model import Consumer, consumer_network
from backstay.registry.aliases import aliases, history
from backstay.registry.contracts import contracts
from backstay.registry.store import Registry
from tests.support.updates import run, update

BAD = ("--until", "0.7", "--dim", "12", "--weight", "0", "--profile", "paper")
"""An update whose vectors convert badly."""


@pytest.fixture
def items(registry):
    """Ids and version-0 vectors of 100 items."""
    ids, values = Registry(registry).space("market").table(0, "item").read()
    return ids[:100], values[:100]


def consumers(registry, verb, *words):
    return run("consumers", verb, "--registry", registry, "--space", "market", "--json", *words)


def add(registry, name, *words, reads=0):
    return consumers(registry, "add", name, "--contact", "a@b.org", "--reads", reads, *words)


def added(registry, name, *words, **options):
    done = add(registry, name, *words, **options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def table(path, **columns):
    if path.suffix == ".csv":
        pa.csv.write_csv(pa.table(columns), path)
    else:
        pq.write_table(pa.table(columns), path)
    return path


def mlp(path, dim=8):
    torch.manual_seed(0)
    network = consumer_network(dim, 16, 0.0).eval()
    consumer = Consumer(
        task="item_rating_mean",
        dim=dim,
        width=16,
        dropout=0.0,
        seed=0,
        epoch=1,
        validation_auc=0.5,
        network=network,
    )
    consumer.save(path)
    return consumer


def linear_onnx(path, weights):
    """An ONNX model rows (n, D) -> rows · weights (n, C)."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weights"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", len(weights)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def exact_model_contract(registry, items, tmp_path, *words):
    """A contract whose frozen model is perfect on version 0."""
    ids, values = items
    consumer = mlp(tmp_path / "model.safetensors")
    scores = consumer.scores(values)
    labels = (scores > np.median(scores)).astype(float)
    labelled = table(tmp_path / "labels.parquet", id=ids, label=labels)
    options = ("--table", labelled, "--entity", "item", "--model", tmp_path / "model.safetensors")
    return added(registry, "ranking", "--metric", "roc-auc", *options, *words)


def verdict_of(registry, *words):
    done = consumers(registry, "check", *words)
    (verdict,) = json.loads(done.stdout)["verdicts"]
    return done.exit_code, verdict


def test_a_frozen_consumer_model_is_checked_by_its_roc_auc(registry, items, tmp_path):
    contract = exact_model_contract(registry, items, tmp_path, "--tolerance", 0.2)
    assert contract["baseline"] == 1.0
    code, verdict = verdict_of(registry, 0)
    assert (code, verdict["verdict"], verdict["loss"]) == (0, "pass", 0.0)
    code, verdict = verdict_of(registry)
    assert (code, verdict["candidate"], verdict["reads"]) == (0, 1, 0)
    assert 0.8 < verdict["figure"] < 1


def test_an_onnx_model_is_checked_by_its_error_and_by_its_accuracy(registry, items, tmp_path):
    ids, values = items
    weights = np.random.default_rng(0).normal(size=(8, 1)).astype(np.float32)
    model = linear_onnx(tmp_path / "linear.onnx", weights)
    targets = table(tmp_path / "t.parquet", id=ids, label=(values @ weights)[:, 0])
    options = ("--entity", "item", "--model", model, "--tolerance", 0.001)
    exact = added(registry, "prices", "--metric", "rmse", "--table", targets, *options)
    assert exact["baseline"] == pytest.approx(0, abs=1e-5)
    code, verdict = verdict_of(registry)
    assert (code, verdict["verdict"]) == (1, "refuse")
    assert verdict["loss"] == pytest.approx(verdict["figure"], abs=1e-5)
    consumers(registry, "remove", "prices")
    classes = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    model = linear_onnx(tmp_path / "classes.onnx", classes)
    best = table(tmp_path / "c.csv", id=ids, label=(values @ classes).argmax(axis=1))
    found = added(
        *(registry, "kinds", "--metric", "accuracy", "--table", best),
        *("--entity", "item", "--model", model),
    )
    assert found["baseline"] == 1.0


def test_pairs_are_scored_by_dot_products_without_a_model(registry, tmp_path):
    space = Registry(registry).space("market")
    users, user_values = space.table(0, "user").read()
    ids, values = space.table(0, "item").read()
    scores = user_values[:40] @ values.T
    best = ids.take(pa.array(scores.argmax(axis=1)))
    pairs = table(tmp_path / "pairs.parquet", user=users[:40], item=best)
    found = added(registry, "feed", "--metric", "recall@1", "--table", pairs, "--tolerance", 1)
    assert (found["baseline"], found["metric"], found["k"]) == (1.0, "recall", 1)
    _, verdict = verdict_of(registry)
    converted = space.chain(1, 0).matrix
    newer, newer_items = (space.table(1, entity).read() for entity in ("user", "item"))
    rows = [newer[0].index(user).as_py() for user in users[:40]]
    again = (newer[1][rows] @ converted.T) @ (newer_items[1] @ converted.T).T
    expected = newer_items[0].take(pa.array(again.argmax(axis=1))).to_numpy(False) == best.to_numpy(
        False
    )
    assert verdict["figure"] == pytest.approx(expected.mean())


def test_a_cosine_contract_keeps_its_vectors_when_the_version_is_retired(registry, items, tmp_path):
    labelled = table(tmp_path / "ids.parquet", id=items[0])
    options = ("--metric", "cosine", "--table", labelled, "--entity", "item")
    found = added(registry, "search", *options, "--tolerance", 0.3)
    assert found["baseline"] == pytest.approx(1)
    _, before = verdict_of(registry)
    assert 0.7 < before["figure"] < 1
    shutil.rmtree(registry / "market" / "versions" / "0" / "tables")
    _, after = verdict_of(registry)
    assert after["figure"] == before["figure"]


def test_an_update_that_breaks_a_contract_is_refused_and_a_good_one_is_published(
    registry, dataset, items, tmp_path
):
    exact_model_contract(registry, items, tmp_path, "--tolerance", 0.1)
    lenient = ("--max-recall-loss", 1, "--max-alignment-error", 100)
    result = update(registry, dataset, *BAD, *lenient)
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    for words in (
        "contract of ranking on version 0 is broken: roc-auc 0.",
        "a loss of 0.",
        "a@b.org",
    ):
        assert words in line
    space = Registry(registry).space("market")
    assert space.versions() == [0, 1]
    good = update(registry, dataset, "--until", 0.7, "--dim", 12)
    assert good.exit_code == 0, good.stderr
    (verdict,) = json.loads(good.stdout)["contracts"]
    assert (verdict["consumer"], verdict["verdict"]) == ("ranking", "pass")
    assert space.verdicts(2) == [verdict]
    assert "contracts.json" in space.manifest(2).files
    shown = run("show", "--registry", registry, "--space", "market", 2, "--json")
    assert json.loads(shown.stdout)["contracts"] == [verdict]


def test_a_contract_that_warns_lets_an_update_pass(registry, dataset, items, tmp_path):
    exact_model_contract(registry, items, tmp_path, "--tolerance", 0, "--policy", "warn")
    done = update(registry, dataset, "--until", 0.7, "--dim", 12)
    (verdict,) = json.loads(done.stdout)["contracts"]
    assert verdict["verdict"] == "warn"


def test_a_method_without_a_map_names_the_consumers_and_breaks_their_contracts(registry, dataset):
    added(registry, "archive")
    options = ("--until", 0.7, "--dim", 12, "--method", "no-bc")
    refused = update(registry, dataset, *options)
    assert refused.exit_code == 1
    assert "Their readers are archive (version 0)." in refused.stderr
    forced = update(registry, dataset, *options, "--force")
    (verdict,) = json.loads(forced.stdout)["contracts"]
    assert verdict["verdict"] == "refuse"
    assert "no map to version 1" in verdict["reason"]


def test_a_removed_contract_is_checked_no_more_and_stays_on_record(registry):
    added(registry, "archive")
    again = add(registry, "archive")
    assert again.exit_code == 1
    assert "has an active contract" in again.stderr
    assert json.loads(consumers(registry, "remove", "archive").stdout)["state"] == "removed"
    assert json.loads(consumers(registry, "list").stdout) == []
    assert json.loads(consumers(registry, "check").stdout)["verdicts"] == []
    added(registry, "archive", reads=1)
    shown = json.loads(consumers(registry, "show", "archive").stdout)
    assert [record["state"] for record in shown["history"]] == ["active", "removed", "active"]
    assert [record["n"] for record in shown["history"]] == [0, 1, 2]
    (row,) = json.loads(consumers(registry, "list").stdout)
    assert (row["name"], row["version"], row["policy"]) == ("archive", 1, "refuse")


def test_a_missing_labelled_id_breaks_a_contract(registry, items, tmp_path):
    ids = pa.concat_arrays([items[0], pa.array(["no such item"])])
    labelled = table(tmp_path / "ids.parquet", id=ids)
    result = add(
        *(registry, "search", "--metric", "cosine", "--table", labelled), "--entity", "item"
    )
    assert result.exit_code == 1
    assert "no vector of 1 of 101 labelled ids of item" in result.stderr
    assert contracts(Registry(registry).space("market")) == []


@pytest.fixture
def files(registry, items, tmp_path):
    """Files by the words of the test below."""
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    return {
        "registry": registry,
        "T": table(tmp_path / "labels.parquet", id=items[0], label=np.ones(100)),
        "N": table(tmp_path / "nameless.parquet", key=items[0]),
        "M": tmp_path / "model.onnx",
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--metric f1", 2, "expected roc-auc, accuracy, rmse, cosine or recall@K"),
        ("--metric cosine", 2, "--metric and --table go together"),
        ("--metric cosine --table T --model M", 2, "--model goes with --metric"),
        ("--metric roc-auc --table T --entity shop", 1, "--entity must name the entity"),
        ("--metric roc-auc --table T --entity item", 1, "needs a --model"),
        ("--metric rmse --table T --entity item --model T", 1, "*.safetensors or *.onnx"),
        ("--metric rmse --table T --entity item --model M", 1, "no ONNX file"),
        ("--metric recall@5 --table T --entity item", 1, "needs the columns user and item"),
        ("--metric cosine --table N", 1, "must have a column id, or the columns user and item"),
        ("--reads 7", 1, "no version 7"),
    ],
)
def test_a_contract_that_cannot_be_meant_is_refused_in_one_line(files, words, code, message):
    registry = files["registry"]
    result = add(registry, "x", *(files.get(word, word) for word in words.split()))
    assert result.exit_code == code, result.output
    assert message in result.stderr.splitlines()[-1]
    assert contracts(Registry(registry).space("market")) == []


def test_a_changed_file_of_a_contract_is_refused(registry, items, tmp_path):
    contract = exact_model_contract(registry, items, tmp_path)
    path = registry / "market" / "consumers" / "ranking" / "files" / contract["model"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01"[:1])
    _, verdict = verdict_of(registry)
    assert verdict["verdict"] == "refuse"
    assert "does not match the SHA-256 in its name" in verdict["reason"]


# Promotion and dry runs.


def aliases_of(registry):
    space = Registry(registry).space("market")
    return {name: [move.to for move in history(space, name)] for name in aliases(space)}


def test_a_version_without_a_map_is_published_by_force_and_never_promoted(
    registry, dataset, items, tmp_path
):
    exact_model_contract(registry, items, tmp_path, "--tolerance", 0.2)
    promote = ("promote", "--registry", registry, "--space", "market")
    moved = json.loads(run(*promote, 1, "--json").stdout)
    assert [check["verdict"] for check in moved["checks"]] == ["pass"]
    options = ("--until", 0.7, "--dim", 12, "--method", "no-bc", "--force", "--promote", "prod")
    forced = update(registry, dataset, *options)
    assert forced.exit_code == 0
    assert "prod does not lead to version 2: the contracts of ranking refuse it" in forced.stderr
    assert json.loads(forced.stdout)["promoted"] is None
    by_hand = run(*promote, 2)
    assert by_hand.exit_code == 1
    assert "ranking: market version 2 has no backward map" in by_hand.stderr
    assert aliases_of(registry) == {"prod": [1]}
    assert run(*promote, 2, "--force").exit_code == 0
    assert aliases_of(registry) == {"prod": [1, 2]}


def test_a_good_update_is_promoted_once_and_a_retry_leaves_the_alias_alone(registry, dataset):
    options = ("--until", 0.7, "--dim", 12, "--promote", "prod")
    assert run("promote", "--registry", registry, "market", 1).exit_code == 0
    done = json.loads(update(registry, dataset, *options).stdout)
    assert (done["promoted"], aliases_of(registry)) == ("prod", {"prod": [1, 2]})
    assert done["next"].startswith("backstay show ")
    again = json.loads(update(registry, dataset, *options).stdout)
    assert (again["promoted"], again["published"]) == ("prod", "by an earlier run")
    run("rollback", "--registry", registry, "market")
    late = json.loads(update(registry, dataset, *options).stdout)
    assert (late["promoted"], aliases_of(registry)) == (None, {"prod": [1, 2, 1]})
    assert late["next"].startswith("backstay promote ")


def test_promoting_to_a_number_is_refused_before_the_fit(registry, dataset):
    result = update(registry, dataset, "--until", 0.7, "--dim", 12, "--promote", "latest")
    assert result.exit_code == 2
    assert "must be a name such as prod" in result.stderr
    assert "fitting" not in result.stderr


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_an_update_costs_and_writes_nothing(registry, dataset):
    added(registry, "archive")
    run("promote", "--registry", registry, "market", 1)
    before = everything(registry)
    options = ("--until", 0.7, "--dim", 12, "--promote", "prod", "--dry-run")
    result = update(registry, dataset, *options)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert everything(registry) == before
    rows = answer["rows"]
    assert answer["version"] == 2
    assert answer["bytes"] > (rows["user"] + rows["item"]) * 12 * 4
    assert answer["seconds"] >= 0
    assert answer["memory_mb"] > 50
    assert answer["estimated"].startswith("measured: the whole fit")
    assert answer["refused"] == []
    assert answer["consumers"] == [{"name": "archive", "reads": 0, "contact": "a@b.org"}]
    assert answer["aliases"] == {"prod": 1}
    assert answer["moves"] == "prod from version 1 to version 2"


def test_a_dry_run_of_a_long_fit_extrapolates(registry, dataset, monkeypatch):
    monkeypatch.setattr(estimate, "PROBE_SECONDS", 0)
    result = update(registry, dataset, "--until", 0.7, "--dim", 12, "--dry-run")
    assert re.match(
        "extrapolated from the first [0-9]+ of [0-9]+ steps", json.loads(result.stdout)["estimated"]
    )


def test_a_dry_run_of_a_post_hoc_method_counts_its_map_too(registry, dataset, monkeypatch):
    monkeypatch.setattr(estimate, "PROBE_SECONDS", 0)
    fit_here = estimate.fit_here

    def paced(request, place):
        """The fit, as if each phase would take 30 s."""

        def watch(phase, progress):
            place.watch(phase, replace(progress, seconds=10.0, remaining=20.0))

        return fit_here(request, replace(place, watch=watch))

    monkeypatch.setattr(estimate, "fit_here", paced)
    found = {}
    for method in ("no-bc", "posthoc-linear-multi", "posthoc-procrustes"):
        options = ("--until", 0.7, "--dim", 12, "--method", method, "--dry-run")
        found[method] = json.loads(update(registry, dataset, *options).stdout)
    assert found["no-bc"]["seconds"] == found["posthoc-procrustes"]["seconds"] == 30
    assert found["posthoc-linear-multi"]["seconds"] == 60
    assert re.match(
        "extrapolated from the first [0-9]+ of [0-9]+ steps of the model "
        "and [0-9]+ of [0-9]+ steps of the map,",
        found["posthoc-linear-multi"]["estimated"],
    )


def test_a_dry_run_lists_what_would_be_refused(registry, dataset):
    result = update(registry, dataset, "--until", 0.55, "--dim", 6, "--dry-run")
    assert result.exit_code == 0
    found = [finding["check"] for finding in json.loads(result.stdout)["refused"]]
    assert found == ["until", "ids", "dim"]
    done = update(registry, dataset, "--until", 0.5, "--dim", 8, "--dry-run")
    answer = json.loads(done.stdout)
    assert (answer["already_published"], answer["version"]) == (True, 0)


def test_a_dry_run_of_a_first_version_makes_no_registry(dataset, tmp_path):
    result = update(tmp_path / "new", dataset, "--until", 0.5, "--dim", 8, "--dry-run")
    assert json.loads(result.stdout)["version"] == 0
    assert not (tmp_path / "new").exists()
