"""What a run returns, and what every run shares: observing, and judging how it ended."""

import enum
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from ..losses import AbstractLoss

Observable = Callable[[AbstractLoss, PyTree[Array]], PyTree[Array]]


class Status(enum.IntEnum):
    r"""How a run ended.

    With $\Delta$ the larger of the excess losses at the start and at zero weights, and
    `tolerance` that of the run:

    - `CONVERGED`: the excess is at most `tolerance` $\Delta$; or, where the loss cannot
      reach its floor, $\|\theta\| \|\nabla \mathcal L\| \le \sqrt{\texttt{tolerance}}\,
      \Delta$ away from zero.
    - `COLLAPSED`: the loss has become that of zero weights, up to
      $\sqrt{\texttt{tolerance}}\, \Delta$; or it was from the start, and the weights
      have halved.
    - `OSCILLATING`: of the path of eight further steps, less than a quarter is net
      displacement. Steps that cancel are what descent does above $2/$sharpness.
    - `DIVERGED`: not finite, or the excess is above $10^3 \Delta$.
    - `FAILED`: the integrator gave up.
    - `MOVING`: none of these; the run was too short.
    """

    MOVING = 0
    CONVERGED = 1
    OSCILLATING = 2
    COLLAPSED = 3
    DIVERGED = 4
    FAILED = 5


class Trajectory(eqx.Module):
    r"""A run: what was observed, where it ended, and how.

    Attributes:
        time: Training time of each record. A step of size $\\eta$ takes time $\\eta$; an
            optimiser that keeps its step size to itself takes time 1 a step. The last
            record is the end; those that a run which stopped early never reached have
            infinite time.
        observed: The observables by name, each with the records along its first axis;
            `nan` for records that were never reached.
        network: The network at the end.
        steps: Steps taken.
        status: How the run ended, a `Status`.
    """

    time: Float[Array, " times"]
    observed: dict[str, PyTree[Array]]
    network: PyTree[Array]
    steps: Int[Array, ""]
    status: Int[Array, ""]

    @property
    def ok(self) -> Bool[Array, "..."]:
        """Whether the end is a network at all: neither diverged nor failed."""
        return (self.status != Status.DIVERGED) & (self.status != Status.FAILED)


def value(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    """The loss."""
    return loss(network)


def snapshot(loss: AbstractLoss, network: PyTree[Array]) -> PyTree[Array]:
    """The network itself."""
    del loss
    return network


def record(
    observe: Mapping[str, Observable], loss: AbstractLoss, networks: PyTree[Array]
) -> dict[str, PyTree[Array]]:
    """Observe a stack of networks, one after the other to bound the memory in use.

    What is not finite is `nan` in every observable, and never reaches them: LAPACK, of
    all things, is free to print, to stop or to hang.
    """

    def see(network):
        finite = jnp.isfinite(norm(network))
        safe = jax.tree.map(lambda w: jnp.where(finite, w, 0), network)
        seen = {name: observable(loss, safe) for name, observable in observe.items()}
        blank = lambda v: jnp.where(finite, v, jnp.nan) if eqx.is_inexact_array(v) else v
        return jax.tree.map(blank, seen)

    return jax.lax.map(see, networks)


def judge(
    loss: AbstractLoss,
    start: PyTree[Array],
    end: PyTree[Array],
    tolerance: Scalar,
    straightness: Scalar | float = 1.0,
) -> Int[Array, ""]:
    """The `Status` of a run that began at `start`; `straightness` is net over path."""
    loss, start, end = jax.lax.stop_gradient((loss, start, end))
    excess, slope = jax.value_and_grad(loss.excess)(end)
    at_zero = loss.excess(jax.tree.map(jnp.zeros_like, end))
    at_start = loss.excess(start)
    scale = jnp.maximum(at_start, at_zero)
    root = jnp.sqrt(tolerance).astype(scale.dtype)
    size = norm(end)
    like_zero = jnp.abs(excess - at_zero) <= root * scale
    fallen = (jnp.abs(at_start - at_zero) > root * scale) | (size < norm(start) / 2)
    at_rest = (size * norm(slope) <= root * scale) & ~like_zero
    cases = (
        (~jnp.isfinite(excess + size) | (excess > 1e3 * scale), Status.DIVERGED),
        ((excess <= tolerance * scale) | at_rest, Status.CONVERGED),
        (like_zero & fallen, Status.COLLAPSED),
        (straightness < 0.25, Status.OSCILLATING),
    )
    conditions, verdicts = zip(*cases, strict=True)
    choices = [jnp.asarray(verdict, jnp.int32) for verdict in verdicts]
    return jnp.select(conditions, choices, jnp.asarray(Status.MOVING, jnp.int32))


def norm(tree: PyTree[Array]) -> Scalar:
    """The Euclidean norm of all entries together."""
    return jnp.sqrt(sum(jnp.sum(w**2) for w in jax.tree.leaves(tree)))


def check(name: str, loss: Any, network: PyTree[Array]) -> jnp.dtype:
    """The precision that a run computes in.

    Raises:
        ValueError: If the network is not made of floating-point arrays of the precision
            of the loss.
    """
    leaves = jax.tree.leaves(network)
    if not leaves or not all(eqx.is_inexact_array(leaf) for leaf in leaves):
        raise ValueError(
            f"`{name}(network=...)` must be made of floating-point arrays, but holds "
            f"{[getattr(leaf, 'dtype', type(leaf).__name__) for leaf in leaves]}."
        )
    dtypes = {leaf.dtype.name for leaf in leaves}
    data = {d.dtype.name for d in jax.tree.leaves(loss) if eqx.is_inexact_array(d)}
    if len(dtypes | data) > 1:
        raise ValueError(
            f"`{name}` needs one precision throughout, but the network is in "
            f"{sorted(dtypes)} and the loss in {sorted(data)}. Build both after "
            '`jax.config.update("jax_enable_x64", True)`, or cast one of them.'
        )
    return leaves[0].dtype
