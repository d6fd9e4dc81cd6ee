"""Reading engine logs: pure functions on text.

The line forms are those of llama.cpp (`tools/server/server-context.cpp`, `src/llama-model-loader.cpp`)
and ik_llama.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from nextn.engines.base import MemoryUse

_PREFIX = re.compile(r"^(?:\d+(?:\.\d+)+ [A-Z] )?")  # 0.00.029.280 W
_SOURCE = re.compile(r"^(?:(?:srv|slot|cmn|spec|que|res|main)\s+)?[\w~:<>]+(?:\(\))?: +")  # llama_model_load:
_NOISE = re.compile(r"^error loading model(?: \w+)?: +", re.IGNORECASE)
# The header's key list, a prompt example, nextn's own lines, and a debugger's backtrace.
_DUMP = re.compile(
    r"llama_model_loader: - |example_format|nextn: (?:the engine was ended|listening on)|"
    r"^#\d+ |^\d+\s.*\.c: No such file|__GI___wait4"
)

# Best first: a line that names the cause. The first line of the best kind that occurs is the decisive one.
_CAUSES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"GGML_ASSERT\(|GGML_ABORT",
        r"missing tensor '|number of tensors|too many tensors|wrong array|key not found in model|wrong type|"
        r"tensor '[^']*' (?:has|is|size|data|not)|not within the file bounds|unknown (?:model )?architecture|"
        r"invalid split|illegal split|failed to load GGUF split|\bE gguf_init_from\w*: |invalid magic|"
        r"incompatible \w+ model|"
        r"doesn't contain MTP layers|contains no MTP|not a complete embedded MTP|missing required predictor",
        r"unable to allocate|failed to allocate|out of memory|bad_alloc|cannot allocate",
        r"no such file|failed to open|permission denied|is a directory",
        r"couldn't bind|invalid argument|unknown argument|unknown value|nextn: ",
        r"what\(\):|error loading model: |: fatal error$",
    )
)
_FAULT = re.compile(r"^\d[\d.]* E |\berror\b|\bfail(?:ed|ure)\b|\bunable\b|\bexception\b|^\w*Error: ", re.IGNORECASE)
_TRAILER = re.compile(
    r"failed to (?:load|init|initialize|create|measure)|exiting due to|error while loading|Traceback|"
    r"cleaning up before exit|Failed to init server",
    re.IGNORECASE,
)


LINE_CHARS = 1000  # an engine's own lines are shorter, and patterns may take time quadratic in a line's length
QUOTE_CHARS = 500  # of a line in a message
LOOK_CHARS = 512 << 10  # at each end of a log, where a failure's cause is looked for


def lines_of(text: str) -> Iterator[str]:
    """The lines of a log, overlong ones cut off."""
    for line in text.splitlines():
        yield line[:LINE_CHARS]


def bare(line: str) -> str:
    """The line without its leading time, level, function names and "error loading model"."""
    text = " ".join(_PREFIX.sub("", line.strip()).split())
    if (at := text.find("GGML_ASSERT")) >= 0:
        return text[at:]
    if text.startswith("nextn: "):
        return text.removeprefix("nextn: ")
    while (shorter := _NOISE.sub("", _SOURCE.sub("", text, count=1), count=1)) != text:
        text = shorter
    return text


def decisive_line(text: str) -> str:
    """The line that names the root cause of a failure, bare; "" when the log has none."""
    if len(text) > 2 * LOOK_CHARS:
        text = f"{text[:LOOK_CHARS]}\n{text[-LOOK_CHARS:]}"
    lines = [line for line in lines_of(text) if line.strip() and not _DUMP.search(line)]
    for cause in _CAUSES:
        for line in lines:
            if cause.search(line):
                return bare(line)[:QUOTE_CHARS]
    faults = [line for line in lines if _FAULT.search(line)]
    for line in faults:
        if not _TRAILER.search(line):
            return bare(line)[:QUOTE_CHARS]
    return bare(faults[0])[:QUOTE_CHARS] if faults else ""


_TOTALS = re.compile(r"draft acceptance(?: rate)? = +[\d.]+ +\( *(\d+) accepted / +(\d+) generated\)")
_PER_POS = re.compile(r"acc per pos = \(([\d., ]*)\)")


def acceptance_lines(text: str) -> list[tuple[int, int, list[float] | None]]:
    """Per request, in order: tokens accepted, tokens drafted, and the acceptance by draft position or None.

    A position's figure is the share of verification steps in which the token drafted there was accepted.
    """
    found: list[tuple[int, int, list[float] | None]] = []
    for line in lines_of(text):
        if match := _TOTALS.search(line):
            found.append((int(match[1]), int(match[2]), None))
        elif found and found[-1][2] is None and (match := _PER_POS.search(line)):
            rates = [float(part) for part in match[1].split(",") if part.strip()]
            found[-1] = (*found[-1][:2], rates)
    return found


def verification_steps(accepted: int, drafted: int, n_max: int, per_pos: list[float] | None) -> int:
    """How many verification steps drafted `drafted` tokens, at most `n_max` per step.

    The engine prints shares, rounded to three decimals, but no count; the count is the smallest one at which
    every share is a whole number of tokens and these add up to `accepted`. Without shares: as few as possible.
    """
    if drafted <= 0 or n_max <= 0:
        return 0
    fewest = math.ceil(drafted / n_max)
    if per_pos is None or accepted == 0:
        return fewest
    for steps in range(fewest, drafted + 1):
        counts = [round(share * steps) for share in per_pos]
        exact = all(abs(n / steps - share) <= 0.000501 for n, share in zip(counts, per_pos, strict=True))
        if exact and sum(counts) == accepted:
            return steps
    return fewest


_BUFFER = re.compile(r"buffer size = {1,40}(\d{1,12}(?:\.\d{1,9})?) MiB")
HOST = "Host"
"""What main memory is called."""
_NEW_CONTEXT = re.compile(r"constructing llama_context|output buffer size")


def is_host(buffer: str) -> bool:
    """Whether a buffer's name means main memory: those of ggml-cpu (`AMX` is one), and pinned ones of GPUs."""
    return buffer in (HOST, "AMX") or buffer.startswith("CPU") or buffer.endswith("_Host")


