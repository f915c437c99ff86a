"""A strip of cells, the kept ones coloured: which members of a space a child has."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from lilliput.report import marks

_WIDTH, _HEIGHT = 760, 46
# Wider cells are drawn apart and numbered.
_NUMBERED = 14.0


def strip(kept: Sequence[int], total: int, name: str) -> str:
    """An SVG element with `total` cells of which `kept` (rising numbers) are coloured. name: for those who hear it."""
    cell = _WIDTH / total
    gap = 2.0 if cell >= _NUMBERED else 0.0
    parts = [_cell(0, _WIDTH, "var(--grid)")] if not gap else [
        _cell(at * cell, cell - gap, "var(--grid)") for at in range(total)
    ]  # fmt: skip
    if gap:
        parts += [_cell(at * cell, cell - gap, "var(--c0)") for at in kept]
    else:
        parts += [_cell(first * cell, (last - first + 1) * cell, "var(--c0)") for first, last in _runs(kept)]
    every = 1 if gap else max(1, total // 8)
    for at in range(0, total, every):
        parts.append(marks.label(str(at), (at + 0.5) * cell - gap / 2, _HEIGHT - 4, "middle" if at else "start"))
    said = f"{name} {len(kept)} of {total}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lc" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(said)}"><style>{marks.STYLE}</style>{"".join(parts)}</svg>'
    )


def _cell(x: float, width: float, fill: str) -> str:
    return f'<rect x="{x:.2f}" y="2" width="{width:.2f}" height="24" fill="{fill}"/>'


def _runs(kept: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours as (first, last), so that they are one cell."""
    breaks = [at for at, (left, right) in enumerate(pairwise(kept), 1) if right > left + 1]
    return [(kept[a], kept[b - 1]) for a, b in pairwise([0, *breaks, len(kept)])] if kept else []
