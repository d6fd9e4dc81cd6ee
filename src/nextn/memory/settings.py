"""How a model would be run: everything besides the files that memory depends on."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from ..gguf.types import TensorType, parse_type_name
from ..schemas.base import filled
from ..schemas.plan import RunSettings

# Types that engines take for the kv_cache (llama.cpp b11549, common/arg.cpp).
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
DEFAULT_N_CTX = 8192
N_BATCH, N_UBATCH = 2048, 512  # the engine's defaults
CTX_GRAIN = 256  # contexts are rounded up to a multiple of it


@dataclass(frozen=True)
class Settings:
    """One way to run a model."""

    n_ctx: int
    kv_type_k: TensorType
    kv_type_v: TensorType
    n_parallel: int = 1
    n_max: int = 3
    n_gpu_layers: int | None = None  # None: the engine's choice

    @property
    def n_ctx_seq(self) -> int:
        """Cells of one sequence: the context is divided among the sequences and rounded up (src/llama-context.cpp)."""
        return padded(-(-padded(self.n_ctx) // self.n_parallel)) if self.n_parallel > 1 else padded(self.n_ctx)

    def at(self, n_ctx: int) -> Settings:
        """The same settings with another context."""
        return Settings(n_ctx, self.kv_type_k, self.kv_type_v, self.n_parallel, self.n_max, self.n_gpu_layers)

    @property
    def document(self) -> RunSettings:
        """What --json prints of it."""
        return filled(
            RunSettings, self, kv_type_k=self.kv_type_k.name, kv_type_v=self.kv_type_v.name,
            n_batch=N_BATCH, n_ubatch=N_UBATCH,
        )  # fmt: skip



def padded(n_ctx: int) -> int:
    """A context size as the engine rounds it."""
    return -(-n_ctx // CTX_GRAIN) * CTX_GRAIN


def kv_types(text: str) -> tuple[TensorType, TensorType]:
    """Types of keys and values from `q8_0`, or `q8_0,f16` (keys first). Raises UsageError."""
    names = [name.strip().lower() for name in text.split(",")]
    if not 1 <= len(names) <= 2 or any(name not in KV_TYPES for name in names):
        raise UsageError(
            f"'{text}' is not a type of KV cache; name one of {', '.join(KV_TYPES)}, or two (keys,values) of them."
        )
    return parse_type_name(names[0]), parse_type_name(names[-1])
