r"""Linear networks beside their exact solutions, and nonlinear ones beside them.

Autoencoders that learn one principal component after the other, two layers from balanced
starts, diagonal networks whose limit depends on the size of the start, chains that wait
longer the deeper they are, factors of a matrix: flows of real data on the formulas of
`theory`. Matrices from few measurements, of which a formula knows one layer.
Then what no formula says: perceptron, residual and convolutional network, in training.
"""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from scipy.optimize import linprog

import jaxflow as jf

from ..._linalg import decompositions
from .._experiment import Experiment, Part, Plan, fan_in, labeled
from ..data import digits, load_data
from . import figures as draw
from .residual import ResidualClassifier

# Principal components of the digits that the linear networks see.
COMPONENTS = 16


def run(
    *,
    only: tuple[str, ...] | None = None,
    seed: int = 0,
    quick: bool = False,
    sweep: Callable[..., xr.Dataset] | None = None,
    progress: Callable[[str], Any] = print,
) -> xr.DataTree:
    """Flows of linear networks on their closed forms, and nonlinear networks in training.

    Data are the diabetes and the digits that are shipped with scikit-learn.

    Args:
        only: Some of `autoencoder`, `two-layers`, `diagonal`, `chains`, `factorization`,
            `sensing` and `nonlinear`. By default all of them.
        seed: Which random numbers.
        quick: Fewer starts, records, samples and steps: a look.
        sweep: How to sweep: `jaxflow.sweep`, which it is by default, with a name first.
        progress: Told what is under way.

    Returns:
        A tree with a dataset for each part. In those of linear networks `deviation` is
        the largest one of the flow from theory, where there is one.

    Raises:
        ValueError: If `only` names something else.
    """
    plan = Plan(jax.random.key(seed), None, quick, sweep)
    return EXPERIMENT.run(only, plan, progress)


def headline(tree: xr.DataTree) -> str:
    """What theory predicts and training does, a line for each part."""
    words = {
        "autoencoder": "Component i is learned at a rate of 4 c_i, with its variance c_i; "
        "by tied layers twice as fast.",
        "two-layers": "Two balanced layers from small products wait and then learn; with "
        "an imbalance they begin at once.",
        "diagonal": "Of all solutions, the flow of u^2 - v^2 finds that of least l1 norm "
        "from small starts, and of least l2 norm from large ones.",
        "chains": "From one small product, deeper networks wait longer, and then learn "
        "more suddenly.",
        "factorization": "Positive eigenvalues of a matrix are found one by one, each at a "
        "rate of 8 times itself; negative ones never.",
        "sensing": "Of all matrices that fit, deeper networks find one of lower rank, and "
        "so what was measured from fewer measurements.",
    }
    if "nonlinear" in tree.children:
        words["nonlinear"] = _nonlinear_words(tree["nonlinear"].to_dataset())
    return "\n".join(words[name] for name in tree.children)


def _components() -> tuple[np.ndarray, np.ndarray]:
    """Leading principal components of digits, `(samples, components)`, and variances."""
    x, _ = digits()
    left, sizes, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    scores = left[:, :COMPONENTS] * sizes[:COMPONENTS]
    return scores, sizes[:COMPONENTS] ** 2 / len(x)


def _flow(problem, network, times, observe, **options):
    """The flow, by the solver that compiles fastest: none of these problems is stiff.

    Plateaus, and differences of large weights, multiply errors: so few are allowed.
    """
    options = {"solver": dfx.Tsit5(), "rtol": 1e-10, "throw": False} | options
    return jf.gradient_flow(problem, network, times, observe=observe, **options)


def _product(loss, network):
    """The end-to-end matrix."""
    del loss
    return network.product


