"""Many runs: sweeps over grids and seeds, their storage, and the papers' experiments."""

from .plots import plot as plot
from .store import load as load, save as save
from .sweeps import sweep as sweep
