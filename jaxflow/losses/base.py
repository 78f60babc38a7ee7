"""What all losses share: sums and multiples, their excess over the least value."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
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


class AbstractLoss(eqx.Module):
    """A scalar function of a network, carrying everything it needs to be evaluated.

    Its value is `floor + excess(network)`. They are kept apart because near a minimum the
    excess is far smaller than the rounding of their sum. Losses add, and can be scaled:
    `0.5 * problem + WeightDecay(1e-3)` is a loss.

    A loss implements `outputs` and `criterion`, of which `excess` is the composition, and
    which say what the Gauss-Newton part of the Hessian is; or `excess` alone.

    Attributes:
        floor: A number that the loss never falls below.
    """

    floor: eqx.AbstractVar[Float[Array, ""]]

    def excess(self, network: PyTree) -> Scalar:
        """The loss above its floor."""
        return self.criterion(self.outputs(network))

    def outputs(self, network: PyTree) -> PyTree[Array]:
        """What the loss asks of the network: arrays, as a function of the weights."""
        del network
        raise ValueError(self._whole())

    def criterion(self, outputs: PyTree[Array]) -> Scalar:
        """The loss above its floor, as a function of the network's `outputs`."""
        del outputs
        raise ValueError(self._whole())

    def _whole(self) -> str:
        name = type(self).__name__
        return (
            f"`{name}` must say what its outputs are, but only defines `excess`, if that. "
            f"Implement `{name}.outputs(network)` and `{name}.criterion(outputs)`."
        )

    def __call__(self, network: PyTree) -> Scalar:
        """The loss at `network`."""
        excess = self.excess(network)
        return jnp.asarray(self.floor, excess.dtype) + excess

    def __add__(self, other: "AbstractLoss") -> "Sum":
        if not isinstance(other, AbstractLoss):
            raise TypeError(
                f"A loss can be added to losses, not to {_checks.brief(other)}. For a "
                "function of the network use `FunctionLoss`."
            )
        (terms, factors), (more, others) = _parts(self), _parts(other)
        return Sum(terms + more, factors + others)  # pyright: ignore

    def __rmul__(self, factor: ScalarLike) -> "AbstractLoss":
        terms, factors = _parts(self)
        factor = as_factor(factor)
        return Sum(terms, tuple(factor * f for f in factors))  # pyright: ignore

    def least_excess(self, network: PyTree) -> Scalar | None:
        """The least excess of any network of these shapes, where that is known.

        Known are losses without local minima, so that whatever rests above is a saddle.
        """
        del network
        return None

    @property
    def samples(self) -> int | None:
        """The number of samples that mini-batches are drawn from, if there are any."""
        return None

    def select(self, indices: Int[Array, " batch"]) -> "AbstractLoss":
        """The same loss on some of its samples."""
        del indices
        return self

    def redraw(self, key: PRNGKeyArray) -> "AbstractLoss":
        """The same loss with what is random in it drawn anew, if anything is."""
        del key
        return self

    def at(self, count: Array) -> "AbstractLoss":
        """The same loss after a number of steps of a descent, if it changes with them."""
        del count
        return self

    def solved(self, network: PyTree) -> Bool[Array, ""] | None:
        """Whether a network solves the problem, for losses that ask no more than that."""
        del network
        return None


class Sum(AbstractLoss):
    """A sum of losses, each times a positive factor. Written `a + b` and `0.5 * a`."""

    terms: tuple[AbstractLoss, ...]
    factors: tuple[Float[Array, ""], ...]

    @property
    def floor(self) -> Scalar:
        return self._add(term.floor for term in self.terms)

    def excess(self, network: PyTree) -> Scalar:
        return self._add(term.excess(network) for term in self.terms)

    def outputs(self, network: PyTree) -> tuple[PyTree[Array], ...]:
        return tuple(term.outputs(network) for term in self.terms)

    def criterion(self, outputs: tuple[PyTree[Array], ...]) -> Scalar:
        pairs = zip(self.terms, outputs, strict=True)
        return self._add(term.criterion(output) for term, output in pairs)

    def _add(self, values) -> Scalar:
        pairs = zip(self.factors, values, strict=True)
        return sum((factor.astype(v.dtype) * v for factor, v in pairs), start=0.0)  # pyright: ignore

    def least_excess(self, network: PyTree) -> Scalar | None:
        least = [term.least_excess(network) for term in self.terms]
        # Of several terms no one knows.
        return None if len(least) > 1 or least[0] is None else self._add(least)

    @property
    def samples(self) -> int | None:
        sizes = {term.samples for term in self.terms if term.samples is not None}
        if len(sizes) > 1:
            raise ValueError(
                "Mini-batches of a sum need terms with one number of samples, but these "
                f"have {sorted(sizes)}."
            )
        return next(iter(sizes), None)

    def select(self, indices: Int[Array, " batch"]) -> "Sum":
        terms = tuple(term.select(indices) for term in self.terms)
        return eqx.tree_at(lambda s: s.terms, self, terms)

    def redraw(self, key: PRNGKeyArray) -> "Sum":
        keys = jr.split(key, len(self.terms))
        terms = tuple(t.redraw(k) for t, k in zip(self.terms, keys, strict=True))
        return eqx.tree_at(lambda s: s.terms, self, terms)

    def at(self, count: Array) -> "Sum":
        terms = tuple(term.at(count) for term in self.terms)
        return eqx.tree_at(lambda s: s.terms, self, terms)


def as_factor(factor: ScalarLike) -> Scalar:
    """A factor of a loss, which is not negative."""
    return _checks.real("factor * loss", factor, _checks.NOT_NEGATIVE, dtype=float)


def _parts(loss: AbstractLoss) -> tuple[tuple[AbstractLoss, ...], tuple[Array, ...]]:
    return (
        (loss.terms, loss.factors) if isinstance(loss, Sum) else ((loss,), (jnp.ones(()),))
    )
