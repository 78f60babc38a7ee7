r"""Which solutions weight decay and noisy neurons leave to networks, and who finds them.

Ziyin, Li & Meng (2022): with weight decay the origin is a local minimum of networks with
two or more hidden layers, and the global one above a critical strength. The exact global
minimum stands beside what training finds: phases and hysteresis, slices of landscapes of
nonlinear networks, noisy training, trapping, prediction variance, and residual networks.
"""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import xarray as xr

import jaxflow as jf

from ..._linalg import decompositions
from .._experiment import Experiment, Part, Plan, fan_in, labeled, run_concurrently
from ..data import Data, load_data
from . import figures as draw
from .stages import Stages


def run(
    *,
    only: tuple[str, ...] | None = None,
    data: str = "diabetes",
    target: str | None = None,
    hidden: int = 2,
    variance: float = 0.5,
    seeds: int | None = None,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Exact minima of noisy deep linear networks with weight decay, and who finds them.

    Args:
        only: Some of `phases`, `landscape`, `slices`, `training`, `trapping`, `signal`,
            `variance` and `networks`. By default all of them.
        data: For the training: `diabetes` or `digits` (shipped with scikit-learn),
            `paper` (the data of Marion & Chizat, 2024), or the path of a CSV file.
        target: For a file, the column to predict from all others.
        hidden: For the training, the number of hidden layers, of 16 neurons.
        variance: For the training, the variance of the factors that multiply neurons;
            dropout with rate r has r / (1 - r).
        seeds: Random starts, instead of 8, and 3 for nonlinear networks.
        seed: Which random numbers.
        quick: Fewer values, steps and seeds: a look.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each part.

    Raises:
        ValueError: If an argument is out of range, or the data are not finite numbers.
    """
    names = EXPERIMENT.choose(only)
    if hidden < 1:
        raise ValueError(f"`hidden` must be at least 1, but is {hidden}.")
    if not 0 <= variance < float("inf"):
        raise ValueError(f"`variance` must not be negative, but is {variance}.")
    loaded = load_data(data, target=target) if "training" in names else None
    if loaded is not None:
        progress(loaded.description)
    plan = _Plan(jax.random.key(seed), seeds, quick, sweep, loaded, hidden, variance)
    return EXPERIMENT.run(only, plan, progress)


def headline(tree: xr.DataTree) -> str:
    """What theory predicts, in a few lines."""
    del tree
    return (
        "With D hidden layers the origin is a local minimum for any weight decay if D > 1. "
        "Above the critical decay\nit is the global one, and above the spinodal the only "
        "one. For unit data without noise these are 0.3969 and\n0.4725 for D = 2, where "
        "the solution jumps by 1/2; for D = 1 it shrinks to zero at 1, and nothing jumps."
    )


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
    """What all parts share, and what the training learns."""

    data: Data | None
    hidden: int
    variance: float


def _unit(inputs: int = 1, variance: float = 1.0) -> jf.Regression:
    """White inputs of some variance, that predict an output of one, with |g| = 1."""
    first = jnp.zeros(inputs).at[0].set(1.0)
    return jf.Regression.from_moments(variance * jnp.eye(inputs), first, 1 / variance)


def _phases(plan: _Plan) -> xr.Dataset:
    """Exact branches, and descent that follows them as weight decay grows and falls."""
    theory = jf.papers.ziyin_li_meng_2022
    problem, width, steps = _unit(), 4, 500 if plan.quick else 3_000
    strengths = np.geomspace(0.05, 1.5, 24 if plan.quick else 60)
    depths = (1, 2) if plan.quick else (0, 1, 2, 3, 4)
    noises = np.geomspace(0.01, 10, 30)
    fine = np.union1d(strengths, np.geomspace(0.05, 1.5, 500))

    def follow(key, hidden):
        widths = (width,) * hidden
        noise = lambda key: jf.init.gaussian((1, *widths, 1), scale=1e-4, key=key)

        def step(network, given):
            strength, key = given
            # A push that decides what a saddle leaves open.
            start = jax.tree.map(jnp.add, network, noise(key))
            loss = problem + jf.WeightDecay(strength)  # pyright: ignore
            options = {
                "step_size": 0.03,
                "every": steps,
                "observe": {"loss": jf.loss_value},
            }
            run = jf.gradient_descent(loss, start, steps, **options)
            return run.network, jnp.linalg.norm(run.network.product)

        first = theory.minimizer(problem, widths, decay=strengths[0])
        keys = jr.split(key, strengths.size)
        rising = jnp.asarray(strengths)
        _, up = jax.lax.scan(step, first, (rising, keys))
        _, down = jax.lax.scan(step, noise(key), (rising[::-1], keys))
        exact = jax.vmap(lambda s: theory.minimum(problem, widths, decay=s))(fine)
        all_of = jax.vmap(lambda s: theory.stationary(problem, widths, decay=s))(fine)
        sizes = jnp.linalg.norm(all_of.map, axis=2)
        pad = ((0, 0), (0, 2 - sizes.shape[1]))
        fill = lambda x, value: jnp.pad(x, pad, constant_values=value)
        found = {
            "up": up,
            "down": down[::-1],
            "size": jnp.linalg.norm(exact.map, axis=1),
            "branch": fill(sizes, jnp.nan),
            "stable": fill(all_of.stable, False),
        }
        if hidden > 1:
            critical = lambda v: theory.critical_point(problem, widths, variance=v).decay
            spinodal = lambda v: theory.spinodal_point(problem, widths, variance=v).decay
            curves = [
                jax.vmap(f)(jnp.asarray([0.0, *noises])) for f in (critical, spinodal)
            ]
        else:
            curves = [jnp.full(noises.size + 1, 1.0 if hidden else jnp.inf)] * 2
        jump = theory.critical_point(problem, widths).size
        named = zip(("critical", "spinodal"), curves, strict=True)
        return found | dict(named) | {"jump": jump}

    runs = plan("phases", follow, seeds=1, static={"hidden": depths}).isel(seed=0)
    axes = {name: {f"{name}_0": "decay"} for name in ("up", "down")}
    axes |= {"size": {"size_0": "exact_decay"}, "jump": {}}
    axes |= {
        name: {f"{name}_0": "exact_decay", f"{name}_1": "root"}
        for name in ("branch", "stable")
    }
    axes |= {name: {f"{name}_0": "noise"} for name in ("critical", "spinodal")}
    places = {"decay": strengths, "exact_decay": fine, "noise": [0.0, *noises]}
    return labeled(runs, axes).assign_coords(places)


def _landscape(plan: _Plan) -> xr.Dataset:
    """The loss above that of zero against the norm of the layers, for unit data."""
    del plan  # All of it is exact.
    theory = jf.papers.ziyin_li_meng_2022
    problem, norms = _unit(), np.linspace(0, 1.25, 251)

    def line(hidden):
        widths = (4,) * hidden
        first = theory.critical_point(problem, widths).decay
        last = theory.spinodal_point(problem, widths).decay
        # Without a hidden layer nothing happens at any decay.
        decays = jnp.stack([0.8 * first, (first + last) / 2, 1.2 * last])
        decays = jnp.where(jnp.isinf(decays), jnp.array([0.25, 0.5, 1.0]), decays)
        loss = lambda decay, norm: theory.effective_loss(
            problem, widths, norm[None] ** (hidden + 1), decay=decay
        )
        losses = jax.vmap(lambda g: jax.vmap(lambda n: loss(g, n))(jnp.asarray(norms)))
        return losses(decays) - loss(decays[0], jnp.zeros(())), decays

    depths = (0, 1, 2, 3)
    found = [line(hidden) for hidden in depths]
    above, decays = (np.stack(values) for values in zip(*found, strict=True))
    names = ["below", "between", "above"]
    return xr.Dataset(
        {
            "above_zero": (("hidden", "regime", "norm"), above),
            "strength_of_decay": (("hidden", "regime"), decays),
        },
        {"hidden": list(depths), "regime": names, "norm": norms},
    )


def _slices(plan: _Plan) -> xr.Dataset:
    """One hidden layer: the weights of the linear solution, given to other networks."""
    inputs, width, strength = 10, 16, 0.1
    sizes = np.linspace(-0.3, 0.3, 61)
    activations = {
        "linear": (lambda z: z, 1.0),
        "tanh": (jnp.tanh, 1.0),
        "ReLU": (jax.nn.relu, 0.5),
        "swish": (jax.nn.swish, 0.5),
    }

    def slices(key):
        key, other = jr.split(key)
        x = jr.normal(key, (2000, inputs))
        x = jnp.concatenate([x, -x])  # So that half a ReLU's inputs are positive, exactly.
        way = jr.normal(other, (inputs,))
        y = x @ (way / jnp.linalg.norm(way))
        loss = jf.MeanSquaredError(x, y) + jf.WeightDecay(strength)  # pyright: ignore
        covariance, signal = x.T @ x / len(x), x.T @ y / len(x)

        def along(activation, slope, b):
            # The solution of a linear network for what a neuron of this slope passes on.
            ridge = b**2 * width * slope**2 * covariance + strength * jnp.eye(inputs)
            row = b * slope * decompositions.solve(ridge, signal)
            signs = jnp.where(jnp.arange(width) % 2 == 0, 1.0, -1.0)
            weights = (jnp.outer(signs, row), b * signs[None])
            return loss(jf.MLP(weights, activation))

        def pair(activation, slope):
            each = lambda s: jax.vmap(lambda b: along(activation, s, b))(jnp.asarray(sizes))
            return jnp.stack([each(1.0), each(slope)])

        found = [pair(*both) for both in activations.values()]
        # The curvature at zero, where a neuron passes on its slope times its input: that of
        # the network, and the one which the weights were made for.
        power = jnp.sum(signal**2)
        slopes = jnp.array([slope for _, slope in activations.values()])
        raw = strength + (1 - 2 * slopes) * power / strength
        corrected = strength - slopes**2 * power / strength
        curvature = 2 * width * jnp.stack([raw, corrected], axis=1)
        # And as it is, so near to zero that the next order is a hundredth.
        near = 1e-3 * jnp.array([-1.0, 0.0, 1.0])
        bend = jnp.array([1.0, -2.0, 1.0]) / 1e-6

        def bent(activation, slope):
            return bend @ jax.vmap(lambda b: along(activation, slope, b))(near)

        seen = [[bent(f, s) for s in (1.0, slope)] for f, slope in activations.values()]
        return {
            "loss": jnp.stack(found),
            "curvature": curvature,
            "curvature_seen": jnp.array(seen),
            "origin": jnp.mean(y**2),
        }

    runs = plan("slices", slices, seeds=1).isel(seed=0)
    axes = {"loss": {"loss_0": "activation", "loss_1": "weights", "loss_2": "b"}}
    for name in ("curvature", "curvature_seen"):
        axes[name] = {f"{name}_0": "activation", f"{name}_1": "weights"}
    axes |= {"origin": {}}
    names = {"activation": list(activations), "weights": ["linear", "slope-corrected"]}
    return labeled(runs, axes).assign_coords(names | {"b": sizes})


def _training(plan: _Plan) -> xr.Dataset:
    """Four ways to descend one loss, whose global minimum is known."""
    theory = jf.papers.ziyin_li_meng_2022
    task = _Training.of(plan)
    shares = (0.2, 1.1) if plan.quick else (0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.1, 1.3)

    def sweep(method):
        run, axes = ft.partial(METHODS[method], task), {"decay_share": shares}
        runs = plan(f"training-{method}", run, seeds=plan.count(8), axes=axes)
        return runs.isel(record=-1).expand_dims(algorithm=[method])

    found = run_concurrently(ft.partial(sweep, method) for method in METHODS)
    runs = xr.concat(found, "algorithm", data_vars="all")
    exact = ft.partial(_with_decay, theory.minimum, task)
    branch = ft.partial(_with_decay, theory.stationary, task)
    fine = jnp.linspace(0.02, 1.4, 139)
    solved = jax.vmap(exact)(jnp.asarray(shares))
    line, all_of = jax.vmap(exact)(fine), jax.vmap(branch)(fine)
    sizes = jnp.where(all_of.stable, jnp.linalg.norm(all_of.map, axis=2), -1)
    largest = jnp.max(sizes, axis=1)
    runs = runs.assign(
        exact_loss=("decay_share", solved.loss),
        global_size=("exact_decay_share", jnp.linalg.norm(line.map, axis=1)),
        # Where it exists, the local minimum that is not the origin.
        local_size=("exact_decay_share", jnp.where(largest < 0, jnp.nan, largest)),
    ).assign_coords(exact_decay_share=fine)
    zero = jax.tree.map(jnp.zeros_like, task.start(jr.key(0)))
    spinodal = theory.spinodal_point(task.problem, task.widths, variance=task.variance)
    assert plan.data is not None
    return runs.assign_attrs(
        critical=float(task.critical),
        spinodal=float(spinodal.decay),
        origin=float(task.problem(zero)),
        data=plan.data.description,
    )


class _Training(NamedTuple):
    """What all methods descend, and for how long."""

    x: np.ndarray
    y: np.ndarray
    problem: jf.Regression
    widths: tuple[int, ...]
    variance: float
    critical: jax.Array
    steps: int
    step_size: float

    @classmethod
    def of(cls, plan: _Plan) -> "_Training":
        assert plan.data is not None
        x, y, layers = plan.data.x, plan.data.y, plan.hidden + 1
        problem, widths = jf.Regression.from_data(x, y), (16,) * plan.hidden
        point = jf.papers.ziyin_li_meng_2022.critical_point
        critical = point(problem, widths, variance=plan.variance).decay
        # A third of where they cease to be stable, at a solution without noise and decay.
        top = decompositions.spectral_norm(problem.covariance)
        size = jnp.maximum(1.0, jnp.linalg.norm(problem.target) ** (2 / layers))
        step_size = float(0.3 / (top * layers * size**plan.hidden))
        steps = 2_000 if plan.quick else 10_000
        return cls(x, y, problem, widths, plan.variance, critical, steps, step_size)

    def start(self, key):
        return fan_in((self.x.shape[1], *self.widths, 1), key)

    def decay(self, share):
        return jf.WeightDecay(share * self.critical)  # pyright: ignore

    def averaged(self, share):
        """The loss in expectation over the noise."""
        noisy = jf.losses.ExpectedNoisyLoss(self.problem, self.variance)  # pyright: ignore
        return noisy + self.decay(share)

    def observe(self, share):
        averaged = self.averaged(share)
        return {
            "loss": lambda loss, network: averaged(network),
            "size": lambda loss, network: jnp.linalg.norm(network.product),
        }

    def descend(self, loss, start_key, share, **options):
        options = {"step_size": self.step_size, "observe": self.observe(share)} | options
        start = self.start(start_key)
        return jf.gradient_descent(loss, start, self.steps, every=self.steps, **options)


def _with_decay(function, task: _Training, share):
    """A quantity of theory, of the problem with a share of the critical decay."""
    options = {"variance": task.variance, "decay": share * task.critical}
    return function(task.problem, task.widths, **options)


def _flow(task: _Training, key, decay_share):
    times = jnp.array([0.0, 1.0]) * task.steps * task.step_size
    return jf.gradient_flow(
        task.averaged(decay_share),
        task.start(key),
        times,
        observe=task.observe(decay_share),
        solver=jf.dynamics.ExponentialRosenbrock(),
        adjoint=dfx.ForwardMode(),
        throw=False,
    )


def _descent(task: _Training, key, decay_share):
    return task.descend(task.averaged(decay_share), key, decay_share)


def _adam(task: _Training, key, decay_share):
    options = {"step_size": 0.003, "optimizer": optax.adam}
    return task.descend(task.averaged(decay_share), key, decay_share, **options)


def _dropout(task: _Training, key, decay_share):
    fresh, order = jr.split(jr.fold_in(key, 1))
    error = jf.MeanSquaredError(task.x, task.y)
    factors = jf.networks.dropout_factors
    noisy = jf.losses.SampledNoisyLoss(  # pyright: ignore
        error, task.variance, fresh, factors=factors
    )
    return task.descend(
        noisy + task.decay(decay_share),
        key,
        decay_share,
        step_size=optax.cosine_decay_schedule(task.step_size, task.steps),
        batch_size=min(64, len(task.x)),
        key=order,
    )


METHODS = {
    "flow": _flow,
    "descent": _descent,
    "Adam": _adam,
    "SGD with dropout": _dropout,
}


def _trapping(plan: _Plan) -> xr.Dataset:
    """Two hidden layers: which random starts end at zero although they need not."""
    theory = jf.papers.ziyin_li_meng_2022
    inputs, widths = 16, (32, 32)
    steps = 1_000 if plan.quick else 4_000
    variances = (1.0, 1e-3)
    decays = np.geomspace(0.05, 10, 8 if plan.quick else 16)
    problems = [_unit(inputs, variance) for variance in variances]
    spinodal = [float(theory.spinodal_point(p, widths).decay) for p in problems]
    critical = [float(theory.critical_point(p, widths).decay) for p in problems]

    def descend(key, input_variance, gain, decay):
        variance = jnp.asarray(variances)[jnp.asarray(input_variance, int)]
        first = jnp.zeros(inputs).at[0].set(1 / variance)
        white = variance * jnp.eye(inputs)
        problem = jf.Regression(first[None], white, jnp.zeros(()))
        start = jax.tree.map(lambda w: gain * w, fan_in((inputs, *widths, 1), key))
        loss = problem + jf.WeightDecay(decay)  # pyright: ignore
        size = lambda loss, network: jnp.linalg.norm(network.product) * variance
        options = {"step_size": 0.01, "every": steps, "observe": {"size": size}}
        return jf.gradient_descent(loss, start, steps, **options)

    axes = {"input_variance": (0, 1), "gain": (1.0, 2**0.5), "decay": decays}
    runs = plan("trapping", descend, seeds=plan.count(8), axes=axes).isel(record=-1)
    runs = runs.assign_coords(input_variance=list(variances))
    return runs.assign(
        spinodal=("input_variance", spinodal), critical=("input_variance", critical)
    )


def _signal(plan: _Plan) -> xr.Dataset:
    """One and two hidden layers that learn a linear function times a number.

    From starts of the usual size, on white inputs, half of which are minus the others.
    """
    theory = jf.papers.ziyin_li_meng_2022
    inputs, width, half, decay = 10, 32, 64, 0.05
    steps = 1_000 if plan.quick else 3_000
    strengths = np.geomspace(0.05, 2, 5 if plan.quick else 12)
    half_way = jr.normal(jr.fold_in(plan.key, 3), (half, inputs))
    # Orthogonal columns: all variances are one, exactly.
    half_way = decompositions.qr(half_way)[0] * half**0.5
    x = jnp.concatenate([half_way, -half_way])
    y = x[:, :1]
    activations = {
        "linear": lambda z: z,
        "tanh": jnp.tanh,
        "ReLU": jax.nn.relu,
        "swish": jax.nn.swish,
    }

    def descend(key, hidden, activation, signal):
        weights = fan_in((inputs, *[width] * hidden, 1), key).weights
        error = jf.MeanSquaredError(x, signal * y)
        # Over that of zero.
        observe = {"error": lambda _, network: error(network) / signal**2}
        options = {"step_size": 0.05, "every": steps, "observe": observe}
        loss = error + jf.WeightDecay(decay)  # pyright: ignore
        start = jf.MLP(weights, activation)
        return jf.gradient_descent(loss, start, steps, **options)

    depths = (1, 2)
    static = {"hidden": depths, "activation": activations}
    runs = plan(
        "signal", descend, seeds=plan.count(3), static=static, axes={"signal": strengths}
    ).isel(record=-1)
    fine = np.geomspace(strengths[0], strengths[-1], 200)

    def exact(hidden):
        def error(signal):
            problem = jf.Regression(signal[None, None], jnp.eye(1), jnp.zeros(()))
            vector = theory.minimum(problem, (width,) * hidden, decay=decay).map
            return (1 - vector[0] / signal) ** 2

        return jax.vmap(error)(jnp.asarray(fine))

    def least(hidden):
        """Where there is a minimum besides zero, for a network of slope one at zero."""
        unit = float(theory.spinodal_point(_unit(), (width,) * hidden).decay)
        return (decay / unit) ** ((hidden + 1) / (2 * hidden))

    return runs.assign(
        exact_error=(("hidden", "exact_signal"), np.stack([exact(d) for d in depths])),
        least_signal=("hidden", [least(d) for d in depths]),
    ).assign_coords(exact_signal=fine)


def _variance(plan: _Plan) -> xr.Dataset:
    """Against each of width, hidden layers and noise, beside draws of the noise."""
    theory = jf.papers.ziyin_li_meng_2022
    problem, decay, draws = _unit(), 1e-3, 4_000
    values = {
        "width": np.unique(np.geomspace(2, 512, 25).round()),
        "hidden": np.array([1, 2, 3, 4, 6, 8, 12, 16, 20]),
        "noise": np.geomspace(0.01, 1000, 26),
    }

    @ft.partial(jax.jit, static_argnums=0)
    def exact(widths, variance):
        options = {"variance": variance, "decay": decay}
        return theory.prediction_variance(problem, widths, **options)

    @ft.partial(jax.jit, static_argnums=0)
    def measured(widths, variance, key):
        """With its standard error, from outputs at one input of variance one."""
        network = theory.minimizer(problem, widths, variance=variance, decay=decay)
        noisy = jf.networks.NoisyNetwork(network, variance)
        outputs = jax.vmap(lambda key: noisy(jnp.ones(1), key)[0])(jr.split(key, draws))
        squares = (outputs - jnp.mean(outputs)) ** 2
        return jnp.mean(squares), jnp.std(squares) / draws**0.5

    # A network for each value. By theory width and noise count by their ratio alone.
    nets = {
        "width": [((int(width),) * 2, 1.0) for width in values["width"]],
        "hidden": [((4,) * int(hidden), 1.0) for hidden in values["hidden"]],
        "noise": [((4, 4), float(noise)) for noise in values["noise"]],
    }
    same = nets | {"width": [((4, 4), 4 / float(width)) for width in values["width"]]}
    found = {}
    for name, at in values.items():
        found[name] = xr.DataArray(
            np.array([exact(*net) for net in same[name]]), {name: at}
        )
        some = (
            range(1, 4, 2)
            if name == "hidden"
            else range(1, len(at), 12 if plan.quick else 6)
        )
        drawn = [measured(*nets[name][k], jr.fold_in(plan.key, k)) for k in some]
        coords = {f"{name}_drawn": at[list(some)]}
        for what, column in zip(("mean", "error"), zip(*drawn, strict=True), strict=True):
            found[f"{name}_{what}"] = xr.DataArray(np.array(column), coords)
    lines = {f"by_{name}": found.pop(name) for name in values}
    return xr.Dataset(found | lines, attrs={"decay": decay})


def _networks(plan: _Plan) -> xr.Dataset:
    """Plain networks by depth, residual ones by how many maps no skip goes around."""
    inputs, width, samples = 10, 16, 128
    steps = 500 if plan.quick else 3_000
    strengths = np.geomspace(0.05, 1.4, 6 if plan.quick else 15)
    depths = (1, 2) if plan.quick else (1, 2, 3)
    data, way = jr.split(jr.fold_in(plan.key, 2))
    x, row = jr.normal(data, (samples, inputs)), jr.normal(way, (inputs,))
    loss = jf.MeanSquaredError(x, x @ (row / jnp.linalg.norm(row)))

    def build(kind, maps, key):
        if kind == "plain":
            return jf.MLP(fan_in((inputs, *[width] * maps, 1), key).weights, jnp.tanh)
        weights = fan_in((inputs, *[width] * 2 * maps, 1), key).weights
        return Stages(weights, (*(False, True) * maps, False))

    def sweep(kind):
        def descend(key, maps, decay):
            both = loss + jf.WeightDecay(decay)  # pyright: ignore
            observe = {"error": lambda _, network: loss(network)}
            options = {"step_size": 0.03, "every": steps, "observe": observe}
            return jf.gradient_descent(both, build(kind, maps, key), steps, **options)

        static, axes = {"maps": depths}, {"decay": strengths}
        runs = plan(
            f"networks-{kind}", descend, seeds=plan.count(3), static=static, axes=axes
        )
        return runs.isel(record=-1).expand_dims(kind=[kind])

    def curvature(key):
        """The least one at zero, without weight decay."""
        ends = lambda kind, maps: jf.spectrum(
            loss,
            jax.tree.map(jnp.zeros_like, build(kind, maps, key)),
            largest=0,
            smallest=1,
        ).values[0]
        return {
            "lowest": jnp.stack(
                [
                    jnp.stack([ends(kind, n) for n in depths])
                    for kind in ("plain", "residual")
                ]
            )
        }

    sweeps = [ft.partial(sweep, kind) for kind in ("plain", "residual")]
    origin = ft.partial(plan, "networks-origin", curvature, seeds=1)
    *found, at_zero = run_concurrently([*sweeps, origin])
    runs = xr.concat(found, "kind", data_vars="all")
    lowest = at_zero.lowest.isel(seed=0)
    lowest = lowest.rename(lowest_0="kind", lowest_1="maps")
    lowest = lowest.assign_coords(kind=runs.kind, maps=runs.maps)
    return runs.assign(lowest=lowest).assign_attrs(origin=float(jnp.mean(loss.y**2)))


def _phases_rows(runs):
    for hidden in runs.hidden.to_numpy():
        some = runs.sel(hidden=hidden)
        last = lambda name, some=some: some.decay.where(some[name] > 1e-3).max().item()
        decays = {
            "critical": f"{float(some.critical[0]):.5g}",
            "spinodal": f"{float(some.spinodal[0]):.5g}",
        }
        case = draw.layers_of("plain", hidden)
        back = last("down")
        falling = "never" if back != back else f"from {back:.3g}"
        found = f"nonzero up to {last('up'):.3g} rising, {falling} falling"
        if hidden:
            found = f"jumps by {float(some.jump):.4g}; {found}"
        yield {"case": case, **decays, "finding": found}


def _landscape_rows(runs):
    for hidden in runs.hidden.to_numpy():
        for regime in runs.regime.to_numpy():
            line = runs.above_zero.sel(hidden=hidden, regime=regime)
            # Minima inside: the differences turn from falling to rising.
            slopes = line.diff("norm").to_numpy()
            inside = np.flatnonzero((slopes[:-1] < 0) & (slopes[1:] > 0)) + 1
            found = [
                f"at norm {float(line.norm[k]):.3g} ({float(line[k]):+.3g})" for k in inside
            ]
            zero = ["at zero"] if slopes[0] > 0 else []
            finding = "minima " + " and ".join(zero + found)
            decay = float(runs.strength_of_decay.sel(hidden=hidden, regime=regime))
            case = f"{draw.layers_of('plain', hidden)}, decay {decay:.3g}"
            yield {"case": case, "finding": finding}


def _slices_rows(runs):
    for name in runs.activation.to_numpy():
        some = runs.sel(activation=name)
        for weights in runs.weights.to_numpy():
            line = some["loss"].sel(weights=weights)
            lowest = float(line.min() - runs.origin)
            b = abs(float(runs.b[int(line.argmin("b"))]))
            finding = f"least at |b| = {b:.2f}, {-lowest:.3g} below the origin; curvature "
            finding += "{:.4g} there, {:.4g} by theory".format(
                *(
                    float(some[n].sel(weights=weights))
                    for n in ("curvature_seen", "curvature")
                )
            )
            yield {"case": f"{name}, {weights}", "finding": finding}


def _training_rows(runs):
    above = (runs["loss"] - runs.exact_loss) / runs.attrs["origin"]
    ratio = runs.attrs["spinodal"] / runs.attrs["critical"]
    ranges = {
        "below the critical decay": runs.decay_share < 1,
        "from the critical to the spinodal": (runs.decay_share > 1)
        & (runs.decay_share < ratio),
        "above the spinodal": runs.decay_share > max(ratio, 1),
    }
    for method in runs.algorithm.to_numpy():
        for words, chosen in ranges.items():
            some = above.sel(algorithm=method)[:, chosen.to_numpy()]
            if not some.size:
                continue
            middle = some.median("seed")
            low, high = float(middle.min()), float(middle.max())
            yield {
                "case": f"{method}, {words}",
                "finding": f"medians {low:.1e} to {high:.1e} above the exact minimum "
                f"(over the loss at the origin); {int((some < 0.01).sum())} of {some.size} "
                "within 0.01",
            }


def _trapping_rows(runs):
    for variance in runs.input_variance.to_numpy():
        for gain in runs.gain.to_numpy():
            some = runs.sel(input_variance=variance, gain=gain)
            share = (some["size"] > 1e-2).mean("seed")
            free = some.decay[(share > 0.5).to_numpy()]
            last = float(free.max()) if free.size else float("nan")
            yield {
                "case": f"variance of inputs {variance:g}, gain {gain:.3g}",
                "critical": f"{float(some.critical):.4g}",
                "spinodal": f"{float(some.spinodal):.4g}",
                "finding": f"most starts escape up to {last:.3g}",
            }


def _signal_rows(runs):
    for hidden in runs.hidden.to_numpy():
        for name in runs.activation.to_numpy():
            error = runs.error.sel(hidden=hidden, activation=name).median("seed")
            alive = runs.signal[(error < 0.99).to_numpy()]
            first = float(alive.min()) if alive.size else float("nan")
            finding = f"learned from a signal of {first:.3g} on"
            if hidden > 1:
                least = float(runs.least_signal.sel(hidden=hidden))
                finding += f"; a linear network has a solution from {least:.3g} on"
            case = f"{name}, {draw.layers_of('plain', hidden)}"
            yield {"case": case, "finding": finding}


def _variance_rows(runs):
    for name in ("width", "hidden", "noise"):
        line, mean, error = (
            runs[f"{n}"] for n in (f"by_{name}", f"{name}_mean", f"{name}_error")
        )
        exact = line.sel({name: mean[f"{name}_drawn"].to_numpy()}).to_numpy()
        off = abs(mean.to_numpy() - exact) / (error.to_numpy() + 1e-300)
        worst = float(off[error.to_numpy() > 0].max())
        peak = line[name][int(line.argmax(name))]
        finding = f"largest at {name} {float(peak):.3g}; draws within {worst:.1f} errors"
        yield {"case": f"against {name}", "finding": finding}


def _networks_rows(runs):
    for kind in runs.kind.to_numpy():
        for maps in runs.maps.to_numpy():
            some = runs.sel(kind=kind, maps=maps)
            error = some.error.median("seed") / runs.attrs["origin"]
            alive = some.decay[(error < 0.99).to_numpy()]
            last = float(alive.max()) if alive.size else float("nan")
            low = float(some.lowest)
            finding = (
                f"alive up to {last:.3g}; least curvature of the error at zero {low:.3g}"
            )
            case = f"{kind}, {draw.layers_of(kind, maps)}"
            yield {"case": case, "finding": finding}


EXPERIMENT = Experiment(
    "Ziyin, Li & Meng (2022)",
    {
        "phases": Part(
            "global minima, transitions and hysteresis against weight decay",
            _phases,
            _phases_rows,
            draw.phases,
            cost=5,
        ),
        "landscape": Part(
            "the least loss of linear networks of a size, around the transitions",
            _landscape,
            _landscape_rows,
            draw.landscape,
            cost=1,
        ),
        "slices": Part(
            "the loss along the solution of a linear network, for other activations",
            _slices,
            _slices_rows,
            draw.slices,
            cost=2,
        ),
        "training": Part(
            "training with noise and weight decay, against the exact minimum",
            _training,
            _training_rows,
            draw.training,
            cost=6,
        ),
        "trapping": Part(
            "random starts against weight decay and the size of the solution",
            _trapping,
            _trapping_rows,
            draw.trapping,
            cost=4,
        ),
        "signal": Part(
            "training against the strength of the signal, for four activations",
            _signal,
            _signal_rows,
            draw.signal,
            cost=7,
        ),
        "variance": Part(
            "prediction variance at the exact minimum",
            _variance,
            _variance_rows,
            draw.variance,
            cost=3,
        ),
        "networks": Part(
            "tanh networks, plain and residual, against weight decay",
            _networks,
            _networks_rows,
            draw.networks,
            cost=8,
        ),
    },
)
summary, figures = EXPERIMENT.summary, EXPERIMENT.figures
