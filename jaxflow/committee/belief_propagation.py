"""Message passing: beliefs about weights that fit the patterns, where many do."""

import functools as ft
from collections.abc import Callable, Mapping

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import log_sigmoid, logsumexp, sigmoid
from jax.scipy.special import log_ndtr
from jaxtyping import Array, ArrayLike, Float, Scalar, ScalarLike

from .. import _checks
from .._linalg.precision import full_precision
from ..dynamics import Observable, Trajectory
from ..networks.committee import Committee
from .least_action import check_search, search
from .problems import Classification


class Focusing(eqx.Module):
    r"""How many replicas belief propagation is of, and how strongly they are coupled.

    Replicas $w^1, \dots, w^y$ share a center $\tilde w$ in the factor $e^{\gamma \sum_a w^a
    \cdot \tilde w}$: the more there are, and the closer, the denser with solutions the
    region they can all be in. One replica, or no coupling, is belief propagation itself;
    infinite coupling makes the replicas one, which reinforces beliefs $y$ times.

    Give the numbers of each iteration: `Focusing(20.0, jnp.repeat(jnp.geomspace(0.1, 100,
    60), 5))` keeps 20 replicas, which draw together in 300 iterations.

    Args:
        replicas: $y$, at least 1 and not necessarily whole; one for all iterations, or one
            for each.
        couplings: $\gamma$, one for each iteration; may be infinite.

    Raises:
        ValueError: If there is no iteration, shapes do not fit, or a number is out of
            range.
    """

    replicas: Float[Array, " steps"]
    couplings: Float[Array, " steps"]

    def __init__(self, replicas: ArrayLike, couplings: ArrayLike):
        replicas, couplings = (
            _checks.numbers(f"Focusing({name}=...)", given).astype(float)
            for name, given in (("replicas", replicas), ("couplings", couplings))
        )
        self.couplings = couplings
        if couplings.ndim != 1 or replicas.shape not in ((), couplings.shape):
            raise ValueError(
                "`Focusing(replicas, couplings)` must hold one coupling for each iteration "
                "and as many numbers of replicas, or one, but the shapes are "
                f"{couplings.shape} and {replicas.shape}. For a coupling that stays pass "
                "`jnp.full(steps, coupling)`."
            )
        if couplings.size < 1:
            raise ValueError(
                "`Focusing(couplings=...)` must hold at least one iteration, but is empty."
            )
        _check_range("Focusing(replicas=...)", replicas, 1, np.inf)
        _check_range("Focusing(couplings=...)", couplings, 0, np.inf, closed=True)
        self.replicas = jnp.broadcast_to(replicas, couplings.shape)

    @classmethod
    def reinforcement(cls, rates: ArrayLike) -> "Focusing":
        r"""One belief, ever more certain: $\gamma = \infty$ and $y = 1 / (1 - r)$.

        Args:
            rates: $r$, from 0 to less than 1, for each iteration.

        Raises:
            ValueError: If a rate is out of range.
        """
        name = "Focusing.reinforcement(rates=...)"
        rates = _checks.real(name, rates, _checks.SHARE, dtype=float, ndim=1)
        return cls(1 / (1 - rates), jnp.full_like(rates, jnp.inf))

    @classmethod
    def pseudo_reinforcement(cls, rates: ArrayLike) -> "Focusing":
        r"""More replicas, and closer: $\tanh^2 \gamma = \rho$, $y = (2 - \rho)/(1 - \rho)$.

        Args:
            rates: $\rho$, from 0 to less than 1, for each iteration.

        Raises:
            ValueError: If a rate is out of range.
        """
        name = "Focusing.pseudo_reinforcement(rates=...)"
        rates = _checks.real(name, rates, _checks.SHARE, dtype=float, ndim=1)
        return cls((2 - rates) / (1 - rates), jnp.arctanh(jnp.sqrt(rates)))


