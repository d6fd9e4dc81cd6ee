"""Small number formats as tables: the value of each code. Only bits are interpreted here; nothing is read."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Codes = NDArray[np.uint8]

FLOAT_DTYPES = ("BF16", "F16", "F32")
BYTE_DTYPES = ("F8_E4M3", "F8_E5M2", "I8")  # one byte per value


@cache
def e4m3_values() -> Values:
    """The value of each byte: sign, four exponent bits (bias 7), three mantissa bits; no infinities, two NaNs."""
    import numpy as np

    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent == 0, np.ldexp(mantissa / 8.0, -6), np.ldexp(1 + mantissa / 8.0, exponent - 7))
    size[(code & 127) == 127] = np.nan
    return np.where(code & 128, -size, size).astype(np.float32)


@cache
def e5m2_values() -> Values:
    """The value of each byte: the upper half of a float16."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


@cache
def e8m0_values() -> Values:
    """The value of each byte: a power of two, exponent bias 127, no sign; 255 is NaN. Source: OCP MX 1.0."""
    import numpy as np

    values = np.ldexp(np.ones(256), np.arange(256) - 127)
    values[255] = np.nan
    return values.astype(np.float32)


@cache
def e2m1_values() -> Values:
    """The value of each 4-bit code: sign, two exponent bits, one mantissa bit. Source: OCP MX 1.0."""
    import numpy as np

    size = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
    return np.concatenate([size, -size])


@cache
def _table(dtype: str) -> Values:
    import numpy as np

    if dtype == "I8":
        return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
    return {"F8_E4M3": e4m3_values, "F8_E5M2": e5m2_values, "F8_E8M0": e8m0_values, "U8": e8m0_values}[dtype]()


def to_float(data: bytes | bytearray, dtype: str, add: float = 0.0) -> Values:
    """Source bytes as float32 with `add` added, rounded where the converter rounds.

    The converter widens bfloat16 to float32 before computing, but computes on float16 in float16. U8 is read as
    E8M0, which some publishers store as plain bytes.
    """
    import numpy as np

    if dtype == "F16":
        half = np.frombuffer(data, dtype="<f2")
        return (half + np.float16(add) if add else half).astype(np.float32)
    if dtype == "F32":
        values = np.frombuffer(data, dtype="<f4")
    elif dtype == "BF16":  # the upper half of a float32
        values = np.left_shift(np.frombuffer(data, dtype="<u2"), np.uint32(16), dtype=np.uint32).view(np.float32)
    else:
        values = _table(dtype)[np.frombuffer(data, dtype=np.uint8)]
    return values + np.float32(add) if add else values
