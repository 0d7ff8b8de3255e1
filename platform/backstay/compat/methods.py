"""The table of update methods: how M_k and B_k are obtained.

The fitting loop reads these rows and treats them alike.
"""

from dataclasses import dataclass
from typing import Literal

from backstay.errors import UsageError

ClosedForm = Literal["linear", "ridge", "procrustes", "low-rank"]
"""A linear map as a joint method's, the same with an offset, a rotation, or one for users and one
for items that keep the scores."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One update method."""

    name: str
    model: Literal["frozen", "continued", "scratch", "extended"]
    """M_{k-1} unchanged; M_{k-1} trained further; M_k trained from scratch; or M_k that extends a
    frozen M_{k-1} by new dimensions, in a new basis."""
    map: Literal["none", "identity", "linear", "inverse"]
    """The map from z_k to z_{k-1}: none; its first D_{k-1} dimensions; a linear map; or the inverse
    of the extension."""
    closed_form: ClosedForm | None = None  # the solver of the map, instead of the loop
    alignment: Literal["single", "multi"] = "multi"  # the loss that fits a learned map
    joint: bool = False  # the map is trained together with the model, not after it

    @property
    def posthoc(self) -> bool:
        """Whether the map is fitted after the model, which is trained without it."""
        return self.map == "linear" and not self.joint

    @property
    def publishable(self) -> bool:
        """Whether its map is one matrix for all entities, as a published version needs."""
        return self.closed_form not in {"ridge", "low-rank"}

    @property
    def needs_teacher(self) -> bool:
        """Whether the fit reads the vectors of M_{k-1} on the snapshot of version k."""
        return self.aligns or self.model == "extended" or self.closed_form is not None

    @property
    def aligns(self) -> bool:
        """Whether the loop minimises an alignment loss towards z_{k-1}."""
        return self.joint or (self.posthoc and self.closed_form is None)


METHODS = {
    method.name: method
    for method in (
        Method(name="fix-m0", model="frozen", map="identity"),
        Method(name="finetune", model="continued", map="identity"),
        Method(name="no-bc", model="scratch", map="none"),
        Method(name="posthoc-linear-single", model="scratch", map="linear", alignment="single"),
        Method(name="posthoc-linear-multi", model="scratch", map="linear", alignment="multi"),
        Method(name="posthoc-ridge", model="scratch", map="linear", closed_form="ridge"),
        Method(name="posthoc-procrustes", model="scratch", map="linear", closed_form="procrustes"),
        Method(name="posthoc-low-rank", model="scratch", map="linear", closed_form="low-rank"),
        Method(
            name="joint-identity", model="scratch", map="identity", alignment="single", joint=True
        ),
        Method(
            name="joint-linear-single",
            model="scratch",
            map="linear",
            alignment="single",
            joint=True,
        ),
        Method(name="bc-aligner", model="scratch", map="linear", alignment="multi", joint=True),
        Method(name="backstay", model="extended", map="inverse"),
    )
}


def find_method(name: str) -> Method:
    """The row of the table called `name`."""
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}.")
    return METHODS[name]
