"""Figures: a labelled dataset in, drawn axes out. No computing, no global style."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ..dynamics import Status
from .sweeps import usable

# Okabe & Ito's palette, which the colour-blind can tell apart.
_COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = "osD^vP*"
_VERDICTS = {
    Status.CONVERGED: "#009E73",
    Status.OSCILLATING: "#E69F00",
    Status.MOVING: "#56B4E9",
    Status.PLATEAU: "#CC79A7",
    Status.COLLAPSED: "#999999",
    Status.DIVERGED: "#D55E00",
    Status.EXHAUSTED: "#F0E442",
    Status.FAILED: "#000000",
}


def sharpness_against_scale(runs: xr.Dataset, ax: Axes) -> Axes:
    """Sharpness at the end against the scale of the start, with theory and 2/step size."""
    start = runs.sharpness.isel(record=0, step_size=0).median("seed")
    ax.plot(runs.scale, start, color="0.6", lw=1, marker=".", label="start")
    ends = runs.isel(record=-1)
    for k, step_size, some in _by_step_size(ends):
        _median_and_range(ax, ends.scale, some.sharpness, k, _name(step_size))
        if step_size:
            ax.axhline(2 / step_size, color=_colour(k), ls=":", lw=1)
    _theory_lines(ends, ax)
    ax.plot([], [], color="0.3", ls=":", lw=1, label="2 / step size, in its colour")
    ax.set(yscale="log", xlabel="scale of the start", ylabel="sharpness at the end")
    low = ends.attrs["sharpness_lower_bound"]
    high = np.nanmax(usable(ends).sharpness, initial=4 * low)
    ax.set_ylim(low / 3, 3 * high)
    ax.legend(fontsize=7, ncols=2)
    return ax


def distance_against_scale(runs: xr.Dataset, ax: Axes) -> Axes:
    """Distance of the end-to-end map to the least-squares solution, against the scale."""
    ends = runs.isel(record=-1)
    for k, step_size, some in _by_step_size(ends):
        _median_and_range(ax, ends.scale, some.distance, k, _name(step_size))
    ax.set(
        yscale="log", xlabel="scale of the start", ylabel=r"$\|w - w_\star\|$ at the end"
    )
    ax.legend(fontsize=7, ncols=2)
    return ax


def verdicts(runs: xr.Dataset, ax: Axes) -> Axes:
    """How the runs of each step size and scale ended, as shares of the seeds."""
    step_sizes, scales = runs.step_size.to_numpy(), runs.scale.to_numpy()
    for row in range(len(step_sizes)):
        for column in range(len(scales)):
            left = column - 0.4
            cell = runs.status.isel(step_size=row, scale=column).to_numpy()
            for status, colour in _VERDICTS.items():
                share = 0.8 * float((cell == status).mean())
                ax.barh(row, share, left=left, height=0.8, color=colour)
                left += share
    for status, colour in _VERDICTS.items():
        if (runs.status == status).any():
            ax.barh(0, 0, color=colour, label=status.name.lower())
    ax.set_yticks(range(len(step_sizes)), [_name(s) for s in step_sizes])
    ax.set_xticks(range(len(scales)), [f"{s:g}" for s in scales])
    limits = {"xlim": (-0.6, len(scales) - 0.4), "ylim": (-0.6, len(step_sizes) + 0.4)}
    ax.set(xlabel="scale of the start", **limits)
    ax.legend(fontsize=7, ncols=5, loc="upper center")
    return ax


def loss_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """The loss above its floor in training time, flow beside descent."""
    _in_time(_middle(runs), "excess", ax)
    ax.set(yscale="log", ylabel="loss above the floor")
    ax.set_ylim(bottom=max(ax.get_ylim()[0], 1e-12))
    ax.legend(fontsize=7)
    return ax


def sharpness_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """The sharpness in training time, flow beside descent, with theory and 2/step size."""
    _in_time(_middle(runs), "sharpness", ax)
    for k, step_size, _ in _by_step_size(runs):
        if step_size:
            ax.axhline(2 / step_size, color=_colour(k), ls=":", lw=1)
    _theory_lines(runs, ax, bounds=False)
    ax.set(yscale="log", ylabel="sharpness")
    ax.legend(fontsize=7, ncols=2)
    return ax


def misalignment_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """How far the worst pair of neighbouring layers is from aligned, in training time."""
    runs = _smallest(runs)
    worst = 1 - runs.alignment.min("alignment_0", skipna=False)
    _in_time(runs.assign(worst=worst), "worst", ax)
    label = r"$1 - \min_k |\langle u_k, v_{k+1} \rangle|$"
    ax.set(yscale="log", ylabel=label)
    ax.legend(fontsize=7)
    return ax


def rank_one_gap_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """How far the worst layer is from rank one, in training time, with the flow's bound."""
    runs = _smallest(runs)
    worst = runs.rank_one_gap.max("rank_one_gap_0", skipna=False)
    _in_time(runs.assign(worst=worst), "worst", ax)
    if "rank_one_bound" in runs:
        bound = runs.rank_one_bound.isel(record=0, step_size=0, seed=0)
        ax.axhline(float(bound), color="0.3", ls="--", lw=1.2, label="bound for the flow")
    ax.set(yscale="log", ylabel=r"$\max_k\, \|W_k\|_F^2 - \|W_k\|_2^2$")
    ax.legend(fontsize=7)
    return ax


