"""Figures of how wide minima are: a dataset in, panels out."""

import itertools as it
from typing import Any

import numpy as np
import xarray as xr

from ...plotting.axes import AXES
from ...plotting.palette import MARKERS, color_of


def binary(runs: xr.Dataset, axes: Any):
    """Errors of ground states by load, and the entropy around references."""
    errors, around = axes
    for k, strength in enumerate(runs.strength.to_numpy()):
        error = runs.error.sel(strength=strength)
        label = f"$\\gamma$ = {strength:g}"
        errors.plot(runs.alpha, error.where(error > 0), color=color_of(k + 1), label=label)
    errors.set(yscale="log", xlabel=AXES["alpha"])
    # They fall faster than exponentially, to where floats end.
    errors.set(ylim=(1e-8, 0.5))
    errors.set(ylabel="training error of the minimizer of cross-entropy")
    for k, reference in enumerate(runs.reference.to_numpy()):
        for at, style in zip(runs["at"].to_numpy(), ("-", "--"), strict=True):
            line = runs.entropy.sel(reference=reference, at=at)
            words = "typical" if reference == "typical" else f"$\\gamma$ = {reference}"
            label = f"{words}, $\\alpha$ = {at:g}"
            around.plot(runs.distance, line, color=color_of(k), ls=style, label=label)
    around.plot(runs.distance, runs.bound, color="0.3", ls=":", label="all weights")
    around.set(
        xscale="log", xlabel=AXES["distance"], ylabel="entropy of solutions at a distance"
    )
    for axis in axes:
        axis.legend(fontsize=7)


def replicas(runs: xr.Dataset, axes: Any):
    """Normalized entropies by distance, for signs and for ReLU units."""
    lowest = float(runs.entropy.min())
    for axis, units in zip(axes, runs.units.to_numpy(), strict=True):
        for k, curve in enumerate(runs.curve.to_numpy()):
            style = {"typical": ":", "widest": "--"}.get(curve, "-")
            line = runs.entropy.sel(units=units, curve=curve)
            axis.plot(runs.distance, line, color=color_of(k), ls=style, label=curve)
        axis.set(xscale="log", xlabel=AXES["distance"], ylim=(1.05 * lowest, 0.02))
        axis.set(ylabel="entropy above that of all weights", title=f"{units}, many units")
        axis.legend(fontsize=7)


def references(runs: xr.Dataset, axes: Any):
    """Theory as lines, and measurements as points with standard errors."""
    volumes, energies, costs, errors, *of_units = axes
    colors = _colors(runs)
    for units, (volume, energy) in zip(
        runs.units.to_numpy(), ((volumes, energies), of_units), strict=True
    ):
        _theory_around(runs.sel(units=units), volume, energy)
    for axis in of_units:
        axis.set_title("theory of a committee of many ReLU units", fontsize=9)
    for strength in runs.strength.to_numpy():
        some, k = runs.sel(strength=strength), colors[f"{strength:g}"]
        for x, values, axis in (
            (runs.seen, some.entropy, volumes),
            (runs.radius, some.energy, energies),
        ):
            error = values.std("seed") / max(values.sizes["seed"] - 1, 1) ** 0.5
            style = {"color": color_of(k), "ls": "", "marker": MARKERS[k], "ms": 4}
            axis.errorbar(x, values.mean("seed"), error, capsize=2, **style)
    _costs(runs, costs)
    _training_errors(runs, errors)
    for axis in (volumes, energies, errors):
        axis.set_title("lines: theory; points: 301 inputs and patterns", fontsize=9)
    for axis in axes:
        axis.legend(fontsize=7)


def _colors(runs):
    """Of references: none of typical and widest, which are told by their dashes."""
    plain = ("typical", "widest")
    others = [name for name in runs.reference.to_numpy() if name not in plain]
    return dict.fromkeys(plain, 0) | {name: k for k, name in enumerate(others, start=1)}


def _theory_around(runs, volumes, energies):
    """Entropies and local energies of one kind of units."""
    colors = _colors(runs)
    for reference in runs.reference.to_numpy():
        line, k = runs.exact_entropy.sel(reference=reference), colors[reference]
        words = f"$\\gamma$ = {reference}" if k else reference
        style = {"typical": ":", "widest": "--"}.get(reference, "-")
        volumes.plot(runs.distance, line, color=color_of(k), ls=style, label=words)
    for strength in runs.strength.to_numpy():
        line, k = runs.exact_energy.sel(strength=strength), colors[f"{strength:g}"]
        label = f"$\\gamma$ = {strength:g}"
        energies.plot(runs.radius, line, color=color_of(k), label=label)
    volumes.set(
        xscale="log", xlabel=AXES["distance"], ylabel="entropy above that of all weights"
    )
    _by_radius(runs.radius, energies)
    energies.set(yscale="log", ylim=(1e-6, 0.5))
    energies.set(ylabel="errors with noise on the weights")


