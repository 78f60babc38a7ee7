r"""Losses made of losses: with schedules, of many networks at once, without a scale."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import (
    Array,
    Bool,
    Float,
    Int,
    PRNGKeyArray,
    PyTree,
    Scalar,
    ScalarLike,
)

from .. import _checks
from .base import AbstractLoss


def _check_loss(name, loss):
    way = "Of a function make a loss by `FunctionLoss`."
    _checks.kind(name, loss, AbstractLoss, way)


class Variant(AbstractLoss):
    """What is left to the loss inside."""

    loss: eqx.AbstractVar[AbstractLoss]

    @property
    def floor(self) -> Scalar:
        return self.loss.floor

    def prepare(self, network: PyTree) -> PyTree:
        """The network that the loss inside is told of."""
        return network

    def solved(self, network: PyTree) -> Bool[Array, ""] | None:
        return self.loss.solved(self.prepare(network))

    @property
    def errors(self) -> Callable[[PyTree[Array]], Scalar]:
        """What a classification inside counts, if it is one."""
        count: Callable[[PyTree[Array]], Scalar] = self.loss.errors  # pyright: ignore
        return lambda network: count(self.prepare(network))

    @property
    def samples(self) -> int | None:
        return self.loss.samples

    def select(self, indices: Int[Array, " batch"]) -> "Variant":
        return eqx.tree_at(lambda s: s.loss, self, self.loss.select(indices))

    def redraw(self, key: PRNGKeyArray) -> "Variant":
        return eqx.tree_at(lambda s: s.loss, self, self.loss.redraw(key))

    def at(self, count: Int[Array, ""]) -> AbstractLoss:
        return eqx.tree_at(lambda s: s.loss, self, self.loss.at(count))


class Prepared(Variant):
    """The loss inside, of the network that it is told of."""

    def excess(self, network: PyTree) -> Scalar:
        return self.loss.excess(self.prepare(network))

    def outputs(self, network: PyTree) -> PyTree[Array]:
        return self.loss.outputs(self.prepare(network))

    def criterion(self, outputs: PyTree[Array]) -> Scalar:
        return self.loss.criterion(outputs)


class Scheduled(Prepared):
    r"""A loss whose numbers follow schedules while `gradient_descent` descends it.

    `Scheduled(loss, robustness=optax.exponential_decay(...))` has at every step the
    `robustness` that the schedule has there. For everything else, such as observables and
    flows, it is the loss as given.

    Args:
        loss: The loss.
        schedules: By the name of a number of the loss, an Optax schedule, a function of
            the steps taken. Compared by identity: make one once.

    Raises:
        ValueError: If the loss has no such number.
    """

    loss: AbstractLoss
    names: tuple[str, ...] = eqx.field(static=True)
    schedules: tuple[Callable[[Array], Array], ...] = eqx.field(static=True)

    def __init__(self, loss: AbstractLoss, **schedules: Callable[[Array], Array]):
        _check_loss("Scheduled(loss)", loss)
        for name, schedule in schedules.items():
            _checks.function(f"Scheduled({name}=...)", schedule, "the steps taken")
            if not eqx.is_inexact_array(getattr(loss, name, None)):
                raise ValueError(
                    f"`Scheduled({name}=...)` must name a number of the loss, but "
                    f"`{type(loss).__name__}` has none of this name."
                )
        self.loss = loss
        self.names, self.schedules = tuple(schedules), tuple(schedules.values())

    def least_excess(self, network: PyTree) -> Scalar | None:
        return self.loss.least_excess(network)

    def at(self, count: Int[Array, ""]) -> AbstractLoss:
        numbers = lambda loss: [getattr(loss, name) for name in self.names]
        pairs = zip(self.schedules, numbers(self.loss), strict=True)
        now = [jnp.asarray(schedule(count), old.dtype) for schedule, old in pairs]
        return eqx.tree_at(numbers, self.loss, now).at(count)


class Normalized(Prepared):
    r"""A loss of directions alone: of every row of weights, scaled to $\|w\|^2 = n$.

    With $n$ the length of the row. Its gradient and Hessian in weights that are not
    constrained are those along spheres, which is how networks of signs compare. Those of
    shorter rows are larger, though: the Hessian by the square of the factor. Bring networks
    to the norms of the spheres with `prepare` before their curvature is compared.

    Args:
        loss: The loss of the scaled network.
    """

    loss: AbstractLoss

    def __check_init__(self):
        _check_loss("Normalized(loss)", self.loss)

    def prepare(self, network: PyTree) -> PyTree:
        return normalize(network)


class Replicated(Variant):
    r"""Copies of a network that attract each other, each on a loss of its own.

    $$ \sum_{a=1}^y \mathcal{L}(\theta_a) + \frac{\lambda}{2} \sum_{a=1}^y
       \|\theta_a - \bar\theta\|^2, \qquad \bar\theta = \frac1y \sum_a \theta_a, $$

    after Baldassi et al. (2016): a descent on it is drawn to where many solutions are
    close. The network is a stack of $y$ networks, built with `jax.vmap`; `replica_mean` is
    the one that they surround.

    Args:
        loss: The loss of one network.
        coupling: The attraction $\lambda$; `Scheduled` makes it grow.

    Raises:
        ValueError: If `coupling` is negative.
    """

    loss: AbstractLoss
    coupling: Float[Array, ""]

    def __init__(self, loss: AbstractLoss, coupling: ScalarLike):
        _check_loss("Replicated(loss)", loss)
        name = "Replicated(coupling=...)"
        self.loss = loss
        self.coupling = _checks.real(name, coupling, _checks.NOT_NEGATIVE, dtype=float)

    def excess(self, network: PyTree) -> Scalar:
        alone = jnp.sum(jax.vmap(self.loss.excess)(network))
        gaps = jax.tree.map(lambda w, m: w - m[None], network, replica_mean(network))
        spread = sum(jnp.sum(gap**2) for gap in jax.tree.leaves(gaps))
        return alone + self.coupling.astype(alone.dtype) / 2 * spread

    def prepare(self, network: PyTree) -> PyTree:
        return replica_mean(network)


def replica_mean(network: PyTree) -> PyTree[Array]:
    """The mean of a stack of networks."""
    if any(leaf.ndim == 0 for leaf in _checks.weights("replica_mean", network)):
        raise ValueError("`replica_mean(network)` must be a stack of networks, but is one.")
    return jax.tree.map(lambda w: jnp.mean(w, axis=0), network)


def normalize(network: PyTree) -> PyTree[Array]:
    """The network with every row of weights scaled to a norm of the root of its length."""

    def scale(w):
        square = jnp.sum(w**2, axis=-1, keepdims=True)
        length = jnp.sqrt(jnp.where(square > 0, square, 1))
        return w * (w.shape[-1] ** 0.5 / length)

    return jax.tree.map(scale, network)
