"""Generates with the wheel ik-llama-cpp-python, in a process that may abort: prints the token ids as JSON.

    python scripts/ik_wheel_run.py MODEL.gguf PROMPT N_PREDICT

The wheel's ik_llama.cpp is older than MTP for most families, and its API has no drafting.
"""

from __future__ import annotations

import json
import sys

from ik_llama_cpp import IkLlama  # type: ignore[import-not-found,unused-ignore]


def main(model: str, prompt: str, n_predict: str) -> None:
    engine = IkLlama(model, n_ctx=512, n_threads=1, flash_attn=False)
    tokens = engine.generate(engine.tokenize(prompt), max_tokens=int(n_predict))
    sys.stdout.write(json.dumps(tokens) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
