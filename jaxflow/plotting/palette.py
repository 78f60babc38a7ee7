"""What all figures share: colors, markers and line styles, and plain numbers on axes."""

from typing import Any

# Okabe & Ito's palette, which the color-blind can tell apart.
_COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = "osD^vP*"
STYLES = ("-", "--", ":", "-.")


def color_of(k: int) -> str:
    """One of few, the same for the same number everywhere."""
    return _COLOURS[k % len(_COLOURS)]


def shade(k: int, count: int) -> Any:
    """One of many, dark to light and without the pale end, so that their order shows."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](0.9 * k / max(count - 1, 1))


def plain(ax: Any, x: bool = True):
    """Numbers rather than powers of ten on logarithmic axes of less than two decades."""
    for one in (ax.xaxis, ax.yaxis) if x else (ax.yaxis,):
        one.set_minor_formatter("{x:g}")
        one.set_major_formatter("{x:g}")
