"""Figures of how flat training ends: a dataset in, drawn axes out. No computing."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ...dynamics import Status
from ...plotting.axes import AXES
from ...plotting.palette import MARKERS, color_of
from .._statistics import divergence, gap_regression, gaps, usable

_VERDICTS = {
    Status.CONVERGED: "#009E73",
    Status.OSCILLATING: "#E69F00",
    Status.UNCONVERGED: "#56B4E9",
    Status.SADDLE: "#CC79A7",
    Status.COLLAPSED: "#999999",
    Status.DIVERGED: "#D55E00",
    Status.MAX_STEPS: "#F0E442",
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
            ax.axhline(2 / step_size, color=color_of(k), ls=":", lw=1)
    _theory_lines(ends, ax)
    ax.plot([], [], color="0.3", ls=":", lw=1, label="2 / step size, in its color")
    ax.set(yscale="log", xlabel=AXES["scale"], ylabel="sharpness at the end")
    low = ends.attrs.get("sharpness_lower_bound", 3)
    high = np.nanmax(usable(ends).sharpness, initial=4 * low)
    ax.set_ylim(low / 3, 3 * high)
    ax.legend(fontsize=7, ncols=2)
    return ax


def flatness(runs: xr.Dataset, ax: Axes) -> Axes:
    """The same in short: the flow and three step sizes, with their names beside them.

    Hollow where most runs oscillate, and have no sharpness that stays.
    """
    ends, names = runs.isel(record=-1), {}
    for k, step_size, some in [*_by_step_size(ends)][:4]:
        middle = some.sharpness.median("seed")
        _median_and_range(ax, ends.scale, some.sharpness, k, _name(step_size))
        hollow = (some.status == Status.OSCILLATING).mean("seed") > 0.5
        style = {"color": color_of(k), "marker": MARKERS[k % len(MARKERS)], "ls": "none"}
        hollow = middle.where(hollow)
        ax.plot(ends.scale, hollow, mfc="white", ms=5, zorder=3, **style)  # pyright: ignore
        there = middle[np.isfinite(middle.to_numpy())]
        names[_name(step_size)] = float(there[-1]), color_of(k)
        if step_size:
            ax.axhline(2 / step_size, color=color_of(k), ls=":", lw=1)
            where = {"transform": ax.get_yaxis_transform(), "va": "bottom", "fontsize": 7}
            text = f"2 / step size {step_size:g}"
            ax.text(0.01, 2 / step_size, text, color=color_of(k), **where)
    for name, style in (("flattest", "--"), ("balanced", "-.")):
        level = ends.attrs[f"{name}_sharpness"]
        ax.axhline(level, color="0.3", ls=style, lw=1.2)
        names[f"{name} minimum, exact"] = level, "0.3"
    ax.set(yscale="log", xlabel=AXES["scale"], ylabel="sharpness at the end of training")
    _name_beside(ax, names)
    return ax


def _name_beside(ax: Axes, names: dict[str, tuple[float, str]]):
    """Names of lines at their levels, right of the panel, and apart from each other."""
    low, high = ax.get_ylim()
    last, gap = 0.0, (high / low) ** 0.045
    for name, (level, color) in sorted(names.items(), key=lambda item: item[1]):
        last = max(level, last * gap)
        where = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 9}
        ax.text(1.015, last, name, color=color, **where)


def distance_against_scale(runs: xr.Dataset, ax: Axes) -> Axes:
    """Distance of the end-to-end map to the least-squares solution, against the scale."""
    return _against_scale(runs, "distance", r"$\|w - w_\star\|$ at the end", ax)


def excess_against_scale(runs: xr.Dataset, ax: Axes) -> Axes:
    """The loss above its floor, against the scale."""
    return _against_scale(runs, "excess", "loss above the floor, at the end", ax)


def _against_scale(runs, name, label, ax):
    ends = runs.isel(record=-1)
    for k, step_size, some in _by_step_size(ends):
        _median_and_range(ax, ends.scale, some[name], k, _name(step_size))
    ax.set(yscale="log", xlabel=AXES["scale"], ylabel=label)
    ax.legend(fontsize=7, ncols=2)
    return ax


def divergence_against_scale(runs: xr.Dataset, ax: Axes) -> Axes:
    """The share of runs that diverged, with 95% intervals, against the scale."""
    ends = runs.isel(record=-1)
    for k, step_size in enumerate(ends.step_size.to_numpy()):
        share, *limits = divergence(ends.sel(step_size=step_size), "seed")
        spread = np.abs(limits - share)
        style = {"color": color_of(k), "marker": MARKERS[k % len(MARKERS)], "ms": 4}
        label = _name(float(step_size))
        line = {"capsize": 2, "elinewidth": 0.7, "lw": 1.2, "label": label}
        ax.errorbar(ends.scale, share, spread, **style, **line)
    ax.set(xlabel=AXES["scale"], ylabel="share that diverged", ylim=(-0.03, 1.03))
    ax.legend(fontsize=7)
    return ax


def distance_against_step_size(runs: xr.Dataset, ax: Axes) -> Axes:
    """Distance at the end against the step size, with the critical one of each depth."""
    _against_step_size(runs, "distance", ax)
    ax.plot([], [], color="0.3", ls=":", lw=1, label="2 / least sharpness, in its color")
    ax.set(yscale="log", ylabel=r"$\|w - w_\star\|$ at the end")
    ax.legend(fontsize=7)
    return ax


def sharpness_against_step_size(runs: xr.Dataset, ax: Axes) -> Axes:
    """Sharpness at the end against the step size, below 2 / step size, with its least."""
    _against_step_size(runs, "sharpness", ax)
    for k, least in enumerate(runs.flattest_sharpness.to_numpy()):
        ax.axhline(least, color=color_of(k), ls="--", lw=1)
    ax.plot([], [], color="0.3", ls="--", lw=1, label="least sharpness, in its color")
    ax.plot(runs.step_size, 2 / runs.step_size, color="0.3", lw=1, label="2 / step size")
    ax.set(yscale="log", ylabel="sharpness at the end")
    ax.set_ylim(0.5 * float(runs.flattest_sharpness.min()), 400)
    ax.legend(fontsize=7)
    return ax


def _against_step_size(runs, name, ax):
    ends = usable(runs.isel(record=-1))
    for k, depth in enumerate(ends.depth.to_numpy()):
        some = ends[name].sel(depth=depth)
        _median_and_range(ax, ends.step_size, some, k, f"depth {depth}", along="step_size")
        critical = float(runs.critical_step_size.sel(depth=depth))
        ax.axvline(critical, color=color_of(k), ls=":", lw=1)
    ax.set(xscale="log", xlabel=AXES["step_size"])


def gap_against_sharpness(runs: xr.Dataset, ax: Axes) -> Axes:
    """Test loss above training loss against sharpness at the end, with lines of a fit."""
    for k, step_size, some in _by_step_size(runs):
        x, y = gaps(some)
        fit = gap_regression(some)
        label = f"{_name(step_size)}: slope {fit.slope:.2f} $\\pm$ {fit.stderr:.2f}"
        ax.plot(x, y, ".", ms=2, alpha=0.4, color=color_of(k))
        ends = np.array([np.min(x), np.max(x)])
        ax.plot(ends, 10**fit.intercept * ends**fit.slope, color=color_of(k), label=label)
    ax.set(xscale="log", yscale="log", xlabel="sharpness at the end")
    ax.set_ylabel("test loss $-$ training loss")
    ax.legend(fontsize=7)
    return ax


def verdicts(runs: xr.Dataset, ax: Axes) -> Axes:
    """How the runs of each step size and scale ended, as shares of the seeds."""
    step_sizes, scales = runs.step_size.to_numpy(), runs.scale.to_numpy()
    for row in range(len(step_sizes)):
        for column in range(len(scales)):
            left = column - 0.4
            cell = runs.status.isel(step_size=row, scale=column).to_numpy()
            cell = cell[cell >= 0]  # Others have not been run.
            for status, color in _VERDICTS.items():
                share = 0.8 * float((cell == status).mean())
                ax.barh(row, share, left=left, height=0.8, color=color)
                left += share
    for status, color in _VERDICTS.items():
        if (runs.status == status).any():
            ax.barh(0, 0, color=color, label=status.name.lower())
    ax.set_yticks(range(len(step_sizes)), [_name(s) for s in step_sizes])
    ax.set_xticks(range(len(scales)), [f"{s:.3g}" for s in scales])
    limits = {"xlim": (-0.6, len(scales) - 0.4), "ylim": (-0.6, len(step_sizes) + 0.4)}
    ax.set(xlabel=AXES["scale"], **limits)
    ax.legend(fontsize=7, ncols=5, loc="upper center")
    return ax


def loss_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """The loss above its floor in training time, flow beside descent."""
    _in_time(_middle(runs), "excess", ax)
    ax.set(yscale="log", ylabel="loss above the floor")
    ax.set_ylim(bottom=max(ax.get_ylim()[0], 1e-12))
    ax.legend(fontsize=7)
    return ax


def distance_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """The distance to the least-squares solution in training time, flow beside descent."""
    _in_time(_middle(runs), "distance", ax)
    ax.set(yscale="log", ylabel=r"$\|w - w_\star\|$")
    ax.legend(fontsize=7)
    return ax


def sharpness_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """The sharpness in training time, flow beside descent, with theory and 2/step size."""
    _in_time(_middle(runs), "sharpness", ax)
    for k, step_size, _ in _by_step_size(runs):
        if step_size:
            ax.axhline(2 / step_size, color=color_of(k), ls=":", lw=1)
    _theory_lines(runs, ax, bounds=False)
    ax.set(yscale="log", ylabel="sharpness")
    ax.legend(fontsize=7, ncols=2)
    return ax


def misalignment_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """How far the worst pair of neighboring layers is from aligned, in training time."""
    runs = _smallest(runs)
    worst = 1 - runs.alignment.min("pair", skipna=False)
    _in_time(runs.assign(worst=worst), "worst", ax)
    label = r"$1 - \min_k |\langle u_k, v_{k+1} \rangle|$"
    ax.set(yscale="log", ylabel=label)
    ax.legend(fontsize=7)
    return ax


def rank_one_gap_in_time(runs: xr.Dataset, ax: Axes) -> Axes:
    """How far the worst layer is from rank one, in training time, with the flow's bound."""
    runs = _smallest(runs)
    worst = runs.rank_one_gap.max("layer", skipna=False)
    _in_time(runs.assign(worst=worst), "worst", ax)
    if "rank_one_bound" in runs:
        bound = runs.rank_one_bound.isel(record=0, step_size=0, seed=0)
        ax.axhline(float(bound), color="0.3", ls="--", lw=1.2, label="bound for the flow")
    ax.set(yscale="log", ylabel=r"$\max_k\, \|W_k\|_F^2 - \|W_k\|_2^2$")
    ax.legend(fontsize=7)
    return ax


