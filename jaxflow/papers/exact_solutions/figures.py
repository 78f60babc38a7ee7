"""Figures of linear networks beside theory, and of nonlinear ones."""

from typing import Any

import numpy as np
import xarray as xr

from ...plotting.axes import AXES
from ...plotting.palette import MARKERS, STYLES, color_of, shade


def _dots(axis, x, y, color, every: int, **style):
    axis.plot(x[::every], y[::every], ".", color=color, ms=4, **style)


def _key(axis):
    """What dots and lines are, without a color."""
    axis.plot([], [], ".", color="0.3", ms=4, label="flow")
    axis.plot([], [], color="0.3", lw=1, label="theory")


def autoencoder(runs: xr.Dataset, axes: Any):
    """Each component in time, of untied and of tied layers."""
    count = runs.sizes["mode"]
    every = max(1, runs.sizes["time"] // 30)
    for axis, layers in zip(axes, runs.layers.to_numpy(), strict=True):
        some = runs.sel(layers=layers)
        for k in range(count):
            color, mode = shade(k, count), some.isel(mode=k)
            first_and_last = k in (0, count - 1)
            label = f"component {k + 1}, variance {float(mode.variance):.2g}"
            axis.plot(
                some.time,
                mode.theory,
                color=color,
                lw=1,
                label=label if first_and_last else None,
            )
            _dots(axis, some.time, mode.flow, color, every)
        _key(axis)
        axis.set(title=f"{layers} layers", xlabel=AXES["time"], ylim=(-0.03, 1.03))
        axis.set_ylabel("share of a component in the reconstruction")
        axis.legend(fontsize=7, loc="lower right")


def two_layers(runs: xr.Dataset, axes: Any):
    """Singular values of the end-to-end map in time: a panel for each data set."""
    every = max(1, runs.sizes["time"] // 30)
    for axis, data in zip(axes, runs.data.to_numpy(), strict=True):
        some = runs.sel(data=data).dropna("mode", how="all")
        for j, imbalance in enumerate(some.imbalance.to_numpy()):
            for k in range(some.sizes["mode"]):
                mode = some.sel(imbalance=imbalance).isel(mode=k)
                color = color_of(k + 1)
                axis.plot(mode.time, mode.theory, color=color, lw=1, ls=STYLES[j])
                _dots(axis, mode.time, mode.flow, color, every)
            label = rf"theory, imbalance $\lambda = {imbalance:g}$"
            axis.plot([], [], color="0.3", lw=1, ls=STYLES[j], label=label)
        for k in range(some.sizes["mode"]):
            level = float(some.target.isel(mode=k, imbalance=0))
            axis.plot([], [], color=color_of(k + 1), label=f"mode {k + 1} ({level:.3g})")
        axis.plot([], [], ".", color="0.3", ms=4, label="flow")
        hidden = some.sizes["mode"]
        width = "one hidden neuron" if hidden == 1 else f"{hidden} hidden neurons"
        axis.set(title=f"{data}: {width}", xlabel=AXES["time"], ylim=(0, None))
        axis.set_ylabel("singular values of the end-to-end map")
        axis.legend(fontsize=7, loc="lower right")


def diagonal(runs: xr.Dataset, axes: Any):
    """The l1 norm of the limit against the scale of the start, and its entries."""
    norm, entries = axes
    norm.plot(runs.exact_scale, runs.theory_l1, color=color_of(1), lw=1, label="theory")
    norm.plot(runs.scale, runs.flow_l1, "o", color=color_of(1), ms=4, label="flow, at end")
    ends = {"least_l1": (":", "least l1 norm"), "least_l2_l1": ("--", "least l2 norm")}
    for name, (line, label) in ends.items():
        norm.axhline(runs.attrs[name], color="0.3", ls=line, lw=1, label=label)
    top = abs(runs.theory).max("exact_scale")
    largest = top.argsort()[::-1][:12].to_numpy()
    for k in range(runs.sizes["input"]):
        # The largest in color; all others in one.
        place = np.flatnonzero(largest == k)
        color = shade(int(place[0]), 12) if place.size else "0.8"
        style = {"color": color, "zorder": 2 if place.size else 1}
        entries.plot(runs.exact_scale, runs.theory.isel(input=k), lw=1, **style)
        if place.size:
            entries.plot(runs.scale, runs.flow.isel(input=k), ".", ms=5, **style)
    entries.plot([], [], color="0.8", lw=1, label="the others, theory alone")
    _key(entries)
    for axis in axes:
        axis.set(xscale="log", xlabel=AXES["scale"])
        axis.legend(fontsize=7)
    norm.set_ylabel("l1 norm of the limit")
    entries.set_ylabel("entries of the limit, the 12 largest in color")


def chains(runs: xr.Dataset, axes: Any):
    """The loss in time on raw inputs, and the size of the map in time on white ones."""
    loss, size = axes
    every = max(1, runs.sizes["time"] // 60)
    for k, depth in enumerate(runs.depth.to_numpy()):
        color = color_of(k + 1)
        raw, white = (runs.sel(depth=depth, white=white) for white in (False, True))
        label = f"depth {depth}"
        loss.plot(raw.time[1:], raw.theory[1:], color=color, lw=1, label=label)
        _dots(loss, raw.time[1:], raw.flow[1:], color, every)
        size.plot(white.chain, white.chain_size, color=color, lw=1, label=label)
        _dots(size, white.time[1:], white["size"][1:], color, every)
    for axis in axes:
        _key(axis)
        axis.set(xscale="log", xlabel=AXES["time"], xlim=(runs.time[1], runs.time[-1]))
        axis.legend(fontsize=7)
    loss.set(yscale="log", ylabel="loss above the floor", title="inputs as they are")
    size.set(ylabel="size of the end-to-end map over that of the target")
    size.set(title="white inputs: times of a chain")


def factorization(runs: xr.Dataset, axes: Any):
    """What was found of each eigenvalue, in time and at the end."""
    modes, ends = axes
    every = max(1, runs.sizes["time"] // 60)
    count = runs.sizes["mode"]
    for k in range(count):
        mode, color = runs.isel(mode=k), shade(k, count)
        label = f"eigenvalue {float(mode.target):.2g}" if k in (0, count - 1) else None
        modes.plot(mode.time, mode.theory, color=color, lw=1, label=label)
        _dots(modes, mode.time, mode.flow, color, every)
    ends.plot(runs["mode"], runs.target, "_", color="0.3", ms=14, label="of the matrix")
    ends.plot(runs["mode"], runs.theory.isel(time=-1), color=color_of(1), lw=1)
    ends.plot(runs["mode"], runs.flow.isel(time=-1), ".", color=color_of(1), ms=4)
    _key(modes)
    _key(ends)
    modes.set(xlabel=AXES["time"], ylabel="part of each eigenvector in the product")
    ends.set(xlabel="rank of the eigenvalue", ylabel="eigenvalue, and what was found of it")
    ends.set_title(f"at time {float(runs.time[-1]):g}, of 4 columns", fontsize=9)
    for axis in axes:
        axis.legend(fontsize=7)


def sensing(runs: xr.Dataset, axes: Any):
    """The error against the number of measurements, and singular values for the most."""
    error, values = axes
    for k, depth in enumerate(runs.depth.to_numpy()):
        some = runs.sel(depth=depth)
        style = {"color": color_of(k + 1), "marker": MARKERS[k], "ms": 4, "lw": 1.2}
        label = "one layer" if depth == 1 else f"depth {depth}"
        error.plot(some.samples, some.error, label=label, **style)
        values.plot(some["mode"], some["values"].isel(samples=-1), label=label, **style)
    values.axvline(runs.attrs["rank"] + 0.5, color="0.3", ls=":", lw=1, label="rank")
    error.set(xlabel="measurements of 64 pixels", ylim=(0, None))
    error.set_ylabel("distance from the image, over its size")
    values.set(yscale="log", ylim=(1e-4, 2), xlabel="rank of the singular value")
    values.set_ylabel("singular values that were found")
    values.set_title(f"from {int(runs.samples[-1])} measurements", fontsize=9)
    for axis in axes:
        axis.legend(fontsize=7)


def nonlinear(runs: xr.Dataset, axes: Any):
    """Loss, sharpness, alignment of the kernel and of the layers in training."""
    loss, sharpness, kernel, layers = axes
    time = runs.step * runs.attrs["step_size"]
    for k, name in enumerate(runs.network.to_numpy()):
        some = runs.sel(network=name)
        style = {"color": color_of(k + 1), "marker": MARKERS[k], "ms": 3, "lw": 1.2}
        for axis, what in ((loss, "loss"), (sharpness, "sharpness"), (kernel, "kernel")):
            axis.plot(time[1:], some[what][1:], label=name, **style)
        layers.plot(time[1:], some.alignment.mean("pair")[1:], label=name, **style)
        chance = float(some.chance.isel(record=0).mean())
        layers.axhline(chance, color=color_of(k + 1), ls=":", lw=1)
    limit = 2 / runs.attrs["step_size"]
    sharpness.axhline(limit, color="0.3", ls="--", lw=1, label="2 / step size")
    layers.plot([], [], color="0.3", ls=":", lw=1, label="random layers, in their color")
    loss.set(yscale="log", ylabel="loss")
    sharpness.set(ylabel="sharpness", ylim=(0, None))
    kernel.set(ylabel="alignment of the tangent kernel with the targets", ylim=(0, None))
    layers.set(ylabel="alignment of layers' Jacobians, mean", ylim=(0, None))
    for axis in axes:
        axis.set(xscale="log", xlabel=f"{AXES['time']}: steps x step size")
        axis.legend(fontsize=7)
