"""More rows of the registry: broken downloads and files that are no model, names, and other programs' folders."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ggufmaker import f32, make
from splitting import split_gguf
from wild import DRAFTS, NOT_LOADED, Given, Parts, Wild

BROKEN = "Broken downloads, and files that are no model"
NAMES = "Names, and the folders of other programs"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4201523072\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>M.gguf at main</title></head></html>"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _bytes(name: str, data: bytes) -> Callable[[Parts, Path], Given]:
    def made(parts: Parts, folder: Path) -> Given:
        path = folder / name
        path.write_bytes(data)
        return Given(path)

    return made


def _cut(name: str, keep: Callable[[bytes], bytes]) -> Callable[[Parts, Path], Given]:
    def made(parts: Parts, folder: Path) -> Given:
        path = folder / name
        path.write_bytes(keep(parts.bundle.read_bytes()))
        return Given(path)

    return made


def _of_kind(name: str, architecture: str, kind: str) -> Callable[[Parts, Path], Given]:
    kvs = [("general.architecture", "str", architecture), ("general.type", "str", kind)]
    return _bytes(name, make(kvs, [f32("v.blk.0.x", 4)]).whole)


def _joined(parts: Parts, folder: Path) -> Given:
    path = folder / "M-Q4_K_M.gguf"
    path.write_bytes(b"".join(shard.read_bytes() for shard in split_gguf(parts.q4, folder / "set", 3)))
    return Given(path)


def _shard_missing(parts: Parts, folder: Path) -> Given:
    shards = split_gguf(parts.bundle, folder / "set", 3)
    shards[1].unlink()
    return Given(shards[0])


def _named(name: str, parts: Parts, folder: Path) -> Given:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return Given(Path(shutil.copy(parts.bundle, path)))


def _beside(name: str, model: str, parts: Parts, folder: Path) -> Given:
    side, trunk = folder / name, folder / model
    side.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(parts.sidecar, side)
    return Given(side, trunk=Path(shutil.copy(parts.q4, trunk)))


def _blob(parts: Parts, folder: Path) -> Given:
    digest = hashlib.sha256(parts.bundle.read_bytes()).hexdigest()
    manifest = folder / "models" / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    manifest.parent.mkdir(parents=True)
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return _named(f"models/blobs/sha256-{digest}", parts, folder)


def _cached(parts: Parts, folder: Path) -> Given:
    repository = folder / "models--org--M-GGUF"
    blob = _named(f"blobs/{hashlib.sha256(parts.bundle.read_bytes()).hexdigest()}", parts, repository).path
    link = repository / "snapshots" / COMMIT / "M-MTP-Q4_K_M.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return Given(link)


_SAME = "every command names it for what it is, in the same words"

ROWS: tuple[Wild, ...] = (
    Wild(
        BROKEN, "Git-LFS pointer", "the small text file that a clone without `git lfs` leaves", _SAME,
        _bytes("M-Q4_K_M.gguf", POINTER), "", refused="a Git LFS pointer, not the file itself",
    ),
    Wild(
        BROKEN, "saved web page", "the page about a file, saved under its name", _SAME,
        _bytes("M-Q4_K_M.gguf", PAGE), "", refused="a saved web page, not a model",
    ),
    Wild(
        BROKEN, "a server's answer", "a server's error in JSON, saved under the file's name", _SAME,
        _bytes("M-Q4_K_M.gguf", b'{"error":"Repository not found"}'), "", refused="a server's error message",
    ),
    Wild(
        BROKEN, "archive", "a zip archive or a PyTorch checkpoint", _SAME,
        _bytes("M-Q4_K_M.gguf", b"PK\x03\x04" + bytes(100)), "", refused="a zip archive, or a PyTorch checkpoint",
    ),
    Wild(
        BROKEN, "empty file", "a file of no bytes", _SAME,
        _bytes("M-Q4_K_M.gguf", b""), "", refused="the file is empty",
    ),
    Wild(
        BROKEN, "piece of a cut file", "`M.gguf.part1of2`", "every command says how to join the pieces",
        _cut("M-Q4_K_M.gguf.part1of2", lambda data: data[: len(data) // 2]), "", refused="piece 1 of 2 of a file that",
    ),
    Wild(
        BROKEN, "joined set", "a shard set joined with `cat`", _SAME,
        _joined, "", refused="a set of 3 shards joined with 'cat'",
    ),
    Wild(
        BROKEN, "ends in its header", "a download that stopped in the first kilobytes",
        "every command says that the download is incomplete",
        _cut("M-Q4_K_M.gguf", lambda data: data[:2000]), "", refused="the download is incomplete",
    ),
    Wild(
        BROKEN, "ends in its data", "a download that stopped later",
        "inspect and doctor show it with \"ends at byte A of B\"; all other commands refuse it with these words",
        _cut("M-Q4_K_M.gguf", lambda data: data[:-5000]), "bundled", ("file-cut-short",), engine="refuses",
        without_mtp="refuses",
    ),
    Wild(
        BROKEN, "download under way", "`M.gguf.part`, as downloaders name it until it is complete",
        "the same, and says that the name is that of a download under way",
        _cut("M-Q4_K_M.gguf.part", lambda data: data[:-5000]), "bundled", ("file-cut-short",), engine="refuses",
        without_mtp="refuses",
    ),
    Wild(
        BROKEN, "a shard is missing", "a set of three without its second file",
        "inspect and doctor name the missing file; all other commands refuse the set",
        _shard_missing, "set", ("shards-missing",), engine="refuses", without_mtp="refuses",
    ),
    Wild(
        BROKEN, "projector", "an mmproj file", _SAME,
        _of_kind("mmproj-M-F16.gguf", "clip", "mmproj"), "", refused="a multimodal projector (mmproj), not",
    ),
    Wild(
        BROKEN, "adapter", "a LoRA adapter", _SAME,
        _of_kind("M-lora.gguf", "llama", "adapter"), "", refused="a LoRA adapter, not a language model",
    ),
    Wild(
        BROKEN, "importance matrix", "an imatrix file", _SAME,
        _of_kind("M-imatrix.gguf", "imatrix", "imatrix"), "", refused="an importance matrix, not a language model",
    ),
    Wild(
        NAMES, "mark at the end", "`X-Q4_K_M-mtp.gguf`, a bundled model",
        "is a model to every command; what is made of it has a name that llama.cpp takes",
        partial(_named, "X-Q4_K_M-mtp.gguf"), "bundled", engine=DRAFTS,
    ),
    Wild(
        NAMES, "mark in the middle", "`X-mtp-Q5_K_M.gguf`, a bundled model",
        "doctor says that llama.cpp's `-hf` takes it for a sidecar, and `--fix` renames it",
        partial(_named, "X-mtp-Q5_K_M.gguf"), "bundled", ("name-hides-model",), engine=DRAFTS,
    ),
    Wild(
        NAMES, "mark with another separator", "`X-28B_MTP.Q6_K.gguf`, a bundled model", "is a model to every command",
        partial(_named, "X-28B_MTP.Q6_K.gguf"), "bundled", engine=DRAFTS,
    ),
    Wild(
        NAMES, "other letters", "a name in Cyrillic, with spaces, in such a folder", "is a model to every command",
        partial(_named, "Загрузки/модели 模型/Тест 27Б Q4_K_M.gguf"), "bundled", engine=DRAFTS,
    ),
    Wild(
        NAMES, "a trunk with the mark", "`X-Q4_K_M-mtp.gguf` without a block, `mtp-X.gguf` beside it",
        "all commands find the sidecar and use it",
        partial(_beside, "mtp-X-Q8_0.gguf", "X-Q4_K_M-mtp.gguf"), "sidecar", engine=DRAFTS,
    ),
    Wild(
        NAMES, "an MTP folder", "the sidecar in `MTP/` below the model's folder",
        "all commands find the sidecar and use it",
        partial(_beside, "MTP/X-Q8_0.gguf", "X-Q4_K_M.gguf"), "sidecar", ("name-hides-sidecar",), engine=DRAFTS,
    ),
    Wild(
        NAMES, "ollama's blob", "`blobs/sha256-...`, which a manifest names",
        "reads it by its path; nothing is ever put beside it, and new files are named after the model's metadata",
        _blob, "bundled", engine=DRAFTS,
    ),
    Wild(
        NAMES, "the Hub's cache", "a link in `snapshots/`, the file in `blobs/`",
        "reads it; a sidecar for it goes into nextn's own folder, where all commands find it",
        _cached, "bundled", engine=DRAFTS,
    ),
    Wild(
        NAMES, "LM Studio's folder", "`models/PUBLISHER/REPOSITORY/FILE.gguf`",
        "reads it; `attach --for lmstudio` makes a bundle there",
        partial(_named, ".lmstudio/models/publisher/M-GGUF/M-Q4_K_M.gguf"), "bundled", engine=DRAFTS,
    ),
)  # fmt: skip
assert all(row.engine != NOT_LOADED or not row.shape for row in ROWS)