def _autoencoder(plan: Plan) -> xr.Dataset:
    """Aligned small starts, with hidden neurons turned at random."""
    scores, variances = _components()
    problem, start = jf.Regression.denoising(scores, noise=0.0), 1e-3
    # Until the last component is learned by untied layers.
    times = np.linspace(0, 3 / variances[-1], 31 if plan.quick else 91)

    def learn(key, layers):
        turned = start**0.5 * jr.orthogonal(key, COMPONENTS)
        network = jf.DeepLinear((turned.T, turned))
        if layers == "tied":
            network = jf.networks.SymmetricLinear(turned)
        run = _flow(problem, network, times, {"product": _product})
        product = run.observed["product"]
        flow = jnp.diagonal(product, axis1=1, axis2=2)
        theory = jf.papers.exact_solutions.autoencoder_modes(
            jnp.asarray(times),
            jnp.asarray(variances),
            jnp.full(COMPONENTS, start),
            tied=layers == "tied",
        )
        # Of the whole matrix, for components must not mix.
        off = product - theory[:, :, None] * jnp.eye(COMPONENTS)[None]
        return {"flow": flow, "theory": theory, "deviation": jnp.max(jnp.abs(off))}

    runs = plan("autoencoder", learn, seeds=1, static={"layers": ("untied", "tied")}).isel(
        seed=0
    )
    axes = {what: {f"{what}_0": "time", f"{what}_1": "mode"} for what in ("flow", "theory")}
    places = {"time": times, "mode": np.arange(1, 1 + COMPONENTS)}
    runs = labeled(runs, axes | {"deviation": {}}).assign_coords(places)
    runs = runs.assign_coords(variance=("mode", variances))
    data = f"{COMPONENTS} leading principal components of 1797 digits of 8 x 8 pixels"
    return runs.assign_attrs(data=data, start=start)


def _two_layers(plan: Plan) -> xr.Dataset:
    """White inputs, and fewer hidden neurons than a target of full rank would need."""
    scores, labels = _components()[0], digits()[1]
    shares = np.eye(10)[labels]
    patients = load_data("diabetes")
    problems = {
        "diabetes": (jf.Regression.from_data(patients.x, patients.y), 1),
        "digits": (jf.Regression.from_data(scores, shares - shares.mean(axis=0)), 4),
    }
    problems = {
        name: (jf.losses.whiten(problem)[0], hidden)
        for name, (problem, hidden) in problems.items()
    }
    imbalances = (0.0, 1.0) if plan.quick else (0.0, 0.1, 1.0)
    times = np.linspace(0, 20, 31 if plan.quick else 101)

    def learn(key, data, imbalance):
        problem, hidden = data
        outputs, inputs = problem.target.shape
        drawn, read, write = jr.split(key, 3)
        square = jr.normal(drawn, (hidden, hidden))
        square = 1e-3 * square @ square.T / hidden
        # Roots of matrices that differ by a multiple of the identity, turned at random.
        first = _root(square) @ jr.orthogonal(read, inputs)[:hidden]
        raised = square + imbalance * jnp.eye(hidden)
        second = jr.orthogonal(write, outputs)[:, :hidden] @ _root(raised)
        network = jf.DeepLinear((first, second))
        run = _flow(problem, network, times, {"product": _product})
        solve = jf.papers.exact_solutions.two_layer_regression
        theory = solve(problem, network, jnp.asarray(times)).product
        modes = lambda products: decompositions.svdvals(products)[:, :hidden]
        flow, top = run.observed["product"], decompositions.spectral_norm(problem.target)
        return {
            "flow": modes(flow),
            "theory": modes(theory),
            "target": decompositions.svdvals(problem.target)[:hidden],
            "deviation": jnp.max(jnp.abs(flow - theory)) / top,
        }

    grid = {"static": {"data": problems}, "axes": {"imbalance": imbalances}}
    runs = plan("two-layers", learn, seeds=1, **grid).isel(seed=0)
    axes = {what: {f"{what}_0": "time", f"{what}_1": "mode"} for what in ("flow", "theory")}
    axes |= {"target": {"target_0": "mode"}, "deviation": {}}
    places = {"time": times, "mode": np.arange(1, 5)}
    data = (
        "whitened: diabetes, one hidden neuron; principal components of digits to one "
        "output for each of ten classes, 4 hidden neurons"
    )
    return labeled(runs, axes).assign_coords(places).assign_attrs(data=data)


def _root(matrix):
    """The symmetric root of a positive matrix."""
    values, axes = decompositions.eigh(matrix)
    return axes * jnp.sqrt(values)[None] @ axes.T


