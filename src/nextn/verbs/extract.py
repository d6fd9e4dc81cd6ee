"""`nextn extract`: write the block to its own file."""

from __future__ import annotations

from pathlib import Path

from ..donors.open_donor import open_block
from ..gguf.types import TensorType
from ..layouts.options import embeddings_type, named_type
from ..progress import Progress
from ..writing.result import Result


def extract(
    donor: str | Path,
    *,
    out: str | Path | None = None,
    block_only: bool = False,
    type: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    qkv: str | None = None,
    for_engine: str | None = None,
    duplicates: str = "keep",
    expect: str | None = None,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the block to its own file: a runnable sidecar, or with `block_only` nothing but the block.

    `donor`, `expect`, `for_engine`, `duplicates` and `limit_rate` are as in `attach`; so is `qkv`, for GGUF donors.

    Raises NoBlock, UnsupportedModel, QuantizeError, FormatError, DonorMismatch (`expect`), OutputExists, NoSpace,
    StorageError, RemoteError, UsageError.
    """
    from ..layouts.extract import plan_extract
    from ..layouts.options import ExtractOptions

    options = ExtractOptions(block_only, named_type(type), embeddings_type(embd_type), out, qkv, for_engine)
    with open_block(donor, limit_rate, with_tokenizer=True) as source:
        block, notes = source.to_write(duplicates)
        plan = plan_extract(block, options).noted(notes)
        return source.run(plan, expect=expect, why=None, dry_run=dry_run, progress=progress)
