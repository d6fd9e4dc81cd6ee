"""llama.cpp's library inside the xllamacpp wheel, called directly to time batches. Only for a child process.

Model and context come from llama.cpp's own `common_model_params_to_llama` and `common_context_params_to_llama`, so that
every attribute of the wheel's CommonParams counts as it does in its server. Those are C++ functions that return C
structures (Itanium ABI: any structure larger than 16 bytes is returned through memory, as in C), and the CommonParams
of the wheel is a Cython object with the C++ structure after its header; both are checked before they are relied on.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from nextn.engines.batches import settled

_STRUCT_BYTES = 1024  # more than any of llama.cpp's parameter structures
_OBJECT_HEADER = 16  # bytes of a Python object's header on 64-bit systems: reference count and type
_PROBE = (1_234_567, 1_711, 1_613)  # n_ctx, n_batch, n_ubatch: unlikely to be in memory by chance
_PARTIAL_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY of llama.h: only what cannot be cut back, as the server saves
CONTEXT_PARAMS = "_Z30common_context_params_to_llamaRK13common_params"
MODEL_PARAMS = "_Z28common_model_params_to_llamaR13common_params"
MATH_CORES = "_Z23common_cpu_get_num_mathv"


class LibraryUnsuitable(Exception):
    """This wheel's library cannot be called in this way; `str(error)` says why."""


class _Struct(ctypes.Structure):
    _fields_ = (("data", ctypes.c_uint8 * _STRUCT_BYTES),)


class _Batch(ctypes.Structure):
    """`llama_batch` of llama.h."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_P = ctypes.c_void_p
_I32 = ctypes.c_int32
Functions: TypeAlias = dict[str, tuple[Any, tuple[Any, ...]]]  # name -> result and arguments, as ctypes has them
_FUNCTIONS: Functions = {
    "llama_backend_init": (None, ()),
    "llama_model_load_from_file": (_P, (ctypes.c_char_p, _Struct)),
    "llama_init_from_model": (_P, (_P, _Struct)),
    "llama_model_get_vocab": (_P, (_P,)),
    "llama_model_is_recurrent": (ctypes.c_bool, (_P,)),
    "llama_model_is_hybrid": (ctypes.c_bool, (_P,)),
    "llama_tokenize": (_I32, (_P, ctypes.c_char_p, _I32, ctypes.POINTER(_I32), _I32, ctypes.c_bool, ctypes.c_bool)),
    "llama_n_rs_seq": (ctypes.c_uint32, (_P,)),
    "llama_get_memory": (_P, (_P,)),
    "llama_memory_clear": (None, (_P, ctypes.c_bool)),
    "llama_memory_seq_rm": (ctypes.c_bool, (_P, _I32, _I32, _I32)),
    "llama_state_seq_get_size_ext": (ctypes.c_size_t, (_P, _I32, ctypes.c_uint32)),
    "llama_state_seq_get_data_ext": (ctypes.c_size_t, (_P, ctypes.c_char_p, ctypes.c_size_t, _I32, ctypes.c_uint32)),
    "llama_state_seq_set_data_ext": (ctypes.c_size_t, (_P, ctypes.c_char_p, ctypes.c_size_t, _I32, ctypes.c_uint32)),
    "llama_batch_init": (_Batch, (_I32, _I32, _I32)),
    "llama_decode": (_I32, (_P, _Batch)),
    "llama_synchronize": (None, (_P,)),
    CONTEXT_PARAMS: (_Struct, (_P,)),
    MODEL_PARAMS: (_Struct, (_P,)),
    MATH_CORES: (_I32, ()),
}


class Library:
    """The wheel's functions."""

    def __init__(self, wheel: ModuleType, more: Functions | None = None) -> None:
        """`more`: functions beside those that time batches. Raises LibraryUnsuitable."""
        found = sorted(Path(str(wheel.__file__)).parent.glob("xllamacpp*.so"))
        if not found:
            raise LibraryUnsuitable("the wheel has no library of its own")
        self._library = ctypes.CDLL(str(found[0]))
        wanted = {**_FUNCTIONS, **(more or {})}
        missing = [name for name in wanted if not hasattr(self._library, name)]
        if missing:
            raise LibraryUnsuitable(f"the wheel's library does not export {', '.join(missing)}")
        for name, (result, arguments) in wanted.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._check_layout(wheel.CommonParams())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def __getitem__(self, name: str) -> Any:
        """A function by a name that begins with an underscore."""
        return getattr(self._library, name)

    def _check_layout(self, params: Any) -> None:
        params.n_ctx, params.n_batch, params.n_ubatch = _PROBE
        seen = bytes(self.context_params(params).data[:12])
        if tuple(int.from_bytes(seen[at : at + 4], "little") for at in (0, 4, 8)) != _PROBE:
            raise LibraryUnsuitable("the wheel keeps its CommonParams in another place")

    def context_params(self, params: Any) -> Any:
        """`llama_context_params` of a CommonParams."""
        return getattr(self._library, CONTEXT_PARAMS)(id(params) + _OBJECT_HEADER)

    def model_params(self, params: Any) -> Any:
        """`llama_model_params` of a CommonParams, which must live as long as they do."""
        return getattr(self._library, MODEL_PARAMS)(id(params) + _OBJECT_HEADER)

    def choose_threads(self, params: Any) -> None:
        """Fill in the number of threads that llama.cpp chooses by itself, where none was named."""
        for cpu in (params.cpuparams, params.cpuparams_batch):
            if cpu.n_threads < 1:
                cpu.n_threads = int(getattr(self._library, MATH_CORES)())

    def load(self, params: Any) -> ctypes.c_void_p:
        """The model that a CommonParams names. Raises RuntimeError when it does not load."""
        self._library.llama_backend_init()
        model = self._library.llama_model_load_from_file(os.fsencode(params.model.path), self.model_params(params))
        if not model:
            raise RuntimeError("failed to load the model")
        return _P(model)

    def context(self, model: ctypes.c_void_p, context_params: Any) -> ctypes.c_void_p:
        """A new context of a model. Raises MemoryError."""
        context = self._library.llama_init_from_model(model, context_params)
        if not context:
            raise MemoryError("llama.cpp could not make a context of this size")
        return _P(context)


