"""Files for one engine or for both: what each takes, and the reason where there is no such file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from families import trunk_of
from ggufmaker import IQ4_KS, arch_kvs, make, root_tensors, trunk_tensors
from splitting import split_gguf

import nextn
from compat import one_answer
from conftest import CHECKPOINT, Q4, TRUNKS, need
from nextn.archs import FAMILIES
from nextn.engines import IkServer, Launch, find_engine
from nextn.errors import EngineRefused, QuantizeError, UnsupportedModel, UsageError
from nextn.gguf.files import open_model

HEAD = "blk.4.nextn.shared_head_head.weight"
ON_IK = sorted(arch for arch, family in FAMILIES.items() if family.ik.drafts)


@pytest.mark.parametrize("for_engine", ["ik", "both"])
def test_a_block_goes_where_ik_finds_it(for_engine: str, tmp_path: Path) -> None:
    made = nextn.attach(Q4, CHECKPOINT, for_engine=for_engine, out=tmp_path)
    assert made.plan.layout == "bundle" and made.sidecar is None  # a single file gets a sidecar otherwise
    assert any("refuses a sidecar of 'qwen35' up to 8337e4cd" in note for note in made.plan.notes)
    with pytest.raises(UnsupportedModel, match="refuses a sidecar of"):
        nextn.attach(Q4, CHECKPOINT, for_engine=for_engine, layout="sidecar", out=tmp_path / "x")
    shards = split_gguf(Q4, tmp_path / "set", 3, tensors_first=False)
    assert nextn.attach(shards[0], CHECKPOINT, for_engine=for_engine, out=tmp_path / "y").plan.layout == "shards"


def test_the_head_has_the_name_that_the_engine_knows(tmp_path: Path) -> None:
    for layout in ("bundle", "shards"):
        trunk = Q4 if layout == "bundle" else split_gguf(Q4, tmp_path / "set", 3, tensors_first=False)[0]
        made = nextn.attach(trunk, CHECKPOINT, for_engine="ik", draft_head="q4_0", layout=layout, out=tmp_path / layout)
        tensors = open_model(made.entry).tensors
        assert tensors["output_extra.weight"][1].type_name == "q4_0" and HEAD not in tensors
        assert tensors["output_extra.weight"][1].ne == tensors["token_embd.weight"][1].ne
        plain = nextn.detach(made.entry, out=tmp_path / f"{layout} plain", for_engine="both")
        assert sorted(open_model(plain.entry).tensors) == sorted(open_model(trunk).tensors)
    other = nextn.attach(Q4, CHECKPOINT, for_engine="llama.cpp", draft_head="q4_0", layout="bundle", out=tmp_path / "l")
    assert HEAD in open_model(other.entry).tensors
    with pytest.raises(UnsupportedModel, match="no draft head is accepted by both"):
        nextn.attach(Q4, CHECKPOINT, for_engine="both", draft_head="q4_0", out=tmp_path / "b")
    again = nextn.attach(Q4, other.entry, for_engine="ik", out=tmp_path / "again")  # a donor that has the other's head
    assert HEAD not in open_model(again.entry).tensors and any("left out" in note for note in again.plan.notes)


def test_there_is_no_file_for_an_engine_that_does_not_draft(family: Callable[[str], Path], tmp_path: Path) -> None:
    for kind in ("deepseek3", "mimo2", "hyv3"):
        with pytest.raises(UnsupportedModel, match=r"ik_llama.cpp drafts with no file that has the block of"):
            nextn.attach(trunk_of(kind), family(kind), for_engine="ik", out=tmp_path)
        nextn.attach(trunk_of(kind), family(kind), for_engine="llama.cpp", out=tmp_path / kind)
    step = nextn.attach(trunk_of("step35"), family("step35"), for_engine="both", out=tmp_path / "step")
    assert step.sidecar is not None  # ik takes that one
    with pytest.raises(UsageError, match="'vllm' is not an engine"):
        nextn.attach(Q4, CHECKPOINT, for_engine="vllm", out=tmp_path)


def test_types_that_an_engine_lacks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ik-IQ4_KS.gguf"
    row = ("blk.0.ffn_up.weight", (256, 4), IQ4_KS, bytes(4 * (4 + 136)))
    path.write_bytes(make(arch_kvs(2), [*root_tensors(), *trunk_tensors(2), row]).whole)
    from nextn.layouts.for_engine import check_block, check_trunk

    model = open_model(path)
    for asked in ("llama.cpp", "both"):
        with pytest.raises(QuantizeError, match=r"iq4_ks, which llama\.cpp cannot read"):
            check_trunk(asked, model.items())
    check_trunk("ik", model.items())
    check_trunk(None, model.items())
    from nextn.gguf.types import parse_type_name

    with pytest.raises(QuantizeError, match=r"tq1_0, which ik_llama\.cpp cannot read"):
        nextn.attach(Q4, CHECKPOINT, for_engine="both", type="tq1_0", out=tmp_path / "t")
    check_trunk("both", open_model(Q4).items())
    with pytest.raises(QuantizeError, match=r"nvfp4, which ik_llama\.cpp cannot read"):
        check_block("both", [parse_type_name("nvfp4")])


def test_extract_knows_who_takes_a_sidecar(family: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="refuses a sidecar of 'qwen35' up to 8337e4cd"):
        nextn.extract(CHECKPOINT, for_engine="both", out=tmp_path)
    assert nextn.extract(CHECKPOINT, for_engine="ik", block_only=True, out=tmp_path).entry.exists()
    bundled = nextn.attach(trunk_of("step35"), family("step35"), layout="bundle", out=tmp_path / "step")
    assert nextn.extract(bundled.entry, for_engine="both", out=tmp_path / "side").entry.exists()


@pytest.mark.engine
def test_a_file_for_both_drafts_on_llama_cpp(tmp_path: Path) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    made = nextn.attach(Q4, CHECKPOINT, for_engine="both", out=tmp_path)
    verdict = nextn.verify(made.entry, prompts=["def read(self):\n"], n_predict=24, threads=1)
    assert verdict.verdict != "failed" and verdict.to_json()["n_drafted"] > 0
    head = nextn.attach(Q4, CHECKPOINT, for_engine="ik", draft_head="q4_0", out=tmp_path / "ik")
    with pytest.raises(EngineRefused, match="wrong number of tensors"):
        find_engine(None).start(Launch(head.entry, threads=1, n_ctx=256))


@pytest.mark.engine
@pytest.mark.parametrize("head", [None, "q4_0"])
def test_ik_drafts_with_what_is_made_for_it(ik: IkServer, head: str | None, tmp_path: Path) -> None:
    made = nextn.attach(Q4, CHECKPOINT, for_engine="ik" if head else "both", draft_head=head, out=tmp_path)
    with ik.start(Launch(made.entry, n_max=2, threads=1)) as running:
        answer = running.complete("def read(self):\n", 32)
    assert answer.draft_n > 0 and answer.draft_n_accepted > 0


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["glm4moe", "step35"])  # of glm-dsa it takes the published sizes only
def test_ik_drafts_with_every_family_that_is_said_to(
    ik: IkServer, kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    made = nextn.attach(trunk_of(kind), family(kind), for_engine="ik", layout="bundle", out=tmp_path)
    with ik.start(Launch(made.entry, n_max=1, threads=1)) as running:
        answer, _ = one_answer(running, drafting=True)
    assert answer.draft_n > 0


def test_families_that_draft_on_ik_are_named() -> None:
    assert ON_IK == ["glm-dsa", "glm4moe", "openpangu", "qwen35", "qwen35moe", "step35"]
    assert (TRUNKS / "families").exists()