@full_precision
def focusing_bp(
    loss: Classification,
    network: Committee,
    focusing: Focusing,
    *,
    binary: bool = False,
    damping: ScalarLike = 0.5,
    every: int = 1,
    stop: bool = True,
    observe: Mapping[str, Observable] | None = None,
    progress_meter: dfx.AbstractProgressMeter = dfx.NoProgressMeter(),
) -> Trajectory:
    r"""Pass messages between patterns and weights, focused on dense regions of solutions.

    Focusing belief propagation, after Baldassi et al. (2016), "Unreasonable effectiveness
    of learning neural networks". This form, which keeps means and variances only and has
    an Onsager term in place of messages for each pair, was derived for this library. With
    the patterns $x$ times their labels, of mean square 1, an iteration is

    $$ \begin{aligned}
       \omega_{\mu k} &= \tfrac{1}{\sqrt n}\, m_k \cdot x_{\mu k} - v_k\, g_{\mu k}, \qquad
       g_{\mu k} = \partial_{\omega_{\mu k}} \log Z_\mu, \qquad
       Z_\mu = P\Big[\textstyle\sum_k \operatorname{sign}(h_k) > 0\Big],\
       h_k \sim \mathcal N(\omega_{\mu k}, v_k), \\
       B_k &= \tfrac{1}{\sqrt n} \textstyle\sum_\mu g_{\mu k}\, x_{\mu k} + A_k m_k, \qquad
       A_k = -\tfrac1n \textstyle\sum_\mu \partial_{\omega_{\mu k}} g_{\mu k},
       \end{aligned} $$

    where $g$ keeps the share `damping` of what it was, and $m$ and $v$ are the mean and
    variance of weights in the field $B$, coupled to a center that $y - 1$ other replicas in
    the same field are coupled to. Weights on spheres, $\|w_k\|^2 = n$, have $m = G B / s$
    and $v = 1 / s$ with

    $$ G = 1 + (y - 1)\, r, \qquad s = \tfrac12 \big(1 + \sqrt{1 + 4 b\, G^2}\big), \qquad
       b = \|B\|^2 / n, $$

    and the share $r$ of the field that a replica learns of another one's from $r\, T = s\,
    u^2$, where $u = \gamma (1 - r) / s$ and $T = \frac12 (1 + \sqrt{1 + 4 b y^2 u^2})$.
    Weights of $\pm 1$ have $m = \tanh(B + F)$ with $\tanh F = \tanh((y - 1) C) \tanh
    \gamma$ and $\tanh C = \tanh B \tanh \gamma$.

    The network at a time is the most probable one: $B$, with the norm of the sphere, or
    its sign. Messages start at a hundredth of the network that is given, and nothing else
    is random. Patterns of another length, even each of its own, have variances to match,
    and lead to the same network. It can be batched with `equinox.filter_vmap` over all
    arrays.

    Args:
        loss: The patterns. Their robustness and gain play no part.
        network: Where to start: a committee of signs that votes by its sum, or a
            perceptron. Random, or units that see the same inputs stay the same.
        focusing: The number of replicas and their coupling, for each iteration.
        binary: Whether weights are $\pm 1$ and not on spheres.
        damping: From 0 to less than 1. Units that see the same inputs may need 0.9, and
            correlated patterns 0.99, with as many more iterations.
        every: Iterations between two records, and between two looks whether it is solved.
        stop: Whether to stop at the first record without a wrong pattern. To go on finds
            flatter solutions, and may diverge.
        observe: What to report at each record, by name. Defaults to the loss alone.
        progress_meter: Any Diffrax progress meter.

    Returns:
        The trajectory, in iterations. `CONVERGED` means that no pattern is wrong.

    Raises:
        ValueError: If the network is no such committee, it does not fit the patterns, or an
            argument is out of range.
    """
    check_search("focusing_bp", loss, network)
    hidden = network.weights.shape[0]
    signs = network.unit is jnp.sign or (network.unit is None and hidden == 1)
    if not signs or network.vote != "sum":
        raise ValueError(
            "`focusing_bp(network=...)` must be a committee of an odd number of signs "
            f"that votes by its sum, but has {hidden} of the unit {network.unit} and votes "
            f'by its {network.vote}. Build it with `unit=jnp.sign` and `vote="sum"`.'
        )
    if not isinstance(focusing, Focusing):
        raise ValueError(
            "`focusing_bp(focusing=...)` must be a `Focusing`, but is a "
            f"`{type(focusing).__name__}`. For belief propagation pass "
            "`Focusing(1.0, jnp.zeros(steps))`."
        )
    dtype = network.weights.dtype
    name = "focusing_bp(damping=...)"
    damping = _checks.real(name, damping, _checks.SHARE, dtype=dtype)
    focusing = jax.tree.map(lambda a: a.astype(dtype), focusing)
    step = _Iteration(loss, focusing, damping, _on_signs if binary else _on_spheres)
    steps = focusing.couplings.size
    name = "focusing_bp"
    return search(name, step, network, steps, every, observe, progress_meter, stop=stop)


def _check_range(name, values, low, high, *, closed=False):
    if isinstance(values, Tracer):
        return
    known = np.asarray(values)
    if not np.all((known >= low) & ((known <= high) if closed else (known < high))):
        most = "at most" if closed else "less than"
        raise ValueError(
            f"`{name}` must be at least {low} and {most} {high}, but is {values}."
        )


class _State(eqx.Module):
    network: Committee
    time: Scalar
    mean: Float[Array, "hidden in"]
    variance: Float[Array, " hidden"]
    pull: Float[Array, "samples hidden"]