class BatchContext:
    """One context of a model: prefixes of `slots` sequences, and batches after them."""

    def __init__(self, library: Library, model: ctypes.c_void_p, context_params: Any, n_batch: int, slots: int) -> None:
        self._lib, self._n_batch, self.slots = library, n_batch, slots
        self._context = library.context(model, context_params)
        self._memory = _P(library.llama_get_memory(self._context))
        self._batch = library.llama_batch_init(n_batch, 0, 1)
        self.n_snapshots = int(library.llama_n_rs_seq(self._context))
        self._saved: list[bytes] = []
        self.depth = -1

    def prefill(self, tokens: Sequence[int]) -> None:
        """Put `tokens` into every sequence. Raises RuntimeError."""
        self._lib.llama_memory_clear(self._memory, True)
        for slot in range(self.slots):
            for start in range(0, len(tokens), self._n_batch):
                part = tokens[start : start + self._n_batch]
                self._decode([(token, start + at, slot, False) for at, token in enumerate(part)])
        self.depth = len(tokens)
        self._saved = []

    def timed(self, tokens: Sequence[int], after: int = 0) -> float:
        """Seconds for a batch of these tokens in every sequence, all outputs computed.

        `after`: the number of tokens that were decoded after the prefix.
        """
        first = self.depth + after
        rows = [(token, first + at, slot, True) for slot in range(self.slots) for at, token in enumerate(tokens)]
        self._fill(rows)
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start

    def cut_back(self) -> None:
        """Remove what follows the prefix: from the cache, else by putting back the saved state."""
        whole = [self._lib.llama_memory_seq_rm(self._memory, slot, self.depth, -1) for slot in range(self.slots)]
        if all(whole):
            return
        if not self._saved:
            raise RuntimeError("llama.cpp cannot cut this model's state back")
        self.restore()

    def save(self) -> float:
        """Seconds to save what cannot be cut back, of all sequences."""
        start = time.perf_counter()
        self._saved = []
        for slot in range(self.slots):
            size = self._lib.llama_state_seq_get_size_ext(self._context, slot, _PARTIAL_ONLY)
            buffer = ctypes.create_string_buffer(size)
            self._lib.llama_state_seq_get_data_ext(self._context, buffer, size, slot, _PARTIAL_ONLY)
            self._saved.append(buffer.raw)
        return time.perf_counter() - start

    def restore(self) -> float:
        """Seconds to put the saved state back."""
        start = time.perf_counter()
        for slot, data in enumerate(self._saved):
            self._lib.llama_state_seq_set_data_ext(self._context, data, len(data), slot, _PARTIAL_ONLY)
            self._lib.llama_memory_seq_rm(self._memory, slot, self.depth, -1)
        return time.perf_counter() - start

    def _decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        self._fill(rows)
        self._run()

    def _fill(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (token, pos, slot, output) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, pos, 1
            batch.seq_id[at][0], batch.logits[at] = slot, output

    def _run(self) -> None:
        code = self._lib.llama_decode(self._context, self._batch)
        self._lib.llama_synchronize(self._context)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code} for a batch of {self._batch.n_tokens} tokens")


