"""Metrics, status page and access log of a service with two replicas behind its proxy."""

import json
import os
import signal
from collections import Counter

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.running_service import Running, eventually
from tests.support.served import SPACE

ASKED = 40
ROUTE = "/v1/spaces/{space}/{entity}/{id:anything}"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("monitored")
    with Running(root, replicas=2, access_log="-") as running:
        yield running.wait_until_ready()


def look_ups(url):
    """The number of look-ups that a scrape shows, by replica, if it shows both."""
    text = httpx.get(f"{url}/metrics").text
    series = [each for family in text_string_to_metric_families(text) for each in family.samples]
    (complete,) = [each.value for each in series if each.name == "backstay_scrape_complete"]
    replicas = {each.labels["replica"] for each in series if each.name == "backstay_build_info"}
    if complete != 1 or len(replicas) != 2:
        return None
    counted = Counter()
    for each in series:
        if each.name == "backstay_request_seconds_count" and each.labels["route"] == ROUTE:
            counted[each.labels["replica"]] += int(each.value)
    return counted


def test_each_scrape_shows_all_replicas_and_no_counter_falls(service):
    eventually(lambda: look_ups(service.url) is not None)
    for _ in range(ASKED):  # each with a connection of its own, so that both replicas answer
        assert httpx.get(f"{service.url}/v1/spaces/{SPACE}/user/5").status_code == 200
    eventually(lambda: look_ups(service.url).total() == ASKED)
    scrapes = [look_ups(service.url) for _ in range(20)]
    assert {scrape.total() for scrape in scrapes} == {ASKED}
    assert len(scrapes[0]) == 2


def test_the_status_page_shows_all_replicas(service):
    page = httpx.get(service.url).text
    assert page.count("1 of 1 spaces ready") == 2


def test_without_the_watching_process_metrics_are_back_soon(service):
    (watch,) = service.processes("ServeReplica:backstay:watch")
    os.kill(watch, signal.SIGKILL)
    assert httpx.get(f"{service.url}/metrics", timeout=30).status_code == 200
    eventually(lambda: look_ups(service.url) is not None)
    assert look_ups(service.url).total() == ASKED


def test_every_request_is_in_the_access_log_of_the_command(service):
    lines = [json.loads(line) for line in service.terminate().splitlines()]
    of_look_ups = [line for line in lines if line["route"] == ROUTE]
    assert len(of_look_ups) == len({line["request_id"] for line in of_look_ups}) == ASKED
    assert {line["space"] for line in of_look_ups} == {SPACE}
