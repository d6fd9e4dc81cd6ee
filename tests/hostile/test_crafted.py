"""Crafted files: whatever a header or a config says, every verb answers or says one sentence; nothing is a bug."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import all_verbs
import mutants
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutants import Parts

import nextn
from conftest import CHECKPOINT, DATA, DEMO, Q4, TRUNKS
from make_tiny_checkpoints import make_checkpoint
from nextn.engines import LlamaServer
from nextn.errors import EXIT_BUG, EXIT_CODES, NextnError
from nextn.gguf.files import open_model

CORPUS = DATA / "fuzz_corpus"
PROMISED = set(EXIT_CODES) - {EXIT_BUG}


@dataclass(frozen=True)
class Patient:
    """A model to spoil, and what verbs need beside it."""

    arch: str
    path: Path
    donor: Path
    trunk: Path

    @property
    def parts(self) -> Parts:
        return Parts.of(self.path)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory, family: Callable[[str], Path]) -> list[Patient]:
    """A trunk, a bundled model, a sidecar and a donor file each of two families."""
    folder = tmp_path_factory.mktemp("whole")
    make_checkpoint("qwen35-dense", folder / "qwen", "f32")
    out = []
    sources = (
        ("qwen35", TRUNKS / "qwen35-dense-F32.gguf", folder / "qwen"),
        ("mimo2", TRUNKS / "families" / "mimo2-Q8_0.gguf", family("mimo2")),
    )
    for arch, trunk, donor in sources:
        bundle = nextn.attach(trunk, donor, layout="bundle", out=folder / arch / "bundle").entry
        sidecar = nextn.attach(trunk, donor, layout="sidecar", out=folder / arch / "sidecar").sidecar
        block = nextn.extract(donor, block_only=True, out=folder / arch / "block.gguf").entry
        assert sidecar is not None
        out += [Patient(arch, path, donor, trunk) for path in (trunk, bundle, sidecar, block)]
    return out


@pytest.fixture(autouse=True)
def by_itself(monkeypatch: pytest.MonkeyPatch, standin: LlamaServer) -> None:
    """No server is asked and no engine is looked for; what is no NextnError comes out as it is."""
    monkeypatch.setenv("NEXTN_TRACEBACK", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # which it reads when it is imported
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: all_verbs.engine_or_none(name, standin))


def check(call: Sequence[object], said: str) -> all_verbs.Ran:
    """Run it; it ends in a documented way, and what it prints moves no cursor."""
    ran = all_verbs.run(*call)
    assert not ran.bug, f"{said}: {' '.join(ran.argv)}\n{ran.bug}"
    assert ran.code in PROMISED, f"{said}: {' '.join(ran.argv)}: {ran.code}"
    assert not ran.raw_control, f"{said}: {' '.join(ran.argv)}: {ran.raw_control}"
    if ran.code not in (0, 3, 4, 5) and "--json" not in ran.argv:
        assert [line for line in ran.err.splitlines() if line.startswith("nextn: ")], f"{said}: {ran.err}"
    return ran


def spoil(patient: Patient, data: bytes, folder: Path, said: str, keep: Callable[[int], bool], real: bool) -> int:
    """Every verb (or those that `keep` chooses by number) on a spoilt copy. Returns how many were run."""
    place = all_verbs.emptied(folder)
    path = place / patient.path.name
    path.write_bytes(data)
    calls = list(all_verbs.on_model(path, patient.donor, patient.trunk, place / "out", real=real))
    chosen = [call for number, call in enumerate(calls) if keep(number)]
    for call in chosen:
        check(call, said)
    assert path.read_bytes() == data  # an input is never changed
    return len(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_each_known_key_of_every_type(number: int, patients: list[Patient], tmp_path: Path) -> None:
    """Each key that nextn reads as one value of every type: a share of it here, all of it in `make fuzz`."""
    dice = random.Random(number)
    patient = patients[number]
    every = list(mutants.key_mutants(patient.parts, patient.arch, mutants.one_of_each_type()))
    assert len(every) > 500
    for said, parts in dice.sample(every, 24):
        assert spoil(patient, parts.encode(), tmp_path / "in", said, lambda n: dice.random() < 0.3, dice.random() < 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_each_tensor_with_any_axes(number: int, patients: list[Patient], tmp_path: Path) -> None:
    dice = random.Random(100 + number)
    patient = patients[number]
    every = list(mutants.tensor_mutants(patient.parts))
    for said, parts in dice.sample(every, 24):
        assert spoil(patient, parts.encode(), tmp_path / "in", said, lambda n: dice.random() < 0.3, dice.random() < 0.2)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(dice=st.randoms(use_true_random=False), number=st.integers(0, 7))
def test_several_things_at_once(
    dice: random.Random, number: int, patients: list[Patient], tmp_path_factory: pytest.TempPathFactory
) -> None:
    patient = patients[number]
    said, data = mutants.random_mutant(patient.parts, patient.arch, dice)
    folder = tmp_path_factory.getbasetemp() / "several"
    spoil(patient, data, folder, said, lambda n: dice.random() < 0.2, real=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_each_value_of_a_config(name: str, patients: list[Patient], tmp_path: Path) -> None:
    """Each value of a checkpoint's JSON as each JSON type: a share of it here, all of it in `make fuzz`."""
    dice = random.Random(name)
    for patient in (patients[0], patients[4]):
        source = patient.donor if (patient.donor / name).exists() else CHECKPOINT
        every = list(mutants.config_mutants((source / name).read_text("utf-8")))
        for said, make in dice.sample(every, min(len(every), 20)):
            place = all_verbs.emptied(tmp_path / "in")
            shutil.copytree(source, place / "ck", copy_function=os.link)
            (place / "ck" / name).unlink()
            (place / "ck" / name).write_text(make(), "utf-8", "surrogatepass")
            for call in all_verbs.on_checkpoint(place / "ck", patient.trunk, place / "out"):
                if dice.random() < 0.4:
                    check(call, f"{name} {said}")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.gguf")), ids=lambda path: path.stem)
