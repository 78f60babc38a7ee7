"""Discrete time: gradient descent and its relatives, stepped by Optax."""

import functools as ft
from collections.abc import Callable, Mapping, Sequence

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .. import _checks
from .._adapters import Loss, partition_module
from .._compilation import program
from .._fast import descent_lanes as lanes
from .._linalg.norms import tree_norm
from .._linalg.precision import full_precision
from ..losses import AbstractLoss
from .classify import at_end, decided_status, judged_status
from .exponential import depends
from .stepping import RecordPlan, check_every, scan_in_lanes, scan_records, stack_records
from .trajectory import (
    Observable,
    Trajectory,
    check_observe,
    record,
    restore_module,
    with_state,
)

Optimizer = (
    optax.GradientTransformation
    | optax.MultiSteps
    | Callable[..., optax.GradientTransformation]
)


@full_precision
def gradient_descent(
    loss: Loss,
    network: PyTree,
    steps: int,
    *,
    step_size: ScalarLike | Callable[[Array], Scalar] | None = None,
    every: int | Sequence[int] = 1,
    observe: Mapping[str, Observable] | None = None,
    until: Observable | None = None,
    optimizer: Optimizer = optax.sgd,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    tolerance: float = 1e-8,
    progress_meter: dfx.AbstractProgressMeter = dfx.NoProgressMeter(),
) -> Trajectory:
    r"""Take `steps` steps $\theta \leftarrow \theta - \eta \nabla \mathcal{L}(\theta)$.

    The whole call is differentiable in `loss`, `network` and `step_size`, and can be
    batched with `equinox.filter_vmap` over all of them and `key`. It compiles once for
    given shapes, numbers of steps, options and observables, whatever the step size.

    A run that diverged, or that `until` stopped, is left where it was found at the next
    record: alone, it costs nothing any more; in a batch, it stays as it is and the batch
    ends with its last member.

    Batches of plain descents (`optax.sgd` with one step size, all samples, no `until`, no
    meter, and at least four steps a record) of a `DeepLinear` on a `Regression`, or an
    `MLP` on a `MeanSquaredError`, are many times faster, and members that diverge leave
    them. Results agree to rounding.

    Args:
        loss: What to descend: a loss, or any scalar function of a network.
        network: Where to start: a network, or any Equinox module, or tree of weights.
        steps: The number of steps.
        step_size: The step size $\eta$, or an Optax schedule, a function of the number
            of steps taken. Schedules are compared by identity: make one once, or pass
            `equinox.Partial(function, numbers)`.
        every: Steps between two records; or the numbers of steps to record after, which
            increase up to `steps`, at the price of reverse-mode derivatives. The start is
            always the first record.
        observe: What to report at each record, by name. Defaults to the loss alone. What
            also depends on the state of the optimizer, in `with_state`.
        until: Stop at the first record where this observable is true.
        optimizer: An Optax optimizer that takes a step size, such as `optax.adam` or
            `equinox.Partial(optax.sgd, momentum=0.9)`; or a whole
            `optax.GradientTransformation`, or `optax.MultiSteps`, which then leaves no use
            for `step_size`.
        batch_size: Samples in a mini-batch, drawn without replacement from an order that
            is shuffled anew for every epoch; a last incomplete batch is left out. Needs
            a loss that holds samples, and `key`. Defaults to all samples at every step.
        key: Randomness of the mini-batches, and of losses such as `SampledNoisyLoss`, which
            every step draws anew; without a key they stay as they were drawn.
        tolerance: What counts as converged, see `Status`.
        progress_meter: Any Diffrax progress meter, such as `diffrax.TextProgressMeter()`;
            it moves at each record.

    Returns:
        The trajectory.

    Raises:
        ValueError: If an argument is out of range or contradicts another, or network and
            loss do not fit.
    """
    loss, network = partition_module("gradient_descent", loss, network)
    dtype = jax.tree.leaves(network)[0].dtype
    observe = check_observe("gradient_descent", observe, until, progress_meter)
    steps = _checks.whole("gradient_descent(steps=...)", steps)
    every = check_every(every, steps)
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        _checks.function("gradient_descent(optimizer=...)", optimizer, "a step size")
    if isinstance(optimizer, optax.GradientTransformation) != (step_size is None):
        raise ValueError(
            "`gradient_descent` needs either a `step_size`, for an `optimizer` that takes "
            "one such as `optax.adam`, or a whole `optax.GradientTransformation` such as "
            f"`optax.adam(1e-3)`, but `step_size` is {step_size}."
        )
    if not callable(step_size) and step_size is not None:
        step_size = _checks.real(
            "gradient_descent(step_size=...)", step_size, _checks.POSITIVE, dtype=dtype
        )
    samples = loss.samples
    if batch_size is not None:
        if samples is None:
            raise ValueError(
                "`gradient_descent(batch_size=...)` needs a loss that holds samples, but "
                f"`{type(loss).__name__}` does not. Use `MeanSquaredError(x, y)`."
            )
        batch_size = _checks.whole(
            "gradient_descent(batch_size=...)", batch_size, 1, samples
        )
        if key is None:
            raise ValueError("`gradient_descent(batch_size=...)` needs a `key`.")
    if key is not None:
        _checks.key("gradient_descent(key=...)", key)
        if batch_size is None and not depends(ft.partial(redrawn, loss), key):
            raise ValueError(
                "`gradient_descent(key=...)` needs something random, but there are no "
                f"mini-batches, and nothing in this `{type(loss).__name__}` is drawn. Give "
                "a `batch_size`, or leave out the key."
            )
    limit = _checks.real(
        "gradient_descent(tolerance=...)", tolerance, _checks.NOT_NEGATIVE, dtype=dtype
    )
    step = _Step(loss, step_size, key, optimizer, batch_size)
    stateful = any(isinstance(observable, with_state) for observable in observe.values())
    plan = RecordPlan(steps, every, until, progress_meter, stateful)
    run, last, end = _descend(step, network, limit, observe, plan)
    if isinstance(end.undecided, Tracer) or end.undecided:
        run = _judge(step, run, last, end, steps)
    return restore_module(loss, run)


