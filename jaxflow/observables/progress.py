"""How far training has come."""

import jax
from jaxtyping import Array, PyTree, Scalar

from .. import _checks
from .._adapters import of_modules
from .._linalg.norms import norm, tree_norm
from .._linalg.precision import full_precision
from ..losses import AbstractLoss, Regression
from ..losses.base import Sum


@of_modules
def excess_loss(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    """The loss above its floor, to full relative precision."""
    return loss.excess(network)


@of_modules
def gradient_norm(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    """The Euclidean norm of the gradient in all weights."""
    return tree_norm(jax.grad(loss.excess)(network))


@full_precision
def distance(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    r"""The distance $\|P W - W_\star\|_F$ of the network to the least-squares solution.

    Of inputs without variance it sees what training does not change: for fewer samples
    than inputs, even an interpolating network is in general away from $W_\star$.

    Raises:
        ValueError: If `loss` holds no `Regression`, or several.
    """
    terms = loss.terms if isinstance(loss, Sum) else (loss,)
    problems = [term for term in terms if isinstance(term, Regression)]
    if len(problems) != 1:
        raise ValueError(
            "`distance(loss, ...)` needs one `Regression` in the loss, but found "
            f"{len(problems)} in `{type(loss).__name__}`. Build it with "
            "`Regression.from_data(x, y)`."
        )
    [problem] = problems
    _checks.weights("distance", network)
    return norm(problem.linear_map(network) - problem.target)


@of_modules
def loss_value(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    """The loss."""
    return loss(network)


@of_modules
def weights(loss: AbstractLoss, network: PyTree[Array]) -> PyTree[Array]:
    """The network itself; of a module that holds more than weights, its weights."""
    del loss
    return network
