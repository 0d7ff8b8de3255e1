"""What a plan is asked for."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from backstay.checks import AtLeastOne, NotNegative, check_fields

INTERACTIONS_PER_ROW = 10
MOST = 10**15
"""Most rows and interactions of a plan."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The size of one version, its readers, and the machines that are for hire."""

    rows: Annotated[int, Field(ge=1, le=MOST)]  # of a version's tables together: users and items
    dim: Annotated[int, Field(ge=1, le=1_000_000)]
    qps: Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]  # look-up requests a second
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # hours for fit and conversion
    interactions: Annotated[int, Field(ge=0, le=MOST)] | None = (
        None  # None: 10 a row; 0: leave out the fit
    )
    ids_per_request: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    node_cores: AtLeastOne = 16
    node_memory: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 64.0  # GiB
    price_per_core_hour: NotNegative | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def edges(self) -> int:
        """Interactions that the version is fitted on."""
        if self.interactions is None:
            return INTERACTIONS_PER_ROW * self.rows
        return self.interactions
