"""What several checks share: the fixing command, where to get a block, and a header that matches the file."""

from __future__ import annotations

from collections.abc import Sequence

from ..block.anatomy import KEY, Anatomy
from ..donors.infer import Strength, infer_donors
from ..gguf.kv import KV, KVType
from ..layouts.metadata import OWN_KEYS, UNDO
from ..shell import Command
from .arrays import fixed_arrays
from .finding import Change
from .patient import Patient, fix_command


def header_change(seen: Anatomy, n_nextn: int, n_trunk: int, drop: Sequence[str] = ()) -> Change:
    """A header that matches the file: the key, the count, the per-layer arrays."""
    arch = seen.arch

    def change(patient: Patient) -> Patient:
        put = [KV.make(f"{arch}.block_count", KVType.UINT32, n_trunk + n_nextn)]
        gone = list(drop)
        if n_nextn:
            put.append(KV.make(f"{arch}.{KEY}", KVType.UINT32, n_nextn))
        else:
            gone += [f"{arch}.{KEY}", *OWN_KEYS]  # no block, so nothing to say about one and nothing to undo
        put += fixed_arrays(patient.model, n_trunk, n_nextn)
        if UNDO in patient.model.header.by_key:
            gone.append(UNDO)  # it would put the wrong header back
        return patient.with_kvs(put, gone)

    return change


def doctor_command(seen: Anatomy, *more: object) -> Command:
    """The command that fixes this model."""
    return fix_command(seen.model.entry, *more)


def attach_command(trunk: object, *more: object) -> Command:
    """The command that attaches a block."""
    return Command.of("nextn", "attach", trunk, *more)


def detach_command(seen: Anatomy) -> Command:
    """The command that detaches this model's block."""
    return Command.of("nextn", "detach", seen.model.entry)


def donor_hint(seen: Anatomy) -> tuple[str, str]:
    """`--from` and the best guess of where to get the block."""
    guesses = infer_donors(seen.model)
    return "--from", guesses[0].repo if guesses else "DONOR"


def is_guess(seen: Anatomy) -> bool:
    """Whether `donor_hint` names a repository that only names suggest."""
    return any(guess.strength is Strength.NAME for guess in infer_donors(seen.model)[:1])


def donor_words(seen: Anatomy) -> str:
    """Which base model would supply the block, as part of a sentence; what only names suggest is called a guess."""
    guesses = infer_donors(seen.model)
    named = [guess for guess in guesses if guess.strength is not Strength.NAME]
    some = ", or ".join(f"{guess.repo} ({guess.why})" for guess in (named or guesses)[:3])
    if named:
        return f"by its metadata, the base is {some}"
    return "the metadata names no base model" + (f"; a guess by its name is {some}" if some else "")
