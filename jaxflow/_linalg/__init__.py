"""Norms and decompositions that are right at every scale and in every batch."""
