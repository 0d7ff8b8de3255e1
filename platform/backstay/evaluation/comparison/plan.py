"""The plan of a comparison: profiles, and the options that override them."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, TypedDict, Unpack

from backstay.compat.methods import METHODS, find_method
from backstay.datasets.timeline import SLICES
from backstay.errors import UsageError
from backstay.evaluation.consumers.training import FAST, PAPER, ConsumerConfig
from backstay.training.config import FAST as FAST_FIT
from backstay.training.config import PAPER as PAPER_FIT
from backstay.training.config import FitConfig
from backstay.training.request import VersionPlan

Profile = Literal["fast", "paper"]


class PlanOptions(TypedDict, total=False):
    """The options of `ComparePlan.of`, for functions that pass them on."""

    methods: tuple[str, ...] | None
    dims: tuple[int, ...] | None
    layers: tuple[int, ...] | None
    slices: tuple[float, ...] | None
    epochs: int | None
    tuning_epochs: int | None
    map_epochs: int | None
    evaluate_every: int | None
    weight: float | None
    rate: float | None
    new_dims: int | None
    seed: int | None
    seeds: int | None
    widths: tuple[int, ...] | None
    dropouts: tuple[float, ...] | None
    consumer_epochs: int | None


@dataclass(frozen=True, kw_only=True)
class ComparePlan:
    """Methods × versions × consumers."""

    methods: tuple[str, ...] = tuple(METHODS)
    slices: tuple[float, ...] = SLICES  # T_0, T_1, …: one more than versions
    dims: tuple[int, ...] = (256, 320, 384, 448, 512)  # D_0, D_1, …: one per version
    layers: tuple[int, ...] = (2, 2, 3, 3, 3)  # one per version
    fit: FitConfig = PAPER_FIT
    map_epochs: int | None = None  # of post-hoc maps; None: as many as of models
    tuning_epochs: int | None = None  # of `finetune`; None: as many as from scratch
    consumers: ConsumerConfig = PAPER
    profile: Profile = "paper"

    def __post_init__(self) -> None:
        for method in self.methods:
            find_method(method)
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            raise UsageError(f"expected different methods, found {', '.join(self.methods)}.")
        if len(self.slices) != len(self.dims) + 1 or len(self.layers) != len(self.dims):
            raise UsageError(
                f"{len(self.dims)} versions need as many layers and one more slice; "
                f"found {len(self.layers)} layers and {len(self.slices)} slices."
            )
        if list(self.slices) != sorted(set(self.slices)):
            raise UsageError(f"slices must rise, found {self.slices}.")

    @classmethod
    def of(
        cls,
        profile: Profile = "fast",
        **options: Unpack[PlanOptions],
    ) -> Self:
        """A profile with some of its values replaced; the number of dims is that of versions.

        `paper` is the published protocol exactly, and takes hours. `fast` is the same protocol with
        smaller models, our recipe and fewer consumers, and takes minutes. None keeps the profile's
        value. `rate` multiplies all learning rates; `new_dims` is by how much each version is wider
        than the one before, from the first of `dims` on.
        """
        plan = cls() if profile == "paper" else cls(**_FAST, profile="fast")
        given: dict[str, Any] = {
            name: value for name, value in options.items() if value not in (None, ())
        }
        slices = given.pop("slices", None)
        dims = given.pop("dims", plan.dims[: len(slices) - 1 if slices else None])
        layers = given.pop("layers", (2, 2))
        layers = (layers + (layers[0] if len(layers) == 1 else 3,) * len(dims))[: len(dims)]
        if "new_dims" in given:
            dims = widening(dims, given.pop("new_dims"))
        fit = plan.fit.scaled(given.pop("epochs", None)).at_rate(given.pop("rate", None))
        consumer_epochs = given.pop("consumer_epochs", plan.consumers.epochs)

        def taken(*names: str) -> dict[str, Any]:
            return {name: given.pop(name) for name in names if name in given}

        return replace(
            plan,
            dims=dims,
            layers=layers,
            slices=slices or SLICES[: len(dims) + 1],
            fit=replace(fit, **taken("weight", "seed", "evaluate_every")),
            consumers=replace(
                plan.consumers, epochs=consumer_epochs, **taken("seeds", "widths", "dropouts")
            ),
            **given,
        )

    def until(self, version: int) -> Self:
        """The plan of versions 0 to `version` only."""
        return replace(
            self,
            slices=self.slices[: version + 2],
            dims=self.dims[: version + 1],
            layers=self.layers[: version + 1],
        )

    def version(self, method: str, version: int) -> VersionPlan:
        """How to fit one version by one method."""
        return VersionPlan(
            method=find_method(method),
            dim=self.dims[version],
            layers=self.layers[version],
            fit=self.fit,
            map_epochs=self.map_epochs,
            tuning_epochs=self.tuning_epochs,
        )

    def to_dict(self) -> dict[str, object]:
        """The plan as results.json has it."""
        return asdict(self)


def widening(dims: tuple[int, ...], new: int) -> tuple[int, ...]:
    """As many dimensions, from D_0 on, of which each version has `new` more than the one before."""
    return tuple(dims[0] + new * version for version in range(len(dims)))


_FAST: dict[str, Any] = {
    "dims": (128, 160, 192, 224, 256),
    "fit": FAST_FIT,
    "map_epochs": 20,
    "consumers": FAST,
}
