"""What experiments of several parts share: their choice, their run, table and figures."""

import concurrent.futures
import dataclasses
import functools as ft
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the parts of an experiment share.

    Args:
        key: Randomness of all sweeps.
        seeds: How many seeds were asked for, if at all.
        quick: Whether a look is enough.
        sweep: How to sweep, from a name, a run and what `jaxflow.sweep` takes.

    Raises:
        ValueError: If `seeds` is not positive.
    """

    key: Any
    seeds: int | None
    quick: bool
    sweep: Callable[..., "xr.Dataset"]

    def __post_init__(self):
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"`seeds` must be at least 1, but is {self.seeds}.")

    def count(self, full: int) -> int:
        """The number of seeds, if the whole experiment has `full`."""
        return 2 if self.quick and self.seeds is None else self.seeds or full

    def __call__(self, name: str, run, *, seeds: int, **grid) -> "xr.Dataset":
        return self.sweep(name, run, key=self.key, seeds=seeds, **grid)


def choose(only: tuple[str, ...] | None, parts: Mapping[str, str]) -> tuple[str, ...]:
    """The parts that were asked for: all of them if none was.

    Raises:
        ValueError: If `only` names something else.
    """
    names = tuple(parts) if only is None else only
    if wrong := [name for name in names if name not in parts]:
        raise ValueError(f"`only` must name some of {', '.join(parts)}, but names {wrong}.")
    return names


def together(
    names: tuple[str, ...],
    jobs: Mapping[str, Callable[[Any], "xr.Dataset"]],
    plan: Any,
    parts: Mapping[str, str],
    progress: Callable[[str], Any],
) -> "xr.DataTree":
    """What jobs return of a plan, in the order of the parts; the longest jobs first."""
    import xarray as xr

    def part(name):
        found = jobs[name](plan)
        progress(f"done: {parts[name]}")
        return found

    found = run_concurrently(
        {name: ft.partial(part, name) for name in jobs if name in names}
    )
    return xr.DataTree.from_dict({name: found[name] for name in parts if name in names})


def run_concurrently(
    jobs: Mapping[str, Callable[[], "xr.Dataset"]],
) -> "dict[str, xr.Dataset]":
    """What jobs return, done at once: compiling takes most of the time, and one core."""
    pool = concurrent.futures.ThreadPoolExecutor(len(jobs))
    try:
        found = {name: pool.submit(job) for name, job in jobs.items()}
        return {name: one.result() for name, one in found.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def labeled(runs: "xr.Dataset", axes: Mapping[str, Mapping[str, str]]) -> "xr.Dataset":
    """Some quantities, with the names of their axes: by quantity, those they replace."""
    import xarray as xr

    return xr.Dataset({name: runs[name].rename(names) for name, names in axes.items()})


# Observables with a number for each layer, or for each pair of neighboring layers.
_LAYERED = {
    "layer": ("coupling", "rank_one_gap", "top"),
    "pair": ("alignment", "chance", "imbalance"),
}


def layered(runs: "xr.Dataset") -> "xr.Dataset":
    """The same, with layers and pairs of layers by name and counted from 1."""
    import numpy as np

    for axis, names in _LAYERED.items():
        there = [name for name in names if f"{name}_0" in runs.dims]
        named = {name: runs[name].rename({f"{name}_0": axis}) for name in there}
        if named:
            runs = runs.drop_vars(there).assign(named)
            runs = runs.assign_coords({axis: np.arange(1, 1 + runs.sizes[axis])})
    return runs


def table(
    tree: "xr.DataTree",
    rows: Mapping[str, Callable[["xr.Dataset"], Iterable[dict[str, Any]]]],
) -> "pd.DataFrame":
    """All rows of all parts, each with the name of its part."""
    import pandas as pd

    found = [
        {"experiment": name, **row}
        for name in tree.children
        for row in rows[name](tree[name].to_dataset())
    ]
    return pd.DataFrame(found).fillna("-")


def brief(rows: "pd.DataFrame") -> "pd.DataFrame":
    """A table as it is shown: shares that are all zero make it wider, and no wiser."""
    empty = [name for name in rows if set(rows[name]) == {"0%"}]
    return rows.drop(columns=empty)


def pairs(
    tree: "xr.DataTree",
    panels: Mapping[str, Callable[["xr.Dataset", Any], None]],
    titles: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
) -> "dict[str, Figure]":
    """A figure of rows of two panels for each part: of one row, or as many as it has."""
    # Not `pyplot`, which would keep the figures, and show them, by itself.
    from matplotlib.figure import Figure

    drawn = {}
    for name in tree.children:
        count = (rows or {}).get(name, 1)
        figure = Figure(figsize=(11, 4.8 * count), layout="constrained")
        panels[name](tree[name].to_dataset(), figure.subplots(count, 2).ravel())
        figure.suptitle(titles[name], fontsize=10)
        drawn[name] = figure
    return drawn


def titles(paper: str, parts: Mapping[str, str], **data: str) -> dict[str, str]:
    """Those of the figures of a paper; under some, on which data they are."""
    below = {name: f"\n{words}" for name, words in data.items()}
    return {name: f"{paper}: {words}{below.get(name, '')}" for name, words in parts.items()}
