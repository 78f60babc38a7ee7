"""Continuous time: the gradient-flow ODE, integrated by Diffrax."""

from collections.abc import Mapping

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PyTree

from ..losses import AbstractLoss
from .trajectory import Observable, Status, Trajectory, check, judge, record, value


def gradient_flow(
    loss: AbstractLoss,
    network: PyTree[Array],
    times: ArrayLike,
    *,
    observe: Mapping[str, Observable] | None = None,
    until: Observable | None = None,
    solver: dfx.AbstractSolver = dfx.Tsit5(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 100_000,
    adjoint: dfx.AbstractAdjoint = dfx.RecursiveCheckpointAdjoint(),
    tolerance: float = 1e-8,
    progress_meter: dfx.AbstractProgressMeter = dfx.NoProgressMeter(),
    throw: bool = True,
) -> Trajectory:
    r"""Follow $\dot\theta = -\nabla \mathcal{L}(\theta)$ from `network`.

    Time is training time: gradient descent with step size $\eta$ reaches it after
    $t / \eta$ steps, up to $O(\eta)$. The whole call is differentiable in `loss`,
    `network` and `times`, and can be batched with `equinox.filter_vmap`. It compiles once
    for given shapes, options and observables; bind settings of an observable with
    `equinox.Partial`, because a `lambda` written at the call is a new function each time.

    Args:
        loss: What to descend.
        network: Where to start.
        times: Increasing times to report at. The first is the start, the last the end.
        observe: What to report at each time, by name. Defaults to the loss alone.
        until: Stop as soon as this observable is true.
        solver: Any Diffrax ODE solver. Explicit ones, like the default, take steps of
            at most about `3 / sharpness` however flat the path; for long times after
            convergence prefer an implicit one, such as `diffrax.Kvaerno5()`.
        rtol: Relative error allowed in one step; `1e-8` in float64, `1e-5` in float32.
        atol: Absolute error allowed in one step, in the units of the weights; by default
            a hundredth of `rtol`.
        max_steps: Steps after which to give up.
        adjoint: How to differentiate through the flow.
        tolerance: What counts as converged, see `Status`.
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
    dtype = check("gradient_flow", loss, network)
    finest = 8 * float(jnp.finfo(dtype).eps)
    rtol = (1e-8 if finest < 1e-8 else 1e-5) if rtol is None else rtol
    atol = rtol / 100 if atol is None else atol
    if not rtol >= finest:
        raise ValueError(
            f"`gradient_flow(rtol={rtol})` must be coarser than the rounding of "
            f"{dtype.name} weights, so at least {finest:.0e}."
            + (_FINER if dtype.name != "float64" else "")
        )
    if not atol >= 0:
        raise ValueError(f"`gradient_flow(atol={atol})` must not be negative.")
    times = jnp.asarray(times, dtype)
    if times.ndim != 1 or times.size < 2:
        raise ValueError(
            "`gradient_flow(times=...)` must hold a start and an end, but has shape "
            f"{times.shape}."
        )
    if not isinstance(times, Tracer):
        _check_increasing(np.asarray(times))
    control = dfx.PIDController(rtol=rtol, atol=atol)
    options = (solver, control, adjoint, max_steps, progress_meter, throw)
    observe = {"loss": value} if observe is None else dict(observe)
    return _flow(loss, network, times, observe, until, jnp.asarray(tolerance), options)


_FINER = ' For finer flows use `jax.config.update("jax_enable_x64", True)`.'


def _check_increasing(times: np.ndarray):
    if not np.isfinite(times).all():
        raise ValueError("`gradient_flow(times=...)` must be finite.")
    if (np.diff(times) > 0).all():
        return
    k = int(np.argmin(np.diff(times)))
    raise ValueError(
        "`gradient_flow(times=...)` must increase strictly, but entry "
        f"{k + 1} is {times[k + 1]:g} after {times[k]:g}."
    )


@eqx.filter_jit
def _flow(loss, network, times, observe, until, tolerance, options):
    solver, control, adjoint, max_steps, progress_meter, throw = options
    times = eqx.error_if(
        times,
        jnp.any(times[1:] <= times[:-1]),
        "`gradient_flow(times=...)` must increase strictly.",
    )
    event = None
    if until is not None:
        event = dfx.Event(lambda t, network, loss, **_: until(loss, network))
    solution = dfx.diffeqsolve(
        dfx.ODETerm(_velocity),
        solver,
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=network,
        args=loss,
        saveat=dfx.SaveAt(subs=(dfx.SubSaveAt(ts=times), dfx.SubSaveAt(t1=True))),
        stepsize_controller=control,
        adjoint=adjoint,
        event=event,
        max_steps=max_steps,
        progress_meter=progress_meter,
        throw=throw,
    )
    (reached, end_time), (networks, last) = solution.ts, solution.ys  # pyright: ignore
    end = jax.tree.map(lambda w: w[0], last)
    # Diffrax fills the records that it never reached with infinities.
    finish = lambda w, end: jnp.where(jnp.isinf(w), jnp.nan, w).at[-1].set(end)
    verdict = judge(loss, network, end, tolerance)
    return Trajectory(
        time=reached.at[-1].set(end_time[0]),
        observed=record(observe, loss, jax.tree.map(finish, networks, end)),
        network=end,
        steps=solution.stats["num_steps"],
        status=jnp.where(dfx.is_okay(solution.result), verdict, Status.FAILED),
    )


def _velocity(time, network, loss):
    del time
    return jax.tree.map(jnp.negative, jax.grad(loss.excess)(network))
