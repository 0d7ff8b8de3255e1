"""The marketplace's users: when they join, their tastes, and who visits next."""

import math

import numpy as np

from backstay.datasets.marketplace_catalogue import LATENT, Floats, Index
from backstay.datasets.marketplace_config import MarketplaceConfig

JOINING = 0.75  # by position p on the timeline, the share p**JOINING of the users has joined
MEMORY = 0.12  # on the timeline: after so long without a visit, a return is e times less likely
DORMANT = 0.02  # how likely the long absent return, where 1 is those who were just here
VISIT = (0.8, 0.8)  # mean and standard deviation of the logarithm of a visit's interactions

COMMUNITIES = 24  # centres that tastes gather around
GATHERED = 0.7  # share of a taste's variance that its community explains
LOYALTY = 0.5  # standard deviation of log-activity between communities
TREND = 1.0  # standard deviation of the communities' log-popularity with newcomers
KINDNESS = 0.3  # standard deviation between users' mean ratings, in stars


class Users:
    """U users in the order in which they join; the taste of a later user is still zero."""

    def __init__(self, rng: np.random.Generator, config: MarketplaceConfig) -> None:
        users = config.n_users
        self._rng = rng
        self._config = config
        self._joined = 0
        self._activity = (config.activity * rng.normal(size=users)).astype(np.float32)
        self._last_visit = np.zeros(users, np.float32)  # (U,) position on the timeline
        self._centres = rng.normal(size=(COMMUNITIES, LATENT))
        self._loyalty = LOYALTY * rng.normal(size=COMMUNITIES)
        self._trend = TREND * rng.normal(size=(2, COMMUNITIES))
        self.tastes: Floats = np.zeros((users, LATENT), np.float32)  # of variance 1
        self.kindness: Floats = (KINDNESS * rng.normal(size=users)).astype(np.float32)

    def visits(
        self, position: float, *, until: float, wanted: int, longest: int
    ) -> tuple[Index, Index]:
        """The users who visit between two positions, and the number of interactions of each.

        Newcomers come first, then returning users, drawn without replacement. Each user comes at
        most once. The interactions add up to `wanted`, or fewer where there are too few users.
        """
        joined = self._joined
        newcomers = self._join(position, until=until, most=wanted)
        mean_visit = math.exp(VISIT[0] + VISIT[1] ** 2 / 2)
        count = min(joined, math.ceil(1.3 * wanted / mean_visit) + 8)
        visitors = np.concatenate([newcomers, self._returning(position, joined, count)])
        lengths = np.ceil(self._rng.lognormal(*VISIT, len(visitors))).astype(np.int64)
        missing = max(0, wanted - int(lengths.sum()))
        lengths = np.minimum(lengths + -(-missing // len(visitors)), longest)

        # Each newcomer gets one interaction; the rest go to the visitors in order.
        first = np.arange(len(visitors)) < len(newcomers)
        served = np.minimum(np.cumsum(lengths - first), wanted - len(newcomers))
        lengths = np.diff(served, prepend=0) + first
        visitors, lengths = visitors[lengths > 0], lengths[lengths > 0]
        self._last_visit[visitors] = until
        return visitors, lengths

    def _join(self, position: float, *, until: float, most: int) -> Index:
        due = math.ceil(len(self.tastes) * until**JOINING)
        newcomers = np.arange(self._joined, min(due, self._joined + most))
        self._joined += len(newcomers)
        season = self._config.season(position)
        trend = math.cos(season) * self._trend[0] + math.sin(season) * self._trend[1]
        chances = np.exp(trend) / np.exp(trend).sum()
        community = self._rng.choice(COMMUNITIES, len(newcomers), p=chances)
        own = self._rng.normal(size=(len(newcomers), LATENT))
        self.tastes[newcomers] = (
            math.sqrt(GATHERED) * self._centres[community] + math.sqrt(1 - GATHERED) * own
        )
        self._activity[newcomers] += self._loyalty[community]
        return newcomers

    def _returning(self, position: float, joined: int, count: int) -> Index:
        away = position - self._last_visit[:joined]
        eagerness = np.exp(self._activity[:joined]) * (DORMANT + np.exp(-away / MEMORY))
        # The least of exponential waits are a draw without replacement, in order of arrival.
        waits = self._rng.standard_exponential(joined, np.float32) / eagerness
        if count < joined:
            soonest = np.argpartition(waits, count)[:count]
            return soonest[np.argsort(waits[soonest])]
        return np.argsort(waits)
