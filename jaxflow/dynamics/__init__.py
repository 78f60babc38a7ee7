"""How it moves: continuous and discrete time, with one kind of result."""

from .central import central_flow as central_flow
from .descent import gradient_descent as gradient_descent
from .exponential import ExponentialRosenbrock as ExponentialRosenbrock
from .flattening import flatten as flatten
from .flow import at_flow_limit as at_flow_limit, gradient_flow as gradient_flow
from .message_passing import Focusing as Focusing, focusing_bp as focusing_bp
from .optimizers import entropy_sgd as entropy_sgd, fixed_row_norms as fixed_row_norms
from .search import least_action_learning as least_action_learning
from .trajectory import (
    Edge as Edge,
    Observable as Observable,
    Status as Status,
    Trajectory as Trajectory,
    loss_value as loss_value,
    weights as weights,
    with_state as with_state,
)
