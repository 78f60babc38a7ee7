r"""What flattest minima of linear networks look like inside, and which training finds them.

Mulayoff & Michaeli (2020) for linear networks: flat and sharp minima of one function, the
residual networks that are said to end in the flattest ones and those that do not, descent
against its step size, signals on their way through layers, denoisers of images, and noise.
All beside the exact theory, which holds for any data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import jaxflow as jf

from ..._linalg import decompositions
from .._experiment import Experiment, Part, Plan, labeled, layered
from .._statistics import usable
from ..data import load_samples
from . import figures as draw

# Minima of one function, by what they are.
MINIMA = ("flattest, explicit", "balanced", "found directly", "least trace", "random")
_DRAWN = (
    "flattest, explicit",
    "balanced",
    "least trace",
    "random",
)  # Those drawn in no time.


def run(
    *,
    only: tuple[str, ...] | None = None,
    data: str = "digits",
    noise: float = 1.25,
    seeds: int | None = None,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Flattest minima of linear networks, and what ends there, beside the exact theory.

    Args:
        only: Some of `chain`, `residual`, `cliff`, `gains`, `denoiser` and `noise`. By
            default all of them.
        data: For the denoiser: `digits` (images of 8 x 8 pixels from 0 to 1, shipped with
            scikit-learn), or the path of a file of numbers with samples in rows: `.npy`,
            `.npz` or `.csv`.
        noise: Standard deviation of the noise that denoisers remove, in units of the data.
        seeds: Random starts or minima, instead of 20 for the cliff, 10 for the gains and
            200 for the noise.
        seed: Which random numbers.
        quick: Fewer depths, step sizes and seeds: a look.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each part.

    Raises:
        ValueError: If `only` names something else, `seeds` is not positive, or the data
            are not finite numbers.
    """
    names = EXPERIMENT.choose(only)
    if not 0 < noise < float("inf"):
        raise ValueError(f"`noise` must be positive and finite, but is {noise}.")
    samples = load_samples(data) if "denoiser" in names else None
    if samples is not None:
        progress(samples.description)
    plan = _Plan(jax.random.key(seed), seeds, quick, sweep, samples, noise)
    return EXPERIMENT.run(only, plan, progress)


