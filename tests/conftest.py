"""Shared fixtures: shipped data, random checkpoints, attached models, engines."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hub_server import HubServer

import nextn
from nextn.engines import IkServer
from nextn.engines.ik import IK_PATH_VARIABLE
from nextn.gguf.files import Model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.path.insert(0, str(ROOT / "benchmarks"))

# A shell starts what runs behind it with SIGINT ignored, children would inherit that, and tests interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = ROOT / "tests" / "data"
TRUNKS = DATA / "trunks"
DEMO = ROOT / "src" / "nextn" / "demo_data"
CHECKPOINT = DEMO / "tiny-qwen35-mtp"
Q4 = DEMO / "tiny-qwen35-Q4_K_M.gguf"


# What tests keep for a user goes into a folder of each test's own, and of the session's for fixtures that outlive one.
os.environ["NEXTN_DATA"] = tempfile.mkdtemp(prefix="nextn-test-data-")
atexit.register(shutil.rmtree, os.environ["NEXTN_DATA"], ignore_errors=True)


@pytest.fixture(autouse=True)
def own_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sidecars that are noted down by one test are not found by another."""
    monkeypatch.setenv("NEXTN_DATA", str(tmp_path_factory.mktemp("data")))


def mounted(disk: Path | None) -> Path:
    """A small disk of a test's own: only root may mount one, and CI is root."""
    need("a tmpfs, which root alone may mount,", disk is not None)
    assert disk is not None
    return disk


def need(what: str, there: bool) -> None:
    """A missing engine is a visible skip here and a failure in CI."""
    if there:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """An empty server that speaks the Hub's HTTP."""
    with HubServer() as server:
        yield server


@pytest.fixture
def run_nextn(hub: HubServer, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_nextn("inspect", path, NAME="value")`: the command line against `hub`, caches of its own."""

    def call(*args: object, **more: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NEXTN_"))}
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        env |= {"NEXTN_CACHE": str(tmp_path / "own"), "NEXTN_DATA": os.environ["NEXTN_DATA"]}
        command = [sys.executable, "-m", "nextn", *map(str, args)]
        return subprocess.run(command, env=env | more, capture_output=True, text=True, check=False, timeout=60)

    return call


@pytest.fixture(scope="session")
def ik() -> IkServer:
    """A current server of ik_llama.cpp. There is no wheel of one, so CI may go without it, too."""
    if not os.environ.get(IK_PATH_VARIABLE):
        pytest.skip(f"{IK_PATH_VARIABLE} names no llama-server of ik_llama.cpp")
    return IkServer.find()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoints("qwen35moe-fused-bf16")` makes that random checkpoint once; the trained one is shipped."""
    from make_tiny_checkpoints import make_checkpoint

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name == CHECKPOINT.name:
            return CHECKPOINT
        if name not in made:
            kind, _, dtype = name.rpartition("-")
            made[name] = tmp_path_factory.mktemp("checkpoints") / name
            make_checkpoint(kind, made[name], dtype)
        return made[name]

    return make


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`family("glm4moe")` makes that random checkpoint once."""
    from tiny_families import make_family

    folder = tmp_path_factory.mktemp("families")
    return cache(lambda kind: make_family(kind, folder / kind))


def stored(model: Model, name: str) -> bytes:
    """A tensor's bytes as the file has them."""
    file, info = model.tensors[name]
    start, end = file.tensor_range(info)
    with file.path.open("rb") as data:
        data.seek(start)
        return data.read(end - start)


@dataclass(frozen=True)
class TinyModels:
    """The trained tiny model in the shapes that engines meet."""

    trunk: Path
    bundled: Path
    sidecar: Path
    shards: Path  # first shard of a set whose last shard is the block


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Attached once from the shipped parts, in all layouts."""
    folder = tmp_path_factory.mktemp("tiny models")
    trunk = folder / "tiny-qwen35-Q8_0.gguf"
    trunk.symlink_to(TRUNKS / "tiny-qwen35-Q8_0.gguf")
    made = {
        layout: nextn.attach(trunk, CHECKPOINT, layout=layout, out=folder / layout)
        for layout in ("bundle", "sidecar", "shards")
    }
    sidecar = made["sidecar"].sidecar
    assert sidecar is not None
    return TinyModels(trunk, made["bundle"].entry, sidecar, made["shards"].entry)
