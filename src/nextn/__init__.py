"""nextn: multi-token prediction (MTP) for the GGUF models you already have.

Every verb of the command line is a function here: `nextn.inspect(path)`, `nextn.attach(trunk, donor, layout=...)`,
`nextn.verify(model)` and so on; docs/python-api.md lists them. `nextn.errors` holds every exception that they raise.
Where a caller gives no `say` function, steps are logged to the logger "nextn".
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
    from .inspection.shard_set import SetInspection
    from .measure.bench_report import BenchReport
    from .measure.tune_report import TuneReport
    from .measure.worth_report import WorthReport
    from .memory.memory_plan import MemoryPlan
    from .progress import Progress, Say
    from .publish.packing import PackResult
    from .publish.pulling import PullResult
    from .verbs.assemble import assemble
    from .verbs.attach import attach
    from .verbs.bench import bench
    from .verbs.bench_tensors import TensorReport, bench_tensors
    from .verbs.cache import CacheResult, cache
    from .verbs.demo import DemoResult, demo
    from .verbs.detach import detach
    from .verbs.doctor import DoctorResult, doctor
    from .verbs.explode import explode
    from .verbs.extract import extract
    from .verbs.inspect import inspect
    from .verbs.pack import pack
    from .verbs.plan import plan
    from .verbs.pull import pull
    from .verbs.recover import Recovery, recover
    from .verbs.report import ReportResult, report
    from .verbs.scan import ScanReport, scan
    from .verbs.serve import Serving, serve
    from .verbs.train import TrainResult, train
    from .verbs.tune import tune
    from .verbs.up import up
    from .verbs.up_report import UpReport
    from .verbs.verify import Verdict, verify
    from .verbs.worth import worth
    from .writing.result import DonorInfo, Result

_HOMES = {
    "BenchReport": "measure.bench_report",
    "CacheResult": "verbs.cache",
    "CheckpointInspection": "inspection.checkpoint",
    "DemoResult": "verbs.demo",
    "Diagnosis": "diagnosis",
    "DoctorResult": "verbs.doctor",
    "DonorInfo": "writing.result",
    "Finding": "diagnosis",
    "Inspection": "inspection.model",
    "MemoryPlan": "memory.memory_plan",
    "PackResult": "publish.packing",
    "Progress": "progress",
    "PullResult": "publish.pulling",
    "Recovery": "verbs.recover",
    "ReportResult": "verbs.report",
    "Result": "writing.result",
    "Say": "progress",
    "ScanReport": "verbs.scan",
    "Serving": "verbs.serve",
    "SetInspection": "inspection.shard_set",
    "TensorReport": "verbs.bench_tensors",
    "TrainResult": "verbs.train",
    "TuneReport": "measure.tune_report",
    "UpReport": "verbs.up_report",
    "Verdict": "verbs.verify",
    "WorthReport": "measure.worth_report",
    "bench_tensors": "verbs.bench_tensors",
    **{
        verb: f"verbs.{verb}"
        for verb in (
            "assemble", "attach", "bench", "cache", "demo", "detach", "doctor", "explode", "extract", "inspect",
            "pack", "plan", "pull", "recover", "report", "scan", "serve", "train", "tune", "up",
            "verify", "worth",
        )
    },
}  # fmt: skip
__all__ = [
    "BenchReport",
    "CacheResult",
    "CheckpointInspection",
    "DemoResult",
    "Diagnosis",
    "DoctorResult",
    "DonorInfo",
    "Finding",
    "Inspection",
    "MemoryPlan",
    "PackResult",
    "Progress",
    "PullResult",
    "Recovery",
    "ReportResult",
    "Result",
    "Say",
    "ScanReport",
    "Serving",
    "SetInspection",
    "TensorReport",
    "TrainResult",
    "TuneReport",
    "UpReport",
    "Verdict",
    "WorthReport",
    "__version__",
    "assemble",
    "attach",
    "bench",
    "bench_tensors",
    "cache",
    "demo",
    "detach",
    "doctor",
    "errors",
    "explode",
    "extract",
    "inspect",
    "pack",
    "plan",
    "pull",
    "recover",
    "report",
    "scan",
    "serve",
    "train",
    "tune",
    "up",
    "verify",
    "worth",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nextn' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value
