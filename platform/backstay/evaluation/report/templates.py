"""Rendering reports from Jinja templates."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from backstay.storage.atomic import write_file


def write_pages(
    out: Path, *, package: str, names: Iterable[str], content: Mapping[str, object]
) -> None:
    """Render the template `<name>.j2` for each name, and write the file `<name>` into `out`."""
    for name in names:
        write_page(out / name, package=package, template=name, content=content)


def write_page(path: Path, *, package: str, template: str, content: Mapping[str, object]) -> None:
    """Render `<template>.j2` of a package and write it to `path`.

    Templates may include those of this package, such as `style.css.j2`. A name that a template uses
    and `content` lacks is an error. HTML is escaped.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__package__, ".")]),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{template}.j2").render(content)
    write_file(path, text.encode())
