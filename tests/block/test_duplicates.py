"""Embeddings and heads that a block brings although they are its model's: left out after comparing, never blindly."""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import running
from runs import attach

import nextn
from conftest import TRUNKS, need
from nextn.engines import find_engine
from nextn.errors import UsageError
from nextn.gguf.files import open_model

OWN = ("blk.2.nextn.embed_tokens.weight", "blk.2.nextn.shared_head_head.weight")
COPIES = (
    ("model.embed_tokens.weight", "model.layers.2.embed_tokens.weight"),
    ("lm_head.weight", "model.layers.2.shared_head.head.weight"),
)
CODE = ["def read(self):\n", "import os\n\ndef walk(path):\n    for name in os.listdir(path):\n"]


def with_copies(checkpoint: Path, folder: Path, spoilt_row: int | None = None) -> Path:
    """The checkpoint as DeepSeek publishes it: the block's embeddings and head are the model's, or but for one row."""
    shutil.copytree(checkpoint, folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + n])
    for source, copy in COPIES:
        (a, b), (c, d) = (header[name]["data_offsets"] for name in (source, copy))
        assert b - a == d - c
        data[8 + n + c : 8 + n + d] = data[8 + n + a : 8 + n + b]
        if spoilt_row is not None:
            at = 8 + n + c + spoilt_row * (d - c) // header[copy]["shape"][0]
            data[at] ^= 1
    path.write_bytes(data)
    return folder


@pytest.fixture
def trunk() -> Path:
    return TRUNKS / "families" / "deepseek3-Q8_0.gguf"


def test_copies_are_left_out_and_the_rest_is_untouched(
    trunk: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    donor = with_copies(family("deepseek3"), tmp_path / "donor")
    kept = open_model(nextn.attach(trunk, donor, layout="bundle", out=tmp_path / "kept.gguf").entry)
    made = nextn.attach(trunk, donor, layout="bundle", duplicates="drop", out=tmp_path / "dropped.gguf")
    dropped = open_model(made.entry)
    assert set(kept.tensors) - set(dropped.tensors) == set(OWN) and set(dropped.tensors) < set(kept.tensors)
    assert sum(note.startswith(OWN) and "is left out" in note for note in made.plan.notes) == 2
    assert made.bytes_written < kept.files[0].size_bytes


@pytest.mark.engine
def test_what_is_left_out_of_a_sidecar_is_not_missed_by_the_engine(
    trunk: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    import compat

    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    donor = with_copies(family("deepseek3"), tmp_path / "donor")
    for layout in ("bundle", "sidecar"):
        made = nextn.attach(trunk, donor, layout=layout, duplicates="drop", embd_type="q8_0", out=tmp_path / layout)
        data = nextn.verify(made.entry, sidecar=made.sidecar, prompts=CODE, n_predict=16, threads=1).to_json()
        assert data["verdict"] != "failed", (layout, data["reasons"])
        assert data["n_drafted"] > 0 and all(item["near_tie"] for item in data["divergences"])
        kept = nextn.attach(trunk, donor, layout=layout, embd_type="q8_0", out=tmp_path / "kept" / layout)
        engine = find_engine("xllamacpp")
        drafts = [compat.ask(engine, model.entry, model.sidecar, 1)[2:4] for model in (made, kept)]
        assert drafts[0] == drafts[1] and 0 < drafts[0][1] <= drafts[0][0]  # the same guesses, some of them right


def test_what_differs_stays(trunk: Path, family: Callable[[str], Path], tmp_path: Path) -> None:
    made = nextn.attach(trunk, family("deepseek3"), layout="bundle", duplicates="drop", out=tmp_path / "x.gguf")
    assert set(OWN) < set(open_model(made.entry).tensors)
    assert sum("is kept: it differs from the model's" in note for note in made.plan.notes) == 2


@pytest.mark.parametrize("row", [0, 319])
def test_one_other_value_in_the_first_or_last_row_is_a_difference(
    row: int, trunk: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    donor = with_copies(family("deepseek3"), tmp_path / "donor", spoilt_row=row)
    made = nextn.attach(trunk, donor, layout="bundle", duplicates="drop", out=tmp_path / "x.gguf")
    assert set(OWN) < set(open_model(made.entry).tensors)


@pytest.mark.parametrize("kind", ["q4_0", "q2_k"])
def test_quantized_copies_of_a_gguf_are_compared_by_direction(
    kind: str, trunk: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    donor = with_copies(family("deepseek3"), tmp_path / "donor")
    bundled = nextn.attach(trunk, donor, layout="bundle", type=kind, out=tmp_path / "bundled.gguf").entry
    made = nextn.extract(bundled, duplicates="drop", out=tmp_path)
    assert not set(OWN) & set(open_model(made.entry).tensors)
    own = nextn.attach(trunk, family("deepseek3"), layout="bundle", type=kind, out=tmp_path / "own.gguf").entry
    made = nextn.extract(own, duplicates="drop", out=tmp_path / "mtp-own.gguf")
    assert set(OWN) < set(open_model(made.entry).tensors)


def test_a_donor_file_has_nothing_to_compare_with(trunk: Path, family: Callable[[str], Path], tmp_path: Path) -> None:
    donor = with_copies(family("deepseek3"), tmp_path / "donor")
    alone = nextn.extract(donor, block_only=True, out=tmp_path / "donor.gguf").entry
    made = nextn.attach(trunk, alone, layout="bundle", duplicates="drop", out=tmp_path / "x.gguf")
    assert set(OWN) < set(open_model(made.entry).tensors)
    assert sum("nothing to compare it with" in note for note in made.plan.notes) == 2


def test_a_block_without_any_and_a_choice_that_is_none(
    trunk: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    made = nextn.attach(
        TRUNKS / "families" / "hyv3-Q8_0.gguf", family("hyv3"), duplicates="drop", out=tmp_path, dry_run=True
    )
    assert made.plan.notes[0] == "the block has no embeddings or head of its own"
    with pytest.raises(UsageError, match="choose one of keep, drop"):
        nextn.attach(trunk, family("deepseek3"), duplicates="maybe", out=tmp_path, dry_run=True)


@pytest.mark.slow
def test_of_a_remote_donor_only_the_compared_rows_are_fetched(
    trunk: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    donor = with_copies(family("deepseek3"), tmp_path / "donor")
    local = nextn.attach(trunk, donor, layout="bundle", duplicates="drop", out=tmp_path / "local")
    assert local.outcome is not None
    with running() as hub:
        hub.add_folder("org/tiny", donor)
        args = ("--layout", "bundle", "--duplicates", "drop", "--json", "-o", tmp_path / "remote")
        done = attach(hub.endpoint, tmp_path, "attach", trunk, "--from", "org/tiny", *args)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["tensor_sha256"] == local.outcome.hashes
    assert sum("is left out" in note for note in data["notes"]) == 2


def test_pack_leaves_them_out_of_what_is_published(
    trunk: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    donor = with_copies(family("deepseek3"), tmp_path / "donor")
    made = nextn.pack([trunk], donor=donor, duplicates="drop", out=tmp_path / "ready")
    (sidecar,) = made.folder.glob("mtp-*.gguf")
    assert not set(OWN) & set(open_model(sidecar).tensors)
    assert sum("is left out" in note for note in made.package.plan.notes) == 2
    with pytest.raises(UsageError, match="name the donor with --from"):
        nextn.pack([trunk], duplicates="drop", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