def _diagonal(plan: Plan) -> xr.Dataset:
    """The limit against the scale of the start, for fewer samples than inputs."""
    samples = 8
    data = load_data("diabetes")
    products = [data.x[:, [k]] * data.x[:, k:] for k in range(data.x.shape[1])]
    x = np.concatenate([data.x, *products], axis=1)
    x = ((x - x.mean(axis=0)) / x.std(axis=0))[:samples]
    y = data.y[:samples]
    inputs, problem = x.shape[1], jf.Regression.from_data(x, y)
    scales = np.geomspace(1e-5, 1, 6 if plan.quick else 16)
    fine = np.geomspace(scales[0], scales[-1], 101)

    def limit(scale):
        ends = jf.papers.exact_solutions.diagonal_limit
        # u^2 - v^2 from u = v = scale is a product of u + v and u - v.
        return ends(problem, jnp.full(inputs, 2 * scale), jnp.zeros(inputs))

    def learn(key, scale):
        del key
        layer = jnp.full((1, inputs), scale)
        network = jf.networks.DiagonalLinear(layer, layer, power=2)
        options = {"observe": {"product": _product}, "tolerance": 1e-20, "atol": 1e-16}
        run = _flow(problem, network, (0.0, jnp.inf), **options)
        flow, theory = run.network.product[0], limit(scale)
        off = jnp.max(jnp.abs(flow - theory)) / jnp.max(jnp.abs(theory))
        return {"flow": flow, "deviation": off, "end": run.time[-1]}

    runs = plan("diagonal", learn, seeds=1, axes={"scale": scales}).isel(seed=0)
    runs = labeled(runs, {"flow": {"flow_0": "input"}, "deviation": {}, "end": {}})
    theory = jax.jit(jax.vmap(limit))(jnp.asarray(fine))
    runs = runs.assign(theory=(("exact_scale", "input"), np.asarray(theory)))
    ends = [
        abs(runs[what]).sum("input").rename(f"{what}_l1") for what in ("flow", "theory")
    ]
    both = np.concatenate([x, -x], axis=1)
    least = linprog(np.ones(2 * inputs), A_eq=both, b_eq=y[:, 0])
    words = (
        f"diabetes: {samples} patients, {inputs} inputs (10, their squares and products)"
    )
    return (
        runs.assign({end.name: end for end in ends})
        .assign_coords(exact_scale=fine, input=np.arange(1, 1 + inputs))
        .assign_attrs(
            data=words,
            least_l1=float(least.fun),
            least_l2_l1=float(jnp.sum(jnp.abs(problem.target))),
        )
    )


def _chains(plan: Plan) -> xr.Dataset:
    """Balanced starts with one small product, on inputs as they are and on white ones."""
    patients = load_data("diabetes")
    problem = jf.Regression.from_data(patients.x, patients.y)
    both = jax.tree.map(lambda *a: jnp.stack(a), problem, jf.losses.whiten(problem)[0])
    depths, start = (2, 5) if plan.quick else (2, 3, 5, 10), 1e-3
    times = np.concatenate([[0.0], np.geomspace(0.1, 100, 40 if plan.quick else 120)])
    shares = np.linspace(0, 0.999, 400)
    exact = jf.papers.exact_solutions

    def learn(key, depth, white):
        del key
        problem = jax.tree.map(lambda a: a[white], both)
        size = jnp.linalg.norm(problem.target)
        product = start * problem.target / size
        network = jf.init.balanced(product, depth, width=4)
        observe = {"excess": jf.observables.excess_loss, "product": _product}
        run = _flow(problem, network, times, observe).observed
        move = lambda t, w, p: exact.end_to_end_velocity(p, w, depth, rank=1)
        theory = dfx.diffeqsolve(
            dfx.ODETerm(move),  # pyright: ignore
            dfx.Tsit5(),
            times[0],
            times[-1],
            None,
            product,
            problem,
            saveat=dfx.SaveAt(ts=jnp.asarray(times)),
            stepsize_controller=dfx.PIDController(rtol=1e-10, atol=1e-14),
            max_steps=100_000,
        ).ys
        assert theory is not None
        gaps = jnp.linalg.norm(run["product"] - theory, axis=(1, 2))
        # Of white inputs only the size moves; and when it is what, is known in closed form.
        layers = jnp.full(depth, start ** (1 / depth))
        when = lambda sizes: exact.chain_times(sizes, layers, size)
        sizes = jnp.linalg.norm(run["product"], axis=(1, 2))
        late = when(sizes) - times
        steep = (times > 0) & (sizes < 0.99 * size)
        late = jnp.max(jnp.where(steep, jnp.abs(late) / jnp.maximum(times, 0.1), 0))
        only = lambda values: jnp.where(white > 0, values, jnp.nan)
        return {
            "flow": run["excess"],
            "theory": jax.vmap(lambda w: problem.criterion(w))(theory),
            "size": sizes / size,
            "chain": only(when(start + jnp.asarray(shares) * (size - start))),
            "deviation": jnp.max(gaps) / size,
            "chain_deviation": only(late),
        }

    runs = plan(
        "chains", learn, seeds=1, static={"depth": depths}, axes={"white": (0, 1)}
    ).isel(seed=0)
    axes = {what: {f"{what}_0": "time"} for what in ("flow", "theory", "size")}
    axes |= {"chain": {"chain_0": "share"}, "deviation": {}, "chain_deviation": {}}
    places = {"time": times, "share": shares, "white": [False, True]}
    runs = labeled(runs, axes).assign_coords(places)
    size = float(jnp.linalg.norm(both.target[1]))
    shown = (start + shares * (size - start)) / size
    runs = runs.assign_coords(chain_size=("share", shown))
    return runs.assign_attrs(data=f"diabetes; products of size {start:g} at the start")


