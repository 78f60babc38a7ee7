r"""Do denoisers trained in practice end in flat minima, and in coupled layers?

The nonlinear experiments of Mulayoff & Michaeli (2020): fully connected ReLU networks that
remove white noise from images, over depths and step sizes (figure 4 of the paper), beside
linear networks, mini-batches, Adam and residual networks. Data, sizes and numbers of steps
are small equivalents, not the paper's.
"""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import xarray as xr

import jaxflow as jf

from .._experiment import Experiment, Part, Plan, layered, run_concurrently
from .._statistics import usable, verdicts
from ..data import load_samples
from ..marion_chizat_2024 import figures as draw

# Samples at which Jacobians are looked at.
_INPUTS = 32


def run(
    *,
    only: tuple[str, ...] | None = None,
    data: str = "digits",
    noise: float = 1.25,
    samples: int | None = None,
    width: int = 64,
    depths: tuple[int, ...] | None = None,
    step_sizes: tuple[float, ...] | None = None,
    steps: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Train denoisers, in single precision, and look at curvature and coupling on the way.

    Every sample has one noisy copy, which stays. Networks have no biases, and start from
    normal weights of variance 2 / inputs of the layer (He's), or 1 / inputs if linear;
    residual ones from weights of zero, or of variance 1 / inputs.

    Args:
        only: Some of `depths`, `linear`, `optimizers` and `residual`. By default all.
        data: `digits` (images of 8 x 8 pixels from 0 to 1, shipped with scikit-learn), or
            the path of a file of numbers with samples in rows: `.npy`, `.npz` or `.csv`.
        noise: Standard deviation of the noise, in the units of the data.
        samples: How many of the first samples to train on. By default 600, or all.
        width: Neurons in each hidden layer; residual networks have as many as inputs.
        depths: Numbers of layers of `depths`. By default 2 and 4.
        step_sizes: Step sizes of `depths` and `linear`. By default six from 0.001 to 0.05.
        steps: Steps of each run. By default 3000.
        seeds: Starts drawn, the same ones for each step size.
        seed: Which random numbers, noise included.
        quick: Smaller defaults: a third of the samples, one depth, three step sizes, a
            tenth of the steps, and no mini-batches.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each part, over `seed`, `record` and `step_size` or
        `optimizer`, and `depth` or `start`. `loss` is a mean over samples and a sum over
        numbers; `sharpness` the largest eigenvalue of the Hessian, with its sign, from a
        residual of a thousandth of the largest modulus; `alignment` that of the top
        singular vectors of neighboring layers, and `chance` that of random ones; `top`
        the top singular value of each layer; `coupling` that of the path through the
        layers' Jacobians, averaged over the first 32 samples.

    Raises:
        ValueError: If an argument is out of range, or the data are not finite numbers.
    """
    EXPERIMENT.choose(only)
    loaded = load_samples(data)
    most = 200 if quick else 600
    count = min(most, len(loaded.x)) if samples is None else samples
    steps = (300 if quick else 3_000) if steps is None else steps
    if depths is None:
        depths = (4,) if quick else (2, 4)
    if step_sizes is None:
        step_sizes = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05)
        step_sizes = step_sizes[::2] if quick else step_sizes
    _check(noise, count, len(loaded.x), width, depths, step_sizes, steps, seeds)
    progress(loaded.description)
    key = jax.random.key(seed)
    noisy, moments = _problems(loaded.x[:count], noise, jax.random.fold_in(key, 1))
    words = (
        f"the first {count} of {loaded.description}; noise of standard deviation "
        f"{noise:g}; {steps} steps"
    )
    sizes = width, steps, depths, step_sizes, words
    plan = _Plan(key, seeds, quick, sweep, noisy, moments, *sizes)
    return EXPERIMENT.run(only, plan, progress)


def headline(tree: xr.DataTree) -> str:
    """What theory predicts, and how to read the table, in a few lines."""
    del tree
    return (
        "Descent settles only where sharpness is below 2 / step size, and hovers about it "
        "on its way; ratio is the one over the other.\nAlignment, of the top singular "
        "vectors of neighboring layers, is to be read beside chance, its root mean square "
        "over random layers.\nCoupling, along the path through the layers' Jacobians, is 1 "
        "at the flattest minima of linear networks.\nAll are of the end of training: means "
        "over layers, and medians over seeds that neither diverged nor collapsed."
    )


def _rows(runs):
    """One row for each network, optimizer and step size: how flat, and how coupled."""
    runs = _listed(runs)
    ends = usable(runs.isel(record=-1)).median("seed")
    for k, label in enumerate(runs.run.to_numpy()):
        end = ends.isel(run=k)
        numbers = {
            "2/step": (runs.limit[k], ".5g"),
            "sharpness": (end.sharpness, ".4g"),
            "ratio": (end.sharpness / runs.limit[k], ".3f"),
            "loss": (end.loss, ".4g"),
            "alignment": (end.alignment.mean(), ".3f"),
            "chance": (runs.chance.isel(run=k, record=0).mean(), ".3f"),
            "coupling": (end.coupling.mean(), ".3f"),
        }
        shown = {
            what: "-" if value.isnull() else format(float(value), form)
            for what, (value, form) in numbers.items()
        }
        yield {"run": label, **shown, "verdict": verdicts(runs.status.isel(run=k))}


def _by_step_size(runs: xr.Dataset, axes: Any):
    """A panel in training time for each depth, and four of the ends of all."""
    depths = runs.depth.to_numpy().tolist()
    for depth, axis in zip(depths, axes, strict=False):
        draw.sharpness_in_training(_listed(runs.sel(depth=depth)), axis)
        axis.set_title(f"depth {depth}")
    panels = (
        draw.end_sharpness_against_step_size,
        draw.end_loss_against_step_size,
        draw.end_alignment_against_step_size,
        draw.end_coupling_against_step_size,
    )
    for panel, axis in zip(panels, axes[len(depths) :], strict=False):
        panel(runs, axis)
    for axis in axes[len(depths) + len(panels) :]:
        axis.remove()


def _by_run(runs: xr.Dataset, axes: Any):
    """Sharpness and loss of each run in time, and its layers at the end."""
    runs = _listed(runs)
    draw.sharpness_in_steps(runs, axes[0])
    draw.loss_in_steps(runs, axes[1])
    draw.alignment_of_pairs(runs, axes[2])
    draw.coupling_of_layers(runs, axes[3])


def _listed(runs: xr.Dataset) -> xr.Dataset:
    """All runs along one dimension, by what sets them apart."""
    if "optimizer" in runs.dims:
        return runs.rename(optimizer="run")
    words = {"depth": "depth {}", "start": "{} start", "step_size": "step size {:g}"}
    words = {dim: form for dim, form in words.items() if dim in runs.dims}
    runs = runs.stack(run=[*words], create_index=False)
    columns = [map(form.format, runs[dim].to_numpy()) for dim, form in words.items()]
    return runs.assign_coords(run=[", ".join(row) for row in zip(*columns, strict=True)])


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
    """What all parts share, and the denoisers that they train."""

    noisy: jf.MeanSquaredError
    moments: jf.Regression
    width: int
    steps: int
    depths: tuple[int, ...]
    step_sizes: tuple[float, ...]
    words: str

    @property
    def inputs(self) -> int:
        return self.noisy.x.shape[1]

    def widths(self, depth: int) -> tuple[int, ...]:
        return (self.inputs, *[self.width] * (depth - 1), self.inputs)

    @property
    def records(self) -> list[int]:
        """Numbers of steps, in a nearly geometric series."""
        return sorted(set(np.geomspace(1, self.steps, 14).round().astype(int).tolist()))

    def descend(
        self,
        name: str,
        start: Callable[..., Any],
        *,
        problem: jf.AbstractLoss | None = None,
        optimizer: Any = None,
        batch_size: int | None = None,
        **axes: tuple[float, ...],
    ) -> xr.Dataset:
        """Descents from `start(key, ...)`, with names for what is numbered."""
        problem = self.noisy if problem is None else problem
        optimizer = optax.sgd if optimizer is None else optimizer
        steps, records = self.steps, self.records
        observe = _observables()

        def descent(key, step_size, **place):
            return jf.gradient_descent(
                problem,
                start(key, **place),
                steps,
                step_size=step_size,
                every=records,
                observe=observe,
                optimizer=optimizer,
                batch_size=batch_size,
                key=None if batch_size is None else jax.random.fold_in(key, 1),
            )

        # One at a time: these fill a core, and in a batch the slowest would be waited for.
        runs = self(name, descent, seeds=self.count(1), axes=axes, chunk=1)
        runs = layered(runs).assign_coords(step=("record", [0, *records]))
        return runs.assign(limit=2 / runs.step_size).assign_attrs(data=self.words)


def _depths(plan: _Plan) -> xr.Dataset:
    def at(depth):
        start = ft.partial(_perceptron, plan.widths(depth))
        runs = plan.descend(f"depth-{depth}", start, step_size=plan.step_sizes)
        return runs.expand_dims(depth=[depth])

    depths = sorted(plan.depths, reverse=True)
    found = run_concurrently(ft.partial(at, depth) for depth in depths)
    runs = xr.concat(found, "depth", join="outer", data_vars="all")
    return runs.sortby("depth")


def _linear(plan: _Plan) -> xr.Dataset:
    start = ft.partial(_normal, plan.widths(3), 1.0)
    runs = plan.descend("linear", start, problem=plan.moments, step_size=plan.step_sizes)
    return runs.expand_dims(depth=[3])


def _optimizers(plan: _Plan) -> xr.Dataset:
    start = ft.partial(_perceptron, plan.widths(4))
    batch = max(1, plan.noisy.samples // 10)
    kinds = {
        "GD": (optax.sgd, None, (0.001, 0.02)),
        f"SGD, batches of {batch}": (optax.sgd, batch, (0.01,)),
        "Adam": (optax.adam, None, (0.001,)),
        f"Adam, batches of {batch}": (optax.adam, batch, (0.001,)),
    }
    if plan.quick:
        kinds = {name: kinds[name] for name in ("GD", "Adam")}

    def by(kind):
        optimizer, size, step_sizes = kinds[kind]
        name = kind.lower().replace(",", "").replace(" ", "-")
        options = {"optimizer": optimizer, "batch_size": size}
        runs = plan.descend(name, start, step_size=step_sizes, **options)
        if optimizer is not optax.sgd:
            runs = runs.assign(limit=runs.limit * np.nan)
        labels = [f"{kind}, step size {step_size:g}" for step_size in step_sizes]
        names = {"optimizer": ("step_size", np.array(labels, object))}
        return runs.assign_coords(names).swap_dims(step_size="optimizer")

    # Backwards: the first one's program is that of depth 4, compiled in the meantime.
    found = {kind: by(kind) for kind in reversed(kinds)}
    return xr.concat([found[kind] for kind in kinds], "optimizer", data_vars="all")


def _residual(plan: _Plan) -> xr.Dataset:
    start = ft.partial(_residual_network, [plan.inputs] * 5)
    sizes, gains = (0.0001, 0.001), (0.0, 1.0)
    runs = plan.descend("residual", start, step_size=sizes, gain=gains)
    names = {"start": ("gain", np.array(["zero", "normal"], object))}
    return runs.assign_coords(names).swap_dims(gain="start")


def _problems(
    clean: np.ndarray, noise: float, key: jax.Array
) -> tuple[jf.MeanSquaredError, jf.Regression]:
    """Clean samples from noisy ones: for any network, and for linear ones."""
    # The same noise in either precision.
    x = clean + noise * np.asarray(jr.normal(key, clean.shape, jnp.float32), float)
    return _single(jf.MeanSquaredError(x, clean)), _single(
        jf.Regression.from_data(x, clean)
    )


def _single(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


def _normal(widths, gain, key) -> jf.DeepLinear:
    """Normal weights of variance `gain` over the number of inputs of their layer."""
    # In one draw: a generator for each layer takes a second to compile.
    weights = jf.init.gaussian(widths, scale=1.0, key=key).weights
    return _single(jf.DeepLinear(tuple(w * (gain / w.shape[1]) ** 0.5 for w in weights)))


def _perceptron(widths, key) -> jf.MLP:
    return jf.MLP(_normal(widths, 2.0, key).weights, jax.nn.relu)


def _residual_network(widths, key, gain) -> jf.networks.ResidualMLP:
    return jf.networks.ResidualMLP(_normal(widths, gain, key).weights, jax.nn.relu)


def _observables() -> dict[str, Any]:
    return {
        "loss": jf.loss_value,
        # Products cost as much as two steps each, and single precision has few digits.
        "sharpness": eqx.Partial(jf.sharpness, rtol=1e-3),
        "alignment": jf.alignment,
        "chance": jf.observables.random_alignment,
        "top": _top,
        "coupling": _coupling,
    }


def _top(loss, network):
    """The top singular value of each layer."""
    return jf.observables.singular_values(loss, network)[:, 0]


def _coupling(loss, network):
    """The path coupling of the layers' Jacobians, averaged over inputs."""

    def at(x):
        layers = network.linearized(x)
        # It has no units; and products of what diverges would overflow.
        unit = lambda w: w / jnp.maximum(jnp.abs(w).max(), jnp.finfo(w.dtype).tiny)
        return jf.observables.path_coupling(loss, jax.tree.map(unit, layers))

    if isinstance(network, jf.DeepLinear):  # The same at all inputs.
        return at(jnp.zeros_like(network.weights[0][0]))
    return jax.vmap(at)(loss.x[:_INPUTS]).mean(axis=0)


def _check(noise, count, available, width, depths, step_sizes, steps, seeds):
    if not 0 <= noise < float("inf"):
        raise ValueError(f"`noise` must not be negative, but is {noise}.")
    for name, number, least in (
        ("samples", count, 2),
        ("width", width, 2),
        ("steps", steps, 10),
        ("seeds", seeds, 1),
        *(("depths", depth, 2) for depth in depths),
    ):
        if number < least:
            raise ValueError(f"`{name}` must be at least {least}, but is {number}.")
    if count > available:
        raise ValueError(f"`samples` must be at most {available}, but is {count}.")
    for name, values in (("depths", depths), ("step_sizes", step_sizes)):
        positive = all(0 < value < float("inf") for value in values)
        if not values or not positive or len(set(values)) < len(values):
            raise ValueError(
                f"`{name}` must hold different positive numbers, but holds {list(values)}."
            )


def _depths_figure_rows(runs: xr.Dataset) -> int:
    return (runs.sizes["depth"] + 5) // 2


EXPERIMENT = Experiment(
    "Denoisers",
    {
        "depths": Part(
            "ReLU networks, depth against step size (figure 4)",
            _depths,
            _rows,
            _by_step_size,
            figure_rows=_depths_figure_rows,
            cost=4,
        ),
        "linear": Part(
            "linear networks of depth 3",
            _linear,
            _rows,
            _by_step_size,
            figure_rows=_depths_figure_rows,
            cost=1,
        ),
        "optimizers": Part(
            "ReLU networks of depth 4, by optimizer",
            _optimizers,
            _rows,
            _by_run,
            figure_rows=2,
            cost=2,
        ),
        "residual": Part(
            "residual ReLU networks of depth 4, by start",
            _residual,
            _rows,
            _by_run,
            figure_rows=2,
            cost=3,
        ),
    },
)
summary, figures = EXPERIMENT.summary, EXPERIMENT.figures
