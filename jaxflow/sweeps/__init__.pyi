"""Many runs: sweeps over grids and seeds, and where they are kept."""

from .store import load as load, save as save
from .sweeps import sweep as sweep
