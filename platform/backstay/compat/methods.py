"""The table of update methods (design, section 3): how M_k and B_k are obtained.

The fitting loop reads these rows and makes no difference between them.
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
    """M_{k-1} as it is; M_{k-1} trained on; M_k from a fresh start; or M_k built onto a frozen
    M_{k-1}, whose vectors it turns and adds dimensions to."""
    map: Literal["none", "identity", "linear", "inverse"]
    """How z_k leads back to z_{k-1}: not at all; by its first D_{k-1} dimensions as they are; by a
    learned linear map; or by undoing what an extended model does."""
    closed_form: ClosedForm | None = None  # what solves for the map instead, without a loop
    alignment: Literal["single", "multi"] = "multi"  # the loss that fits a learned map
    joint: bool = False  # the alignment is learned together with the model, not after it

    @property
    def posthoc(self) -> bool:
        """A map is fitted once the model is finished, which knows nothing of it."""
        return self.map == "linear" and not self.joint

    @property
    def publishable(self) -> bool:
        """Its map is one matrix for all entities, which is what a version is published with."""
        return self.closed_form not in {"ridge", "low-rank"}

    @property
    def needs_teacher(self) -> bool:
        """Fitting reads the vectors that M_{k-1} has on the snapshot of version k."""
        return self.aligns or self.model == "extended" or self.closed_form is not None

    @property
    def aligns(self) -> bool:
        """z_{k-1} is a target of the loss that is minimised step by step."""
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
