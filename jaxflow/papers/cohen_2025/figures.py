"""Figures of the edge of stability: a labeled dataset in, drawn panels out."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ...plotting.axes import AXES
from ...plotting.palette import color_of, plain
from .errors import SETTLED, errors, rises

_LINES = {
    "descent": {"color": color_of(0), "lw": 2.2, "alpha": 0.6},
    "central flow": {"color": color_of(1), "lw": 1.4},
    "gradient flow": {"color": color_of(2), "lw": 1.4, "ls": "--"},
}
_LABELS = {"descent": "descent, mean over 20 steps"}
_QUANTITIES = {
    "loss": "loss",
    "sharpness": "sharpness at the center",
    "oscillation": "mean square of the oscillation",
}


def edge(runs: xr.Dataset, axes: Any):
    """One start, with what was predicted of it; and the errors of the prediction of all."""
    wrong = errors(runs)
    for name, axis in zip(_QUANTITIES, axes[:3], strict=True):
        _one(runs.isel(seed=_first(wrong)), name, axis)
    below = axes[3]
    since = wrong.since.to_numpy().ravel()
    for k, name in enumerate(("loss", "sharpness", "corrected sharpness", "oscillation")):
        values = wrong[name].transpose(*wrong.since.dims)
        for seed in wrong.seed.to_numpy():
            lines = wrong.since.sel(seed=seed), values.sel(seed=seed)
            below.plot(*lines, color=color_of(k + 1), lw=0.4, alpha=0.3)
        places, count = np.unique(since[since >= 0], return_counts=True)
        places = places[count == count.max()]  # Later, some starts have ended.
        flat = values.to_numpy().ravel()
        middle = [np.median(flat[since == place]) for place in places]
        below.plot(places, middle, color=color_of(k + 1), lw=2, label=name)
    below.axvline(SETTLED, color="0.3", ls=":", lw=1, label="counted from here on")
    # Before, errors of all sizes say no more than that nothing has settled.
    below.set(yscale="log", ylim=(1e-4, 1.1), xlim=(SETTLED / 2, None))
    below.set(xlabel="steps since the central flow came to the edge")
    below.set_ylabel("relative error of the central flow")
    below.set_title("all starts, and their medians", fontsize=9)
    below.legend(fontsize=7, ncols=2, loc="lower left")


def _first(wrong: xr.Dataset) -> int:
    """The first start that comes to the edge."""
    return int(np.argmax(wrong.since.notnull().any("step").to_numpy()))


def transient(runs: xr.Dataset, axes: Any):
    """The same, and why the central flow fails at first."""
    edge(runs, axes)
    axes[1].set_title(
        "descent must first grow its oscillation from rounding and drift,\n"
        "so that the sharpness overshoots; the central flow has it at once",
        fontsize=9,
    )
    axes[2].set_title(
        "it comes late, overshoots, and dies out sooner or later than predicted", fontsize=9
    )


def digits(runs: xr.Dataset, axes: Any):
    """A column for each network, from the first seed."""
    grid = np.reshape(axes, (3, -1))
    for column, network in zip(grid.T, runs.network.to_numpy(), strict=True):
        some = runs.sel(network=network)
        one = some.isel(seed=_first(errors(some)))
        for name, axis in zip(_QUANTITIES, column, strict=True):
            _one(one, name, axis)
        column[0].set_title(network, fontsize=9)


def limits(runs: xr.Dataset, axes: Any):
    """Where the gradient flow from each iterate would end, and by how much that changes."""
    level, change = axes
    changes = rises(runs)
    steps = np.maximum(runs.step.to_numpy(), 3)  # The start, on a logarithmic axis.
    for k in range(runs.sizes["seed"]):
        style = {"color": color_of(k + 1), "marker": ".", "lw": 1.2}
        level.plot(steps, runs.limit.isel(seed=k), label=f"start {k + 1}", **style)
        change.plot(steps[1:], 100 * changes.isel(seed=k), **style)
    level.axhline(
        runs.attrs["threshold"], color="0.3", ls="--", lw=1, label="2 / step size"
    )
    change.axhline(0, color="0.3", lw=1)
    largest = f"the largest rise is {100 * float(changes.max()):.2g} %"
    change.set_title(largest, fontsize=9)
    change.set_yscale("symlog", linthresh=0.1)
    change.set(ylabel="change since the last record, in %")
    plain(change, x=False)
    level.set(ylabel="sharpness of the gradient flow's limit")
    level.legend(fontsize=7)
    for axis in axes:
        axis.set(xscale="log", xlabel=f"{AXES['step']} of descent")
        shown = (steps != 18) & ((steps > 3) | (axis is level))
        axis.set_xticks(steps[shown], runs.step.to_numpy()[shown])
        axis.set_xticks([], minor=True)


def optimizers(runs: xr.Dataset, axes: Any):
    """The first seed: criticality, sharpness, loss and oscillation, by optimizer."""
    critical, loss, sharpness, oscillation = axes
    for k, optimizer in enumerate(runs.optimizer.to_numpy()):
        one = runs.sel(optimizer=optimizer).isel(seed=0)
        ours = " (our extension)" if optimizer in ("momentum", "Adam") else ""
        label = {"label": f"{optimizer}{ours}"}
        color = {"color": color_of(k + 1)}
        top = one.eigenvalues.isel(rank=0) / one.threshold
        critical.plot(one.step, top, lw=1.4, **color, **label)
        panels = {"loss": loss, "sharpness": sharpness, "oscillation": oscillation}
        for name, axis in panels.items():
            seen = one[name].sel(trajectory="descent")
            said = one[name].sel(trajectory="central flow")
            axis.plot(one.step, seen, lw=2.2, alpha=0.5, **color)
            said = said.where(said > 1e-9) if name == "oscillation" else said
            axis.plot(one.step, said, lw=1.2, ls="--", **color)
    critical.axhline(1, color="0.3", ls=":", lw=1)
    critical.set(ylabel="top eigenvalue, preconditioned,\nover its threshold")
    critical.set_title("central flow", fontsize=9)
    critical.legend(fontsize=7)
    loss.plot([], [], color="0.3", lw=2.2, alpha=0.5, label=_LABELS["descent"])
    loss.plot([], [], color="0.3", lw=1.2, ls="--", label="central flow's prediction")
    loss.legend(fontsize=7)
    for name, axis in zip(_QUANTITIES, (loss, sharpness, oscillation), strict=True):
        axis.set(yscale="log", ylabel=_QUANTITIES[name])
    for axis in axes:
        axis.set(xlabel=AXES["step"])


def _one(run: xr.Dataset, name: str, axis: Axes):
    """An observable of one run, along its trajectories."""
    for trajectory in run.trajectory.to_numpy():
        values = run[name].sel(trajectory=trajectory)
        if name == "oscillation":
            values = values.where(values > 1e-9)
            if trajectory == "gradient flow":
                continue
        # The sharpness is that of single centers, and no mean.
        label = trajectory if name == "sharpness" else _LABELS.get(trajectory, trajectory)
        if label == "descent":
            label = "descent, at the center of three iterates"
        axis.plot(run.step, values, label=label, **_LINES[trajectory])
    axis.set_xlim(0, run.step[-1])
    if name == "sharpness":
        corrected = "central flow, next order (`corrected`)"
        axis.plot(run.step, run.corrected, color=color_of(1), ls=":", label=corrected)
        axis.axhline(
            run.threshold, color="0.3", ls="--", lw=0.8, zorder=0, label="2 / step size"
        )
    else:
        axis.set(yscale="log")
    low, high = axis.get_ylim()
    if name == "loss" and high < 10 * low:
        plain(axis, x=False)
    axis.set(xlabel=AXES["step"], ylabel=_QUANTITIES[name])
    axis.legend(fontsize=7)
