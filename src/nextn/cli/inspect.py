"""`nextn inspect`."""

from __future__ import annotations

import sys

import click

from ..errors import EXIT_PROBLEMS
from ..report.text import columns, put_json, size


@click.command(short_help="what is in a model, and what would run it")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(model: str, as_json: bool) -> None:
    """Look into MODEL (a GGUF, any shard, or a folder with one set): headers only, nothing is decoded or written.

    Exits with 5 when the model has problems.
    """
    from ..inspection import inspect

    seen = inspect(model)
    if as_json:
        put_json(seen.to_json())
    else:
        data = seen.to_json()
        n_files = f"{data['n_files']} shards" if data["n_files"] > 1 else "1 file"
        block = (
            f"{seen.n_layer_nextn} ({size(seen.block_bytes)})" if seen.n_layer_nextn else "none"
        )
        rows = [
            ("model", f"{data['name'] or '-'}"),
            ("path", data["path"]),
            ("shape", seen.shape),
            ("architecture", seen.architecture),
            ("trunk layers", str(seen.n_layer_trunk)),
            ("MTP blocks", block),
            ("size", f"{size(data['size_bytes'])} in {n_files}, {data['n_tensors']:,} tensors"),
            ("types", ", ".join(f"{name} {size(n)}" for name, n in seen.types.items())),
        ]
        rows += [("donor", data["provenance"].get("donor", "-"))] if data["provenance"] else []
        rows += [("sidecar here", str(path)) for path in seen.sidecars]
        rows += [(f"on {engine}", what) for engine, what in seen.runs_on.items()]
        rows += [("hint", hint) for hint in seen.hints]
        rows += [("problem", problem) for problem in seen.problems] or [("problems", "none")]
        click.echo(columns(rows))
    if seen.problems:
        sys.stdout.flush()
        raise click.exceptions.Exit(EXIT_PROBLEMS)