def redrawn(loss: AbstractLoss, key: PRNGKeyArray) -> PyTree[Array]:
    """All numbers of a loss that is drawn anew."""
    return eqx.filter(loss.redraw(key), eqx.is_array)


@program
def _descend(step, network, tolerance, observe, plan):
    """The run, its last state, and what is known of its end."""
    constant = eqx.is_array(step.step_size)
    plain = step.optimizer is optax.sgd and constant and step.key is None
    # With few steps between records, handing networks over would cost more than is gained.
    seldom = plan.steps >= 4 * len(plan.ends)
    silent = isinstance(plan.meter, dfx.NoProgressMeter)
    unseen = plan.until is None and silent and not plan.stateful
    simple = plain and seldom and unseen
    kernel = lanes.find(step.loss, network) if simple else None
    route = scan_records if kernel is None else ft.partial(scan_in_lanes, kernel)
    networks, times, states, lived, last = route(plan, step, network)
    networks = jax.tree.map(stack_records, network, networks, last.network)
    if states is not None:
        # Of the first record nobody looks at the state.
        first = lambda rest, end: stack_records(rest[0], rest, end)
        states = jax.tree.map(first, states, last.optimizer)
    end = at_end(step.loss, network, last.network, tolerance)
    status, remaining = decided_status(end)
    run = Trajectory(
        time=stack_records(jnp.zeros_like(last.time), times, last.time),
        observed=record(observe, step.loss, networks, states),
        network=last.network,
        num_steps=plan.last(lived),
        status=status,
        predicted_decrease=remaining,
        record_steps=plan.counts(lived),
    )
    return run, last, end


