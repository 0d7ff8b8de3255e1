"""The tree of errors."""

import ast
import re
from pathlib import Path

from backstay import errors

PACKAGE = Path(errors.__file__).parent
CLASSES = {name: getattr(errors, name) for name in errors.__all__}


def test_the_docstring_draws_the_tree():
    depths = {}
    for line in errors.__doc__.splitlines():
        drawn = re.match(r"( {4}[ │├└─]*)([A-Z]\w+Error)  ", line)
        if drawn:
            depths[drawn[2]] = (len(drawn[1]) - 4) // 4
    assert depths == {name: len(class_.__mro__) - 4 for name, class_ in CLASSES.items()}


def test_every_error_of_the_package_stands_in_the_tree():
    """No module but errors.py defines a subclass of these errors."""
    elsewhere = [
        f"{path.name}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        if path != Path(errors.__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in CLASSES for base in node.bases)
    ]
    assert elsewhere == []
    assert issubclass(errors.MissingMapError, errors.NotFoundError)
