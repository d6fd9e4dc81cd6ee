"""Small files of others: too large ones are refused unread, and JSON that overflows is one sentence."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from nextn.bounded import MOST_CONFIG, parse_json, read_bounded
from nextn.errors import FormatError, StorageError
from nextn.schemas.reading import read_document
from nextn.sources.checkpoint import open_checkpoint
from nextn.tuned import read_tuned


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_too_large_files_are_not_read(tmp_path: Path) -> None:
    size = 1 << 33
    (tmp_path / "ck").mkdir()
    calls = (
        lambda: open_checkpoint(sparse(tmp_path / "ck" / "config.json", size).parent).config,
        lambda: read_tuned(sparse(tmp_path / "m.tune.json", size)),
        lambda: read_document(sparse(tmp_path / "bench.json", size)),
    )
    for call in calls:
        tracemalloc.start()
        with pytest.raises(FormatError, match=f"too large .* found {size:,}"):
            call()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_the_bound_itself(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 10)
    assert read_bounded(path, 10) == b"x" * 10
    with pytest.raises(FormatError, match="at most 9 bytes, found 10"):
        read_bounded(path, 9)
    with pytest.raises(StorageError, match="not a regular file"):
        read_bounded(tmp_path, 9)
    with pytest.raises(StorageError, match="there is no such file"):
        read_bounded(tmp_path / "b", MOST_CONFIG)


DEEP = '{"a": ' * 70 + "1" + "}" * 70


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, "[" * 10**5, "1" + "0" * 400, DEEP, "{", "\x00"])
def test_json_that_overflows(text: str) -> None:
    with pytest.raises(FormatError):
        parse_json(text, "x.json")


def test_json_within_bounds() -> None:
    assert parse_json("[" * 64 + "]" * 64, "x") and parse_json('{"a": [1, 2.5, "x"]}', "x") == {"a": [1, 2.5, "x"]}
    assert parse_json("12345678901234567890", "x") == 12345678901234567890