def _in_time(runs: xr.Dataset, name: str, ax: Axes):
    """The first seed as a line and the others as faint ones."""
    for k, step_size, some in _by_step_size(runs):
        for seed in reversed(runs.seed.to_numpy()):
            one = some.sel(seed=seed)
            [line] = ax.plot(one.time[1:], one[name][1:], color=_colour(k), lw=1.5)
            if seed == runs.seed[0]:
                line.set_label(_name(step_size))
            else:
                line.set(lw=0.5, alpha=0.3)
    ax.set(xscale="log", xlabel=f"training time, from scale {float(runs.scale):g}")


def _middle(runs: xr.Dataset) -> xr.Dataset:
    return runs.isel(scale=len(runs.scale) // 2)


def _smallest(runs: xr.Dataset) -> xr.Dataset:
    """The smallest scale that is random at all."""
    return runs.isel(scale=int(np.argmax(runs.scale.to_numpy() > 0)))


def _by_step_size(runs: xr.Dataset):
    for k, step_size in enumerate(runs.step_size.to_numpy()):
        yield k, float(step_size), usable(runs.sel(step_size=step_size))


def _median_and_range(ax: Axes, x, values: xr.DataArray, k: int, label: str):
    there = values.notnull().any("seed")
    x, values = x[there.to_numpy()], values.sel(scale=there)
    if not len(x):
        return
    middle = values.median("seed")
    spread = np.abs(np.stack([middle - values.min("seed"), values.max("seed") - middle]))
    style = {"color": _colour(k), "marker": _MARKERS[k % len(_MARKERS)], "ms": 4, "lw": 1.2}
    ax.errorbar(x, middle, spread, capsize=2, elinewidth=0.7, label=label, **style)


def _theory_lines(runs: xr.Dataset, ax: Axes, *, bounds: bool = True):
    attrs = runs.attrs
    if bounds:
        low = attrs["sharpness_lower_bound"]
        ax.axhline(low, color="0.75", lw=1.2, label="lower bound of the paper")
        if high := attrs.get("small_start_sharpness_bound"):
            label = "bounds for small starts"
            ax.axhspan(low, high, color="0.93", zorder=0, label=label)
    label = "flattest minimiser"
    ax.axhline(attrs["flattest_sharpness"], color="0.3", ls="--", lw=1.2, label=label)
    label = "balanced minimiser"
    ax.axhline(attrs["balanced_sharpness"], color="0.3", ls="-.", lw=1.0, label=label)


def _name(step_size: float) -> str:
    return f"step size {step_size:g}" if step_size else "gradient flow"


def _colour(k: int) -> str:
    return _COLOURS[k % len(_COLOURS)]
