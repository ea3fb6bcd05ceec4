"""The share of what coarse clicks cost that refinement wins back; comparable across data sets."""

from __future__ import annotations

# Below this difference (fraction of mAP) clicks cost too little to say what was won back.
MIN_GAP = 0.02


def gap_closed(
    coarse: float, refined: float, centre: float, *, standard_error: float = 0.0
) -> float | None:
    """(refined - coarse) / (centre - coarse) of mAP as fractions; the paper's COCO: 0.89.

    None, "not applicable", where centre - coarse is below MIN_GAP or below two standard errors of
    that difference.
    """
    gap = centre - coarse
    if gap < MIN_GAP or gap < 2 * standard_error:
        return None
    return (refined - coarse) / gap
