"""The comparison of maps between tables for a terminal."""

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from backstay.evaluation.table_maps.results import MapComparison
from backstay.evaluation.table_maps.sentences import (
    advice_sentence,
    left_out,
    overlap_interval,
    verdict,
)
from backstay.evaluation.table_maps.write import used_maps


def terminal_picture(comparison: MapComparison) -> Group:
    """The verdict, the maps and the advice; the map to use is bold."""
    return Group(
        Text(verdict(comparison.conclusion), style="bold"),
        Padding(_table(comparison), (1, 0), expand=False),
        *(Text(advice_sentence(part)) for part in comparison.advice),
        *(Text(sentence, style="dim") for sentence in left_out(comparison)),
    )


def _table(comparison: MapComparison) -> Table:
    table = Table(
        caption="a–b: 95 % interval over held-out ids; bold: the map to use",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in ("pair", "map", "route"):
        table.add_column(f"\n{heading}", no_wrap=True)
    for heading in ("overlap\n@10, %", "reten-\ntion %", "\ncosine", "\nerror", "\nnorm"):
        table.add_column(heading, justify="right", no_wrap=True)
    used = used_maps(comparison)
    shown = None
    for score in comparison.maps:
        pair = score.label
        if shown not in {None, pair}:
            table.add_section()
        table.add_row(
            pair if pair != shown else "",
            score.method,
            score.route,
            f"{100 * score.overlap_at_10:.1f} ({overlap_interval(score)})",
            f"{100 * score.recall_retention:.1f}",
            f"{score.cosine:.2f}",
            "–" if score.relative_error is None else f"{score.relative_error:.2f}",
            f"×{score.spectral_norm:.2f}",
            style="bold" if score in used else None,
        )
        shown = pair
    return table
