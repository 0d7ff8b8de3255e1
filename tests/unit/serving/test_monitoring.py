"""The alert rules and the dashboard: they parse, and ask for metrics and labels that there are."""

import json
import re

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from backstay.serving.app import build_app
from tests.support.processes import ROOT
from tests.support.served import SPACE, listening

FOLDER = ROOT / "serve" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
QUERIES = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
    **{each["name"]: each["expr"] for each in DASHBOARD["annotations"]["list"]},
}


@pytest.fixture(scope="module")
def metrics(lookup):
    """The label names of each metric of a running service that has answered."""
    with listening(build_app(lookup)) as url:
        httpx.get(f"{url}/v1/spaces/{SPACE}/user/5")
        text = httpx.get(f"{url}/metrics").text
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_asks_for_metrics_and_labels_that_there_are(metrics, query):
    names = set(re.findall(r"\bbackstay_\w+", query))
    assert names
    assert names <= set(metrics)
    known = set.union(*(metrics[name] for name in names))
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    assert {label for group in grouped for label in group.split(", ")} <= known
    assert set(re.findall(r"[{,]\s*(\w+)\s*[=!]", query)) <= known


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_is_valid_promql(query):
    promql_parser = pytest.importorskip("promql_parser")
    promql_parser.parse(query.replace("$__rate_interval", "5m"))


def test_rules_have_what_prometheus_needs():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"[0-9]+[smh]", rule["for"])
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "action"}
        used = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        grouped = re.search(r"by \(([^)]*)\)", rule["expr"])
        assert set(used) <= set(grouped[1].split(", ") if grouped else ())


def test_every_alert_is_explained_in_the_docs():
    page = (ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []


def test_the_dashboard_has_what_grafana_needs():
    assert DASHBOARD["title"]
    assert re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["schemaVersion"] >= 36
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) <= variables | {"__rate_interval"}
    taken = set()
    for panel in panels:
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["title"]
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken  # panels do not overlap
        taken |= cells


def test_the_example_for_prometheus_loads_the_rules():
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))
    assert [(FOLDER / name).is_file() for name in config["rule_files"]] == [True]
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:8000"]