def sharpness_in_training(runs: xr.Dataset, ax: Axes) -> Axes:
    """The sharpness of each run in training time, with 2/step size."""
    _lines(runs, "sharpness", "time", ax)
    _limits(runs, ax)
    ax.set(xlabel=f"{AXES['time']}: steps x step size", ylabel="sharpness")
    ax.legend(fontsize=7, ncols=2)
    return ax


def sharpness_in_steps(runs: xr.Dataset, ax: Axes) -> Axes:
    """The sharpness of each run against the steps taken, with 2/step size."""
    _lines(runs, "sharpness", "step", ax)
    _limits(runs, ax)
    ax.set(xlabel=AXES["step"], ylabel="sharpness")
    ax.legend(fontsize=7)
    return ax


def loss_in_steps(runs: xr.Dataset, ax: Axes) -> Axes:
    """The loss of each run against the steps taken."""
    _lines(runs, "loss", "step", ax)
    ax.set(xlabel=AXES["step"], ylabel="loss: squared error of a sample")
    ax.legend(fontsize=7)
    return ax


def alignment_of_pairs(runs: xr.Dataset, ax: Axes) -> Axes:
    """Alignment of each pair of neighboring layers at the end, beside chance."""
    _profiles(runs, "alignment", "pair", ax)
    _chance(runs, ax)
    pairs = runs.pair.to_numpy()
    ax.set_xticks(pairs, [f"{k} and {k + 1}" for k in pairs])
    ax.set(xlabel=AXES["pair"], ylabel=_ALIGNMENT, ylim=(0, 1.05))
    ax.legend(fontsize=7)
    return ax


