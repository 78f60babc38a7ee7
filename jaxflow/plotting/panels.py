"""What a figure of a quantity is of: its numbers, its axes, and how runs ended."""

import difflib
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from ..dynamics import Status, Trajectory
from ..sweeps.store import Result
from .palette import STYLES

# Verdicts of runs whose ends are not what was asked for, as in `Trajectory.ok`.
LOST = (Status.DIVERGED, Status.FAILED, Status.MAX_STEPS)
# What says when a record was.
CLOCKS = ("time", "step")
# More points than these have a band instead of bars.
BARS = 24


class Panel(NamedTuple):
    """A quantity, and what it is drawn against.

    Attributes:
        values: The quantity, with all runs.
        against: The name of the horizontal axis.
        along: The dimension that it runs along.
        places: Where values are along it: numbers, which may differ between runs, or text.
        status: How each run ended, if that is known.
        others: The dimensions that lines are told apart by, the longest first.
        ends: Whether the quantity is that of the last record.
    """

    values: xr.DataArray
    against: str
    along: str
    places: xr.DataArray
    status: xr.DataArray | None
    others: tuple[str, ...]
    ends: bool

    @property
    def in_time(self) -> bool:
        """Whether places are those of records, which each run has its own of."""
        return self.along == "record" and self.against in CLOCKS

    @property
    def whole(self) -> bool:
        """Whether each run is drawn along the whole axis."""
        return self.status is None or self.along not in self.status.dims

    @property
    def single(self) -> bool:
        """Whether each line is a single run."""
        return self.whole and self.seeds == 1

    @property
    def banded(self) -> bool:
        """Whether spreads are bands, and not bars."""
        return self.in_time or self.values.sizes[self.along] > BARS

    @property
    def surplus(self) -> tuple[str, ...]:
        """The dimensions that cannot be told apart in one panel."""
        few = len(self.others) > 1 and self.values.sizes[self.others[1]] <= len(STYLES)
        return self.others[2 if few else 1 :]

    @property
    def seeds(self) -> int:
        """The number of runs that a line is of."""
        return 1 if self.along == "seed" else self.values.sizes.get("seed", 1)

    def array(self, values: xr.DataArray) -> np.ndarray:
        """Over colors, line styles, seeds and the horizontal axis."""
        sizes, seed = self.values.sizes, [] if self.along == "seed" else ["seed"]
        dims = [*self.others, *(dim for dim in seed if dim in sizes), self.along]
        values = values.broadcast_like(self.values).transpose(*dims)
        lengths = [sizes[dim] for dim in self.others]
        lengths += [1] * (2 - len(lengths))
        return values.to_numpy().reshape(*lengths, self.seeds, sizes[self.along])


def arrange(
    results: Result | Trajectory, quantity: str, against: str | None = None
) -> Panel:
    """What `plot` would draw, with more axes perhaps than it can.

    Raises:
        ValueError: If there is no such quantity or axis.
    """
    runs = _dataset(results)
    values = numbers(runs, quantity)
    clocks = [name for name in CLOCKS if "record" in _dims(runs, name)]
    clocks = clocks if "record" in values.dims else []
    if against is None:
        axis = longest_axis(values)
        moving = clocks and (axis == "record" or values.sizes["record"] > 2)
        against = clocks[0] if moving else axis
    if against is None:
        raise ValueError(
            f"`plot(quantity=...)` must have an axis, but {quantity!r} is one number."
        )
    along = _along(runs, values, clocks, against)
    ends = "record" in values.dims and along != "record"
    values = at_end(runs, values) if ends else values
    status = status_of(runs)
    known = status is not None and set(status.dims) <= set(values.dims)
    # One value of an axis is no axis, but said in the legend.
    alone = [d for d, n in values.sizes.items() if n == 1 and d not in (along, "seed")]
    values = values.isel(dict.fromkeys(alone, 0))
    places = runs[against] if against in runs.variables else _count(values, along)
    more = [dim for dim in places.dims if dim not in values.dims]
    places = places.where(np.isfinite(places)).max(more) if more else places
    others = [str(dim) for dim in values.dims if dim not in (along, "seed")]
    others.sort(key=lambda dim: -values.sizes[dim])
    select = lambda a: a.isel({d: 0 for d in alone if d in a.dims})
    return Panel(
        values=values,
        against=against,
        along=along,
        places=select(places),
        status=select(status) if known else None,
        others=tuple(others),
        ends=ends,
    )


