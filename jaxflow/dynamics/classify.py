"""How a run ended: the status of its last network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from .._batching import any_in_batch, where_needed
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
    look = lambda: _curvature(loss, network).remaining <= limit
    settled = jax.lax.cond(any_in_batch(still & ~small), look, lambda: small)
    return small | (still & settled)


class Curvature(eqx.Module):
    """The curvature around a network, seen from its gradient and a random direction.

    Attributes:
        remaining: What `Trajectory.predicted_decrease` says.
        lowest: The lowest curvature found.
        highest: The highest.
    """

    remaining: Scalar
    lowest: Scalar
    highest: Scalar


class End(eqx.Module):
    """What is known of the end of a run without its curvature.

    Attributes:
        excess: The excess loss.
        size: The norm of the weights.
        least: The least excess, where it is known.
        scale: The excess loss that there was to lose.
        tolerance: The share of it that counts as converged.
        lost: Whether it has diverged.
        there: Whether its excess has converged.
        collapsed: Whether it has become as good as zero weights.
    """

    excess: Scalar
    size: Scalar
    least: Scalar | None
    scale: Scalar
    tolerance: Scalar
    lost: Bool[Array, ""]
    there: Bool[Array, ""]
    collapsed: Bool[Array, ""]

    @property
    def undecided(self) -> Bool[Array, ""]:
        """Whether only the curvature can tell how it ended."""
        return ~(self.lost | self.there)

    @property
    def root(self) -> Scalar:
        """The root of the tolerance, for what is compared less finely."""
        return jnp.sqrt(self.tolerance).astype(self.scale.dtype)

    def status(
        self, curvature: Curvature, straightness: Scalar | float
    ) -> tuple[Int[Array, ""], Scalar]:
        """The `Status`, and what remains of the way."""
        at_rest = curvature.remaining <= self.tolerance * self.scale
        cases = (
            (self.lost, Status.DIVERGED),
            (self.there, Status.CONVERGED),
            (self.collapsed, Status.COLLAPSED),
            (at_rest & self._saddle(curvature), Status.SADDLE),
            (at_rest, Status.CONVERGED),
            (straightness < 0.25, Status.OSCILLATING),
        )
        conditions, verdicts = zip(*cases, strict=True)
        choices = [jnp.asarray(verdict, jnp.int32) for verdict in verdicts]
        status = jnp.select(conditions, choices, jnp.asarray(Status.UNCONVERGED, jnp.int32))
        return status, jnp.where(self.undecided, curvature.remaining, self.excess)

    def _saddle(self, curvature: Curvature) -> Bool[Array, ""]:
        """Whether a network at rest could still fall."""
        if self.least is not None:
            # So also saddles of higher order, which are flat, and minima that nearly are.
            share = 10 * self.tolerance.astype(self.scale.dtype)
            return self.excess - self.least > share * self.scale
        lowest, highest = curvature.lowest, curvature.highest
        # What moving by the length of the weights could gain, or as far as the loss could
        # rise by all that there is to lose.
        share = -lowest / jnp.where(highest > 0, highest, 1)
        gain = jnp.maximum(-lowest * self.size * self.size, share * self.scale) / 2
        # Nothing rises around a minimum that is worth the name.
        gain = jnp.where(highest > 0, gain, jnp.inf)
        return jnp.minimum(gain, _left(self.excess)) > self.root * self.scale


def at_end(
    loss: AbstractLoss, start: PyTree[Array], end: PyTree[Array], tolerance: Scalar
) -> End:
    """What is known without the curvature of a run that began at `start`."""
    loss, start, end = jax.lax.stop_gradient((loss, start, end))
    excess = loss.excess(end)
    at_zero = loss.excess(jax.tree.map(jnp.zeros_like, end))
    at_start = loss.excess(start)
    scale = largest_finite(at_start, at_zero)
    root = jnp.sqrt(tolerance).astype(scale.dtype)
    size = tree_norm(end)
    like_zero = jnp.abs(excess - at_zero) <= root * scale
    fallen = (jnp.abs(at_start - at_zero) > root * scale) | (size < tree_norm(start) / 2)
    there = jnp.abs(excess) <= tolerance * scale
    if (solved := loss.solved(end)) is not None:
        there |= solved
    return End(
        excess=excess,
        size=size,
        least=loss.least_excess(end),
        scale=scale,
        tolerance=tolerance,
        lost=~jnp.isfinite(excess + size) | (excess > 1e3 * scale),
        there=there,
        collapsed=like_zero & fallen,
    )


def decided_status(end: End) -> tuple[Int[Array, ""], Scalar]:
    """The status of an end that is decided, and what remains of its way."""
    zero = jnp.zeros_like(end.excess)
    return end.status(Curvature(zero, zero, zero), 1.0)


def judged_status(
    loss: AbstractLoss,
    network: PyTree[Array],
    end: End,
    straightness: Scalar | float = 1.0,
) -> tuple[Int[Array, ""], Scalar]:
    """The status of any end, from its curvature where it is undecided.

    `straightness` is the net displacement of a few more steps over their path.
    """
    safe = jax.tree.map(lambda w: jnp.where(end.lost, 0, w), network)
    curvature = where_needed(end.undecided, _curvature, loss, safe)
    return end.status(curvature, straightness)


def classify_end(
    loss: AbstractLoss, start: PyTree[Array], network: PyTree[Array], tolerance: Scalar
) -> tuple[Int[Array, ""], Scalar]:
    """The `Status` of a run from `start` to `network`, and what remains of its way."""
    return judged_status(loss, network, at_end(loss, start, network, tolerance))


def _curvature(loss: AbstractLoss, network: PyTree[Array]) -> Curvature:
    flat, unravel = ravel_pytree(network)
    fall = lambda w: ravel_pytree(jax.grad(loss.excess)(unravel(w)))[0]
    try:
        slope, product = jax.linearize(fall, flat)
    except NotImplementedError:  # Of losses without, such as the sharpness as a penalty.
        unknown = jnp.zeros((), flat.dtype)
        return Curvature(_left(loss.excess(network)), unknown, unknown)
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
    return Curvature(remaining, jnp.min(rates), jnp.max(rates))


def _left(excess):
    """How far a loss can fall at most, which nobody knows of one below its floor."""
    return jnp.where(excess >= 0, excess, jnp.inf)


def largest_finite(*values: Scalar) -> Scalar:
    """The largest modulus of those that are finite, or `nan`."""
    sizes = jnp.abs(jnp.stack(values))
    most = jnp.max(jnp.where(jnp.isfinite(sizes), sizes, -1))
    return jnp.where(most >= 0, most, jnp.nan)
