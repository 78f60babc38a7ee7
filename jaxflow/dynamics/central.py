r"""The time average of descent at the edge of stability, as a flow of its own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree, ScalarLike

from .. import _checks
from .._adapters import Loss, combine_module, partition_module
from .._batching import any_in_batch
from .._compilation import program
from .._linalg import decompositions
from .._linalg.norms import norm, tree_isfinite
from .._linalg.precision import full_precision
from ..losses import AbstractLoss
from .classify import classify_end
from .complementarity import complementary, pairs, smat, svec, weights
from .stepping import check_every
from .trajectory import (
    Edge,
    Observable,
    Status,
    Trajectory,
    check_observe,
    record,
    restore_module,
)

# Directions to begin with, where not told.
FEW = 3


@full_precision
def central_flow(
    loss: Loss,
    network: PyTree,
    steps: int,
    *,
    step_size: ScalarLike,
    every: int = 1,
    observe: Mapping[str, Observable] | None = None,
    average: Mapping[str, Observable] | None = None,
    optimizer: Callable[..., optax.GradientTransformation] = optax.sgd,
    directions: int | None = None,
    rtol: float = 1e-3,
    max_step: float = 0.25,
    max_steps: int | None = None,
    adjoint: dfx.AbstractAdjoint = dfx.RecursiveCheckpointAdjoint(),
    tolerance: float = 1e-8,
    seed: int = 0,
    progress_meter: dfx.AbstractProgressMeter = dfx.NoProgressMeter(),
) -> Trajectory:
    r"""Follow the smooth path that descent oscillates around at the edge of stability.

    Where the sharpness would rise above $2 / \eta$, descent oscillates, with a covariance
    $\Sigma$ that keeps it there. The central flow (Cohen et al., 2025) is

    $$ \dot\theta = -\eta \left[ \nabla \mathcal{L} + \tfrac12 \nabla \langle H, \Sigma
       \rangle \right], \quad \Sigma \succeq 0, \quad H \preceq 2/\eta, \quad \langle
       \Sigma, 2/\eta - H \rangle = 0, $$

    in units of one step; below the edge it is the gradient flow. What descent shows on
    average, of any smooth observable $f$, is $f + \frac12 \langle \nabla^2 f, \Sigma
    \rangle$. For RMSProp the second moment of gradients flows beside the weights. Momentum
    and Adam are our extension by the critical root of their linear dynamics, which supposes
    that the memory of the momentum is short; it is not from the paper.

    It is an average, and misses what is none: the first overshoot and the cycles
    afterwards, and that oscillations die out below the edge. Amplitudes are to leading
    order, some 10 to 20 percent off; `Edge.corrected` has the next term of the sharpness.

    Differentiable in `loss`, `network` and `step_size`; batched with
    `equinox.filter_vmap`, as one program. It computes small differences of large
    eigenvalues: use float64.

    Args:
        loss: What to descend: a loss, or any scalar function of a network.
        network: Where to start: a network, or any Equinox module, or tree of weights.
        steps: The number of steps of the descent it is to stand for.
        step_size: Its step size $\eta$.
        every: Steps between two records; the start is the first.
        observe: What to report of the center $\theta$ at each record, by name. Defaults to
            the loss alone.
        average: Observables, smooth and of real numbers, to report as descent shows them on
            average, in `edge.average`. Defaults to the loss.
        optimizer: `optax.sgd`, `optax.rmsprop` or `optax.adam`, with other arguments by
            `equinox.Partial(optax.rmsprop, decay=0.99)`.
        directions: How many directions may oscillate, at most. Those that do not cost
            little; if more are at the edge, `edge.saturated` says so. By default 3, and
            then the run is done again with twice as many until they are enough; but inside
            `jax.jit`, `jax.vmap` and `jax.grad`, where nobody can look, 3.
        rtol: Error allowed in one step, relative to the norm of the weights.
        max_step: The longest step, in steps of the descent. Where eigenvalues below the
            edge are close to it, more than one half would be unstable.
        max_steps: Steps after which to give up; a hundred for each step of the descent and
            a thousand, by default.
        adjoint: How to differentiate; see `gradient_flow`.
        tolerance: What counts as converged, see `Status`.
        seed: Where the search for eigenvectors starts.
        progress_meter: Any Diffrax progress meter.

    Returns:
        The trajectory of the center, with its `edge`.

    Raises:
        ValueError: If an argument is out of range, no central flow of the optimizer is
            known, or network and loss do not fit.
    """
    loss, network = partition_module("central_flow", loss, network)
    flat = jax.eval_shape(lambda: ravel_pytree(network)[0])
    observe = check_observe("central_flow", observe, None, progress_meter)
    average = check_observe("central_flow", average, what="average")
    steps = _checks.whole("central_flow(steps=...)", steps, 1, 2**24)
    every = _checks.whole("central_flow(every=...)", every)
    every = check_every(every, steps, "central_flow")  # pyright: ignore
    if directions is not None:
        name = "central_flow(directions=...)"
        directions = _checks.whole(name, directions, 1, flat.size)
    given = {"rtol": rtol, "max_step": max_step, "step_size": step_size}
    *control, step_size = (
        _checks.real(f"central_flow({name}=...)", value, _checks.POSITIVE, dtype=flat.dtype)
        for name, value in given.items()
    )
    rule = _rule(optimizer, step_size)
    longest = 100 * steps + 1000 if max_steps is None else max_steps
    longest = _checks.whole("central_flow(max_steps=...)", longest)
    _checks.kind("central_flow(adjoint=...)", adjoint, dfx.AbstractAdjoint)
    key = _checks.seed("central_flow(seed=...)", seed)
    limit = _checks.real(
        "central_flow(tolerance=...)", tolerance, _checks.NOT_NEGATIVE, dtype=flat.dtype
    )
    task = loss, network, rule, control, key, limit, observe, average
    count = min(FEW, flat.size) if directions is None else directions
    while True:
        sizes = steps, every, count, longest, adjoint, progress_meter
        run = _central(*task, sizes)
        assert run.edge is not None
        full = run.edge.saturated
        if directions is not None or count == flat.size:
            break
        if isinstance(full, Tracer) or not full:
            break
        count = min(2 * count, flat.size)
    return restore_module(loss, run)


@program
def _central(loss, network, rule, control, key, tolerance, observe, average, sizes):
    steps, every, directions, longest, adjoint, meter = sizes
    flat, unravel = ravel_pytree(network)
    place = _Place(loss, unravel, rule)
    solver = _Euler(place, directions, key)
    rtol, max_step = control
    times = jnp.arange(0, steps + 1, every).astype(flat.dtype)
    solution = dfx.diffeqsolve(
        dfx.ODETerm(lambda t, y, args: y),  # Never asked.
        solver,
        # From nowhere: the first step only looks, see `_Euler.init`.
        t0=-max_step / 64,
        t1=times[-1],
        dt0=max_step / 64,
        y0=solver.start(flat),
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=dfx.ClipStepSizeController(
            dfx.PIDController(
                rtol=0,
                atol=rtol,
                dtmin=max_step / 64,
                dtmax=max_step,
                # Of the weights; all else follows.
                norm=lambda y: norm(y.weights),
            ),
            step_ts=times,
        ),
        adjoint=adjoint,
        event=dfx.Event(lambda t, y, args, **_: ~tree_isfinite(y.weights)),
        max_steps=longest,
        progress_meter=meter,
        throw=False,
    )
    center, reached = solution.ys, solution.ts
    assert center is not None
    assert reached is not None
    lived = jnp.isfinite(reached)
    center = jax.tree.map(lambda x: jnp.where(jnp.isinf(x), jnp.nan, x), center)
    networks = jax.vmap(unravel)(center.weights)
    end = jax.tree.map(lambda w: w[-1], networks)
    status, remaining = classify_end(loss, network, end, tolerance)
    okay = dfx.is_okay(solution.result)
    spent = solution.result == dfx.RESULTS.max_steps_reached
    failure = jnp.where(spent, Status.MAX_STEPS, Status.FAILED)
    return Trajectory(
        time=jnp.where(lived, times, jnp.inf) * rule.step_size,
        observed=record(observe, loss, networks),
        network=end,
        num_steps=solution.stats["num_steps"],
        status=jnp.where(okay, status, failure),
        predicted_decrease=remaining,
        edge=_edge(place, center, average),
        record_steps=jnp.where(lived, jnp.arange(0, steps + 1, every), -1),
    )


class _Rule(eqx.Module):
    """What an optimizer does to a slow gradient, and where it becomes unstable.

    Weights move by the gradient over a diagonal $D$, which is the root of the mean square
    of gradients, over the step size; and the edge is where $H = c D$.
    """

    step_size: Float[Array, ""]
    edge: Float[Array, ""]
    share: Float[Array, ""]
    decay: Float[Array, ""] | None = None
    inside: Float[Array, ""] | None = None
    outside: Float[Array, ""] | None = None
    unbiased: bool = eqx.field(static=True, default=False)

    def diagonal(self, moments, like):
        if self.decay is None:
            return jnp.broadcast_to(self.unit, like.shape)
        assert self.inside is not None
        assert self.outside is not None
        return (jnp.sqrt(moments + self.inside) + self.outside) * self.unit

    def stiffening(self, moments):
        """How the diagonal changes with the second moments."""
        assert self.inside is not None
        return self.unit / (2 * jnp.sqrt(moments + self.inside))

    def renewal(self, time):
        """The rate at which second moments forget."""
        assert self.decay is not None
        weight = 1 - self.decay
        if self.unbiased:  # A mean over fewer steps, to begin with.
            weight = weight / (1 - self.decay ** (time + 2))
        return weight / (1 - weight)

    def first_moments(self, slope):
        """After one update, of which there must have been one."""
        if self.decay is None:
            return jnp.zeros((0,), slope.dtype)
        return slope**2 * (1 if self.unbiased else 1 - self.decay)

    @property
    def unit(self):
        """The threshold for eigenvalues without step size and momentum, over the edge."""
        return self.share / self.step_size


def _rule(optimizer: Any, step_size: Array) -> _Rule:
    function = getattr(optimizer, "func", optimizer)
    if function not in (optax.sgd, optax.rmsprop, optax.adam):
        name = getattr(function, "__name__", type(function).__name__)
        raise ValueError(
            "`central_flow(optimizer=...)` is known for `optax.sgd`, `optax.rmsprop` and "
            "`optax.adam`, with other arguments by `equinox.Partial(optax.sgd, "
            f"momentum=0.9)`, but not for `{name}`."
        )
    given = getattr(optimizer, "args", ()), getattr(optimizer, "keywords", {})
    bound = inspect.signature(function).bind(step_size, *given[0], **given[1])
    bound.apply_defaults()
    chosen = bound.arguments
    if chosen.get("centered"):
        raise ValueError("`central_flow` of a centered RMSProp is not known.")
    number = lambda x: jnp.asarray(x, step_size.dtype)
    averaged = function is optax.adam
    momentum = number(chosen["b1"] if averaged else chosen["momentum"] or 0.0)
    # Of the heavy ball; averages of gradients move less by what is left of the trace.
    ahead = 1 + 2 * momentum if chosen["nesterov"] else 1.0
    edge = 2 * (1 + momentum) / (ahead * (1 - momentum))
    share = jnp.ones_like(momentum) if averaged else 1 - momentum
    if function is optax.sgd:
        return _Rule(step_size, edge, share)
    if averaged:
        eps = number(chosen["eps_root"]), number(chosen["eps"])
        return _Rule(step_size, edge, share, number(chosen["b2"]), *eps, unbiased=True)
    eps, none = number(chosen["eps"]), number(0.0)
    eps = (eps, none) if chosen["eps_in_sqrt"] else (none, eps)
    unbiased = chosen["bias_correction"]
    return _Rule(step_size, edge, share, number(chosen["decay"]), *eps, unbiased=unbiased)


class _Place(eqx.Module):
    """The loss as a function of a vector, and the rule."""

    loss: AbstractLoss
    unravel: Callable[[Array], PyTree[Array]] = eqx.field(static=True)
    rule: _Rule

    def __call__(self, w):
        return self.loss.excess(self.unravel(w))


class _Center(eqx.Module):
    """What flows, and what is known where it has come to."""

    weights: Float[Array, " n"]
    moments: Float[Array, " moments"]
    spread: Float[Array, "k n"]
    values: Float[Array, " more"]
    gap: Float[Array, ""]
    violation: Float[Array, ""]
    residual: Float[Array, ""]


class _Jet(eqx.Module):
    """What the flow needs to know of the loss at a point.

    Rows of `basis` are the top eigenvectors of the Hessian that is preconditioned from both
    sides, `critical` those that may oscillate, as moves of weights, and `pushes` how the
    curvature between any two of them changes with the weights.
    """

    known: Bool[Array, ""]
    slope: Float[Array, " n"]
    diagonal: Float[Array, " n"]
    basis: Float[Array, "more n"]
    values: Float[Array, " more"]
    residual: Float[Array, ""]
    critical: Float[Array, "k n"]
    curvature: Float[Array, "k k"]
    pushes: Float[Array, "pairs n"]


class _Euler(dfx.AbstractAdaptiveSolver):
    r"""Steps that meet the constraint where they end, to first order.

    The constraint is imposed on the Hessian at the end of a step, linearized, which
    corrects what earlier steps have left (Cohen et al., 2025). The error is that of Euler's
    method, from the velocity at the end, where it is needed next anyway.
    """

    place: _Place
    directions: int
    key: Array

    term_structure = dfx.AbstractTerm
    interpolation_cls = dfx.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        del terms
        return 1

    def start(self, flat) -> _Center:
        slope = jax.grad(self.place)(flat)
        zero, k = jnp.zeros((), flat.dtype), self.directions
        more = min(k + 2, flat.size)
        return _Center(
            weights=flat,
            moments=self.place.rule.first_moments(slope),
            spread=jnp.zeros((k, flat.size), flat.dtype),
            values=jnp.zeros(more, flat.dtype),
            gap=zero,
            violation=zero,
            residual=zero,
        )

    def init(self, terms, t0, t1, y0, args) -> _Jet:
        """A loss without slope, so that the program holds one copy of the real one."""
        del terms, t0, t1, args
        w, k, more = y0.weights, self.directions, y0.values.size
        zeros = lambda *shape: jnp.zeros(shape, w.dtype)
        return _Jet(
            known=jnp.zeros((), bool),
            slope=jnp.zeros_like(w),
            diagonal=jnp.ones_like(w),
            basis=jr.normal(self.key, (more, w.size), w.dtype),
            values=zeros(more),
            residual=zeros(),
            critical=zeros(k, w.size),
            curvature=zeros(k, k),
            pushes=zeros(k * (k + 1) // 2, w.size),
        )

    def func(self, terms, t0, y0, args):
        raise NotImplementedError

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del terms, args, made_jump
        jet, dt = solver_state, t1 - t0
        velocity, renewal, *_ = self._velocity(jet, y0.moments, t0, dt)
        ahead = jnp.where(jet.known, dt, 0)
        w, moments = y0.weights + ahead * velocity, y0.moments + ahead * renewal
        new = eqx.tree_at(lambda y: (y.weights, y.moments), y0, (w, moments))
        jet = self._jet(new, jet.basis)
        after, _, x, gap = self._velocity(jet, moments, t1, dt)
        edge = self.place.rule.edge
        beyond = jnp.maximum(jet.values[0] / edge - 1, 0)
        size = norm(w)
        size = jnp.where(size > 0, size, 1)
        # Oscillations far below the rounding of the weights, which have no slope.
        least = 1e-30 * size**2 * jnp.mean(jet.diagonal)
        new = _Center(
            weights=w,
            moments=moments,
            spread=_root(x, least) @ jet.critical,
            values=jet.values,
            gap=jnp.maximum(y0.gap, gap),
            violation=jnp.maximum(y0.violation, beyond),
            residual=jnp.maximum(y0.residual, jet.residual),
        )
        # Relative to the weights.
        error = dt / 2 * (after - velocity) / size
        finite = jnp.all(jnp.isfinite(w)) & jnp.all(jnp.isfinite(error))
        error = jnp.where(finite, error, jnp.inf)
        blank = jax.tree.map(jnp.zeros_like, new)
        errors = eqx.tree_at(lambda y: y.weights, blank, error)
        info = dict(y0=y0, y1=new)
        return new, errors, info, jet, dfx.RESULTS.successful

    def _jet(self, center, start) -> _Jet:
        place, w, k = self.place, center.weights, self.directions
        rule = place.rule
        basis, residual = _tracked(place, w, center.moments, start, k)
        slope = jax.grad(place)(w)
        diagonal = rule.diagonal(center.moments, w)
        moves = basis / jnp.sqrt(diagonal)[None]
        images = jax.vmap(_product(place, w))(moves)
        curvature = moves @ images.T
        values = jnp.diagonal(curvature)
        # What is far below the edge will not oscillate within a step.
        near = values[:k] > 0.8 * rule.edge
        critical = jnp.where(near[:, None], moves[:k], 0)
        first, second = pairs(k)

        def push(pair):
            a, b, involved = pair
            curve = lambda w: _bend(place, w, critical[a], critical[b])
            zero = lambda: jnp.zeros_like(w)
            return jax.lax.cond(any_in_batch(involved), lambda: jax.grad(curve)(w), zero)

        pushes = jax.lax.map(push, (jnp.asarray(first), jnp.asarray(second), near[second]))
        pushes = jnp.where(near[second][:, None], pushes, 0)
        return _Jet(
            known=jnp.ones((), bool),
            slope=slope,
            diagonal=diagonal,
            basis=basis,
            values=values,
            residual=residual,
            critical=critical,
            curvature=curvature[:k, :k],
            pushes=pushes * weights(k, w.dtype)[:, None],
        )

    def _velocity(self, jet, moments, time, dt):
        """Of weights and moments; the covariance between critical directions; the gap."""
        rule, k = self.place.rule, self.directions
        relax = jet.pushes / jet.diagonal[None]
        unit = jnp.eye(k, dtype=dt.dtype)
        lack = rule.edge * unit - jet.curvature + dt * smat(relax @ jet.slope)
        matrix = dt / 2 * (relax @ jet.pushes.T)
        if rule.decay is not None:
            rate = rule.renewal(time)
            stiffening = rule.edge * rate * rule.stiffening(moments)
            drift = stiffening * (jet.slope**2 - moments)
            lack += dt * (jet.critical * drift[None]) @ jet.critical.T
            first, second = pairs(k)
            squares = jet.critical[first] * jet.critical[second]
            squares *= weights(k, dt.dtype)[:, None]
            noise = stiffening * (rule.edge * jet.diagonal) ** 2
            matrix += dt * (squares * noise[None]) @ squares.T
        x, s = complementary(lack, matrix)
        velocity = -(jet.slope + svec(x) @ jet.pushes / 2) / jet.diagonal
        gap = jnp.abs(jnp.vdot(x, s)) / (1 + jnp.trace(x))
        if rule.decay is None:
            return velocity, jnp.zeros_like(moments), x, gap
        shaken = jnp.sum(jet.critical * (x @ jet.critical), axis=0)
        shaken *= (rule.edge * jet.diagonal) ** 2
        renewal = rate * (jet.slope**2 + shaken - moments)
        return velocity, renewal, x, gap


def _product(place, w):
    """The product with the Hessian."""
    return jax.linearize(jax.grad(place), w)[1]


def _whitened(place, w, moments):
    """The product with the Hessian that is preconditioned from both sides."""
    product, root = _product(place, w), jnp.sqrt(place.rule.diagonal(moments, w))
    return lambda v: product(v / root) / root


@eqx.filter_custom_jvp
def _tracked(place, w, moments, start, k):
    """The top of the spectrum in rows, from rows nearby, and the residual of critical ones.

    By block Krylov spaces of two further products, until the residuals of those that are
    near the edge are small; the others get as far as the time until then takes them.
    """
    arrays, rest = eqx.partition((place, w, moments, start), eqx.is_inexact_array)
    place, w, moments, start = eqx.combine(jax.lax.stop_gradient(arrays), rest)
    product = jax.vmap(_whitened(place, w, moments))
    edge, size = place.rule.edge, start.shape[0]
    goal = jnp.finfo(w.dtype).eps ** 0.5 * edge

    def cycle(state):
        basis, count, _ = state

        def further(rows, _):
            rows = product(rows)
            sizes = norm(rows, axis=1, keepdims=True)
            rows = rows / jnp.where(sizes > 0, sizes, 1)
            return rows, rows

        _, rest = jax.lax.scan(further, basis, length=2)
        space = jnp.concatenate([basis, *rest])
        space = decompositions.qr(space.T)[0].T
        images = product(space)
        small = space @ images.T
        values, mixing = decompositions.eigh((small + small.T) / 2)
        mixing, values = mixing.T[::-1][:size], values[::-1][:size]
        basis = mixing @ space
        misses = norm(mixing @ images - values[:, None] * basis, axis=1)
        near = values[:k] > 0.8 * edge
        miss = jnp.max(jnp.where(near, misses[:k], 0))
        # From far below, only that nothing is above has to be known.
        return basis, count + 1, jnp.maximum(miss, jnp.where(count < 1, misses[0] / 10, 0))

    go_on = lambda state: (state[1] < 20) & (state[2] > goal)
    state = start, jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, w.dtype)
    basis, _, miss = jax.lax.while_loop(go_on, cycle, state)
    return basis, miss / edge


@_tracked.def_jvp
@full_precision
def _(primals, tangents):
    place, w, moments, start, k = primals
    basis, miss = _tracked(place, w, moments, start, k)
    moved = primals[:3], tangents[:3]
    apply = lambda place, w, moments: jax.vmap(_whitened(place, w, moments))(basis[:k])
    images, forces = eqx.filter_jvp(apply, *moved)
    if forces is None:  # What moves is not in the Hessian.
        return (basis, miss), (jnp.zeros_like(basis), jnp.zeros_like(miss))
    values = jnp.sum(basis[:k] * images, axis=1)
    product = _whitened(place, w, moments)
    top = basis[:k]
    outside = lambda v: v - (top @ v) @ top

    # Backwards a solve that fails is an error (lineax 0.1), and what is nothing but
    # rounding cannot be solved to many digits.
    solver = lx.CG(rtol=1e-8, atol=1e-12, max_steps=100)

    def turn(value, force, counts):
        # Positive definite outside of the space of the top ones; far below the edge it may
        # not be, and does not count.
        inside = lambda v: jnp.where(counts, value * v - product(v), v)
        operator = lambda v: outside(inside(outside(v))) + v @ top.T @ top
        # Lineax traces it when this has returned.
        operator = lx.FunctionLinearOperator(
            full_precision(operator),
            jax.eval_shape(lambda: force),
            lx.positive_semidefinite_tag,
        )
        found = lx.linear_solve(operator, outside(force), solver, throw=False)
        return outside(found.value)

    near = values > 0.8 * place.rule.edge
    turns = jax.vmap(turn)(values, forces, near)
    turns = jnp.where(near[:, None], turns, 0)
    slope = jnp.zeros_like(basis).at[:k].set(turns)
    return (basis, miss), (slope, jnp.zeros_like(miss))


def _root(x, least):
    """A matrix whose square is a positive semidefinite one, with finite slopes."""
    return decompositions.cholesky(x + least * jnp.eye(x.shape[0], dtype=x.dtype)).T


def _first(matrix):
    """The first eigenpair of a symmetric matrix, with slopes where others are repeated.

    Of a matrix of zeros the eigenvector has none.
    """
    fixed = jax.lax.stop_gradient(matrix)
    values, axes = decompositions.eigh(fixed)
    axis, others = axes[:, -1], axes[:, :-1]
    gaps = values[-1] - values[:-1]
    inverse = jnp.where(gaps > 0, 1 / jnp.where(gaps > 0, gaps, 1), 0)
    # Nothing but slopes, to first order.
    turn = others @ (inverse * (others.T @ (matrix - fixed) @ axis))
    return axis @ matrix @ axis, axis + turn


def _edge(place: _Place, center: _Center, average: Mapping[str, Observable]) -> Edge:
    """What a run reports of the oscillation."""
    loss, unravel, rule = place.loss, place.unravel, place.rule

    def see(center):
        w, spread = center.weights, center.spread

        def mean(observable):
            given = lambda w: observable(*combine_module(loss, unravel(w)))
            total = jax.lax.map(lambda s: _bend(given, w, s, s), spread)
            return given(w) + jnp.sum(total, axis=0) / 2

        # The direction that oscillates most, in whose plane the quartic term acts.
        diagonal = rule.diagonal(center.moments, w)
        size, axis = _first((spread * diagonal[None]) @ spread.T)
        main = axis @ spread
        along = main / jnp.sqrt(jnp.where(size > 0, size, 1))
        curve = lambda w: _bend(place, w, along, along)
        quartic = _bend(curve, w, main, main)
        modes = jnp.maximum(decompositions.eigvalsh(spread @ spread.T)[::-1], 0)
        others = center.values[spread.shape[0] :]  # None, if all weights may oscillate.
        return (
            {name: mean(observable) for name, observable in average.items()},
            modes,
            center.values[: spread.shape[0] + 1] * rule.unit,
            (jnp.minimum(center.values[0], rule.edge) - quartic / 6) * rule.unit,
            jnp.any(others > 0.999 * rule.edge),
        )

    averages, modes, values, corrected, full = jax.lax.map(see, center)
    return Edge(
        threshold=rule.edge * rule.unit,
        eigenvalues=values,
        modes=modes,
        average=averages,
        corrected=corrected,
        gap=center.gap,
        violation=center.violation,
        residual=center.residual,
        saturated=jnp.any(full),
    )


def _bend(function, w, v, u):
    """The second derivative along two directions."""
    along = lambda w: jax.jvp(function, (w,), (v,))[1]
    return jax.jvp(along, (w,), (u,))[1]
