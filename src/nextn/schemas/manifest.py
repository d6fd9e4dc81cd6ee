"""`nextn.json`, which `nextn pack` writes beside published models."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import Bytes, Sha256, doc

# A path in the repository: `publish.manifest` refuses others with its own message, as it does parts such as '..'.
RepositoryPath = Annotated[str, Meta(min_length=1, extra_json_schema={"pattern": r"^[^/\\]+(/[^/\\]+)*$"})]
Name = Annotated[str, Meta(min_length=1)]


class ManifestPart(Struct):
    """An object inside a manifest. Keys that this version does not know are passed over."""


class PublishedFile(ManifestPart):
    """One published file."""

    path: RepositoryPath
    size_bytes: Bytes
    sha256: Annotated[Sha256, doc("of the complete file; identical files have the same one")]


class VariantFile(ManifestPart):
    """What a file is in one variant."""

    path: RepositoryPath
    part: Annotated[
        Literal["trunk", "first-shard", "trunk-shard", "block-shard", "sidecar"],
        doc("trunk: the whole model in one file; first-shard: metadata, different with and without block"),
    ]


class PublishedVariant(ManifestPart, kw_only=True):
    """The files that one variant of one quant needs."""

    entry: Annotated[RepositoryPath, doc("file to load")]
    sidecar: Annotated[RepositoryPath | None, doc("file to pass with -md")] = None
    files: Annotated[list[VariantFile], doc("everything that this variant needs")]


class PublishedQuant(ManifestPart):
    """One quant of the model."""

    quant: Annotated[Name, doc("for instance Q4_K_M")]
    layout: Annotated[Literal["shards", "sidecar"], doc("how the mtp variant is made")]
    variants: dict[Literal["plain", "mtp"], PublishedVariant]


class PublishedVerdict(ManifestPart, kw_only=True):
    """What 'nextn verify' found about one variant."""

    model: Annotated[RepositoryPath, doc("file to load")]
    sidecar: RepositoryPath | None
    verdict: Literal["passed", "FAILED", "cannot tell"]
    engine: Annotated[str, doc("name and version; empty when only files were compared")]
    same_text: Annotated[bool | None, doc("greedy text with and without drafting; null: not compared")]
    acceptance: Annotated[dict[str, list[float]], doc("n_max -> share accepted by position")]
    control: Annotated[float | None, doc("acceptance with shuffled weights")]
    tps_off: Annotated[float | None, doc("tokens per second without drafting")]
    tps_on: Annotated[dict[str, float], doc("n_max -> tokens per second")]
    reasons: list[str]


class ManifestDocument(ManifestPart, tag_field="kind", tag="manifest", kw_only=True):
    """Which part every published file is, in every variant of every quant."""

    version: Literal[1] = 1
    tool: Annotated[str, doc("what wrote it")]
    model: Annotated[str, doc("name for people")]
    architecture: Annotated[str, doc("general.architecture")]
    repo: Annotated[str | None, doc("where it is published, as ORG/NAME")] = None
    base_model: Annotated[str | None, doc("the checkpoint, as ORG/NAME")] = None
    license: Annotated[str | None, doc("the model's, as general.license names it")] = None
    card_sha256: Annotated[Sha256 | None, doc("of the card that was written with this manifest")] = None
    files: list[PublishedFile]
    quants: list[PublishedQuant]
    verified: Annotated[list[PublishedVerdict] | None, doc("verdicts that the model card shows")] = None
