"""What a run returns, and what every run shares: observing, and judging how it ended."""

import enum
from collections.abc import Callable, Mapping

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import eval_jaxpr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .. import _checks
from .._linalg.backend import on_cpu
from .._linalg.norms import norm, tree_isfinite, tree_norm
from ..kernels import batched
from ..losses import AbstractLoss
from ..modules import Completed, of_modules, whole
from . import printing
from .batching import anywhere
from .krylov import quadrature

Observable = Callable[[AbstractLoss, PyTree[Array]], PyTree[Array]]


class with_state(eqx.Module):
    """An observable that also sees the state of the optimizer, of `gradient_descent` alone.

    Such as the sharpness in the metric of Adam, which is held at its own threshold
    (`stability_threshold`): `with_state(function)` of a

    ```python
    def function(loss, network, state):
        return jf.sharpness(loss, network, preconditioner=jf.preconditioner(state))
    ```

    The state is that after the step that led to the record; so the first record is `nan`.

    Args:
        function: A function of loss, network and the Optax state.
    """

    function: Callable[[AbstractLoss, PyTree[Array], PyTree], PyTree[Array]]

    def __check_init__(self):
        what = "a loss, a network and a state"
        _checks.function("with_state(function)", self.function, what)

    def __call__(
        self, loss: AbstractLoss, network: PyTree, state: PyTree = None
    ) -> PyTree[Array]:
        if state is None:
            raise ValueError(
                "`with_state` observes the state of an optimizer, which only "
                "`gradient_descent` has."
            )
        return self.function(loss, network, state)


class Status(enum.IntEnum):
    r"""How a run ended.

    With $\Delta$ the larger modulus of the excess losses at the start and at zero weights,
    of those that are finite, and `tolerance` that of the run:

    - `CONVERGED`: the excess is within `tolerance` $\Delta$; or, of a classification, no
      pattern is wrong. Or, where the loss cannot reach its floor, so is
      `Trajectory.remaining`, and it is no saddle.
    - `SADDLE`: `Trajectory.remaining` is that small, but the least excess, where it is
      known, as for linear networks, is further below. Where it is not: the excess is more
      than $\sqrt{\texttt{tolerance}}\, \Delta$, and the loss curves up in no direction, or
      down in one, by as much over the length of the weights, or over the length in which
      it rises by $\Delta$ where it curves up most. A saddle.
    - `COLLAPSED`: the loss has become that of zero weights, up to
      $\sqrt{\texttt{tolerance}}\, \Delta$; or it was from the start, and the weights
      have halved.
    - `OSCILLATING`: of the path of eight further steps, less than a quarter is net
      displacement. Steps that cancel are what descent does above $2/$sharpness.
    - `DIVERGED`: not finite, or the excess is above $10^3 \Delta$.
    - `MAX_STEPS`: the integrator has spent its steps.
    - `FAILED`: the integrator gave up.
    - `UNCONVERGED`: none of these; the run was too short.
    """

    UNCONVERGED = 0
    CONVERGED = 1
    OSCILLATING = 2
    COLLAPSED = 3
    DIVERGED = 4
    FAILED = 5
    SADDLE = 6
    MAX_STEPS = 7


class Edge(eqx.Module):
    r"""What a central flow knows of the oscillation that it averages over.

    Eigenvalues are of the Hessian, or, for an optimizer with a preconditioner $P$, of
    $P^{-1} H$, and compare with `threshold`, that of `stability_threshold`.

    Attributes:
        threshold: Where the optimizer becomes unstable: $2 / \eta$ for gradient descent.
        eigenvalues: The largest ones at each record, one more than there are directions.
        modes: The eigenvalues of the covariance $\Sigma$ of weights, largest first; their
            sum is the mean square of the distance of iterates from the center.
        average: The observables to average, by name, as descent shows them.
        corrected: The sharpness around which descent oscillates, to the next order: at the
            center less $\sigma^2 \partial_u^4 \mathcal{L} / 6$ along the main mode $u$, for
            descent balances the chord of the gradient and not its tangent.
        gap: The largest gap of complementarity up to each record.
        violation: The largest relative excess of an eigenvalue over the threshold so far.
        residual: The largest residual of a critical eigenvector so far, relative to the
            threshold.
        saturated: Whether more eigenvalues were at the edge, at some record, than there
            are directions; the others are then not held. Give more `directions`.
    """

    threshold: Float[Array, ""]
    eigenvalues: Float[Array, "times more"]
    modes: Float[Array, "times directions"]
    average: dict[str, PyTree[Array]]
    corrected: Float[Array, " times"]
    gap: Float[Array, " times"]
    violation: Float[Array, " times"]
    residual: Float[Array, " times"]
    saturated: Bool[Array, ""]


