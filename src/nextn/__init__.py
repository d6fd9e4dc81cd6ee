"""nextn: multi-token prediction (MTP) for the GGUF models you already have.

`nextn.inspect(path)`, `nextn.doctor(model)`, `nextn.attach(trunk, donor, layout=...)`, `nextn.detach(model)`,
`nextn.extract(donor)`, `nextn.verify(model)`, `nextn.pack(models, out=...)` and `nextn.pull(repo, out=...)` are the
verbs of the command line.
Names are imported on first use: a tool that only inspects never loads numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import CheckpointInspection, DonorInfo, Inspection, Result, attach, detach, extract, inspect
    from .diagnosis import Diagnosis, Finding, Treatment, doctor
    from .verbs.bench import BenchReport, bench
    from .verbs.pack import PackResult, PullResult, pack, pull
    from .verbs.plan import MemoryPlan, plan
    from .verbs.tune import TuneReport, tune
    from .verbs.verify import Verdict, verify

_HOMES = {
    **dict.fromkeys(
        ("CheckpointInspection", "DonorInfo", "Inspection", "Result", "attach", "detach", "extract", "inspect"), "api"
    ),
    **dict.fromkeys(("Diagnosis", "Finding", "Treatment", "doctor"), "diagnosis"),
    **dict.fromkeys(("BenchReport", "bench"), "measure.bench"),
    **dict.fromkeys(("TuneReport", "tune"), "measure.tune"),
    **dict.fromkeys(("Verdict", "verify"), "measure.verify"),
    **dict.fromkeys(("MemoryPlan", "plan"), "memory.verb"),
    **dict.fromkeys(("PackResult", "PullResult", "pack", "pull"), "publish.api"),
}
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
    "Result",
    "Treatment",
    "TuneReport",
    "Verdict",
    "__version__",
    "attach",
    "bench",
    "detach",
    "doctor",
    "extract",
    "inspect",
    "pack",
    "plan",
    "pull",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nextn' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value  # `nextn.inspect` is the verb, also once the module of that name is loaded
    return value
