"""Output for the user, one module per verb: tables, progress, messages.

`nextn.report(...)` is also a verb, so the package is callable: importing it shadows the function.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..verbs.report import ReportResult


class _Callable(ModuleType):
    def __call__(
        self, results: Sequence[str | Path], *, out: str | Path | None = None, dry_run: bool = False
    ) -> ReportResult:
        """See `nextn.verbs.report.report`."""
        from ..verbs.report import report

        return report(results, out=out, dry_run=dry_run)


sys.modules[__name__].__class__ = _Callable
