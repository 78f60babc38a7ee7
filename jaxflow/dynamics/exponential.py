r"""A stiff integrator made for gradient flows: exponentials of the Hessian, by products.

The Jacobian of $\dot\theta = -\nabla \mathcal L$ is minus the Hessian: symmetric, cheap to
multiply by, and, in the networks studied here, with few distinct eigenvalues. So the
linearized flow can be followed exactly, however stiff it is, from a Krylov space of a few
dimensions, and only the curvature of the gradient is left to a Runge-Kutta-like scheme.
"""

import functools as ft
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .. import _checks
from .._linalg import decompositions
from .._linalg.krylov import Modes, krylov, phi
from .._linalg.norms import norm
from .._linalg.precision import full_precision

_DENSE_LIMIT = 4000


class ExponentialRosenbrock(dfx.AbstractAdaptiveSolver):
    r"""An exponential Rosenbrock method of order 5 with an error estimate of order 4.

    For gradient flows, or any $\dot y = f(y)$ whose Jacobian is symmetric: a Diffrax solver
    whose steps are limited by accuracy alone. Linear flows are exact. Stages at 0, 1/4,
    1/2 and 9/10 satisfy the stiff order conditions of Luan & Ostermann (2014), in the
    manner of their parallel methods (2016), at four evaluations of $f$ and some thirty
    products with the Jacobian a step.

    Nothing of the size of the Jacobian is formed, unless a derivative is taken, forward or
    reverse: the rule diagonalizes the Jacobian once a step, and is right where eigenvalues
    coincide.

    Args:
        tolerance: Error allowed in a function of the Jacobian, relative to the norm of
            the solution. It should be far below that of a step, whose error estimate
            would see it.
        krylov: Dimension of the largest Krylov space; where it does not suffice, the step
            is rejected.
    """

    tolerance: float = 1e-12
    krylov: int = 40

    def __check_init__(self):
        name = "ExponentialRosenbrock({}=...)".format
        _checks.number(name("tolerance"), self.tolerance, _checks.POSITIVE)
        _checks.whole(name("krylov"), self.krylov)

    term_structure = dfx.AbstractTerm
    interpolation_cls = staticmethod(lambda **info: _Extension(**info))

    def order(self, terms: Any) -> int:
        del terms
        return 5

    def init(self, terms, t0, t1, y0, args) -> None:
        velocity = lambda t: terms.vf(t, y0, args)
        if depends(velocity, t0):
            raise ValueError(
                "`ExponentialRosenbrock` needs a vector field that does not depend on "
                "time. Append the time to the state, or take another solver, such as "
                "`diffrax.Kvaerno5()`."
            )

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del solver_state, made_jump
        flow = _Flow(*eqx.partition((terms, args), eqx.is_array), jnp.asarray(t0))
        y, unravel = ravel_pytree(y0)
        h = terms.contr(t0, t1)
        y1, error, pieces = _advance(flow, h, y0, *self._settings(y))
        finite = jnp.all(jnp.isfinite(y1)) & jnp.all(jnp.isfinite(error))
        # Controllers understand an infinite error, but not an infinite step.
        y1 = jnp.where(finite, y1, y)
        error = unravel(jnp.where(finite, error, jnp.inf))
        info = dict(flow=flow, y0=y0, h=h, pieces=pieces)
        return unravel(y1), error, info, None, dfx.RESULTS.successful

    def _settings(self, y):
        return max(self.tolerance, 10 * float(jnp.finfo(y.dtype).eps)), self.krylov


class _Flow(eqx.Module):
    """The vector field with all that it depends on but the solution."""

    arrays: PyTree[Array]
    others: Any = eqx.field(static=True)
    time: Float[Array, ""]

    def at(self, y0):
        terms, args = eqx.combine(self.arrays, self.others)
        unravel = ravel_pytree(y0)[1]
        return lambda y: ravel_pytree(terms.vf(self.time, unravel(y), args))[0]


