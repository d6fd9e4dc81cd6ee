"""Bad input: one sentence with the numbers in it, the documented exit code, and nothing lost or changed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults import Refusing, listing, safetensors, small_disk, state

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS, mounted
from nextn.cli import main
from nextn.errors import EXIT_CODES, StorageError
from nextn.gguf.files import open_model, read_header
from nextn.gguf.header import build_header
from nextn.gguf.kv import KV, KVType
from nextn.gguf.kv_table import edit
from nextn.writing import execute as local
from nextn.writing import system as disk

DENSE = "qwen35-dense-F32.gguf"


@dataclass
class World:
    """A folder with a trunk and its donor, and the command line in it."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def trunk(self) -> Path:
        return self.folder / DENSE

    @property
    def donor(self) -> Path:
        return self.folder / "donor"

    def config(self, **changes: Any) -> None:
        path = self.donor / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def keep_tensors(self, keep: Callable[[str], bool]) -> None:
        """Rewrite the donor's safetensors file with some of its tensors."""
        path = self.donor / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack_from("<Q", raw)
        table = json.loads(raw[8 : 8 + length])
        data = raw[8 + length :]
        kept = {
            name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
            for name, entry in table.items()
            if name != "__metadata__" and keep(name)
        }
        path.write_bytes(safetensors(kept))

    def rewrite(self, *, put: list[KV] | None = None, twice: bool = False) -> None:
        """Another header for the trunk, its data as it is."""
        file = read_header(self.trunk)
        infos = list(file.header.tensors)
        header = build_header(edit(file.header.kvs, put=put or []), [*infos, infos[0]] if twice else infos)
        self.trunk.write_bytes(header + self.trunk.read_bytes()[file.header.data_offset :])

    def refuses(self, code: int, pattern: str, *args: str | Path) -> None:
        """The call ends with `code` and one sentence that matches, and leaves everything as it was."""
        before, seen = state(self.folder), listing(self.folder)
        assert main([str(arg) for arg in args]) == code
        out, err = self.capsys.readouterr()
        assert out == ""
        assert re.search(pattern, err), err
        if code != 2 or err.startswith("nextn:"):
            assert re.fullmatch(r"nextn: [^\n]+\n", err)
        assert "Traceback" not in err
        assert "bug in nextn" not in err
        assert code in EXIT_CODES, f"exit code {code} is not documented"
        assert listing(self.folder) == seen
        assert state(self.folder) == before

    def attach(self, code: int, pattern: str, *args: str | Path) -> None:
        self.refuses(code, pattern, "attach", self.trunk, "--from", self.donor, *args)


