"""Fitting a draft to its trunk: torch modules of what engines draft with, trained on the trunk's own states.

Importing this needs no torch; `fit` does.
"""

from __future__ import annotations

from .options import FitOptions, FitResult, FitStep, HeldOutPoint, fit

__all__ = ["FitOptions", "FitResult", "FitStep", "HeldOutPoint", "fit"]
