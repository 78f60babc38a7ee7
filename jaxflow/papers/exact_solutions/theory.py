"""What is known in closed form; conventions and sources are those of the package."""

import functools as ft
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Scalar, ScalarLike

from ... import _checks
from ..._linalg import decompositions
from ..._linalg.precision import full_precision
from ...losses import Regression
from ...losses.regression import needs_linear, needs_regression
from ...networks import DeepLinear


def two_layer_mode(
    times: Float[Array, " times"],
    target: ScalarLike,
    first: ScalarLike,
    second: ScalarLike,
    *,
    variance: ScalarLike = 1.0,
) -> tuple[Float[Array, " times"], Float[Array, " times"]]:
    r"""The weights of $x \mapsto v u x$ from any start, balanced or not.

    $\dot u = 2 m (s - u v) v$ and $\dot v = 2 m (s - u v) u$ for the target $s$ and inputs
    of variance $m$. So moves every mode of a network of two layers for white inputs whose
    layers have the singular vectors of the target, $W_2 W_1 = U (V_t U_t) V^\top$.

    With $q = (u, v)$ at the start, $k = (v^2 - u^2) / 2$, which is conserved, and
    $F = \begin{pmatrix} -k & s \\ s & k \end{pmatrix}$, they are
    $e^{F \tau} q / \sqrt{1 + q^\top \Phi q}$ at $\tau = 2 m t$ with
    $\Phi = \int_0^\tau e^{2 F r}\, dr$. For $u = v$ the product is the logistic function
    $s / (1 + (s / u^2 - 1)\, e^{-4 m s t})$.

    Args:
        times: Times since the start.
        target: $s$, of either sign.
        first: $u$ at the start.
        second: $v$ at the start.
        variance: $m$.

    Returns:
        $u$ and $v$ at the times.
    """
    [times] = _vectors("two_layer_mode", times=times)
    given = {"target": target, "first": first, "second": second, "variance": variance}
    return _two_layer_mode(times, *_numbers("two_layer_mode", times.dtype, **given))


@jax.jit
def _two_layer_mode(times, s, u, v, m):
    dtype = times.dtype
    # As if the target were never zero, so that no derivative is 0 / 0 where F vanishes.
    tiny = jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps
    k = (v - u) * (v + u) / 2
    rate = jnp.sqrt(s**2 + k**2 + tiny)
    large = rate + jnp.where(k < 0, -k, k)
    small = (s**2 + tiny) / large
    minus, plus = jnp.where(k < 0, large, small), jnp.where(k < 0, small, large)
    # (F + rate) q, the part that grows. With it everything below is a sum of squares.
    grow_u, grow_v = minus * u + s * v, s * u + plus * v
    shrink = jnp.exp(-4 * m * rate * times)
    gain = -jnp.expm1(-4 * m * rate * times) / (2 * rate)
    grown = (grow_u**2 + grow_v**2) / (2 * rate)
    square = shrink * (1 + gain * (u**2 + v**2)) + gain**2 * grown
    # Zero only where a start that misses the target has decayed below the least number.
    alive = ~(square <= 0)
    size = jnp.sqrt(jnp.where(alive, square, 1))
    at = lambda w, grow: jnp.where(alive, (shrink * w + gain * grow) / size, 0)
    return at(u, grow_u), at(v, grow_v)


def chain_times(
    values: Float[Array, " times"],
    start: Float[Array, " layers"],
    target: ScalarLike,
    *,
    variance: ScalarLike = 1.0,
) -> Float[Array, " times"]:
    r"""When a chain of one-neuron layers has these products $a = w_L \cdots w_1$.

    $\dot a = 2 m (s - a)\, a^2 \sum_j w_j^{-2}$, with differences of squares of weights
    that are conserved, for the target $s$ and inputs of variance $m$. From equal weights,
    `jnp.full(L, a ** (1 / L))`, it is $2 m L\, a^{2-2/L} (s - a)$. From a small start, a
    chain of $L > 2$ such layers arrives after about $a^{-(1-2/L)} / (2 m (L-2) s)$.

    The integral over $a$ is done by quadrature, to rounding for starts down to 1e-20 of
    the target, and for values close to it as well; where half as many nodes say something
    else, it is `nan`. Times before the start are negative.

    Args:
        values: Products, of the sign of that of the start unless there is one layer. What
            the chain never takes has time `nan`; so has everything if one of several
            weights starts at zero.
        start: The weights at the start.
        target: $s$, of either sign.
        variance: $m$.
    """
    [values] = _vectors("chain_times", values=values)
    [start] = _vectors("chain_times", start=start)
    given = {"target": target, "variance": variance}
    numbers = _numbers("chain_times", values.dtype, **given)
    return _chain_times(values, start.astype(values.dtype), *numbers)


