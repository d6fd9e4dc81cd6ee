"""`nextn explode`: a model as a set of shards, down to one tensor per file."""

from __future__ import annotations

from pathlib import Path

from ..gguf.files import open_model
from ..layouts.explode import ExplodeOptions, plan_explode
from ..progress import Progress
from ..writing.plan import LinkMode
from ..writing.result import Result, carry_out, link_mode


def explode(
    model: str | Path,
    *,
    out: str | Path | None = None,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    metadata_first: bool = False,
    link: str | LinkMode = LinkMode.AUTO,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write a model as shards with at most `max_tensors` tensors (default 1) or `max_bytes` bytes of tensors each.

    `model`: a GGUF, any shard of a set, or a folder with one set. `metadata_first`: the first shard holds no tensors.
    Sets are like those of `llama-gguf-split`. A shard identical to an existing one is linked.

    Raises UsageError, FormatError, IncompleteModel, OutputExists, NoSpace, StorageError.
    """
    options = ExplodeOptions(out, max_tensors, max_bytes, metadata_first, link_mode(link))
    return carry_out(plan_explode(open_model(model), options), dry_run, progress)