def coupling_of_layers(runs: xr.Dataset, ax: Axes) -> Axes:
    """Path coupling of each layer's Jacobians at the end, beside that of the start."""
    _profiles(runs, "coupling", "layer", ax)
    for k in range(runs.sizes["run"]):
        start = runs.coupling.isel(run=k, record=0).median("seed")
        ax.plot(runs.layer, start, color=color_of(k), ls=":", lw=1)
    ax.plot([], [], color="0.3", ls=":", lw=1, label="start, in its color")
    ax.set_xticks(runs.layer.to_numpy())
    ax.set(xlabel=AXES["layer"], ylabel=_COUPLING, ylim=(0, 1.05))
    ax.legend(fontsize=7)
    return ax


def end_sharpness_against_step_size(runs: xr.Dataset, ax: Axes) -> Axes:
    """Sharpness at the end against the step size, with 2/step size."""
    _ends(runs, runs.sharpness, ax)
    ax.plot(runs.step_size, 2 / runs.step_size, color="0.3", ls=":", label="2 / step size")
    ax.set(yscale="log", ylabel="sharpness at the end")
    ax.legend(fontsize=7)
    return ax


def end_loss_against_step_size(runs: xr.Dataset, ax: Axes) -> Axes:
    """Loss at the end against the step size."""
    _ends(runs, runs.loss, ax)
    ax.set(ylabel="loss at the end: squared error of a sample")
    ax.legend(fontsize=7)
    return ax


