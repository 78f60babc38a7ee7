"""A residual network with fewer outputs than neurons, which are trained too."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ...networks import AbstractDense


class ResidualClassifier(AbstractDense):
    r"""Residual layers $h_k = h_{k-1} + W_k\, \sigma(h_{k-1})$ between two linear maps.

    The first layer is $W_1 x$, and the last $W_L\, \sigma(h_{L-1})$.

    Args:
        weights: Layers in the order they act; all but the first and the last are square.
        activation: The function $\sigma$ of one number. Compared by identity.
    """

    weights: tuple[Float[Array, "_ _"], ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        if k == 0:
            return self.weights[0] @ h
        moved = self.weights[k] @ jax.vmap(self.activation)(h)
        return moved if k == self.depth - 1 else h + moved
