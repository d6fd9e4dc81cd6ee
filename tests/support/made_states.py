"""Folders of states without an engine: text in which each token decides the next one, so that seconds teach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nextn.gguf.files import open_model
from nextn.training.answers import Answer, as_f16
from nextn.training.states import StatesFolder, StatesManifest, Trunk

TOP_K = 4


def made_states(
    folder: Path, trunk: Path, *, taps: list[int] | None, n_texts: int = 24, n_tokens: int = 40, n_used: int = 50,
    seed: int = 1, **more: Any,
) -> Path:  # fmt: skip
    """Texts of `n_used` different tokens for the sizes of `trunk`; the state of a token is a vector of its own."""
    model = open_model(trunk)
    n_embd, n_vocab = model.arch_int("embedding_length"), len(model.header.get("tokenizer.ggml.tokens"))
    given = {
        "trunk": Trunk(trunk.name, trunk.stat().st_size, "ab" * 32), "architecture": model.architecture,
        "n_embd": n_embd, "n_vocab": n_vocab, "taps": taps, "nextn_state": taps is None, "reader": "engine",
        "agreement": None, "engine": "none", "seed": seed, "top_k": TOP_K, "n_predict": n_tokens, "temperature": 0.0,
        "greedy_share": 1.0, "prompts": {"sha256": "x"},
    }  # fmt: skip
    out = StatesFolder.start(folder, StatesManifest(**{**given, **more}))
    rng = np.random.default_rng(seed)
    used = rng.permutation(n_vocab)[:n_used].astype(np.int32)
    states = (
        rng.standard_normal((n_vocab, len(taps or [0]), n_embd)) * np.array([1.0, 3.0, 70.0])[: len(taps or [0]), None]
    )
    for number, split in ((0, "held"), (1, "fit"), (2, "fit")):
        out.add(number, split, [_answer(i, used, states, n_tokens, rng) for i in range(n_texts // 3)], 1.0)  # type: ignore[arg-type]
    return folder


def _answer(number: int, used: Any, states: Any, n_tokens: int, rng: np.random.Generator) -> Answer:
    n, n_prompt = n_tokens - int(rng.integers(0, 8)), 5
    at = (int(rng.integers(0, len(used))) + np.arange(n + 1)) % len(used)
    ids, after = used[at[:-1]], used[at[1:]]
    top = np.stack([after, *(used[(at[1:] + k) % len(used)] for k in range(1, TOP_K))], 1).astype(np.int32)
    logits = np.tile(np.array([5.0, 2.0, 1.0, 0.0], np.float16), (n, 1))
    log_sum = np.full(n, np.log(np.exp(logits[0].astype(np.float64)).sum()), np.float32)
    features, _ = as_f16(states[ids].astype(np.float32))
    return Answer(number, n_prompt, ids, features, top, logits, log_sum)
