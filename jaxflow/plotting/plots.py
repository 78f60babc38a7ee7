"""One figure for all results: a quantity against an axis, reduced over seeds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from ..dynamics import Trajectory
from ..sweeps.sinks import PENDING
from ..sweeps.store import Result
from .axes import axis_label, quantity_label, value_label
from .palette import MARKERS, STYLES, color_of, shade
from .panels import CLOCKS, LOST, Panel, arrange

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More lines have no bands, which would hide them, and shades of one color.
_FEW = 7


def plot(
    results: Result | Trajectory,
    quantity: str,
    *,
    against: str | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a quantity of many runs, or of one, against time or another axis.

    Lines are medians over the seeds, with their quartiles as bars, or as a band in time
    and where there are many points (but for more than seven lines); of truth values they
    are shares. One more axis is told apart by colors and markers, and a second one by
    line styles. In time, a run that stopped early keeps its last value; against other
    axes, quantities are those of the last record.

    Runs that diverged, failed or spent their steps are left out, and counted in the
    legend; against other axes than time, a cross at the upper end is where there are
    some. In time, a line that is a single run is drawn up to there, and ends in a cross.

    Scales are logarithmic where all numbers are positive and span more than two decades;
    that of time also, without its zero, where records get ever rarer.

    Args:
        results: A dataset, as `sweep` and `load` return it, but no tree of them; or a
            trajectory, batched or not.
        quantity: The variable, or observable. A tree, such as `weights`, has the names
            of its leaves (`network.weights.0`).
        against: The horizontal axis: `"time"`, `"step"` where the results have it, or an
            axis of the quantity. By default time if there are more than two records, and
            otherwise the axis with most values.
        ax: Where to draw. By default a new figure of `matplotlib.pyplot`.

    Returns:
        Where it is drawn.

    Raises:
        ValueError: If results are a tree, there is no such quantity, it is not numeric,
            it has no such axis, or there are more than two axes beside the seeds and the
            horizontal one.
    """
    panel = arrange(results, quantity, against)
    if panel.surplus:
        raise ValueError(_too_many(panel))
    if ax is None:
        ax = _new()
    lines = _lines(panel)
    _scale(panel, lines, ax)
    _draw(panel, lines, ax)
    _explain(panel, lines, ax)
    return ax


def _new() -> "Axes":
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ValueError("`plot` needs `pip install 'jaxflow[plot]'`.") from None
    return plt.subplots(layout="constrained")[1]


def _too_many(panel: Panel) -> str:
    sizes = panel.values.sizes
    told = ", ".join(f"{name} ({sizes[name]} values)" for name in panel.others)
    some = ", ".join(f"{name}=..." for name in panel.surplus)
    return (
        "`plot` tells one axis apart by colors, and one of at most "
        f"{len(STYLES)} values by line styles, but beside {panel.against!r} "
        f"{panel.values.name!r} has {told}. Select some, such as by `results.sel({some})`."
    )


class _Line(NamedTuple):
    """What is drawn for one value of each other axis, of which the number is given."""

    color: int
    style: int
    x: np.ndarray
    middle: np.ndarray
    spread: np.ndarray | None  # The ends around the middle, if of several runs.
    lost: np.ndarray  # Where runs are lost.

    @property
    def shown(self) -> bool:
        """Whether there is anything to see."""
        return bool(np.isfinite(self.middle).any() or self.lost.any())


def _lines(panel: Panel) -> list[_Line]:
    """What to draw, without what would hide the rest."""
    lines = list(_all_lines(panel))
    if panel.banded and len(lines) > _FEW:
        return [line._replace(spread=None) for line in lines]
    if panel.single:
        kept = [line.middle for line in lines if not line.lost.any()]
        top = np.nanmax(np.concatenate([*kept, [-np.inf]]))
        limit = 10 * top if top > 0 else np.inf
        gone = lambda line: line.lost & (line.middle > limit)
        left = lambda line: np.where(gone(line), np.nan, line.middle)
        return [line._replace(middle=left(line)) for line in lines]
    return lines


