"""How it moves: continuous and discrete time, with one kind of result."""

from .central import central_flow as central_flow
from .descent import gradient_descent as gradient_descent
from .exponential import ExponentialRosenbrock as ExponentialRosenbrock
from .flattening import flatten as flatten
from .flow import at_limit as at_limit, gradient_flow as gradient_flow
from .message_passing import Focusing as Focusing, message_passing as message_passing
from .optimizers import entropy_sgd as entropy_sgd, keep_norms as keep_norms
from .search import least_action as least_action
from .trajectory import (
    Edge as Edge,
    Observable as Observable,
    Status as Status,
    Trajectory as Trajectory,
    snapshot as snapshot,
    value as value,
    with_state as with_state,
)
