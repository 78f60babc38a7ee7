"""How a run ended: the status of its last network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import eval_jaxpr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from .._batching import any_in_batch, custom_batch
from .._linalg.backend import on_cpu
from .._linalg.krylov import quadrature
from .._linalg.norms import norm, tree_norm
from ..losses import AbstractLoss
from .trajectory import Status


def has_converged(
    loss: AbstractLoss, network: PyTree[Array], limit: Scalar
) -> Bool[Array, ""]:
    """Whether the loss will not fall by more than `limit` any more."""
    excess, slope = jax.value_and_grad(loss.excess)(network)
    # Worth looking at the curvature, if the network could not gain by vanishing.
    reach = tree_norm(network) * tree_norm(slope)
    still = reach <= jnp.sqrt(limit) * jnp.sqrt(jnp.abs(excess))
    small = jnp.abs(excess) <= limit
    look = lambda: _remaining(loss, network)[0] <= limit
    settled = jax.lax.cond(any_in_batch(still & ~small), look, lambda: small)
    return small | (still & settled)


def classify_end(
    loss: AbstractLoss,
    start: PyTree[Array],
    end: PyTree[Array],
    tolerance: Scalar,
    straightness: Scalar | float = 1.0,
) -> tuple[Int[Array, ""], Scalar]:
    """The `Status` of a run that began at `start`, and what remains of its way.

    `straightness` is the net displacement of a few more steps over their path.
    """
    loss, start, end = jax.lax.stop_gradient((loss, start, end))
    excess = loss.excess(end)
    at_zero = loss.excess(jax.tree.map(jnp.zeros_like, end))
    at_start = loss.excess(start)
    scale = largest_finite(at_start, at_zero)
    root = jnp.sqrt(tolerance).astype(scale.dtype)
    size = tree_norm(end)
    like_zero = jnp.abs(excess - at_zero) <= root * scale
    fallen = (jnp.abs(at_start - at_zero) > root * scale) | (size < tree_norm(start) / 2)
    lost = ~jnp.isfinite(excess + size) | (excess > 1e3 * scale)
    there = jnp.abs(excess) <= tolerance * scale
    if (solved := loss.solved(end)) is not None:
        there |= solved
    safe = jax.tree.map(lambda w: jnp.where(lost, 0, w), end)
    remaining, lowest, top = _remaining_if(~(lost | there), loss, safe)
    at_rest = remaining <= tolerance * scale
    if (least := loss.least_excess(end)) is None:
        # What moving by the length of the weights could gain, or as far as the loss could
        # rise by all that there is to lose.
        share = -lowest / jnp.where(top > 0, top, 1)
        gain = jnp.maximum(-lowest * size * size, share * scale) / 2
        # Nothing rises around a minimum that is worth the name.
        gain = jnp.where(top > 0, gain, jnp.inf)
        saddle = jnp.minimum(gain, _left(excess)) > root * scale
    else:  # So also saddles of higher order, which are flat, and minima that nearly are.
        saddle = excess - least > 10 * tolerance.astype(scale.dtype) * scale
    cases = (
        (lost, Status.DIVERGED),
        (there, Status.CONVERGED),
        (like_zero & fallen, Status.COLLAPSED),
        (at_rest & saddle, Status.SADDLE),
        (at_rest, Status.CONVERGED),
        (straightness < 0.25, Status.OSCILLATING),
    )
    conditions, verdicts = zip(*cases, strict=True)
    choices = [jnp.asarray(verdict, jnp.int32) for verdict in verdicts]
    status = jnp.select(conditions, choices, jnp.asarray(Status.UNCONVERGED, jnp.int32))
    return status, jnp.where(lost | there, excess, remaining)


def _remaining(loss, network):
    """What `Trajectory.remaining` says, and the lowest and highest curvature found."""
    flat, unravel = ravel_pytree(network)
    fall = lambda w: ravel_pytree(jax.grad(loss.excess)(unravel(w)))[0]
    try:
        slope, product = jax.linearize(fall, flat)
    except NotImplementedError:  # Of losses without, such as the sharpness as a penalty.
        unknown = jnp.zeros((), flat.dtype)
        return _left(loss.excess(network)), unknown, unknown
    vectors = jnp.stack([slope, jr.normal(jr.key(0), flat.shape, flat.dtype)])
    rates, parts = jax.lax.map(lambda v: quadrature(product, v, 24), vectors)
    eps = jnp.finfo(flat.dtype).eps
    scale = jnp.max(jnp.abs(rates))
    upward = rates[0] > 100 * eps * scale
    fall = jnp.where(upward, parts[0] / jnp.where(upward, rates[0], 1) * parts[0], 0)
    fall = jnp.sum(fall) / 2
    rest = norm(jnp.where(upward, 0, parts[0]))
    rounding = 100 * eps * scale * norm(flat)
    most = _left(loss.excess(network))
    remaining = jnp.where(rest <= rounding, jnp.minimum(fall, most), most)
    return remaining, jnp.min(rates), jnp.max(rates)


def _left(excess):
    """How far a loss can fall at most, which nobody knows of one below its floor."""
    return jnp.where(excess >= 0, excess, jnp.inf)


def largest_finite(*values: Scalar) -> Scalar:
    """The largest modulus of those that are finite, or `nan`."""
    sizes = jnp.abs(jnp.stack(values))
    most = jnp.max(jnp.where(jnp.isfinite(sizes), sizes, -1))
    return jnp.where(most >= 0, most, jnp.nan)


def _remaining_if(unsure, loss, network):
    """The same, and zeros where nobody needs to know; in a batch, of those alone."""
    arrays, rest = eqx.partition((loss, network), eqx.is_array)
    look = lambda arrays: _remaining(*eqx.combine(arrays, rest))
    # With what the loss closes over, which would else bring its slopes along.
    closed = jax.make_jaxpr(look)(arrays)
    inputs = jax.lax.stop_gradient((closed.consts, jax.tree.leaves(arrays)))
    look = lambda inputs: tuple(eval_jaxpr(closed.jaxpr, inputs[0], *inputs[1]))
    dtype = jax.tree.leaves(network)[0].dtype

    def alone(unsure, inputs):
        zero = jnp.zeros((), dtype)
        return jax.lax.cond(unsure, look, lambda _: (zero,) * 3, inputs)

    def together(size, moving, fixed):
        (unsure, moving), (same, fixed) = moving, fixed
        unsure = jnp.broadcast_to(same, (size,)) if unsure is None else unsure
        width = min(16, size) if on_cpu() else size
        order = jnp.pad(jnp.argsort(~unsure), (0, -size % width), mode="edge")

        def some(block, found):
            places = jax.lax.dynamic_slice(order, (block * width,), (width,))
            take = lambda place: jax.tree.map(lambda x: x[place], moving)
            seen = jax.vmap(lambda place: look(eqx.combine(take(place), fixed)))(places)
            return jax.tree.map(lambda x, new: x.at[places].set(new), found, seen)

        zero = jnp.zeros(size, dtype)
        blocks = -(-jnp.sum(unsure) // width)
        return jax.lax.fori_loop(0, blocks, some, (zero,) * 3)

    return custom_batch(alone, together)(unsure, inputs)
