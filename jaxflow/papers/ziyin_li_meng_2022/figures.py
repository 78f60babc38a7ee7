"""Figures of networks with weight decay and noise: a dataset in, two panels out."""

from typing import Any

import numpy as np
import xarray as xr

from ...plotting.axes import AXES
from ...plotting.palette import MARKERS, color_of


def phases(runs: xr.Dataset, axes: Any):
    """The size of the solution against weight decay, and where transitions are."""
    order, diagram = axes
    for k, hidden in enumerate(runs.hidden.to_numpy()):
        some, color = runs.sel(hidden=hidden), color_of(k)
        label = layers_of("plain", hidden)
        jump = f", $\\gamma_c$ = {float(some.critical[0]):.5g}" if hidden > 0 else ""
        if hidden > 1:
            jump += f", $\\gamma_s$ = {float(some.spinodal[0]):.5g}"
            jump += f", jump {float(some.jump):.3g}"
        order.plot(runs.exact_decay, some["size"], color=color, lw=1.5, label=label + jump)
        stable = some.branch.where(some.stable.astype(bool))
        saddle = some.branch.where(~some.stable.astype(bool))
        order.plot(runs.exact_decay, stable, color=color, lw=0.9, ls="--")
        order.plot(runs.exact_decay, saddle, color=color, lw=0.9, ls=":")
        order.plot(runs.decay, some.up, color=color, ls="", marker="^", ms=3)
        order.plot(runs.decay, some.down, color=color, ls="", marker="v", ms=3, mfc="w")
        if hidden > 0:
            noise = np.maximum(runs.noise, 5e-3)
            diagram.plot(noise, some.critical, color=color, label=f"{label}: critical")
        if hidden > 1:
            diagram.plot(
                noise, some.spinodal, color=color, ls="--", label=f"{label}: spinodal"
            )
    for style, label in (
        ({"ls": "-", "lw": 1.5}, "global minimum"),
        ({"ls": "--", "lw": 0.7}, "another local minimum"),
        ({"ls": ":", "lw": 0.7}, "saddle"),
        ({"ls": "", "marker": "^", "ms": 3}, "descent, decay rising"),
        ({"ls": "", "marker": "v", "ms": 3, "mfc": "w"}, "descent, decay falling"),
    ):
        order.plot([], [], color="0.3", label=label, **style)
    order.set(xscale="log", xlabel=AXES["decay"], ylim=(-0.03, 1.5))
    order.set(ylabel="size of the end-to-end map, $|v|$")
    diagram.set(xscale="log", yscale="log", xlabel=f"{AXES['noise']}, width 4")
    diagram.set(ylabel=AXES["decay"])
    order.legend(fontsize=7, ncol=2, loc="upper center")
    diagram.legend(fontsize=7)


REGIMES = {
    "below": ("-", "below the critical decay"),
    "between": ("--", "between it and the spinodal"),
    "above": (":", "above the spinodal"),
}


def landscape(runs: xr.Dataset, axes: Any):
    """The least loss for a norm of the layers: without a barrier, and with one."""
    for axis, depths in zip(axes, ((0, 1), (2, 3)), strict=True):
        for hidden in depths:
            for regime in runs.regime.to_numpy():
                style, words = REGIMES[str(regime)]
                some = runs.sel(hidden=hidden, regime=regime)
                label = f"{layers_of('plain', hidden)}, decay {some.strength_of_decay:.3g}"
                label += f", {words}" if hidden > 1 else ""
                line = {"color": color_of(hidden), "ls": style, "label": label}
                axis.plot(runs.norm, some.above_zero, **line)
        axis.axhline(0, color="0.6", lw=1)
        axis.set(xlabel=AXES["norm"], ylim=(-0.35 if max(depths) > 1 else -0.85, 0.35))
        axis.set(ylabel="least loss, above that of the origin")
        axis.legend(fontsize=7)


def slices(runs: xr.Dataset, axes: Any):
    """The loss along the solution of a linear network, and along the corrected one."""
    for axis, weights in zip(axes, runs.weights.to_numpy(), strict=True):
        for k, name in enumerate(runs.activation.to_numpy()):
            line = runs["loss"].sel(activation=name, weights=weights)
            style = "--" if name == "swish" else "-"  # Nearly the same as ReLU.
            axis.plot(runs.b, line, color=color_of(k), label=name, ls=style)
        axis.axhline(float(runs.origin), color="0.3", ls="--", lw=1, label="at the origin")
        axis.set(xlabel=AXES["b"], ylabel="loss")
        axis.set_title(f"{weights} weights", fontsize=9)
        axis.legend(fontsize=7)


def training(runs: xr.Dataset, axes: Any):
    """How far above the exact minimum training ends, and the size of what it finds."""
    above, size = axes
    origin = runs.attrs["origin"]
    size.plot(runs.exact_decay_share, runs.global_size, color="0.3", label="global minimum")
    local = {"color": "0.3", "ls": "--", "lw": 0.8, "label": "local minimum"}
    size.plot(runs.exact_decay_share, runs.local_size, **local)
    for k, method in enumerate(runs.algorithm.to_numpy()):
        some = runs.sel(algorithm=method)
        gaps = np.maximum((some["loss"] - some.exact_loss) / origin, 1e-16)
        style = {"color": color_of(k + 1), "marker": MARKERS[k], "ms": 4}
        shift = runs.decay_share + 0.008 * (k - 1.5)
        for values, axis in ((gaps, above), (some["size"], size)):
            style |= {"ls": "-" if axis is above else ""}
            _medians(axis, shift, values, label=method, **style)
    gap = (origin - runs.exact_loss) / origin
    above.plot(
        runs.decay_share, gap.where(gap > 0), color="0.3", ls=":", label="the origin"
    )
    above.set(
        yscale="log",
        ylim=(3e-17, 1e4),
        ylabel="loss above the exact minimum, over that of the origin",
    )
    size.set(ylabel="size of the end-to-end map, $|v|$")
    for axis in axes:
        axis.axvline(1, color="0.6", lw=1)
        ratio = runs.attrs["spinodal"] / runs.attrs["critical"]
        axis.axvline(ratio, color="0.6", ls=":", lw=1, label="spinodal")
        axis.set(xlabel=f"{AXES['decay_share']} (medians and ranges)")
        axis.legend(fontsize=7, ncol=2, loc="upper right")


