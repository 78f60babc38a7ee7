"""Gradient descent of many small networks at once: one network a lane.

A network of a few hundred weights is far too small to keep a processor busy. Here the
networks of a batch are the last axis of every array and all other axes are short, so that
an operation is one loop over networks; layers are kernels kept apart, so that XLA does not
recompute them; and a block of networks takes many steps while it is in cache.
"""

import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .._batching import no_inline, sum_of
from .._linalg.backend import on_cpu
from ..losses import AbstractLoss, MeanSquaredError, Regression
from ..networks import MLP, AbstractDense, DeepLinear

# Wider layers do better one network after the other.
WIDEST = 24
# Batches so small that a lane each would leave most lanes empty.
FEW = 8
# Bytes of a block, lanes that fill a vector register, steps between looks at who is left.
CACHE, VECTOR, PIECE, UNROLL = 2**19, 16, 512, 4

Weights = tuple[Float[Array, "_ _ lanes"], ...]

_back = no_inline(lambda b, w: sum_of(b[:, i, None] * w[None, i] for i in range(len(w))))
_forth = no_inline(
    lambda h, w: sum_of(h[:, None, j] * w[None, :, j] for j in range(w.shape[1]))
)
_multiply = no_inline(
    lambda error, s: sum_of(error[:, i, None] * s[None, i] for i in range(len(s)))
)


def _covary(error, s):
    """In pieces: XLA would share more work than this among threads, and wait for them."""
    pieces = [_multiply(error, s[:, j : j + 8]) for j in range(0, s.shape[1], 8)]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=1)


@no_inline
def _descend(w, eta, b, h):
    """Less the outer products of the rows `b` behind a layer and the `h` before it."""
    return w - eta[None, None] * sum_of(b[o, :, None] * h[o, None] for o in range(len(b)))


def _linear(loss: Regression, weights: Weights, eta: Array) -> Weights:
    """A step on the moments, from the output side: the objects between are few rows."""
    outputs = loss.target.shape[0]
    if loss.readout is None:
        rows = jnp.eye(outputs, dtype=eta.dtype)[..., None]
    else:
        rows = loss.readout
    rows = [jnp.broadcast_to(rows, (*rows.shape[:2], eta.size))]
    for w in reversed(weights):
        rows.append(_back(rows[-1], w))
    behind = rows[-2::-1]
    h = 2 * _covary(rows[-1] - loss.target, loss.covariance)
    new = []
    for k, (w, b) in enumerate(zip(weights, behind, strict=True), start=1):
        new.append(_descend(w, eta, b, h))
        h = _forth(h, w) if k < len(weights) else h
    return tuple(new)


_layer = no_inline(lambda w, h: sum_of(w[:, j, None] * h[None, j] for j in range(len(h))))
_pull = no_inline(lambda w, d: sum_of(w[i, :, None] * d[i][None] for i in range(len(d))))
_times = no_inline(lambda a, b: a * b)


@no_inline
def _descend_on_samples(w, eta, d, h):
    """Less the outer products of slopes `d` behind a layer and activities `h` before it."""
    samples = d.shape[1]
    if samples <= 64:
        slope = sum_of(d[:, None, s] * h[None, :, s] for s in range(samples))
    else:
        slope = jnp.sum(d[:, None] * h[None], axis=2)
    return w - eta[None, None] * slope


def _perceptron(
    activation: Callable, loss: MeanSquaredError, weights: Weights, eta: Array
) -> Weights:
    """A step on the samples, by backpropagation."""
    over = jax.vmap(jax.vmap(jax.vmap(activation)))
    activate = no_inline(lambda z: jax.jvp(over, (z,), (jnp.ones_like(z),)))
    x = jnp.moveaxis(loss.x, 0, 1)
    hidden, slopes = [jnp.broadcast_to(x, (*x.shape[:2], eta.size))], []
    for w in weights[:-1]:
        value, slope = activate(_layer(w, hidden[-1]))
        hidden.append(value)
        slopes.append(slope)
    out = _layer(weights[-1], hidden[-1])
    if loss.readout is not None:
        out = _layer(loss.readout, out)
    d = 2 / x.shape[1] * (out - jnp.moveaxis(loss.y, 0, 1))
    if loss.readout is not None:
        d = _pull(loss.readout, d)
    new = []
    for w, h in zip(reversed(weights), reversed(hidden), strict=True):
        new.append(_descend_on_samples(w, eta, d, h))
        if slopes:
            d = _times(_pull(w, d), slopes.pop())
    return tuple(reversed(new))


class Kernel(NamedTuple):
    """A step `(loss, weights, step sizes) -> weights`, and numbers it needs a network.

    No step means one network after the other: each fills the machine alone.
    """

    step: Callable[[Any, Weights, Array], Weights] | None
    size: int = 0


