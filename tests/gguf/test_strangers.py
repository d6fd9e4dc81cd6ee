"""Files that are not what their names say: named for what they are, in the same words by every verb."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from ggufmaker import arch_kvs, f32, make, root_tensors, trunk_tensors
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, DEMO, Q4, TinyModels
from nextn.diagnosis import examine
from nextn.errors import NextnError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4201523072\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><head><title>M.gguf at main</title>" + b" " * 4000
WHOLE = Q4.read_bytes()


def gguf_of(architecture: str, kind: str) -> bytes:
    kvs = [("general.architecture", "str", architecture), ("general.type", "str", kind)]
    return make(kvs, [f32("v.blk.0.x", 4)]).whole


STRANGERS: dict[str, tuple[str, bytes, str]] = {
    "pointer": ("M.gguf", POINTER, r"this is a Git LFS pointer, not the file itself, which has 4,201,523,072 bytes"),
    "page": ("M.gguf", PAGE, "this is a saved web page, not a model"),
    "answer": ("M.gguf", b'{"error":"Repository not found"}', "this is a server's error message, not a model"),
    "xml": ("M.gguf", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "this is a server's answer in XML"),
    "archive": ("M.gguf", b"PK\x03\x04" + bytes(100), "this is a zip archive"),
    "first piece": ("M.gguf.part1of2", WHOLE[:-1000], r"piece 1 of 2 of a file that was split; join them first: cat M"),
    "second piece": (
        "M.gguf.part2of2",
        WHOLE[-1000:],
        r"piece 2 of 2 of a file that was split; join them first: cat M",
    ),
    "projector": ("mmproj-M.gguf", gguf_of("clip", "mmproj"), r"a multimodal projector \(mmproj\), not"),
    "another name": ("M.gguf", gguf_of("clip", "model"), r"a multimodal projector \(mmproj\), not a language model"),
    "adapter": ("M.gguf", gguf_of("llama", "adapter"), "this is a LoRA adapter, not a language model"),
    "matrix": ("imatrix.gguf", gguf_of("imatrix", "imatrix"), "this is an importance matrix, not a language model"),
}

def _beside(verb: str, path: Path) -> object:
    return getattr(nextn, verb)(Q4, sidecar=path)


VERBS: dict[str, Callable[[Path], object]] = {
    "inspect": lambda path: nextn.inspect(path),
    "doctor": lambda path: examine(path),
    "attach": lambda path: nextn.attach(path, CHECKPOINT),
    "attach from": lambda path: nextn.attach(Q4, path, out=path.parent / "out"),
    "detach": lambda path: nextn.detach(path),
    "extract": lambda path: nextn.extract(path),
    "verify": lambda path: nextn.verify(path),
    "bench": lambda path: nextn.bench(path),
    "tune": lambda path: nextn.tune(path),
    "plan": lambda path: nextn.plan(path),
    "pack": lambda path: nextn.pack([path], out=path.parent / "out"),
    "serve": lambda path: nextn.serve(path),
    "explode": lambda path: nextn.explode(path, max_tensors=5, out=path.parent / "shards"),
    "assemble": lambda path: nextn.assemble(path, out=path.parent / "whole.gguf"),
    "inspect --block-hash": lambda path: nextn.inspect(path, block_hash=True),
    "attach --layout in-place": lambda path: nextn.attach(path, CHECKPOINT, layout="in-place", dry_run=True),
    "detach --in-place": lambda path: nextn.detach(path, in_place=True, dry_run=True),
    "doctor --fix": lambda path: nextn.doctor(path, fix=True, dry_run=True),
    "doctor --from": lambda path: nextn.doctor(Q4, donor=path),
    "doctor --trunk": lambda path: nextn.doctor(Q4, trunk=path),
    "plan --from": lambda path: nextn.plan(Q4, donor=path),
    "pack --from": lambda path: nextn.pack([Q4], donor=path, out=path.parent / "out"),
    **{f"{verb} --sidecar": partial(_beside, verb) for verb in ("plan", "serve", "verify", "bench", "tune")},
    "pack --sidecar": lambda path: nextn.pack([Q4], sidecar=path, out=path.parent / "out"),
}
# Verbs that show a file that ends too early instead of refusing it.
SHOWING = ("inspect", "doctor", "doctor --fix")


def said(verb: str, path: Path) -> str:
    with pytest.raises(NextnError) as caught:
        VERBS[verb](path)
    return f"{type(caught.value).__name__} {caught.value}"


@pytest.mark.parametrize("name", STRANGERS)
def test_every_verb_says_the_same(name: str, tmp_path: Path) -> None:
    file, data, words = STRANGERS[name]
    path = tmp_path / file
    path.write_bytes(data)
    answers = {said(verb, path) for verb in VERBS}
    assert len(answers) == 1
    answer = answers.pop()
    assert re.search(words, answer) and str(path) in answer and "\n" not in answer


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_set_that_was_joined_byte_by_byte(verb: str, tmp_path: Path) -> None:
    shards = split_gguf(Q4, tmp_path / "set", 3)
    path = tmp_path / "M.gguf"
    path.write_bytes(b"".join(shard.read_bytes() for shard in shards))
    assert "this is a set of 3 shards joined with 'cat', which no engine reads" in said(verb, path)


@pytest.mark.parametrize("name", ["M.gguf", "M.gguf.part", "M.gguf.crdownload"])
def test_a_download_that_is_not_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(WHOLE[:-5000])
    words = f"the file ends at byte {len(WHOLE) - 5000:,} of {len(WHOLE):,}: the download is incomplete"
    assert nextn.inspect(path).problems[0].startswith(words)
    assert examine(path).problems[0].what.startswith(words)
    assert words in said("attach", path)
    assert ("marks an unfinished download" in nextn.inspect(path).problems[0]) == (name != "M.gguf")
    for n in (300, 2000, 100_000, len(WHOLE) // 3, len(WHOLE) - 1):
        path.write_bytes(WHOLE[:n])
        answers = {said(verb, path) for verb in ("attach", "attach from", "extract")}
        found = nextn.inspect(path).problems if n >= 100_000 else (said("inspect", path),)
        assert all("the download is incomplete" in answer for answer in found)
        assert all("the download is incomplete" in answer or "no MTP block" in answer for answer in answers)
    path.write_bytes(WHOLE)
    assert nextn.inspect(path).problems == ()  # whole, whatever it is called


@pytest.mark.parametrize("name", ["M.gguf", "M.gguf.part", "mtp-M.gguf"])
def test_every_verb_says_that_a_file_ends_too_early(name: str, tiny_models: TinyModels, tmp_path: Path) -> None:
    whole = (tiny_models.sidecar if name.startswith("mtp-") else tiny_models.bundled).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[:-500])
    words = f"the file ends at byte {len(whole) - 500:,} of {len(whole):,}: the download is incomplete"
    assert nextn.inspect(path).problems[0].startswith(words) and examine(path).problems[0].what.startswith(words)
    assert nextn.doctor(path, fix=True).before.problems[0].what.startswith(words)
    answers = {said(verb, path) for verb in VERBS if verb not in SHOWING}
    assert len(answers) == 1 and words in answers.pop()


def test_data_behind_the_last_tensor_is_no_joined_set(tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    path.write_bytes(make(arch_kvs(2), [*root_tensors(), *trunk_tensors(2)]).whole + b"GGUF" * 20)
    assert nextn.inspect(path).shape == "trunk-only"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("stranger", ["pointer", "page"])
def test_checkpoints_of_pointers_and_pages(file: str, stranger: str, tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO / "tiny-qwen35-mtp", tmp_path / "checkpoint")
    _, data, words = STRANGERS[stranger]
    (folder / file).unlink()
    (folder / file).write_bytes(data)
    answers = {said(verb, folder) for verb in ("inspect", "doctor", "attach from", "extract")}
    assert len(answers) == 1 and re.search(words, answers.pop())
