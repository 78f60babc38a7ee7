"""What does the largest Hessian eigenvalue cost, and is it right?

All methods are given the same loss, held by its moments, and differ in the rest. The error
is relative to the dense truth, absolute where that is zero.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import TINY, data, measure, report, start
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

import jaxflow

lanczos = eqx.filter_jit(jaxflow.sharpness)
certified = eqx.filter_jit(jaxflow.spectrum)


@jax.jit
def in_turn(loss, networks):
    return jax.lax.map(lambda network: jaxflow.sharpness(loss, network), networks)


@jax.jit
def product(loss, network, direction):
    """The Hessian times a flat vector."""
    _, unravel = ravel_pytree(network)
    _, image = jax.jvp(jax.grad(loss.excess), (network,), (unravel(direction),))
    return ravel_pytree(image)[0]


@jax.jit
def dense(loss, network):
    flat, unravel = ravel_pytree(network)
    return jnp.linalg.eigvalsh(jax.hessian(lambda w: loss.excess(unravel(w)))(flat))[-1]


@jax.jit
def power(loss, network):
    """The norm after 20 normalised products: the largest modulus, in time."""
    flat, _ = ravel_pytree(network)
    step = lambda _, v: product(loss, network, v / jnp.linalg.norm(v))
    start = jr.normal(jr.key(1), flat.shape)
    return jnp.linalg.norm(jax.lax.fori_loop(0, 20, step, start))


class Arpack:
    """SciPy's `eigsh`, which counts its products."""

    def __call__(self, loss, network):
        start = np.random.default_rng(1).normal(size=ravel_pytree(network)[0].size)
        self.products = 0

        def apply(v):
            self.products += 1
            return np.asarray(product(loss, network, v))

        operator = LinearOperator((start.size,) * 2, matvec=apply, dtype=float)
        try:
            return eigsh(operator, 1, which="LA", v0=start, return_eigenvectors=False)[0]
        except ArpackError:  # It refuses a matrix of zeros.
            return np.nan


def states(loss, widths):
    """One run at its start, on its way, and at its end; and the origin."""
    first = start(jr.key(0), widths)
    reach = lambda time: jaxflow.gradient_flow(loss, first, (0, time)).network
    yield "start", first
    yield "part-way", reach(1.0)
    yield "minimum", reach(40.0)
    yield "origin", jax.tree.map(jnp.zeros_like, first)


def single(name, loss, network):
    """Rows for one network, the dense truth last."""
    found, size = certified(loss, network), ravel_pytree(network)[0].size
    with_dense = size <= 4000
    arpack = Arpack()
    values, rows = [], []
    for method, call in (("jaxflow", lanczos), ("power 20", power), ("eigsh LA", arpack)):
        value, times = measure(call, loss, network)
        values.append(float(value))
        rows.append({"case": name, "method": method, **times})
    rows[0] |= {"products": int(found.matvecs), "bound": found.bounds[0]}
    rows[1] |= {"products": 20}
    rows[2] |= {"products": arpack.products}
    truth = values[-1]
    if with_dense:
        truth, times = measure(dense, loss, network)
        values.append(float(truth))
        rows.append({"case": name, "method": "dense", **times, "products": size})
    for row, value in zip(rows, values, strict=True):
        scale = abs(truth) if truth else 1.0
        yield row | {"value": value, "error": abs(value - truth) / scale}
    if not with_dense:
        yield {"case": name, "method": "dense: skipped, eigsh is truth", "run_ms": None}


def batch(name, loss, networks):
    """Rows for a batch: the worst error, and the share of networks that are wrong."""
    count = len(networks.weights[0])
    over = lambda call: eqx.filter_jit(eqx.filter_vmap(call, in_axes=(None, 0)))
    calls = {
        "vmap(jaxflow)": over(lanczos),
        "lax.map(jaxflow)": in_turn,
        "vmap(power 20)": over(power),
        "vmap(dense)": over(dense),
    }
    results = {method: measure(call, loss, networks) for method, call in calls.items()}
    truth, _ = results["vmap(dense)"]
    for method, (values, times) in results.items():
        errors = jnp.abs(values - truth) / jnp.abs(truth)
        yield {
            "case": name,
            "method": method,
            **times,
            "error": jnp.max(errors),
            "us_each": 1e3 * times["run_ms"] / count,
            "wrong": jnp.mean(~(errors < 1e-6), dtype=float),
        }


def rows(options):
    tiny = jaxflow.regression(*data(5, 50))
    if options.quick:
        yield from single("tiny, start", tiny, start(jr.key(0)))
    else:
        for state, network in states(tiny, TINY):
            yield from single(f"tiny, {state}", tiny, network)
        large = jaxflow.regression(*data(options.width, 256))
        for state, network in states(large, (options.width,) * 4 + (1,)):
            if state in ("start", "minimum"):
                yield from single(f"large, {state}", large, network)
    starts = jax.vmap(start)(jr.split(jr.key(0), options.batch))
    yield from batch(f"{options.batch} tiny, start", tiny, starts)
    if not options.quick:
        follow = lambda network: jaxflow.gradient_flow(tiny, network, (0, 1.0)).network
        on_the_way = eqx.filter_vmap(follow)(starts)
        yield from batch(f"{options.batch} tiny, part-way", tiny, on_the_way)


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=32, help="of the larger network")
    parser.add_argument("--batch", type=int, default=200, help="tiny networks at once")
    parser.add_argument("--quick", action="store_true", help="only the cheapest cases")
    options = parser.parse_args()
    if options.quick:
        options.batch = 20
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