def _medians(axis: Any, x: Any, values: xr.DataArray, **style: Any):
    """Medians over seeds, with their ranges."""
    middle = values.median("seed")
    ends = values.min("seed"), values.max("seed")
    spread = np.abs(np.stack([end - middle for end in ends]))
    axis.errorbar(x, middle, spread, lw=1, capsize=2, **style)


def trapping(runs: xr.Dataset, axes: Any):
    """The share of starts that end away from zero, for two sizes of the solution."""
    for axis, variance in zip(axes, runs.input_variance.to_numpy(), strict=True):
        some = runs.sel(input_variance=variance)
        for k, gain in enumerate(runs.gain.to_numpy()):
            share = (some["size"].sel(gain=gain) > 1e-2).mean("seed")
            style = {"color": color_of(k + 1), "marker": MARKERS[k], "ms": 4}
            style["ls"] = ("-", "--")[k % 2]  # One may hide the other.
            axis.plot(runs.decay, share, label=f"gain {gain:.3g}", **style)
        for name, style in (("critical", "--"), ("spinodal", ":")):
            axis.axvline(
                float(some[name]), color="0.3", ls=style, lw=1, label=f"{name} decay"
            )
        axis.set(xscale="log", xlabel=AXES["decay"], ylim=(-0.03, 1.03))
        axis.set(ylabel="share of random starts that end away from zero")
        axis.set_title(
            f"inputs of variance {variance:g}: solution of size {1 / variance:g}",
            fontsize=9,
        )
        axis.legend(fontsize=7)


def signal(runs: xr.Dataset, axes: Any):
    """The error over that of zero against the strength of the signal, by activation."""
    for axis, hidden in zip(axes, runs.hidden.to_numpy(), strict=True):
        some = runs.sel(hidden=hidden)
        axis.plot(
            runs.exact_signal, some.exact_error, color="0.3", label="exact, linear", lw=1.5
        )
        for k, name in enumerate(runs.activation.to_numpy()):
            error = some.error.sel(activation=name)
            style = {"color": color_of(k), "marker": MARKERS[k], "ms": 4}
            style["ls"] = ("-", "--")[k % 2]  # One may hide the other.
            _medians(axis, runs.signal, error, label=name, **style)
        if hidden > 1:
            where = {"color": "0.3", "ls": ":", "lw": 1}
            words = "below, zero is the only minimum (linear)"
            axis.axvline(float(some.least_signal), label=words, **where)
        axis.set(xscale="log", xlabel=AXES["signal"], ylim=(-0.03, 1.05))
        axis.set(ylabel="training error over that of the origin")
        axis.set_title(layers_of("plain", hidden), fontsize=9)
        axis.legend(fontsize=7)


def variance(runs: xr.Dataset, axes: Any):
    """The exact variance as lines, and that of drawn outputs with errors as points."""
    first, second = axes
    for k, (name, axis) in enumerate(
        (("width", first), ("hidden", first), ("noise", second))
    ):
        line, color = runs[f"by_{name}"], color_of(k + 1)
        words = {"width": "width, 2 hidden layers", "hidden": "hidden layers, width 4"}
        axis.plot(runs[name], line, color=color, label=f"against {words.get(name, name)}")
        at, error = runs[f"{name}_drawn"], 4 * runs[f"{name}_error"]
        style = {"color": color, "ls": "", "marker": "o", "ms": 4, "capsize": 2}
        axis.errorbar(
            at, runs[f"{name}_mean"], error, label="draws, 4 standard errors", **style
        )
    first.set(
        xscale="log", xlabel="width of 2 hidden layers, or number of hidden layers of 4"
    )
    second.set(xscale="log", xlabel=AXES["noise"])
    for axis in axes:
        axis.set(ylabel="variance of the output at the exact minimum")
        axis.legend(fontsize=7)


def networks(runs: xr.Dataset, axes: Any):
    """The training error against weight decay, for plain and residual networks."""
    for axis, kind in zip(axes, runs.kind.to_numpy(), strict=True):
        for k, maps in enumerate(runs.maps.to_numpy()):
            error = runs.error.sel(kind=kind, maps=maps) / runs.attrs["origin"]
            low = float(runs.lowest.sel(kind=kind, maps=maps))
            style = {"color": color_of(k + 1), "marker": MARKERS[k], "ms": 4}
            _medians(axis, runs.decay, error, label=layers_of(kind, maps), **style)
            if low < -1e-9:
                # Weight decay adds twice its strength to every curvature at zero.
                where = {"color": style["color"], "ls": ":", "lw": 1}
                axis.axvline(-low / 2, label="above, the origin is a minimum", **where)
        axis.set(xscale="log", xlabel=AXES["decay"], ylim=(-0.03, 1.05))
        axis.set(ylabel="training error over that of the origin")
        axis.set_title(f"{kind} tanh networks", fontsize=9)
        axis.legend(fontsize=7)


def layers_of(kind, count) -> str:
    """The depth of a network in words."""
    one, more = {
        "plain": ("hidden layer", "hidden layers"),
        "residual": ("map without a skip", "maps without a skip"),
    }[kind]
    return f"{count} {one if count == 1 else more}"