def _all_lines(panel: Panel) -> Iterator[_Line]:
    values = panel.array(panel.values).astype(float)
    shares = panel.values.dtype.kind == "b"
    status = np.zeros(values.shape, int)
    if panel.status is not None:
        status = panel.array(panel.status)
    lost = np.isin(status, LOST)
    values = np.where(np.isfinite(values) & (status != PENDING), values, np.nan)
    values = values if panel.single else np.where(lost, np.nan, values)
    places = panel.array(panel.places) if panel.in_time else _places(panel)
    for k, j in np.ndindex(values.shape[:2]):
        x, some, bad = places, values[k, j], np.any(lost[k, j], axis=0)
        if panel.in_time:
            seen = np.isfinite(some).any(axis=1, keepdims=True)
            x, some = _held(some, np.where(seen, places[k, j], np.inf))
        if panel.whole:  # A line of several runs goes on without some.
            bad = np.full(x.shape, panel.single and bool(np.any(bad)))
        yield _Line(k, j, x, *_reduced(some, shares), bad)


def _places(panel: Panel) -> np.ndarray:
    """Numbers along the axis; of text and truth values their order."""
    places = panel.places.to_numpy()
    return places if places.dtype.kind in "iuf" else np.arange(len(places))


def _held(values: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The times of records, and the values then, over seeds.

    A run that stopped early has its last record before, and stays there.
    """
    known = np.isfinite(times) & (times >= 0)
    planned = times[:, :-1][known[:, :-1]]
    grid = np.unique(np.append(planned, times[known].max(initial=0.0)))
    held = np.full((len(values), len(grid)), np.nan)
    for row, value, time, there in zip(held, values, times, known, strict=True):
        if there.any():
            place = np.searchsorted(time[there], grid, side="right") - 1
            row[:] = np.where(place < 0, np.nan, value[there][place])
    return grid, held


def _reduced(values: np.ndarray, shares: bool):
    """The middle over seeds, and the ends of a spread around it."""
    if len(values) == 1:
        return values[0], None
    there = np.any(np.isfinite(values), axis=0)
    middle, spread = np.full(len(there), np.nan), np.full((2, len(there)), np.nan)
    if shares:
        middle[there] = np.nanmean(values[:, there], 0)
        return middle, None
    middle[there] = np.nanmedian(values[:, there], 0)
    spread[:, there] = np.nanpercentile(values[:, there], [25, 75], 0)
    return middle, spread


def _scale(panel: Panel, lines: list[_Line], ax: "Axes"):
    """Names, logarithms and ticks of both axes."""
    y = [line.middle if line.spread is None else line.spread.ravel() for line in lines]
    y = np.concatenate(y)
    y = y[np.isfinite(y)]
    x = np.concatenate([line.x for line in lines])
    text = panel.places.dtype.kind not in "iuf"
    # Values come ever rarer if the middle one is not near the middle.
    rarer = np.median(x) < x.max() / 5 if panel.against in CLOCKS else (x > 0).all()
    if not text and rarer and _decades(x[x > 0]) > 2:
        ax.set_xscale("log", nonpositive="mask")
    elif text:
        labels = [str(label) for label in panel.places.to_numpy()]
        tilt = {"rotation": 30, "ha": "right"} if sum(map(len, labels)) > 60 else {}
        ax.set_xticks(range(len(labels)), labels, **tilt)
    elif panel.places.dtype.kind in "iu":
        ax.locator_params(axis="x", integer=True)
    if (y > 0).all() and _decades(y) > 2:
        ax.set_yscale("log", nonpositive="mask")
    name = quantity_label(panel.values) + (" at the end" if panel.ends else "")
    share = " (share)" if panel.values.dtype.kind == "b" else ""
    x_name = axis_label(panel.against, panel.places.attrs)
    ax.set(xlabel=x_name, ylabel=f"{name}{share}")


def _decades(values: np.ndarray) -> float:
    return np.log10(values.max() / values.min()) if values.size else 0.0


def _draw(panel: Panel, lines: list[_Line], ax: "Axes"):
    unnamed, labels = {line.color for line in lines}, _labels(panel, 0)
    count = len(unnamed)
    many = count > _FEW and _numeric(panel, 0)
    # Seeds and names have no order, but line styles need lines.
    unordered = panel.against == "seed" or panel.places.dtype.kind not in "iuf"
    unordered &= len(panel.others) < 2
    # A single line is another one than those that are there already.
    first = len(ax.get_legend_handles_labels()[0]) if count == 1 else 0
    for line in lines:
        k = first + line.color
        color = shade(k, count) if many else color_of(k)
        marker = MARKERS[(k + k // len(MARKERS)) % len(MARKERS)]
        style: dict[str, Any] = {"color": color, "marker": marker, "ms": 4, "lw": 1.2}
        style |= {"ls": "" if unordered else STYLES[line.style]}
        if line.shown and line.color in unnamed:
            style["label"] = labels[line.color]
            unnamed.remove(line.color)
        if panel.banded:  # Eight markers, not those of others.
            every = -(-len(line.x) // 8)
            style["markevery"] = (k * every // max(count, 2) % every, every)
        seen = np.isfinite(line.middle)
        _draw_one(line, seen, style, ax)
        cross = {"color": color, "ls": "", "marker": "x", "clip_on": False}
        if panel.single and line.lost.any():
            ax.plot(line.x[seen][-1:], line.middle[seen][-1:], ms=8, **cross)
        elif line.lost.any():
            x = line.x[line.lost]
            cross["transform"] = ax.get_xaxis_transform()
            ax.plot(x, np.full(len(x), 0.97), **cross)


def _draw_one(line: _Line, seen: np.ndarray, style: dict[str, Any], ax: "Axes"):
    x, middle = line.x[seen], line.middle[seen]
    if line.spread is None:
        ax.plot(x, middle, **style)
        return
    low, high = line.spread[:, seen]
    if "markevery" in style:
        ax.plot(x, middle, **style)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
    else:
        spread = np.stack([middle - low, high - middle])
        ax.errorbar(x, middle, spread, capsize=2, elinewidth=0.7, **style)


def _labels(panel: Panel, which: int) -> list[str]:
    """What the values of an axis are called in a legend: a few of many numbers."""
    if which >= len(panel.others):
        return [quantity_label(panel.values)]
    name = panel.others[which]
    labels = [value_label(name, value) for value in panel.values[name].to_numpy()]
    if len(labels) > 10 and _numeric(panel, which):
        shown = set(np.linspace(0, len(labels) - 1, 6).round().astype(int).tolist())
        labels = [label if k in shown else "_" for k, label in enumerate(labels)]
    return labels


def _numeric(panel: Panel, which: int) -> bool:
    return panel.values[panel.others[which]].dtype.kind in "iuf"


def _explain(panel: Panel, lines: list[_Line], ax: "Axes"):
    """A legend: what the lines are, and of how many runs."""
    handles, labels = ax.get_legend_handles_labels()
    if len(panel.others) > 1:
        drawn = {line.style for line in lines if line.shown}
        names = _labels(panel, 1)
        for k in sorted(drawn):
            handles += ax.plot([], [], color="0.3", lw=1.2, ls=STYLES[k])
            labels.append(names[k])
    elif not panel.others and len(labels) == 1:
        handles, labels = [], []
    words = []
    if selected := [
        value_label(str(name), value.item())
        for name, value in panel.values.coords.items()
        if value.ndim == 0 and name not in ("seed", "record", *CLOCKS)
    ]:
        words.append(", ".join(selected))
    if panel.seeds > 1:
        spread = any(line.spread is not None for line in lines)
        kind = "medians and quartiles" if spread else "medians"
        kind = "shares" if panel.values.dtype.kind == "b" else kind
        words.append(f"{kind} of {panel.seeds} seeds")
    crossed = any(line.lost.any() for line in lines)
    if panel.status is not None and (left := _left_out(panel.status, crossed)):
        words.append(left)
    if words or labels:
        title = {"title": "\n".join(words), "title_fontsize": 7}
        ax.legend(handles, labels, fontsize=7, ncols=1 + (len(labels) > 6), **title)


def _left_out(status: xr.DataArray, crossed: bool) -> str:
    """How many runs are no part of what is drawn, and why."""
    cross = " (\N{MULTIPLICATION SIGN})" if crossed else ""
    words = {PENDING: "pending"} | {kind: f"{kind.name.lower()}{cross}" for kind in LOST}
    counts = {kind: int((status == kind).sum()) for kind in words}
    told = [f"{count} {words[kind]}" for kind, count in counts.items() if count]
    return f"of {status.size} runs, {', '.join(told)}" if told else ""