class Trajectory(eqx.Module):
    r"""A run: what was observed, where it ended, and how.

    Attributes:
        time: Training time of each record. A step of size $\eta$ takes time $\eta$; an
            optimizer that keeps its step size to itself takes time 1 a step. The last
            record is the end; those that a run which stopped early never reached have
            infinite time.
        observed: The observables by name, each with the records along its first axis;
            `nan` for records that were never reached.
        network: The network at the end.
        steps: Steps taken.
        status: How the run ended, a `Status`.
        remaining: An estimate of how far the loss would still fall, at most the excess:
            half of $g^\top H^+ g$, for the gradient $g$ and the Hessian $H$ at the end,
            seen from the directions that $g$ moves in; all of the excess where $g$ points
            into flat or downward curved ones by more than rounding. A loss below its floor,
            such as a function that can be negative, has infinite excess left to lose.
        edge: What a central flow knows of the oscillation; of others, nothing.
        step: Steps of the descent at each record, or of the one that a central flow is the
            average of; -1 for records that were never reached. Of gradient flows, whose
            steps are the integrator's, nothing.
    """

    time: Float[Array, " times"]
    observed: dict[str, PyTree[Array]]
    network: PyTree[Array]
    steps: Int[Array, ""]
    status: Int[Array, ""]
    remaining: Float[Array, ""]
    edge: Edge | None = None
    step: Int[Array, " times"] | None = None

    def __repr__(self) -> str:
        lines = printing.lines(self, Status)
        if lines is None:  # Traced, abstract, or something else in the shape of a run.
            return super().__repr__()
        head, *rows = lines
        return "\n".join([f"Trajectory: {head}", *(f"  {row}" for row in rows)])

    @property
    def ok(self) -> Bool[Array, "..."]:
        """Whether the end is what was asked for, not diverged, failed or exhausted."""
        bad = (Status.DIVERGED, Status.FAILED, Status.MAX_STEPS)
        return ~jnp.isin(self.status, jnp.array(bad, jnp.int32))


@of_modules
def loss_value(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    """The loss."""
    return loss(network)


@of_modules
def weights(loss: AbstractLoss, network: PyTree[Array]) -> PyTree[Array]:
    """The network itself; of a module that holds more than weights, its weights."""
    del loss
    return network


def check_watch(
    name: str,
    observe: Mapping[str, Observable] | None,
    until: Observable | None = None,
    meter: dfx.AbstractProgressMeter = dfx.NoProgressMeter(),
    what: str = "observe",
) -> dict[str, Observable]:
    """What to observe, by name: the loss, if it is not said.

    Raises:
        TypeError: If observables are not named, or one is no function.
    """
    _checks.kind(f"{name}(progress_meter=...)", meter, dfx.AbstractProgressMeter)
    if until is not None:
        _checks.function(f"{name}(until=...)", until, "a loss and a network")
    if observe is None:
        return {"loss": loss_value}
    if not isinstance(observe, Mapping):
        given = getattr(observe, "__name__", "sharpness")
        raise TypeError(
            f"`{name}({what}=...)` must name observables, such as "
            f'`{{"{given}": jaxflow.{given}}}`, but is {_checks.brief(observe)}.'
        )
    for key, observable in observe.items():
        _checks.kind(f"{name}({what}=...)", key, str)
        part = f"{name}({what}={{{key!r}: ...}})"
        _checks.function(part, observable, "a loss and a network")
    return dict(observe)


def record(
    observe: Mapping[str, Observable],
    loss: AbstractLoss,
    networks: PyTree[Array],
    states: PyTree[Array] = None,
) -> dict[str, PyTree[Array]]:
    """Observe a stack of networks, one after the other to bound the memory in use.

    What is not finite is `nan` in every observable, and never reaches them: LAPACK, of
    all things, is free to print, to stop or to hang.
    """

    def see(place):
        network, state = place
        finite = tree_isfinite(eqx.filter(place, eqx.is_inexact_array))
        given = whole(loss, jax.tree.map(lambda w: jnp.where(finite, w, 0), network))
        number = lambda w: eqx.is_array(w) and jnp.issubdtype(w.dtype, jnp.number)
        safe = lambda w: jnp.where(finite, w, jnp.ones_like(w)) if number(w) else w
        state = jax.tree.map(safe, state)
        seen = {
            name: observable(*given, state)
            if isinstance(observable, with_state)
            else observable(*given)
            for name, observable in observe.items()
        }
        seen = eqx.filter(seen, eqx.is_array)
        blank = lambda v: jnp.where(finite, v, jnp.nan) if eqx.is_inexact_array(v) else v
        return jax.tree.map(blank, seen)

    seen = jax.lax.map(see, (networks, states))
    # Before the first step an optimizer knows nothing.
    unknown = lambda v: v.at[0].set(jnp.nan) if eqx.is_inexact_array(v) else v
    return {
        name: jax.tree.map(unknown, values)
        if isinstance(observe[name], with_state)
        else values
        for name, values in seen.items()
    }


def returned(loss: AbstractLoss, run: Trajectory) -> Trajectory:
    """The run as the user gets it: its end is a module again, if the start was."""
    if not isinstance(loss, Completed):
        return run
    return eqx.tree_at(lambda r: r.network, run, whole(loss, run.network)[1])


def arrived(loss: AbstractLoss, network: PyTree[Array], limit: Scalar) -> Bool[Array, ""]:
    """Whether the loss will not fall by more than `limit` any more."""
    excess, slope = jax.value_and_grad(loss.excess)(network)
    # Worth looking at the curvature, if the network could not gain by vanishing.
    reach = tree_norm(network) * tree_norm(slope)
    still = reach <= jnp.sqrt(limit) * jnp.sqrt(jnp.abs(excess))
    small = jnp.abs(excess) <= limit
    look = lambda: _remaining(loss, network)[0] <= limit
    settled = jax.lax.cond(anywhere(still & ~small), look, lambda: small)
    return small | (still & settled)


def judge(
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

    return batched(alone, together)(unsure, inputs)
