"""ollama's models: manifests say which blobs make up a model, and what it is called.

Layout: `manifests/HOST/NAMESPACE/NAME/TAG`, JSON with layers; a layer's digest `sha256:X` is `blobs/sha256-X`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..bounded import parse_json, read_bounded
from ..errors import NextnError
from ..shell import shell

MANIFESTS, BLOBS = "manifests", "blobs"
_MANIFEST_BYTES = 1 << 20
_MODEL = "application/vnd.ollama.image.model"
_PROJECTOR = "application/vnd.ollama.image.projector"
_ADAPTER = "application/vnd.ollama.image.adapter"
_HOST, _NAMESPACE = "registry.ollama.ai", "library"  # what a name without them means


@dataclass(frozen=True)
class OllamaModel:
    """A model as ollama lists it."""

    name: str  # as `ollama run` takes it, with its tag
    last: str  # NAME of the layout
    tag: str
    manifest: Path
    root: Path

    @property
    def blob(self) -> Path | None:
        """Its GGUF, which need not exist; None for a manifest that names none."""
        return next(iter(self._blobs(_MODEL)), None)

    @property
    def projectors(self) -> list[Path]:
        """Its multimodal projectors."""
        return self._blobs(_PROJECTOR)

    @property
    def adapters(self) -> list[Path]:
        """Adapters (LoRA) that ollama applies to it."""
        return self._blobs(_ADAPTER)

    @property
    def is_readable(self) -> bool:
        """Whether its manifest says what it is made of."""
        return self._layers is not None

    @property
    def get_again(self) -> str:
        """What to do about a file that is missing or damaged."""
        return f"get it again: {shell('ollama', 'pull', self.name)}"

    @property
    def lacking(self) -> str | None:
        """Why there is no GGUF to load, after its name; None if there is one."""
        blob = self.blob
        if not self.is_readable:
            return f"its manifest {self.manifest} cannot be read; {self.get_again}"
        if blob is None:
            return "no GGUF of it is on this machine, as with models that run on ollama's servers"
        return None if blob.exists() else f"its file {blob} is missing; {self.get_again}"

    @cached_property
    def _layers(self) -> list[tuple[str, str]] | None:
        """Kind and digest of each layer; None if the manifest cannot be read."""
        try:
            layers: Any = parse_json(read_bounded(self.manifest, _MANIFEST_BYTES), self.manifest)["layers"]
            return [(str(each["mediaType"]), str(each["digest"])) for each in layers or ()]
        except (NextnError, KeyError, TypeError):
            return None

    def _blobs(self, kind: str) -> list[Path]:
        names = [digest.replace(":", "-") for what, digest in self._layers or () if what == kind]
        return [self.root / BLOBS / name for name in names if "/" not in name and name.startswith("sha256-")]


def is_called(model: str, wanted: str) -> bool:
    """Whether ollama's model of this full name is meant by `wanted`, in any letter case."""
    return model.lower() in (wanted.lower(), f"{wanted.lower()}:latest")


def ollama_models(root: Path) -> list[OllamaModel]:
    """What the manifests below `root` name, sorted."""
    return sorted(_models(root), key=lambda each: each.name)


def _models(root: Path) -> Iterator[OllamaModel]:
    manifests = root / MANIFESTS
    for folder, _, files in os.walk(manifests):
        for tag in files:
            path = Path(folder, tag)
            parts = path.relative_to(manifests).parts
            if len(parts) < 2 or any(part.startswith(".") for part in parts):
                continue
            host, space, last = ("", "", *parts[:-1])[-3:]
            named = [host] if host != _HOST else []
            named += [space] if space != _NAMESPACE or named else []
            name = "/".join([part for part in named if part] + [last])
            yield OllamaModel(f"{name}:{tag}", last, tag, path, root)
