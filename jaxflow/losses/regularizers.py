"""What is added to a loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import (
    Array,
    Float,
    PyTree,
    Scalar,
)

from ..networks.fields import per_layer, strengths
from .base import AbstractLoss


class WeightDecay(AbstractLoss):
    r"""The penalty $\gamma \|\theta\|^2$, which raises every curvature by $2\gamma$.

    Or $\sum_k \gamma_k \|W_k\|_F^2$, with a strength for each array of weights, the first
    layer first.

    Raises:
        ValueError: If a strength is negative, or, of a network, there is not one for each
            layer.
    """

    strength: Float[Array, "..."] = eqx.field(
        converter=strengths("WeightDecay(strength=...)")
    )

    def __check_init__(self):
        per_layer(self.strength, self.strength.size, "WeightDecay(strength=...)")

    @property
    def floor(self) -> Scalar:
        return jnp.zeros((), self.strength.dtype)

    def outputs(self, network: PyTree) -> PyTree[Array]:
        return eqx.filter(network, eqx.is_inexact_array)

    def criterion(self, outputs: PyTree[Array]) -> Scalar:
        leaves = jax.tree.leaves(outputs)
        if self.strength.ndim == 0:
            squares = sum(jnp.sum(w**2) for w in leaves)
            return self.strength.astype(leaves[0].dtype) * squares
        strengths = per_layer(self.strength, len(leaves), "WeightDecay(strength=...)")
        squares = jnp.stack([jnp.sum(w**2) for w in leaves])
        return jnp.sum(strengths.astype(squares.dtype) * squares)
