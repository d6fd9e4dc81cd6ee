"""Less than a byte per value: integers packed into words (compressed-tensors), MXFP4, NVFP4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FormatError
from ..gguf.types import TensorType, parse_type_name
from .ranges import FileRange, Reader
from .safetensors import SourceTensor
from .scales import RowWindow, Seen, misfit
from .small_floats import FLOAT_DTYPES, e2m1_values, e4m3_values, to_float

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Bytes = NDArray[np.uint8]

WORD_BITS = 32
MXFP4, NVFP4 = parse_type_name("mxfp4"), parse_type_name("nvfp4")
MX_GROUP, NV_GROUP = 32, 16  # values per factor


@dataclass(frozen=True)
class PackedInts:
    """compressed-tensors' `pack-quantized`: words of `32 // bits` codes along a row, the first in the lowest bits.

    A value is (code - zero) * factor; zero is 2^(bits-1), or `zeros`, packed along the rows. Factors are
    [rows, columns / group_size]. `check` holds the shape of the values and is compared when the tensor is read.
    """

    tensor: SourceTensor  # factors
    check: SourceTensor  # [2] integers
    zeros: SourceTensor | None
    bits: int
    group_size: int
    n_columns: int

    block_type = None  # the factors are not float16, so no ggml type holds the same values

    @property
    def per_word(self) -> int:
        """Codes per word; leftover bits are the highest and unused."""
        return WORD_BITS // self.bits

    def shape(self, stored: SourceTensor) -> tuple[int, ...]:
        """The shape of the values."""
        return (*stored.shape[:-1], self.n_columns)

    def ranges(self, stored: SourceTensor, start: int, end: int) -> list[FileRange]:
        """The shape, the rows' factors, and the rows of words that hold their zeros."""
        out = [self.check.where, self.tensor.rows(start, end)]
        if self.zeros is not None:
            out.append(self.zeros.rows(start // self.per_word, (end - 1) // self.per_word + 1))
        return out

    def decoder(self, stored: SourceTensor, reader: Reader, seen: Seen | None) -> _IntDecoder:
        """A decoder of `stored`. Raises FormatError when the stored shape differs."""
        import numpy as np

        data = reader.read(self.check.where)
        if seen is not None:
            seen(data)
        said = np.frombuffer(data, "<i8" if self.check.dtype == "I64" else "<i4").tolist()
        if said != list(self.shape(stored)):
            raise misfit(
                f"the shape in '{self.check.name}' is not that of the packed weight '{stored.name}'",
                self.check, list(self.shape(stored)), said,
            )  # fmt: skip
        zeros = RowWindow(self.zeros, reader, seen) if self.zeros is not None else None
        return _IntDecoder(self, stored, RowWindow(self.tensor, reader, seen), zeros)


@dataclass
class _IntDecoder:
    scale: PackedInts
    stored: SourceTensor
    factors: RowWindow
    zeros: RowWindow | None

    def floats(self, data: bytearray, start: int, end: int) -> Rows:
        """(code - zero) * factor, in float32."""
        import numpy as np

        scale, n = self.scale, end - start
        mask, per_word = np.uint32((1 << scale.bits) - 1), scale.per_word
        words = np.frombuffer(data, "<u4").reshape(n, self.stored.row_length)
        codes: Rows = np.empty((*words.shape, per_word), np.float32)
        for i in range(per_word):
            codes[:, :, i] = words >> np.uint32(scale.bits * i) & mask
        rows = codes.reshape(n, -1)[:, : scale.n_columns]
        groups = rows.reshape(n, -1, scale.group_size)
        if self.zeros is None:
            groups -= np.float32(1 << (scale.bits - 1))
        else:
            groups -= self._zeros(self.zeros, start, end)[:, :, None]
        factors = to_float(self.factors.read(start, end), scale.tensor.dtype)
        groups *= factors.reshape(n, -1, 1)
        return np.ascontiguousarray(rows)

    def _zeros(self, window: RowWindow, start: int, end: int) -> Rows:
        import numpy as np

        per_word, bits = self.scale.per_word, self.scale.bits
        first, last = start // per_word, (end - 1) // per_word + 1
        words = np.frombuffer(window.read(first, last), "<u4").reshape(last - first, -1)
        i = np.arange(start, end)
        shifts = (bits * (i % per_word)).astype(np.uint32)[:, None]
        return (words[i // per_word - first] >> shifts & np.uint32((1 << bits) - 1)).astype(np.float32)

    def blocks(self, data: bytearray, start: int, end: int) -> Bytes:
        """Never called: `block_type` is None."""
        raise NotImplementedError


def packed_ints(
    weight: SourceTensor,
    factors: SourceTensor,
    check: SourceTensor,
    zeros: SourceTensor | None,
    bits: int,
    group_size: int | None,
) -> PackedInts:
    """The companions of a packed weight [rows, words]; `group_size` None means one factor per row.

    Raises FormatError when they do not fit one another.
    """
    per_word = WORD_BITS // bits
    if len(weight.shape) != 2 or len(factors.shape) != 2 or factors.dtype not in FLOAT_DTYPES:
        raise misfit(
            f"the factors '{factors.name}' do not fit their packed weight '{weight.name}' {list(weight.shape)}",
            factors, "two axes each, factors as BF16, F16 or F32",
        )  # fmt: skip
    rows, words = weight.shape
    n_groups = factors.shape[1]
    columns = n_groups * group_size if group_size else words * per_word
    if factors.shape != (rows, n_groups if group_size else 1) or -(-columns // per_word) != words:
        wanted = -(-words * per_word // group_size) if group_size else 1
        raise misfit(
            f"the factors '{factors.name}' do not fit their packed weight '{weight.name}' {list(weight.shape)} of "
            f"{bits} bits in groups of {group_size or 'a row'}",
            factors, [rows, wanted],
        )  # fmt: skip
    if check.shape != (2,) or check.dtype not in ("I64", "I32"):
        raise misfit(f"'{check.name}' is not the shape of a matrix", check, "[2] as I64 or I32")
    if zeros is not None and (zeros.shape != (-(-rows // per_word), n_groups) or zeros.dtype != "I32"):
        raise misfit(
            f"the zero points '{zeros.name}' do not fit their packed weight '{weight.name}' {list(weight.shape)}",
            zeros, f"{[-(-rows // per_word), n_groups]} as I32",
        )  # fmt: skip
    return PackedInts(factors, check, zeros, bits, group_size or columns, columns)


@dataclass(frozen=True)
class Fp4:
    """Two E2M1 codes per byte, the first in the lower half; one factor per `group` values of a row.

    MXFP4: groups of 32, E8M0 factors. NVFP4: groups of 16, E4M3 factors, and a further factor for the entire tensor
    (compressed-tensors stores its reciprocal). `input` is the factor with which NVFP4 engines quantize activations.
    """

    tensor: SourceTensor  # factors [..., columns / group]
    group: int
    whole: SourceTensor | None = None
    input: SourceTensor | None = None
    reciprocal: bool = False

    @property
    def block_type(self) -> TensorType | None:
        """ggml's block type with the same bits, if its block size divides the row."""
        kind = MXFP4 if self.group == MX_GROUP else NVFP4
        columns = self.tensor.row_length * self.group
        return kind if kind.block_size and columns % kind.block_size == 0 else None

    def shape(self, stored: SourceTensor) -> tuple[int, ...]:
        """The shape of the values."""
        return (*stored.shape[:-1], 2 * stored.shape[-1])

    def ranges(self, stored: SourceTensor, start: int, end: int) -> list[FileRange]:
        """The factors of the rows, and that of the tensor (in a file of blocks it has its own tensor)."""
        return [self.tensor.rows(start, end), *([self.whole.where] if self.whole is not None else [])]

    def decoder(self, stored: SourceTensor, reader: Reader, seen: Seen | None) -> _Fp4Decoder:
        """A decoder of `stored`."""
        return _Fp4Decoder(self, stored, RowWindow(self.tensor, reader, seen), reader, seen)


@dataclass
class _Fp4Decoder:
    scale: Fp4
    stored: SourceTensor
    factors: RowWindow
    reader: Reader
    seen: Seen | None
    _whole: np.float32 | None = None

    def floats(self, data: bytearray, start: int, end: int) -> Rows:
        """Values times factors, in float32."""
        import numpy as np

        codes = np.frombuffer(data, np.uint8).reshape(end - start, self.stored.row_length)
        rows: Rows = np.empty((end - start, 2 * self.stored.row_length), np.float32)
        rows[:, 0::2] = e2m1_values()[codes & 15]
        rows[:, 1::2] = e2m1_values()[codes >> 4]
        raw = self.factors.read(start, end)
        if self.scale.group == MX_GROUP:
            factors = to_float(raw, "F8_E8M0")
        else:
            factors = e4m3_values()[np.frombuffer(raw, np.uint8)] * self._of_tensor()
        groups = rows.reshape(end - start, -1, self.scale.group)
        groups *= factors.reshape(end - start, -1, 1)
        return rows

    def _of_tensor(self) -> np.float32:
        if self._whole is None:
            import numpy as np

            self._whole = np.float32(1.0)
            if self.scale.whole is not None:
                self._whole = tensor_factor(self.scale.whole, self.scale.reciprocal, self.reader, self.seen)
        return self._whole

    def blocks(self, data: bytearray, start: int, end: int) -> Bytes:
        """The same codes in ggml's order: a group's first half in the lower, its second in the upper halves of bytes.

        An MXFP4 block is a factor and 16 bytes of codes; an NVFP4 block is four factors and four groups of 8 bytes.
        Source: `block_mxfp4` and `block_nvfp4` of ggml-common.h; the factors keep their bits, except NVFP4's sign.
        """
        import numpy as np

        self._of_tensor()  # counted and hashed as for values
        n, group = end - start, self.scale.group
        codes = np.frombuffer(data, np.uint8).reshape(n, -1, group // 2)
        values = np.empty((*codes.shape[:2], group), np.uint8)
        values[:, :, 0::2], values[:, :, 1::2] = codes & 15, codes >> 4
        packed = values[:, :, : group // 2] | values[:, :, group // 2 :] << 4
        factors = np.frombuffer(self.factors.read(start, end), np.uint8).reshape(n, -1)
        if group == MX_GROUP:
            out = np.concatenate([factors[:, :, None], packed], axis=2)
        else:
            four = (factors & 127).reshape(n, -1, 4), packed.reshape(n, -1, 2 * group)
            out = np.concatenate(four, axis=2)
        return out.reshape(n, -1)


def tensor_factor(tensor: SourceTensor, reciprocal: bool, reader: Reader, seen: Seen | None) -> np.float32:
    """The one number in `tensor`. Raises FormatError for a reciprocal of zero."""
    import numpy as np

    data = reader.read(tensor.where)
    if seen is not None:
        seen(data)
    value = to_float(data, tensor.dtype)[0]
    if not reciprocal:
        return np.float32(value)
    if value == 0:
        raise FormatError(
            f"the factor '{tensor.name}' is 0, but its reciprocal is used: the tensor is damaged",
            path=tensor.where.path,
            offset=tensor.where.start,
        )
    return np.float32(np.float32(1.0) / value)


def fp4(
    weight: SourceTensor,
    factors: SourceTensor,
    whole: SourceTensor | None = None,
    input: SourceTensor | None = None,
    reciprocal: bool = False,
) -> Fp4:
    """The companions of a 4-bit float weight; the factors' dtype decides. Raises FormatError when they do not fit."""
    group = NV_GROUP if factors.dtype == "F8_E4M3" else MX_GROUP
    wanted = (*weight.shape[:-1], 2 * weight.row_length // group)
    if factors.shape != wanted or 2 * weight.row_length % group:
        raise misfit(
            f"the factors '{factors.name}' do not fit their packed weight '{weight.name}' {list(weight.shape)} of "
            f"4-bit floats in groups of {group}",
            factors, list(wanted),
        )  # fmt: skip
    for one in (whole, input):
        if one is not None and (any(n != 1 for n in one.shape) or one.dtype not in FLOAT_DTYPES):
            raise misfit(f"'{one.name}' should be one number", one, "[1] as F32, F16 or BF16")
    return Fp4(factors, group, whole, input, reciprocal)
