"""Committee machines: one trained layer, and a fixed vote."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from .. import _checks
from .fields import real_array


class Committee(eqx.Module):
    r"""A committee machine: hidden units that vote, of which only the first layer learns.

    Fields $h_k = w_k \cdot x_k / \sqrt n$ pass through a unit, $g(h_k)$, and vote on the
    output, whose sign is the class: by their sum or difference over $\sqrt K$, or by their
    product. One unit without an activation is the perceptron.

    Args:
        weights: One row for each of $K$ hidden units, of shape `(hidden, in)`.
        tree: Whether each unit sees inputs of its own, $x = (x_1, \dots, x_K)$, and not
            all of them.
        unit: The activation $g$ of one number, such as `jnp.sign`, `jax.nn.relu` or, for
            none, `None`. Compared by identity.
        vote: `"sum"`; `"difference"` between the first half of the units and the rest, for
            units that are never negative; or `"product"`, the parity machine.

    Raises:
        ValueError: If weights are no matrix, a majority of signs can tie because
            their number is even, or that for a difference is odd.
    """

    weights: Float[Array, "hidden in"] = eqx.field(
        converter=real_array("Committee(weights=...)")
    )
    tree: bool = eqx.field(static=True, default=True)
    unit: Callable[[Array], Array] | None = eqx.field(static=True, default=jnp.sign)
    vote: str = eqx.field(static=True, default="sum")

    def __check_init__(self):
        if self.weights.ndim != 2:
            raise ValueError(
                "`Committee(weights=...)` must be a matrix with a row for each hidden "
                f"unit, but has shape {self.weights.shape}."
            )
        hidden = self.weights.shape[0]
        if self.unit is not None:
            _checks.function("Committee(unit=...)", self.unit, "one number")
        _checks.choice("Committee(vote=...)", self.vote, ("sum", "difference", "product"))
        if self.vote == "difference" and hidden % 2:
            raise ValueError(
                '`Committee(vote="difference")` must have as many units for as against, '
                f"but has {hidden}. Use an even number."
            )
        if self.vote == "sum" and self.unit is jnp.sign and hidden % 2 == 0:
            raise ValueError(
                '`Committee(vote="sum")` of signs must have an odd number of units, or '
                f"votes tie, but has {hidden}."
            )

    @property
    def inputs(self) -> int:
        """The number $N$ of inputs, which is $K n$ for a tree and $n$ otherwise."""
        return self.weights.size if self.tree else self.weights.shape[1]

    def fields(self, x: Float[Array, " in"]) -> Float[Array, " hidden"]:
        r"""The fields $h_k = w_k \cdot x_k / \sqrt n$ for one input.

        Raises:
            ValueError: If the number of inputs is another.
        """
        if x.shape != (self.inputs,):
            hidden, n = self.weights.shape
            each = f"{n} for each of {hidden} units" if self.tree else "for all units"
            raise ValueError(
                f"The committee must see {self.inputs} inputs ({each}), but is given "
                f"{x.shape}."
            )
        x = x.reshape(self.weights.shape) if self.tree else x[None]
        return jnp.sum(self.weights * x, axis=1) / self.weights.shape[1] ** 0.5

    def decide(self, votes: Float[Array, " hidden"]) -> Float[Array, " 1"]:
        """The output, of what each unit says."""
        if self.vote == "product":
            return jnp.prod(votes, keepdims=True)
        sides = np.ones(votes.size)
        if self.vote == "difference":
            sides[votes.size // 2 :] = -1
        total = jnp.sum(jnp.asarray(sides, votes.dtype) * votes, keepdims=True)
        return total / votes.size**0.5

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " 1"]:
        """The output for one input; its sign is the class."""
        fields = self.fields(x)
        return self.decide(fields if self.unit is None else self.unit(fields))

    def smooth(self, x: Float[Array, " in"], gain: Scalar) -> Float[Array, " 1"]:
        r"""The output with $\tanh(\beta h)$ for the sign of $h$, which has a slope."""
        if self.unit is not jnp.sign:
            return self(x)
        return self.decide(jnp.tanh(gain * self.fields(x)))
