"""A residual network that changes its representation by linear maps, between blocks."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...networks import AbstractDense


class Stages(AbstractDense):
    r"""Layers $h + W_k \tanh h$ where there is a skip, and $W_k h$ where there is none.

    Args:
        weights: Layers in the order they act.
        skips: Whether each layer has a skip; those that have are square.
    """

    weights: tuple[Float[Array, "_ _"], ...]
    skips: tuple[bool, ...] = eqx.field(static=True)

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        return h + self.weights[k] @ jnp.tanh(h) if self.skips[k] else self.weights[k] @ h
