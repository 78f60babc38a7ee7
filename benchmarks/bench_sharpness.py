r"""What does the largest Hessian eigenvalue cost, beside its peers, and is it right?

Peers in JAX get the loss that jaxflow gets, held by its moments, and matfree also the one
from samples; peers in torch take only samples. "Oracle" is the fewest products with which
the method is right to 1e-6, which no user can know. The error is relative to the dense
truth (where that is too large, to ARPACK without tolerance), absolute where it is zero.
Peers that are not installed are skipped:

    pip install matfree torch pyhessian curvlinops-for-pytorch
    pip install --pre hessian-eigenthings
"""

import argparse
import functools as ft
import importlib
import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import TINY, data, measure, report, start
from jax.experimental.sparse.linalg import lobpcg_standard
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

import jaxflow

PLENTY, SAMPLED = 40, 5
LENGTHS = 4, 6, 8, 10, 12, 14, 16, 20, 24, 32


class Problem(NamedTuple):
    x: jax.Array
    y: jax.Array
    moments: jaxflow.Regression
    samples: jaxflow.MeanSquaredError


def problem(inputs, samples):
    x, y = data(inputs, samples)
    return Problem(x, y, jaxflow.Regression.from_data(x, y), jaxflow.MeanSquaredError(x, y))


def peer(name):
    """A module that need not be there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


matfree, torch = peer("matfree.decomp"), peer("torch")
pyhessian, eigenthings = peer("pyhessian"), peer("hessian_eigenthings")
curvlinops = peer("curvlinops")


# In JAX: functions of a loss and a network, to a value and a number of products.
def flat(loss, network):
    """The Hessian times a flat vector, linearized once, and where to start."""
    weights, unravel = ravel_pytree(network)
    _, apply = jax.linearize(jax.grad(lambda w: loss.excess(unravel(w))), weights)
    return apply, jr.normal(jr.key(1), weights.shape, weights.dtype)


def lanczos(loss, network, *, products):
    apply, first = flat(loss, network)
    small = matfree.tridiag_sym(products)(apply, first)[1]
    # LAPACK takes a long time over what is not finite.
    fine = jnp.all(jnp.isfinite(small))
    return jnp.where(fine, jnp.linalg.eigvalsh(jnp.where(fine, small, 0))[-1], jnp.nan)


def lobpcg(loss, network):
    apply, first = flat(loss, network)
    columns = jax.vmap(apply, in_axes=1, out_axes=1)
    return lobpcg_standard(columns, first[:, None], m=200, tol=1e-10)[0][0]


def power(loss, network):
    """The norm after 20 normalized products: the largest modulus, in time."""
    apply, first = flat(loss, network)
    step = lambda _, v: apply(v / jnp.linalg.norm(v))
    return jnp.linalg.norm(jax.lax.fori_loop(0, 20, step, first))


def dense(loss, network):
    weights, unravel = ravel_pytree(network)
    return jnp.linalg.eigvalsh(jax.hessian(lambda w: loss.excess(unravel(w)))(weights))[-1]


product = jax.jit(lambda loss, network, v: flat(loss, network)[0](v))


# On the host: functions of a problem and a network, to a nullary function for the clock.
def arpack(operator, size, tol):
    """The value, and the products that it took."""
    count, first = 0, np.random.default_rng(1).normal(size=size)

    def apply(v):
        nonlocal count
        count += 1
        return operator(v)

    wrapped = LinearOperator((size, size), matvec=apply, dtype=float)
    try:
        found = eigsh(wrapped, 1, which="LA", v0=first, tol=tol, return_eigenvectors=False)
    except ArpackError:  # It refuses a matrix of zeros.
        found = [np.nan]
    return found[0], count


def scipy_eigsh(given, network, tol=1e-6):
    size = ravel_pytree(network)[0].size
    apply = lambda v: np.asarray(product(given.moments, network, v))
    return lambda: arpack(apply, size, tol)


def in_torch(given, network):
    torch.set_default_dtype(torch.float64)
    layers = []
    for weight in network.weights:
        layers.append(torch.nn.Linear(*weight.shape[::-1], bias=False))
        layers[-1].weight.data = torch.tensor(np.asarray(weight))
    x, y = (torch.tensor(np.asarray(z)) for z in (given.x, given.y[:, None]))
    torch.manual_seed(1)
    return torch.nn.Sequential(*layers), torch.nn.MSELoss(), (x, y)


def py_hessian(given, network, **options):
    model, loss, batch = in_torch(given, network)
    make = lambda: pyhessian.hessian(model, loss, data=batch, cuda=False)
    return lambda: (make().eigenvalues(**options)[0][0], None)


def eigen_things(given, network, **options):
    model, loss, batch = in_torch(given, network)
    score = lambda model, batch: loss(model(batch[0]), batch[1])
    operator = eigenthings.HessianOperator(model, [batch], score)

    def run():
        found = eigenthings.lanczos(operator, k=1, seed=1, **options)
        return float(found.eigenvalues[0]), options.get("max_iter", 2)

    return run


def curv_linops(given, network):
    model, loss, batch = in_torch(given, network)
    make = curvlinops.HessianLinearOperator
    weights = list(model.parameters())
    operator = make(model, loss, weights, [batch], check_deterministic=False).to_scipy()
    return lambda: arpack(operator.matvec, operator.shape[0], 1e-6)


def error_of(value, truth):
    return np.abs(np.asarray(value) - truth) / np.where(truth == 0, 1, np.abs(truth))


def over(call):
    return eqx.filter_jit(eqx.filter_vmap(call, in_axes=(None, 0)))


def alone(call):
    """Of a batch of one, without a batch axis."""
    return eqx.filter_jit(lambda loss, one: call(loss, jax.tree.map(lambda w: w[0], one)))


def oracle(given, networks, truth):
    """The fewest products with which matfree is right for all networks of a batch."""
    for products in LENGTHS if matfree else ():
        values = over(ft.partial(lanczos, products=products))(given.moments, networks)
        if np.all(error_of(values, truth) < 1e-6):
            return products
    return PLENTY


def in_jax(best):
    """Names, functions, whether from samples, and numbers of products."""
    peer = lambda count: matfree and ft.partial(lanczos, products=count)
    yield "jaxflow", jaxflow.sharpness, False, None
    yield "matfree, oracle", peer(best), False, best
    yield "matfree, plenty", peer(PLENTY), False, PLENTY
    yield "matfree, oracle, samples", peer(best), True, best
    yield "jax lobpcg", lobpcg, False, None
    yield "power 20, samples", power, True, 20


def on_host(best):
    enough = {"which": "LA", "max_iter": best}
    yield "scipy eigsh", scipy_eigsh
    yield "PyHessian, defaults", pyhessian and py_hessian
    tight = ft.partial(py_hessian, maxIter=500, tol=1e-10)
    yield "PyHessian, tight", pyhessian and tight
    yield "eigenthings, oracle", eigenthings and ft.partial(eigen_things, **enough)
    yield "eigenthings, defaults", eigenthings and eigen_things
    yield "curvlinops + eigsh", curvlinops and curv_linops


def entry(name, method, times, values, truth, share=1, products=None):
    """A row for one network, or for the worst of many, of which a share was timed."""
    errors = error_of(values, truth)
    row = {"case": name, "method": method, **times, "products": products}
    if len(truth) == share == 1:
        return row | {"value": np.ravel(values)[0], "error": errors.max()}
    each = 1e3 * times["run_ms"] / len(truth)
    row |= {"run_ms": times["run_ms"] / share, "error": errors.max(), "us_each": each}
    return row | {"wrong": np.mean(~(errors < 1e-6))}


def skipped(name, method, reason):
    return {"case": name, "method": f"{method}: skipped, {reason}", "run_ms": None}


def compare(name, given, networks, *, quick, with_dense=True):
    """Rows for a batch of networks, which may be one network."""
    count = len(networks.weights[0])
    pick = lambda i: jax.tree.map(lambda w: w[i], networks)
    if with_dense:
        every = ft.partial(jax.lax.map, ft.partial(dense, given.moments), batch_size=20)
        truth = np.asarray(jax.jit(every)(networks))
    else:
        truth = np.array([scipy_eigsh(given, pick(i), 0)()[0] for i in range(count)])
    best = oracle(given, networks, truth)
    for method, call, samples, products in in_jax(best):
        if not call or (quick and call is lobpcg):
            reason = "slow to compile" if call else "not installed"
            yield skipped(name, method, reason)
            continue
        args = given.samples if samples else given.moments, networks
        values, times = measure(over(call) if count > 1 else alone(call), *args)
        yield entry(name, method, times, values, truth, products=products)
    timed = min(count, SAMPLED)
    for method, prepare in on_host(best):
        if not prepare:
            yield skipped(name, method, "not installed")
            continue
        calls = [prepare(given, pick(i)) for i in range(timed)]
        found, times = measure(lambda calls: [call() for call in calls], calls)
        values, products = zip(*found, strict=True)
        method += f" ({timed} of {count} timed)" if timed < count else ""
        share = timed / count
        yield entry(name, method, times, values, truth[:timed], share, products[0])
    if with_dense and count == 1:
        value, times = measure(alone(dense), given.moments, networks)
        yield entry(name, "dense", times, value, truth)


def states(given, widths, keys):
    """A batch at its start, on its way, and at its end; and the origin."""
    first = jax.vmap(ft.partial(start, widths=widths))(keys)
    flow = lambda n, time: jaxflow.gradient_flow(given.moments, n, (0, time)).network
    reach = lambda time: eqx.filter_jit(eqx.filter_vmap(lambda n: flow(n, time)))(first)
    yield "start", lambda: first
    yield "part-way", lambda: reach(1.0)
    yield "minimum", lambda: reach(40.0)
    yield "origin", lambda: jax.tree.map(jnp.zeros_like, first)


def rows(options):
    tiny, quick = problem(5, 50), options.quick
    keys = jr.split(jr.key(0), options.batch)
    for state, networks in states(tiny, TINY, keys[:1]):
        if state == "start" or not quick:
            yield from compare(f"tiny, {state}", tiny, networks(), quick=quick)
    if not quick:
        large, widths = problem(options.width, 256), (options.width,) * 8 + (1,)
        for state, networks in states(large, widths, keys[:1]):
            if state in ("start", "minimum"):
                case = f"large, {state}"
                yield from compare(case, large, networks(), quick=False, with_dense=False)
    for state, networks in states(tiny, TINY, keys):
        if state == "start" or (state == "part-way" and not quick):
            case = f"{options.batch} tiny, {state}"
            yield from compare(case, tiny, networks(), quick=quick)


def main():
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="of the larger network")
    parser.add_argument("--batch", type=int, default=1000, help="tiny networks at once")
    parser.add_argument("--quick", action="store_true", help="only the cheapest cases")
    options = parser.parse_args()
    if options.quick:
        options.batch = 20
    report(__doc__.splitlines()[0], rows(options))


if __name__ == "__main__":
    main()
