"""`nextn inspect`."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..errors import EXIT_PROBLEMS
from ..report.text import columns, put, put_json
from ..units import size
from .common import limit_option


@click.command(short_help="what is in a model, and what would run it")
@click.argument("model")
@click.option(
    "--block-hash", is_flag=True,
    help="Read the MTP block (of a remote MODEL: fetch it) and print the sha256 that 'nextn attach --expect' takes.",
)  # fmt: skip
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(model: str, block_hash: bool, limit_rate: float | None, as_json: bool) -> None:
    """Look into MODEL: headers only, nothing is decoded or written.

    MODEL is a GGUF, any shard, a folder with one set, or a checkpoint; or org/repo, hf:org/repo@revision:file.gguf,
    https://... , of which config, index and headers are fetched. Exits with 5 when the model has problems.
    """
    from ..report.progress import byte_progress
    from ..verbs import inspect as look

    with byte_progress("reading the block", block_hash) as progress:
        seen = look.inspect(model, block_hash=block_hash, limit_rate=limit_rate, progress=progress)
    data = seen.to_json()
    if as_json:
        put_json(data)
    else:
        put(columns(_rows(data, seen.shape)))
    if seen.problems:
        sys.stdout.flush()
        raise click.exceptions.Exit(EXIT_PROBLEMS)


def _rows(data: dict[str, Any], shape: str) -> list[tuple[str, str]]:
    n_files = f"{data['n_files']} {'shards' if data['n_files'] > 1 else 'file'}"
    n_bytes = "size not known" if data["size_bytes"] is None else size(data["size_bytes"])
    block = f"{data['n_layer_nextn']} ({size(data['block_bytes'])})" if data["n_layer_nextn"] else "none"
    types = "types of the block" if shape == "checkpoint" else "types"
    rows = [
        ("model", f"{data['name'] or '-'}"),
        ("path", data["path"]),
        ("shape", shape),
        ("architecture", data["architecture"]),
        ("trunk layers", str(data["n_layer_trunk"])),
        ("MTP blocks", block),
        ("size", f"{n_bytes} in {n_files}, {data['n_tensors']:,} tensors"),
        (types, ", ".join(f"{name} {size(n)}" for name, n in data["types"].items()) or "-"),
    ]
    if data["provenance"]:
        rows.append(("donor", data["provenance"].get("donor", "-")))
        rows.append(("donor's block", f"sha256 {data['provenance'].get('donor_sha256', '-')}"))
    rows += [("block sha256", data["block_sha256"])] if data["block_sha256"] else []
    rows += [("downloaded", size(data["bytes_downloaded"]))] if data["bytes_downloaded"] else []
    rows += [("sidecar here", path) for path in data["sidecars"]]
    rows += [(f"on {engine}", what) for engine, what in data["runs_on"].items()]
    rows += [("hint", hint) for hint in data["hints"]]
    return rows + ([("problem", problem) for problem in data["problems"]] or [("problems", "none")])
