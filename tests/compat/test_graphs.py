"""The engine's graphs: what the probe finds is what the product states, and what doctor advises does not kill it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

import graphs as probe
from conftest import ROOT, need
from nextn.archs import FAMILIES
from nextn.archs.others import LOADS_ONLY, NONE_PUBLISHED, NOT_RELEASED, other_drafts
from nextn.compat.graphs import graphs

ADVICE = "--spec-type draft-eagle3"


def stated() -> dict[str, Any]:
    found = json.loads(probe.FACTS.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def run(*names: str) -> subprocess.CompletedProcess[str]:
    """The probe as a command: engines run in no process of the tests'."""
    command = [sys.executable, os.fspath(ROOT / "benchmarks" / "graphs.py"), *names]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.engine
def test_every_no_is_judged_again_on_the_engine() -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    done = run()
    assert done.returncode == 0, done.stdout
    assert f"xllamacpp {version('xllamacpp')} does what nextn states" in done.stdout


@pytest.mark.engine
@pytest.mark.parametrize(
    ("arch", "has", "words"),
    [
        ("llama", True, ""),
        ("qwen3", True, ""),
        ("deepseek2", False, "layer input tensor is null"),
        ("gemma3", False, "layer input tensor is null"),
        ("qwen4exp", False, "row_floats == model.hparams.n_embd"),
        ("gptj", None, "unsupported model architecture"),
    ],
)
def test_a_draft_of_another_kind_lives_or_dies(arch: str, has: bool | None, words: str) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    found = json.loads(run(arch).stdout)
    where = {True: "taps", False: "no_taps", None: "not_judged"}[has]
    assert [arch in found[key] for key in ("taps", "no_taps", "not_judged")].count(True) == 1
    assert arch in found[where] and (not words or words in found[where][arch])


def test_a_difference_is_told_in_either_direction() -> None:
    now = stated()
    assert probe.differences(now, now) == []
    more = {**now, "taps": [*now["taps"], "gemma3"], "mtp_graphs": now["mtp_graphs"][1:]}
    told = probe.differences(more, now)
    assert len(told) == 2 and "taps for gemma3" in told[1] and "had an MTP graph for bailingmoe3" in told[0]
    assert probe.unstated(now) == []
    new = probe.unstated({**now, "mtp_graphs": [*now["mtp_graphs"][1:], "mellum"]})
    assert len(new) == 2 and "mellum" in new[0] and "bailingmoe3 is a family" in new[1]


def test_all_that_can_be_a_target_was_judged() -> None:
    """What was not is no language model of its own, or one that nobody publishes blocks for."""
    known = stated()
    judged = {*known["taps"], *known["no_taps"]}
    assert judged | set(known["not_judged"]) == set(known["architectures"])
    drafting = {arch for arch, family in FAMILIES.items() if family.llama_cpp.drafts}
    wanted = (drafting | set(NONE_PUBLISHED) | set(LOADS_ONLY)) & set(known["architectures"])
    assert wanted - judged <= {"rwkv6", "rwkv7"}
    assert len(judged) >= 125 and len(known["taps"]) >= 20


def test_the_advice_stands_only_where_the_engine_lives_through_it() -> None:
    known = graphs()
    for arch in {*NONE_PUBLISHED, *NOT_RELEASED, *stated()["architectures"], "unheard-of"}:
        said = other_drafts(arch)
        assert (ADVICE in said) == ("nextn train" in said) == (arch in known.taps), arch
        if arch in known.no_taps:
            assert "aborts" in said and known.build in said and f"'{arch}'" in said
        elif arch not in known.taps:
            assert "not measured" in said and known.build in said
    assert known.build == "b11549" and ADVICE in other_drafts("llama") and ADVICE not in other_drafts("deepseek2")


def test_what_only_loads_has_no_graph() -> None:
    spelled = {name.replace("_", "") for name in graphs().mtp}
    assert not spelled & {arch.replace("-", "").replace("_", "") for arch in (*LOADS_ONLY, *NOT_RELEASED)}
