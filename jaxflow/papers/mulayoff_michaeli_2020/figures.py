"""Figures of minima of linear networks: a labeled dataset in, two drawn panels out."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ...dynamics import Status
from ...plotting.axes import AXES
from ...plotting.palette import MARKERS, color_of, plain

_KINDS = {
    "flattest, explicit": ("#0072B2", "o"),
    "balanced": ("#009E73", "s"),
    "found directly": ("#56B4E9", "D"),
    "least trace": ("#E69F00", "^"),
    "random": ("0.6", "."),
}
_RATIO = "sharpness over least sharpness"


def chain(runs: xr.Dataset, axes: Any):
    """Paths in the plane of weights, and the sharpness of minima and ends."""
    plane, curve = axes
    first = np.geomspace(0.25, 4, 400)
    for sign, label in ((1, "minima, $w_1 w_2 = 1$"), (-1, None)):
        plane.plot(sign * first, sign / first, color="0.3", lw=1, label=label)
    curve.plot(first, 2 * (first**2 + first**-2), color="0.3", lw=1, label="minima")
    three = {"color": "0.65", "lw": 1, "label": "minima of three layers, $w_2 = w_3$"}
    curve.plot(first, 2 * (2 * first + first**-2), **three)
    curve.axhline(
        runs.attrs["flattest"], color="0.3", ls="--", lw=1, label="least sharpness"
    )
    curve.axhline(6, color="0.65", ls="--", lw=1)
    for k, step_size in enumerate(runs.step_size.to_numpy()):
        run = runs.sel(step_size=step_size)
        label = f"step size {step_size:g}: {Status(int(run.status)).name.lower()}"
        style = {"color": color_of(k + 1), "marker": MARKERS[k], "ms": 3, "label": label}
        plane.plot(*run.layers.to_numpy().T, lw=0.8, **style)
        end = run.isel(record=-1)
        curve.plot(
            abs(float(end.layers[0])), float(end.sharpness), ls="", **style | {"ms": 7}
        )
        curve.axhline(2 / step_size, color=color_of(k + 1), ls=":", lw=1)
    curve.plot([], [], color="0.3", ls=":", lw=1, label="2 / step size, in its color")
    plane.plot(*runs.layers.isel(record=0, step_size=0), "k*", ms=9, label="start")
    plane.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xlabel="$w_1$", ylabel="$w_2$")
    curve.set(xlim=(0.25, 4), xscale="log", yscale="log", ylim=(3, 30))
    curve.set(xlabel="$|w_1|$ at the end", ylabel="sharpness")
    plain(curve)
    curve.set_xticks([0.3, 0.5, 1, 2, 3], minor=False)
    curve.set_xticks([], minor=True)
    for axis in axes:
        axis.legend(fontsize=7)


_ENDS = {
    "minimum": ("-", "o"),
    "minimum, by rounding": (":", "P"),
    "saddle": ("--", "X"),
    "on its way": ("-.", ">"),
}


def residual(runs: xr.Dataset, axes: Any):
    """Excess in time, and where each target ends: how sharp, and whether at a minimum."""
    time, ends = axes
    deepest, kinds = runs.isel(depth=-1), set()
    for k, target in enumerate(runs.target.to_numpy()):
        run = deepest.sel(target=target)
        style = {"color": color_of(k), "ls": _ENDS[_end(run)][0]}
        time.plot(run.time[1:], np.maximum(run.excess[1:], 1e-25), label=target, **style)
        kinds |= {_end(runs.sel(target=target, depth=depth)) for depth in runs.depth}
    kinds = {kind: style for kind, style in _ENDS.items() if kind in kinds}
    for kind, (line, _) in kinds.items():
        time.plot([], [], color="0.5", ls=line, label=f"ends: {kind}")
    last, places = runs.isel(record=-1), np.arange(runs.sizes["target"])
    for k, depth in enumerate(runs.depth.to_numpy()):
        at = places + 0.15 * (k - (runs.sizes["depth"] - 1) / 2)
        for place, target in zip(at, runs.target.to_numpy(), strict=True):
            run = last.sel(depth=depth, target=target)
            marker = _ENDS[_end(run)][1]
            ends.plot(
                run.sharpness / run.flattest, place, marker, ms=8, color=color_of(k + 1)
            )
        ends.plot([], [], "s", color=color_of(k + 1), label=f"depth {depth}")
    for kind, (_, marker) in kinds.items():
        ends.plot([], [], marker, color="0.5", ms=8, label=kind)
    ends.axvline(1, color="0.3", ls="--", lw=1, label="flattest minima")
    ends.set_yticks(places, runs.target.to_numpy())
    ends.invert_yaxis()
    ends.set(xlabel=f"{_RATIO} of a minimum")
    time.set(
        xscale="log", yscale="log", xlabel=f"{AXES['time']}, depth {int(deepest.depth)}"
    )
    time.set(ylabel="loss above the floor")
    time.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    ends.legend(fontsize=7)


def _end(run: xr.Dataset) -> str:
    minimum = "minimum, by rounding" if bool(run.crossed) else "minimum"
    kinds = {Status.CONVERGED: minimum, Status.SADDLE: "saddle"}
    return kinds.get(Status(int(run.status)), "on its way")


def cliff(runs: xr.Dataset, axes: Any):
    """Sharpness and structure at the end against the step size, with their limits."""
    flatness, structure = axes
    share = runs.step_size_share.to_numpy()
    there = runs.where(runs.status == Status.CONVERGED)
    fine = np.linspace(share[0], 1, 200)
    flatness.fill_between(
        fine, 1, 1 / fine, color="0.93", label="stable: below 2 / step size"
    )
    for k, depth in enumerate(runs.depth.to_numpy()):
        some = there.sel(depth=depth)
        ratio = some.sharpness / some.flattest
        style = {"color": color_of(k + 1), "marker": MARKERS[k], "ms": 4}
        _spread(flatness, share, ratio, label=f"depth {depth}", **style)
        label = f"path coupling, depth {depth}"
        _spread(structure, share, some.coupling, label=label, **style)
        label = f"alignment of top singular vectors, depth {depth}"
        middle = some.alignment.median("seed").to_numpy()
        structure.plot(share, middle, label=label, ls=":", mfc="w", lw=1.2, **style)
    for axis in axes:
        axis.axvline(1, color="0.3", ls="--", lw=1, label="critical: 2 / least sharpness")
        axis.set(xlabel=AXES["step_size_share"], xlim=(0, share[-1] + 0.05))
    flatness.legend(fontsize=7, title="medians and quartiles", title_fontsize=7)
    structure.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    flatness.set(ylabel=f"{_RATIO}, at the end", ylim=(0.9, None), yscale="log")
    plain(flatness, x=False)
    last = there.sharpness.isel(step_size_share=-1)
    if not np.isfinite(last).any() and share[-1] > 1:
        flatness.text(share[-1], 1.1, "none\nsettles", ha="center", fontsize=8)
    structure.set(ylabel="agreement of layers, least over layers", ylim=(0, 1.05))


def gains(runs: xr.Dataset, axes: Any):
    """Gains of the dedicated signal, and the largest ones, layer by layer."""
    path, largest = axes
    depth = runs.attrs["depth"]
    layers = np.arange(depth + 1)
    top = float(runs.path.isel(seed=0, minimum=0, layer=-1))
    for name, (color, marker) in _KINDS.items():
        some = runs.sel(minimum=name)
        ratio = float((some.sharpness / runs.attrs["flattest"]).median())
        for axis, values in ((path, some.path), (largest, some.largest)):
            for k, one in enumerate(
                values.to_numpy()[: 1 if name == "flattest, explicit" else None]
            ):
                label = f"{name}: {ratio:.3g} times the least sharpness" if k == 0 else None
                style = {"color": color, "marker": marker, "ms": 4, "lw": 1}
                style |= {"alpha": 0.5, "lw": 0.6} if name == "random" else {}
                axis.plot(layers, [1, *one], label=label, **style)
        mean = some["mean"].median("seed").to_numpy()
        largest.plot(layers, [1, *mean], color=color, ls=":", lw=0.9)
    line = {"color": "0.3", "ls": "--", "lw": 1}
    largest.plot([], [], color="0.3", ls=":", lw=0.9, label="mean gain of all signals")
    path.plot(layers, top ** (layers / depth), label=r"theory: $\sigma^{l/L}$", **line)
    largest.fill_between(
        layers[1:-1], runs.lower, runs.upper, color="0.9", label="bounds at flattest minima"
    )
    path.set(ylabel="gain of the dedicated signal up to layer $l$")
    path.legend(fontsize=7)
    largest.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    largest.set(ylabel=r"largest gain up to layer $l$, $\|W_l \cdots W_1\|_2$")
    for axis in axes:
        axis.set(yscale="log", xlabel="layer $l$")
        plain(axis, x=False)
        axis.set_xticks(layers)


def denoiser(runs: xr.Dataset, axes: Any):
    """The sharpness and the loss on the way, over steps of descent."""
    sharp, loss = axes
    for k, depth in enumerate(runs.depth.to_numpy()):
        for inputs, style in zip(runs.inputs.to_numpy(), ("-", ":"), strict=True):
            run = runs.sel(depth=depth, inputs=inputs)
            steps = np.maximum(
                (run.time / run.time[-1] * int(run.num_steps)).to_numpy(), 0.5
            )
            line = {"color": color_of(k + 1), "ls": style, "marker": MARKERS[k], "ms": 3}
            label = f"depth {depth}, {inputs}"
            sharp.plot(steps, run.sharpness / run.flattest, label=label, **line)
            loss.plot(steps, run.excess, label=label, **line)
    sharp.axhline(1, color="0.3", ls="--", lw=1, label="flattest minima")
    sharp.set(ylabel=_RATIO)
    loss.set(yscale="log", ylabel="loss above the floor")
    for axis in axes:
        axis.set(xscale="log", xlabel=f"{AXES['step']} (the start at one half)")
        axis.legend(fontsize=7)


def noise(runs: xr.Dataset, axes: Any):
    """How weight noise raises the loss, and noise behind layers the error."""
    weights, features = axes
    for name, (color, marker) in reversed(_KINDS.items()):
        if name not in runs.minimum:
            continue
        some = runs.sel(minimum=name)
        special = (
            {"s": 25} if name == "random" else {"s": 90, "edgecolor": "k", "zorder": 3}
        )
        some = some if name == "random" else some.isel(seed=[0])
        label = {"label": name, "color": color, "marker": marker}
        weights.scatter(some["mean"], some.worst, **label, **special)
        lines = some.behind.median("seed").to_numpy()
        layers = np.arange(1, lines.size + 1)
        features.plot(layers, lines, color=color, marker=marker, ms=6, label=name)
    limit = {"color": "0.3", "lw": 1}
    weights.axhline(
        runs.attrs["flattest"] / 2, ls="--", label="least sharpness / 2", **limit
    )
    least = runs.attrs["least_trace"] / 2 / runs.attrs["weights"]
    weights.axvline(least, ls=":", label="least trace / (2 weights)", **limit)
    weights.legend(fontsize=7)
    weights.set(xscale="log", yscale="log")
    plain(weights)
    weights.set(xlabel=r"mean rise of the loss / $\|$weight noise$\|^2$")
    weights.set(ylabel=r"worst rise of the loss / $\|$weight noise$\|^2$")
    features.set(yscale="log", xlabel="layer behind which the noise enters")
    plain(features, x=False)
    features.set_xticks(layers)
    features.set(ylabel="squared error at the output,\nper unit variance of noise")
    features.legend(fontsize=7, title="medians over draws", title_fontsize=7)


def _spread(axis: Axes, x, values, *, label, **style):
    """Medians over seeds, with their quartiles."""
    there = values.notnull().any("seed").to_numpy()
    values = values.to_numpy()[:, there] if values.dims[0] == "seed" else values.T[:, there]
    x, values = np.asarray(x)[there], np.asarray(values)
    if not len(x):
        return
    low, middle, high = np.nanpercentile(values, [25, 50, 75], 0)
    spread = np.stack([middle - low, high - middle])
    axis.errorbar(
        x, middle, spread, capsize=2, elinewidth=0.7, lw=1.2, label=label, **style
    )
