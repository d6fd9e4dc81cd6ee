"""What bench found by tensor, for the user; the table's path on standard output."""

from __future__ import annotations

from ..printable import printable
from ..units import counted
from ..verbs.bench_tensors import TensorReport
from .text import put_path, say


def show(found: TensorReport, *, quiet: bool = False) -> None:
    """The base, and the tensors that lose most."""
    if not quiet:
        for note in found.notes:
            say(f"note: {note}")
        base = found.base.acceptance
        if base is None:
            say("the engine drafted nothing with the block as it is")
        else:
            say(f"the block as it is: {base:.1%} of {counted(found.base.drafted, 'drafted token')} accepted")
            known = [(base - one.acceptance, one) for one in found.runs if one.acceptance is not None]
            most = sorted(known, key=lambda pair: -pair[0])[:5]
            say("what costs most acceptance:")
            rows = [
                (f"{one.type:>8}", f"{-lost:+.1%}".replace("%", " points"), printable(str(one.tensor), 200))
                for lost, one in most
            ]
            for row in rows:
                say("  " + "  ".join(row))
        say(f"what each loses against the block as it is: {printable(str(found.loss_path), 1000)}")
    put_path(found.out)