class _Extension(dfx.AbstractLocalInterpolation):
    """The step, taken to any time inside it."""

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    flow: _Flow
    y0: PyTree[Array]
    h: Float[Array, ""]
    pieces: Modes

    def evaluate(self, t0, t1=None, left=True):
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        part = (t0 - self.t0) / jnp.where(self.t1 == self.t0, 1, self.t1 - self.t0)
        y, unravel = ravel_pytree(self.y0)
        return unravel(y + _inside(self.flow, self.h, self.y0, part, self.pieces))


# The nodes. A stage moves by functions of the first two pieces, with these weights of
# phi_1 to phi_4; that of phi_3 gives it order 3.
_NODES = (0, 1 / 4, 1 / 2, 9 / 10)
_INNER = [[[c, 0, 0, 0], [0, 0, 32 * c**3, 0]] for c in _NODES]
_INNER[1][1] = [0, 0, 0, 0]
# The step, and the one of order 4 without the last stage: weights for all four pieces.
_STEP = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 18, -60], [0, 0, -250 / 81, 500 / 27]]
_EMBEDDED = [[1, 0, 0, 0], [0, 0, 64, -384], [0, 0, -8, 96], [0, 0, 0, 0]]


def _stages(f, h, y, split, act):
    """The velocity, and how it bends beyond its linear part at each stage, all split.

    `split` gets the product with the Jacobian, and a vector.
    """
    velocity, jacobian = jax.linearize(f, y)
    split = ft.partial(split, jacobian)
    blank = jax.eval_shape(split, y)
    none = jax.tree.map(lambda a: jnp.zeros((2, *a.shape), a.dtype), blank)

    def stage(pieces, now):
        which, node, weights = now
        move = act(pieces, node, weights)
        bend = f(y + move) - velocity - jacobian(move)
        piece = split(h * jnp.where(which == 0, velocity, bend))
        put = lambda old, new: old.at[which].set(new, mode="drop")
        return jax.tree.map(put, pieces, piece), piece

    nodes, inner = jnp.array(_NODES, y.dtype), jnp.array(_INNER, y.dtype)
    return jax.lax.scan(stage, none, (jnp.arange(4), nodes, inner))[1]


def _extend(pieces, part, act):
    """How far the step gets in a part of its time; the whole step at 1."""
    step = jnp.array(_STEP, part.dtype)
    return act(pieces, part, step * part ** jnp.arange(1, 5, dtype=part.dtype)[None])


def _sparse(h):
    """How functions of the Jacobian act on modes."""

    def act(modes, part, weights):
        functions = jnp.stack(phi(part * h * modes.rates)[1:], axis=1)
        mixed = jnp.sum(weights[..., None] * functions, axis=1) * modes.coefficients
        return jnp.tensordot(mixed, modes.basis, 2)

    return act


def _finish(pieces, act, y):
    """The end of the step, and an estimate of its error."""
    one, weights = jnp.ones((), y.dtype), jnp.array([_STEP, _EMBEDDED], y.dtype)
    step, embedded = jax.vmap(lambda w: act(pieces, one, w))(weights)
    return y + step, step - embedded


@eqx.filter_custom_jvp
def _advance(flow, h, y0, tolerance, largest):
    y, f = ravel_pytree(y0)[0], flow.at(y0)
    allowed = tolerance * norm(y)
    split = lambda jacobian, v: krylov(jacobian, v, h, allowed, largest)
    act = _sparse(h)
    pieces = _stages(f, h, y, split, act)
    y1, error = _finish(pieces, act, y)
    return y1, jnp.where(jnp.all(pieces.met), error, jnp.inf), pieces


@_advance.def_jvp
@full_precision
def _(primals, tangents):
    flow, h, y0, tolerance, largest = primals

    def dense(flow, h, y0):
        return _finish(*_dense_stages(flow, h, y0), ravel_pytree(y0)[0])

    out, slopes = eqx.filter_jvp(dense, primals[:3], tangents[:3])
    # What derives from the modes has its own rule.
    pieces = jax.lax.stop_gradient(_advance(flow, h, y0, tolerance, largest)[2])
    still = lambda a: jnp.zeros_like(a) if eqx.is_inexact_array(a) else None
    return (*out, pieces), (*slopes, jax.tree.map(still, pieces))