class BatchModel:
    """A loaded model with the contexts that its curve needs."""

    def __init__(self, wheel: ModuleType, params: Any, drafting: Any, slots: int, settle_s: float) -> None:
        """`drafting`: the same parameters with MTP on, whose contexts keep snapshots of recurrent state. `settle_s`:
        see `settled`.

        Raises LibraryUnsuitable, and RuntimeError or MemoryError when the model does not load.
        """
        self._settle_s = settle_s
        self._lib = library = Library(wheel)
        for one in (params, drafting):
            library.choose_threads(one)
        self._model = library.load(params)
        n_batch = int(params.n_batch)
        self.plain = BatchContext(library, self._model, library.context_params(params), n_batch, slots)
        self.recurrent = bool(
            library.llama_model_is_recurrent(self._model) or library.llama_model_is_hybrid(self._model)
        )
        self.verifying = self.plain
        if self.recurrent:
            made = BatchContext(library, self._model, library.context_params(drafting), n_batch, slots)
            self.verifying = made if made.n_snapshots else self.plain

    @property
    def saves_state(self) -> bool:
        """Whether a verification has to save the recurrent state itself, since the engine keeps no snapshots."""
        return self.recurrent and not self.verifying.n_snapshots

    def tokenize(self, text: str) -> list[int]:
        """The model's token ids of a text."""
        data = text.encode()
        most = len(data) + 16
        out = (_I32 * most)()
        vocab = self._lib.llama_model_get_vocab(self._model)
        n = self._lib.llama_tokenize(vocab, data, len(data), out, most, True, False)
        if n < 1:
            raise RuntimeError("the model's vocabulary cannot tokenize text")
        return list(out[:n])

    def prefill(self, tokens: Sequence[int]) -> None:
        """Put the prefix into every context."""
        for context in dict.fromkeys((self.plain, self.verifying)):
            context.prefill(tokens)
            if self.recurrent:
                context.save()

    def timed(self, tokens: Sequence[int]) -> float:
        """Seconds for a batch of these tokens with what drafting needs."""

        def once() -> float:
            seconds = self.verifying.timed(tokens)
            self.verifying.cut_back()
            return seconds

        return settled(once, self._settle_s)

    def timed_singly(self, tokens: Sequence[int]) -> float:
        """Seconds of one of these tokens, one after the other, without what drafting needs: as with MTP off."""
        at = 0

        def once() -> float:
            nonlocal at
            if at == len(tokens):
                self.plain.cut_back()
                self.plain.timed(tokens[:1])  # putting back saved state makes llama.cpp build a new graph
                at = 1
            at += 1
            return self.plain.timed([tokens[at - 1]], at - 1)

        seconds = settled(once, self._settle_s)
        self.plain.cut_back()
        return seconds
