"""The demo: an end-to-end run on a small trained model that ships with nextn, judged by a real engine."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EngineFailed, EngineRefused
from ..measure.engine_report import by_text
from ..progress import Say, heard
from ..schemas.base import Documented, filled
from ..schemas.demo import DemoDocument
from ..writing.scratch import scratch_folder
from .attach import attach

if TYPE_CHECKING:
    from ..engines import EngineChoice
    from ..engines.base import Engine

DATA = Path(__file__).resolve().parent.parent / "demo_data"
TRUNK = DATA / "tiny-qwen35-Q4_K_M.gguf"
CHECKPOINT = DATA / "tiny-qwen35-mtp"
LAYOUTS = ("shards", "sidecar", "bundle")
# The model was trained only on Python's standard library, so it is asked to continue Python code.
PROMPTS = (
    'def read(self, size=-1):\n    """Read and return up to size bytes.\n',
    "import os\nimport sys\n\n\nclass Parser:\n    def __init__(self, stream):\n",
    "    def test_empty(self):\n        self.assertEqual(",
    "    try:\n        import threading\n    except ImportError:\n",
    "def main(args=None):\n    parser = argparse.ArgumentParser(",
)
N_PREDICT = 128
N_THREADS = 1  # the model is so small that a second thread would only wait for the first


@dataclass(frozen=True)
class DemoLayout:
    """One layout: what it took and what the engine said."""

    layout: str
    bytes_written: int
    wall_s: float
    verdict: str
    same_text: bool | None
    acceptance: dict[str, list[float]]  # n_max -> share accepted by draft position
    tps_off: float
    tps_on: dict[str, float]  # n_max -> tokens per second
    reasons: tuple[str, ...]  # of the verdict


@dataclass(frozen=True)
class DemoResult(Documented):
    """Everything the demo showed."""

    engine: str
    refusal: str  # the engine's message when asked to draft with only the trunk
    rows: tuple[DemoLayout, ...]

    @property
    def passed(self) -> bool:
        """Whether all layouts passed and the engine refused to draft with only the trunk."""
        return bool(self.refusal) and all(row.verdict == "passed" for row in self.rows)

    @property
    def failed(self) -> bool:
        """Whether a layout failed, or the engine did not refuse the bare trunk; if neither, some verdicts are open."""
        return not self.refusal or any(row.verdict == "failed" for row in self.rows)

    @property
    def document(self) -> DemoDocument:
        """What --json prints."""
        return filled(DemoDocument, self)



def demo(out: str | Path | None = None, *, engine: EngineChoice = None, say: Say | None = None) -> DemoResult:
    """Show that an engine refuses to draft with only a trunk, then attach in all three layouts and verify each.

    Files go into the folder `out`, which must be empty or new; without it, into a temporary folder. `engine`: as in
    `nextn.verify`. Raises EngineMissing, EngineFailed if the engine fails before anything is attached, and what
    attach and verify raise.
    """
    from ..engines import find_engine

    with scratch_folder("demo") as scratch:
        return _run(scratch if out is None else Path(out), find_engine(engine), heard(say))


def _run(folder: Path, engine: Engine, say: Say) -> DemoResult:
    from .verify import verify

    folder.mkdir(parents=True, exist_ok=True)
    trunk = folder / TRUNK.name
    with contextlib.suppress(FileExistsError):
        trunk.symlink_to(TRUNK)
    say("asking the engine to draft with only the trunk")
    refusal = ask_trunk_alone(engine, trunk)
    rows = []
    for layout in LAYOUTS:
        say(f"{layout}: attaching")
        started = time.perf_counter()
        made = attach(trunk, CHECKPOINT, layout=layout, out=folder / layout, remember=False)
        wall_s = time.perf_counter() - started
        verdict = verify(
            made.entry,
            sidecar=made.sidecar,
            trunk=trunk,
            engine=engine,
            prompts=PROMPTS,
            n_predict=N_PREDICT,
            threads=N_THREADS,
            say=lambda text, layout=layout: say(f"{layout}: {text}"),  # type: ignore[misc]
        )
        seen = verdict.engine
        rows.append(
            DemoLayout(
                layout,
                made.bytes_written,
                wall_s,
                verdict.verdict,
                None if seen is None else seen.same_text,
                {} if seen is None else by_text(seen.acceptance),
                (seen.tps_off if seen is not None else None) or 0.0,
                {} if seen is None else by_text(seen.tps_on),
                verdict.reasons,
            )
        )
    return DemoResult(f"{engine.name} {engine.version}", refusal, tuple(rows))


def ask_trunk_alone(engine: Engine, trunk: Path) -> str:
    """The line with which the engine refuses to draft with a trunk-only model; empty if it does not refuse.

    Raises EngineFailed if the engine dies: that is not a refusal.
    """
    from ..engines.base import Launch

    try:
        with engine.start(Launch(model=trunk, n_max=1, threads=N_THREADS)) as running:
            running.complete("def", 4)
    except EngineFailed:
        raise
    except EngineRefused as error:
        return error.line
    return ""