def _costs(runs, axis):
    """What a pattern costs, by its output."""
    outputs = np.linspace(-1.5, 1.5, 301)
    colors = _colors(runs)
    for strength in runs.strength.to_numpy():
        k = colors[f"{strength:g}"]
        cost = np.logaddexp(0, -2 * strength * outputs) / (2 * strength)
        label = f"$\\gamma$ = {strength:g}"
        axis.plot(outputs, cost, color=color_of(k), label=label)
    hinge, label = np.maximum(0, -outputs), r"$\gamma \to \infty$"
    axis.plot(outputs, hinge, color="0.3", ls=":", label=label)
    axis.set(xlabel="output $x$ times label", ylabel=r"cross-entropy $f_\gamma(x)$")


def _training_errors(runs, axis):
    """Of minimizers on their patterns; where none are wrong, at the lower end."""
    lowest, seen = 1e-5, runs.training_errors
    mean, count = seen.mean("seed"), seen.sizes["seed"]
    error = seen.std("seed") / max(count - 1, 1) ** 0.5
    some, style = mean > 0, {"color": color_of(1), "ls": "", "marker": "o", "ms": 4}
    axis.plot(runs.robustness, runs.exact_errors, color="0.3", label="theory")
    axis.errorbar(
        runs.robustness[some], mean[some], error[some], capsize=2, label="descents", **style
    )
    if not some.all():
        none = runs.robustness[~some]
        style |= {"mfc": "white", "clip_on": False, "label": "descents, none wrong"}
        axis.plot(none, np.full(none.shape, lowest), **style)
    axis.set(xscale="log", yscale="log", ylim=(lowest, 0.2))
    ticks = (0.5, 1, 2)
    axis.set_xticks(ticks, [f"{s:g}" for s in ticks])
    axis.minorticks_off()
    axis.set(xlabel=AXES["robustness"], ylabel="training error of the minimizer")


