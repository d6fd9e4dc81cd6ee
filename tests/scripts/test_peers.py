"""benchmarks/peers.py on small sizes: its cases still run, and the table is made from what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import peers_document
from conftest import ROOT


def measured(path: Path, *cases: str) -> list[peers_document.Row]:
    """The rows of a quick run of some cases."""
    words = ["--quick", "--repeat", "1", "--folder", path.parent, "--json", path, "--only", *cases]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "peers.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows: list[peers_document.Row] = json.loads(path.read_text())["rows"]
    return rows


@pytest.mark.slow
def test_quantizing_and_an_extract_are_measured(tmp_path: Path) -> None:
    rows = measured(tmp_path / "rows.json", "quantizing", "checkpoints")
    assert {row["what"] for row in rows} == {"quantize", "extract, checkpoint", "extract, remote"}
    assert all(row["wall_s"] > 0 and row["peak_bytes"] > 10**7 for row in rows)
    assert all(0 < row["inner_s"] < row["wall_s"] for row in rows if row["what"] == "quantize")
    assert all(row["fetched_bytes"] > 10**6 for row in rows if row["what"] == "extract, remote")
    table = peers_document.table(rows)
    assert "| quantize | q4_K, 16 MB |" in table and "| ggml, 1 thread |" in table
    n_threads = os.cpu_count()
    assert f"quantize to q8_0, 16 MB, {n_threads} threads, share of {n_threads} times" in peers_document.targets(rows)


@pytest.mark.slow
def test_all_cases_are_measured(tmp_path: Path) -> None:
    rows = measured(tmp_path / "rows.json", "start", "headers", "shards", "giants", "copies")
    assert {row["who"] for row in rows} >= {
        "nextn",
        "nextn inspect",
        "ggml (C)",
        "gguf-py",
        "cp",
        "as llama-gguf-split",
    }
    targets = peers_document.targets(rows)
    for words in ("opening a header of 248,320 tokens", "`inspect` of 200,000 tensors", "attach, bundle of 0.1 GB"):
        assert words in targets
    assert peers_document.plot(rows).startswith("<svg")
