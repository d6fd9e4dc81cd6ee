"""Packing models that carry their block: the trunk stands once, and nothing of it changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from faults import Faults
from schema_check import validate
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS
from nextn.errors import NextnError, UsageError
from nextn.gguf.files import open_model
from nextn.layouts.options import PackOptions
from nextn.layouts.pack import plan_pack
from nextn.publish.packing import pack_up, plan_package

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "pack.json").read_text())
Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"
EXTRA = {"README.md", "SHA256SUMS", "nextn.json"}


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two quants with the block inside."""
    folder = tmp_path_factory.mktemp("bundles")
    return [nextn.attach(path, CHECKPOINT, layout="bundle", out=folder).entry for path in (Q4, Q8)]


def tensors(path: Path) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    """Everything that a model holds."""
    return {
        info.name: (info.ne, info.type_id, file.path.read_bytes()[slice(*file.tensor_range(info))])
        for file, info in open_model(path).items()
    }


def test_bundled_quants_become_trunks_and_one_sidecar(bundles: list[Path], tmp_path: Path) -> None:
    before = [sha(path) for path in bundles]
    result = nextn.pack(bundles, out=tmp_path / "out")
    assert names(result.folder) - EXTRA == {
        "tiny-qwen35-Q4_K_M.gguf", "tiny-qwen35-Q8_0.gguf", "mtp-tiny-qwen35-Q8_0.gguf"
    }  # fmt: skip
    for trunk in (Q4, Q8):
        assert sha(result.folder / trunk.name) == sha(trunk)  # as before the attach, to the byte
    block = tensors(bundles[1])
    sidecar = tensors(result.folder / "mtp-tiny-qwen35-Q8_0.gguf")
    own = [name for name in block if name.startswith("blk.4.")]
    assert own and all(sidecar[name] == block[name] for name in own)
    assert [sha(path) for path in bundles] == before
    validate(result.to_json(), SCHEMA)
    assert result.to_json()["why"] is None and result.bytes_downloaded == 0


def test_a_set_whose_last_shard_holds_both_is_taken_apart(bundles: list[Path], tmp_path: Path) -> None:
    some = split_gguf(bundles[0], tmp_path / "set", 3, tensors_first=False)
    mixed = {info.name for info in open_model(some[0]).files[-1].header.tensors}
    assert any(name.startswith("blk.4.") for name in mixed) and any(not name.startswith("blk.4.") for name in mixed)
    before = [sha(path) for path in some]
    result = nextn.pack([some[0]], out=tmp_path / "out")
    plain = [f"tiny-qwen35-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    mtp = [f"tiny-qwen35-MTP-Q4_K_M-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)]
    assert names(result.folder) - EXTRA == {*plain, *mtp}
    for one, other in zip(plain[1:], mtp[1:], strict=False):
        assert (result.folder / one).samefile(result.folder / other) and result.sha256[one] == result.sha256[other]
    assert tensors(result.folder / plain[0]) == tensors(Q4)
    assert tensors(result.folder / mtp[0]) == tensors(bundles[0])
    assert nextn.inspect(result.folder / plain[0]).shape == "trunk-only"
    assert nextn.inspect(result.folder / mtp[0]).shape == "bundled"
    assert [sha(path) for path in some] == before
    for name, digest in result.sha256.items():
        assert sha(result.folder / name) == digest
    subprocess.run(["sha256sum", "-c", "--status", "SHA256SUMS"], cwd=result.folder, check=True)
    dry = nextn.pack([some[0]], out=tmp_path / "dry", dry_run=True)
    keys = ("bytes_read", "bytes_hashed", "bytes_written", "bytes_linked")
    assert {key: dry.to_json()[key] for key in keys} == {key: result.to_json()[key] for key in keys}


def test_a_set_made_by_attach_keeps_its_trunks_shards(tmp_path: Path) -> None:
    shards = split_gguf(Q4, tmp_path / "set", 3, tensors_first=False)
    bundled = nextn.attach(shards[0], CHECKPOINT, out=tmp_path / "with").entry
    result = nextn.pack([bundled], out=tmp_path / "out")
    for i in (2, 3):
        made = result.folder / f"tiny-qwen35-Q4_K_M-0000{i}-of-00003.gguf"
        assert made.samefile(tmp_path / "with" / f"tiny-qwen35-MTP-Q4_K_M-0000{i}-of-00004.gguf")
    assert tensors(result.folder / "tiny-qwen35-MTP-Q4_K_M-00001-of-00004.gguf") == tensors(bundled)
    first = result.folder / "tiny-qwen35-Q4_K_M-00001-of-00003.gguf"
    assert open_model(first).kvs == open_model(shards[0]).kvs


def test_another_donor_takes_the_place_of_the_models_own_block(bundles: list[Path], tmp_path: Path) -> None:
    result = nextn.pack([bundles[0]], donor=CHECKPOINT, type="q5_0", out=tmp_path / "out")
    assert any("left out for" in note for note in result.package.plan.notes)
    assert (result.folder / "mtp-tiny-qwen35-Q5_0.gguf").exists()
    with pytest.raises(UsageError, match="not both"):
        nextn.pack([Q4], donor=CHECKPOINT, sidecar=CHECKPOINT, out=tmp_path / "other")


def test_one_quant_brings_the_block_for_the_others(bundles: list[Path], tmp_path: Path) -> None:
    result = nextn.pack([bundles[0], Q8], out=tmp_path / "out")
    assert [quant.layout for quant in result.package.pack.quants] == ["sidecar", "sidecar"]
    assert tensors(result.folder / "mtp-tiny-qwen35-Q8_0.gguf")["blk.4.nextn.eh_proj.weight"] == tensors(bundles[0])[
        "blk.4.nextn.eh_proj.weight"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eio", "before", "after"])
def test_a_set_that_is_taken_apart_appears_whole_or_not(mode: str, bundles: list[Path], tmp_path: Path) -> None:
    some = split_gguf(bundles[0], tmp_path / "set", 3, tensors_first=False)

    def run(out: Path, system: Faults) -> None:
        pack_up(plan_package(plan_pack([open_model(some[0])], None, PackOptions(out))), system=system)

    clean = Faults()
    run(tmp_path / "clean", clean)
    whole = names(tmp_path / "clean")
    before = [sha(path) for path in some]
    for k in range(1, len(clean.trace) + 1, 4):
        out = tmp_path / f"{mode}{k}"
        with contextlib.suppress(NextnError, KeyboardInterrupt, OSError):
            run(out, Faults(k, mode))
        found = {name for name in names(out) if not name.startswith(".")}
        assert found in (set(), whole), (k, clean.trace[k - 1][0])
    assert [sha(path) for path in some] == before


def test_a_donor_that_lies_beside_is_found(tmp_path: Path) -> None:
    trunk = tmp_path / Q4.name
    trunk.symlink_to(Q4)
    nextn.extract(CHECKPOINT, out=tmp_path / "tiny-qwen35-MTP-donor-Q8_0.gguf", block_only=True)
    said: list[str] = []
    result = nextn.pack([trunk], out=tmp_path / "out", say=said.append)
    assert said == [result.why] and "is beside the trunk" in said[0]
    validate(result.to_json(), SCHEMA)
