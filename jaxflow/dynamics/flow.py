"""Continuous time: the gradient-flow ODE, integrated by Diffrax."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, PyTree, Scalar, ScalarLike

from .. import _checks
from .._adapters import Loss, combine_module, partition_module
from .._batching import sequential_vmap
from .._compilation import known, program
from .._linalg import decompositions
from .._linalg.backend import on_cpu
from .._linalg.norms import tree_norm
from .._linalg.precision import full_precision
from .classify import at_end, decided_status, has_converged, judged_status
from .exponential import ExponentialRosenbrock
from .integration import UntilStiff, step_control
from .trajectory import (
    Observable,
    Status,
    Trajectory,
    check_observe,
    record,
    restore_module,
)


@full_precision
def gradient_flow(
    loss: Loss,
    network: PyTree,
    times: ArrayLike | Sequence[ScalarLike],
    *,
    observe: Mapping[str, Observable] | None = None,
    until: Observable | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_step: Observable | None = None,
    max_steps: int = 100_000,
    adjoint: dfx.AbstractAdjoint = dfx.RecursiveCheckpointAdjoint(),
    tolerance: float | None = None,
    progress_meter: dfx.AbstractProgressMeter = dfx.NoProgressMeter(),
    throw: bool = True,
) -> Trajectory:
    r"""Follow $\dot\theta = -\nabla \mathcal{L}(\theta)$ from `network`.

    Time is training time: gradient descent with step size $\eta$ reaches it after
    $t / \eta$ steps, up to $O(\eta)$. `times=(0, jnp.inf)` follows the flow until it has
    arrived. The whole call is differentiable in `loss`, `network` and `times`, and can be
    batched with `equinox.filter_vmap`. It compiles once for given shapes, options and
    observables; bind settings of an observable with `equinox.Partial`, because a `lambda`
    written at the call is a new function each time.

    Args:
        loss: What to descend: a loss, or any scalar function of a network.
        network: Where to start: a network, or any Equinox module, or tree of weights.
        times: Increasing times to report at. The first is the start, the last the end;
            `jnp.inf` as the last is where the run has arrived, see `Status`.
        observe: What to report at each time, by name. Defaults to the loss alone.
        until: Stop as soon as this observable is true.
        solver: Any Diffrax ODE solver that estimates its error. By default
            `diffrax.Tsit5`, and from where stability rather than accuracy limits its steps,
            `ExponentialRosenbrock`.
        rtol: Relative error allowed in one step; `1e-8` in float64, `1e-5` in float32.
        atol: Absolute error allowed in one step, in the units of the weights; by default
            a hundredth of `rtol` of their root mean square at the start. Of a start at
            zero, of the distance $\mathcal{L} / \|\nabla \mathcal{L}\|$ takes its place.
        max_step: An observable that no step may exceed. An explicit solver that is to
            settle, rather than to rattle at the edge of its stability, wants
            `lambda loss, network: 3 / jaxflow.sharpness(loss, network)`.
        max_steps: Steps after which to give up; of each, where two solvers take turns.
        adjoint: How to differentiate through the flow. `diffrax.BacksolveAdjoint()`, with
            an explicit solver, is for short times: backwards, what contracted expands.
            `diffrax.ImplicitAdjoint()` differentiates the end as a stationary point of
            the loss instead: exact for isolated minima, and for what is constant along a
            manifold of minima, such as the end-to-end map; the dependence on the start
            counts as zero.
        tolerance: What counts as converged, see `Status`: 1e-8 for finite times; for an
            infinite one 1e-12, or 1e-6 in float32.
        progress_meter: Any Diffrax progress meter, such as `diffrax.TextProgressMeter()`.
        throw: Raise if the integration fails. If false, read `Trajectory.status`: this is
            what a batch wants, where one failure should not take the others with it.

    Returns:
        The trajectory.

    Raises:
        ValueError: If `times` does not increase, a tolerance is finer than the precision
            of the weights, or network and loss do not fit.
        RuntimeError: If the integration fails, or traced `times` do not increase.
    """
    loss, network = partition_module("gradient_flow", loss, network)
    dtype = jax.tree.leaves(network)[0].dtype
    double = dtype == jnp.float64
    observe = check_observe("gradient_flow", observe, until, progress_meter)
    rtol = (1e-8 if double else 1e-5) if rtol is None else rtol
    rtol, atol = _check_tolerances(rtol, atol, dtype)
    max_steps = _checks.whole("gradient_flow(max_steps=...)", max_steps)
    _checks.kind("gradient_flow(adjoint=...)", adjoint, dfx.AbstractAdjoint)
    if max_step is not None:
        what = "a loss and a network"
        _checks.function("gradient_flow(max_step=...)", max_step, what)
    times, endless = _as_times(times, dtype)
    if tolerance is None:
        tolerance = (1e-12 if double else 1e-6) if endless else 1e-8
    limit = _checks.real(
        "gradient_flow(tolerance=...)", tolerance, _checks.NOT_NEGATIVE, dtype=dtype
    )
    options = _Options(
        solvers=_solvers(solver, rtol, adjoint),
        rtol=rtol,
        atol=atol,
        max_step=max_step,
        adjoint=adjoint,
        max_steps=max_steps,
        progress_meter=progress_meter,
        until=until,
        endless=endless,
    )
    if options.back and (endless or until is not None):
        raise ValueError(
            "`gradient_flow(adjoint=diffrax.BacksolveAdjoint())` must know when the flow "
            "ends: give it finite times and no `until`, or another adjoint."
        )
    task = loss, network, times, limit, options, observe, throw
    return restore_module(loss, _follow(*task) if known(task) else _as_part(*task))


class at_flow_limit(eqx.Module):
    r"""An observable of where the gradient flow from here would arrive.

    `at_flow_limit(jf.sharpness)` of each iterate of a descent is the "gradient-flow
    sharpness" of Kreisler et al. (2023): it falls while descent is at the edge of
    stability, in their scalar networks without exception, elsewhere nearly. A flow to its
    end at every record is dear: record seldom.

    Args:
        observable: The observable.
        options: Of `gradient_flow`, such as `tolerance`.
    """

    observable: Observable
    options: dict[str, Any]

    def __init__(self, observable: Observable, **options: Any):
        _checks.function("at_flow_limit(observable)", observable, "a loss and a network")
        self.observable, self.options = observable, {"throw": False, **options}

    def __call__(self, loss: Loss, network: PyTree) -> PyTree[Array]:
        run = gradient_flow(loss, network, (0.0, jnp.inf), **self.options)
        return self.observable(loss, run.network)  # pyright: ignore


_FINER = ' For finer flows use `jax.config.update("jax_enable_x64", True)`.'


def _check_tolerances(
    rtol: float, atol: float | None, dtype: np.dtype
) -> tuple[float, float | None]:
    rtol = _checks.number("gradient_flow(rtol=...)", rtol)
    atol = None if atol is None else _checks.number("gradient_flow(atol=...)", atol)
    finest = 8 * float(jnp.finfo(dtype).eps)
    if not rtol >= finest:
        raise ValueError(
            f"`gradient_flow(rtol={rtol})` must be coarser than the rounding of "
            f"{dtype.name} weights, so at least {finest:.0e}."
            + ("" if dtype == jnp.float64 else _FINER)
        )
    if atol is not None and not atol >= 0:
        raise ValueError(f"`gradient_flow(atol={atol})` must not be negative.")
    return rtol, atol


def _solvers(
    solver: Any, rtol: float, adjoint: dfx.AbstractAdjoint
) -> tuple[dfx.AbstractSolver, ...]:
    """The solver that was asked for; or an explicit one, and that of stiff flows."""
    if solver is None:
        if isinstance(adjoint, dfx.BacksolveAdjoint):
            return (dfx.Tsit5(),)
        return UntilStiff(), ExponentialRosenbrock(tolerance=rtol / 1e4)
    name = "gradient_flow(solver=...)"
    _checks.kind(name, solver, dfx.AbstractSolver, "Such as `diffrax.Tsit5()`.")
    if not isinstance(solver, dfx.AbstractAdaptiveSolver):
        kind = type(solver).__name__
        raise ValueError(
            f"`{name}` must estimate its error, for the steps that it takes, but "
            f"`diffrax.{kind}` does not: pass `diffrax.HalfSolver(diffrax.{kind}())`. With "
            "steps of one size Euler's method is `gradient_descent`."
        )
    return (solver,)


def _as_times(times: Any, dtype: Any) -> tuple[Array, bool]:
    """The times as an array, and whether the run has no end but arrival."""
    _checks.numbers("gradient_flow(times=...)", times)
    traced = any(isinstance(time, Tracer) for time in jax.tree.leaves(times))
    times = jnp.asarray(times, dtype) if traced else np.asarray(times, dtype)
    if times.ndim != 1 or times.size < 2:
        raise ValueError(
            "`gradient_flow(times=...)` must hold a start and an end, but has shape "
            f"{times.shape}."
        )
    if not traced:
        return jnp.asarray(times), _check_times(times)
    wrong = jnp.any(times[1:] <= times[:-1]) | jnp.isinf(times[-1])
    must = "`gradient_flow(times=...)` must increase strictly, and be finite if traced."
    return eqx.error_if(times, wrong, must), False


def _check_times(times: np.ndarray) -> bool:
    """Whether the run has no end but arrival."""
    if not np.isfinite(times[:-1]).all() or np.isnan(times[-1]) or times[-1] == -np.inf:
        raise ValueError(
            "`gradient_flow(times=...)` must be finite, up to the last, which may be "
            "`jnp.inf`."
        )
    if (times[1:] > times[:-1]).all():
        return bool(np.isinf(times[-1]))
    k = int(np.argmin(np.diff(times)))
    raise ValueError(
        "`gradient_flow(times=...)` must increase strictly, but entry "
        f"{k + 1} is {times[k + 1]:g} after {times[k]:g}."
    )


class _Options(eqx.Module):
    """How to integrate."""

    solvers: tuple[dfx.AbstractSolver, ...]
    rtol: float
    atol: float | None
    max_step: Observable | None
    adjoint: dfx.AbstractAdjoint
    max_steps: int | None
    progress_meter: dfx.AbstractProgressMeter
    until: Observable | None
    endless: bool

    @property
    def back(self) -> bool:
        """Whether slopes come from integrating backwards, which has none in the times."""
        return isinstance(self.adjoint, dfx.BacksolveAdjoint)


class _Scales(eqx.Module):
    """What is small in this flow.

    Attributes:
        arrived: The slope at which it ends.
        goal: The last time; for infinity, with which step sizes cannot be computed, a
            large one.
        error: The absolute error of a step.
    """

    arrived: Scalar
    goal: Scalar
    error: ScalarLike


class _Leg(eqx.Module):
    """How far solvers came.

    Attributes:
        records: Times and networks; infinite where they did not come, and none if the
            start and the end are all.
        time: The last.
        network: The last.
        steps: That were taken.
        result: Why they ended.
        stiff: Whether that was because steps were spent on being stable.
        step: The last.
    """

    records: tuple[Array, PyTree[Array]] | None
    time: Scalar
    network: PyTree[Array]
    steps: Array
    result: dfx.RESULTS
    stiff: Array
    step: Array


@eqx.filter_jit
def _as_part(loss, network, times, tolerance, options, observe, throw):
    """`_follow` as a part of another program."""
    task = loss, network, times, tolerance, options, observe, throw
    if options.back or not on_cpu():
        return _follow(*task)
    forward = isinstance(options.adjoint, dfx.ForwardMode)
    return sequential_vmap(_follow, task, forward=forward)


def _follow(loss, network, times, tolerance, options, observe, throw):
    """In up to four programs, also under `jax.grad`, or as a part of another one.

    The one for stiff flows takes longest to compile, and few flows need it; nor do most
    need the curvature to tell how they ended.
    """
    implicit = isinstance(options.adjoint, dfx.ImplicitAdjoint)
    path, given = (loss, network), options
    if implicit:
        path = jax.lax.stop_gradient(path)
        given = dataclasses.replace(options, adjoint=dfx.RecursiveCheckpointAdjoint())
    leg, scales = _explicit(*path, times, tolerance, given)
    if len(options.solvers) > 1 and (isinstance(leg.stiff, Tracer) or leg.stiff):
        leg = _stiff(path[0], times, given, scales, leg)
    solver = options.adjoint.linear_solver if implicit else None
    run, result, end = _finish(loss, path[1], times, tolerance, leg, observe, solver)
    if isinstance(end.undecided, Tracer) or end.undecided:
        run = _judge(loss, run, result, end)
    if throw:
        status = result.error_if(run.status, ~dfx.is_okay(result))
        run = eqx.tree_at(lambda run: run.status, run, status)
    return run


@program
def _explicit(loss, network, times, tolerance, options):
    """With the first solver, to the end or until it is stiff."""
    goal = jnp.minimum(times[-1], jnp.finfo(times.dtype).max / 1e4)
    length, first_step = _first_step(loss, network, goal - times[0])
    scales = _Scales(
        jax.lax.stop_gradient(tolerance * _loss_scale(loss, network)),
        goal,
        options.rtol / 100 * length if options.atol is None else options.atol,
    )
    span = times[0], goal, first_step
    return _leg(options.solvers[0], loss, network, times, *span, options, scales), scales


@program
def _stiff(loss, times, options, scales, leg):
    """On with the second solver, if it is stiff."""
    span = leg.time, jnp.where(leg.stiff, scales.goal, leg.time), leg.step
    then = _leg(options.solvers[1], loss, leg.network, times, *span, options, scales)
    records = None
    if leg.records is not None:
        late = leg.stiff & ~jnp.isfinite(leg.records[0])
        pick = lambda a, b: jnp.where(late.reshape(-1, *[1] * (a.ndim - 1)), b, a)
        records = jax.tree.map(pick, leg.records, then.records)
    result = dfx.RESULTS.where(leg.stiff, then.result, leg.result)
    steps = leg.steps + then.steps
    return _Leg(records, then.time, then.network, steps, result, leg.stiff, then.step)


def _leg(solver, loss, network, times, begin, end, first_step, options, scales) -> _Leg:
    records = dfx.SubSaveAt(ts=jnp.clip(times, begin, end))
    last = dfx.SubSaveAt(t1=True)
    subs = last if times.size == 2 else (records, last)
    until, events = options.until, {}
    if until is not None:
        events["until"] = lambda t, y, args, **_: until(*combine_module(args[0], y))
    if options.endless:
        events["arrived"] = lambda t, y, args, **_: has_converged(args[0], y, args[1])
    solution = dfx.diffeqsolve(
        dfx.ODETerm(_velocity),
        solver,
        t0=begin,
        t1=end,
        dt0=first_step,
        y0=network,
        args=(loss, scales.arrived),
        saveat=dfx.SaveAt(
            subs=records if options.back else subs, solver_state=not options.back
        ),
        stepsize_controller=step_control(
            options.rtol, scales.error, options.max_step, times.dtype
        ),
        adjoint=options.adjoint,
        event=dfx.Event(events) if events else None,
        max_steps=options.max_steps,
        progress_meter=options.progress_meter,
        throw=False,
    )
    seen, reached = None, (solution.ts, solution.ys)
    if options.back:
        seen = reached
    elif times.size > 2:
        seen, reached = zip(*reached, strict=True)  # pyright: ignore
    time, network = jax.tree.map(lambda a: a[-1], reached)
    stiff, step = jnp.zeros((), bool), first_step
    if isinstance(solver, UntilStiff):
        stiff, step = solver.is_stiff(solution), solver.last_step(solution)
    steps, result = solution.stats["num_steps"], solution.result
    return _Leg(seen, time, network, steps, result, stiff, step)  # pyright: ignore


@program
def _finish(loss, network, times, tolerance, leg, observe, solver):
    """The run, why it ended, and what is known of its end."""
    end, result = leg.network, leg.result
    if solver is not None:
        end = _stationary(loss, end, solver)
    if leg.records is None:
        reached = times
        networks = jax.tree.map(lambda *both: jnp.stack(both), network, end)
    else:
        # Diffrax fills the records that it never reached with infinities.
        finish = lambda w, end: jnp.where(jnp.isinf(w), jnp.nan, w).at[-1].set(end)
        reached, networks = leg.records
        networks = jax.tree.map(finish, networks, end)
    known = at_end(loss, network, end, tolerance)
    status, remaining = decided_status(known)
    run = Trajectory(
        time=reached.at[-1].set(leg.time),
        observed=record(observe, loss, networks),
        network=end,
        num_steps=leg.steps,
        status=_status(status, result),
        predicted_decrease=remaining,
    )
    return run, result, known


@program
def _judge(loss, run, result, end):
    """The run, with the status that the curvature at its end tells."""
    status, remaining = judged_status(loss, run.network, end)
    told = _status(status, result), remaining
    return eqx.tree_at(lambda run: (run.status, run.predicted_decrease), run, told)


def _status(status, result):
    """That of the end, or why the integrator did not come there."""
    spent = result == dfx.RESULTS.max_steps_reached
    failure = jnp.where(spent, Status.MAX_STEPS, Status.FAILED)
    kept = dfx.is_okay(result) | (status == Status.DIVERGED)
    return jnp.where(kept, status, failure)


def _loss_scale(loss, network):
    """The excess loss that there is to lose: of zero weights, or else of the start."""
    at_zero = jnp.abs(loss.excess(jax.tree.map(jnp.zeros_like, network)))
    known = jnp.isfinite(at_zero) & (at_zero > 0)
    return jnp.where(known, at_zero, jnp.abs(loss.excess(network)))


def _velocity(time, network, args):
    del time
    return jax.tree.map(jnp.negative, jax.grad(args[0].excess)(network))


def _first_step(loss, network, longest):
    """The root mean square of the weights, and a step that moves them by one percent.

    Weights that are zero have the size of the distance at which the slope ends the loss.
    """
    loss, network = jax.lax.stop_gradient((loss, network))
    excess, slope = jax.value_and_grad(loss.excess)(network)
    size, speed = tree_norm(network), tree_norm(slope)
    size = jnp.where(size > 0, size, jnp.abs(excess) / speed)
    size = jnp.where(jnp.isfinite(size) & (size > 0), size, 1)
    step = 0.01 * size / speed
    count = sum(w.size for w in jax.tree.leaves(network))
    step = jnp.clip(jnp.where(jnp.isfinite(step), step, longest), 0, longest)
    return size / count**0.5, step


@eqx.filter_custom_jvp
def _stationary(loss, network, solver):
    """The network, where it stays when the loss changes: at a stationary point."""
    del loss, solver
    return network


@_stationary.def_jvp
@full_precision
def _(primals, tangents):
    loss, network, solver = primals
    slope = lambda loss, network: jax.grad(loss.excess)(network)
    _, force = eqx.filter_jvp(lambda loss: slope(loss, network), (loss,), tangents[:1])
    _, product = jax.linearize(lambda network: slope(loss, network), network)
    tags = frozenset({lx.symmetric_tag, lx.positive_semidefinite_tag})
    operator = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: network), tags)
    if solver == lx.AutoLinearSolver(well_posed=None):
        # Flat directions, in which no force acts, do not move.
        forces, unravel = ravel_pytree(force)
        least = float(jnp.finfo(forces.dtype).eps) ** 0.5
        inverse = decompositions.pinv(operator.as_matrix(), rtol=least, hermitian=True)
        move = unravel(inverse @ forces)
    else:
        move = lx.linear_solve(operator, force, solver).value
    return network, jax.tree.map(jnp.negative, move)
