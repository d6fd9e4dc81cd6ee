"""Every family on the oldest monthly build that drafts with it, by the measured table: loads, drafts, same text.

The builds are wheels, installed into throw-away environments once a session, for all its processes.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from families import trunk_of

import compat
import nextn
from conftest import CHECKPOINT, need
from nextn.compat import table
from nextn.engines import Xllamacpp

KEEP = "NEXTN_TEST_ENGINES"  # a folder to keep the environments in, between sessions
LAYOUTS = ("bundle", "sidecar")
NEWEST = table().builds("llama.cpp")[-1].name


def oldest() -> list[tuple[str, str, str]]:
    """(model, layout, build) for every family; those that nothing drafts with are left out."""
    known = table()
    models = {run.model: run.arch for run in known.runs}
    found = []
    for model, arch in models.items():
        for layout in LAYOUTS:
            build = known.oldest_that_drafts(arch, layout)
            if build is not None:
                found.append((model, layout, build.name))
    return found


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Xllamacpp]:
    """The engine of a build by its name in the table."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # of all workers
    folder = Path(os.environ.get(KEEP) or shared / "engines")
    folder.mkdir(parents=True, exist_ok=True)

    @cache
    def make(name: str) -> Xllamacpp:
        if name == NEWEST:
            return Xllamacpp.find()
        wheel = name.replace(" ", "==")
        with (folder / f"{wheel}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                python = compat.environment(folder, wheel)
            except subprocess.CalledProcessError:
                need(f"the wheel {wheel}", there=False)
        return Xllamacpp.of_environment(python)

    return make


@pytest.fixture(scope="session")
def text_alone(build: Callable[[str], Xllamacpp]) -> Callable[[str, Path], list[int]]:
    """What a build writes without a block; once for both layouts."""
    return cache(lambda name, trunk: compat.ask(build(name), trunk, None, 0)[4])


@pytest.mark.engine
def test_the_newest_build_of_the_table_is_the_one_that_is_installed(xllamacpp_engine: Xllamacpp) -> None:
    assert f"xllamacpp {xllamacpp_engine.version}" == NEWEST


def test_the_table_names_an_oldest_build_for_every_family_that_drafts() -> None:
    assert {model for model, _, _ in oldest()} >= {"qwen35", "qwen35moe", "glm4moe", "deepseek3", "mimo2", "step35"}
    assert any(name != NEWEST for _, _, name in oldest())


@pytest.mark.engine
@pytest.mark.parametrize(("model", "layout", "name"), oldest())
def test_it_drafts_and_keeps_the_text(
    model: str,
    layout: str,
    name: str,
    build: Callable[[str], Xllamacpp],
    text_alone: Callable[[str, Path], list[int]],
    family: Callable[[str], Path],
    checkpoints: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    trunk, donor = _parts(model, family, checkpoints)
    made = nextn.attach(trunk, donor, layout=layout, out=tmp_path)
    alone = text_alone(name, trunk)
    result, says, drafted, _, tokens = compat.ask(build(name), made.entry, made.sidecar, 1)
    assert (result, drafted > 0) == ("drafts", True), says
    said = table().of(_arch(model), layout, name)
    assert said is not None
    if said.same_text is not False and alone and tokens:  # random models have near ties: the table says where
        assert tokens == alone


def _arch(model: str) -> str:
    return next(run.arch for run in table().runs if run.model == model)


def _parts(
    model: str, family: Callable[[str], Path], checkpoints: Callable[[str], Path]
) -> tuple[Path, Path]:
    """Trunk and donor, as the table's script takes them."""
    from conftest import TRUNKS
    from make_tiny_checkpoints import KINDS

    if model == "qwen35":
        return TRUNKS / "tiny-qwen35-Q8_0.gguf", CHECKPOINT
    if model in ("qwen35moe", "qwen3next"):
        kind = next(kind for kind in KINDS if kind.startswith(model))
        return TRUNKS / f"{model}-BF16.gguf", checkpoints(f"{kind}-bf16")
    if model == "deepseek4":
        from tiny_deepseek4 import with_compression

        folder = family("deepseek4-plain")
        return with_compression(trunk_of(model), folder.parent / "deepseek4-Q8_0.gguf"), folder
    wide = f"{model}-wide"
    return (trunk_of(wide), family(wide)) if trunk_of(wide).exists() else (trunk_of(model), family(model))


