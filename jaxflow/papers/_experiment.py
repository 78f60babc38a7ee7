"""What experiments share: parts that are run, tabulated and drawn together."""

import concurrent.futures
import dataclasses
import functools as ft
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from .. import init
from ..networks import DeepLinear
from ..sweeps import sweep


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the parts of an experiment share.

    Args:
        key: Randomness of all sweeps.
        seeds: How many seeds were asked for, if at all.
        quick: Whether a look is enough.
        sweep: How to sweep, from a name, a run and what `jaxflow.sweep` takes; by default
            that.

    Raises:
        ValueError: If `seeds` is not positive.
    """

    key: jax.Array
    seeds: int | None
    quick: bool
    sweep: Callable[..., xr.Dataset] | None

    def __post_init__(self):
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"`seeds` must be at least 1, but is {self.seeds}.")

    def count(self, full: int) -> int:
        """The number of seeds, if the whole experiment has `full`."""
        return 2 if self.quick and self.seeds is None else self.seeds or full

    def __call__(self, name: str, run, *, seeds: int, **grid) -> xr.Dataset:
        return (self.sweep or named)(name, run, key=self.key, seeds=seeds, **grid)


@dataclasses.dataclass(frozen=True)
class Part:
    """One question of an experiment, and all that answers it.

    Args:
        title: What it is about: the title of its figure.
        compute: The labeled results of a plan.
        rows: Their rows of the table.
        panel: Draws them into axes, of which there are two in a row.
        figure_rows: How many rows there are, or a function of the results that says so.
        cost: How long it takes beside other parts: the longest begin first.
    """

    title: str
    compute: Callable[[Any], xr.Dataset]
    rows: Callable[[xr.Dataset], Iterable[dict[str, Any]]]
    panel: Callable[[xr.Dataset, Any], None]
    figure_rows: int | Callable[[xr.Dataset], int] = 1
    cost: int = 0


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Parts that are run at once, in one table, and with a figure each.

    Args:
        title: What stands above all figures.
        parts: The parts by name, in the order in which they are shown.
    """

    title: str
    parts: Mapping[str, Part]

    def choose(self, only: tuple[str, ...] | None) -> tuple[str, ...]:
        """The parts that were asked for: all of them if none was.

        Raises:
            ValueError: If `only` names something else.
        """
        names = tuple(self.parts) if only is None else only
        if wrong := [name for name in names if name not in self.parts]:
            known = ", ".join(self.parts)
            raise ValueError(f"`only` must name some of {known}, but names {wrong}.")
        return tuple(name for name in self.parts if name in names)

    def run(
        self, only: tuple[str, ...] | None, plan: Plan, progress: Callable[[str], Any]
    ) -> xr.DataTree:
        """The results of some parts, or all, as a tree."""

        def compute(name):
            found = self.parts[name].compute(plan)
            progress(f"done: {self.parts[name].title}")
            return found

        names = self.choose(only)
        order = sorted(names, key=lambda name: -self.parts[name].cost)
        done = run_concurrently(ft.partial(compute, name) for name in order)
        found = dict(zip(order, done, strict=True))
        return xr.DataTree.from_dict({name: found[name] for name in names})

    def summary(self, tree: xr.DataTree) -> pd.DataFrame:
        """All rows of all parts, each with the name of its part."""
        rows = [
            {"experiment": name, **row}
            for name, branch in tree.children.items()
            for row in self.parts[name].rows(branch.to_dataset())
        ]
        return pd.DataFrame(rows).fillna("-")

    def figures(self, tree: xr.DataTree) -> dict[str, Figure]:
        """A figure for each part, whose title says of which data it is."""
        drawn = {}
        for name, branch in tree.children.items():
            part, runs = self.parts[name], branch.to_dataset()
            rows = part.figure_rows
            drawn[name], axes = subplots(rows if isinstance(rows, int) else rows(runs))
            part.panel(runs, axes)
            data = f"\n{runs.attrs['data']}" if runs.attrs.get("data") else ""
            drawn[name].suptitle(f"{self.title}: {part.title}{data}", fontsize=10)
        return drawn


def subplots(rows: int) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes: some rows of two."""
    # Not by `pyplot`, which would keep the figures, and show them, by itself.
    figure = Figure(figsize=(11, 1 + 3.8 * rows), layout="constrained")
    return figure, figure.subplots(rows, 2).ravel()


def run_concurrently(calls: Iterable[Callable[[], xr.Dataset]]) -> list[xr.Dataset]:
    """What calls return, made at once: compiling takes most of the time, and one core."""
    calls = list(calls)
    pool = concurrent.futures.ThreadPoolExecutor(max(len(calls), 1))
    try:
        return [one.result() for one in [pool.submit(call) for call in calls]]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def named(name: str, *arguments, **options) -> xr.Dataset:
    """`jaxflow.sweep` with a name first, as experiments call it; here it is of no use."""
    del name
    return sweep(*arguments, **options)


def labeled(runs: xr.Dataset, axes: Mapping[str, Mapping[str, str]]) -> xr.Dataset:
    """Some quantities, with the names of their axes: by quantity, those they replace."""
    return xr.Dataset({name: runs[name].rename(names) for name, names in axes.items()})


# Observables with a number for each layer, or for each pair of neighboring layers.
_LAYERED = {
    "layer": ("coupling", "rank_one_gap", "top"),
    "pair": ("alignment", "chance", "imbalance"),
}


def layered(runs: xr.Dataset) -> xr.Dataset:
    """The same, with layers and pairs of layers by name and counted from 1."""
    for axis, names in _LAYERED.items():
        there = [name for name in names if f"{name}_0" in runs.dims]
        named = {name: runs[name].rename({f"{name}_0": axis}) for name in there}
        if named:
            runs = runs.drop_vars(there).assign(named)
            runs = runs.assign_coords({axis: np.arange(1, 1 + runs.sizes[axis])})
    return runs


def fan_in(widths: tuple[int, ...], key: jax.Array, *, scale: float = 1.0) -> DeepLinear:
    """Normal weights, of a deviation of `scale` over the root of the inputs of a layer."""
    drawn = init.gaussian(widths, scale=scale, key=key)
    return jax.tree.map(lambda w: w / w.shape[1] ** 0.5, drawn)
