"""`nextn extract`: write the block to its own file."""

from __future__ import annotations

from pathlib import Path

from ..donors.open_donor import open_block, open_draft
from ..errors import UsageError
from ..gguf.types import TensorType
from ..layouts.options import embeddings_type, named_type
from ..progress import Progress
from ..remote.opening import http_options, opened
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
    for_trunk: str | Path | None = None,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the block to its own file: a runnable sidecar, or with `block_only` nothing but the block.

    `donor`, `expect`, `for_engine`, `duplicates` and `limit_rate` are as in `attach`; so is `qkv`, for GGUF donors.
    `for_trunk`: the GGUF for which an EAGLE-3, DFlash or DSpark checkpoint becomes a sidecar; it has no block.

    Raises NoBlock, UnsupportedModel, QuantizeError, FormatError, DonorMismatch (`expect`), OutputExists, NoSpace,
    StorageError, RemoteError, UsageError.
    """
    from ..layouts.extract import plan_extract
    from ..layouts.options import ExtractOptions

    if for_trunk is not None:
        wrong = {"--block-only": block_only, "--qkv": qkv, "--duplicates": duplicates != "keep", "--for": for_engine}
        if flag := next((flag for flag, given in wrong.items() if given), None):
            raise UsageError(f"{donor}: {flag} is for MTP blocks, --for-trunk for other drafts; leave one of them out.")
        return _draft(donor, for_trunk, named_type(type), out, expect, limit_rate, dry_run, progress)
    options = ExtractOptions(block_only, named_type(type), embeddings_type(embd_type), out, qkv, for_engine)
    with open_block(donor, limit_rate, with_tokenizer=True) as source:
        block, notes = source.to_write(duplicates)
        plan = plan_extract(block, options).noted(notes)
        return source.run(plan, expect=expect, why=None, dry_run=dry_run, progress=progress)


def _draft(
    source: str | Path,
    target: str | Path,
    type: TensorType | None,
    out: str | Path | None,
    expect: str | None,
    limit_rate: float | None,
    dry_run: bool,
    progress: Progress | None,
) -> Result:
    """A published draft as the sidecar of `target`."""
    from ..layouts.draft import plan_draft
    from ..layouts.options import ExtractOptions

    options = ExtractOptions(type=type, out=out)
    with open_draft(source, limit_rate) as (draft, donor), opened(target, http_options(limit_rate)) as trunk:
        if trunk.model is None:
            raise UsageError(f"{target}: this is a checkpoint, but --for-trunk needs a GGUF, to copy its tokenizer.")
        plan = plan_draft(draft, trunk.model, options, local=trunk.remote is None)
        return donor.run(plan, expect=expect, why=None, dry_run=dry_run, progress=progress)