def headline(tree: xr.DataTree) -> str:
    """What theory predicts, in a few lines."""
    del tree
    return (
        "For white data no minimum of depth L is flatter than 2 L s^(2 - 2/L), with the "
        "largest singular value s of the target;\nall flattest ones pass one signal on "
        "with the same gain s^(1/L) in each layer (coupling 1), and no descent settles "
        "above step size 2 / least sharpness.\n`/flattest` divides sharpness by that of "
        "the flattest minima of the same data; it means little where the excess says that "
        "there is no minimum."
    )


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
    """What all parts share, and the images."""

    samples: Any
    noise: float

    def count(self, full: int) -> int:
        """The number of seeds, if the whole experiment has `full`."""
        return (
            max(full // 10, 2) if self.quick and self.seeds is None else self.seeds or full
        )


def _chain(plan: _Plan) -> xr.Dataset:
    """From one unbalanced start to the product one."""
    problem, steps = _white([[1.0]]), 400
    start = jf.DeepLinear((jnp.array([[0.1]]), jnp.array([[1.7]])))

    def descent(key, step_size):
        del key
        observe = {
            "excess": jf.observables.excess_loss,
            "sharpness": jf.sharpness,
            "layers": _scalars,
        }
        options = {"step_size": step_size, "every": 1, "observe": observe}
        return jf.gradient_descent(problem, start, steps, **options)

    # Around the critical one, which is a half.
    axes = {"step_size": (0.1, 0.3, 0.4, 0.49, 0.55)}
    runs = plan("chain", descent, seeds=1, axes=axes).isel(seed=0)
    return runs.rename(layers_0="layer").assign_attrs(flattest=_least(problem, 2))


def _scalars(loss, network):
    del loss
    return jnp.stack([w[0, 0] for w in network.weights])


def _targets() -> dict[str, tuple]:
    """Targets of three outputs and covariances, by what is special about them."""
    turned = lambda angle: np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    positive = [[0.753, 0.14, -0.28], [0.14, 0.527, 0.051], [-0.28, 0.051, 0.627]]
    skewed = [[1.816, -1.022, 0.167], [-0.227, 0.819, -0.086], [-0.808, -0.093, 0.654]]
    mirrored = np.diag([1.0, 1.0, -1.0]) @ np.array(skewed)
    white = np.eye(3)
    return {
        "positive definite": (np.array(positive), white),
        "rotation by 2 rad": (1.5 * turned(2.0), white),
        "not normal": (np.array(skewed), white),
        "singular": (np.diag([2.0, 1.0, 0.0]), white),
        "data not white": (np.diag([0.5, 1.0, 2.0]), np.diag([4.0, 1.0, 0.25])),
        "negative determinant": (np.diag([2.0, 1.0, -0.5]), white),
        "two negative eigenvalues": (np.diag([-1.5, -1.5, 1.0]), white),
        "not normal, negative determinant": (mirrored, white),
    }


def _residual(plan: _Plan) -> xr.Dataset:
    """The flow from the identity, to targets it can reach and to some it cannot."""
    cases, depths = _targets(), (2,) if plan.quick else (2, 3)
    targets, covariances = (
        jnp.asarray(np.stack(a)) for a in zip(*cases.values(), strict=True)
    )
    times = np.r_[0, np.geomspace(0.01, 1e3, 30)]

    def flow(key, depth, case):
        del key
        case = jnp.asarray(case, int)
        problem = jf.Regression(targets[case], covariances[case], jnp.zeros(()))
        observe = {
            "excess": jf.observables.excess_loss,
            "ends": _ends,
            "coupling": jf.observables.path_coupling,
            "imbalance": jf.imbalance,
            "determinant": jf.observables.determinant,
        }
        start = jf.init.identity((3,) * (depth + 1))
        options = {"adjoint": dfx.ForwardMode(), "throw": False, "observe": observe}
        # The default solver would find that it needs this one, and compile both.
        stiff = jf.dynamics.ExponentialRosenbrock(tolerance=1e-12)
        return jf.gradient_flow(problem, start, times, solver=stiff, **options)

    axes, static = {"case": range(len(cases))}, {"depth": depths}
    runs = plan("residual", flow, seeds=1, static=static, axes=axes).isel(seed=0)
    pairs = zip(targets, covariances, strict=True)
    problems = [jf.Regression(t, c, jnp.zeros(())) for t, c in pairs]
    least = [[_least(problem, depth) for problem in problems] for depth in depths]
    runs = runs.rename({"ends.lowest": "lowest", "ends.sharpness": "sharpness"})
    runs = layered(runs).assign_coords(case=list(cases)).rename(case="target")
    # It starts at one, and no balanced flow takes it through zero: see `determinant`.
    crossed = runs.determinant.min("record") < -1e-8
    return runs.assign(flattest=(("depth", "target"), least), crossed=crossed)


def _cliff(plan: _Plan) -> xr.Dataset:
    """Unbalanced starts, and step sizes up to where no minimum is stable."""
    depths = (3,) if plan.quick else (2, 3, 4)
    few = (0.05, 0.6, 0.95, 1.05)
    shares = few if plan.quick else (0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.05)
    steps, problem = 20_000, _five(plan.key)
    critical = {depth: 2 / _least(problem, depth) for depth in depths}

    def descent(key, depth, step_size_share):
        first, *others = jf.init.gaussian(
            (5,) * (depth + 1), scale=5**-0.5, key=key
        ).weights
        start = jf.DeepLinear((1.6 * first, *others))
        observe = {
            "excess": jf.observables.excess_loss,
            "sharpness": jf.sharpness,
            "gains": jf.observables.gains,
            "coupling": jf.observables.path_coupling,
            "alignment": jf.alignment,
        }
        step_size = step_size_share * jnp.asarray(critical[depth])
        options = {"step_size": step_size, "every": steps, "observe": observe}
        runs = jf.gradient_descent(problem, start, steps, **options)
        # Over layers, so that depths have one shape.
        gains = runs.observed.pop("gains")
        spread = jnp.max(gains, axis=1) / jnp.min(gains, axis=1)
        worst = {
            n: jnp.min(runs.observed.pop(n), axis=1) for n in ("coupling", "alignment")
        }
        runs.observed.update(worst, spread=spread)
        return runs

    static, axes = {"depth": depths}, {"step_size_share": shares}
    runs = plan("cliff", descent, seeds=plan.count(20), static=static, axes=axes).isel(
        record=-1
    )
    bounds = jax.jit(jf.papers.mulayoff_michaeli_2020.path_gain_bounds, static_argnums=1)
    widest = []
    for depth in depths:
        found = [bounds(problem, depth, max(1 / share, 1.0)) for share in shares]
        widest.append([float(b.upper / b.lower) for b in found])
    least = [2 / critical[depth] for depth in depths]
    return runs.assign(
        flattest=("depth", least), spread_bound=(("depth", "step_size_share"), widest)
    )


def _gains(plan: _Plan) -> xr.Dataset:
    """What the layers of minima of each kind do to the dedicated signal and to others."""
    problem, depth = _five(plan.key), 4
    theory = jf.papers.mulayoff_michaeli_2020

    def portrait(key):
        def one(network):
            partial = network.from_input[1:]
            gains = jnp.cumprod(jf.observables.gains(problem, network))
            size = lambda a: jnp.linalg.norm(a) / a.shape[1] ** 0.5
            return {
                "path": gains,
                "largest": jnp.stack([decompositions.spectral_norm(a) for a in partial]),
                "mean": jnp.stack([size(a) for a in partial]),
                "sharpness": jf.observables.linear_gauss_newton_spectrum(problem, network)[
                    0
                ],
                "coupling": jf.observables.path_coupling(problem, network),
                "alignment": jf.alignment(problem, network),
                "imbalance": jf.imbalance(problem, network),
            }

        return jax.vmap(one)(_minima(problem, depth, key, MINIMA))

    runs = plan("gains", portrait, seeds=plan.count(10))
    layers = {name: "layer" for name in ("path", "largest", "mean", "coupling")}
    pairs = {name: "pair" for name in ("alignment", "imbalance")}
    runs = _labeled(runs, layers | pairs | {"sharpness": None}, MINIMA)
    lower, upper = theory.gain_bounds(problem, depth)
    runs = runs.assign(lower=("inner", lower), upper=("inner", upper))
    return runs.assign_attrs(flattest=_least(problem, depth), depth=depth)


def _denoiser(plan: _Plan) -> xr.Dataset:
    """Residual networks from zero residuals, on white inputs and as they are."""
    raw = jf.Regression.denoising(plan.samples.x, noise=plan.noise)
    problems = {"white inputs": jf.losses.whiten(raw)[0], "inputs as they are": raw}
    depths = (2, 4) if plan.quick else (2, 3, 4, 6)
    steps = 400 if plan.quick else 4_000
    every = sorted({int(n) for n in np.geomspace(1, steps, 12).round()})
    least = [[_least(p, depth) for p in problems.values()] for depth in depths]
    step_size = {
        depth: jnp.asarray([0.9 * 2 / value for value in row])
        for depth, row in zip(depths, least, strict=True)
    }
    targets, covariances, floors = (
        jnp.stack([getattr(p, name) for p in problems.values()])
        for name in ("target", "covariance", "floor")
    )

    def descent(key, depth, inputs):
        del key
        inputs = jnp.asarray(inputs, int)
        problem = jf.Regression(targets[inputs], covariances[inputs], floors[inputs])
        start = jf.init.identity((targets.shape[1],) * (depth + 1))
        observe = {
            "excess": jf.observables.excess_loss,
            "sharpness": jf.sharpness,
            "coupling": _worst,
        }
        options = {"step_size": step_size[depth][inputs], "every": every}
        return jf.gradient_descent(problem, start, steps, observe=observe, **options)

    static, axes = {"depth": depths}, {"inputs": range(2)}
    runs = plan("denoiser", descent, seeds=1, static=static, axes=axes).isel(seed=0)
    runs = runs.assign_coords(inputs=list(problems))
    balanced = [[_balanced(p, depth) for p in problems.values()] for depth in depths]
    both = ("depth", "inputs")
    runs = runs.assign(flattest=(both, least), balanced=(both, balanced))
    return runs.assign_attrs(data=plan.samples.description)


def _noise(plan: _Plan) -> xr.Dataset:
    """How much the loss rises for noise in weights, and behind layers."""
    problem, depth, size = _five(plan.key), 4, 1e-4

    def rise(network, direction):
        """Of the loss, over the square of a small step."""
        length = jnp.sqrt(sum(jnp.sum(d**2) for d in jax.tree.leaves(direction)))
        there = jax.tree.map(lambda w, d: w + size / length * d, network, direction)
        return problem.excess(there) / size**2

    def measure(key):
        def one(network):
            draw = lambda key: jf.init.gaussian(network.widths, scale=1.0, key=key)
            steps = jax.vmap(draw)(jr.split(key, 256))
            top = jf.spectrum(problem, network, rtol=1e-10).vectors
            inner = jr.normal(key, (256, 5))
            behind = [
                jnp.mean(jnp.sum((inner @ b.T) ** 2, 1)) for b in network.to_output[1:]
            ]
            return {
                "worst": rise(network, jax.tree.map(lambda v: v[0], top)),
                "mean": jnp.mean(jax.vmap(lambda d: rise(network, d))(steps)),
                "behind": jnp.stack(behind),
                "sharpness": jf.observables.linear_gauss_newton_spectrum(problem, network)[
                    0
                ],
                "trace": jnp.sum(
                    jf.observables.linear_gauss_newton_spectrum(problem, network)
                ),
            }

        return jax.lax.map(one, _minima(problem, depth, key, _DRAWN))

    runs = plan("noise", measure, seeds=plan.count(200))
    scalars = dict.fromkeys(("worst", "mean", "sharpness", "trace"))
    runs = _labeled(runs, scalars | {"behind": "layer"}, _DRAWN)
    theory = jf.papers.mulayoff_michaeli_2020
    trace = float(theory.least_trace(problem, depth))
    known = {"least_trace": trace, "weights": 25 * depth, "depth": depth}
    return runs.assign_attrs(flattest=_least(problem, depth), **known)


def _minima(problem: jf.Regression, depth: int, key, names) -> jf.DeepLinear:
    """Some of `MINIMA`, stacked along a first axis."""
    theory = jf.papers.mulayoff_michaeli_2020
    mine, other, spread = jr.split(key, 3)
    widths = (problem.target.shape[1],) * (depth + 1)
    draw = lambda key, scale: jf.init.factorization(
        problem.target, widths, scale=scale, key=key
    )
    measure = jf.observables.linear_gauss_newton_spectrum
    minima = {
        "flattest, explicit": lambda: theory.flattest_minimizer(problem, depth),
        "balanced": lambda: jf.init.balanced(problem.target, depth),
        "found directly": lambda: jf.papers.mulayoff_michaeli_2020.minimize_sharpness(
            problem, draw(mine, 0.3), measure, steps=50
        ),
        "least trace": lambda: theory.least_trace_minimizer(problem, depth),
        "random": lambda: draw(other, jr.uniform(spread, minval=0.05, maxval=0.5)),
    }
    return jax.tree.map(lambda *w: jnp.stack(w), *(minima[name]() for name in names))


def _labeled(runs: xr.Dataset, axes: dict[str, str | None], minima) -> xr.Dataset:
    """Quantities of each of some minima, and perhaps along a further axis."""
    names = {
        name: {f"{name}_0": "minimum"} | ({f"{name}_1": axis} if axis else {})
        for name, axis in axes.items()
    }
    return labeled(runs, names).assign_coords(minimum=list(minima))


def _white(target) -> jf.Regression:
    target = jnp.asarray(target, float)
    return jf.Regression(target, jnp.eye(target.shape[1]), jnp.zeros(()))


def _five(key) -> jf.Regression:
    """White data, five inputs and outputs, and singular values 3, 1.5, 1, 0.6, 0.3."""
    left, right = jr.orthogonal(jr.fold_in(key, 1), 5, (2,))
    return _white(left * jnp.array([[3.0, 1.5, 1.0, 0.6, 0.3]]) @ right)


def _least(problem: jf.Regression, depth: int) -> float:
    return float(jf.papers.mulayoff_michaeli_2020.flattest_sharpness(problem, depth))


def _balanced(problem: jf.Regression, depth: int) -> float:
    return float(jf.papers.mulayoff_michaeli_2020.balanced_sharpness(problem, depth))


def _worst(loss, network) -> jax.Array:
    """The coupling of the path where it is least."""
    return jnp.min(jf.observables.path_coupling(loss, network))


def _ends(loss, network):
    """Both ends of the Hessian's spectrum, in one search."""
    sharpness, lowest = jf.spectrum(loss, network, largest=1, smallest=1).values
    return {"lowest": lowest, "sharpness": sharpness}


def _row(case, sharpness, flattest, **others):
    numbers = {"sharpness": f"{sharpness:.5g}", "/flattest": f"{sharpness / flattest:.5f}"}
    return {"case": case} | numbers | others


def _verdict(run) -> str:
    """How a run ended, and that a saddle is no minimum."""
    status = jf.Status(int(run.status))
    return "saddle" if status == jf.Status.SADDLE else status.name.lower()


def _chain_rows(runs):
    for step_size in runs.step_size.to_numpy():
        run = runs.sel(step_size=step_size).isel(record=-1)
        case, excess = f"step size {step_size:g}", f"{float(run.excess):.1e}"
        facts = {"excess": excess, "2/step": f"{2 / step_size:.4g}", "ended": _verdict(run)}
        yield _row(case, float(run.sharpness), runs.flattest, **facts)


_ROUNDING = "rounding: determinant changed sign"


def _residual_rows(runs):
    for depth in runs.depth.to_numpy():
        for target in runs.target.to_numpy():
            run = runs.sel(depth=depth, target=target).isel(record=-1)
            finding = f"least curvature {float(run.lowest):.2g}"
            facts = {
                "excess": f"{float(run.excess):.1e}",
                "coupling": f"{float(run.coupling.min()):.4f}",
                "ended": _verdict(run),
                "finding": _ROUNDING if bool(run.crossed) else finding,
            }
            case, least = f"{target}, depth {depth}", float(run.flattest)
            yield _row(case, float(run.sharpness), least, **facts)


def _cliff_rows(runs):
    for depth in runs.depth.to_numpy():
        for share in runs.step_size_share.to_numpy():
            some = runs.sel(depth=depth, step_size_share=share)
            there = some.status.isin([jf.Status.CONVERGED])
            ends = usable(some).where(there)
            case = f"depth {depth}, {share:g} of the critical step size"
            mean = lambda name, ends=ends: float(ends[name].mean())
            facts = {
                "coupling": f"{mean('coupling'):.4f}",
                "alignment": f"{mean('alignment'):.2f}",
                "finding": f"gains within {mean('spread'):.3f} (bound "
                f"{float(some.spread_bound):.3g}), converged {int(there.sum())} of "
                f"{there.size}",
            }
            yield _row(case, mean("sharpness"), float(some.flattest), **facts)


def _gains_rows(runs):
    for minimum in runs.minimum.to_numpy():
        some = runs.sel(minimum=minimum).median("seed")
        facts = {
            "coupling": f"{float(some.coupling.min()):.4f}",
            "alignment": f"{float(some.alignment.min()):.2f}",
            "finding": f"imbalance {float(some.imbalance.max()):.2g}",
        }
        yield _row(minimum, float(some.sharpness), runs.flattest, **facts)


def _denoiser_rows(runs):
    for inputs in runs.inputs.to_numpy():
        for depth in runs.depth.to_numpy():
            run = runs.sel(depth=depth, inputs=inputs).isel(record=-1)
            facts = {
                "excess": f"{float(run.excess):.1e}",
                "coupling": f"{float(run.coupling):.4f}",
                "ended": _verdict(run),
                "finding": f"balanced {float(run.balanced):.5g}",
            }
            case, least = f"{inputs}, depth {depth}", float(run.flattest)
            yield _row(case, float(run.sharpness), least, **facts)


def _noise_rows(runs):
    for minimum in runs.minimum.to_numpy():
        some = runs.sel(minimum=minimum).median("seed")
        worst, mean = float(some.worst), float(some["mean"])
        finding = f"loss rises by {worst:.4g} d^2 at worst, by {mean:.4g} d^2 on average"
        yield _row(minimum, float(some.sharpness), runs.flattest, finding=finding)


EXPERIMENT = Experiment(
    "Mulayoff & Michaeli (2020)",
    {
        "chain": Part(
            "two scalar layers: flat and sharp minima, and where descent ends",
            _chain,
            _chain_rows,
            draw.chain,
            cost=1,
        ),
        "residual": Part(
            "linear residual networks that start from zero residuals",
            _residual,
            _residual_rows,
            draw.residual,
            cost=4,
        ),
        "cliff": Part(
            "descent against its step size",
            _cliff,
            _cliff_rows,
            draw.cliff,
            cost=5,
        ),
        "gains": Part(
            "signals on their way through flat and sharp minima of one function",
            _gains,
            _gains_rows,
            draw.gains,
            cost=3,
        ),
        "denoiser": Part(
            "linear residual denoisers of images",
            _denoiser,
            _denoiser_rows,
            draw.denoiser,
            cost=6,
        ),
        "noise": Part(
            "noise at flat and sharp minima of one function",
            _noise,
            _noise_rows,
            draw.noise,
            cost=2,
        ),
    },
)
summary, figures = EXPERIMENT.summary, EXPERIMENT.figures
