"""The table of update methods (design, section 3): how M_k and B_k are obtained.

The fitting loop reads these rows and makes no difference between them.
"""

from dataclasses import dataclass
from typing import Literal

from backstay.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Method:
    """One update method."""

    name: str
    model: Literal["frozen", "scratch"]  # M_{k-1} as it is, or M_k from a fresh start
    map: Literal["none", "identity", "linear"]  # how z_k leads back to z_{k-1}
    alignment: Literal["single", "multi"] = "multi"  # the loss that fits a linear map
    joint: bool = False  # the map is fitted together with the model, not after it

    @property
    def posthoc(self) -> bool:
        """A linear map is fitted once the model is finished."""
        return self.map == "linear" and not self.joint


METHODS = {
    method.name: method
    for method in (
        Method(name="fix-m0", model="frozen", map="identity"),
        Method(name="no-bc", model="scratch", map="none"),
        Method(name="posthoc-linear-single", model="scratch", map="linear", alignment="single"),
        Method(name="bc-aligner", model="scratch", map="linear", alignment="multi", joint=True),
    )
}


def find_method(name: str) -> Method:
    """The row of the table called `name`."""
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}.")
    return METHODS[name]
