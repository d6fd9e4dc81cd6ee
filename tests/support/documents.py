"""One run of every verb's --json on the shipped model, and what may differ between two such runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub_server import HubServer
from sick import rewrite

TRUNK, DONOR, OTHER = "tiny-qwen35-Q4_K_M.gguf", "tiny-qwen35-mtp", "tiny-qwen35-Q8_0.gguf"
Args = tuple[str, ...]
# In this order: later ones use what earlier ones wrote. Paths are relative to the folder of the run.
FILES: dict[str, Args] = {
    "attach-shards": ("attach", TRUNK, "--from", DONOR, "--layout", "shards", "-o", "shards"),
    "attach-sidecar": ("attach", TRUNK, "--from", DONOR, "--layout", "sidecar", "-o", "sidecar"),
    "attach-bundle": ("attach", TRUNK, "--from", DONOR, "--layout", "bundle", "-o", "bundle.gguf"),
    "attach-dry-run": ("attach", TRUNK, "--from", DONOR, "--dry-run"),
    "detach": ("detach", "bundle.gguf", "-o", "plain.gguf"),
    "extract": ("extract", "bundle.gguf", "-o", "mtp-tiny.gguf"),
    "extract-block-only": ("extract", DONOR, "--block-only", "-o", "block.gguf"),
    "inspect": ("inspect", "bundle.gguf", "--block-hash"),
    "inspect-sick": ("inspect", "sick.gguf"),
    "inspect-checkpoint": ("inspect", DONOR),
    "doctor": ("doctor", "sick.gguf"),
    "doctor-fix": ("doctor", "sick.gguf", "--fix", "-o", "fixed.gguf"),
    "doctor-checkpoint": ("doctor", DONOR),
    "verify-files": ("verify", "bundle.gguf", "--trunk", OTHER),
    "plan-headers": ("plan", TRUNK, "--from", DONOR, "--header-only"),
    "pack": ("pack", TRUNK, "--from", DONOR, "-o", "pack"),
    "pull": ("pull", "org/tiny", "-o", "pulled"),
    "inspect-remote": ("inspect", "org/tiny"),
    "cache": ("cache",),
    "tune-dry-run": ("tune", "bundle.gguf", "--dry-run", "--threads", "1"),
}
_SHORT = ("--n-predict", "32", "--repeats", "1", "--tasks", "code", "--threads", "1", "--patience", "0")
ENGINE: dict[str, Args] = {
    "verify": ("verify", "bundle.gguf", "--trunk", TRUNK, "--threads", "1", "--n-predict", "16"),
    "plan": ("plan", "bundle.gguf", "--measure"),
    "bench": ("bench", "bundle.gguf", "--n-max", "1", *_SHORT),
    "tune": ("tune", TRUNK, "--from", DONOR, "--n-max", "1", "--p-min", "0", "--types", "", "--head-types", "",
             "--embd-types", "", *_SHORT, "--race-all", "-o", "tuned"),
    "demo": ("demo",),
    "serve": ("serve", "bundle.gguf", "--engine", "xllamacpp"),
}  # fmt: skip
VOLATILE = {"wall_s", "used", "commit", "revision", "tool", "peak_bytes", "ram_bytes", "ram_available_bytes",
            "fits", "max_n_ctx", "memory_bytes", "bytes_downloaded", "cpu", "n_cpus", "system",
            "answers", "runs_on", "machine"}
TEXTS = ("README.md", "SHA256SUMS", "nextn.json")  # of a pack: their length depends on words
WORDS = {"what", "mend", "problems", "hints", "notes", "reasons", "why", "sentence"}  # sentences, which may be reworded


def prepare(folder: Path, demo: Path, trunks: Path) -> None:
    """The inputs, in `folder`."""
    shutil.copy(demo / TRUNK, folder)
    shutil.copy(trunks / OTHER, folder)
    shutil.copytree(demo / DONOR, folder / DONOR)


def run_all(
    calls: dict[str, Args], folder: Path, hub: HubServer, change: Callable[[Args], Args] = lambda args: args
) -> dict[str, Any]:
    """Name -> document. The bundled model is made sick once it is there, and the pack is published on `hub`."""
    made: dict[str, Any] = {}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NEXTN_"))}
    env["NEXTN_DATA"] = os.environ["NEXTN_DATA"]
    env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "NEXTN_CACHE": str(folder / "cache")}
    for name, args in calls.items():
        command = [sys.executable, "-m", "nextn", *change(args), "--json"]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode in (0, 3, 4, 5), (name, done.returncode, done.stderr)
        made[name] = json.loads(done.stdout)
        if name == "attach-bundle":
            rewrite(folder / "bundle.gguf", folder / "sick.gguf", put=[("qwen35.nextn_predict_layers", "u32", 2)])
        if name == "pack":
            made["manifest"] = json.loads((folder / "pack" / "nextn.json").read_text())
            hub.add_folder("org/tiny", folder / "pack")
    return made


def masked(value: Any, folder: Path, endpoint: str, key: str = "") -> Any:
    """The document with what depends on the machine, the moment and the folder replaced by a word."""
    if key in VOLATILE and value is not None:
        return f"<{key}>"
    if key in WORDS and (isinstance(value, list) or " " in (value or "")):
        return f"<{key}>"
    if isinstance(value, dict) and str(value.get("path")).endswith(TEXTS):
        value = {**value, **dict.fromkeys({"size_bytes", "sha256", "ranges"} & value.keys(), "<text>")}
    if isinstance(value, dict) and value.get("verb") == "pack":
        value = {**value, **dict.fromkeys(("bytes_written", "peak_memory_bytes"), "<text>")}
    if isinstance(value, dict):
        return {name: masked(each, folder, endpoint, name) for name, each in value.items()}
    if isinstance(value, list):
        return [masked(each, folder, endpoint, key) for each in value]
    if isinstance(value, str):
        for real, word in ((str(folder), "<folder>"), (endpoint, "<hub>"), (sys.executable, "<python>")):
            value = value.replace(real, word)
        return re.sub(r"(?<=[@/])[0-9a-f]{12,40}\b", "<commit>", value)
    return value


def shape(value: Any) -> Any:
    """Keys and kinds of values alone; the elements of an array are taken together."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [_together([shape(each) for each in value])] if value else []
    if value is None or isinstance(value, bool | str):
        return type(value).__name__
    return "number"


def _together(shapes: list[Any]) -> Any:
    dicts = [one for one in shapes if isinstance(one, dict)]
    if not dicts:
        return sorted({json.dumps(one) for one in shapes})
    return {
        name: _together([one[name] for one in dicts if name in one]) for name in sorted({n for d in dicts for n in d})
    }
