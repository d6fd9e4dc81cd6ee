"""What is wrong with a model's MTP block, its header, its files and their names, and what fixes it.

`diagnose` looks at one open model, `examine` at whatever a path names. One file per kind of finding; `fix_plan.py`
turns what they would change into a plan, which the command `doctor` carries out.
"""

from __future__ import annotations

from .examine import Diagnosis, diagnose, examine
from .finding import Finding

__all__ = ["Diagnosis", "Finding", "diagnose", "examine"]
