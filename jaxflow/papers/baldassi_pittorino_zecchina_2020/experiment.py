r"""How wide the minima are that algorithms find in two-class problems, beside theory.

Baldassi, Pittorino & Zecchina (2020): networks that store random patterns have a few very
wide flat minima among many narrow ones. Minimizers of the cross-entropy are in them, and so
are the solutions of algorithms that are made to find them. Replica theory and measurements
share their axes.
"""

import dataclasses
import functools as ft
import itertools as it
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import xarray as xr
from scipy.stats import spearmanr

import jaxflow as jf

from .._experiment import Experiment, Part, Plan, run_concurrently
from ..data import Classes, load_classes
from . import figures as draw, searches

RADII = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)


def run(
    *,
    only: tuple[str, ...] | None = None,
    data: str = "digits",
    labels: str | None = None,
    classes: tuple[str, str] | None = None,
    hidden: int = 5,
    inputs: int = 205,
    load: float = 0.6,
    seeds: int | None = None,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Wide flat minima of shallow networks: who finds them, and what theory says.

    Args:
        only: Some of `binary`, `replicas`, `references`, `algorithms`, `entropy`, `loads`,
            `generalization` and `parity`. By default all of them.
        data: For the generalization: `digits` (shipped with scikit-learn; even or odd), or
            the path of a file of samples: `.npy`, `.npz`, `.csv`, or IDX (`.gz` or not).
        labels: For a file, that of its labels, of the same formats.
        classes: For a file, the two labels to tell apart, if there are more.
        hidden: For `algorithms` and `loads`, units of the committee, an odd number. All
            other parts have sizes of their own.
        inputs: Its inputs, a multiple of that.
        load: For `algorithms`, its patterns for each input.
        seeds: Random problems, instead of 4 (8 for the references).
        seed: Which random numbers.
        quick: Fewer curves, algorithms and seeds: a look.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each part.

    Raises:
        ValueError: If an argument is out of range, or the data are not numbers with two
            labels.
    """
    names = EXPERIMENT.choose(only)
    if not load > 0 or int(load * inputs) < 1:
        raise ValueError(
            f"`load` must be positive, and give at least one pattern, but is {load} for "
            f"{inputs} inputs."
        )
    jf.init.committee(hidden, inputs, key=jax.random.key(0))  # Whether there is one.
    loaded = None
    if "generalization" in names:
        loaded = load_classes(data, labels=labels, classes=classes)
        progress(loaded.description)
    key = jax.random.key(seed)
    plan = _Plan(key, seeds, quick, sweep, loaded, hidden, inputs, load)
    return EXPERIMENT.run(only, plan, progress)


def headline(tree: xr.DataTree) -> str:
    """What theory predicts, in a few lines."""
    del tree
    return (
        "Local energy: the share of patterns that noise of a radius on the weights makes "
        "wrong.\nTheory: typical solutions are isolated; minimizers of the cross-entropy "
        "of robustness 2 to 5 are nearly as wide as any can be;\nReLU units have wider "
        "ones than signs."
    )


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
    """What all parts share, and what committees learn."""

    data: Classes | None
    hidden: int
    inputs: int
    load: float

    def each(self, name: str, run, algorithms, **grid) -> xr.Dataset:
        """A sweep of its own for each algorithm, which is the first argument of `run`."""

        def one(algorithm):
            words = f"{name}, {algorithm}".replace(", ", "-").replace(" ", "-")
            runs = self(words, ft.partial(run, algorithm), **grid)
            return runs.expand_dims(algorithm=[algorithm])

        # Each waits for a process that compiles.
        found = run_concurrently(ft.partial(one, algorithm) for algorithm in algorithms)
        return xr.concat(found, "algorithm", data_vars="all")


def _kernel(name: str) -> Any:
    return getattr(jf.papers.baldassi_pittorino_zecchina_2020, name)()


def _binary(plan: _Plan) -> xr.Dataset:
    """Theory of the binary perceptron."""
    theory = jf.papers.baldassi_pittorino_zecchina_2020
    strengths = (1.0, 3.0) if plan.quick else (0.5, 1.0, 2.0, 3.0, 5.0)
    loads = np.arange(0.1, 0.86, 0.25 if plan.quick else 0.05)
    distances = np.geomspace(0.005, 0.3, 8 if plan.quick else 20)
    kernel, options = _kernel("Perceptron"), {"weights": "binary"}
    errors = [
        [
            float(theory.cross_entropy_minimizer(kernel, a, g, **options).error)
            for a in loads
        ]
        for g in strengths
    ]
    around, names = [], ["typical", *(f"{g:g}" for g in strengths if g >= 1)]
    for reference in names:
        strength = None if reference == "typical" else float(reference)
        curve = lambda a, s=strength: (
            theory.franz_parisi(kernel, a, distances, strength=s, **options).entropy
        )
        around.append([np.asarray(curve(a)) for a in (0.4, 0.6)])
    bound = -distances * np.log(distances) - (1 - distances) * np.log1p(-distances)
    return xr.Dataset(
        {
            "error": (("strength", "alpha"), np.array(errors)),
            "entropy": (("reference", "at", "distance"), np.array(around)),
            "bound": ("distance", bound),
        },
        {"strength": list(strengths), "alpha": loads, "distance": distances}
        | {"reference": np.array(names, object), "at": [0.4, 0.6]},
    )


def _replicas(plan: _Plan) -> xr.Dataset:
    """Theory of replicas, at one pattern for each weight."""
    theory = jf.papers.baldassi_pittorino_zecchina_2020
    distances = np.geomspace(0.005, 0.1, 6 if plan.quick else 15)
    numbers = (2, 20) if plan.quick else (2, 5, 20, 100)
    kernels = {"signs": _kernel("SignUnits"), "ReLU": _kernel("ReLUUnits")}
    curves = {
        "typical": lambda k: theory.franz_parisi(k, 1.0, distances).normalized,
        **{
            f"{y} replicas": ft.partial(
                lambda k, y: theory.replica_entropy(k, 1.0, distances, y).normalized, y=y
            )
            for y in numbers
        },
        "widest": lambda k: theory.widest_entropy(k, 1.0, distances),
    }
    found = [[np.asarray(f(k)) for f in curves.values()] for k in kernels.values()]
    return xr.Dataset(
        {"entropy": (("units", "curve", "distance"), np.array(found))},
        {"units": np.array(list(kernels), object), "distance": distances}
        | {"curve": np.array(list(curves), object)},
    )


def _references(plan: _Plan) -> xr.Dataset:
    """Theory, and descents of a perceptron to the minimum of its cross-entropy."""
    theory = jf.papers.baldassi_pittorino_zecchina_2020
    kernel, inputs, steps = _kernel("Perceptron"), 301, 1_000 if plan.quick else 4_000
    strengths = (1.0, 2.0) if plan.quick else (1.0, 2.0, 5.0)
    robustness = np.geomspace(0.5, 2, 9)
    distances = np.geomspace(0.005, 0.1, 6 if plan.quick else 15)
    seen, radii = np.array([0.0125, 0.025, 0.05]), np.array(RADII)
    cooling = {"stages": 20, "sweeps": 10} if plan.quick else {}

    def descend(key, strength):
        data, start = jr.split(key)
        patterns = jf.committee.random_patterns(inputs, inputs, key=data)
        loss = jf.committee.Classification(patterns.x, patterns.y, robustness=strength)
        network = jf.init.committee(1, inputs, unit=None, key=start)
        optimizer = optax.chain(optax.sgd(0.3 * inputs), jf.committee.fixed_row_norms())
        options = {"optimizer": optimizer, "every": steps}
        return loss, jf.gradient_descent(loss, network, steps, **options).network

    def train(key, robustness):
        loss, end = descend(key, robustness)
        return {"training_errors": loss.errors(end)}

    def minimize(key, strength):
        loss, end = descend(key, strength)
        # Errors, and not their rise: what theory speaks of.
        energy = jf.committee.local_energy(loss, end, radius=radii) + loss.errors(end)
        volume = jf.committee.local_entropy(loss, end, distance=seen, **cooling)
        return {
            "energy": energy,
            "entropy": jnp.where(volume.reliable, volume.entropy, jnp.nan),
            "errors": loss.errors(end),
        }

    axes, count = {"strength": strengths}, plan.count(8)
    runs = plan("references", minimize, seeds=count, axes=axes)
    axes = {"robustness": robustness}
    trained = plan("references-training", train, seeds=count, axes=axes)
    runs = runs.assign(training_errors=trained.training_errors)
    runs = runs.rename(energy_0="radius", entropy_0="seen")
    kernels = {"perceptron": kernel, "ReLU": _kernel("ReLUUnits")}
    around = strengths if plan.quick else (0.5, *strengths, 50.0)
    curve = lambda k, s: theory.franz_parisi(k, 1.0, distances, strength=s).normalized
    exact = [
        [np.asarray(curve(k, s)) for s in (None, *around)]
        + [np.asarray(theory.widest_entropy(k, 1.0, distances))]
        for k in kernels.values()
    ]
    names = np.array(["typical", *(f"{s:g}" for s in around), "widest"], object)
    profile = lambda k, s: np.asarray(theory.local_energy(k, 1.0, s, radii))
    lines = [[profile(k, s) for s in strengths] for k in kernels.values()]
    least = lambda s: theory.cross_entropy_minimizer(kernel, 1.0, s).error
    theories = {
        "exact_errors": ("robustness", np.asarray(jax.vmap(least)(robustness))),
        "exact_entropy": (("units", "reference", "distance"), np.array(exact)),
        "exact_energy": (("units", "strength", "radius"), np.array(lines)),
    }
    coords = {"reference": names, "distance": distances, "radius": radii, "seen": seen}
    coords["units"] = np.array(list(kernels), object)
    return runs.merge(xr.Dataset(theories)).assign_coords(coords)


def _algorithms(plan: _Plan) -> xr.Dataset:
    """All algorithms on the same random problems."""
    samples, radii = int(plan.load * plan.inputs), jnp.array(RADII)
    hidden, inputs = plan.hidden, plan.inputs
    names = searches.ALGORITHMS if plan.quick else searches.ALGORITHMS + searches.BASELINES

    def search(algorithm, key):
        data, start, way = jr.split(key, 3)
        loss = jf.committee.random_patterns(samples, inputs, key=data)
        network = jf.init.committee(hidden, inputs, key=start)
        options = {"key": way, "most": 1_000, "radii": radii}
        return searches.measured(algorithm, loss, network, **options)

    runs = plan.each("algorithms", search, names, seeds=plan.count(4))
    size = {"hidden": hidden, "inputs": inputs, "load": plan.load}
    runs = runs.rename(local_energy_0="radius").assign_coords(radius=list(RADII))
    return runs.assign_attrs(size)


def _entropy(plan: _Plan) -> xr.Dataset:
    """Solutions, of a problem that is small enough, with all that is around them."""
    # Always of this size, whatever `hidden`, `inputs` and `load` are. The cost of a volume
    # grows with inputs times patterns, and its logarithm with the inputs, so that few
    # walkers survive; and the Hessian is dense. Of larger networks `algorithms` tells what
    # is cheap. Least action has a volume that can be found at the first distance only.
    hidden, inputs, samples = 5, 205, 123
    distances, cooling = jnp.array([0.0025, 0.0125, 0.05]), {}
    names = searches.ALGORITHMS
    if plan.quick:
        distances, cooling = distances[2:], {"stages": 20, "sweeps": 10}
        names = (searches.SLOW, searches.FOCUSING)

    def search(algorithm, key):
        data, start, way = jr.split(key, 3)
        loss = jf.committee.random_patterns(samples, inputs, key=data)
        network = jf.init.committee(hidden, inputs, key=start)
        end = searches.find(algorithm, loss, network, key=way, most=1_000).network
        return searches.surroundings(loss, end, distance=distances, **cooling)

    runs = plan.each("entropy", search, names, seeds=plan.count(4))
    reliable = runs.reliable.rename(reliable_0="distance")
    runs = runs.rename(entropy_0="distance", eigenvalues_0="rank")
    return runs.assign(reliable=reliable).assign_coords(distance=np.asarray(distances))


def _loads(plan: _Plan) -> xr.Dataset:
    """Which algorithms solve how many problems, by load."""
    names = (searches.LEAST_ACTION, searches.SLOW, searches.FOCUSING)
    names = names[2:] if plan.quick else names
    hidden, inputs = plan.hidden, plan.inputs
    loads = (1.0, 2.2) if plan.quick else (0.6, 1.0, 1.4, 1.8, 2.2)

    def search(algorithm, key, alpha):
        data, start, way = jr.split(key, 3)
        loss = jf.committee.random_patterns(int(alpha * inputs), inputs, key=data)
        network = jf.init.committee(hidden, inputs, key=start)
        options = {"key": way, "most": 1_000, "patience": 15}
        run = searches.find(algorithm, loss, network, **options)
        return {"errors": loss.errors(run.network), "solved": loss.solved(run.network)}

    return plan.each("loads", search, names, seeds=plan.count(4), static={"alpha": loads})


def _generalization(plan: _Plan) -> xr.Dataset:
    """Committees whose units see all inputs, on problems that can be learned."""
    assert plan.data is not None
    images, classes = jnp.asarray(plan.data.x), jnp.asarray(plan.data.y)
    names = searches.ALGORITHMS[:-1]
    problems = ("mixture",) if plan.quick else ("mixture", "teacher", "data")
    hidden, inputs, samples, unseen = 9, 201, 300, 1_000
    train = min(500, len(images) // 2)

    def patterns(problem, key):
        """Patterns to learn, and others."""
        if problem == "mixture":
            shared, *keys = jr.split(key, 3)
            make = ft.partial(jf.committee.mixture_patterns, inputs=inputs, data_key=shared)
            return tuple(
                make(n, key=k) for n, k in zip((samples, unseen), keys, strict=True)
            )
        if problem == "teacher":
            shared, *keys = jr.split(key, 3)
            teacher = jf.init.committee(1, inputs, tree=False, unit=None, key=shared)
            sizes = zip((samples, unseen), keys, strict=True)
            return tuple(
                jf.committee.teacher_patterns(n, teacher, inputs, key=k) for n, k in sizes
            )
        order = jr.permutation(key, len(images))
        parts = order[:train], order[train:]
        return tuple(jf.committee.Classification(images[p], classes[p]) for p in parts)

    def search(algorithm, key, problem):
        data, start, way = jr.split(key, 3)
        loss, rest = patterns(problem, data)
        network = jf.init.committee(hidden, loss.x.shape[1], tree=False, key=start)
        run = searches.find(algorithm, loss, network, key=way, most=400)
        energy = jf.committee.local_energy(loss, run.network, radius=jnp.asarray(0.2))
        return {
            "train": loss.errors(run.network),
            "solved": loss.solved(run.network),
            "test": rest.errors(run.network),
            "local_energy": energy,
        }

    static = {"problem": problems}
    runs = plan.each("generalization", search, names, seeds=plan.count(4), static=static)
    return runs.assign_attrs(data=plan.data.description)


def _parity(plan: _Plan) -> xr.Dataset:
    """The same patterns for a committee and a parity machine."""
    theory = jf.papers.baldassi_pittorino_zecchina_2020
    widths, inputs, load, radii = (3, 7), 315, 0.5, jnp.array(RADII)
    distances = np.linspace(0, 0.1, 41)

    def search(key, algorithm, machine, width):
        data, start, way = jr.split(key, 3)
        loss = jf.committee.random_patterns(int(load * inputs), inputs, key=data)
        vote = {"committee": "sum", "parity": "product"}[machine]
        network = jf.init.committee(width, inputs, vote=vote, key=start)
        run = searches.find(algorithm, loss, network, key=way, most=1_000)
        energy = jf.committee.local_energy(loss, run.network, radius=radii)
        return {"errors": loss.errors(run.network), "local_energy": energy}

    static = {"machine": ("committee", "parity"), "width": widths}
    static["algorithm"] = (searches.LEAST_ACTION, searches.ENTROPIC)
    runs = plan("parity", search, seeds=plan.count(4), static=static)
    some = distances[1:]
    lines = [
        *(theory.parity_entropy(width, load, some) for width in widths),
        theory.franz_parisi(_kernel("SignUnits"), load, some).normalized,
        theory.widest_entropy(_kernel("SignUnits"), load, some),
    ]
    names = [f"parity of {width}, typical" for width in widths]
    names += ["committee of many, typical", "committee of many, widest"]
    lines = xr.Dataset(
        {"entropy": (("curve", "distance"), np.array([np.asarray(x) for x in lines]))},
        {"curve": np.array(names, object), "distance": some},
    )
    runs = runs.rename(local_energy_0="radius").assign_coords(radius=list(RADII))
    return runs.merge(lines)


def _binary_rows(runs):
    for strength in runs.strength.to_numpy():
        errors = runs.error.sel(strength=strength)
        yield {
            "case": f"ground state, robustness {strength:g}",
            "finding": f"errors {float(errors[0]):.1e} at load {float(runs.alpha[0]):.2g} "
            f"to {float(errors[-1]):.2g} at {float(runs.alpha[-1]):.2g}",
        }
    near = runs.entropy.sel(distance=0.02, method="nearest")
    for reference in runs.reference.to_numpy():
        values = ", ".join(
            f"{float(near.sel(reference=reference, at=a)):.4f} at load {a:g}"
            for a in runs["at"].to_numpy()
        )
        at = float(near.distance)
        yield {"case": f"around {reference}", "finding": f"entropy at {at:.3f}: {values}"}


def _replicas_rows(runs):
    near = runs.entropy.sel(distance=0.025, method="nearest")
    for curve in runs.curve.to_numpy():
        values = ", ".join(
            f"{unit} {float(near.sel(curve=curve, units=unit)):.4f}"
            for unit in runs.units.to_numpy()
        )
        at = float(near.distance)
        yield {"case": curve, "finding": f"normalized entropy at {at:.3f}: {values}"}


def _references_rows(runs):
    for strength in runs.strength.to_numpy():
        some = runs.sel(strength=strength, radius=0.3, units="perceptron")
        mean, error = float(some.energy.mean()), float(some.energy.std())
        error /= max(some.energy.size - 1, 1) ** 0.5
        yield {
            "case": f"perceptron, robustness {strength:g}",
            "finding": f"errors at radius 0.3: theory {float(some.exact_energy):.5f}, "
            f"measured {mean:.5f} +- {error:.5f}",
        }
    near = runs.exact_entropy.sel(distance=0.025, method="nearest")
    for reference in runs.reference.to_numpy():
        values = ", ".join(
            f"{units} {float(near.sel(units=units, reference=reference)):.4f}"
            for units in runs.units.to_numpy()
        )
        plain = reference in ("typical", "widest")
        words = reference if plain else f"robustness {reference}"
        at = float(near.distance)
        yield {
            "case": f"around {words}, theory",
            "finding": f"normalized entropy at {at:.3f}: {values}",
        }


def _algorithms_rows(runs):
    for name in runs.algorithm.to_numpy():
        some = runs.sel(algorithm=name)
        solved = some.where(some.solved == 1)
        mean = lambda what, some=solved: float(some[what].mean())
        energy = solved.local_energy.mean("seed")
        wide = ", ".join(f"{float(energy.sel(radius=r)):.4f} at {r:g}" for r in (0.2, 0.5))
        yield {
            "case": name,
            "solved": f"{int(some.solved.sum())} of {some.solved.size}",
            "finding": f"local energy {wide}; trace {mean('trace'):.3g}, "
            f"sharpness {mean('sharpness'):.3g}",
        }


def _entropy_rows(runs):
    for name in runs.algorithm.to_numpy():
        some = runs.sel(algorithm=name)
        some = some.where(some.solved == 1)
        known, top = some.entropy.where(some.reliable == 1), some.eigenvalues
        count, volumes = int(some.solved.sum()), []
        for distance in known.distance.to_numpy():
            near = known.sel(distance=distance)
            found = int(near.count())
            value = f"{float(near.mean()):.4f}" if found else "not found"
            part = f" in {found} of {count}" if 0 < found < count else ""
            volumes.append(f"{value}{part} at {distance:g}")
        yield {
            "case": name,
            "solved": f"{count} of {some.solved.size}",
            "finding": f"local entropy {', '.join(volumes)}; eigenvalues "
            f"{float(top.min('rank').mean()):.4f} to {float(top.max('rank').mean()):.4f}",
        }


def _loads_rows(runs):
    for name in runs.algorithm.to_numpy():
        some = runs.sel(algorithm=name)
        shares = some.solved.mean("seed")
        told = ", ".join(
            f"{float(shares.sel(alpha=a)):.0%} at {a:g}" for a in runs.alpha.to_numpy()
        )
        yield {"case": name, "solved": told, "finding": "share of problems, by load"}


def _generalization_rows(runs):
    for problem in runs.problem.to_numpy():
        some = runs.sel(problem=problem)
        # Few mistakes on the patterns that were learned leave a network that predicts; what
        # is not finite predicts nothing, and has no local energy.
        ends, told = some.where(some.local_energy.notnull()), []
        for name in runs.algorithm.to_numpy():
            one, count = (
                ends.sel(algorithm=name),
                int(some.solved.sel(algorithm=name).sum()),
            )
            error = f"{float(one.test.mean()):.3f}" if one.test.notnull().any() else "none"
            part = "" if count == one.test.size else f" ({count} of {one.test.size} solved)"
            told.append(f"{name} {error}{part}")
        pairs = ends.local_energy.to_numpy().ravel(), ends.test.to_numpy().ravel()
        rank, _ = spearmanr(*pairs, nan_policy="omit")
        words = f"rank correlation with local energy {rank:.2f}"
        yield {
            "case": problem,
            "solved": f"{int(some.solved.sum())} of {some.solved.size}",
            "finding": f"test error: {', '.join(told)}; {words}",
        }


def _parity_rows(runs):
    names = ("machine", "width", "algorithm")
    for machine, width, name in it.product(*(runs[axis].to_numpy() for axis in names)):
        some = runs.sel(machine=machine, width=width, algorithm=name)
        energy = some.local_energy.where(some.errors == 0).mean("seed")
        yield {
            "case": f"{machine} of {width}, {name}",
            "solved": f"{int((some.errors == 0).sum())} of {some.errors.size}",
            "finding": f"local energy {float(energy.sel(radius=0.2)):.4f} at 0.2, "
            f"{float(energy.sel(radius=0.5)):.4f} at 0.5",
        }


EXPERIMENT = Experiment(
    "Baldassi, Pittorino & Zecchina (2020)",
    {
        "binary": Part(
            "binary perceptron: errors of ground states, and solutions around them",
            _binary,
            _binary_rows,
            draw.binary,
            cost=4,
        ),
        "replicas": Part(
            "entropy of replicas, by their number: signs and ReLU units",
            _replicas,
            _replicas_rows,
            draw.replicas,
            cost=2,
        ),
        "references": Part(
            "around minimizers of the cross-entropy: theory and measurement",
            _references,
            _references_rows,
            draw.references,
            figure_rows=3,
            cost=3,
        ),
        "algorithms": Part(
            "local energy and curvature, by algorithm",
            _algorithms,
            _algorithms_rows,
            draw.algorithms,
            cost=8,
        ),
        "entropy": Part(
            "volume of solutions and spectrum of the Hessian, by algorithm",
            _entropy,
            _entropy_rows,
            draw.entropy,
            cost=7,
        ),
        "loads": Part(
            "what is solved, by load",
            _loads,
            _loads_rows,
            draw.loads,
            cost=5,
        ),
        "generalization": Part(
            "test error against local energy",
            _generalization,
            _generalization_rows,
            draw.generalization,
            cost=6,
        ),
        "parity": Part(
            "committee and parity machine",
            _parity,
            _parity_rows,
            draw.parity,
            cost=1,
        ),
    },
)
summary, figures = EXPERIMENT.summary, EXPERIMENT.figures