def _factorization(plan: Plan) -> xr.Dataset:
    """The correlations of inputs, of which the mean is taken away: so of both signs."""
    target = np.corrcoef(load_data("diabetes").x, rowvar=False)
    target = target - np.eye(len(target))
    values, axes = np.linalg.eigh(target)
    values, axes = values[::-1], axes[:, ::-1]
    # ||U U^T - A||^2 is the error of a linear map, for white inputs.
    problem = jf.Regression.from_moments(np.eye(len(target)), target, np.sum(target**2))
    times = np.linspace(0, 8, 41 if plan.quick else 161)

    def learn(key):
        factor = 1e-2 * jr.normal(key, (len(target), 4))
        run = _flow(
            problem, jf.networks.SymmetricLinear(factor), times, {"product": _product}
        )
        solve = jf.papers.exact_solutions.symmetric_factorization
        theory = solve(jnp.asarray(target), factor, jnp.asarray(times))
        modes = lambda m: jnp.diagonal(axes.T @ m @ axes, axis1=1, axis2=2)
        off = jnp.max(jnp.abs(run.observed["product"] - theory))
        found = {"flow": modes(run.observed["product"]), "theory": modes(theory)}
        return found | {"deviation": off / values[0]}

    runs = plan("factorization", learn, seeds=1).isel(seed=0)
    names = {
        what: {f"{what}_0": "time", f"{what}_1": "mode"} for what in ("flow", "theory")
    }
    runs = labeled(runs, names | {"deviation": {}})
    runs = runs.assign_coords(time=times, mode=np.arange(1, 1 + len(values)))
    data = "correlations of the 10 inputs of diabetes, less the identity; 4 columns"
    return runs.assign_coords(target=("mode", values)).assign_attrs(data=data)


def _sensing(plan: Plan) -> xr.Dataset:
    """Random measurements of an image of rank two, from equal layers."""
    images, labels = digits()
    side, rank, start = 8, 2, 1e-3
    image = images[labels == 0].mean(axis=0).reshape(side, side)
    left, sizes, right = np.linalg.svd(image)
    image = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    image = image / np.linalg.norm(image)
    depths = (1, 3) if plan.quick else (1, 2, 3)
    counts = (16, 40) if plan.quick else (16, 24, 32, 40, 48)

    def learn(key, depth, samples):
        rows = jr.normal(key, (max(counts), side, side))
        rows = jnp.where(jnp.arange(len(rows))[:, None, None] < samples, rows, 0)
        seen = rows.reshape(len(rows), -1)
        problem = jf.losses.MatrixSensing(rows, seen @ image.ravel())
        first = start * jnp.eye(side)
        network = jf.DeepLinear((start ** (1 / depth) * jnp.eye(side),) * depth)
        options = {"tolerance": 1e-12, "rtol": 1e-8, "max_steps": 20_000}
        run = _flow(problem, network, (0.0, jnp.inf), {"loss": jf.loss_value}, **options)
        found = run.network.product
        # One layer goes straight to the nearest matrix that fits.
        away = decompositions.pinv(seen, rtol=1e-8) @ (seen @ (image - first).ravel())
        nearest = first + away.reshape(side, side)
        gap = jnp.linalg.norm(found - nearest) / jnp.linalg.norm(nearest)
        return {
            "error": jnp.linalg.norm(found - image),
            "values": decompositions.svdvals(found),
            "loss": run.observed["loss"][-1],
            "deviation": gap if depth == 1 else jnp.nan,
        }

    grid = {"static": {"depth": depths}, "axes": {"samples": counts}}
    runs = plan("sensing", learn, seeds=1, **grid).isel(seed=0)
    names = {what: {} for what in ("error", "loss", "deviation")}
    runs = labeled(runs, names | {"values": {"values_0": "mode"}})
    runs = runs.assign_coords(mode=np.arange(1, 1 + side))
    data = "random measurements of the mean zero of 8 x 8 pixels, its two leading parts"
    return runs.assign_attrs(data=data, rank=rank)


