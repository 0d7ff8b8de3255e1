"""Reports as pages and texts: templates that stand beside the module that fills them in."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from backstay.evaluation.comparison.files import write_whole


def write_pages(out: Path, *, package: str, names: Iterable[str], told: Mapping[str, Any]) -> None:
    """Render `<name>.j2` of a package for each of the names, and write it into the folder `out`.

    What `told` lacks and a template asks for is an error; HTML is escaped.
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
        text = environment.get_template(f"{name}.j2").render(told)
        write_whole(out / name, text.encode())
