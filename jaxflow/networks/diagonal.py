"""Linear networks whose weights are shared: diagonal and symmetric."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks
from .convolutional import _apply
from .fields import optional_array, real_array


class DiagonalLinear(eqx.Module):
    r"""The diagonal linear network $x \mapsto \langle w, x \rangle$, with one output.

    $$ w = (u_1 \odot \cdots \odot u_L)^p - (v_1 \odot \cdots \odot v_L)^p, $$

    entry by entry. Two `positive` rows are $u \odot v$; one of each and a `power` are
    $u^D - v^D$ (Woodworth et al., 2020), `DiagonalLinear(u[None], v[None], power=D)`.

    Args:
        positive: The layers $u_1, \dots, u_L$, one a row.
        negative: The layers $v_1, \dots, v_M$ of what is taken away, one a row; none
            means that nothing is.
        power: How often the layers are repeated, $p$, with the same weights.

    Raises:
        ValueError: If layers are not the rows of matrices with the same number of inputs,
            or the power is not positive.
    """

    positive: Float[Array, "layers in"] = eqx.field(
        converter=real_array("DiagonalLinear(positive=...)")
    )
    negative: Float[Array, "_ _"] | None = eqx.field(
        default=None, converter=optional_array("DiagonalLinear(negative=...)")
    )
    power: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        inputs = self.positive.shape[-1:]
        for name, layers in (("positive", self.positive), ("negative", self.negative)):
            if layers is None:
                continue
            if layers.ndim != 2 or 0 in layers.shape or layers.shape[1:] != inputs:
                raise ValueError(
                    f"`DiagonalLinear({name}=...)` must hold a layer a row, with as many "
                    f"inputs as the others, but has shape {layers.shape}, and `positive` "
                    f"{self.positive.shape}. A single layer `u` is `u[None]`."
                )
        _checks.whole("DiagonalLinear(power=...)", self.power)

    @property
    def product(self) -> Float[Array, "1 in"]:
        """The end-to-end row $w$, as a matrix."""
        row = jnp.prod(self.positive, axis=0) ** self.power
        if self.negative is not None:
            row -= jnp.prod(self.negative, axis=0) ** self.power
        return row[None]

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " 1"]:
        """The output for one input."""
        return _apply(self.product, x)


class SymmetricLinear(eqx.Module):
    r"""The symmetric linear map $x \mapsto U U^\top x$, of one factor that acts twice.

    A linear autoencoder with tied weights; on
    `regression_from_moments(I, A, jnp.sum(A**2))` the symmetric factorization
    $\|U U^\top - A\|_F^2$ of a matrix.

    Args:
        factor: The matrix $U$, of shape `(in, hidden)`.

    Raises:
        ValueError: If the factor is no matrix.
    """

    factor: Float[Array, "in hidden"] = eqx.field(
        converter=real_array("SymmetricLinear(factor=...)")
    )

    def __check_init__(self):
        if self.factor.ndim != 2:
            raise ValueError(
                "`SymmetricLinear(factor=...)` must be a matrix, but has shape "
                f"{self.factor.shape}. Build a batch of networks with `jax.vmap`."
            )

    @property
    def product(self) -> Float[Array, "in in"]:
        r"""The end-to-end matrix $U U^\top$."""
        return self.factor @ self.factor.T

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " in"]:
        """The output for one input."""
        return _apply(self.factor, _apply(self.factor.T, x))