def end_alignment_against_step_size(runs: xr.Dataset, ax: Axes) -> Axes:
    """Mean alignment of neighboring layers at the end against the step size."""
    _ends(runs, runs.alignment.mean("pair"), ax)
    _chance(runs, ax)
    ax.set(ylabel=f"{_ALIGNMENT}, mean over pairs", ylim=(0, 1.05))
    ax.legend(fontsize=7)
    return ax


def end_coupling_against_step_size(runs: xr.Dataset, ax: Axes) -> Axes:
    """Mean path coupling of the layers' Jacobians at the end against the step size."""
    coupling = runs.coupling.mean("layer")
    _ends(runs, coupling, ax)
    for k in range(runs.sizes["depth"]):
        start = coupling.isel(depth=k, record=0, step_size=0).median("seed")
        ax.axhline(float(start), color=color_of(k), ls=":", lw=1)
    ax.plot([], [], color="0.3", ls=":", lw=1, label="start, in its color")
    ax.set(ylabel=f"{_COUPLING}, mean over layers", ylim=(0, 1.05))
    ax.legend(fontsize=7)
    return ax


_ALIGNMENT = r"alignment $|\langle u_k, v_{k+1} \rangle|$"
_COUPLING = "path coupling of Jacobians"


def _ends(runs: xr.Dataset, values: xr.DataArray, ax: Axes):
    """Ends of each depth against the step size; crosses above where runs diverged."""
    ends = usable(runs.assign(values=values).isel(record=-1))
    for k, depth in enumerate(runs.depth.to_numpy()):
        some = ends["values"].sel(depth=depth)
        _median_and_range(ax, runs.step_size, some, k, f"depth {depth}", "step_size")
        bad = (runs.status.sel(depth=depth) == Status.DIVERGED).any("seed").to_numpy()
        for step_size in runs.step_size.to_numpy()[bad]:
            place = {"transform": ax.get_xaxis_transform(), "color": color_of(k)}
            ax.plot(step_size, 0.97, "x", **place)
    if (runs.status == Status.DIVERGED).any():
        ax.plot([], [], "x", color="0.3", label="diverged")
    ax.set(xscale="log", xlabel=AXES["step_size"])


def _lines(runs: xr.Dataset, name: str, along: str, ax: Axes):
    """Each run, the first seed as a line, the others faint; to a cross if it diverged."""
    ax.set(xscale="log", yscale="log")
    # What diverges would leave the others a line.
    seen = usable(runs)[name].where(runs.record > 0)
    top = 2 * float(seen.max()) if seen.notnull().any() else float("inf")
    if top < float("inf"):
        ax.set_ylim(float(seen.min()) / 2, 12 * top)  # With room for a legend.
    for k, label in enumerate(runs.run.to_numpy()):
        for seed in reversed(range(runs.sizes["seed"])):
            one = runs.isel(run=k, seed=seed)
            there = np.isfinite(one[name].to_numpy())
            there[0] = False  # The start, which has no place on a logarithmic axis.
            x, y = one[along].to_numpy()[there], one[name].to_numpy()[there]
            [line] = ax.plot(x, y, color=color_of(k), lw=1.5)
            if seed:
                line.set(lw=0.5, alpha=0.3)
            else:
                line.set_label(label)
            if one.status == Status.DIVERGED:
                ax.plot(x[-1:], y[-1:].clip(max=top), "x", color=color_of(k))
    if (runs.status == Status.DIVERGED).any():
        ax.plot([], [], "x", color="0.3", label="last record of what diverged")


