"""Networks of layers: what they share, and the dense ones."""

import abc
import functools as ft
import itertools as it
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .fields import activation_function, array_tuple


class AbstractLayered(eqx.Module):
    """A network of layers between flat vectors, each with weights of its own."""

    @property
    @abc.abstractmethod
    def widths(self) -> tuple[int, ...]:
        r"""The numbers $d_0, \dots, d_L$ of inputs, hidden neurons and outputs."""

    @property
    def depth(self) -> int:
        """The number of layers $L$."""
        return len(self.widths) - 1

    @abc.abstractmethod
    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        """What layer `k`, from 0, makes of what the one before it returned."""

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """The output for one input."""
        if x.shape != (self.widths[0],):
            raise ValueError(
                f"The network must accept {x.size} inputs, but has widths {self.widths}."
            )
        return ft.reduce(lambda h, k: self.layer(k, h), range(self.depth), x)

    def linearized(self, x: Float[Array, " in"]) -> "DeepLinear":
        r"""The Jacobian of each layer at one input, as the layers of a linear network.

        Their product is the Jacobian of the network at `x`. What is measured of linear
        networks is so measured of others, input by input, with `jax.vmap` over `x`.
        """
        jacobians = []
        for k in range(self.depth):
            jacobians.append(jax.jacfwd(ft.partial(self.layer, k))(x))
            x = self.layer(k, x)
        return DeepLinear(tuple(jacobians))


class AbstractDense(AbstractLayered):
    """A network of layers, each with one weight matrix and no bias."""

    weights: eqx.AbstractVar[tuple[Float[Array, "_ _"], ...]]

    def __check_init__(self):
        name = f"`{type(self).__name__}(weights=...)`"
        if not self.weights:
            raise ValueError(f"{name} must hold a layer, but is empty.")
        for k, weight in enumerate(self.weights, start=1):
            if weight.ndim != 2:
                raise ValueError(
                    f"{name} must hold matrices, but layer {k} has shape {weight.shape}. "
                    "Build a batch of networks with `jax.vmap`."
                )
        for k, (first, then) in enumerate(it.pairwise(self.weights), start=1):
            if then.shape[1] != first.shape[0]:
                raise ValueError(
                    f"{name} must chain, but layer {k} returns {first.shape[0]} numbers "
                    f"and layer {k + 1} accepts {then.shape[1]} (shapes {first.shape} and "
                    f"{then.shape})."
                )

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))


class DeepLinear(AbstractDense):
    r"""The deep linear map $x \mapsto W_L \cdots W_1 x$.

    A network is nothing but its weights, so a gradient, a velocity or a Hessian
    eigenvector of a `DeepLinear` is again a `DeepLinear`, with the same methods. A readout
    that is not trained therefore belongs to the problem, see `Regression.from_data`.

    Args:
        weights: Factors in the order they act, $W_1$ first. Each accepts what the one
            before it returns; any of them may be rectangular.

    Raises:
        ValueError: If there are no factors, or they do not chain.
    """

    weights: tuple[Float[Array, "_ _"], ...] = eqx.field(
        converter=array_tuple("DeepLinear(weights=...)")
    )

    @property
    def product(self) -> Float[Array, "out in"]:
        r"""The end-to-end matrix $W_L \cdots W_1$."""
        return chain(*reversed(self.weights))

    @property
    def from_input(self) -> tuple[Float[Array, "_ in"], ...]:
        r"""The partial products $I, W_1, W_2 W_1, \dots, W_L \cdots W_1$."""
        start = jnp.eye(self.widths[0], dtype=self.weights[0].dtype)
        return tuple(it.accumulate(self.weights, lambda a, w: w @ a, initial=start))

    @property
    def to_output(self) -> tuple[Float[Array, "out _"], ...]:
        r"""The partial products $W_L \cdots W_1, \dots, W_L W_{L-1}, W_L, I$.

        `to_output[k] @ from_input[k]` is the end-to-end matrix for every $k = 0..L$.
        """
        start = jnp.eye(self.widths[-1], dtype=self.weights[0].dtype)
        products = it.accumulate(reversed(self.weights), lambda b, w: b @ w, initial=start)
        return tuple(products)[::-1]

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weights[k] @ h


class MLP(AbstractDense):
    r"""The multilayer perceptron $x \mapsto W_L\, \sigma(W_{L-1} \cdots \sigma(W_1 x))$.

    It has no biases, and no activation behind its last layer. The starts of `init` serve:
    `MLP(init.gaussian(widths, scale=0.4, key=key).weights, jax.nn.gelu)`.

    Args:
        weights: Layers in the order they act, as in `DeepLinear`.
        activation: The function $\sigma$ of one number, such as `jax.nn.gelu` or
            `jnp.tanh`. Compared by identity, so define it once.

    Raises:
        ValueError: If there are no layers, or they do not chain.
    """

    weights: tuple[Float[Array, "_ _"], ...] = eqx.field(
        converter=array_tuple("MLP(weights=...)")
    )
    activation: Callable[[Array], Array] = eqx.field(
        static=True, converter=activation_function("MLP(activation=...)")
    )

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        before = self.weights[k] @ h
        return before if k == self.depth - 1 else jax.vmap(self.activation)(before)


class ResidualMLP(AbstractDense):
    r"""The residual network $h_k = h_{k-1} + W_k\, \sigma(h_{k-1})$, from $h_0 = x$.

    All layers are square; a fixed map to fewer outputs is the loss's `readout`. The starts
    of `init` serve, with `scale=0.0` for zero residuals. Without an activation it would be
    a `DeepLinear` that starts at `init.identity`.

    Args:
        weights: Square layers in the order they act.
        activation: The function $\sigma$ of one number. Compared by identity.

    Raises:
        ValueError: If there are no layers, or they are not square.
    """

    weights: tuple[Float[Array, "_ _"], ...] = eqx.field(
        converter=array_tuple("ResidualMLP(weights=...)")
    )
    activation: Callable[[Array], Array] = eqx.field(
        static=True, converter=activation_function("ResidualMLP(activation=...)")
    )

    def __check_init__(self):
        if len(set(self.widths)) > 1:
            raise ValueError(
                "`ResidualMLP(weights=...)` must be square, for each layer adds to what "
                f"it is given, but has widths {self.widths}. Map to other numbers of "
                "outputs by the loss's `readout`."
            )

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        return h + self.weights[k] @ jax.vmap(self.activation)(h)


def chain(*factors: Float[Array, "_ _"]) -> Float[Array, "_ _"]:
    """The product of matrices, taken from its thinner end.

    Outputs are usually few, and then every step costs a vector times a matrix.
    """
    if factors[0].shape[0] <= factors[-1].shape[1]:
        return ft.reduce(jnp.matmul, factors)
    return ft.reduce(lambda right, left: left @ right, reversed(factors))
