"""Figures of stored runs: one call, the names of axes, and one palette."""

from .plots import plot as plot
