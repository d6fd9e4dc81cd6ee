"""One setup's memory by device: from the engine's own report if there is one, otherwise from headers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..engines.logs import is_host
from ..schemas.base import filled
from ..schemas.plan import DeviceMemory, Linear
from .account import Account
from .caches import DRAFT, TARGET, CachePart, cache_parts, state_bytes, state_copies
from .settings import N_BATCH, N_UBATCH, Settings, padded
from .setups import Setup
from .shape import Shape, shape_of
from .weights import HOST, Weights, layer_devices, weights

ENGINE, HEADER = "engine", "header"
COLUMNS = ("weights_bytes", "repacked_bytes", "kv_cache_bytes", "recurrent_bytes", "compute_bytes", "output_bytes")


@dataclass
class DeviceUse:
    """Bytes that one device holds, and how they depend on the context."""

    device: str
    weights_bytes: int = 0  # what is mapped from or allocated for the files
    repacked_bytes: int = 0  # rearranged copies of some of them, in main memory
    kv_cache_bytes: int = 0
    recurrent_bytes: int = 0
    compute_bytes: int = 0
    output_bytes: int = 0  # logits, and hidden rows for the draft
    needed_weights_bytes: int = 0  # every weight once: the pages of rearranged weights can be dropped
    kv: list[CachePart] = field(default_factory=list)
    recurrent_copy_bytes: int = 0  # one copy, all sequences
    recurrent_copies: int = 0
    compute_fixed_bytes: int = 0
    compute_bytes_per_token: float = 0.0

    @property
    def total_bytes(self) -> int:
        """All columns."""
        return sum(int(getattr(self, name)) for name in COLUMNS)

    @property
    def needed_bytes(self) -> int:
        """What must stay resident: the total less the pages that the kernel can drop."""
        return self.total_bytes - self.weights_bytes - self.repacked_bytes + self.needed_weights_bytes

    def needed_at(self, settings: Settings) -> float:
        """`needed_bytes` with another context."""
        fixed = self.needed_bytes - self.kv_cache_bytes - self.compute_bytes
        cache = sum(part.size_bytes(settings) for part in self.kv)
        return fixed + cache + self.compute_fixed_bytes + self.compute_bytes_per_token * padded(settings.n_ctx)

    @property
    def document(self) -> DeviceMemory:
        """What --json prints of it."""
        linear = filled(
            Linear,
            self,
            fixed_bytes=self.total_bytes - self.kv_cache_bytes - self.recurrent_bytes - self.compute_bytes,
            recurrent_bytes_per_copy=self.recurrent_copy_bytes,
            compute_bytes_per_token=round(self.compute_bytes_per_token, 3),
        )
        return filled(DeviceMemory, self, **{name: int(getattr(self, name)) for name in COLUMNS}, linear=linear)



@dataclass(frozen=True)
class Prediction:
    """What a setup would take, host first."""

    source: str  # "engine" or "header"
    devices: tuple[DeviceUse, ...]
    notes: tuple[str, ...] = ()

    def sum(self, column: str) -> int:
        """One column over all devices."""
        return sum(int(getattr(device, column)) for device in self.devices)

    @property
    def total_bytes(self) -> int:
        """Everything on all devices."""
        return self.sum("total_bytes")


def predict(
    setup: Setup, settings: Settings, here: Account | None, other: tuple[Settings, Account] | None
) -> Prediction:
    """The prediction for a setup that is possible.

    `here` is the engine's report with `settings`, `other` one with another context, which gives the slope of the
    compute buffers. Raises UsageError for a kv_cache type that does not fit.
    """
    model = setup.model
    assert model is not None
    draft = setup.sidecar or model
    shape = shape_of(model)
    names = _gpu_names(here)
    models = [(model, 0)] + ([(draft, 1)] if setup.sidecar is not None else [])
    uses: dict[str, DeviceUse] = {HOST: DeviceUse(HOST)}

    def use(device: str) -> DeviceUse:
        name = HOST if device == HOST else (names[0] if names else device)
        return uses.setdefault(name, DeviceUse(name))

    n_gpu = settings.n_gpu_layers if settings.n_gpu_layers is not None else (9999 if names else 0)
    for each, i in models:
        own = shape_of(each)
        devices = layer_devices(len(own.layers), n_gpu)
        unused = here.unused[i] if here is not None and i < len(here.unused) else None
        account = here.model[i] if here is not None and i < len(here.model) else None
        repacks = account is None or "CPU_REPACK" in account
        has_gpu = bool(names) or n_gpu > 0 or not repacks
        by_device = weights(each, devices, mtp=setup.mtp, has_gpu=has_gpu, unused=unused)
        for device, found in by_device.items():
            _add_weights(use(device), found)
    contexts = [(shape, TARGET)] + ([(shape_of(draft), DRAFT)] if setup.mtp else [])
    for own, context in contexts:
        devices = layer_devices(len(own.layers), n_gpu)
        for part in cache_parts(own, settings, [context], devices):
            target = use(part.device)
            target.kv.append(part)
            target.kv_cache_bytes += part.size_bytes(settings)
        if context == TARGET:
            _add_state(own, settings, setup.mtp, devices, use)
        use(HOST).output_bytes += output_bytes(own, settings, context, setup.mtp)
    _add_compute(use, here, other, settings, contexts)
    notes = [shape.unknown] if shape.unknown and here is None else []
    return Prediction(ENGINE if here is not None else HEADER, tuple(uses.values()), tuple(notes))


def _gpu_names(account: Account | None) -> list[str]:
    """Devices other than main memory that the engine accounted for."""
    if account is None:
        return []
    found = [name for context in account.contexts for name in context.compute if not is_host(name)]
    return list(dict.fromkeys(found))


def _add_weights(target: DeviceUse, found: Weights) -> None:
    target.weights_bytes += found.mapped_bytes if target.device == HOST else found.weights_bytes
    target.repacked_bytes += found.repacked_bytes
    target.needed_weights_bytes += found.weights_bytes


def _add_state(
    shape: Shape, settings: Settings, mtp: bool, devices: list[str], use: Callable[[str], DeviceUse]
) -> None:
    copies = state_copies(shape, settings, mtp)
    for device, n_bytes in state_bytes(shape, devices).items():
        target = use(device)
        target.recurrent_copies = copies
        target.recurrent_copy_bytes = n_bytes * settings.n_parallel
        target.recurrent_bytes = target.recurrent_copy_bytes * copies


def output_bytes(shape: Shape, settings: Settings, context: str, mtp: bool) -> int:
    """Logits of a step's outputs; with MTP also hidden rows: a batch's in the target, one per sequence in the draft.

    Source: llama_context::output_reserve of llama.cpp b11549. Engines grow this buffer with the first answer and do
    not log its new size.
    """
    n_outputs = settings.n_parallel * (1 + (settings.n_max if mtp and context == TARGET else 0))
    rows = 0 if not mtp else min(N_BATCH, padded(settings.n_ctx)) if context == TARGET else n_outputs
    return 4 * (n_outputs * shape.n_vocab + rows * shape.n_embd)


def _add_compute(
    use: Callable[[str], DeviceUse],
    here: Account | None,
    other: tuple[Settings, Account] | None,
    settings: Settings,
    contexts: list[tuple[Shape, str]],
) -> None:
    n_ctx = padded(settings.n_ctx)
    if here is not None:
        for i, context in enumerate(here.contexts[: len(contexts)]):
            for name, size in context.compute.items():
                slope = 0.0
                if other is not None and i < len(other[1].contexts):
                    step = padded(other[0].n_ctx) - n_ctx
                    slope = max(0.0, (other[1].contexts[i].compute.get(name, size) - size) / step) if step else 0.0
                _compute(use(name), size, slope, n_ctx)
        contexts = contexts[len(here.contexts) :]  # a draft of its own, which the engine does not account for
    for shape, which in contexts:
        size, slope = estimated_compute(shape, settings, which)
        _compute(use(HOST), size, slope, n_ctx)


def _compute(target: DeviceUse, size: float, slope: float, n_ctx: int) -> None:
    target.compute_bytes += round(size)
    target.compute_bytes_per_token += slope
    target.compute_fixed_bytes += round(size - slope * n_ctx)


def estimated_compute(shape: Shape, settings: Settings, context: str) -> tuple[float, float]:
    """Bytes of one context's compute buffer, and how many of them per token of context, without an engine.

    A rough model fitted to llama.cpp's CPU graphs: the attention mask (f16, one column per token of the batch), the
    widest step of a layer in f32, logits. benchmarks/plan.py shows how far it is off.
    """
    n_tokens = min(N_UBATCH, padded(settings.n_ctx))
    layers = [layer for layer in shape.layers if (layer.index >= shape.n_layer) == (context == DRAFT)]
    full = any(not layer.window and not layer.recurrent for layer in layers)
    indexed = any(layer.indexer for layer in layers)
    per_token = n_tokens * (2.0 if full else 0.0) * (4.2 if indexed else 1.0) / settings.n_parallel
    window = padded(shape.n_window + N_UBATCH) if any(layer.window for layer in layers) else 0
    attention = max((2 * shape.n_embd + 2 * (layer.n_embd_k + layer.n_embd_v) for layer in layers), default=0)
    latent = max((layer.n_embd_k for layer in layers if layer.n_embd_k and not layer.n_embd_v), default=0)
    width = max(2 * shape.n_ff, attention, 3 * shape.n_embd, 3 * shape.n_head * latent)
    if any(layer.recurrent for layer in layers):
        width = max(width, round(1.8 * width), 6 * shape.n_embd)
    n_outputs = settings.n_parallel * (1 + (settings.n_max if context == TARGET else 0))
    fixed = n_tokens * (4.0 * width + 2.0 * window) + 4.0 * n_outputs * shape.n_vocab
    if context == DRAFT and shape.n_draft_wide:
        return max(4.0 * n_tokens * shape.n_draft_wide, fixed), 0.0
    return fixed + per_token * padded(settings.n_ctx), per_token

