"""The size and character of a marketplace."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from backstay.checks import check_fields
from backstay.errors import UsageError

SEASONS = 1.5  # cycles of a fashion over the timeline


@dataclass(frozen=True, kw_only=True)
class MarketplaceConfig:
    """The parameters of a marketplace. The same configuration gives the same rows."""

    interactions: Annotated[int, Field(ge=2_000, le=50_000_000)] = 30_000
    """Number of interactions."""
    users: int | None = None
    """Number of users; None: grows with the interactions, 2,000 for 30,000."""
    items: int | None = None
    """Number of items; None: grows with the interactions, 800 for 30,000."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of everything random."""
    days: Annotated[int, Field(ge=1, le=36_500)] = 730
    """Time from the first to the last interaction, in days."""
    acceleration: Annotated[float, Field(ge=0.01, le=100)] = 4.0
    """Interactions per day at the end, as a multiple of those at the start."""
    item_growth: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    """Share of the items that launch after the start."""
    drift: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How far meanings and fashions move. 0: not at all. 1: at the end an attribute's meaning is
    unrelated to that at the start."""
    taste: Annotated[float, Field(ge=0, le=10)] = 4.0
    """How strongly choices follow taste rather than popularity; 0: not at all."""
    explained: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of the variance of items' latent vectors that their attributes explain."""
    popularity: Annotated[float, Field(ge=0, le=3)] = 1.4
    """Standard deviation of the items' lasting log-popularity: the weight of the tail."""
    activity: Annotated[float, Field(ge=0, le=3)] = 0.9
    """Standard deviation of the users' log-activity: the weight of the tail."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check("items", self.n_items, 100, self.interactions // 4)
        # No user takes an item twice, so an eighth of the items must suffice for the average user.
        least = max(self.interactions // 500, 8 * self.interactions // self.n_items)
        _check("users", self.n_users, least, self.interactions // 4)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return round(2_000 * self._scale**0.85) if self.users is None else self.users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return round(800 * self._scale**0.65) if self.items is None else self.items

    def turn(self, position: float) -> float:
        """The angle by which meanings have turned at a position of the timeline, in radians."""
        return math.pi / 2 * self.drift * position

    def season(self, position: float) -> float:
        """The phase of the fashions at a position of the timeline, in radians."""
        return 2 * math.pi * SEASONS * self.drift * position

    @property
    def _scale(self) -> float:
        return self.interactions / 30_000


def _check(field: str, value: int, least: int, greatest: int) -> None:
    if not least <= value <= greatest:
        raise UsageError(f"{field} must be from {least:,} to {greatest:,}, found {value:,}.")