@eqx.filter_custom_jvp
def _inside(flow, h, y0, part, pieces):
    del flow, y0
    return _extend(pieces, part, _sparse(h))


@_inside.def_jvp
@full_precision
def _(primals, tangents):
    def dense(flow, h, y0, part):
        pieces, act = _dense_stages(flow, h, y0)
        return _extend(pieces, part, act)

    return eqx.filter_jvp(dense, primals[:4], tangents[:4])


def _dense_stages(flow, h, y0):
    """The same pieces as vectors, and functions of the Jacobian by diagonalizing it."""
    y, f = ravel_pytree(y0)[0], flow.at(y0)
    if y.size > _DENSE_LIMIT:
        raise ValueError(
            "The derivative of `ExponentialRosenbrock` diagonalizes the Jacobian, so it "
            f"is meant for at most {_DENSE_LIMIT} weights, not {y.size}. Follow the flow "
            "with an explicit solver, or differentiate the limit with "
            "`adjoint=diffrax.ImplicitAdjoint()`."
        )
    product = jax.linearize(f, y)[1]
    jacobian = jax.vmap(product)(jnp.eye(y.size, dtype=y.dtype))
    jacobian = (jacobian + jacobian.T) / 2
    fixed = jax.lax.stop_gradient(jacobian)
    finite = jnp.all(jnp.isfinite(fixed))  # LAPACK may hang on what is not.
    rates, axes = decompositions.eigh(jnp.where(finite, fixed, 0))

    def act(vectors, part, weights):
        scale = part * h
        scaled = jax.lax.stop_gradient(scale) * rates
        one = lambda w, v: _function(w, scale * jacobian, v, scaled, axes)
        return jnp.sum(jax.vmap(one)(weights, vectors), axis=0)

    return _stages(f, h, y, lambda _, v: v, act), act


@jax.custom_jvp
def _function(weights, matrix, v, rates, axes):
    r"""$\sum_k w_k \varphi_k(A) v$ for a symmetric $A$ of these eigenvalues and axes."""
    del matrix
    mixed = sum(w * p for w, p in zip(weights, phi(rates)[1:], strict=True))
    return axes @ (mixed * (axes.T @ v))


@_function.defjvp
@full_precision
def _(primals, tangents):
    r"""By divided differences (Daleckii & Krein, 1965), of $p = \sum_k w_k \varphi_k$.

    Near the diagonal these are means of $p'$, from its values and those of $p''$ at the
    two ends: exact where eigenvalues coincide, and off by $O(\Delta^4)$ nearby.
    """
    weights, matrix, v, rates, axes = primals
    d_weights, d_matrix, d_v, _, _ = tangents
    functions = phi(rates, highest=6)
    value, slope, bend = 0, 0, 0
    for k, w in enumerate(weights, start=1):
        p, p1, p2 = functions[k : k + 3]
        value += w * p
        slope += w * (p - k * p1)
        bend += w * (p - 2 * k * p1 + k * (k + 1) * p2)
    across = lambda a: a[:, None] - a[None, :]  # pyright: ignore
    gap = across(rates)
    near = jnp.abs(gap) <= 1e-2
    mean = (slope[:, None] + slope[None, :]) / 2 - gap * across(bend) / 12  # pyright: ignore
    divided = jnp.where(near, mean, across(value) / jnp.where(near, 1, gap))
    turned = divided * (axes.T @ d_matrix @ axes)
    out = axes @ (turned @ (axes.T @ v))
    return _function(*primals), (
        out
        + _function(d_weights, matrix, v, rates, axes)
        + _function(weights, matrix, d_v, rates, axes)
    )


def depends(function: Callable[[Any], PyTree[Array]], argument: Any) -> bool:
    """Whether what a function returns may depend on its argument."""
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    touched = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        inputs = [v for v in equation.invars if not isinstance(v, Literal)]
        if touched & set(inputs):
            touched |= set(equation.outvars)
    return any(v in touched for v in jaxpr.outvars if not isinstance(v, Literal))
