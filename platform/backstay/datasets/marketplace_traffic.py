"""The marketplace's interactions: the items shown to users, their choices and their ratings.

The timeline runs from 0 to 1 with the number of interactions. It is generated in blocks, each in
time order and after the one before. A visit shows a shelf of items, drawn by popularity, novelty
and fashion. The user takes some of them by taste: a Plackett-Luce choice.

Arrays of a block: V visits, S slots on the shelf of each, E interactions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backstay.datasets.marketplace_catalogue import Catalogue, Floats, Index
from backstay.datasets.marketplace_config import MarketplaceConfig
from backstay.datasets.marketplace_users import Users
from backstay.errors import UsageError

BLOCKS = 100  # the least number of blocks, so that time moves smoothly
BLOCK = 32_768  # interactions of a block at most: bounds the memory
TINY = np.float32(1e-30)  # keeps a logarithm finite
SHELF = 96  # items that a visit shows
LONGEST = 24  # interactions of a visit at most
OPENING = 1_640_995_200  # 2022-01-01 00:00 UTC, in seconds since the epoch
DAY = 86_400  # seconds
PAUSE = 90  # mean seconds between two interactions of a visit

NOVELTY = 0.15  # on the timeline: how fast the novelty of an item wears off
STAPLE = 0.25  # popularity left when it has, where 1 is that at launch
FASHION = 0.5  # standard deviation of the log-popularity that comes and goes

STARS = 3.73  # opinion of the average item
QUALITY = 0.5  # standard deviation of items' quality, in stars
SPREAD = (-0.1, 0.4)  # mean and standard deviation of the logarithm of items' spread of opinion
PERSONAL = 0.5  # correlation of an opinion's deviation with taste; the rest is chance


@dataclass(frozen=True)
class Block:
    """E consecutive interactions, in time order."""

    users: Index  # (E,) numbered as they join
    items: Index  # (E,) numbered as they launch
    ratings: Floats  # (E,) whole stars, 1 … 5
    times: Index  # (E,) seconds since the epoch


def blocks(config: MarketplaceConfig, catalogue: Catalogue) -> Iterator[Block]:
    """Generate the timeline, block by block."""
    rng = np.random.default_rng([config.seed, 1])
    everyone = Users(rng, config)
    taken = _Taken(config.interactions)
    size = min(BLOCK, -(-config.interactions // BLOCKS))
    done = 0
    while done < config.interactions:
        wanted = min(size, config.interactions - done)
        position, until = done / config.interactions, (done + wanted) / config.interactions
        visitors, lengths = everyone.visits(position, until=until, wanted=wanted, longest=LONGEST)

        shelf = _shelves(rng, _demand(config, catalogue, position), len(visitors))
        latent = catalogue.latent(config.turn(position))
        affinity = np.einsum("vd,vsd->vs", everyone.tastes[visitors], latent.take(shelf, axis=0))
        barred = taken.among(visitors[:, None], shelf)
        visit, slot = _choose(rng, config.taste * affinity, lengths, barred=barred)
        if not len(visit):
            raise UsageError(
                f"items: expected enough for the users, found {config.n_items:,}, and every user "
                "has taken all that are shown. Ask for more items or users, or less popularity."
            )
        users, items, fit = visitors[visit], shelf[visit, slot], affinity[visit, slot]
        taken.add(users, items)

        ratings = _rate(rng, catalogue, items, kindness=everyone.kindness[users], fit=fit)
        end = done + len(users)
        times = _times(rng, visit, _clock(config, done), _clock(config, end))
        order = np.argsort(times, kind="stable")
        yield Block(users[order], items[order], ratings[order], times[order])
        done = end


def _demand(config: MarketplaceConfig, catalogue: Catalogue, position: float) -> Floats:
    """The probability that each item is shown, up to a factor: (items,) float32."""
    season = config.season(position)
    now, later = catalogue.fashion
    fashion = math.cos(season) * now + math.sin(season) * later
    novelty = STAPLE + (1 - STAPLE) * np.exp((catalogue.launch - position) / NOVELTY)
    demand: Floats = np.exp(config.popularity * catalogue.appeal + FASHION * fashion) * novelty
    demand[catalogue.launch > position] = 0
    return demand


def _shelves(rng: np.random.Generator, demand: Floats, visits: int) -> Index:
    """Draw the (V, S) items shown, each row ascending: one from each S-th of the demand.

    Searching the cumulated demand for every slot would take most of the time, so a grid over it is
    searched once. The grid's random offset keeps the chances of rare items right over the blocks.
    """
    fineness = max(64, visits // 16)  # grid points of each S-th
    ends = np.cumsum(demand, dtype=np.float64)
    points = (np.arange(SHELF * fineness) + rng.random()) / (SHELF * fineness)
    # Points that rounding puts beyond the end go to the last item on sale.
    on_sale = int(np.flatnonzero(demand)[-1])
    grid: Index = np.minimum(np.searchsorted(ends, points * ends[-1], side="right"), on_sale)
    drawn = rng.integers(fineness, size=(visits, SHELF), dtype=np.int32)
    drawn += np.arange(0, SHELF * fineness, fineness, dtype=np.int32)
    shelves: Index = grid[drawn]
    return shelves


def _choose(
    rng: np.random.Generator, appeal: Floats, lengths: Index, *, barred: npt.NDArray[np.bool_]
) -> tuple[Index, Index]:
    """Take lengths[v] slots of each row of `appeal` (V, S): (visit, slot) of E choices.

    Exponential waits at rate exp(appeal), shortest first, are Plackett-Luce choices. A visit ends
    sooner where too few slots are free.
    """
    waits = np.log(rng.standard_exponential(appeal.shape, np.float32) + TINY) - appeal
    waits[barred] = np.inf
    order = np.argsort(waits, axis=1)
    lengths = np.minimum(lengths, SHELF - barred.sum(axis=1))
    visit, rank = np.nonzero(np.arange(SHELF) < lengths[:, None])
    return visit, order[visit, rank]


def _rate(
    rng: np.random.Generator, catalogue: Catalogue, items: Index, *, kindness: Floats, fit: Floats
) -> Floats:
    """The stars of E interactions: quality, kindness, and a deviation scaled by the item's spread.

    `fit`: (E,) how well the item suits the user, which explains a part of the deviation.
    """
    fit = (fit - fit.mean()) / (fit.std() + np.float32(1e-6))
    chance: Floats = rng.standard_normal(len(items), np.float32)
    deviation = PERSONAL * fit + math.sqrt(1 - PERSONAL**2) * chance
    spread = np.exp(SPREAD[0] + SPREAD[1] * catalogue.spread[items])
    opinion = STARS + QUALITY * catalogue.quality[items] + kindness + spread * deviation
    stars: Floats = np.clip(np.rint(opinion), 1, 5).astype(np.float32)
    return stars


def _clock(config: MarketplaceConfig, done: int) -> int:
    """The time after `done` interactions, whose rate grows exponentially."""
    position, growth = done / config.interactions, config.acceleration
    if growth != 1:
        position = math.log1p(position * (growth - 1)) / math.log(growth)
    return OPENING + round(config.days * DAY * position)


def _times(rng: np.random.Generator, visit: Index, start: int, end: int) -> Index:
    """The seconds of E interactions: each visit lies within [start, end)."""
    span = max(end - start - 1, 0)
    _, lengths = np.unique(visit, return_counts=True)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    elapsed = np.cumsum(rng.standard_exponential(ends[-1]) * PAUSE)
    elapsed -= np.repeat(elapsed[begins], lengths)
    duration = elapsed[ends - 1]
    squeeze = np.minimum(1, span / np.maximum(duration, 1))
    arrival = rng.random(len(lengths)) * (span - duration * squeeze)
    seconds = np.repeat(arrival, lengths) + elapsed * np.repeat(squeeze, lengths)
    times: Index = start + seconds.astype(np.int64)
    return times


class _Taken:
    """The (user, item) pairs so far: a bit table with false positives and no false negatives.

    It has eight bits per interaction. At the end an eighth of the shown items is barred by mistake.
    """

    def __init__(self, interactions: int) -> None:
        self._bits = max(10, math.ceil(math.log2(8 * interactions)))
        self._table = np.zeros(1 << (self._bits - 3), np.uint8)

    def among(self, users: Index, items: Index) -> npt.NDArray[np.bool_]:
        """Whether each pair is taken, or repeated in its row of `items`, ascending."""
        place, bit = self._place(users, items)
        barred = (self._table[place] & bit) > 0
        barred[:, 1:] |= items[:, 1:] == items[:, :-1]
        return barred

    def add(self, users: Index, items: Index) -> None:
        """Add pairs."""
        np.bitwise_or.at(self._table, *self._place(users, items))

    def _place(
        self, users: Index, items: Index
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        """Byte and bit of each pair: the upper bits of a multiplicative hash."""
        pair = users.astype(np.uint64) << np.uint64(32) | items.astype(np.uint64)
        pair *= np.uint64(0x9E3779B97F4A7C15)
        pair ^= pair >> np.uint64(32)
        pair *= np.uint64(0xD6E8FEB86659FD93)
        place = pair >> np.uint64(64 - self._bits)
        return place >> np.uint64(3), np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)
