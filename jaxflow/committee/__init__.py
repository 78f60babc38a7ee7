"""Committee machines that classify patterns: problems, searches, and flatness."""

from ..networks.committee import Committee as Committee
from .belief_propagation import (
    Focusing as Focusing,
    focusing_bp as focusing_bp,
)
from .flatness import (
    LocalEntropy as LocalEntropy,
    error_rate as error_rate,
    local_energy as local_energy,
    local_entropy as local_entropy,
    zero_training_error as zero_training_error,
)
from .least_action import (
    least_action_learning as least_action_learning,
)
from .optimizers import (
    entropy_sgd as entropy_sgd,
    fixed_row_norms as fixed_row_norms,
)
from .problems import (
    Classification as Classification,
    mixture_patterns as mixture_patterns,
    random_patterns as random_patterns,
    teacher_patterns as teacher_patterns,
)