class _Iteration(eqx.Module):
    """Messages to all patterns, and back."""

    loss: Classification
    focusing: Focusing
    damping: Float[Array, ""]
    beliefs: Callable[..., tuple[Array, Array, Array]] = eqx.field(static=True)

    def init(self, network: Committee) -> _State:
        (hidden, _), dtype = network.weights.shape, network.weights.dtype
        return _State(
            network,
            jnp.zeros((), dtype),
            network.weights / 100,
            jnp.ones(hidden, dtype),
            jnp.zeros((self.loss.samples, hidden), dtype),
        )

    def __call__(self, state: _State, count: Array) -> _State:
        x = self.loss.x * self.loss.y[:, None]
        n = state.mean.shape[1]
        fields = ft.partial(_fields, state.network, x)
        sizes = _fields(state.network, x**2, jnp.ones_like(state.mean)) / n**0.5
        # Inputs that are all zero pull at nothing, but must not divide by nothing.
        variances = state.variance[None] * jnp.where(sizes > 0, sizes, 1)
        pull, slope = _pull(fields(state.mean) - variances * state.pull, variances)
        pull = self.damping * state.pull + (1 - self.damping) * pull
        [back] = jax.linear_transpose(fields, state.mean)(pull)
        precision = jnp.sum(sizes * slope, axis=0) / n
        field = back + precision[:, None] * state.mean
        replicas, coupling = self.focusing.replicas[count], self.focusing.couplings[count]
        best, mean, variance = self.beliefs(field, replicas, coupling)
        network = eqx.tree_at(lambda c: c.weights, state.network, best)
        variance = jnp.maximum(variance, 1e-4)
        return _State(network, state.time + 1, mean, variance, pull)


def _fields(network, x, weights):
    """The fields of all patterns, linear in the weights."""
    return jax.vmap(eqx.tree_at(lambda c: c.weights, network, weights).fields)(x)


def _pull(means, variances):
    """The first, and minus the second derivatives of the log probability to vote right.

    Args:
        means: Those of the fields.
        variances: Those of the fields.
    """
    deviations = jnp.sqrt(variances)
    z = jnp.clip(means / deviations, -30, 30)
    right, decisive = jax.vmap(_votes)(log_ndtr(z), log_ndtr(-z))
    normal = -(z**2 + jnp.log(2 * np.pi * variances)) / 2
    pull = jnp.exp(normal + decisive - right[:, None])
    return pull, pull * (pull + z / deviations)


def _votes(yes, no):
    """The log probabilities that a majority is right, and that each vote is decisive.

    Args:
        yes: The log probability of each vote to be right.
        no: That to be wrong.
    """
    hidden = yes.size
    place = np.arange(hidden)
    others = np.stack([np.delete(place, k) for k in place])
    ties = jax.vmap(_counts)(yes[others], no[others])[:, hidden // 2]
    return logsumexp(_counts(yes, no)[hidden // 2 + 1 :]), ties


def _counts(yes, no):
    """The log probability of each number of successes."""
    none = jnp.full(yes.size + 1, -jnp.inf, yes.dtype).at[0].set(0)

    def vote(counts, given):
        yes, no = given
        more = jnp.roll(counts, 1).at[0].set(-jnp.inf)
        return jnp.logaddexp(counts + no, more + yes), None

    return jax.lax.scan(vote, none, (yes, no))[0]


def _on_spheres(field, replicas, coupling):
    """The best weights, means and variances of weights on spheres."""
    size = jnp.mean(field**2, axis=1)
    gain = 1 + (replicas - 1) * _share(size, replicas, coupling)
    precision = _precision(size * gain**2)
    best = field / jnp.sqrt(size)[:, None]
    return best, (gain / precision)[:, None] * field, 1 / precision


def _precision(size):
    """That of weights on a sphere, in a field of this mean square."""
    return (1 + jnp.sqrt(1 + 4 * size)) / 2


def _share(size, replicas, coupling):
    """What a replica learns of the field of another one: of all of it, the share."""
    # Large enough for all of it, up to rounding; what is infinite has no logarithm.
    coupling = jnp.minimum(coupling, 1e10)

    def excess(logit):
        precision = _precision(size * (1 + (replicas - 1) * sigmoid(logit)) ** 2)
        ratio = coupling * sigmoid(-logit) / precision
        center = _precision(size * (replicas * ratio) ** 2)
        fall = jnp.log(center * precision) - log_sigmoid(-logit)
        return logit + fall - 2 * jnp.log(coupling)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        above = excess(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jnp.full_like(size, -50), jnp.full_like(size, 50)
    return sigmoid(jax.lax.fori_loop(0, 60, halve, ends)[0])


def _on_signs(field, replicas, coupling):
    """The best weights, means and variances of weights of plus and minus one."""
    shared = (replicas - 1) * _atanh_product(field, coupling)
    mean = jnp.tanh(field + _atanh_product(shared, coupling))
    return jnp.sign(field), mean, 1 - jnp.mean(mean**2, axis=1)


def _atanh_product(a, b):
    r"""$\operatorname{atanh}(\tanh a \tanh b)$, also where tangents round to one."""
    near = jnp.minimum(jnp.abs(a), jnp.abs(b))
    far = jnp.maximum(jnp.abs(a), jnp.abs(b))
    rest = jnp.log1p(jnp.exp(-2 * (far + near))) - jnp.log1p(jnp.exp(-2 * (far - near)))
    return jnp.sign(a) * jnp.sign(b) * (near + rest / 2)
