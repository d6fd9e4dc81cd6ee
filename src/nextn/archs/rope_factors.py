"""RoPE's factors where a model's scaling of positions stands in a tensor, `rope_freqs.weight`."""

from __future__ import annotations

import math

from ..errors import FormatError
from .header_values import LLAMA3, head_size, step_thetas
from .hparams import F32, Config, fits


def llama3_factors(config: Config) -> list[float] | None:
    """Step: by how much llama3's scaling slows each frequency of RoPE, [head_dim / 2]; None without such scaling.

    Only full attention's share of a head is scaled; the rest is 1, which leaves sliding attention alone. Computed in
    float32 as in conversion/step3.py. Raises FormatError.
    """
    import numpy as np

    rope = config.rope
    if str(rope.get("rope_type") or "").lower() != LLAMA3:
        return None
    kinds, shares = config.numbers("layer_types"), config.numbers("partial_rotary_factors")
    share = next((x for kind, x in zip(kinds, shares, strict=False) if kind == "full_attention"), None)
    told = [step_thetas(config)[0], share]
    told += [rope.get(key, usual) for key, usual in _LLAMA3.items()]
    if not all(fits(x, F32) and x > 0 for x in told):
        raise FormatError(
            "the scaling of positions ('rope_scaling', 'partial_rotary_factors') is damaged", path=config.path
        )
    base, part, factor, low, high, length = map(float, told)
    n_half, n_turned = head_size(config) // 2, int(head_size(config) * part)
    exponents = np.arange(0, n_turned, 2, dtype=np.float32) / np.float32(n_turned)
    frequencies = np.float32(1) / np.power(np.float32(base), exponents, dtype=np.float32)
    found = []
    for frequency in frequencies.tolist():
        wavelength = 2 * math.pi / frequency
        if wavelength < length / high:
            found.append(1.0)
        elif wavelength > length / low:
            found.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found + [1.0] * (n_half - len(found))


_LLAMA3 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
