"""How it moves: continuous and discrete time, with one kind of result."""

from .flow import (
    gradient_flow as gradient_flow,
    at_flow_limit as at_flow_limit,
)
from .exponential import ExponentialRosenbrock as ExponentialRosenbrock
from .descent import gradient_descent as gradient_descent
from .central import central_flow as central_flow
from .trajectory import (
    Trajectory as Trajectory,
    Status as Status,
    Edge as Edge,
    Observable as Observable,
    with_state as with_state,
)
