r"""Where it starts: initial weights of deep linear networks.

All of these can be batched with `jax.vmap` over `key`, and differentiated in `scale`.
Weights have JAX's default precision, and the same key draws other numbers in another
precision: turn on float64 first, with `jax.config.update("jax_enable_x64", True)`.

A linear network with skip connections, $x \mapsto (I + A_L) \cdots (I + A_1) x$, is a
`DeepLinear` that starts near the identity: the gradient in $A_k$ is that in $I + A_k$.
"""

import itertools as it
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from .networks import DeepLinear


def draw(
    widths: Sequence[int], initializer: Callable[..., Array], *, key: PRNGKeyArray
) -> DeepLinear:
    """Every layer drawn independently from an initialiser of `jax.nn.initializers`.

    `draw(widths, jax.nn.initializers.lecun_normal(), key=key)` is the standard fan-in
    start; `he_normal`, `glorot_uniform` and the others work alike.

    Args:
        widths: Numbers of inputs, hidden neurons and outputs, $d_0, ..., d_L$.
        initializer: A function of a key, a shape `(inputs, outputs)` and a dtype.
        key: Randomness.

    Raises:
        ValueError: If `widths` names no layer, or a width is not positive.
    """
    _check_widths("draw", widths)
    dtype = jnp.result_type(float)
    keys = jr.split(key, len(widths) - 1)
    # JAX's initialisers multiply from the right, and count inputs along the first axis.
    return DeepLinear(
        tuple(
            initializer(k, (inputs, outputs), dtype).T
            for k, (inputs, outputs) in zip(keys, it.pairwise(widths), strict=True)
        )
    )


def gaussian(widths: Sequence[int], *, scale: ScalarLike, key: PRNGKeyArray) -> DeepLinear:
    """Independent normal entries of standard deviation `scale`.

    Raises:
        ValueError: If `widths` names no layer, or a width is not positive.
    """
    _check_widths("gaussian", widths)
    shapes = [(outputs, inputs) for inputs, outputs in it.pairwise(widths)]
    ends = list(it.accumulate(rows * columns for rows, columns in shapes))
    # One draw for all layers: a generator for each takes seconds to compile.
    numbers = jnp.asarray(scale, float) * jr.normal(key, (ends[-1],))
    pieces = jnp.split(numbers, ends[:-1])
    return DeepLinear(
        tuple(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True))
    )


def orthogonal(
    widths: Sequence[int], *, scale: ScalarLike = 1.0, key: PRNGKeyArray
) -> DeepLinear:
    """Uniformly distributed (semi-)orthogonal layers, times `scale`.

    Raises:
        ValueError: If `widths` names no layer, or a width is not positive.
    """
    return draw(widths, jax.nn.initializers.orthogonal(scale), key=key)


def residual(width: int, depth: int, *, scale: ScalarLike, key: PRNGKeyArray) -> DeepLinear:
    r"""Square layers near the identity, $W_k = I + \frac{s}{\sqrt{L d}} N_k$.

    The entries of $N_k$ are standard normal (Marion & Chizat, 2024, section on residual
    networks). One output needs a fixed readout: `regression(x, y, readout=p)`.

    Raises:
        ValueError: If `width` or `depth` is not positive.
    """
    for name, size in (("width", width), ("depth", depth)):
        if size < 1:
            raise ValueError(
                f"`init.residual({name}=...)` must be positive, but is {size}."
            )
    noise = gaussian((width,) * (depth + 1), scale=1.0, key=key)
    size = jnp.asarray(scale) / (depth * width) ** 0.5
    return jax.tree.map(
        lambda n: jnp.eye(width, dtype=n.dtype) + size.astype(n.dtype) * n, noise
    )


def identity(widths: Sequence[int]) -> DeepLinear:
    r"""A linear residual network with zero residuals: ones on the diagonals, else zeros.

    As many ones as the smallest width, in every layer, so that the start is balanced
    whatever the widths, and the flow stays balanced (Mulayoff & Michaeli, 2020, for square
    layers). Neurons beyond take no part.

    Raises:
        ValueError: If `widths` names no layer, or a width is not positive.
    """
    _check_widths("identity", widths)
    ones = jnp.eye(min(widths))
    sizes = [(outputs, inputs) for inputs, outputs in it.pairwise(widths)]
    pad = lambda size: [(0, n - len(ones)) for n in size]
    return DeepLinear(tuple(jnp.pad(ones, pad(size)) for size in sizes))


def balanced(
    product: Float[Array, "out in"], depth: int, *, width: int | None = None
) -> DeepLinear:
    r"""The balanced factorisation of a matrix: $W_{k+1}^\top W_{k+1} = W_k W_k^\top$.

    With $U S V^\top$ the singular value decomposition of `product`, the first layer is
    $S^{1/L} V^\top$, the last $U S^{1/L}$, and those between are $S^{1/L}$, padded by
    zeros to `width`.

    Args:
        product: What the layers multiply to.
        depth: The number of layers.
        width: Neurons in each hidden layer. Defaults to the smaller side of `product`.

    Raises:
        ValueError: If `depth` is not positive, or `width` too small for any matrix of
            this shape.
    """
    rank = min(product.shape)
    width = rank if width is None else width
    if depth < 1:
        raise ValueError(f"`init.balanced(depth=...)` must be positive, but is {depth}.")
    if width < rank:
        raise ValueError(
            f"`init.balanced(width=...)` must be at least {rank} for a product of shape "
            f"{product.shape}, but is {width}."
        )
    if depth == 1:
        return DeepLinear((product,))
    left, values, right = jnp.linalg.svd(product, full_matrices=False)
    root = values ** (1 / depth)
    pad = (0, width - rank)
    first = jnp.pad(root[:, None] * right, (pad, (0, 0)))
    between = jnp.diag(jnp.pad(root, pad))
    last = jnp.pad(left * root[None], ((0, 0), pad))
    return DeepLinear((first, *(between,) * (depth - 2), last))


def balanced_rank_one(
    widths: Sequence[int], *, scale: ScalarLike, key: PRNGKeyArray
) -> DeepLinear:
    r"""Random rank-one layers $W_k = s\, u_k u_{k-1}^\top$, balanced and aligned.

    The $u_k$ are unit vectors, drawn uniformly; the flow keeps this form.

    Raises:
        ValueError: If `widths` names no layer, or a width is not positive.
    """
    _check_widths("balanced_rank_one", widths)
    keys = jr.split(key, len(widths))
    gaussians = [jr.normal(k, (d,)) for k, d in zip(keys, widths, strict=True)]
    units = [g / jnp.linalg.norm(g) for g in gaussians]
    size = jnp.asarray(scale, units[0].dtype)
    return DeepLinear(
        tuple(size * jnp.outer(then, first) for first, then in it.pairwise(units))
    )


def _check_widths(name: str, widths: Sequence[int]):
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"`init.{name}(widths=...)` must hold at least an input and an output width, "
            f"all positive, but is {tuple(widths)}."
        )
