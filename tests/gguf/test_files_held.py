"""A header that is held is not read again, unless its file may have changed."""

from __future__ import annotations

import os
from pathlib import Path

import ggufmaker
import pytest

from nextn.gguf.files import read_header


def written(path: Path, layers: int, age_s: int) -> None:
    path.write_bytes(ggufmaker.make(ggufmaker.arch_kvs(layers), ggufmaker.root_tensors()).whole)
    then = path.stat().st_mtime_ns - age_s * 10**9
    os.utime(path, ns=(then, then))


def test_a_new_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    written(path, 2, 0)
    first = read_header(path)
    assert read_header(path).header is not first.header
    size = path.stat().st_size
    written(path, 3, 0)
    assert path.stat().st_size == size
    assert read_header(path).header.integer("qwen35.block_count") == 3


def test_a_settled_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    written(path, 2, 0)
    from nextn.gguf import reading

    monkeypatch.setattr(reading, "SETTLED_NS", -(10**12))
    first = read_header(path)
    assert read_header(path).header is first.header
    written(path, 3, 5)
    assert read_header(path).header.integer("qwen35.block_count") == 3