@program
def _judge(step, run, last, end, steps):
    """The run, with the status that the curvature at its end and a few steps tell."""
    straightness = _straightness(step, last, steps)
    told = judged_status(step.loss, run.network, end, straightness)
    return eqx.tree_at(lambda run: (run.status, run.predicted_decrease), run, told)


class _State(eqx.Module):
    network: PyTree[Array]
    optimizer: PyTree
    time: Array
    order: Array | None


class _Step(eqx.Module):
    """One step, from a state and the number of steps before it."""

    loss: AbstractLoss
    step_size: Array | Callable | None
    key: PRNGKeyArray | None
    optimizer: Optimizer
    batch_size: int | None

    @property
    def transform(self) -> optax.GradientTransformationExtraArgs:
        whole = isinstance(self.optimizer, optax.GradientTransformation)
        transform = self.optimizer if whole else self.optimizer(self.step_size)  # pyright: ignore
        name = "gradient_descent(optimizer=...)(step_size)"
        _checks.kind(name, transform, optax.GradientTransformation)
        return optax.with_extra_args_support(transform)  # pyright: ignore

    def init(self, network) -> _State:
        time = jnp.zeros((), jax.tree.leaves(network)[0].dtype)
        order = None if self.batch_size is None else jnp.arange(self.loss.samples)
        return _State(network, self.transform.init(network), time, order)

    def at(self, network, count) -> _State:
        """The state after `count` plain steps of one size, which leave no memory."""
        state = self.init(network)
        return eqx.tree_at(lambda s: s.time, state, self._time(state.time, count))

    def __call__(self, state, count):
        loss, order = self._minibatch(state.order, count)
        excess, slope = jax.value_and_grad(loss.excess)(state.network)
        update, memory = self.transform.update(
            slope,
            state.optimizer,
            state.network,
            value=excess,
            grad=slope,
            value_fn=loss.excess,
        )
        network = optax.apply_updates(state.network, update)
        return _State(network, memory, self._time(state.time, count + 1), order)

    def _time(self, before, count):
        """The time after `count` steps, given that after one less."""
        dtype = before.dtype
        if callable(self.step_size):
            return before + jnp.asarray(self.step_size(count - 1), dtype)
        # A sum of many steps would gather rounding.
        one = jnp.ones((), dtype) if self.step_size is None else self.step_size
        return jnp.asarray(count, dtype) * jnp.asarray(one, dtype)

    def _minibatch(self, order, count):
        loss, key = self.loss, self.key
        if key is None:
            return loss.at(count), order
        # No epoch has this number.
        fresh = jr.fold_in(jr.fold_in(key, np.uint32(2**32 - 1)), count)
        if self.batch_size is None:
            return loss.redraw(fresh).at(count), order
        samples = loss.samples
        assert samples is not None
        batches = samples // self.batch_size
        epoch, batch = count // batches, count % batches
        shuffle = lambda: jr.permutation(jr.fold_in(key, epoch), samples)
        order = jax.lax.cond(batch == 0, shuffle, lambda: order)
        start = batch * self.batch_size
        chosen = jax.lax.dynamic_slice(order, (start,), (self.batch_size,))
        return loss.select(chosen).redraw(fresh).at(count), order


def _straightness(step: _Step, state: _State, count: int) -> Scalar:
    """Net displacement over length of path, in eight further steps that are not kept."""
    arrays, rest = eqx.partition((step, state), eqx.is_inexact_array)
    step, state = eqx.combine(jax.lax.stop_gradient(arrays), rest)
    between = lambda a, b: tree_norm(jax.tree.map(jnp.subtract, a.network, b.network))

    def wander(carry, count):
        state, path = carry
        new = step(state, count)
        return (new, path + between(new, state)), None

    begin = (state, jnp.zeros_like(state.time))
    (end, path), _ = jax.lax.scan(wander, begin, count + jnp.arange(8))
    return between(end, state) / jnp.where(path > 0, path, 1)
