"""The status page: what it shows, and how it looks in a browser."""

import re
from urllib.parse import urlsplit

import httpx
import pytest

from backstay.registry import contracts, tokens
from backstay.registry.aliases import promote
from backstay.serving import status
from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support import served
from tests.support.browser import CHROMIUM, browser
from tests.support.builders import contract
from tests.support.served import SPACE, listening, publish

LONG = "a-space-with-a-rather-long-name-that-somebody-chose-on-a-friday-afternoon"
READER = "a-consumer-with-a-name-that-is-much-too-long-for-the-column-that-it-stands-in"


@pytest.fixture(scope="module")
def lookup(tmp_path_factory):
    root = tmp_path_factory.mktemp("status")
    registry = served.build(root / "registry")
    publish(registry, 0, space=LONG)
    promote(registry.space(SPACE), 1)
    for name, version in [("ranking", 0), (READER, 0), ("fraud", 1)]:
        contracts.write(registry.space(SPACE), contract(name, version=version), {})
    with Lookup(registry, cache=root / "cache") as lookup:
        yield lookup


@pytest.fixture(scope="module")
def url(lookup):
    with listening(build_app(lookup, replica="one")) as url:
        for version in (0, 1):
            httpx.post(
                f"{url}/v1/spaces/{SPACE}/user/lookup", json={"ids": [5], "version": version}
            )
        yield url


def text_of(html):
    body = html.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_it_shows_spaces_versions_readers_and_replicas(url):
    answer = httpx.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    text = text_of(answer.text)
    assert "Backstay ready" in text
    assert f"Space {SPACE} Version 1 is in force; the latest is 2." in text
    assert re.search(r"1 in force prod .* item: version 1 user: version 1 fraud", text)
    assert re.search(rf"0 \S+ .* item: version 1 user: version 1 {READER} ranking", text)
    assert "2 of 2 spaces ready" in text
    assert re.search(rf"{SPACE} 0 1 0 \S+ m?s \S+ m?s", text)


def test_it_names_what_can_not_be_served_and_escapes_it(tmp_path, monkeypatch):
    registry = served.build(tmp_path / "registry", versions=1)
    with Lookup(registry, cache=tmp_path / "cache") as lookup:
        why = {SPACE: "<script>alert(1)</script>"}
        monkeypatch.setattr(Lookup, "ready", lambda _self: why)
        with listening(build_app(lookup)) as url:
            answer = httpx.get(url)
    assert "Backstay not ready" in text_of(answer.text)
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "<script" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.00085, "0.85 ms"), (0.1, "100 ms"), (0.999, "999 ms"), (2.5, "2.5 s"),
     (10.0, "10 s")],
)  # fmt: skip
def test_durations_are_short(seconds, text):
    assert status.duration(seconds) == text


def test_before_there_is_a_registry_it_is_unavailable():
    with listening(build_app()) as url:
        assert httpx.get(url).status_code == 503


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_window_and_asks_no_other_host(page, url, width, dark):
    page.requested.clear()
    page.open(f"{url}/", width=width, dark=dark)
    assert page.evaluate("document.title") == "Backstay: ready"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = (
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > "
        f"{width} + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert page.evaluate(overflowing) == []
    assert page.requested[0] == f"{url}/"
    schemes = {"data", "about"}
    hosts = {
        urlsplit(each).netloc for each in page.requested if urlsplit(each).scheme not in schemes
    }
    assert hosts == {urlsplit(url).netloc}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_its_text_has_contrast(page, url, dark):
    page.open(f"{url}/", width=1280, dark=dark)
    ratios = page.evaluate("""
        (() => {
          const parse = c => c.match(/[\\d.]+/g).map(Number);
          const light = c => {
            const [r, g, b] = parse(c).map(v => v / 255)
              .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = e => {
            for (; e; e = e.parentElement) {
              const c = getComputedStyle(e).backgroundColor;
              if ((parse(c)[3] ?? 1) > 0) return c;
            }
          };
          return [...document.querySelectorAll('main *')]
            .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
            .map(e => [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a))
            .map(([a, b]) => (a + 0.05) / (b + 0.05));
        })()
    """)
    assert len(ratios) > 50
    assert min(ratios) >= 4.5  # WCAG 2, AA


def test_a_token_shows_its_spaces_only(tmp_path):
    registry = served.build(tmp_path / "registry", versions=1)
    publish(registry, 0, space="secret")
    _, text = tokens.create(registry.files, "tester", spaces=[SPACE], verbs=["describe"])
    _, other = tokens.create(registry.files, "other", verbs=["lookup"])
    with (
        Lookup(registry, cache=tmp_path / "cache") as lookup,
        listening(build_app(lookup, auth="required")) as url,
    ):
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": f"Bearer {other}"}).status_code == 403
        answer = httpx.get(url, headers={"Authorization": f"Bearer {text}"})
    assert "secret" not in answer.text
    assert "1 of 1 spaces ready" in text_of(answer.text)