def test_what_was_found_once(path: Path, tmp_path: Path) -> None:
    """Every verb on every file that once ended in a bug, with a trunk of its own family where there is one."""
    data, trunk = path.read_bytes(), Q4
    with contextlib.suppress(NextnError):
        own = TRUNKS / "families" / f"{open_model(path).architecture}-Q8_0.gguf"
        trunk = own if own.exists() else Q4
    spoil(Patient("", path, CHECKPOINT, trunk), data, tmp_path / "in", path.name, lambda n: True, real=False)


def test_values_of_an_unknown_type_are_not_read(tmp_path: Path, family: Callable[[str], Path]) -> None:
    """Joining q, k and v needs the values of a bias whose type's number means nothing."""
    trunk, donor = TRUNKS / "families" / "glm4moe-Q8_0.gguf", tmp_path / "donor.gguf"
    whole = Parts.of(nextn.attach(trunk, family("glm4moe"), layout="bundle", out=tmp_path / "whole").entry)
    number = next(at for at, tensor in enumerate(whole.tensors) if tensor.name == b"blk.2.attn_v.bias")
    donor.write_bytes(whole.with_tensor(number, type_id=4).encode())
    ran = check(["attach", trunk, "--from", donor, "--qkv", "fused", "-o", tmp_path / "out"], "")
    assert "the type 4 of 'blk.2.attn_v.bias' is not known" in ran.err and not list(tmp_path.glob("out/*"))


def test_a_last_tensor_of_unknown_size_comes_back(tmp_path: Path, family: Callable[[str], Path]) -> None:
    """It reaches to the end of its file, or else to the next tensor: the padding in front of a block is not its own."""
    trunk, path = Parts.of(TRUNKS / "families" / "nemotronh-Q8_0.gguf"), tmp_path / "m.gguf"
    number = next(at for at, tensor in enumerate(trunk.tensors) if tensor.name == b"output.weight")
    path.write_bytes(trunk.with_tensor(number, ne=(2, 2, 2)).encode() + bytes(116_558))
    before = path.read_bytes()
    assert not check(["attach", path, "--from", family("nemotronh"), "--layout", "in-place", "--yes"], "").code
    assert path.read_bytes() != before
    assert not check(["detach", path, "--in-place", "--yes"], "").code
    assert path.read_bytes() == before


