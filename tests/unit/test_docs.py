"""The README and the site under docs/: complete, linked, and loading nothing from outside."""

import re
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

import backstay
from backstay.cli import all_commands
from tests.support.processes import ROOT, run_python

README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTSIDE = re.compile(r"\s*(?:https?:)?//")
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = run_python(
        *("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder), cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """Collects what a page makes a browser load, and the classes it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes |= set((values.get("class") or "").split())
        if address := values.get(LOADING.get(tag, "")):
            self.addresses.append(address)


def test_the_site_loads_nothing_from_outside(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = Loads()
        found.feed(text)
        assert found.addresses
        assert [address for address in found.addresses if OUTSIDE.match(address)] == []
        assert "mermaid" not in found.classes  # the theme loads its script from a public server
        assert "fonts.g" not in text
    for sheet in site.rglob("*.css"):
        loaded = re.findall(r"(?:@import|url\()\s*['\"]?([^'\")]+)", sheet.read_text("utf-8"))
        assert [address for address in loaded if OUTSIDE.match(address)] == []


def test_the_site_has_every_command_with_its_options(site):
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in all_commands().items():
        assert f'id="{name.replace(" ", "-")}"' in page
        options = [option for option in command.params if isinstance(option, click.Option)]
        flags = {flag for option in options if not option.hidden for flag in option.opts}
        assert {flag for flag in flags if flag not in page} == set()


def test_the_site_has_every_public_name(site):
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in {*backstay.__all__, *backstay.errors.__all__} - {"errors"}:
        assert re.search(rf'id="backstay[\w.]*\b{name}"', page), name


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert "docs/tutorial.md" in links
    assert [link for link in links if not (ROOT / link).is_file()] == []