@pytest.fixture
def world(tmp_path: Path, checkpoints: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> World:
    shutil.copy(TRUNKS / DENSE, tmp_path)
    shutil.copytree(checkpoints("qwen35-dense-bf16"), tmp_path / "donor")
    return World(tmp_path, capsys)


# -- damaged files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3, 20, 1000, 10_000])
def test_trunk_cut_in_its_header(world: World, size: int) -> None:
    os.truncate(world.trunk, size)
    world.attach(10, rf"{DENSE}.*(byte \d|truncated|fewer|ends)")


@pytest.mark.parametrize("layout", ["bundle", "shards", "sidecar"])
def test_trunk_cut_in_its_data(world: World, layout: str) -> None:
    size = world.trunk.stat().st_size
    os.truncate(world.trunk, size - 100)
    world.attach(10, rf"ends at byte {size - 100:,} of {size:,}: the download is incomplete", "--layout", layout)


def test_trunk_that_is_no_gguf(world: World) -> None:
    world.trunk.write_bytes(b"PK\x03\x04" * 1000)
    world.attach(10, "GGUF")


def test_trunk_of_version_one(world: World) -> None:
    raw = bytearray(world.trunk.read_bytes())
    raw[4] = 1
    world.trunk.write_bytes(raw)
    world.attach(11, "version|v1")


def test_trunk_with_big_ends(world: World) -> None:
    raw = bytearray(world.trunk.read_bytes())
    raw[4:8] = struct.pack(">I", 3)
    world.trunk.write_bytes(raw)
    world.attach(11, "big-endian")


def test_trunk_with_a_tensor_twice(world: World) -> None:
    world.rewrite(twice=True)
    world.attach(10, r"tensor 'output.weight' appears twice")


def test_trunk_without_architecture(world: World) -> None:
    file = read_header(world.trunk)
    header = build_header(edit(file.header.kvs, drop=["general.architecture"]), file.header.tensors)
    world.trunk.write_bytes(header + world.trunk.read_bytes()[file.header.data_offset :])
    world.attach(10, "'general.architecture' is missing")


@pytest.mark.parametrize("cut", [5, 100, -100])
def test_donor_cut(world: World, cut: int) -> None:
    path = world.donor / "model.safetensors"
    os.truncate(path, cut if cut > 0 else path.stat().st_size + cut)
    world.attach(10, r"model\.safetensors.*(truncated|fewer than 8 bytes|the download is incomplete)")


def test_donor_with_broken_config(world: World) -> None:
    (world.donor / "config.json").write_text("{")
    world.attach(10, r"config\.json.*not valid JSON")


def test_donor_without_weights(world: World) -> None:
    (world.donor / "model.safetensors").unlink()
    world.attach(12, r"no \.safetensors files")


def test_donor_with_half_a_block(world: World) -> None:
    world.keep_tensors(lambda name: name != "mtp.fc.weight")
    world.attach(10, r"incomplete: 'fc\.weight' is missing")


def test_quantized_donor(world: World) -> None:
    path = world.donor / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    table = json.loads(raw[8 : 8 + length])
    entry = table["mtp.fc.weight"]
    entry["dtype"], entry["shape"] = "F8_E4M3", [entry["shape"][0], entry["shape"][1] * 2]
    head = json.dumps(table, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + raw[8 + length :])
    world.attach(11, r"'mtp\.fc\.weight' is stored as F8_E4M3, without factors that nextn knows")


# -- a donor that does not fit -----------------------------------------------------------------------------------


def test_donor_of_another_architecture(world: World, checkpoints: Callable[[str], Path]) -> None:
    donor = checkpoints("qwen35moe-fused-bf16")
    world.refuses(13, r"'qwen35moe', the trunk's 'qwen35'", "attach", world.trunk, "--from", donor)


def test_donor_of_another_hidden_size(world: World) -> None:
    world.refuses(13, "hidden size is 256, the trunk's 64", "attach", world.trunk, "--from", CHECKPOINT)


def test_donor_of_another_vocabulary(world: World) -> None:
    world.config(vocab_size=1321)
    world.attach(13, "vocabulary is 1,321, the trunk's 320")


def test_donor_with_another_tokenizer(world: World) -> None:
    path = world.donor / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    text = next(text for text, number in vocab.items() if number == 100)
    vocab["changed"] = vocab.pop(text)
    path.write_text(json.dumps(tokenizer))
    world.attach(13, r"tokenizers differ in 1 of 320 tokens \(token 100 is 'changed' in the donor")


def test_gguf_donor_with_another_tokenizer(world: World) -> None:
    donor = nextn.extract(world.donor, block_only=True, out=world.folder / "donor.gguf").entry
    bundled = nextn.attach(world.trunk, donor, layout="bundle").entry
    donor = nextn.extract(bundled, block_only=True, out=world.folder / "hashed.gguf").entry
    tokens = open_model(world.trunk).header.by_key["tokenizer.ggml.tokens"]
    world.rewrite(put=[tokens.with_value(["other", *tokens.value[1:]])])
    world.refuses(13, r"ordinary tokens differ \(sha256 \w{12}", "attach", world.trunk, "--from", donor)


# -- no block, or one too many -------------------------------------------------------------------------------------


def test_checkpoint_that_only_promises_a_block(world: World) -> None:
    world.keep_tensors(lambda name: not name.startswith("mtp."))
    assert json.loads((world.donor / "config.json").read_text())["mtp_num_hidden_layers"] == 1
    world.attach(15, "promise|says|though")


def test_gguf_donor_without_a_block(world: World) -> None:
    world.refuses(15, "there is no MTP block in this model", "attach", world.trunk, "--from", Q4)


def test_gguf_donor_that_only_promises_a_block(world: World) -> None:
    world.rewrite(put=[KV.make("qwen35.nextn_predict_layers", KVType.UINT32, 1)])
    world.refuses(15, "promises 1: it was lost", "extract", world.trunk)


def test_trunk_that_has_a_block(world: World) -> None:
    bundled = nextn.attach(world.trunk, world.donor, layout="bundle").entry
    world.refuses(14, r"already has an MTP block \(layer 4\)", "attach", bundled, "--from", world.donor)


def test_sidecar_or_donor_given_as_trunk(world: World) -> None:
    sidecar = nextn.attach(world.trunk, world.donor, layout="sidecar").sidecar
    donor = nextn.extract(world.donor, block_only=True, out=world.folder / "donor.gguf").entry
    assert sidecar is not None
    for path in (sidecar, donor):
        words = f"{path.name}: this is a sidecar or donor file"
        world.refuses(2, words, "attach", path, "--from", world.donor)
        world.refuses(2, words, "detach", path)
    world.refuses(2, "has no embeddings and no tokenizer", "extract", donor)


def test_detach_without_a_block(world: World) -> None:
    world.refuses(15, "nothing to detach", "detach", world.trunk)


# -- sets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(world: World) -> list[Path]:
    return sorted(Path(shutil.copytree(TRUNKS / "tensors-first", world.folder / "set")).iterdir())


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_missing_shard(world: World, shards: list[Path], lost: int) -> None:
    shards[lost].unlink()
    given = shards[1 if lost != 1 else 0]
    name = re.escape(shards[lost].name)
    world.refuses(12, rf"1 of 3 shards is missing \({name}\)", "attach", given, "--from", world.donor)


def test_set_with_a_shard_twice(world: World, shards: list[Path]) -> None:
    shutil.copy(shards[1], shards[2])
    world.refuses(12, "'split.no' is 1, but the name says shard 3", "attach", shards[0], "--from", world.donor)


def test_set_mixed_from_two_models(world: World, shards: list[Path]) -> None:
    shutil.copy(TRUNKS / "kv-first" / shards[1].name, shards[1])
    world.refuses(12, "mixed from two models", "attach", shards[0], "--from", world.donor)


def test_folder_with_several_models(world: World) -> None:
    shutil.copy(world.trunk, world.folder / "other.gguf")
    pattern = rf"holds 2 models \(other.gguf, {DENSE}\); name one|holds 2 models \({DENSE}, other.gguf\); name one"
    world.refuses(2, pattern, "attach", world.folder, "--from", world.donor)


def test_folder_without_a_model(world: World) -> None:
    world.refuses(2, "this is a checkpoint, not a GGUF", "attach", world.donor, "--from", world.donor)
    (world.folder / "empty").mkdir()
    world.refuses(2, "no GGUF file in this folder", "inspect", world.folder / "empty")


# -- models and types that cannot be ---------------------------------------------------------------------------------


def test_unsupported_trunk(world: World) -> None:
    world.rewrite(put=[KV.make("general.architecture", KVType.STRING, "llama")])
    world.rewrite(put=[KV.make("llama.block_count", KVType.UINT32, 4)])
    world.attach(16, "'llama'")


def test_unsupported_checkpoint(world: World) -> None:
    world.config(architectures=["LlamaForCausalLM"])
    world.attach(16, r"no MTP block was ever published for Llama 1 to 3")
    world.config(architectures=["UnheardOfForCausalLM"], model_type="unheard_of")
    world.attach(16, r"does not know the model class UnheardOfForCausalLM")


@pytest.mark.parametrize("layout", ["bundle", "sidecar"])
@pytest.mark.parametrize("option", ["--type", "--embd-type"])
def test_unknown_type(world: World, option: str, layout: str) -> None:
    world.attach(2, "'q9_9'", option, "q9_9", "--layout", layout)


@pytest.mark.parametrize("name", ["iq2_xxs", "iq1_s"])
def test_type_that_needs_an_importance_matrix(world: World, name: str) -> None:
    trunk = shutil.copy(Q4, world.folder)
    world.refuses(17, rf"{name}.*importance matrix", "attach", trunk, "--from", CHECKPOINT, "--type", name)


def test_type_that_rows_do_not_fit_falls_back_and_says_so(world: World) -> None:
    args = ["attach", world.trunk, "--from", world.donor, "--layout", "bundle", "--type", "q4_k"]
    assert main([str(arg) for arg in args]) == 0
    out, err = world.capsys.readouterr()
    assert re.search(r"note: blk\.4\.\S+: rows of 64 do not fit q4_K \(blocks of 256\); q5_0 is used instead", err)
    types = {info.type_name for name, (_, info) in open_model(out.strip()).tensors.items() if name.startswith("blk.4.")}
    assert types == {"f32", "q5_0", "f16"}


# -- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling symlink", "folder"])
@pytest.mark.parametrize("layout", ["bundle", "sidecar", "shards"])
def test_output_exists(world: World, layout: str, kind: str) -> None:
    result = nextn.attach(world.trunk, world.donor, layout=layout, dry_run=True)
    there = result.files[-1]
    there.parent.mkdir(exist_ok=True)
    if kind == "folder":
        there.mkdir()
    elif kind == "file":
        there.write_bytes(b"precious")
    else:
        there.symlink_to(world.trunk if kind == "symlink" else "nowhere")
    for dry in ([], ["--dry-run"]):
        world.attach(20, rf"{there.name}: this file already exists, and nextn never", "--layout", layout, *dry)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_output_below_a_file(world: World, dry: list[str]) -> None:
    out = world.trunk / "below" / "a.gguf"
    world.attach(22, rf"cannot create the folder, since .*{DENSE} is a file", "--layout", "bundle", "-o", out, *dry)


def test_output_in_a_file(world: World) -> None:
    other = world.folder / "notes.txt"
    other.write_text("precious")
    world.attach(20, "this is a file, not a folder", "--layout", "bundle", "-o", other)


@pytest.mark.parametrize("name", ["mtp-x.gguf", "x-mtp-y.gguf", "mmproj-x.gguf"])
@pytest.mark.parametrize("layout", ["bundle", "shards"])
def test_name_that_engines_take_for_something_else(world: World, layout: str, name: str) -> None:
    world.attach(2, "never loads a file with '(mtp-|mmproj)' in its name", "--layout", layout, "-o", name)


def test_name_of_a_sidecar_that_engines_do_not_find(world: World) -> None:
    result = nextn.attach(world.trunk, world.donor, layout="sidecar", out=world.folder / "x.gguf", dry_run=True)
    assert any("does not start with 'mtp-'" in note for note in result.plan.notes)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_no_space_is_said_before_writing(world: World, monkeypatch: pytest.MonkeyPatch, dry: list[str]) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096))
    world.attach(21, r"[\d,]+ bytes are needed and 40,960 are free", "--layout", "bundle", *dry)