def algorithms(runs: xr.Dataset, axes: Any):
    """Local energy by radius, and trace and sharpness of the Hessian."""
    profile, bends = axes
    solved = runs.where(runs.solved == 1)
    for k, name in enumerate(runs.algorithm.to_numpy()):
        some = solved.sel(algorithm=name)
        shape = MARKERS[(k + k // len(MARKERS)) % len(MARKERS)]
        style = {"color": color_of(k), "marker": shape, "ms": 4}
        if k >= len(MARKERS):
            style |= {"mfc": "white"}
        count = int(runs.solved.sel(algorithm=name).sum())
        label = f"{name} ({count} of {runs.sizes['seed']})"
        energy = some.local_energy
        error = energy.std("seed") / max(count - 1, 1) ** 0.5
        profile.errorbar(runs.radius, energy.mean("seed"), error, label=label, **style)
        bends.plot(some.trace, some.sharpness, ls="", label=name, **style)
    _by_radius(runs.radius, profile)
    profile.set(ylabel="local energy (means of solved problems)")
    bends.set(
        xscale="log", yscale="log", xlabel="trace of the Hessian at $\\beta=\\gamma=2$"
    )
    bends.set(ylabel="its largest eigenvalue")
    for axis in axes:
        axis.legend(fontsize=7)


def entropy(runs: xr.Dataset, axes: Any):
    """The volume of solutions around those found, and the eigenvalues of the Hessian."""
    volumes, spectrum = axes
    solved = runs.where(runs.solved == 1)
    known = solved.entropy.where(solved.reliable == 1)
    # Even where they are small, and logarithmic where they are large.
    small, found = 1e-3, runs.eigenvalues
    low, high = (
        np.arcsinh(float(found.min()) / small),
        np.arcsinh(float(found.max()) / small),
    )
    edges = small * np.sinh(np.linspace(low, high, 41))
    for k, name in enumerate(runs.algorithm.to_numpy()):
        some, values = known.sel(algorithm=name), solved.eigenvalues.sel(algorithm=name)
        count = some.count("seed")
        error = some.std("seed") / np.sqrt(np.maximum(count - 1, 1))
        style = {"color": color_of(k), "marker": MARKERS[k], "ms": 4, "capsize": 2}
        total = int(runs.solved.sel(algorithm=name).sum())
        label = f"{name} ({int(count.sel(distance=0.05))} of {total})"
        volumes.errorbar(runs.distance, some.mean("seed"), error, label=label, **style)
        values = values.to_numpy().ravel()
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        spectrum.stairs(counts / max(total, 1), edges, color=color_of(k), label=name)
    ticks = runs.distance.to_numpy()
    volumes.set(
        xscale="log", xlabel=AXES["distance"], ylabel="entropy above that of all weights"
    )
    volumes.set_xticks(ticks, [f"{d:g}" for d in ticks])
    volumes.minorticks_off()
    volumes.set_title("means of the volumes found, and their number at 0.05", fontsize=9)
    spectrum.set_xscale("asinh", linear_width=small)
    spectrum.set_xticks([-1e-2, -1e-3, 0, 1e-3, 1e-2])
    spectrum.set(yscale="log", xlabel="eigenvalue of the Hessian at $\\beta=\\gamma=2$")
    spectrum.set(ylabel="how many, of a solution")
    for axis in axes:
        axis.legend(fontsize=7)


def _by_radius(radii, axis):
    axis.set(xscale="log", xlabel=AXES["radius"])
    axis.set_xticks(radii.to_numpy(), [f"{r:g}" for r in radii.to_numpy()])
    axis.minorticks_off()


def loads(runs: xr.Dataset, axes: Any):
    """Which share of problems is solved, and how many errors are left."""
    share, errors = axes
    for k, name in enumerate(runs.algorithm.to_numpy()):
        some = runs.sel(algorithm=name)
        style = {"color": color_of(k), "marker": MARKERS[k], "ms": 4, "label": name}
        share.plot(runs.alpha, some.solved.mean("seed"), **style)
        errors.plot(runs.alpha, some.errors.mean("seed"), **style)
    share.set(ylabel="share of problems that are solved", ylim=(-0.03, 1.03))
    errors.set(ylabel="errors at the end")
    for axis in axes:
        axis.set(xlabel=AXES["alpha"])
        axis.legend(fontsize=7)


def generalization(runs: xr.Dataset, axes: Any):
    """Test error against local energy, and by algorithm."""
    scatter, bars = axes
    runs = runs.where(runs.local_energy.notnull())
    for k, name in enumerate(runs.algorithm.to_numpy()):
        for marker, problem in zip(MARKERS, runs.problem.to_numpy(), strict=False):
            some = runs.sel(algorithm=name, problem=problem)
            label = f"{name}, {problem}"
            style = {"color": color_of(k), "marker": marker, "ms": 4, "ls": ""}
            solved = some.where(some.solved == 1)
            scatter.plot(solved.local_energy, solved.test, label=label, **style)
            rest = some.where(some.solved == 0)
            scatter.plot(rest.local_energy, rest.test, mfc="white", **style)
    for marker, problem in zip(MARKERS, runs.problem.to_numpy(), strict=False):
        test = runs.test.sel(problem=problem)
        middle, places = test.mean("seed"), np.arange(test.sizes["algorithm"])
        spread = np.abs(np.stack([middle - test.min("seed"), test.max("seed") - middle]))
        bars.errorbar(places, middle, spread, marker=marker, capsize=3, label=problem)
    bars.set_xticks(places, runs.algorithm.to_numpy(), fontsize=8)
    bars.set(ylabel="test error (means and ranges)", ylim=(0, None))
    scatter.set(xlabel="local energy at radius 0.2", ylabel="test error")
    scatter.set_title("white: patterns to learn are left", fontsize=9)
    for axis in axes:
        axis.legend(fontsize=6)


def parity(runs: xr.Dataset, axes: Any):
    """Local energies of both machines, and the entropy around typical solutions."""
    profile, cusp = axes
    styles = dict(zip(runs.machine.to_numpy(), ("-", "--"), strict=True))
    cases = it.product(*(runs[axis].to_numpy() for axis in ("width", "algorithm")))
    for k, (width, name) in enumerate(cases, start=1):
        for machine, style in styles.items():
            some = runs.sel(algorithm=name, machine=machine, width=width)
            energy = some.local_energy.where(some.errors == 0).mean("seed")
            label = f"{machine} of {width}, {name}"
            profile.plot(runs.radius, energy, style, color=color_of(k), label=label)
    for k, curve in enumerate(runs.curve.to_numpy()):
        line = runs.entropy.sel(curve=curve)
        cusp.plot(runs.distance, line, color=color_of(k), label=curve)
    _by_radius(runs.radius, profile)
    profile.set(ylabel="local energy (means of solved problems)")
    cusp.set(xlabel=AXES["distance"], ylabel="entropy above that of all weights")
    for axis in axes:
        axis.legend(fontsize=7)
