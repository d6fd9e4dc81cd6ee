"""`nextn inspect --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from .base import Bytes, Count, Document, DocumentPart, Sha256, doc
from .doctor import FindingEntry


class DraftEntry(DocumentPart, kw_only=True):
    """A draft that is a model of its own."""

    title: Annotated[str, doc("EAGLE-3, DFlash, DSpark, or Gemma 4 assistant")]
    spec_type: Annotated[str, doc("for llama.cpp's --spec-type")]
    target_width: Annotated[int, doc("the hidden size of the model that it drafts for; 0: the header does not say")]
    target_layers: Annotated[list[int] | None, doc("layers of it whose inputs the draft reads; null: none, or no list")]
    n_draft_vocab: Annotated[int | None, doc("tokens of a reduced vocabulary, mapped by d2t; null: it has them all")]
    own_embeddings: Annotated[bool, doc("false: it uses the model's")]
    own_head: Annotated[bool, doc("false: it uses the model's")]
    most_tokens: Annotated[int | None, doc("tokens that it can draft at once; null: as many as asked for")]


class InspectDocument(Document, tag="inspect", kw_only=True):
    """What is in a model or a checkpoint."""

    path: Annotated[str, doc("path to load, or the address")]
    revision: Annotated[str | None, doc("the commit of a remote model")]
    name: str | None
    architecture: str
    n_layer_trunk: Annotated[int | None, doc("layers without the MTP blocks; null: not known, or a draft of its own")]
    n_layer_nextn: Annotated[Count, doc("MTP blocks that are present")]
    shape: Annotated[
        Literal["bundled", "trunk-only", "sidecar", "donor", "checkpoint", "set"],
        doc("set: shards that cannot be opened as one model"),
    ]
    block_bytes: Bytes
    size_bytes: Annotated[Bytes | None, doc("null: not known without requesting every shard")]
    n_files: Annotated[Count, doc("0 for a set that cannot be opened")]
    n_tensors: Count
    n_vocab: int | None
    gguf_version: Annotated[Literal[2, 3] | None, doc("null: a checkpoint")]
    alignment: Annotated[int | None, doc("of tensor data, in bytes; null: a checkpoint")]
    draft: Annotated[DraftEntry | None, doc("null: another kind of file")]
    types: Annotated[dict[str, int], doc("type name -> stored bytes; of a checkpoint the block's")]
    provenance: Annotated[dict[str, str] | None, doc("where the block came from, when nextn attached it")]
    sidecars: Annotated[list[str], doc("paths of sidecars that could belong to it")]
    runs_on: Annotated[
        dict[str, str],
        doc(
            "engine -> what it does with the file, as measured with tiny models of this architecture and layout, with "
            "the builds that were measured; 'not as it is: ...' where a finding is an error"
        ),
    ]
    problems: Annotated[list[str], doc("sentences of the findings that are errors and warnings")]
    hints: list[str]
    findings: Annotated[list[FindingEntry], doc("what doctor finds from headers alone")]
    block_sha256: Annotated[Sha256 | None, doc("with --block-hash: the value for attach --expect")]
    bytes_downloaded: Bytes
