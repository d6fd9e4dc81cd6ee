"""`nextn plan --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .base import Bytes, Count, Document, DocumentPart, doc

SetupId = Literal["no_mtp", "bundled_off", "bundled_on", "sidecar", "shards"]


class RunSettings(DocumentPart):
    """How the model would be run."""

    n_ctx: Annotated[Count, doc("tokens")]
    kv_type_k: str
    kv_type_v: str
    n_parallel: Annotated[Count, doc("sequences that share the context")]
    n_max: Annotated[Count, doc("maximum tokens drafted at a time")]
    n_gpu_layers: Annotated[int | None, doc("null: the engine's choice")]
    n_batch: Annotated[Count, doc("tokens")]
    n_ubatch: Annotated[Count, doc("tokens")]


class MachineMemory(DocumentPart):
    """The memory there is; null: not known."""

    ram_bytes: int | None
    ram_available_bytes: int | None
    gpu_memory_bytes: int | None


class PlannedBlock(DocumentPart):
    """Where the block's size comes from."""

    source: Literal["checkpoint", "bundled", "sidecar", "donor", "family"]
    origin: str | None
    n_layer_nextn: Count
    exact: Annotated[bool, doc("false: the size that blocks of this family have")]


class SetupFile(DocumentPart):
    """One file of a setup."""

    name: str
    size_bytes: Bytes
    how: Annotated[Literal["there", "write", "link"], doc("whether it exists, or how it would be made")]


class Columns(DocumentPart):
    """What memory is taken for."""

    weights_bytes: Annotated[Bytes, doc("the part of the files that is mapped or allocated")]
    repacked_bytes: Annotated[Bytes, doc("rearranged copies of some weights, which the CPU keeps")]
    kv_cache_bytes: Annotated[Bytes, doc("keys, values and indexer keys of all contexts")]
    recurrent_bytes: Annotated[Bytes, doc("recurrent state, all copies")]
    compute_bytes: Annotated[Bytes, doc("compute buffers of all contexts")]
    output_bytes: Annotated[Bytes, doc("logits, and hidden rows for the draft; by formula")]
    total_bytes: Annotated[Bytes, doc("all of these")]


class KvCells(DocumentPart):
    """Layers of one context on one device that keep the same number of cells."""

    context: Literal["target", "draft"]
    kind: Literal["full", "window", "indexer"]
    n_layers: Annotated[Count, doc("layers together")]
    bytes_per_cell: Annotated[Bytes, doc("of all these layers")]
    max_cells: Annotated[int | None, doc("maximum cells of one sequence; null: as many as the context has")]


class Linear(DocumentPart):
    """How the total follows the context."""

    fixed_bytes: Annotated[Bytes, doc("weights, copies, outputs: the same for every context")]
    kv: list[KvCells]
    recurrent_bytes_per_copy: Annotated[Bytes, doc("of all sequences")]
    recurrent_copies: Annotated[
        Count, doc("1, plus one for each drafted token where the engine rolls back")
    ]
    compute_fixed_bytes: int
    compute_bytes_per_token: Annotated[float, Meta(ge=0)]


class DeviceMemory(Columns):
    """What one device holds."""

    device: Annotated[str, doc("Host is main memory")]
    needed_bytes: Annotated[
        Bytes, doc("what must stay resident: the total without pages of the file that the kernel can drop")
    ]
    linear: Annotated[
        Linear,
        doc(
            "total at another n_ctx: fixed + sum over kv of bytes_per_cell * n_parallel * min(cells, max_cells) + "
            "recurrent_bytes_per_copy * recurrent_copies + compute_fixed + compute_bytes_per_token * n, where n is "
            "n_ctx rounded up to a multiple of 256 and cells is n / n_parallel rounded up likewise"
        ),
    ]


class Totals(Columns):
    """All devices."""

    needed_bytes: Annotated[
        Bytes, doc("what must stay resident: the total without pages of the file that the kernel can drop")
    ]


class MeasuredMemory(Columns):
    """A real run: what the engine logged that it allocated, and its process; null: not known."""

    rss_anonymous_bytes: int | None
    rss_file_bytes: int | None
    peak_bytes: Annotated[int | None, doc("VmHWM of the engine's process")]


class PlannedSetup(DocumentPart):
    """One way to run the model."""

    id: SetupId
    title: str
    mtp: Annotated[bool, doc("whether it drafts")]
    available: bool
    why_not: str | None
    source: Annotated[
        Literal["engine", "header"] | None, doc("engine: its own report, made without loading; header: formulas")
    ]
    disk_bytes: Annotated[int | None, doc("all files of the setup")]
    disk_new_bytes: Annotated[int | None, doc("bytes that making it would write")]
    files: list[SetupFile]
    devices: list[DeviceMemory]
    totals: Annotated[Totals | None, doc("all devices")]
    measured: Annotated[MeasuredMemory | None, doc("with --measure")]
    fits: Annotated[bool | None, doc("null: not known")]
    max_n_ctx: Annotated[
        int | None,
        doc("longest context that fits, at most what the model was trained on; 0: none; null: not known"),
    ]
    notes: list[str]


class Publishing(DocumentPart):
    """Bytes of publishing both with and without MTP."""

    separate_bytes: Bytes
    shared_bytes: int | None
    saved_bytes: int | None
    how: Literal["sidecar", "shards"] | None
    by_layout: dict[str, Bytes]


class PlanDocument(Document, tag="plan", kw_only=True):
    """What each setup of a model costs."""

    model: str
    name: str | None
    architecture: str
    n_layer_trunk: Count
    n_ctx_train: Annotated[Count, doc("tokens; 0: not known")]
    settings: RunSettings
    engine: Annotated[str | None, doc("name and version; null: figures come from headers")]
    machine: MachineMemory
    block: PlannedBlock | None
    setups: Annotated[list[PlannedSetup], Meta(min_length=5)]
    publishing: Publishing | None
    unused_block_bytes: Annotated[int | None, doc("bundled, off, minus no MTP")]
    used_block_bytes: Annotated[int | None, doc("bundled, on, minus no MTP")]
    sidecar_bytes: Annotated[int | None, doc("sidecar minus no MTP")]
    answers: list[str]
    notes: list[str]
