r"""Do denoisers trained in practice end in flat minima, and in coupled layers?

The nonlinear experiments of Mulayoff & Michaeli (2020): fully connected ReLU networks that
remove white noise from images, over depths and step sizes (figure 4 of the paper), beside
linear networks, mini-batches, Adam and residual networks. Data, sizes and numbers of steps
are small equivalents, not the paper's.
"""

import concurrent.futures
import functools as ft
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jaxflow as jf

from .._experiment import choose, layered

if TYPE_CHECKING:
    import jax
    import numpy as np
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {
    "depths": "ReLU networks, depth against step size (figure 4)",
    "linear": "linear networks of depth 3",
    "optimizers": "ReLU networks of depth 4, by optimizer",
    "residual": "residual ReLU networks of depth 4, by start",
}
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
    sweep: Callable[..., "xr.Dataset"] | None = None,
    progress: Callable[[str], Any] = print,
) -> "xr.DataTree":
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
    import jax
    import xarray as xr

    from ...sweeps.sweeps import named
    from .._data import load_samples

    names = choose(only, PARTS)
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
    sweep = named if sweep is None else sweep
    key = jax.random.key(seed)
    noisy, moments = _problems(loaded.x[:count], noise, jax.random.fold_in(key, 1))
    plan = _Plan(noisy, moments, width, steps, seeds, key, quick, sweep)
    jobs = {
        "depths": _depths(plan, depths, step_sizes),
        "residual": _residual(plan),
        "optimizers": _optimizers(plan),
        "linear": _linear(plan, step_sizes),
    }
    branches = _together({name: jobs[name] for name in jobs if name in names}, progress)
    tree = xr.DataTree.from_dict({name: branches[name] for name in PARTS if name in names})
    settings = {"noise": noise, "samples": count, "width": width, "steps": steps}
    tree.attrs.update(data=loaded.description, **settings)
    return tree


def headline(tree: "xr.DataTree") -> str:
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


def summary(tree: "xr.DataTree") -> "pd.DataFrame":
    """One row for each network, optimizer and step size: how flat, and how coupled."""
    import pandas as pd

    from ...sweeps.sweeps import usable
    from .._statistics import verdicts

    rows = []
    for name in tree.children:
        runs = _listed(tree[name].to_dataset())
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
            told = {
                what: "-" if value.isnull() else format(float(value), form)
                for what, (value, form) in numbers.items()
            }
            verdict = verdicts(runs.status.isel(run=k))
            rows.append({"experiment": name, "run": label, **told, "verdict": verdict})
    return pd.DataFrame(rows)


