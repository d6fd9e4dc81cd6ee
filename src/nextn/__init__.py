"""nextn: multi-token prediction (MTP) for the GGUF models you already have.

Every verb of the command line is a function here: `nextn.inspect(path)`, `nextn.attach(trunk, donor, layout=...)`,
`nextn.verify(model)` and so on; `nextn.errors` holds every exception that they raise.
Names are imported on first use: a tool that only inspects never loads numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors
from .version import __version__

if TYPE_CHECKING:
    from .diagnosis import Diagnosis, Finding
    from .inspection.checkpoint import CheckpointInspection
    from .inspection.model import Inspection
    from .measure.bench_report import BenchReport
    from .measure.tune_report import TuneReport
    from .memory.memory_plan import MemoryPlan
    from .publish.packing import PackResult
    from .publish.pulling import PullResult
    from .verbs.attach import attach
    from .verbs.bench import bench
    from .verbs.detach import detach
    from .verbs.doctor import Treatment, doctor
    from .verbs.extract import extract
    from .verbs.inspect import inspect
    from .verbs.pack import pack
    from .verbs.plan import plan
    from .verbs.pull import pull
    from .verbs.recover import Recovery, recover
    from .verbs.tune import tune
    from .verbs.verify import Verdict, verify
    from .writing.result import DonorInfo, Result

_HOMES = {
    "BenchReport": "measure.bench_report",
    "CheckpointInspection": "inspection.checkpoint",
    "Diagnosis": "diagnosis",
    "DonorInfo": "writing.result",
    "Finding": "diagnosis",
    "Inspection": "inspection.model",
    "MemoryPlan": "memory.memory_plan",
    "PackResult": "publish.packing",
    "PullResult": "publish.pulling",
    "Recovery": "verbs.recover",
    "Result": "writing.result",
    "Treatment": "verbs.doctor",
    "TuneReport": "measure.tune_report",
    "Verdict": "verbs.verify",
    **{
        verb: f"verbs.{verb}"
        for verb in (
            "attach", "bench", "detach", "doctor", "extract", "inspect", "pack", "plan", "pull", "recover", "tune",
            "verify",
        )
    },
}  # fmt: skip
__all__ = [
    "BenchReport",
    "CheckpointInspection",
    "Diagnosis",
    "DonorInfo",
    "Finding",
    "Inspection",
    "MemoryPlan",
    "PackResult",
    "PullResult",
    "Recovery",
    "Result",
    "Treatment",
    "TuneReport",
    "Verdict",
    "__version__",
    "attach",
    "bench",
    "detach",
    "doctor",
    "errors",
    "extract",
    "inspect",
    "pack",
    "plan",
    "pull",
    "recover",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nextn' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value