@pytest.mark.parametrize("layout", ["bundle", "sidecar", "shards"])
def test_a_disk_that_fills_up_on_the_way(world: World, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Another program takes the room that was there when the run began."""
    with small_disk(world.folder / "disk", "48k") as disk:
        disk = mounted(disk)
        monkeypatch.setattr(local, "free_bytes", lambda folder: 1 << 40)
        world.attach(21, "the disk is full .* free some room", "--layout", layout, "-o", disk / "out")


def test_read_only_file_system(world: World) -> None:
    with small_disk(world.folder / "disk", "8m") as disk:
        disk = mounted(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for dry in ([], ["--dry-run"]):
            world.attach(22, "read-only", "--layout", "bundle", "-o", disk / "new" / "x.gguf", *dry)


def test_read_only_folder(world: World) -> None:
    folder = world.folder / "frozen"
    folder.mkdir()
    freeze = ["chattr", "+i", str(folder)]
    frozen = shutil.which("chattr") is not None and subprocess.run(freeze, capture_output=True).returncode == 0
    if not frozen:
        if os.geteuid() == 0:
            pytest.skip("permissions do not bind root, and chattr +i is not possible here")
        folder.chmod(0o555)
    try:
        world.attach(22, "frozen: .*(permission denied|not permitted)", "--layout", "bundle", "-o", folder / "x.gguf")
    finally:
        if frozen:
            subprocess.run(["chattr", "-i", str(folder)], capture_output=True)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "permission denied"), (errno.EROFS, "read-only"), (errno.EIO, "Input/output error")],
)
@pytest.mark.parametrize("call", ["open_new", "pwrite", "copy_range", "fsync", "link"])
def test_refusals_of_the_system(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    system = Refusing(**{call: number})
    monkeypatch.setattr(disk.System, call, lambda self, *args: system.step(call, args))
    world.attach(StorageError.exit_code, words, "--layout", "bundle")


# -- the call itself -------------------------------------------------------------------------------------------------


def test_unknown_verb(world: World) -> None:
    words = r"'atach' is not a command \(did you mean 'attach'\?\); the commands are scan, up, inspect, doctor, attach"
    world.refuses(2, words, "atach")


def test_missing_files(world: World) -> None:
    for verb in ("attach", "detach", "extract", "inspect"):
        more = ["--from", world.donor] if verb == "attach" else []
        world.refuses(22, r"nowhere\.gguf: there is no such file", verb, world.folder / "nowhere.gguf", *more)
    world.refuses(22, "nowhere: there is no such file", "attach", world.trunk, "--from", world.folder / "nowhere")


def test_unknown_layout(world: World) -> None:
    world.attach(2, "'inline' is not one of|is not a layout", "--layout", "inline")


def test_paths_that_the_system_cannot_take(world: World) -> None:
    world.refuses(22, "no such file|File name too long", "attach", "x" * 300, "--from", world.donor)
    world.attach(22, "and at most 255 fit here", "--layout", "bundle", "-o", world.folder / f"{'x' * 300}.gguf")


def test_device_and_folder_named_like_a_model(world: World) -> None:
    world.refuses(22, "not a regular file", "attach", "/dev/null", "--from", world.donor)
    (world.folder / "folder.gguf").mkdir()
    world.refuses(2, "no GGUF file in this folder", "attach", world.folder / "folder.gguf", "--from", world.donor)


@pytest.mark.parametrize(
    "words",
    [
        ("attach", Q4, "--from", CHECKPOINT), ("detach", Q4), ("extract", CHECKPOINT), ("explode", Q4), ("demo",),
        ("assemble", Q4.parent), ("pack", Q4), ("pull", "e/vil", "--variant", "mtp"), ("report", "x.json"),
        ("tune", Q4),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_dash_is_not_taken_for_a_name(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Elsewhere it means standard output, to which nothing of nextn's is written."""
    monkeypatch.chdir(tmp_path)
    assert main([*map(str, words), "-o", "-"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "nothing is written to standard output" in err
    assert not any(tmp_path.iterdir())