@jax.jit
def _chain_times(values, start, s, m):
    dtype = values.dtype
    squares, product = start**2, jnp.prod(start)
    if start.size == 1:
        return jnp.log((product - s) / (values - s)) / (2 * m)
    sign = jnp.where(product < 0, -1, 1).astype(dtype)
    s, product, values = sign * s, sign * product, sign * values
    gaps = squares - jnp.min(squares)
    side = jnp.where(s > product, 1, -1).astype(dtype)

    # In this variable the integrand is a power far on one side and a constant on the other,
    # and all its singularities are off the real line.
    def variable(a):
        return jnp.log(a) - side * jnp.log(side * (s - a))

    def slope(x):
        root = jnp.sqrt(s**2 / 4 + jnp.exp(x))
        above = jnp.abs(s) / 2 + root
        falling = jnp.where(s > 0, above, jnp.exp(x) / above)
        a = jnp.where(side > 0, s * jax.nn.sigmoid(x), falling)
        inverse = jnp.sum(1 / (_smallest_square(a, gaps) + gaps))
        return side / (2 * m * a * inverse * jnp.where(side > 0, s, 2 * root))

    begin = variable(product)

    def integral(length, panels):
        nodes, weights = _quadrature(dtype, panels)
        return length * (weights @ jax.vmap(slope)(begin + length * nodes))

    def time(value):
        length = variable(value) - begin
        coarse, fine = integral(length, 64), integral(length, 128)
        # Its error is about the square of that of half as many nodes.
        tolerance = jnp.sqrt(jnp.finfo(dtype).eps)
        resolved = jnp.abs(coarse - fine) <= tolerance * jnp.abs(fine)
        # Both are infinite at the target.
        return jnp.where(resolved | (coarse == fine), fine, jnp.nan)

    return jax.vmap(time)(values)