def find(loss: AbstractLoss, network: PyTree[Array]) -> Kernel | None:
    """The kernel for gradient descent of such networks on such a loss, if there is one."""
    if not isinstance(network, AbstractDense):
        return None
    if max(network.widths) > WIDEST:
        linear = type(loss) is Regression and type(network) is DeepLinear
        return Kernel(None) if linear and on_cpu() else None
    arrays = jax.tree.leaves((loss, network))
    if len({leaf.dtype for leaf in arrays if eqx.is_inexact_array(leaf)}) != 1:
        return None
    weights = sum(w.size for w in network.weights)
    if type(loss) is Regression and type(network) is DeepLinear:
        return Kernel(_linear, weights)
    if type(loss) is MeanSquaredError and type(network) is MLP:
        size = weights + 2 * loss.samples * sum(network.widths)
        return Kernel(ft.partial(_perceptron, network.activation), size)
    return None


def descend(
    kernel: Kernel,
    ends: np.ndarray,
    size: int,
    moving: tuple[PyTree[Array], AbstractDense],
    fixed: tuple[PyTree[Array], AbstractDense],
) -> tuple[AbstractDense, Bool[Array, "networks records"]]:
    """Descents of many networks, for `custom_batch`.

    A network that is not finite any more gives up its lane as soon as that frees a block.

    Args:
        kernel: Their step, of which there must be one.
        ends: Numbers of steps to record after.
        size: The number of networks.
        moving: Steps, which have a `loss` and a `step_size`, and networks, where they
            differ; networks first.
        fixed: The same, where they do not.

    Returns:
        The networks at each record, and whether they were finite at the one before.
    """
    assert kernel.step is not None
    advance = kernel.step
    itemsize = jnp.result_type(*jax.tree.leaves((moving, fixed))).itemsize
    blocks = 1
    if on_cpu():
        most = min(max(CACHE // (kernel.size * itemsize), 2 * VECTOR), 8 * VECTOR)
        blocks = -(-size // most)
    width = -(-size // (blocks * VECTOR)) * VECTOR
    count = blocks * width
    fill = lambda x: jnp.pad(x, [(0, count - size), *[(0, 0)] * (x.ndim - 1)], mode="edge")
    last = jax.tree.map(lambda x: jnp.moveaxis(fill(x), 0, -1), moving)
    step, network = eqx.combine(last, jax.tree.map(lambda x: x[..., None], fixed))
    full = lambda x: jnp.broadcast_to(x, (*x.shape[:-1], count))
    weights, place = tuple(map(full, network.weights)), (step.loss, full(step.step_size))
    # All else is the same in every lane.
    laned = lambda x: x.shape[-1] == count

    def run(block, weights, place, steps):
        """Some steps of one block."""
        start = block * width
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, width, -1)
        loss, step_size = jax.tree.map(lambda x: cut(x) if laned(x) else x, place)
        step = lambda _, ws: advance(loss, ws, step_size)
        several = lambda k, ws: ft.reduce(lambda ws, _: step(k, ws), range(UNROLL), ws)
        new = jax.lax.fori_loop(0, steps // UNROLL, several, tuple(map(cut, weights)))
        new = jax.lax.fori_loop(0, steps % UNROLL, step, new)
        put = lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, -1)
        return tuple(map(put, weights, new))

    def close_ranks(lanes):
        """The living first, in the order that they had."""
        places = jnp.argsort(~lanes[1])
        return jax.tree.map(lambda x: x[..., places] if laned(x) else x, lanes)

    def piece(steps, state):
        active, (weights, alive, order, place) = state
        one = lambda block, weights: run(block, weights, place, steps)
        weights = jax.lax.fori_loop(0, active, one, weights)
        for w in weights:
            alive &= jnp.all(jnp.isfinite(w), axis=(0, 1))
        needed = -(-jnp.sum(alive) // width)
        lanes = weights, alive, order, place
        return needed, jax.lax.cond(needed < active, close_ranks, lambda x: x, lanes)

    def interval(state, steps):
        _, (_, begun, order, _) = state
        begun = begun[jnp.argsort(order)]
        one = lambda k, state: piece(jnp.minimum(PIECE, steps - k * PIECE), state)
        state = jax.lax.fori_loop(0, -(-steps // PIECE), one, state)
        _, (weights, _, order, _) = state
        return state, (weights, order, begun)

    alive, order = jnp.ones(count, bool), jnp.arange(count)
    state = jnp.asarray(blocks), (weights, alive, order, place)
    lengths = jnp.asarray(np.diff(ends, prepend=0))
    _, (weights, orders, begun) = jax.lax.scan(interval, state, lengths)

    def restore(weights):
        """Every network in its own lane again."""
        move = lambda w, order: w[..., jnp.argsort(order)]
        return tuple(jax.vmap(move)(w, orders) for w in weights)

    moved = jnp.any(orders != order[None])
    weights = jax.lax.cond(moved, restore, lambda weights: weights, weights)
    first = lambda x: jnp.moveaxis(x[..., :size], -1, 0)
    networks = eqx.tree_at(lambda n: n.weights, network, tuple(map(first, weights)))
    return networks, first(begun)
