r"""Does training a deep linear network end in a flat minimum, and how flat?

Marion & Chizat (2024): minimizers have a least sharpness, gradient flow from small or
residual starts ends within a constant of it, and descent cannot end above $2 / \eta$.
"""

import dataclasses
import functools as ft
import itertools as it
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import jax
import jax.random as jr
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import jaxflow as jf

from .._experiment import layered, named, run_concurrently, subplots
from .._statistics import usable
from ..data import load_data
from . import figures as draw

STARTS = {"gaussian": "Gaussian start", "residual": "residual start"}


def run(
    *,
    data: str = "diabetes",
    target: str | None = None,
    depth: int | None = None,
    scales: tuple[float, ...] | None = None,
    residual_scales: tuple[float, ...] | None = None,
    step_sizes: tuple[float, ...] | None = None,
    steps: int | None = None,
    seeds: int | None = None,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Train deep linear networks from two kinds of starts, by flow and by descent.

    Args:
        data: `diabetes` (442 patients, shipped with scikit-learn), `paper` (the data of
            Marion & Chizat), or the path of a CSV file.
        target: For a file, the column to predict from all others.
        depth: Number of layers. By default 5.
        scales: Standard deviations of the entries of Gaussian starts. By default six
            from 0.3 to 1.2 over the square root of the width.
        residual_scales: Scales s of residual starts: identity plus normal entries of
            standard deviation s / sqrt(depth * width), and a fixed random readout of
            norm one. By default six from 0 to 1.
        step_sizes: Step sizes of descent. By default 0.1, 0.25, 0.5, 0.9 and 1.1 times
            the critical one, which is 2 over the least sharpness of a minimizer.
        steps: Steps of descent, for every step size; by default 20000.
        seeds: Starts drawn for each scale, the same ones for each step size. By default 8.
        seed: Which random numbers.
        quick: Smaller defaults, and depth 3: a look in half a minute.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each kind of start, over `step_size`, where 0 is the
        gradient flow, `scale`, `seed` and `record`; the theory is in its attributes.

    Raises:
        ValueError: If an argument is out of range, or the data are not finite numbers.
    """
    depth = (3 if quick else 5) if depth is None else depth
    steps = (4_000 if quick else 20_000) if steps is None else steps
    seeds = (3 if quick else 8) if seeds is None else seeds
    levels = 3 if quick else 6
    loaded = load_data(data, target=target)
    width = loaded.x.shape[1]
    if scales is None:
        scales = _rounded(np.linspace(0.3, 1.2, levels) / width**0.5)
    if residual_scales is None:
        residual_scales = _rounded(np.linspace(0, 1, levels))
    for name, count, least in (
        ("depth", depth, 2),
        ("steps", steps, 10),
        ("seeds", seeds, 1),
    ):
        if count < least:
            raise ValueError(f"`{name}` must be at least {least}, but is {count}.")
    _check_axes(scales=scales, residual_scales=residual_scales, step_sizes=step_sizes)

    key = jr.key(seed)
    readout = jr.normal(jr.fold_in(key, 1), (width,))
    plain = jf.Regression.from_data(loaded.x, loaded.y)
    projected = jf.Regression.from_data(
        loaded.x, loaded.y, readout=readout / np.linalg.norm(readout)
    )
    if step_sizes is None:
        critical = float(jf.papers.marion_chizat_2024.critical_step_size(plain, depth))
        ratios = (0.1, 0.5, 1.1) if quick else (0.1, 0.25, 0.5, 0.9, 1.1)
        step_sizes = _rounded(np.multiply(ratios, critical))
    gaussian = ft.partial(jf.init.gaussian, (*[width] * depth, 1))
    residual = ft.partial(jf.init.residual, width, depth)
    progress(loaded.description)
    plan = _Plan(depth, step_sizes, steps, seeds, key, sweep or named, progress)
    starts = {
        "gaussian": (plain, gaussian, scales),
        "residual": (projected, residual, residual_scales),
    }
    jobs = {}
    for name, given in starts.items():
        jobs |= plan.jobs(name, *given)
    found = dict(zip(jobs, run_concurrently(jobs.values()), strict=True))
    branches = {
        name: plan.join(given[0], [found[f"{name}-flow"], found[name]])
        for name, given in starts.items()
    }
    tree = xr.DataTree.from_dict(branches)
    tree.attrs.update(data=loaded.description, depth=depth, width=width)
    return tree


def headline(tree: xr.DataTree) -> str:
    """What theory predicts, in a few lines."""
    attrs = tree["gaussian"].attrs
    return (
        f"No minimizer has a sharpness below {attrs['flattest_sharpness']:.4g} (the paper "
        f"bounds it by {attrs['sharpness_lower_bound']:.4g}).\nSmall starts end near "
        f"{attrs['balanced_sharpness']:.4g}, the balanced minimizer's, and below "
        f"{attrs['small_start_sharpness_bound']:.4g}.\nDescent settles only below "
        f"2 / step size, so not at all above step size {attrs['critical_step_size']:.4g}.\n"
        "Below, sharpness and distance are medians over the runs that neither diverged nor "
        "collapsed;\n`/flattest` divides by the least sharpness of a minimizer."
    )


def summary(tree: xr.DataTree) -> pd.DataFrame:
    """One row for each start and step size: how runs ended, and how flat.

    Shares are of all runs. Distance and sharpness (median, least and largest) are of those
    that neither diverged nor collapsed; the last column divides the median sharpness by
    the least of any minimizer.
    """
    rows = []
    for name in STARTS:
        ends = tree[name].to_dataset().isel(record=-1)
        for step_size, runs in ends.groupby("step_size"):
            row = {"start": name, "step size": f"{step_size:g}" if step_size else "flow"}
            for status in jf.Status:
                share = float((runs.status == status).mean())
                row[status.name.lower()] = f"{share:.0%}"
            some = usable(runs)
            middle = float(some.sharpness.median())
            row["distance"] = f"{float(some.distance.median()):.1e}"
            row["sharpness"] = f"{middle:.4g}"
            row["least"] = f"{float(some.sharpness.min()):.4g}"
            row["largest"] = f"{float(some.sharpness.max()):.4g}"
            row["2/step"] = f"{2 / step_size:.4g}" if step_size else "-"
            row["/flattest"] = f"{middle / ends.flattest_sharpness:.3f}"
            rows.append(row)
    return pd.DataFrame(rows)


def figures(tree: xr.DataTree) -> dict[str, Figure]:
    """The figures, by name."""
    title = f"{tree.attrs['data']}, depth {tree.attrs['depth']}"
    short = Figure(figsize=(8, 4.6), layout="constrained")
    draw.flatness(tree["gaussian"].to_dataset(), short.subplots())
    short.suptitle(title, fontsize=10)
    drawn = {"flatness": short}
    for name, rows in (
        ("sharpness", (draw.sharpness_against_scale,)),
        ("distance", (draw.distance_against_scale,)),
        ("verdicts", (draw.verdicts,)),
        ("paths", (draw.loss_in_time, draw.sharpness_in_time)),
        ("structure", (draw.misalignment_in_time, draw.rank_one_gap_in_time)),
    ):
        drawn[name], axes = subplots(len(rows))
        panels = it.product(rows, STARTS.items())
        for axis, (panel, (start, words)) in zip(axes, panels, strict=True):
            panel(tree[start].to_dataset(), axis)
            axis.set_title(words)
        drawn[name].suptitle(title, fontsize=10)
    return drawn


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What both kinds of starts share."""

    depth: int
    step_sizes: tuple[float, ...]
    steps: int
    seeds: int
    key: Any
    sweep: Callable[..., xr.Dataset]
    progress: Callable[[str], Any]

    def jobs(
        self, name, problem, initialize, scales
    ) -> dict[str, Callable[[], xr.Dataset]]:
        """Flow and descent over the grid."""
        observe = {
            "excess": jf.observables.excess_loss,
            "distance": jf.observables.distance,
            "sharpness": jf.sharpness,
            "alignment": jf.alignment,
            "rank_one_gap": jf.observables.rank_one_gap,
            "imbalance": jf.imbalance,
        }
        if problem.readout is None:
            observe["rank_one_bound"] = jf.papers.marion_chizat_2024.rank_one_bound

        size = f"{len(scales)} scales x {self.seeds} seeds"
        self.progress(f"{STARTS[name]}, gradient flow: {size}")
        self.progress(
            f"{STARTS[name]}, descent: {len(self.step_sizes)} step sizes x {size}"
        )
        given = name, problem, initialize, scales, observe
        return {
            f"{name}-flow": ft.partial(self._flow, *given),
            name: ft.partial(self._descent, *given),
        }

    def join(self, problem, parts: list[xr.Dataset]) -> xr.Dataset:
        """Both, with the flow at step size 0, and theory."""
        runs = xr.concat(parts, "step_size", data_vars="all", join="exact")
        runs = layered(runs)
        theory = jax.jit(_theory, static_argnums=1)(problem, self.depth)
        return runs.assign_attrs({name: float(value) for name, value in theory.items()})

    @property
    def records(self) -> list[int]:
        """Numbers of steps, in a nearly geometric series."""
        return sorted(set(np.geomspace(1, self.steps, 60).round().astype(int).tolist()))

    def _flow(self, name, problem, initialize, scales, observe) -> xr.Dataset:
        # As long as the shortest descent, with as many records.
        times = min(self.step_sizes) * np.array([0, *self.records], float)

        def flow(key, scale):
            start = initialize(scale=scale, key=key)
            return jf.gradient_flow(
                problem,
                start,
                times,
                observe=observe,
                until=_arrived,  # pyright: ignore
                adjoint=dfx.ForwardMode(),  # Nothing here needs the other, and it compiles.
                throw=False,
            )

        grid = {"seeds": self.seeds, "axes": {"scale": scales}}
        runs = self.sweep(f"{name}-flow", flow, key=self.key, **grid)
        return runs.expand_dims(step_size=[0.0])

    def _descent(self, name, problem, initialize, scales, observe) -> xr.Dataset:
        # Without `self`, which is not for other processes.
        every, steps = self.records, self.steps

        def descent(key, step_size, scale):
            start = initialize(scale=scale, key=key)
            return jf.gradient_descent(
                problem, start, steps, step_size=step_size, every=every, observe=observe
            )

        axes = {"step_size": self.step_sizes, "scale": scales}
        return self.sweep(name, descent, key=self.key, seeds=self.seeds, axes=axes)


def _arrived(problem: jf.Regression, network: jf.DeepLinear):
    """Whether only a ten-billionth is left of what a linear map can explain."""
    zero = jax.tree.map(lambda w: 0 * w, network)
    return problem.excess(network) <= 1e-10 * problem.excess(zero)


def _theory(problem: jf.Regression, depth: int) -> dict[str, jax.Array]:
    theory = jf.papers.marion_chizat_2024
    a, smallest, largest = theory.curvatures(problem)
    quantities = (
        theory.sharpness_lower_bound,
        theory.flattest_sharpness,
        theory.balanced_sharpness,
        theory.sharpness_upper_bound,
        theory.critical_step_size,
    )
    if problem.readout is None:  # The residual start is not a small one.
        quantities += (theory.small_start_sharpness_bound,)
    data = {"a": a, "lambda": smallest, "Lambda": largest, "floor": problem.floor}
    return {q.__name__: q(problem, depth) for q in quantities} | data


def _rounded(values) -> tuple[float, ...]:
    return tuple(float(f"{value:.3g}") for value in values)


def _check_axes(**axes):
    for name, values in axes.items():
        if values is None:
            continue
        allowed = lambda v, name=name: v > 0 or (v == 0 and name == "residual_scales")
        wrong = [v for v in values if not (allowed(v) and v < float("inf"))]
        if wrong or not values or len(set(values)) < len(values):
            raise ValueError(
                f"`{name}` must hold different positive numbers, but holds {list(values)}."
            )
