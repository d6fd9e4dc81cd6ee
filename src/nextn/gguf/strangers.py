"""Files that are not what their names say: pointers, web pages, pieces, unfinished downloads, each identified.

One place for all verbs: the parser asks about a file without GGUF's magic, `open_model` about names and kinds, and
readers of checkpoints about files that do not begin as they should.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MOST_BYTES = 1 << 10  # how much of a file's beginning is examined
_MOST_SAFETENSORS_HEADER = 100_000_000  # that the format allows
_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)
_PIECE = re.compile(r"(?P<whole>.+)\.part(?P<no>\d+)of(?P<count>\d+)\Z", re.IGNORECASE | re.DOTALL)
# Browsers, downloaders, LM Studio, the Hub's client; llama.cpp (b11549, common/download.cpp); ollama's blobs.
_UNFINISHED = re.compile(
    r"(?:\.(?:part|partial|crdownload|download|incomplete|aria2|!ut|tmp|downloadInProgress)|-partial(?:-\d+)?)\Z",
    re.IGNORECASE,
)
# First bytes -> what such a file is, and what to do about it.
_MAGICS = (
    (b"PK\x03\x04", "this is a zip archive, or a PyTorch checkpoint, which nextn does not read; name a GGUF or a "
                    "safetensors checkpoint"),
    (b"\x1f\x8b", "this is a gzip archive; unpack it and name the file inside"),
    (b"tjgg", "this is a model in a format older than GGUF, which no current engine reads; get its GGUF"),
    (b"lmgg", "this is a model in a format older than GGUF, which no current engine reads; get its GGUF"),
    (b"fmgg", "this is a model in a format older than GGUF, which no current engine reads; get its GGUF"),
)  # fmt: skip
# general.type or general.architecture of GGUFs that hold no language model -> what they are.
_KINDS = {
    "clip": "a multimodal projector (mmproj)",
    "mmproj": "a multimodal projector (mmproj)",
    "adapter": "a LoRA adapter",
    "imatrix": "an importance matrix",
}


def is_pointer(head: bytes) -> bool:
    """Whether a file that begins with `head` stands for one that Git LFS keeps."""
    return head.startswith(_LFS)


def by_content(head: bytes) -> str | None:
    """What a file is that begins with `head`, and what to do, as half a sentence; None: not recognized."""
    if not head:
        return "the file is empty (it ends at byte 0); get it again"
    if is_pointer(head):
        size = _LFS_SIZE.search(head)
        real = f", which has {int(size[1]):,} bytes" if size else ""
        return f"this is a Git LFS pointer, not the file itself{real}; run 'git lfs pull', or download the file"
    text = head[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return (
            "this is a saved web page, not a model: the address led to a page about it; download the file itself "
            "(on Hugging Face its address has /resolve/ where the page's has /blob/)"
        )
    if text.startswith((b"<?xml", b"<error")):
        return "this is a server's answer in XML, not a model, most likely an error; download the file again"
    if text.startswith((b'{"error', b'{"message', b'{ "error')):
        return "this is a server's error message, not a model; download the file again"
    return next((words for magic, words in _MAGICS if head.startswith(magic)), None)


def as_model(head: bytes) -> str | None:
    """The same about a file that was named as a GGUF: a safetensors file is sound, and yet not one."""
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MOST_SAFETENSORS_HEADER:
        return "this is a safetensors file, not a GGUF; name a GGUF that was converted from it"
    return by_content(head)


def by_name(name: str) -> str | None:
    """What a file is by its name: a piece of one that was cut; None for any other name."""
    piece = _PIECE.match(name)
    if piece is None:
        return None
    whole, count = piece["whole"], int(piece["count"])
    pieces = " ".join(f"{whole}.part{i}of{count}" for i in range(1, min(count, 4) + 1)) + (" ..." if count > 4 else "")
    return (
        f"this is piece {int(piece['no'])} of {count} of a file that was split; join them first: cat {pieces} > {whole}"
    )


def is_unfinished(name: str) -> bool:
    """Whether a downloader gives files such a name until they are complete."""
    return _UNFINISHED.search(name) is not None


def no_gguf(folder: Path, nor: str = "") -> str:
    """A folder without a GGUF, as half a sentence: what there is instead, or `nor`, and what to do."""
    what = "there is no GGUF file in this folder"
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names are enough
    except OSError:
        names = []
    begun = next((name for name in names if ".gguf" in name.lower() and is_unfinished(name)), None)
    if begun is not None:
        return f"{what}, only {begun}, an unfinished download; resume it"
    if "config.json" in names:
        return f"{what}, only a checkpoint; name a GGUF that was converted from it"
    return f"{what}{nor}; name a file or another folder"


def cut_short(n_there: int, n_whole: int | None, what: str, name: str = "") -> str:
    """A file that ends inside `what`, as half a sentence; `n_whole` is its full length, None where it is not known."""
    of = f" of {n_whole:,}" if n_whole is not None else f", inside {what}"
    cut = "" if n_whole is None else f", and {what} is cut off"
    mark = _UNFINISHED.search(name)
    why = f" ('{mark[0]}' marks an unfinished download)" if mark is not None else ""
    return (
        f"the file ends at byte {n_there:,}{of}: the download is incomplete{why}{cut}; resume it, or get the file again"
    )


def by_kind(general_type: object, architecture: object) -> str | None:
    """What a GGUF without a language model is, with its article; None for language models."""
    kind = _KINDS.get(general_type) if isinstance(general_type, str) else None
    if kind is None and isinstance(architecture, str):
        kind = _KINDS.get(architecture)
    return kind


def joined(count: int) -> str:
    """A shard set whose files were joined byte by byte."""
    return (
        f"this is a set of {count} shards joined with 'cat', which no engine reads; use the shards themselves, or "
        "join them with 'llama-gguf-split --merge'"
    )
