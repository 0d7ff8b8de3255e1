"""What answers for one version of an entity: a table, and the way to that version."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backstay.compat.maps import BackwardMap
from backstay.errors import CorruptError
from backstay.serving.copies import Key, OpenTable
from backstay.serving.found import Found
from backstay.serving.ids import IdArray
from backstay.serving.product import product
from backstay.serving.views import Demand, View


class Answering(NamedTuple):
    """What answers for version `target` of an entity."""

    target: int
    source: int
    key: Key  # of the table
    opened: OpenTable
    view: View | None  # the table in the version's space
    chain: BackwardMap | None  # from `source` to `target`; None if nothing is to be converted
    demand: Demand
    fingerprint: str  # of the version's vectors
    source_fingerprint: str  # of the table
    lasting: bool  # in force or pinned

    def intact(self) -> bool:
        """Whether the files were not written to since they were opened."""
        view = self.view
        return self.opened.intact() and (view is None or view.intact())

    def answer(
        self,
        asked: IdArray,
        found: npt.NDArray[np.bool_],
        values: npt.NDArray[np.float32],
        *,
        unanswered: npt.NDArray[np.bool_] | None = None,
    ) -> Found:
        """The answer, from the rows of the table or of the view; CorruptError for an overflow."""
        if self.chain:
            try:
                values = product(self.chain, values)
            except OverflowError as error:
                raise CorruptError(
                    f"expected finite vectors from {self.chain}, found an overflow of float32 for "
                    f"a vector of {self.key.entity!r}. Publish a version without such values."
                ) from error
        return Found(
            space=self.key.space,
            entity=self.key.entity,
            version=self.target,
            source_version=self.source,
            fingerprint=self.fingerprint,
            source_fingerprint=self.source_fingerprint,
            asked=asked,
            found=found,
            values=values,
            unanswered=unanswered,
        )
