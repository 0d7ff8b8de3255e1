"""The states of one space in one process, from one switch to the next."""

from dataclasses import dataclass, replace

from backstay.serving.served import ServedSpace


@dataclass(frozen=True)
class Slot:
    """The states of one space in this process."""

    name: str
    current: ServedSpace | None = None
    after: ServedSpace | None = None  # replaces `current` at `switch`
    switch: float = 0.0  # seconds since 1970
    before: ServedSpace | None = None
    coming: ServedSpace | None = None

    def at(self, now: float) -> "Slot":
        """The slot after a switch that is due."""
        if self.after is None or now < self.switch:
            return self
        return replace(self, current=self.after, before=self.current, after=None)

    def spaces(self) -> list[ServedSpace]:
        """All states, the one that answers first."""
        return [s for s in (self.current, self.after, self.before, self.coming) if s]
