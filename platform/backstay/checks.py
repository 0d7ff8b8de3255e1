"""Range checks of configurations: each field states its bounds, and pydantic checks them."""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from backstay.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_EXPECTED = {
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
}


def check_fields(config: "DataclassInstance") -> None:
    """Check every field of a dataclass against its annotation; call it from `__post_init__`.

    Raises UsageError that names the first wrong field, what was expected and what was found.
    """
    for name, adapter in _adapters(type(config)).items():
        value = getattr(config, name)
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            expected = _EXPECTED.get(first["type"], "is invalid: {msg}")
            expected = expected.format(**first.get("ctx", {}), msg=first["msg"])
            raise UsageError(f"{name} {expected}, found {value!r}.") from error


@cache
def _adapters(kind: "type[DataclassInstance]") -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: TypeAdapter(hints[name]) for name in kind.__dataclass_fields__}
