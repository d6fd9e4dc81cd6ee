"""The model card: what is in the folder, what each variant costs, how to run it, and what was verified."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..archs import FAMILIES
from ..archs.engines import IK_UP_TO, Does
from ..compat import verdict
from ..discovery import llama_cpp_names as hf_rules
from ..layouts.pack import BLOCK_SHARD, FIRST, MTP, PLAIN, SIDECAR, Quant, Variant
from ..printable import printable, several_lines
from ..schemas.inspect import DraftEntry
from ..shell import shell
from ..units import size
from . import card_draft
from .manifest import NAME as MANIFEST
from .sums import NAME as SUMS
from .verified import Verified

NAME = "README.md"
FRAGMENT = "card-sections.md"  # for a card of the user's own
_LAYOUTS = {"trunk-only": "without a block", "shards": "shards with a block", "sidecar": "trunk and sidecar"}
REPO = "ORG/REPO"  # stands for the repository where its name is not given


@dataclass(frozen=True)
class Card:
    """What a model card says besides the files."""

    title: str
    architecture: str
    quants: Sequence[Quant]
    sizes: Mapping[str, int]  # file name -> bytes
    repo: str | None = None  # ORG/NAME it will be published as
    base_model: str | None = None  # ORG/NAME of the checkpoint
    verified: Sequence[Verified] = ()
    drafts: Mapping[str, DraftEntry] = field(default_factory=dict)  # sidecar's name -> a draft that is its own model

    def text(self, *, fragment: bool = False) -> str:
        """The whole file; `fragment`: its sections, to be pasted into another card."""
        about = "multi-token prediction" if len(self.drafts) < len(self._sidecars) or not self.drafts else "a draft"
        heading = f"{_plain(self.title)}: GGUF with and without {about}"
        start = [self._front(), f"# {heading}"]
        if fragment:
            tags = ", ".join(self._tags)
            start = [f"<!-- Sections for a model card, made with nextn pack. Tags for its metadata: {tags}. -->"]
        blocks = [
            *start,
            self._intro(),
            self._table(),
            *self._about_drafts(),
            "## Get one variant",
            self._get(),
            *self._llama_cpp(),
            *self._ik(),
            *self._lm_studio(),
            "## What was verified",
            *self._verified(),
            "## Files",
            f"`{SUMS}` has the sha256 of every file that `nextn pack` made or linked (`sha256sum -c {SUMS}`); "
            f"`{MANIFEST}` names each file's part in "
            "every variant. Made with `nextn pack`.",
        ]
        return several_lines("\n\n".join(block for block in blocks if block)) + "\n"

    # -- parts --------------------------------------------------------------------------------------------------------

    def _front(self) -> str:
        lines = ["---"]
        if self.base_model is not None:
            lines += [f"base_model: {json.dumps(self.base_model)}", "base_model_relation: quantized"]
        return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in self._tags), "---"])

    @property
    def _sidecars(self) -> set[str]:
        """What stands for each quant's block: its sidecar's name, or the label of a shard set with a block."""
        return {quant.variants[MTP].sidecar or quant.label for quant in self.quants if MTP in quant.variants}

    @property
    def _tags(self) -> list[str]:
        kinds = {one.spec_type.removeprefix("draft-") for one in self.drafts.values()}
        return ["gguf", *sorted(kinds | ({"mtp"} if len(self.drafts) < len(self._sidecars) else set()))]

    def _spec_type(self, variant: Variant) -> str:
        draft = self.drafts.get(variant.sidecar or "")
        return "draft-mtp" if draft is None else draft.spec_type

    def _about_drafts(self) -> list[str]:
        if not self.drafts:
            return []
        return ["## The draft", card_draft.table(self.drafts, self.sizes, {name: _span(name) for name in self.drafts})]

    def _intro(self) -> str:
        shared = any(quant.layout == "shards" for quant in self.quants)
        more = (
            " The trunk's shards have two names because engines find shards by prefix and count; equal files "
            "are equal in bytes, so the Hub and every cache store them once."
            if shared
            else ""
        )
        adds = "its multi-token prediction block, with which an engine drafts tokens"
        if len(self.drafts) == len(self._sidecars) and self.drafts:
            (kind, *others) = {one.title: None for one in self.drafts.values()}
            what = card_draft.article(kind) + " draft" if not others else "a draft"
            adds = f"{what}, a small model that reads this one's hidden states; an engine drafts tokens with it"
        return (
            f"Two variants of each quant: `{PLAIN}` is the model alone, `{MTP}` adds {adds} "
            "and checks them in one pass. The trunk's tensors are the same bytes in "
            f"both.{more}"
        )

    def _bytes(self, variant: Variant) -> int:
        return sum(self.sizes[role.name] for role in variant.roles)

    def _table(self) -> str:
        rows = ["| quant | variant | layout | load | files | size | on top of the other |", "|" + " --- |" * 7]
        for quant in self.quants:
            plain = {role.name for role in quant.variants[PLAIN].roles}
            for name, variant in quant.variants.items():
                load = _span(variant.entry) + (f" with {_span(variant.sidecar)}" if variant.sidecar else "")
                own = self._own(variant, plain) if name == MTP else None
                how = {"shards": "shards", "sidecar": "trunk and sidecar"}[quant.layout] if name == MTP else "trunk"
                if name == MTP and variant.sidecar in self.drafts:
                    how = "trunk and draft"
                cells = (quant.label, name, how, load, str(len(variant.roles)), size(self._bytes(variant)))
                rows.append("| " + " | ".join((*cells, "-" if own is None else size(own))) + " |")
        return "\n".join(rows)

    def _own(self, variant: Variant, plain: set[str]) -> int:
        """Bytes that the mtp variant needs when the plain one is already here: equal files are not downloaded again."""
        return sum(
            self.sizes[role.name]
            for role in variant.roles
            if role.name not in plain and role.part in (FIRST, BLOCK_SHARD, SIDECAR)
        )

    def _get(self) -> str:
        quant = self.quants[0].label
        return _code(
            shell("nextn", "pull", self._repo, "--quant", quant, "--variant", "mtp", "-o", "models/"),
            shell("nextn", "pull", self._repo, "--quant", quant, "--variant", "plain", "-o", "models/")
            + "   # only what is missing",
        )

    @property
    def _repo(self) -> str:
        return self.repo or REPO

    def _hf(self, entry: str, label: str) -> tuple[str, ...]:
        """`-hf` for this very file: by a tag that matches no other model in this folder, else by its name."""
        for tag in (label, f"MTP-{label}", _base(entry)):
            if hf_rules.main_files(self.sizes, tag) == [entry] and re.fullmatch(r"[\w.-]+", tag):
                return "-hf", f"{self._repo}:{tag}"
        return "-hf", self._repo, "-hff", entry

    def _llama_cpp(self) -> list[str]:
        lines = []
        for quant in self.quants:
            plain, mtp = quant.variants[PLAIN], quant.variants[MTP]
            drafting = ("--spec-type", self._spec_type(mtp))
            what = "with its draft" if mtp.sidecar in self.drafts else "with MTP"
            lines += [
                f"# {printable(quant.label)} {what}, then without",
                shell("llama-server", *self._hf(mtp.entry, quant.label), *drafting),
                shell("llama-server", *_local(mtp), *drafting) + "   # from local files",
                shell("llama-server", *self._hf(plain.entry, quant.label)),
            ]
        return ["## llama.cpp", self._measured("llama.cpp"), _code(*lines)]

    def _measured(self, engine: str) -> str:
        """What the engine does with each layout in the folder, as measured; nothing where that is not known."""
        said = []
        blocks = [quant for quant in self.quants if quant.variants[MTP].sidecar not in self.drafts]
        for layout in dict.fromkeys(("trunk-only", *(quant.layout for quant in blocks))):
            found = verdict(self.architecture, layout, engine)
            if found is not None:
                said.append(f"- {_LAYOUTS[layout]}: {engine} {_plain(found.words)}")
        return "\n".join((f"Measured with tiny models of `{self.architecture}`:\n", *said)) if said else ""

    def _ik(self) -> list[str]:
        family = FAMILIES.get(self.architecture)
        support = family.ik if family is not None else None
        lines = []
        for quant in self.quants:
            mtp = quant.variants[MTP]
            if support is not None and support.drafts_with(quant.layout) and mtp.sidecar not in self.drafts:
                drafting = ("--spec-type", "mtp:n_max=2,p_min=0.0")
                lines.append(shell("llama-server", *_local(mtp), *drafting) + f"   # {printable(quant.label)}")
        if support is None or support.trunk is not Does.REFUSES:
            plain = [quant.variants[PLAIN] for quant in self.quants]
            lines += [shell("llama-server", *_local(each)) + "   # without MTP" for each in plain]
        return [
            "## ik_llama.cpp",
            self._measured("ik_llama.cpp"),
            _code(*lines) if lines else "",
            self._bundling(
                f"{IK_UP_TO} drafts with a block in the model, but does not support sidecars; make one file of both:"
            )
            if self._bundles_for_ik
            else "",
        ]

    @property
    def _bundles_for_ik(self) -> bool:
        """Whether ik_llama.cpp drafts with a bundle and not with a sidecar."""
        family = FAMILIES.get(self.architecture)
        support = family.ik if family is not None else None
        return support is not None and support.drafts_with("bundle") and not support.drafts_with("sidecar")

    def _lm_studio(self) -> list[str]:
        return [
            "## LM Studio",
            "Load the `plain` variant as any other model. It drafts with bundled models only, and was not tried by "
            "the program that wrote this card.",
            "Trunk and sidecar become one file as shown for ik_llama.cpp."
            if self._bundles_for_ik and self._beside
            else self._bundling("To bundle trunk and sidecar:"),
        ]

    def _bundling(self, sentence: str) -> str:
        if not self._beside:
            return ""
        return f"{sentence}\n\n" + _code(
            *(
                shell("nextn", "attach", Path(mtp.entry), "--from", Path(str(mtp.sidecar)), "--layout", "bundle")
                for mtp in self._beside
            )
        )

    @property
    def _beside(self) -> list[Variant]:
        """The variants that are a trunk with a sidecar that holds an MTP block."""
        found = [quant.variants[MTP] for quant in self.quants if quant.layout == "sidecar"]
        return [variant for variant in found if variant.sidecar not in self.drafts]

    def _verified(self) -> list[str]:
        if not self.verified:
            return ["Nothing was verified: no verdict of `nextn verify` was given when this folder was made."]
        rows = [
            "| model | engine | verdict | greedy text with and without MTP | accepted by position "
            f"| shuffled {'draft' if self.drafts else 'block'} | tokens/s off | on |",
            "|" + " --- |" * 8,
        ]
        for one in self.verified:
            text = {True: "the same", False: "differs", None: "not compared"}[one.same_text]
            accepted = "; ".join(
                f"n_max {_plain(n)}: " + " ".join(f"{100 * share:.0f} %" for share in some)
                for n, some in one.acceptance.items()
            )
            model = _span(one.model) + (f" with {_span(one.sidecar)}" if one.sidecar else "")
            cells = (
                model, _plain(one.engine) or "none: files only", one.verdict, text, accepted or "-",
                "-" if one.control is None else f"{100 * one.control:.0f} %",
                "-" if one.tps_off is None else f"{one.tps_off:,.0f}",
                ", ".join(f"{speed:,.0f} (n_max {_plain(n)})" for n, speed in one.tps_on.items()) or "-",
            )  # fmt: skip
            rows.append("| " + " | ".join(cells) + " |")
        named = {one.model for one in self.verified}
        left = [quant.label for quant in self.quants if not named & {v.entry for v in quant.variants.values()}]
        notes = ["Tokens per second are single runs on the publisher's machine, not a benchmark."]
        notes += [f"Not verified: {', '.join(left)}."] if left else []
        because = [f"- {_span(one.model)}: {_plain(reason)}" for one in self.verified for reason in one.reasons]
        return ["\n".join(rows), "\n".join(because), " ".join(notes)]


def _base(entry: str) -> str:
    return re.sub(r"(-\d{5}-of-\d{5})?\.gguf\Z", "", entry)


def _local(variant: Variant) -> tuple[object, ...]:
    """The words that name a variant's files."""
    beside = () if variant.sidecar is None else ("-md", Path(variant.sidecar))
    return ("-m", Path(variant.entry), *beside)


def _code(*lines: str) -> str:
    """A block of commands; its fence is longer than any backtick run a name in them could contain."""
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    return "\n".join((fence, *lines, fence))


def _span(text: str) -> str:
    """A name as inline code in text or in a table cell."""
    shown = printable(text, 1000).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _plain(text: str) -> str:
    """Text from a file as one line without markup."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))