def memory_use(text: str) -> list[MemoryUse]:
    """What the engine allocated per device, over all models and contexts in the log of one start.

    A context's compute buffers are reserved more than once; only the largest counts. Memory-mapped weights count
    as weights, on "Host" like everything in main memory.
    """
    model: dict[str, float] = {}
    context: dict[str, float] = {}
    compute: dict[str, float] = {}
    current: dict[str, float] = {}
    for line in lines_of(text):
        if _NEW_CONTEXT.search(line):
            _add(compute, current)
            current = {}
        if (match := _BUFFER.search(line)) is None:
            continue
        words = line[: match.start()].split()
        if not words:
            continue
        # "load_tensors:   CPU_Mapped model buffer size", and of ik_llama.cpp "llm_load_tensors:        CPU buffer size"
        named = len(words) > 1 and not words[-2].endswith(":")
        name, kind, size = words[-2 if named else -1], words[-1] if named else "model", float(match[1])
        device = HOST if is_host(name) else name
        if kind == "compute":
            current[device] = max(size, current.get(device, 0.0))
        else:
            _add(model if kind == "model" else context, {device: size})
    _add(compute, current)
    devices = [*model, *(name for name in {**context, **compute} if name not in model)]
    sums = (model, context, compute)
    return [MemoryUse(name, *(sizes.get(name, 0.0) for sizes in sums)) for name in devices]


def _add(sums: dict[str, float], more: dict[str, float]) -> None:
    for name, size in more.items():
        sums[name] = round(sums.get(name, 0.0) + size, 2)
