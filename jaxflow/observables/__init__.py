"""What we measure: functions of `(loss, network)`, for the `observe` of any run."""

from .alignment import (
    alignment as alignment,
    chance_alignment as chance_alignment,
    determinant as determinant,
    gains as gains,
    imbalance as imbalance,
    path_coupling as path_coupling,
    rank_one_gap as rank_one_gap,
    singular_values as singular_values,
    stable_rank as stable_rank,
)
from .curvature import (
    Spectrum as Spectrum,
    gauss_newton_spectrum as gauss_newton_spectrum,
    hessian as hessian,
    sharpness as sharpness,
    spectrum as spectrum,
)
from .density import (
    SpectralDensity as SpectralDensity,
    spectral_density as spectral_density,
)
from .edge import (
    at_centre as at_centre,
    oscillation as oscillation,
    predicted_oscillation as predicted_oscillation,
    reversal as reversal,
    sharpening as sharpening,
)
from .flatness import (
    LocalEntropy as LocalEntropy,
    error_rate as error_rate,
    local_energy as local_energy,
    local_entropy as local_entropy,
    solved as solved,
)
from .kernel import (
    kernel_alignment as kernel_alignment,
    tangent_kernel as tangent_kernel,
)
from .progress import (
    distance as distance,
    excess as excess,
    gradient_norm as gradient_norm,
)
from .stability import (
    preconditioner as preconditioner,
    stability_threshold as stability_threshold,
)
