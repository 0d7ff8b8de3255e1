"""The size and character of a marketplace."""

import math
from dataclasses import dataclass

from backstay.errors import UsageError

SEASONS = 1.5  # cycles of a fashion over the timeline


@dataclass(frozen=True, kw_only=True)
class MarketplaceConfig:
    """The parameters of a marketplace. The same configuration gives the same rows."""

    interactions: int = 30_000
    """Number of interactions, 2,000 … 50,000,000."""
    users: int | None = None
    """Number of users; None: grows with the interactions, 2,000 for 30,000."""
    items: int | None = None
    """Number of items; None: grows with the interactions, 800 for 30,000."""
    seed: int = 0
    """Seed of everything random."""
    days: int = 730
    """Time from the first to the last interaction, in days."""
    acceleration: float = 4.0
    """Interactions per day at the end, as a multiple of those at the start."""
    item_growth: float = 0.5
    """Share of the items that launch after the start."""
    drift: float = 1.0
    """How far meanings and fashions move. 0: not at all. 1: at the end an attribute's meaning is
    unrelated to that at the start."""
    taste: float = 4.0
    """How strongly choices follow taste rather than popularity; 0: not at all."""
    explained: float = 0.8
    """Share of the variance of items' latent vectors that their attributes explain."""
    popularity: float = 1.4
    """Standard deviation of the items' lasting log-popularity: the weight of the tail."""
    activity: float = 0.9
    """Standard deviation of the users' log-activity: the weight of the tail."""

    def __post_init__(self) -> None:
        _check("interactions", self.interactions, 2_000, 50_000_000)
        _check("items", self.n_items, 100, self.interactions // 4)
        # No user takes an item twice, so an eighth of the items must suffice for the average user.
        least = max(self.interactions // 500, 8 * self.interactions // self.n_items)
        _check("users", self.n_users, least, self.interactions // 4)
        _check("seed", self.seed, 0, 2**63 - 1)
        _check("days", self.days, 1, 36_500)
        _check("acceleration", self.acceleration, 0.01, 100)
        _check("item_growth", self.item_growth, 0, 0.9)
        _check("drift", self.drift, 0, 2)
        _check("taste", self.taste, 0, 10)
        _check("explained", self.explained, 0, 1)
        _check("popularity", self.popularity, 0, 3)
        _check("activity", self.activity, 0, 3)

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


def _check(field: str, value: float, least: float, greatest: float) -> None:
    if not least <= value <= greatest:
        raise UsageError(f"{field}: expected {least:,} … {greatest:,}, found {value:,}.")
