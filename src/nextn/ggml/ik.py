"""ik_llama.cpp's ggml, for the tensor types that only it has: bound through ctypes from the wheel ik-llama-cpp-python.

Source: `ggml.h` of ik_llama.cpp. Its symbols have the same names as llama.cpp's, so the library is loaded with local
symbols (ctypes' default, RTLD_LOCAL). Its table of types is compared with `gguf.types` before anything is written.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from pathlib import Path

from ..errors import QuantizeError
from ..gguf.types import TensorType, row_size

PACKAGE = "ik_llama_cpp"
INSTALL = "ik-llama-cpp-python==0.1.5"
# Row by row, without an importance matrix. The interleaved ones (_R4, _R8) are made by the engine when it loads; the
# trellis ones (_KT) take a hundred times as long to write.
WRITABLE = frozenset((
    "q6_0", "iq2_k", "iq2_ks", "iq2_kl", "iq3_k", "iq3_ks", "iq4_k", "iq4_ks", "iq4_kss", "iq5_k", "iq5_ks", "iq6_k",
))  # fmt: skip
# `change_type_if_necessary` in ik_llama.cpp's src/llama-quantize.cpp, for rows that 256 does not divide.
FALLBACK = {
    **dict.fromkeys(WRITABLE - {"q6_0"}, "iq4_nl"),
    **dict.fromkeys(("iq4_k", "iq5_ks"), "q5_0"),
    "iq5_k": "q6_0",
    "iq6_k": "q8_0",
}
_PROBE_ROW = 1024  # elements of the row whose size is compared


class _InitParams(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class IkGgml:
    """A loaded and checked library. Addresses are those of C-contiguous memory that the caller keeps alive."""

    def __init__(self, path: Path) -> None:
        """Load `path`; QuantizeError when it is not a library or lacks a function."""
        self.path = path
        try:
            for needed in sorted(path.parent.glob("libgomp*")):  # beside it, where the loader does not look
                ctypes.CDLL(str(needed))
            lib = ctypes.CDLL(str(path))
            self._quantize_init = lib.ggml_quantize_init
            self._quantize_chunk = lib.ggml_quantize_chunk
            self._row_size = lib.ggml_row_size
            self._type_name = lib.ggml_type_name
            self._requires_imatrix = lib.ggml_quantize_requires_imatrix
            init, free = lib.ggml_init, lib.ggml_free
        except (OSError, AttributeError) as error:
            raise QuantizeError(
                f"{path} cannot be used as ik_llama.cpp's library ({error}); install {INSTALL}"
            ) from error
        self._quantize_init.argtypes = [ctypes.c_int]
        self._quantize_init.restype = None
        # Newer ones take a pointer to options after the importance matrix: NULL, which older ones never look at.
        self._quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._quantize_chunk.restype = ctypes.c_size_t
        self._row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self._row_size.restype = ctypes.c_size_t
        self._type_name.argtypes = [ctypes.c_int]
        self._type_name.restype = ctypes.c_char_p
        self._requires_imatrix.argtypes = [ctypes.c_int]
        self._requires_imatrix.restype = ctypes.c_bool
        init.argtypes, init.restype = [_InitParams], ctypes.c_void_p
        free.argtypes, free.restype = [ctypes.c_void_p], None
        free(init(_InitParams(1 << 16, None, True)))  # fills the half-precision tables
        self._lock = threading.Lock()
        self._ready: set[int] = set()

    def check(self, type: TensorType) -> None:
        """QuantizeError unless the library defines this type as nextn does and writes it without a matrix."""
        name = (self._type_name(type.id) or b"").decode("ascii", "replace")
        size = self._row_size(type.id, _PROBE_ROW) if name == type.name else 0
        if name != type.name or size != row_size(type, _PROBE_ROW):
            raise QuantizeError(
                f"{self.path} has a different type {type.id} ('{name}', {size} bytes for {_PROBE_ROW} values); install "
                f"{INSTALL}"
            )
        if self._requires_imatrix(type.id):
            raise QuantizeError(f"{type.name} cannot be written without an importance matrix, and nextn uses none")

    def quantize_chunk(self, type: TensorType, src: int, dst: int, n_rows: int, n_per_row: int) -> int:
        """Quantize float32 rows at address `src` into `dst`; returns the bytes written."""
        with self._lock:  # builds lookup tables, once per type
            if type.id not in self._ready:
                self.check(type)
                self._quantize_init(type.id)
                self._ready.add(type.id)
        return int(self._quantize_chunk(type.id, src, dst, 0, n_rows, n_per_row, None, None))

    def validate(self, type: TensorType, data: int, size_bytes: int) -> bool:
        """The library does not check blocks of these types."""
        return True


def find_library() -> Path:
    """Path of the library in the installed wheel; nothing is imported. QuantizeError when there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in map(Path, spec.submodule_search_locations or [] if spec else []):
        for where, pattern in ((folder.parent / "ik_llama_cpp_python.libs", "libggml*"), (folder / "lib", "libggml*")):
            found = sorted(path for path in where.glob(pattern) if path.is_file())
            if found:
                return found[0]
    raise QuantizeError(f"writing types of ik_llama.cpp needs its library; run: pip install {INSTALL}")


_load_lock = threading.Lock()
_loaded: IkGgml | None = None


def load() -> IkGgml:
    """The library in the installed wheel, loaded on the first call."""
    global _loaded
    with _load_lock:
        if _loaded is None:
            _loaded = IkGgml(find_library())
        return _loaded