def _quadrature(dtype, panels: int, order: int = 16):
    """Nodes and weights of Gauss and Legendre on panels of the unit interval."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    nodes = (np.arange(panels)[:, None] + (nodes[None] + 1) / 2) / panels
    weights = np.tile(weights / (2 * panels), panels)
    return jnp.asarray(nodes.ravel(), dtype), jnp.asarray(weights, dtype)


def _smallest_square(product, gaps):
    r"""The root $z \ge 0$ of $\prod_j (z + c_j) = a^2$, if the smallest $c_j$ is zero."""

    def step(_, x):
        z = jnp.exp(x)
        miss = jnp.sum(jnp.log(z + gaps)) - 2 * jnp.log(product)
        return x - miss / jnp.sum(z / (z + gaps))

    # Convex in log z, so from the root for equal weights, which is above, it falls.
    above = 2 / gaps.size * jnp.log(product)
    x = jax.lax.fori_loop(0, 10 + gaps.size, step, jax.lax.stop_gradient(above))
    return jnp.exp(step(0, jax.lax.stop_gradient(x)))


class TwoLayers(NamedTuple):
    r"""What two layers make of the inputs, at every time.

    Attributes:
        product: $W_2 W_1$, of shape `(times, out, in)`.
        first: $W_1^\top W_1$, the similarities of inputs in the hidden layer, of shape
            `(times, in, in)`.
        second: $W_2 W_2^\top$, of shape `(times, out, out)`.
    """

    product: Float[Array, "times out in"]
    first: Float[Array, "times in in"]
    second: Float[Array, "times out out"]


def two_layer_regression(
    problem: Regression, network: DeepLinear, times: Float[Array, " times"]
) -> TwoLayers:
    r"""The flow of two layers for white inputs, from a balanced start.

    If $\Sigma = m I$ and $W_2^\top W_2 - W_1 W_1^\top = \lambda I$, which is conserved,
    then $Q = (W_1^\top; W_2)$ has a square $S = Q Q^\top$ that obeys
    $\dot S = F S + S F - S^2$ in $\tau = 2 m t$, with
    $F = \begin{pmatrix} -\lambda/2 & T^\top \\ T & \lambda/2 \end{pmatrix}$ for the target
    $T$, and

    $$ S(\tau) = e^{F \tau} Q\, (I + Q^\top \Phi\, Q)^{-1} Q^\top e^{F \tau}, \qquad
       \Phi = \int_0^\tau e^{2 F r}\, dr. $$

    Any widths do, and targets of any rank. The layers themselves are only known up to a
    rotation of the hidden neurons. Modes that the start has to no more than rounding stay
    at zero, where integration would find them at last. Differentiable in `times`, and in
    the target as long as the eigenvalues of $F$ are distinct.

    Raises:
        ValueError: If the network has not two layers or does not fit, there is a readout,
            inputs are not white, or the start is not balanced.
    """
    needs_linear("two_layer_regression", network)
    _check_end_to_end("two_layer_regression", problem, network.widths[:: network.depth])
    [times] = _vectors("two_layer_regression", times=times)
    times = times.astype(problem.target.dtype)
    if network.depth != 2:
        raise ValueError(
            "`two_layer_regression(network=...)` must have 2 layers, but has "
            f"{network.depth}. For others see `end_to_end_velocity`."
        )
    first, second = network.weights
    inputs, hidden = first.shape[1], first.shape[0]
    variance = jnp.trace(problem.covariance) / inputs
    imbalance = second.T @ second - first @ first.T
    excess = jnp.trace(imbalance) / hidden
    _check_multiple(
        problem.covariance,
        "problem",
        "have white inputs, of covariance $m I$,",
        "Whiten them with `jaxflow.losses.whiten`.",
    )
    _check_multiple(
        imbalance,
        "network",
        r"be balanced, $W_2^\top W_2 - W_1 W_1^\top = \lambda I$,",
        "Start from `jaxflow.init.balanced`.",
        scale=jnp.sum(first**2) + jnp.sum(second**2),
    )
    ends = jnp.concatenate([-jnp.ones(inputs), jnp.ones(second.shape[0])])
    field = jnp.diag(excess / 2 * ends.astype(first.dtype))
    field = field.at[inputs:, :inputs].set(problem.target)
    field = field.at[:inputs, inputs:].set(problem.target.T)
    squares = _riccati(field, jnp.concatenate([first.T, second]), 2 * variance * times)
    return TwoLayers(
        squares[:, inputs:, :inputs],
        squares[:, :inputs, :inputs],
        squares[:, inputs:, inputs:],
    )


def symmetric_factorization(
    target: Float[Array, "n n"],
    factor: Float[Array, "n rank"],
    times: Float[Array, " times"],
) -> Float[Array, "times n n"]:
    r"""$U U^\top$ along the flow of $\|U U^\top - A\|_F^2$ from any start.

    $\dot U = 4 (A - U U^\top) U$, so $S = 2 U U^\top$ obeys the equation of
    `two_layer_regression` with $F = A$ and $\tau = 4 t$. What is said there of precision
    and derivatives holds here.

    Args:
        target: The symmetric matrix $A$; it may have negative eigenvalues.
        factor: $U$ at the start.
        times: Times since the start.

    Raises:
        ValueError: If the target is not symmetric, or shapes do not fit.
    """
    name = "symmetric_factorization"
    [times] = _vectors(name, times=times)
    target, factor = (
        _checks.real(f"{name}({what}=...)", a, _checks.REAL, dtype=times.dtype, ndim=2)
        for what, a in (("target", target), ("factor", factor))
    )
    if target.shape != (len(factor),) * 2:
        raise ValueError(
            f"`{name}(target, factor)` must have the shapes (n, n) and (n, rank), but has "
            f"{target.shape} and {factor.shape}."
        )
    if not isinstance(target, Tracer):
        known = np.asarray(target)
        rounding = np.finfo(known.dtype).eps ** 0.5 * np.max(np.abs(known))
        if np.max(np.abs(known - known.T)) > rounding:
            raise ValueError(f"`{name}(target=...)` must be symmetric.")
    return _riccati(target, 2**0.5 * factor, 4 * times) / 2


@jax.jit
def _riccati(field, root, times):
    r"""$S$ of $\dot S = F S + S F - S^2$ from $S = Q Q^\top$, of shape `(times, n, n)`."""
    rates, axes = decompositions.eigh(field)
    rates, axes = rates[::-1], axes[:, ::-1]
    rows = _staircase(axes.T @ root)
    rows = jnp.where(jnp.isnan(jnp.sum(root)), jnp.nan, rows)  # Which looks like zeros.
    growth = jnp.maximum(rates, 0)
    # Each column begins in a row of its own, and grows as that row does. Divided by this,
    # columns neither overflow nor become parallel, however large the time.
    lead = jnp.max(jnp.where(rows != 0, growth[:, None], 0), axis=0)
    # At time zero a square root has no derivative, which is to be multiplied by zero.
    tiny = jnp.finfo(rows.dtype).tiny

    def at(later):
        time = jax.lax.stop_gradient(later)
        relative = lambda rate: (
            rows * jnp.exp(time * jnp.minimum(rate[:, None] - lead[None], 0))
        )
        rate = 2 * jnp.abs(rates)
        decayed = -jnp.expm1(-rate * time) / jnp.where(rate > 0, rate, 1)
        mass = jnp.sqrt(jnp.where(rate > 0, decayed, time) + tiny)
        stacked = [mass[:, None] * relative(growth), jnp.diag(jnp.exp(-time * lead))]
        triangle = decompositions.qr(jnp.concatenate(stacked))[1]
        half = decompositions.solve_triangular(triangle, relative(rates).T, trans=1)
        turned = half @ axes.T
        return _in_time(turned.T @ turned, field, later)

    return jax.vmap(at)(times)


@jax.custom_jvp
def _in_time(square, field, time):
    """The solution, whose derivative in time is what the equation says."""
    del field, time
    return square


@_in_time.defjvp
@full_precision
def _in_time_derivative(primals, tangents):
    square = _in_time(*primals)
    pull = primals[1] @ square
    return square, tangents[0] + tangents[2] * (pull + pull.T - square @ square)


def _staircase(matrix):
    """The matrix times a rotation, so that each column begins below the one before it.

    A row that is a combination of those above it, up to rounding, begins none.
    """
    columns = jnp.arange(matrix.shape[1])
    rounding = (10 * jnp.finfo(matrix.dtype).eps) ** 2 * jnp.sum(matrix**2)

    def step(carry, i):
        rows, pivot = carry
        row = jnp.where(columns >= pivot, rows[i], 0)
        square = row @ row
        begins = square > rounding
        corner = (columns == pivot).astype(row.dtype)
        size = jnp.sqrt(jnp.where(begins, square, 1))
        mirror = row + jnp.where(row @ corner < 0, -size, size) * corner
        mirror = jnp.where(begins, mirror, 1)
        reflected = rows - jnp.outer(rows @ mirror, mirror) * (2 / (mirror @ mirror))
        rows = jnp.where(begins, reflected, rows)
        pivot = pivot + begins.astype(pivot.dtype)
        return (rows.at[i].set(jnp.where(columns < pivot, rows[i], 0)), pivot), None

    start = (matrix, jnp.zeros((), columns.dtype))
    (rows, _), _ = jax.lax.scan(step, start, jnp.arange(matrix.shape[0]))
    return rows


def autoencoder_modes(
    times: Float[Array, " times"],
    variances: Float[Array, " modes"],
    starts: Float[Array, " modes"],
    *,
    tied: bool,
) -> Float[Array, "times modes"]:
    r"""How linear autoencoders learn the principal components, one by one.

    $a_i = 1 / (1 + (1 / a_i(0) - 1) e^{-r c_i t})$ is what is left of component $i$, of
    variance $c_i$, in the reconstruction. The loss is $E \|W_2 W_1 x - x\|^2$, of
    `denoising(x, noise=0.0)`, from layers that are balanced and have the components as
    singular vectors, and $r = 4$; for other lengths of them see `two_layer_mode` with
    target one. Tied layers, $W_1 = W_2^\top$, learn twice as fast, $r = 8$.

    Args:
        times: Times since the start.
        variances: $c_i$, eigenvalues of the covariance of the inputs.
        starts: $a_i(0)$, not negative; zero stays zero.
        tied: Whether both layers are one.
    """
    name = "autoencoder_modes"
    [times] = _vectors(name, times=times)
    variances, starts = _vectors(name, variances=variances, starts=starts)
    variances, starts = variances.astype(times.dtype), starts.astype(times.dtype)
    decay = jnp.exp(-(8 if tied else 4) * times[:, None] * variances[None])
    start = starts[None]
    return start / (start + (1 - start) * decay)


def diagonal_map(
    integral: Float[Array, " in"],
    first: Float[Array, " in"],
    second: Float[Array, " in"],
    *,
    power: int | None = None,
) -> Float[Array, " in"]:
    r"""The map of a diagonal network, of what its gradient added up to.

    For $G(t) = \int_0^t \nabla_w \mathcal{L}$ and the flow of any function
    $\mathcal{L}(w)$: of $w = u \odot v$ from the start $(u, v)$ it is
    $\frac14 (u + v)^2 e^{-2 G} - \frac14 (u - v)^2 e^{2 G}$, and of $w = p^D - q^D$ with
    $D > 2$ from the start $(p, q)$ it is

    $$ p^D \left(1 + D (D-2)\, p^{D-2} G\right)^{-D/(D-2)}
       - q^D \left(1 - D (D-2)\, q^{D-2} G\right)^{-D/(D-2)}, $$

    `nan` beyond the largest $G$ that there can be. That of $D = 2$ is the first one, for
    $u = p + q$, $v = p - q$ and twice the $G$; from $p = q = \alpha$ it is
    $2 \alpha^2 \sinh(-4 G)$. That of $D = 1$ is $p - q - 2 G$.

    Args:
        integral: $G$.
        first: $u$ at the start, or $p$.
        second: $v$ at the start, or $q$.
        power: $D$, if the network is $p^D - q^D$.

    Raises:
        ValueError: If the power is not positive.
    """
    _check_power("diagonal_map", power)
    given = {"integral": integral, "first": first, "second": second}
    integral, first, second = _vectors("diagonal_map", **given)
    return _diagonal_map(integral, first, second, power)


def _diagonal_map(integral, first, second, power):
    if power == 2:
        return _diagonal_map(2 * integral, first + second, first - second, None)
    if power == 1:
        return first - second - 2 * integral
    if power is not None:
        return _power_map(integral, first, second, power)
    product = first * second
    # From the start, of which large terms are not to cancel.
    away = jnp.exp(-2 * jnp.where(product < 0, -integral, integral))
    least = (jnp.abs(first) - jnp.abs(second)) ** 2 / 4
    return product * away - 2 * least * jnp.sinh(2 * integral)


def _power_map(integral, first, second, power):
    r"""$p^D - q^D$ for $D > 2$."""
    rate = power * (power - 2) * integral

    def gain(start, rate):
        grown = jnp.log1p(start ** (power - 2) * rate)
        return start**power * jnp.expm1(-power / (power - 2) * grown)

    return first**power - second**power + gain(first, rate) - gain(second, -rate)


def diagonal_limit(
    problem: Regression,
    first: Float[Array, " in"],
    second: Float[Array, " in"],
    *,
    power: int | None = None,
) -> Float[Array, " in"]:
    r"""Where the flow of a diagonal network ends, for one output.

    Of all $w$ that fit, the one of the form `diagonal_map` with $G$ in the span of the
    inputs, which minimizes a strictly convex function. For $w = u \odot v$ with
    $|u + v| = |u - v| = 2 \alpha$ it is $\sum_i q(w_i / \alpha^2)$ with
    $q(z) = 2 - \sqrt{4 + z^2} + z\,\mathrm{arcsinh}(z/2)$, so the least $\|w\|_2$ for
    $\alpha \to \infty$ and the least $\|w\|_1$ for $\alpha \to 0$; so it is of
    $w = p^D - q^D$ with $D > 1$ from $p = q = \alpha$.

    Found by Newton's method, in all directions that the data have. Differentiable in the
    data and the start. From $p = q = \alpha$ with $D > 2$ the relative error is that of
    rounding times $(w^{1/D} / \alpha)^{D-2}$, for $G$ is then close to its largest value.

    Args:
        problem: The regression, of fewer samples than inputs or more.
        first: $u$ at the start, or $p$.
        second: $v$ at the start, or $q$.
        power: $D$, if the network is $p^D - q^D$.

    Returns:
        The limit; `nan` if no such map fits, which needs a coordinate of $|u| = |v|$, or of
        $p$ or $q$ that is zero, for it can never change its sign.

    Raises:
        ValueError: If there are several outputs or a readout, or the power is not positive.
    """
    first, second = _vectors("diagonal_limit", first=first, second=second)
    _check_end_to_end("diagonal_limit", problem, (first.size, 1))
    first, second = (w.astype(problem.target.dtype) for w in (first, second))
    _check_power("diagonal_limit", power)
    if power == 2:
        first, second, power = first + second, first - second, None
    return _limit(problem.target[0], problem.covariance, first, second, power)


@ft.partial(jax.jit, static_argnames="power")
def _limit(fit, covariance, first, second, power):
    values, axes = decompositions.eigh(covariance)
    seen = values > 10 * values.size * jnp.finfo(values.dtype).eps * values[-1]
    span = axes @ (seen.astype(values.dtype)[:, None] * axes.T)
    rest = jnp.eye(values.size, dtype=values.dtype) - span
    fixed = jax.lax.stop_gradient((fit, span, rest, first, second))
    dual = jax.lax.stop_gradient(_newton(*fixed, power))
    # One step more, whose derivative is that of the root.
    dual += _newton_step(dual, fit, span, rest, first, second, power)[0]
    return _diagonal_map(-dual, first, second, power)


def _newton(fit, span, rest, first, second, power):
    r"""The dual vector to half the digits or more, or `nan`."""
    start = _diagonal_map(jnp.zeros_like(fit), first, second, power)
    scale = jnp.max(jnp.abs(fit)) + jnp.max(jnp.abs(start))
    allowed = jnp.finfo(fit.dtype).eps ** 0.75 * scale

    def misses(dual):  # Of maps and not of dual vectors, which may have flat directions.
        misfit = span @ (_diagonal_map(-dual, first, second, power) - fit)
        # Close to an end, what rounding of the dual vector does to the map is more.
        moved = 10 * jnp.finfo(fit.dtype).eps * _stiffness(dual, first, second, power)[0]
        return ~(jnp.max(jnp.abs(misfit)) <= allowed + jnp.max(moved * jnp.abs(dual)))

    def advance(state):
        dual, count = state
        step, longest = _newton_step(dual, fit, span, rest, first, second, power)
        # What third derivatives are, times the step, over second ones. Steps damped so
        # always descend, whatever the start; the last ones are hardly damped. Where the
        # ratio grows toward an end, they come up to half of the way there.
        damping = jnp.log1p(longest) / jnp.where(longest > 0, longest, 1)
        damping = damping if power is None else 1 / (1 + longest)
        return dual + damping * step, count + 1

    proceed = lambda state: misses(state[0]) & (state[1] < 500)
    dual, _ = jax.lax.while_loop(proceed, advance, (jnp.zeros_like(fit), 0))
    return jnp.where(misses(dual), jnp.nan, dual)


def _newton_step(dual, fit, span, rest, first, second, power):
    """A step toward the dual vector, within the span, whose map fits, and its length.

    In units of what changes the stiffness by as much as itself, at most.
    """
    misfit = span @ (_diagonal_map(-dual, first, second, power) - fit)
    stiffness, ratio = _stiffness(dual, first, second, power)
    # Outside of the span any positive curvature does; one of this size keeps digits.
    curvature = span @ (stiffness[:, None] * span) + jnp.mean(stiffness) * rest
    step = -decompositions.solve(curvature, misfit)
    return step, jnp.max(jnp.abs(step) * ratio)


def _stiffness(dual, first, second, power):
    """How the map changes with the dual vector, and how fast this does, relatively."""
    if power is None:
        plus, minus = (first + second) ** 2 / 4, (first - second) ** 2 / 4
        return 2 * (plus * jnp.exp(2 * dual) + minus * jnp.exp(-2 * dual)), 2.0
    if power == 1:
        return jnp.full_like(dual, 2.0), 0.0
    rate = power * (power - 2) * dual
    # p^(D-2) and q^(D-2), which only zero starts leave at zero.
    p, q = (w ** (power - 2) for w in (first, second))
    p, q = p / (1 - p * rate), q / (1 + q * rate)
    slopes = (jnp.abs(w) ** (2 * (power - 1) / (power - 2)) for w in (p, q))
    ratio = 2 * power * (power - 1) * jnp.maximum(jnp.abs(p), jnp.abs(q))
    return power**2 * sum(slopes), ratio


def _check_power(name: str, power: int | None):
    if power is not None:
        _checks.whole(f"{name}(power=...)", power)


def _numbers(name, dtype, **given):
    """Numbers that may be `nan`."""
    return [
        _checks.real(f"{name}({what}=...)", value, _checks.REAL, dtype=dtype)
        for what, value in given.items()
    ]


def _vectors(name, **given):
    """Vectors of one length and precision, that may hold `nan`."""
    found = [
        _checks.real(f"{name}({what}=...)", value, _checks.REAL, ndim=1)
        for what, value in given.items()
    ]
    if len({v.shape for v in found}) > 1:
        raise ValueError(
            f"`{name}({', '.join(given)})` must have one length, but the shapes are "
            f"{', '.join(str(v.shape) for v in found)}."
        )
    dtype = jnp.result_type(*found)
    return [v.astype(dtype) for v in found]


def end_to_end_velocity(
    problem: Regression,
    product: Float[Array, "out in"],
    depth: int,
    *,
    rank: int | None = None,
) -> Float[Array, "out in"]:
    r"""How the product of a balanced deep linear network moves under the flow.

    $$ \dot W = -\sum_{j=1}^L (W W^\top)^{(L-j)/L}\, \nabla\, (W^\top W)^{(j-1)/L}, \qquad
       \nabla = 2 (W - W_\star) \Sigma, $$

    for any data, if $W_{j+1}^\top W_{j+1} = W_j W_j^\top$ in all layers at the start, as
    from `init.balanced`. An equation for the product alone, to be integrated; for
    one output see also `marion_chizat_2024.balanced_velocity`.

    Not differentiable where singular values are equal. Those no larger than rounding count
    as zero: their small powers would not be small. Where hidden layers are narrower than
    the data, give their width as `rank`, lest the errors of the integration count.

    Args:
        problem: The regression.
        product: $W$.
        depth: The number of layers $L$.
        rank: Singular values beyond count as zero; none by default.

    Raises:
        ValueError: If `depth` or `rank` is not positive, `product` does not fit the data,
            or there is a readout.
    """
    name = "end_to_end_velocity"
    product = _checks.real(f"{name}(product=...)", product, _checks.REAL, ndim=2)
    _check_end_to_end(name, problem, product.shape[::-1])
    depth = _checks.whole(f"{name}(depth=...)", depth)
    if rank is not None:
        rank = _checks.whole(f"{name}(rank=...)", rank)
    product = product.astype(problem.target.dtype)
    rank = min(product.shape) if rank is None else rank
    return _velocity(product, problem.target, problem.covariance, depth, rank)


@ft.partial(jax.jit, static_argnames=("depth", "rank"))
def _velocity(product, target, covariance, depth, rank):
    slope = 2 * (product - target) @ covariance
    if depth == 1:
        return -slope
    left, values, right = decompositions.svd(product, full_matrices=False)
    rounding = max(product.shape) * jnp.finfo(values.dtype).eps
    kept = (values > rounding * values[0]) & (jnp.arange(values.size) < rank)
    values = jnp.where(kept, values, 0)

    def power(j):  # Only of positive exponents, so that zeros stay zeros.
        return values ** (2 * j / depth)

    outer = power(depth - 1)
    velocity = (left * outer[None]) @ (left.T @ slope)
    velocity += (slope @ right.T) @ (outer[:, None] * right)
    inner = sum(
        (jnp.outer(power(depth - j), power(j - 1)) for j in range(2, depth)),
        start=jnp.zeros((values.size, values.size), values.dtype),
    )
    return -velocity - left @ (inner * (left.T @ slope @ right.T)) @ right


def _check_end_to_end(name: str, problem: Regression, shape: tuple[int, ...]):
    """Whether a map of so many inputs and outputs meets the data, without a readout."""
    needs_regression(f"{name}(problem=...)", problem, readout=False)
    if tuple(shape) != problem.target.shape[::-1]:
        raise ValueError(
            f"`{name}` must be given a map of the data's {problem.target.shape[1]} inputs "
            f"to {problem.target.shape[0]} outputs, but has {shape[0]} inputs and "
            f"{shape[-1]} outputs."
        )


def _check_multiple(
    matrix, argument: str, what: str, remedy: str, scale: Scalar | None = None
):
    """Whether a matrix is a multiple of the identity, up to rounding, if that is known."""
    if isinstance(matrix, Tracer):
        return
    matrix = np.asarray(matrix)
    mean = np.trace(matrix) / len(matrix)
    gap = np.max(np.abs(matrix - mean * np.eye(len(matrix))))
    if gap > np.finfo(matrix.dtype).eps ** 0.5 * (abs(mean) if scale is None else scale):
        raise ValueError(
            f"`two_layer_regression({argument}=...)` must {what} but is off by {gap:.4g} "
            f"from {mean:.4g} times the identity. {remedy}"
        )