def _limits(runs: xr.Dataset, ax: Axes):
    for k, limit in enumerate(runs.limit.to_numpy()):
        ax.axhline(limit, color=color_of(k), ls=":", lw=1)
    ax.plot([], [], color="0.3", ls=":", lw=1, label="2 / step size, in its color")


def _profiles(runs: xr.Dataset, name: str, along: str, ax: Axes):
    """An observable of each layer, or pair of layers, at the end of each run."""
    ends = usable(runs.isel(record=-1))[name]
    for k, label in enumerate(runs.run.to_numpy()):
        _median_and_range(ax, runs[along], ends.isel(run=k), k, label, along)


def _chance(runs: xr.Dataset, ax: Axes):
    level = float(runs.chance.max())
    ax.axhline(
        level, color="0.3", ls="--", lw=1.2, label="random layers (root mean square)"
    )


def _in_time(runs: xr.Dataset, name: str, ax: Axes):
    """The first seed as a line and the others as faint ones."""
    for k, step_size, some in _by_step_size(runs):
        for seed in reversed(runs.seed.to_numpy()):
            one = some.sel(seed=seed)
            time = one.time.where(np.isfinite(one.time))
            [line] = ax.plot(time[1:], one[name][1:], color=color_of(k), lw=1.5)
            if seed == runs.seed[0]:
                line.set_label(_name(step_size))
            else:
                line.set(lw=0.5, alpha=0.3)
    start = f", from scale {float(runs.scale):g}" if "scale" in runs.coords else ""
    ax.set(xscale="log", xlabel=f"{AXES['time']}{start}")


def _middle(runs: xr.Dataset) -> xr.Dataset:
    return runs.isel(scale=len(runs.scale) // 2) if "scale" in runs.dims else runs


def _smallest(runs: xr.Dataset) -> xr.Dataset:
    """The smallest scale that is random at all."""
    return runs.isel(scale=int(np.argmax(runs.scale.to_numpy() > 0)))


def _by_step_size(runs: xr.Dataset):
    for k, step_size in enumerate(runs.step_size.to_numpy()):
        yield k, float(step_size), usable(runs.sel(step_size=step_size))


def _median_and_range(ax: Axes, x, values, k: int, label: str, along: str = "scale"):
    there = values.notnull().any("seed")
    x, values = x[there.to_numpy()], values.sel({along: there})
    if not len(x):
        return
    middle = values.median("seed")
    spread = np.abs(np.stack([middle - values.min("seed"), values.max("seed") - middle]))
    style = {"color": color_of(k), "marker": MARKERS[k % len(MARKERS)], "ms": 4, "lw": 1.2}
    ax.errorbar(x, middle, spread, capsize=2, elinewidth=0.7, label=label, **style)


def _theory_lines(runs: xr.Dataset, ax: Axes, *, bounds: bool = True):
    attrs = runs.attrs
    if "sharpness_lower_bound" not in attrs:
        return
    if bounds:
        low = attrs["sharpness_lower_bound"]
        ax.axhline(low, color="0.75", lw=1.2, label="lower bound of the paper")
        if high := attrs.get("small_start_sharpness_bound"):
            label = "bounds for small starts"
            ax.axhspan(low, high, color="0.93", zorder=0, label=label)
    label = "flattest minimizer"
    ax.axhline(attrs["flattest_sharpness"], color="0.3", ls="--", lw=1.2, label=label)
    label = "balanced minimizer"
    ax.axhline(attrs["balanced_sharpness"], color="0.3", ls="-.", lw=1.0, label=label)


def _name(step_size: float) -> str:
    return f"step size {step_size:g}" if step_size else "gradient flow"
