"""A home with models where programs keep them: the Hub's cache, LM Studio's and ollama's folders."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

_PROGRAMS = ("OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME", "NEXTN_LLAMA_SERVER", "NEXTN_IK_SERVER")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LAYER = "application/vnd.ollama.image."


def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of programs and caches of a test's own, no Hub, no engine of the machine."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("NEXTN_CACHE", str(folder / "nextn"))
    for name in _PROGRAMS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return folder


def in_hub_cache(home: Path, repo: str, source: Path, commit: str = COMMIT) -> Path:
    """A file, or the files of a folder, as a snapshot of a repository in `home`/hub."""
    folder = home / "hub" / ("models--" + repo.replace("/", "--"))
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in [source] if source.is_file() else source.iterdir():
        blob = folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    return snapshot


def in_lm_studio(home: Path, repository: str, source: Path, name: str | None = None) -> Path:
    """A copy of a file as LM Studio keeps it; `repository` is PUBLISHER/REPOSITORY."""
    folder = home / ".lmstudio" / "models" / repository
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, folder / (name or source.name)))


def in_ollama(home: Path, place: str, source: Path, projector: Path | None = None) -> Path:
    """A file as ollama keeps it: its blob; `place` is HOST/NAMESPACE/NAME/TAG below the manifests."""
    root = home / ".ollama" / "models"
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    layers, blobs = [], []
    for kind, path in (("model", source), ("projector", projector)):
        if path is None:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        blobs.append(Path(shutil.copy(path, root / "blobs" / f"sha256-{digest}")))
        layers.append({"mediaType": _LAYER + kind, "digest": f"sha256:{digest}", "size": 1})
    manifest = root / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blobs[0]
