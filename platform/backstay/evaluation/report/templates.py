"""Rendering reports from Jinja templates."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from backstay.storage.atomic import write_file


def write_pages(
    out: Path, *, package: str, names: Iterable[str], content: Mapping[str, object]
) -> None:
    """Render `<name>.j2` of a package for each name, and write the file `<name>` into `out`.

    A name that a template uses and `content` lacks is an error. HTML is escaped.
    """
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in names:
        text = environment.get_template(f"{name}.j2").render(content)
        write_file(out / name, text.encode())
