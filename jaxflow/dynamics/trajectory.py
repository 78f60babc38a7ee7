"""What a run returns, and what every run shares: observing, and judging how it ended."""

import enum
from collections.abc import Callable, Mapping

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _checks
from .._adapters import Completed, combine_module
from .._linalg.norms import tree_isfinite
from ..losses import AbstractLoss
from ..observables.progress import loss_value
from . import printing

Observable = Callable[[AbstractLoss, PyTree[Array]], PyTree[Array]]


class with_state(eqx.Module):
    """An observable that also sees the state of the optimizer, of `gradient_descent` alone.

    Such as the sharpness in the metric of Adam, which is held at its own threshold
    (`stability_threshold`): `with_state(function)` of a

    ```python
    def function(loss, network, state):
        metric = jf.observables.preconditioner(state)
        return jf.sharpness(loss, network, preconditioner=metric)
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
      `Trajectory.predicted_decrease`, and it is no saddle.
    - `SADDLE`: `Trajectory.predicted_decrease` is that small, but the least excess, where
      it is known, as for linear networks, is further below. Where it is not: the excess is
      more than $\sqrt{\texttt{tolerance}}\, \Delta$, and the loss curves up in no
      direction, or down in one, by as much over the length of the weights, or over the
      length in which it rises by $\Delta$ where it curves up most. A saddle.
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
        num_steps: Steps taken.
        status: How the run ended, a `Status`.
        predicted_decrease: How far the loss would still fall, at most the excess:
            half of $g^\top H^+ g$, for the gradient $g$ and the Hessian $H$ at the end,
            seen from the directions that $g$ moves in; all of the excess where $g$ points
            into flat or downward curved ones by more than rounding. A loss below its floor,
            such as a function that can be negative, has infinite excess left to lose.
        edge: What a central flow knows of the oscillation; of others, nothing.
        record_steps: Steps of the descent at each record, or of the one that a central flow
            is the average of; -1 for records that were never reached. Of gradient flows,
            whose steps are the integrator's, nothing.
    """

    time: Float[Array, " times"]
    observed: dict[str, PyTree[Array]]
    network: PyTree[Array]
    num_steps: Int[Array, ""]
    status: Int[Array, ""]
    predicted_decrease: Float[Array, ""]
    edge: Edge | None = None
    record_steps: Int[Array, " times"] | None = None

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


def check_observe(
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
        given = combine_module(
            loss, jax.tree.map(lambda w: jnp.where(finite, w, 0), network)
        )
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


def restore_module(loss: AbstractLoss, run: Trajectory) -> Trajectory:
    """The run as the user gets it: its end is a module again, if the start was."""
    if not isinstance(loss, Completed):
        return run
    return eqx.tree_at(lambda r: r.network, run, combine_module(loss, run.network)[1])