def figures(tree: "xr.DataTree") -> "dict[str, Figure]":
    """The figures, by name."""
    # Not `pyplot`, which would keep the figures, and show them, by itself.
    from matplotlib.figure import Figure

    from ..marion_chizat_2024 import figures as plot

    attrs, drawn = tree.attrs, {}
    for name in tree.children:
        runs = tree[name].to_dataset()
        if "depth" in runs.dims:
            panels = [_in_training(runs, depth) for depth in runs.depth.to_numpy().tolist()]
            panels += [
                ft.partial(draw, runs)
                for draw in (
                    plot.end_sharpness_against_step_size,
                    plot.end_loss_against_step_size,
                    plot.end_alignment_against_step_size,
                    plot.end_coupling_against_step_size,
                )
            ]
        else:
            panels = [
                ft.partial(draw, _listed(runs))
                for draw in (
                    plot.sharpness_in_steps,
                    plot.loss_in_steps,
                    plot.alignment_of_pairs,
                    plot.coupling_of_layers,
                )
            ]
        rows = -(-len(panels) // 2)
        figure = Figure(figsize=(11, 1 + 3.8 * rows), layout="constrained")
        axes = figure.subplots(rows, 2).ravel()
        for axis, draw in zip(axes, panels, strict=False):
            draw(axis)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.suptitle(
            f"Denoisers: {PARTS[name]}\nthe first {attrs['samples']} of {attrs['data']}; "
            f"noise of standard deviation {attrs['noise']:g}; {attrs['steps']} steps",
            fontsize=10,
        )
        drawn[name] = figure
    return drawn


def _in_training(runs: "xr.Dataset", depth: int) -> "Callable[[Axes], Any]":
    """Sharpness in training time, at one depth."""
    from ..marion_chizat_2024 import figures as plot

    def draw(ax):
        plot.sharpness_in_training(_listed(runs.sel(depth=depth)), ax)
        ax.set_title(f"depth {depth}")

    return draw


def _listed(runs: "xr.Dataset") -> "xr.Dataset":
    """All runs along one dimension, by what sets them apart."""
    if "optimizer" in runs.dims:
        return runs.rename(optimizer="run")
    words = {"depth": "depth {}", "start": "{} start", "step_size": "step size {:g}"}
    words = {dim: form for dim, form in words.items() if dim in runs.dims}
    runs = runs.stack(run=[*words], create_index=False)
    columns = [map(form.format, runs[dim].to_numpy()) for dim, form in words.items()]
    return runs.assign_coords(run=[", ".join(row) for row in zip(*columns, strict=True)])


class _Plan(NamedTuple):
    """What all parts share."""

    noisy: "jf.MeanSquaredError"
    moments: "jf.Regression"
    width: int
    steps: int
    seeds: int
    key: Any
    quick: bool
    sweep: Callable[..., "xr.Dataset"]

    @property
    def inputs(self) -> int:
        return self.noisy.x.shape[1]

    def widths(self, depth: int) -> tuple[int, ...]:
        return (self.inputs, *[self.width] * (depth - 1), self.inputs)

    @property
    def records(self) -> list[int]:
        """Numbers of steps, in a nearly geometric series."""
        import numpy as np

        return sorted(set(np.geomspace(1, self.steps, 14).round().astype(int).tolist()))

    def __call__(
        self,
        name: str,
        start: "Callable[..., Any]",
        *,
        problem: "jf.AbstractLoss | None" = None,
        optimizer: Any = None,
        batch_size: int | None = None,
        **axes: tuple[float, ...],
    ) -> "xr.Dataset":
        """Descents from `start(key, ...)`, with names for what is numbered."""
        import jax
        import optax

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
        grid = {"seeds": self.seeds, "axes": axes, "chunk": 1}
        runs = self.sweep(name, descent, key=self.key, **grid)
        runs = layered(runs).assign_coords(step=("record", [0, *records]))
        return runs.assign(limit=2 / runs.step_size)


def _depths(plan: _Plan, depths, step_sizes) -> "list[Callable[[], xr.Dataset]]":
    def at(depth):
        start = ft.partial(_perceptron, plan.widths(depth))
        runs = plan(f"depth-{depth}", start, step_size=step_sizes)
        return runs.expand_dims(depth=[depth])

    return [ft.partial(at, depth) for depth in sorted(depths, reverse=True)]


def _linear(plan: _Plan, step_sizes) -> "list[Callable[[], xr.Dataset]]":
    start = ft.partial(_normal, plan.widths(3), 1.0)
    sweep = ft.partial(plan, "linear", start, problem=plan.moments, step_size=step_sizes)
    return [lambda: sweep().expand_dims(depth=[3])]


def _optimizers(plan: _Plan) -> "list[Callable[[], xr.Dataset]]":
    import numpy as np
    import optax
    import xarray as xr

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
        runs = plan(name, start, step_size=step_sizes, **options)
        if optimizer is not optax.sgd:
            runs = runs.assign(limit=runs.limit * np.nan)
        labels = [f"{kind}, step size {step_size:g}" for step_size in step_sizes]
        names = {"optimizer": ("step_size", np.array(labels, object))}
        return runs.assign_coords(names).swap_dims(step_size="optimizer")

    def each():
        # Backwards: the first one's program is that of depth 4, compiled in the meantime.
        found = {kind: by(kind) for kind in reversed(kinds)}
        return xr.concat([found[kind] for kind in kinds], "optimizer", data_vars="all")

    return [each]


def _residual(plan: _Plan) -> "list[Callable[[], xr.Dataset]]":
    import numpy as np

    start = ft.partial(_residual_network, [plan.inputs] * 5)

    def both():
        runs = plan("residual", start, step_size=(0.0001, 0.001), gain=(0.0, 1.0))
        names = {"start": ("gain", np.array(["zero", "normal"], object))}
        return runs.assign_coords(names).swap_dims(gain="start")

    return [both]


def _problems(
    clean: "np.ndarray", noise: float, key: "jax.Array"
) -> "tuple[jf.MeanSquaredError, jf.Regression]":
    """Clean samples from noisy ones: for any network, and for linear ones."""
    import jax.numpy as jnp
    import jax.random as jr
    import numpy as np

    # The same noise in either precision.
    x = clean + noise * np.asarray(jr.normal(key, clean.shape, jnp.float32), float)
    return _single(jf.MeanSquaredError(x, clean)), _single(
        jf.Regression.from_data(x, clean)
    )


def _single(tree):
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


def _normal(widths, gain, key) -> "jf.DeepLinear":
    """Normal weights of variance `gain` over the number of inputs of their layer."""
    # In one draw: a generator for each layer takes a second to compile.
    weights = jf.init.gaussian(widths, scale=1.0, key=key).weights
    return _single(jf.DeepLinear(tuple(w * (gain / w.shape[1]) ** 0.5 for w in weights)))


def _perceptron(widths, key) -> "jf.MLP":
    import jax

    return jf.MLP(_normal(widths, 2.0, key).weights, jax.nn.relu)


def _residual_network(widths, key, gain) -> "jf.networks.ResidualMLP":
    import jax

    return jf.networks.ResidualMLP(_normal(widths, gain, key).weights, jax.nn.relu)


def _observables() -> dict[str, Any]:
    import equinox as eqx

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
    import jax
    import jax.numpy as jnp

    def at(x):
        layers = network.linearized(x)
        # It has no units; and products of what diverges would overflow.
        unit = lambda w: w / jnp.maximum(jnp.abs(w).max(), jnp.finfo(w.dtype).tiny)
        return jf.observables.path_coupling(loss, jax.tree.map(unit, layers))

    if isinstance(network, jf.DeepLinear):  # The same at all inputs.
        return at(jnp.zeros_like(network.weights[0][0]))
    return jax.vmap(at)(loss.x[:_INPUTS]).mean(axis=0)


def _together(jobs, progress) -> "dict[str, xr.Dataset]":
    """What each part's jobs return, joined, all at once: compiling takes one core each."""
    pool = concurrent.futures.ThreadPoolExecutor(sum(map(len, jobs.values())))
    try:
        found = {name: [pool.submit(job) for job in jobs[name]] for name in jobs}
        return {name: _joined(name, found[name], progress) for name in found}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _joined(name, found, progress) -> "xr.Dataset":
    import xarray as xr

    runs = [future.result() for future in found]
    progress(f"done: {PARTS[name]}")
    if len(runs) == 1:
        return runs[0]
    return xr.concat(runs, "depth", join="outer", data_vars="all").sortby("depth")


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
