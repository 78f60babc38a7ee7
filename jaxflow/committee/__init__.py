"""Committee machines that classify patterns: problems, searches, and flatness."""

from ..networks.committee import Committee as Committee
from .problems import (
    Classification as Classification,
    random_patterns as random_patterns,
    teacher_patterns as teacher_patterns,
    mixture_patterns as mixture_patterns,
)
from .least_action import least_action_learning as least_action_learning
from .belief_propagation import (
    focusing_bp as focusing_bp,
    Focusing as Focusing,
)
from .optimizers import (
    entropy_sgd as entropy_sgd,
    fixed_row_norms as fixed_row_norms,
)
from .flatness import (
    error_rate as error_rate,
    zero_training_error as zero_training_error,
    local_energy as local_energy,
    local_entropy as local_entropy,
    LocalEntropy as LocalEntropy,
)
