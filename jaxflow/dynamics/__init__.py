"""How it moves: continuous and discrete time, with one kind of result."""

from .central import (
    central_flow as central_flow,
)
from .descent import (
    gradient_descent as gradient_descent,
)
from .exponential import (
    ExponentialRosenbrock as ExponentialRosenbrock,
)
from .flow import (
    at_flow_limit as at_flow_limit,
    gradient_flow as gradient_flow,
)
from .trajectory import (
    Edge as Edge,
    Observable as Observable,
    Status as Status,
    Trajectory as Trajectory,
    with_state as with_state,
)
