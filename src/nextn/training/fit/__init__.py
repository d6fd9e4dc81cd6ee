"""Fitting a draft to its trunk: torch modules of what engines draft with, trained on the trunk's own states.

Importing this needs no torch; `fit` does.
"""

from __future__ import annotations

from .options import CurvePoint, FitOptions, FitResult, FitStep, fit

__all__ = ["CurvePoint", "FitOptions", "FitResult", "FitStep", "fit"]
