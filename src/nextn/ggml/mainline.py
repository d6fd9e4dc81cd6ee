"""The few functions of ggml that nextn calls, bound through ctypes from a prebuilt library.

Source: `ggml.h` of ggml 0.20. ggml calls abort() on a wrong argument, so callers check types, lengths and
values first, and a library whose tables differ from `gguf.types` is refused. ctypes releases the interpreter
lock around every call.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import QuantizeError
from ..gguf.types import TENSOR_TYPES, TensorType

PACKAGE = "libggml"
INSTALL = "'libggml-python>=0.20.2,<0.21'"
_MIN_VERSION = (0, 20)  # older libraries have fewer types, and asking them for one reads past their table
_FILE_NAMES = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}

_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


class Ggml:
    """A loaded and checked ggml-base library.

    Addresses are those of C-contiguous memory that the caller keeps alive; sizes are the caller's to check.
    """

    def __init__(self, path: Path) -> None:
        """Load `path`; QuantizeError when it is not a library, lacks a function, or has other tables."""
        self.path = path
        try:
            lib = ctypes.CDLL(str(path))
            self.version = _text(lib, "ggml_version")
            self.commit = _text(lib, "ggml_commit")
            self._quantize_init = lib.ggml_quantize_init
            self._requires_imatrix = lib.ggml_quantize_requires_imatrix
            self._quantize_chunk = lib.ggml_quantize_chunk
            self._validate_row_data = lib.ggml_validate_row_data
            get_type_traits = lib.ggml_get_type_traits
        except (OSError, AttributeError) as error:
            raise QuantizeError(
                f"{path} cannot be used as ggml's library ({error}); install {INSTALL}"
            ) from error
        self._quantize_init.argtypes = [ctypes.c_int]
        self._quantize_init.restype = None
        self._requires_imatrix.argtypes = [ctypes.c_int]
        self._requires_imatrix.restype = ctypes.c_bool
        self._quantize_chunk.argtypes = [
            ctypes.c_int,  # type
            ctypes.c_void_p,  # src, float32
            ctypes.c_void_p,  # dst
            ctypes.c_int64,  # start, in elements
            ctypes.c_int64,  # nrows
            ctypes.c_int64,  # n_per_row
            ctypes.c_void_p,  # imatrix
        ]
        self._quantize_chunk.restype = ctypes.c_size_t
        self._validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        self._validate_row_data.restype = ctypes.c_bool
        get_type_traits.argtypes = [ctypes.c_int]
        get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        self._check_version()
        self._to_float = self._read_traits(get_type_traits)
        self._lock = threading.Lock()
        self._ready: set[int] = set()

    def _check_version(self) -> None:
        match = re.match(r"(\d+)\.(\d+)", self.version)
        if match is None or (int(match[1]), int(match[2])) < _MIN_VERSION:
            raise QuantizeError(f"{self.path} is ggml {self.version}, too old; install {INSTALL}")

    def _read_traits(
        self, get_type_traits: Callable[[int], ctypes._Pointer[_TypeTraits]]
    ) -> dict[int, object]:
        """The decoders by type number; QuantizeError unless the library's table agrees with ours."""
        to_float: dict[int, object] = {}
        for type in TENSOR_TYPES:
            if type.engine == "ik":
                continue
            traits = get_type_traits(type.id).contents
            found = ((traits.type_name or b"").decode("ascii", "replace"), traits.blck_size, traits.type_size)
            if found != (type.name, type.block_size, type.type_size):
                raise QuantizeError(
                    f"{self.path} (ggml {self.version}) has a different layout of type {type.id}: expected "
                    f"{(type.name, type.block_size, type.type_size)}, found {found}; install {INSTALL}"
                )
            if traits.to_float:
                to_float[type.id] = _ToFloat(traits.to_float)
        return to_float

    def requires_imatrix(self, type: TensorType) -> bool:
        """Whether ggml aborts when this type is quantized without an importance matrix."""
        return bool(self._requires_imatrix(type.id))

    def quantize_chunk(self, type: TensorType, src: int, dst: int, n_rows: int, n_per_row: int) -> int:
        """Quantize float32 rows at address `src` into `dst`; returns the bytes written."""
        with self._lock:  # builds the lookup tables of the iq types, once
            if type.id not in self._ready:
                self._quantize_init(type.id)
                self._ready.add(type.id)
        return int(self._quantize_chunk(type.id, src, dst, 0, n_rows, n_per_row, None))

    def validate(self, type: TensorType, data: int, size_bytes: int) -> bool:
        """Whether all blocks have finite scales (ggml names a bad one on stderr)."""
        return bool(self._validate_row_data(type.id, data, size_bytes))

    def can_decode(self, type: TensorType) -> bool:
        """Whether the library can decode this type to float32."""
        return type.engine != "ik" and type.id in self._to_float

    def to_float(self, type: TensorType, src: int, dst: int, n_elements: int) -> None:
        """Decode `n_elements` (whole blocks) at address `src` into float32 at `dst`."""
        decode = self._to_float[type.id]
        assert callable(decode)
        decode(src, dst, n_elements)


def _text(lib: ctypes.CDLL, name: str) -> str:
    """What the library's function `const char * name(void)` returns."""
    function = getattr(lib, name)
    function.argtypes = []
    function.restype = ctypes.c_char_p
    return (function() or b"").decode("utf-8", "replace")


def find_library() -> Path:
    """Path of the ggml-base library in the installed wheel; nothing is imported. QuantizeError when there is none."""
    file_name = _FILE_NAMES.get(sys.platform, "libggml-base.so")
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for part in ("lib64", "lib", "bin"):
            path = Path(folder) / part / file_name
            if path.is_file():
                return path
    missing = (
        f"{file_name} is not in the package {PACKAGE}" if folders else f"the package {PACKAGE} is missing"
    )
    raise QuantizeError(f"{missing}; run: pip install {INSTALL}")


_load_lock = threading.Lock()
_loaded: Ggml | None = None


def load() -> Ggml:
    """The library in the installed wheel, loaded on the first call."""
    global _loaded
    with _load_lock:
        if _loaded is None:
            _loaded = Ggml(find_library())
        return _loaded
