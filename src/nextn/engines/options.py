"""What a `llama-server` can do, and how its options are spelled: read from its `--help`, never from a version number.

Forks and distributions number their builds as they like, and options were renamed from month to month
(`--draft-max` became `--spec-draft-n-max`, and stayed in the help text as one that "has been removed").
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from nextn.engines.draft_type import MTP, spec_type
from nextn.errors import EngineMissing

LLAMA_CPP, IK_LLAMA_CPP = "llama.cpp", "ik_llama.cpp"

_ENTRY = re.compile(r"^ *-.*(?:\n(?! *-).*)*", re.MULTILINE)  # an option and the lines that explain it
_REMOVED = re.compile(r"argument has been removed")
_SPELLINGS = {
    "n_max": ("--spec-draft-n-max", "--draft-max"),
    "p_min": ("--spec-draft-p-min", "--draft-p-min"),
    "sidecar": ("-md", "--model-draft"),
    "rpc": ("--rpc",),
    "presets": ("--models-preset",),
}


@dataclass(frozen=True)
class ServerOptions:
    """The options of one `llama-server`, of llama.cpp or of ik_llama.cpp."""

    help: str = field(repr=False)  # what its `--help` prints

    @functools.cached_property
    def _living(self) -> str:
        """The help text without options that are listed only as removed."""
        return _ENTRY.sub(lambda entry: "" if _REMOVED.search(entry[0]) else entry[0], self.help)

    def has(self, option: str) -> bool:
        """Whether there is an option with exactly this name."""
        return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", self._living) is not None

    def spelling(self, feature: str) -> str | None:
        """The option for "n_max", "p_min", "sidecar", "rpc" or "presets"; None when there is none."""
        return next((name for name in _SPELLINGS[feature] if self.has(name)), None)

    @property
    def kind(self) -> str:
        """Which project's options: "llama.cpp", "ik_llama.cpp", or "" when the server cannot draft with MTP blocks."""
        if "draft-mtp" in self._living:
            return LLAMA_CPP
        return IK_LLAMA_CPP if re.search(r"\bmtp:n_max", self._living) else ""

    def features(self) -> dict[str, bool]:
        """What the server can do: draft with MTP blocks, take a sidecar, use RPC workers, route by presets."""
        return {"mtp": bool(self.kind), **{name: self.spelling(name) is not None for name in _SPELLINGS}}

    def drafting(self, n_max: int | None, p_min: float | None, sidecar: Path | None) -> list[str]:
        """The options that turn drafting on, with the sidecar or the model's own block.

        None leaves a setting to the engine's default; a setting for which the server has no option is left out.
        Raises EngineMissing for a kind of draft that the server does not know.
        """
        kind = spec_type(sidecar)
        if kind != MTP and kind not in self._living:
            raise EngineMissing(
                f"this llama-server has no --spec-type {kind}, which {sidecar} needs; use a newer build of llama.cpp"
            )
        if self.kind == IK_LLAMA_CPP:
            settings = [] if n_max is None else [f"n_max={n_max}"]
            settings += [] if p_min is None else [f"p_min={p_min:g}"]
            args = ["--spec-type", "mtp" + (":" + ",".join(settings) if settings else "")]
        else:
            args = ["--spec-type", kind]
            if n_max is not None and (option := self.spelling("n_max")):
                args += [option, str(n_max)]
            if p_min is not None and (option := self.spelling("p_min")):
                args += [option, f"{p_min:g}"]
        return args if sidecar is None else [*args, self.spelling("sidecar") or "-md", os.fspath(sidecar)]

    def whole_prompts(self) -> list[str]:
        """The options with which all new tokens of a prompt are one batch after those in the cache.

        Otherwise a server decodes the last tokens of a prompt apart, so that it can save the state before them; and
        without saved states, it keeps the cache of sliding windows only if that is as long as the context.
        """
        known = next((name for name in ("--ctx-checkpoints", "--swa-checkpoints") if self.has(name)), None)
        return ([] if known is None else [known, "0"]) + (["--swa-full"] if self.has("--swa-full") else [])

    def quiet(self) -> list[str]:
        """The options for measuring: no warm-up, no web page, no cache, no fitting, a log that shows acceptance."""
        args = ["--no-warmup"] if self.has("--no-warmup") else []
        if self.has("--no-webui"):
            args += ["--no-webui"]
        elif self.has("--no-ui"):
            args += ["--no-ui"]
        elif "--webui NAME" in self.help:
            args += ["--webui", "none"]
        if "--fit [on|off]" in self.help:
            args += ["--fit", "off"]
        if self.has("-cram"):
            args += ["-cram", "0"]
        if self.has("-lv"):
            args += ["-lv", "4"]
        return args