def _nonlinear(plan: Plan) -> xr.Dataset:
    """Three networks on images, with what is known of linear ones seen input by input."""
    images, labels = digits()
    samples, steps = (100, 200) if plan.quick else (300, 1_000)
    records = np.geomspace(1, steps, 10 if plan.quick else 40).round().astype(int)
    records = sorted(set(records.tolist()))
    images = images - images.mean(axis=0)
    images = images / images.std()
    loss, step_size = jf.CrossEntropy(images[:samples], labels[:samples]), 1.0
    some = jnp.arange(50)

    def over_inputs(observable):
        def mean(loss, network):
            each = lambda x: observable(loss, network.linearized(x))
            return jnp.mean(jax.vmap(each)(loss.x[:8]), axis=0)

        return mean

    observe = {
        "loss": jf.loss_value,
        "sharpness": eqx.Partial(jf.sharpness, rtol=1e-3),
        "kernel": lambda loss, network: jf.observables.kernel_target_alignment(
            loss.select(some), network
        ),
        "alignment": over_inputs(jf.alignment),
        "chance": over_inputs(jf.observables.random_alignment),
    }

    def descend(key, network):
        options = {"step_size": step_size, "every": records, "observe": observe}
        return jf.gradient_descent(loss, network(key), steps, **options)

    runs = plan("nonlinear", descend, seeds=1, static={"network": _starts()}).isel(seed=0)
    axes = {what: {} for what in ("loss", "sharpness", "kernel")}
    axes |= {what: {f"{what}_0": "pair"} for what in ("alignment", "chance")}
    runs = labeled(runs, axes | {"status": {}})
    runs = runs.assign_coords(step=("record", [0, *records]))
    data = f"{samples} digits, cross-entropy, step size {step_size:g}"
    return runs.assign_attrs(data=data, step_size=step_size)


def _starts() -> dict[str, Callable[[jax.Array], Any]]:
    """Networks of images, from normal weights of half the usual size, 1 / sqrt(inputs)."""

    def convolutional(key):
        shape, channels = (1, 8, 8), (6, 6)
        scale = 0.5 / jnp.array([9.0, 54.0, 24.0]) ** 0.5
        options = {"scale": scale, "activation": jnp.tanh, "stride": 2, "key": key}
        return jf.init.convolutional(shape, channels, 3, 10, **options)

    widths = (64, 32, 32, 32, 10)
    return {
        "perceptron": lambda key: jf.MLP(fan_in(widths, key, scale=0.5).weights, jnp.tanh),
        "residual": lambda key: ResidualClassifier(
            fan_in(widths, key, scale=0.5).weights, jnp.tanh
        ),
        "convolutional": convolutional,
    }


def _autoencoder_rows(runs):
    for layers in runs.layers.to_numpy():
        some = runs.sel(layers=layers)
        half = some.time[(some.flow > 0.5).argmax("time")].to_numpy()
        yield {
            "case": f"{layers} layers",
            "deviation": f"{float(some.deviation):.1e}",
            "relative to": "one, a component that is learned",
            "finding": f"components half learned from time {half[0]:.3g} to {half[-1]:.3g}",
        }


def _two_layers_rows(runs):
    for data in runs.data.to_numpy():
        for imbalance in runs.imbalance.to_numpy():
            some = runs.sel(data=data, imbalance=imbalance)
            last = float((some.flow.isel(time=-1) / some.target).min())
            yield {
                "case": f"{data}, imbalance {imbalance:g}",
                "deviation": f"{float(some.deviation):.1e}",
                "relative to": "largest singular value of the target",
                "finding": f"last mode at {last:.4f} of its target at the end",
            }