def quantities(runs: xr.Dataset) -> list[str]:
    """The variables that can be drawn: numbers, which verdicts are not."""
    names = [str(name) for name, v in runs.data_vars.items() if v.dtype.kind in "biuf"]
    return [name for name in names if name != "status"]


def status_of(runs: xr.Dataset) -> xr.DataArray | None:
    """How runs ended, if that is known."""
    if "status" not in runs.data_vars or runs.status.dtype.kind not in "iuf":
        return None
    return runs.status


def _dataset(results: Result | Trajectory) -> xr.Dataset:
    if isinstance(results, xr.Dataset):
        return results
    if isinstance(results, xr.DataTree):
        names = ", ".join(results.children)
        raise ValueError(
            f"`plot(results=...)` must be a dataset, but is a tree of {names}. Choose one, "
            "such as by `results[name].to_dataset()`."
        )
    batch = results.time.ndim - 1
    members = ["member"] if batch == 1 else [f"member_{k}" for k in range(batch)]
    found = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(results.observed)
    }
    found |= {"time": results.time, "status": results.status}
    steps = results.record_steps
    found |= {} if steps is None else {"step": steps}
    named = {}
    for name, value in found.items():
        more = [f"{name}_{k}" for k in range(value.ndim - batch - 1)]
        dims = members if name == "status" else [*members, "record", *more]
        named[name] = (dims, np.asarray(value))
    return xr.Dataset(named)


def numbers(runs: xr.Dataset, quantity: str) -> xr.DataArray:
    """A quantity, with `nan` for what is no number.

    Raises:
        ValueError: If it is not there, or not numeric.
    """
    names = quantities(runs)
    if quantity not in names:
        there = quantity in runs.variables
        but = "is not numeric" if there else "is not there"
        close = difflib.get_close_matches(quantity, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`plot(quantity=...)` must be one of {', '.join(names)}, but {quantity!r} "
            f"{but}.{hint}"
        )
    values = runs[quantity]
    fill = values.attrs.get("fill")
    return values if fill is None else values.where(values != fill)


def _dims(runs: xr.Dataset, name: str) -> tuple[Any, ...]:
    return runs[name].dims if name in runs.variables else ()


def longest_axis(values: xr.DataArray) -> str | None:
    """The axis with most values; numbers before names, and seeds only if there is none."""

    def rank(dim):
        several, labeled = values.sizes[dim] > 1, dim in values.indexes
        numeric = labeled and values[dim].dtype.kind in "iuf"
        own = ("seed", "record").index(dim) if dim in ("seed", "record") else 2
        return several, own, dim in CLOCKS, numeric, labeled, values.sizes[dim]

    return max(map(str, values.dims), key=rank, default=None)


def _along(runs, values, clocks, against) -> str:
    """The dimension of an axis."""
    if against in values.dims:
        return against
    if against in clocks:
        return "record"
    lines = {
        str(name): str(variable.dims[0])
        for name, variable in runs.variables.items()
        if variable.ndim == 1 and variable.dims[0] in values.dims
    }
    if against in lines:
        return lines[against]
    names = dict.fromkeys([*clocks, *map(str, values.dims), *lines])
    close = difflib.get_close_matches(against, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"`plot(against=...)` must be an axis of {values.name!r}, one of "
        f"{', '.join(names)}, but is {against!r}.{hint}"
    )


def _count(values: xr.DataArray, dim: str) -> xr.DataArray:
    return xr.DataArray(np.arange(values.sizes[dim]), dims=dim)


def at_end(runs: xr.Dataset, values: xr.DataArray) -> xr.DataArray:
    """A quantity at the last record of each run, if it has records."""
    if "record" not in values.dims:
        return values
    last: Any = -1
    if "record" in _dims(runs, "time"):
        reached = np.isfinite(runs.time)
        behind = reached.isel(record=slice(None, None, -1)).argmax("record")
        if set(behind.dims) <= set(values.dims):
            last = runs.sizes["record"] - 1 - behind
    return values.isel(record=last)
