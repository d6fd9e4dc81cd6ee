"""Training a draft: the trunk writes text, a draft is fitted to its states, and an engine judges what came of it.

`nextn.train(...)` is also a verb, so the package is callable: importing it shadows the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..verbs.train import TrainResult


class _Callable(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> TrainResult:
        """See `nextn.verbs.train.train`."""
        from ..verbs.train import train

        return train(*args, **options)


sys.modules[__name__].__class__ = _Callable
