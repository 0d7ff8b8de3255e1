"""The marketplace's items: their attributes, launch dates and latent vectors.

Items are numbered by launch. Four attribute kinds describe them: category (department and
leaf), brand, price band and style words. New brands and style words appear with new items. Old
values are the most used, so usage is heavy-tailed.

An item's latent vector comes mostly from its attributes, so a model that reads attributes can embed
an item that nobody has bought yet. The rest is the item's own. The meaning of an attribute drifts:
each has a pair of vectors and turns from the first towards the second.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backstay.datasets.marketplace_config import MarketplaceConfig

LATENT = 8
"""Width of the latent space of tastes and items."""

DEPARTMENTS = ("Books", "Electronics", "Fashion", "Garden", "Home", "Kitchen", "Outdoor", "Toys")
LEAVES = 6  # leaf categories of a department
PRICE_BANDS = 5
STYLE_SLOTS = (0.95, 0.7, 0.45, 0.2)  # chance that an item has a first, second … style word
LAST_LAUNCH = 0.99  # nothing launches too late to be bought
OPINION = 0.5  # share of the variance of quality, spread and fashion that attributes explain
KEEPS_TO_DEPARTMENT = 0.8  # chance that an item is in its brand's department

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Catalogue:
    """I items in order of launch, as arrays with one row per item."""

    launch: Floats  # (I,) position on the timeline; those before 0 are there at the start
    category: Index  # (I,) department * LEAVES + leaf
    brand: Index  # (I,)
    price: Index  # (I,) band, 0 the cheapest
    styles: Index  # (I, slots) word, or -1 for none
    meaning: tuple[Floats, Floats]  # two of (I, LATENT): the latent vector, and the one it turns to
    fashion: tuple[Floats, Floats]  # two of (I,): cosine and sine part of the log-popularity
    appeal: Floats  # (I,) log-popularity that lasts
    quality: Floats  # (I,) stars above the average item
    spread: Floats  # (I,) standard deviation of the opinions, in stars: the polarising have more

    def latent(self, angle: float) -> Floats:
        """The (I, LATENT) item vectors once meanings have turned by `angle` (radians)."""
        now, later = self.meaning
        return np.float32(np.cos(angle)) * now + np.float32(np.sin(angle)) * later


def build(config: MarketplaceConfig) -> Catalogue:
    """Draw the catalogue."""
    # A separate random stream, so that the items do not depend on the users.
    rng = np.random.default_rng([config.seed, 0])
    items = config.n_items
    newer = round(items * config.item_growth)
    launch = np.concatenate([-rng.random(items - newer), rng.uniform(0, LAST_LAUNCH, newer)])
    launch.sort()
    brand = _growing(rng, items, values=round(items**0.7))
    brands = int(brand.max()) + 1
    home, tier = rng.integers(len(DEPARTMENTS), size=brands), rng.normal(2, 1, brands)
    stays = rng.random(items) < KEEPS_TO_DEPARTMENT
    department = np.where(stays, home[brand], rng.integers(len(DEPARTMENTS), size=items))
    leaf = (LEAVES * rng.random(items) ** 1.5).astype(np.int64)
    category = department * LEAVES + leaf
    price = np.clip(np.rint(tier[brand] + rng.normal(0, 0.7, items)), 0, PRICE_BANDS - 1)
    price = price.astype(np.int64)
    words = round(items**0.7)
    styles = np.stack([_growing(rng, items, values=words) for _ in STYLE_SLOTS], axis=1)
    styles[rng.random(styles.shape) >= STYLE_SLOTS] = -1
    styles = _without_repeats(styles)

    weighted = ((0.8, department), (0.6, category), (0.8, brand), (0.4, price))

    def explain(width: int, share: float) -> Floats:
        """(I, width) of variance 1: a share from the attributes, the rest the item's own."""
        total = np.zeros((items, width))
        for weight, code in weighted:
            total += weight * rng.normal(size=(int(code.max()) + 1, width))[code]
        table = rng.normal(size=(words + 1, width))
        table[-1] = 0  # no word
        total += 0.4 * table[styles].sum(axis=1)
        total = (total - total.mean(axis=0)) / total.std(axis=0)
        own = rng.normal(size=(items, width))
        mixed: Floats = (math.sqrt(share) * total + math.sqrt(1 - share) * own).astype(np.float32)
        return mixed

    unit = np.float32(1 / np.sqrt(LATENT))
    now, later = (unit * explain(LATENT, config.explained) for _ in range(2))
    scores = explain(4, OPINION)
    return Catalogue(
        launch=launch.astype(np.float32),
        category=category,
        brand=brand,
        price=price,
        styles=styles,
        meaning=(now, later),
        fashion=(scores[:, 0], scores[:, 1]),
        appeal=rng.normal(size=items).astype(np.float32),
        quality=scores[:, 2],
        spread=scores[:, 3],
    )


def _growing(rng: np.random.Generator, items: int, *, values: int) -> Index:
    """Give each item a value, where new values appear along the items: (items,) int64.

    Some items introduce a value each. Every other item takes one of the values so far; older values
    are more likely. Value n is the n-th to appear.
    """
    founds = np.zeros(items, np.bool_)
    founds[0] = True
    founds[rng.choice(np.arange(1, items), values - 1, replace=False)] = True
    born = np.cumsum(founds)
    taken = (born * rng.random(items) ** 2).astype(np.int64)
    return np.where(founds, born - 1, taken)


def _without_repeats(words: Index) -> Index:
    """Each row sorted, with -1 for a word that the row already has."""
    words = np.sort(words, axis=1)
    words[:, 1:][words[:, 1:] == words[:, :-1]] = -1
    return words
