"""The hash of a block: what `nextn.donor_sha256` records and `nextn attach --expect` demands.

It is the sha256 over the source bytes of the block's tensors, concatenated in the order in which an attach writes
them: for a GGUF, the order of its tensor infos and the bytes as stored; for a checkpoint, the order of the family's
table and, for each tensor, the bytes it is made from (including the scale factors of FP8 weights). Headers, names and
padding do not count. The same block stored in another type has another hash.
"""

from __future__ import annotations

import hashlib
import re

from ..errors import DonorMismatch, UsageError
from ..progress import Progress
from ..sources.ranges import Reader
from .model import Block

_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")


def block_sha256(block: Block, progress: Progress | None = None) -> str:
    """The block's hash in hex. Reads the entire block. Raises StorageError, RemoteError, FormatError."""
    digest = hashlib.sha256()
    done, total = 0, block.read_bytes

    def seen(data: bytearray) -> None:
        nonlocal done
        digest.update(data)
        done += len(data)
        if progress is not None:
            progress(done, total)

    with Reader() as reader:
        for tensor in block.tensors:
            if tensor.stored is not None:
                for piece in reader.pieces(tensor.stored):
                    seen(piece)
            else:
                for _ in tensor.rows.chunks(reader, seen):
                    pass  # the rows are not needed, only the reads: an attach reads the source in exactly this order
    return digest.hexdigest()


def check_wanted(expect: str) -> str:
    """A hash given by a user, in lower case. Raises UsageError."""
    if not _SHA256.match(expect):
        raise UsageError(
            f"'{expect}' is not a SHA-256 digest (64 hex digits); 'nextn inspect --block-hash DONOR' prints a block's."
        )
    return expect.lower()


def demand(block: Block, expect: str, found: str) -> None:
    """Raise DonorMismatch when the block's hash is not the expected one."""
    if found != expect:
        raise DonorMismatch(
            f"{block.label or block.origin}: the block's SHA-256 is {found}, but --expect demands {expect}; nothing "
            "was written, so use the intended donor."
        )
