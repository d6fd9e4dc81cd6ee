"""The parts of headers.py's tables: config.json with ways to read it, and rows that turn it into `{arch}.*` pairs.

A row names the key after `{arch}.`, its exact value type (engines refuse a count that is i32 instead of u32) and
where its value is in config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import FormatError
from ..gguf.kv import INTEGER_TYPES, KV, SCALAR_SIZE, KVType

U32, F32, STRING, ARRAY = KVType.UINT32, KVType.FLOAT32, KVType.STRING, KVType.ARRAY


LAYERS = "num_hidden_layers"
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS


@dataclass(frozen=True)
class Config:
    """config.json of a language model, with the errors that reading it can raise."""

    values: Mapping[str, Any]  # the text model's part merged over the top level
    path: Path  # named in errors
    n_layer_nextn: int  # blocks that the file will hold; taken from the tensors; config.json is not trusted for it

    def need(self, key: str) -> Any:
        """The value of `key`. Raises FormatError when it is missing or null."""
        value = self.values.get(key)
        if value is None:
            raise FormatError(f"'{key}' is missing, and engines need it", path=self.path)
        return value

    def integer(self, key: str) -> int:
        """An integer. Raises FormatError."""
        value = self.need(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise FormatError(f"'{key}' is {value!r:.40}, not a whole number", path=self.path)
        most = MAX_LAYERS if key == LAYERS else (1 << 32) - 1
        if not 0 <= value <= most:
            raise FormatError(f"'{key}' is {value:,}, but engines accept 0 to {most:,}", path=self.path)
        return value

    def count(self, key: str, usual: int) -> int:
        """An integer, or the default where the key is missing or null. Raises FormatError."""
        return usual if self.values.get(key) is None else self.integer(key)

    def first(self, *keys: str) -> Any:
        """The value of the first key that is present, or None: models name the same thing differently."""
        return next((self.values[key] for key in keys if key in self.values), None)

    def one_of(self, *keys: str) -> Any:
        """The same. Raises FormatError when none is present, or the first one is null."""
        found = self.first(*keys)
        if found is None:
            names = " or ".join(f"'{key}'" for key in keys)
            raise FormatError(f"{names} is missing, and engines need it", path=self.path)
        return found

    def numbers(self, key: str, at_least: int = 0) -> list[Any]:
        """A list of at least `at_least` entries. Raises FormatError."""
        found = self.need(key)
        if not isinstance(found, list) or len(found) < at_least:
            raise FormatError(
                f"'{key}' is not a list of at least {at_least} entries",
                path=self.path,
                found=str(len(found)) if isinstance(found, list) else repr(found),
            )
        return found

    def of_trunk(self, key: str) -> list[Any]:
        """A list of one entry for each layer of the trunk. Raises FormatError."""
        found, n_trunk = self.need(key), self.integer("num_hidden_layers")
        if not isinstance(found, list) or len(found) != n_trunk:
            raise FormatError(
                f"'{key}' has the wrong length",
                path=self.path,
                expected=f"{n_trunk} ('num_hidden_layers')",
                found=str(len(found)) if isinstance(found, list) else repr(found),
            )
        return found

    @property
    def n_layer(self) -> int:
        """Layers of the file, blocks included. Raises FormatError."""
        return self.integer(LAYERS) + self.n_layer_nextn

    @property
    def rope(self) -> dict[str, Any]:
        """`rope_parameters`, or the older `rope_scaling`, completed by the keys that older files have beside it.

        Where kinds of layers have parameters of their own, those of full attention.
        """
        found = self._rope_parameters()
        if "full_attention" in found or "sliding_attention" in found:
            rope = dict(self._object(found.get("full_attention") or {}, "rope_parameters"))
        else:
            beside = {name: self.first(*keys) for name, keys in _BESIDE_ROPE.items()}
            rope = {**{key: value for key, value in beside.items() if value is not None}, **found}
        if "rope_type" not in rope and rope.get("type") is not None:
            rope["rope_type"] = rope["type"]
        return rope

    @property
    def sliding_theta(self) -> Any:
        """The RoPE base of layers with a sliding window, where it is given separately; else None."""
        found = self._rope_parameters().get("sliding_attention")
        if found is None:
            return self.first(*_SLIDING_THETA)
        return self._object(found, "rope_parameters").get("rope_theta")

    def _rope_parameters(self) -> dict[str, Any]:
        found = self.values.get("rope_parameters") or self.values.get("rope_scaling") or {}
        return self._object(found, "rope_parameters")

    def _object(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise FormatError(f"'{key}' is not a JSON object", path=self.path)
        return value


_BESIDE_ROPE = {
    "rope_theta": ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rope_pct", "rope_percent"),
    "original_max_position_embeddings": ("original_max_position_embeddings",),
}
_SLIDING_THETA = ("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq")
Where: TypeAlias = "str | tuple[str, ...] | Callable[[Config], Any]"


@dataclass(frozen=True)
class Row:
    """One header pair. A value of None (or a missing key, where it is optional) leaves the pair out."""

    suffix: str  # key after `{arch}.`
    type: KVType
    where: Where  # a key of config.json, several names of one, or a function
    item_type: KVType | None = None  # for arrays
    optional: bool = False

    def value(self, config: Config) -> Any:
        """The value to write, or None. Raises FormatError for a missing key."""
        if callable(self.where):
            return self.where(config)
        keys = (self.where,) if isinstance(self.where, str) else self.where
        return config.first(*keys) if self.optional else config.one_of(*keys)

    def name_in(self, config: Config) -> str:
        """What errors call it: the key that is there, else the pair."""
        keys = (self.where,) if isinstance(self.where, str) else () if callable(self.where) else self.where
        found = next((key for key in keys if key in config.values), None)
        return f"the value of '{{arch}}.{self.suffix}'" if found is None else f"'{found}'"

    def kv(self, arch: str, config: Config) -> KV | None:
        """The pair. Raises FormatError when the value is missing or does not fit its type."""
        value = self.value(config)
        if value is None:
            return None
        if self.type is ARRAY and not isinstance(value, list):
            raise FormatError(f"the value of '{arch}.{self.suffix}' is {value!r}, not a list", path=config.path)
        items = value if self.type is ARRAY else [value]
        kind = self.item_type if self.type is ARRAY and self.item_type is not None else self.type
        for item in items:
            if not fits(item, kind):
                what = self.name_in(config).replace("{arch}", arch)
                raise FormatError(f"{what} does not fit ({item!r} as {kind.name.lower()})", path=config.path)
        return KV.make(f"{arch}.{self.suffix}", self.type, value, self.item_type)


def fits(value: Any, kind: KVType) -> bool:
    """Whether a value of config.json can be stored as `kind`: the right kind, finite and in range."""
    if kind is KVType.BOOL:
        return isinstance(value, bool)
    if kind is STRING:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind not in INTEGER_TYPES:
        return abs(value) < 3.4e38  # also false for not-a-number
    bits = 8 * SCALAR_SIZE[kind]
    low = 0 if kind.name.startswith("U") else -(1 << (bits - 1))
    return isinstance(value, int) and low <= value < low + (1 << bits)


@dataclass(frozen=True, kw_only=True)
class HParams:
    """What a family's own header and root tensors need in addition to its `Family`."""

    rows: tuple[Row, ...]
    output_norm_plus_one: bool  # the last norm is zero-centred in the checkpoint
    keeps_tied_head: bool  # a head in the checkpoint is used even if config.json ties it to the embeddings
    rope_factors: Callable[[Config], list[float] | None] | None  # scaling of positions as a tensor, `rope_freqs.weight`

    def kvs(self, arch: str, config: Config) -> list[KV]:
        """All `{arch}.*` pairs. Raises FormatError naming the key and the file when one cannot be made."""
        found = (row.kv(arch, config) for row in self.rows)
        return [kv for kv in found if kv is not None]

    def find(self, config: Config) -> Callable[[str], Any]:
        """Values of `{arch}.*` as this header would have them; None for what config.json does not say."""
        rows = {row.suffix: row for row in self.rows}

        def value(suffix: str) -> Any:
            try:
                return rows[suffix].value(config) if suffix in rows else None
            except FormatError:
                return None

        return value
