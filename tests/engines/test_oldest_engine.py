"""Every family on the oldest monthly build that drafts with it, by the measured table: loads, drafts, same text.

The builds are wheels, installed into throw-away environments once a session.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
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
    folder = Path(os.environ[KEEP]) if KEEP in os.environ else tmp_path_factory.mktemp("engines")
    made: dict[str, Xllamacpp] = {}

    def make(name: str) -> Xllamacpp:
        if name not in made:
            wheel = name.replace(" ", "==")
            try:
                python = compat.environment(folder, wheel)
            except subprocess.CalledProcessError:
                need(f"the wheel {wheel}", there=False)
            made[name] = Xllamacpp.of_environment(python)
        return made[name]

    return make


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
    family: Callable[[str], Path],
    checkpoints: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    trunk, donor = _parts(model, family, checkpoints)
    made = nextn.attach(trunk, donor, layout=layout, out=tmp_path)
    engine = build(name)
    alone = compat.ask(engine, trunk, None, 0)[4]
    result, says, drafted, _, tokens = compat.ask(engine, made.entry, made.sidecar, 1)
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