def test_the_only_shard_of_a_set_is_gone(tmp_path: Path) -> None:
    ran = check(["assemble", tmp_path / "donor-00001-of-00001.gguf", "-o", tmp_path / "out.gguf"], "")
    assert ran.code and "donor-00001-of-00001.gguf" in ran.err and not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_configs_that_were_found_once(path: Path, tmp_path: Path, family: Callable[[str], Path]) -> None:
    """`[family, file, content]`: a checkpoint of the family with one file replaced."""
    kind, name, content = json.loads(path.read_text("utf-8"))
    source, trunk = family(kind), TRUNKS / "families" / f"{kind}-Q8_0.gguf"
    shutil.copytree(source, tmp_path / "ck", copy_function=os.link)
    (tmp_path / "ck" / name).unlink()
    (tmp_path / "ck" / name).write_text(content, "utf-8", "surrogatepass")
    for call in all_verbs.on_checkpoint(tmp_path / "ck", trunk, tmp_path / "out"):
        check(call, path.name)


def test_wrong_keys_are_findings_of_both_verbs(tmp_path: Path) -> None:
    """The same finding for inspect and doctor, exit code 5; what would write or serve refuses with one sentence."""
    parts = Parts.of(Q4).put("qwen35.block_count", "str", "4").put("general.base_model.0.repo_url", "u32", 1)
    path = tmp_path / "sick-Q4_K_M.gguf"
    path.write_bytes(parts.encode())
    found = nextn.doctor(path).before.findings
    wrong = {finding.where: finding.severity for finding in found if finding.id == "wrong-key-type"}
    assert wrong == {"qwen35.block_count": "error", "general.base_model.0.repo_url": "warning"}
    assert [each.entry for each in nextn.inspect(path).findings] == [each.entry for each in found]
    assert check(["inspect", path], "").code == check(["doctor", path], "").code == 5
    for call in (["attach", path, "--from", CHECKPOINT], ["plan", path, "--header-only"], ["serve", path, "--print"]):
        ran = check(call, "")
        assert ran.code == 10
        assert "'qwen35.block_count' is a string of 1 bytes, but must be a whole number" in ran.err


def test_names_full_of_control_characters(tmp_path: Path) -> None:
    """A file's name, its metadata, its tensors: nothing of it reaches a terminal raw, whatever the verb."""
    parts = Parts.of(Q4)
    for key in ("general.name", "general.basename", "tokenizer.chat_template", "nextn.donor", "general.repo_url"):
        parts = parts.put(key, "str", mutants.UGLY)
    folder = tmp_path / "a\x1b]0;T\x07\u202eb\nc"
    folder.mkdir()
    for number, ugly in enumerate((parts, parts.with_tensor(3, name=b"blk.0." + mutants.UGLY.encode() + b".weight"))):
        path = folder / f"m\x1b[31m\u200b\n{number}-Q4_K_M.gguf"
        path.write_bytes(ugly.encode())
        for call in all_verbs.on_model(path, CHECKPOINT, Q4, folder / "out", real=False):
            check(call, "ugly")
        ran = check(["inspect", path, "--json"], "ugly")
        assert json.loads(ran.out)["path"] == str(path)  # JSON keeps it, escaped
    (folder / "plain-Q4_K_M.gguf").write_bytes(parts.encode())
    written = nextn.pack([folder / "plain-Q4_K_M.gguf"], donor=DEMO / "tiny-qwen35-mtp", out=folder / "packed")
    card = (folder / "packed" / "README.md").read_text("utf-8")
    assert written.package.plan.folder == folder / "packed"
    assert not {char for char in card if all_verbs.is_raw(char)}
