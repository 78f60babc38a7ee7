"""From one minimizer of a linear network to a flatter one, with the same function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from ... import _checks
from ..._compilation import program
from ..._linalg import decompositions
from ..._linalg.precision import full_precision
from ...losses import Regression
from ...losses.regression import needs_linear, needs_regression
from ...networks import DeepLinear
from ...networks.layered import chain


@full_precision
def minimize_sharpness(
    loss: Regression,
    network: DeepLinear,
    measure: Callable[[Regression, DeepLinear], Array],
    *,
    steps: int = 300,
) -> DeepLinear:
    r"""Minimize a measure of flatness among the minimizers of the loss.

    A descent of its own, not one of training: by L-BFGS, over all factorizations of the
    target $W_L \cdots W_1 = W_\star$. One layer, on the wider side of the target, is solved
    for, and the one on the other side keeps to the range of the target, without which
    the flattest minimizers of targets without full rank could not be reached.

    If the measure is an array, its largest entry is minimized: through smooth maxima
    whose temperature falls by steps, to $10^{-9}$ of the largest, for the largest
    eigenvalue is not differentiable where it is repeated. With the measure
    `jf.observables.linear_gauss_newton_spectrum` it minimizes the sharpness, with
    `lambda *place: jnp.sum(jf.observables.linear_gauss_newton_spectrum(*place))` the trace.

    Args:
        loss: The problem.
        network: Where to start. It need not be a minimizer: the layer that is solved for
            is moved there first.
        measure: A differentiable function of minimizers.
        steps: How many steps at most at each of nine temperatures, or in all if the
            measure is a number.

    Returns:
        A minimizer; how flat it is, `measure` tells. Local minima are possible; from
        random starts none were seen for the sharpness.

    Raises:
        ValueError: If the network does not fit the loss, there is a readout, or a hidden
            layer is narrower than the rank of the target.
    """
    needs_regression("minimize_sharpness(loss=...)", loss, readout=False)
    needs_linear("minimize_sharpness", network, loss)
    _checks.function("minimize_sharpness(measure=...)", measure, "a loss and a network")
    steps = _checks.whole("minimize_sharpness(steps=...)", steps)
    target = _checks.real("minimize_sharpness(loss=...)", loss.target, ndim=2)
    left, values, right = decompositions.svd(target, full_matrices=False)
    rank = values.size
    if not isinstance(values, Tracer):
        rounding = max(target.shape) * np.finfo(values.dtype).eps * values[0]
        rank = int(np.sum(values > rounding))
    if network.depth == 1 or rank == 0:
        zero = jax.tree.map(jnp.zeros_like, network)
        return zero if network.depth > 1 else DeepLinear((target,))
    if min(network.widths[1:-1]) < rank:
        raise ValueError(
            "`minimize_sharpness(network=...)` must be at least as wide as the rank of the "
            f"target, {rank}, but has widths {network.widths}: it has no minimizer of zero "
            "excess."
        )
    # Turned so that the first layer is on the wider side.
    turned = target.shape[0] > target.shape[1]
    basis = right[:rank].T if turned else left[:, :rank]
    reduced = basis.T @ (target.T if turned else target)
    weights = tuple(w.T for w in reversed(network.weights)) if turned else network.weights
    *others, last = weights
    free = (*others, basis.T @ last)
    return _flatten(loss, free, basis, reduced, measure, steps, turned)


@program
def _flatten(loss, free, basis, reduced, measure, steps, turned):
    def build(free):
        first, *others, last = free
        behind = chain(last, *reversed(others))
        # The nearest first layer that fits.
        error = reduced - behind @ first
        first = first + behind.T @ decompositions.solve(behind @ behind.T, error)
        layers = (first, *others, basis @ last)
        return DeepLinear(tuple(w.T for w in reversed(layers)) if turned else layers)

    def smooth(free, temperature):
        values = measure(loss, build(free))
        if values.ndim == 0:
            return values
        scale = temperature * jax.lax.stop_gradient(jnp.max(values))
        return scale * jax.nn.logsumexp(values / scale)

    def cool(free, temperature):
        return _minimize(lambda free: smooth(free, temperature), free, steps), None

    number = jax.eval_shape(measure, loss, build(free)).ndim == 0
    temperatures = jnp.asarray(_TEMPERATURES[-1:] if number else _TEMPERATURES, basis.dtype)
    return build(jax.lax.scan(cool, free, temperatures)[0])


# Of smooth maxima, relative to the largest entry.
_TEMPERATURES = (0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9)


def _minimize(function: Callable[[PyTree], Array], start: PyTree, steps: int) -> PyTree:
    """By L-BFGS, until nothing falls any more."""
    solver = optax.lbfgs(memory_size=20)
    both = optax.value_and_grad_from_state(function)

    def step(state):
        point, memory, count, value, _ = state
        new, slope = both(point, state=memory)
        move, memory = solver.update(
            slope, memory, point, value=new, grad=slope, value_fn=function
        )
        return optax.apply_updates(point, move), memory, count + 1, new, value

    def go_on(state):
        *_, count, value, before = state
        falling = before - value > 1e-15 * jnp.abs(value)
        return (count < steps) & ((count < 3) | falling)

    infinite = jnp.asarray(jnp.inf, jax.tree.leaves(start)[0].dtype)
    # Optax (0.2) relies on the promotion that users may have forbidden.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = start, solver.init(start), 0, infinite, infinite
        return jax.lax.while_loop(go_on, step, state)[0]