def _diagonal_rows(runs):
    for scale in runs.scale.to_numpy()[[0, runs.sizes["scale"] // 2, -1]]:
        some = runs.sel(scale=scale)
        size, least = float(some.flow_l1), runs.attrs["least_l1"]
        yield {
            "case": f"start {scale:.3g}",
            "deviation": f"{float(some.deviation):.1e}",
            "relative to": "largest entry of the limit",
            "finding": f"l1 norm {size:.4g}, {size / least:.4g} times the least",
        }


def _chains_rows(runs):
    for white in runs.white.to_numpy():
        for depth in runs.depth.to_numpy():
            some = runs.sel(white=white, depth=depth)
            share = some.flow / some.flow[0]
            half = float(runs.time[int((share < 0.5).argmax("time"))])
            finding = f"loss above the floor halved by time {half:.3g}"
            if white:
                finding += f"; times of a chain off by {float(some.chain_deviation):.1e}"
            yield {
                "case": f"{'white' if white else 'raw'} inputs, depth {depth}",
                "deviation": f"{float(some.deviation):.1e}",
                "relative to": "size of the least-squares solution",
                "finding": finding,
            }


def _factorization_rows(runs):
    last = runs.isel(time=-1)
    found = int((last.flow > 0.5 * last.target).where(last.target > 0).sum())
    yield {
        "case": f"{runs.sizes['mode']} eigenvalues",
        "deviation": f"{float(runs.deviation):.1e}",
        "relative to": "largest eigenvalue",
        "finding": f"{found} of {int((runs.target > 0).sum())} positive ones are found",
    }


def _sensing_rows(runs):
    for depth in runs.depth.to_numpy():
        some = runs.sel(depth=depth)
        row = {"case": f"depth {depth}"}
        if depth == 1:
            row["deviation"] = f"{float(some.deviation.max()):.1e}"
            row["relative to"] = "the nearest matrix that fits"
        most, fewest = some.error.isel(samples=-1), some.error.isel(samples=0)
        row["finding"] = (
            f"error {float(fewest):.2g} from {int(some.samples[0])} measurements, "
            f"{float(most):.2g} from {int(some.samples[-1])}, relative to the image"
        )
        yield row


def _nonlinear_rows(runs):
    limit = 2 / runs.attrs["step_size"]
    for name in runs.network.to_numpy():
        some = runs.sel(network=name)
        first, last = some.isel(record=0), some.isel(record=-1)
        top = float(some.sharpness.max()) / limit
        change = lambda what, form, a=first, b=last: (
            f"{float(a[what].mean()):{form}} to {float(b[what].mean()):{form}}"
        )
        yield {
            "case": name,
            "finding": f"loss {change('loss', '.3g')}; "
            f"sharpness {change('sharpness', '.3g')}, at most {top:.2f} of 2 / step size; "
            f"kernel {change('kernel', '.3f')}; layers {change('alignment', '.2f')}, "
            f"chance {float(first.chance.mean()):.2f}",
        }


def _nonlinear_words(runs):
    """What training of all networks did."""
    ratio = runs.sharpness.max() / (2 / runs.attrs["step_size"])
    ends = runs.mean("pair").mean("network").isel(record=[0, -1])
    change = lambda what: "from {:.2g} to {:.2g}".format(*ends[what].to_numpy())
    return (
        f"Descent of nonlinear networks, means: sharpness {change('sharpness')}, at most "
        f"{float(ratio):.2f} times 2 / step size;\nalignment of the tangent kernel with "
        f"targets {change('kernel')}, of layers with each other {change('alignment')}."
    )


EXPERIMENT = Experiment(
    "Exact solutions",
    {
        "autoencoder": Part(
            "linear autoencoders learn components one by one",
            _autoencoder,
            _autoencoder_rows,
            draw.autoencoder,
            cost=1,
        ),
        "two-layers": Part(
            "two linear layers from balanced starts of several imbalances",
            _two_layers,
            _two_layers_rows,
            draw.two_layers,
            cost=3,
        ),
        "diagonal": Part(
            "diagonal networks, and which of all solutions they find",
            _diagonal,
            _diagonal_rows,
            draw.diagonal,
            cost=2,
        ),
        "chains": Part(
            "balanced linear networks of several depths",
            _chains,
            _chains_rows,
            draw.chains,
            cost=6,
        ),
        "factorization": Part(
            "two equal factors of a matrix",
            _factorization,
            _factorization_rows,
            draw.factorization,
            cost=4,
        ),
        "sensing": Part(
            "an image from fewer measurements than it has pixels, by several depths",
            _sensing,
            _sensing_rows,
            draw.sensing,
            cost=5,
        ),
        "nonlinear": Part(
            "nonlinear networks, descended at one step size",
            _nonlinear,
            _nonlinear_rows,
            draw.nonlinear,
            figure_rows=2,
            cost=7,
        ),
    },
)
summary, figures = EXPERIMENT.summary, EXPERIMENT.figures
