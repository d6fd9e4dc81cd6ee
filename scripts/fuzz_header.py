"""Lets atheris drive the parser of GGUF headers by coverage: only FormatError and its kin may come out.

    python scripts/fuzz_header.py [-max_total_time=600] [libFuzzer options] [CORPUS...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from nextn.block.anatomy import Anatomy
    from nextn.errors import NextnError
    from nextn.gguf.files import GGUFFile, Model
    from nextn.gguf.parser import HeaderParser


def one_input(data: bytes) -> None:
    """Parse it, and read what every verb reads first."""
    try:
        header = HeaderParser(len(data)).feed(data)
        if header is not None:
            model = Model((GGUFFile(Path("x.gguf"), header, len(data)),))
            seen = Anatomy.of(model)
            _ = seen.shape, seen.lost_layers, seen.gone, model.misfits
            model.check_whole()
    except NextnError:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
