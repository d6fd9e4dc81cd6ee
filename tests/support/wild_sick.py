"""More rows of the registry: models and sidecars with one thing wrong in their header or their tensors.

The files are those of `sicknesses` and `losses`; what doctor finds and what the engine does is typed here and tested.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from losses import LOSSES
from sick import rewrite
from sicknesses import CASES
from wild import Given, Parts, Wild

SICK = "Headers and tensors that went wrong: in a model with its block"
SICK_SIDECARS = "Headers and tensors that went wrong: in a sidecar"
_RUNS, _REFUSES, _DRAFTS = "runs", "refuses", "drafts"


def _model(name: str, parts: Parts, folder: Path) -> Given:
    how = CASES[name].how if name in CASES else LOSSES[name]
    return Given(rewrite(parts.bundle, folder / "M-Q4_K_M.gguf", **how))


def _sidecar(name: str, parts: Parts, folder: Path) -> Given:
    return Given(rewrite(parts.sidecar, folder / "mtp-M-Q8_0.gguf", **LOSSES[name]), trunk=parts.q4)

_HEADER = "`--fix` writes a header that matches the file"
_DONOR = "`--fix --from DONOR` completes the block"
_AGAIN = "says to get the model again"
_TRUNK = "`--fix --trunk TRUNK` makes a full sidecar"
_FINE = "is healthy"

# name in CASES or LOSSES, what is wrong, what nextn does, shape, what doctor finds, engine drafting, engine without MTP
_MODELS: tuple[tuple[str, str, str, str, tuple[str, ...], str, str], ...] = (
    ("key missing", "`nextn_predict_layers` is missing", _HEADER, "bundled", ("block-without-key",),
     _REFUSES, _REFUSES),
    ("key zero", "`nextn_predict_layers` is 0", _HEADER, "bundled", ("block-without-key",), _REFUSES, _REFUSES),
    ("foreign namespace", "the key has another architecture's prefix", _HEADER, "bundled", ("wrong-namespace",),
     _REFUSES, _REFUSES),
    ("no namespace", "the key has no prefix", _HEADER, "bundled", ("wrong-namespace",), _REFUSES, _REFUSES),
    ("count of the trunk", "`block_count` is the trunk's", _HEADER, "bundled", ("wrong-block-count",),
     _REFUSES, _REFUSES),
    ("count too large", "`block_count` is too large", _HEADER, "bundled", ("wrong-block-count",), _REFUSES, _REFUSES),
    ("absurd count", "`block_count` is 4,294,967,295", _HEADER, "bundled", ("wrong-block-count",), "aborts", "aborts"),
    ("block count", "`block_count` is missing", _HEADER, "bundled", ("wrong-block-count",), _REFUSES, _REFUSES),
    ("block count and key", "`block_count` and the key are missing", _HEADER, "bundled",
     ("wrong-block-count", "block-without-key"), _REFUSES, _REFUSES),
    ("count of text", "`block_count` is a text", _HEADER, "bundled", ("wrong-key-type", "wrong-block-count"),
     _REFUSES, _REFUSES),
    ("negative key", "`nextn_predict_layers` is -1", _HEADER, "bundled", ("wrong-key-type", "block-without-key"),
     _REFUSES, _REFUSES),
    ("key of another type", "the key is a signed integer", _HEADER, "bundled", ("wrong-key-type",), _REFUSES, _REFUSES),
    ("two blocks promised", "the key promises two blocks, and one is there", _HEADER, "bundled",
     ("wrong-number-of-blocks",), "aborts", "aborts"),
    ("wrong index", "the block is in layer 9 of 5", _HEADER, "bundled", ("block-at-wrong-index",), _REFUSES, _REFUSES),
    ("short array", "a per-layer array is one entry short", _HEADER, "bundled", ("wrong-array-length",),
     _REFUSES, _REFUSES),
    ("a head for ik", "`output_extra.weight`, a head for drafting of ik_llama.cpp", "`--fix` drops it", "bundled",
     ("head-for-ik-only",), _REFUSES, _REFUSES),
    ("lost tensors", "two tensors of the block are missing", _DONOR, "bundled", ("block-not-whole",), "aborts", _RUNS),
    ("eh_proj", "`eh_proj` is missing", _DONOR, "bundled", ("block-not-whole",), "aborts", _RUNS),
    ("all but eh_proj", "only `eh_proj` is left of the block", _DONOR, "bundled", ("block-not-whole",),
     _REFUSES, _REFUSES),
    ("the block's marks", "the block lost all `nextn.*` tensors", _DONOR, "trunk-only", ("block-not-whole",),
     "aborts", _RUNS),
    ("the block", "the header promises a block, and none is there",
     "`--fix` drops the promise, `--from` puts a block on", "trunk-only", ("key-without-block",), "aborts", _RUNS),
    ("a trunk's count", "the key promises a block, and the count is the trunk's", "`--fix` drops the key", "trunk-only",
     ("key-without-block",), _REFUSES, _REFUSES),
    ("layer 0", "the first layer is missing", _AGAIN, "bundled", ("trunk-layers-lost",), "aborts", "aborts"),
    ("a layer in the middle", "a layer is missing", _AGAIN, "bundled", ("trunk-layers-lost",), _REFUSES, _REFUSES),
    ("every layer", "all layers are missing", _AGAIN, "trunk-only", ("trunk-layers-lost",), "aborts", "aborts"),
    ("numbered from 0", "the block is called layer 0, the first layer 5", _AGAIN, "bundled", ("trunk-layers-lost",),
     _REFUSES, _REFUSES),
    ("embeddings", "the embeddings are missing", _AGAIN, "bundled", ("model-without-roots",), _REFUSES, _REFUSES),
    ("output norm", "the final norm is missing", _AGAIN, "bundled", ("model-without-roots",), _REFUSES, _REFUSES),
    ("every root", "everything but the layers is missing", _AGAIN, "bundled", ("model-without-roots",),
     _REFUSES, _REFUSES),
    ("tokenizer", "the tokenizer is missing", _AGAIN, "bundled", ("model-without-roots",), _REFUSES, _REFUSES),
    ("another architecture", "`general.architecture` is `qwen36`, a name that no engine knows",
     "`--fix` gives it its real name", "bundled", ("architecture-renamed",), _REFUSES, _REFUSES),
    ("mark of forks", "the mark of sidecars that share the target's embeddings", _FINE, "bundled", (), _DRAFTS, _RUNS),
)
_SIDECARS: tuple[tuple[str, str, str, str, tuple[str, ...], str], ...] = (
    ("embeddings", "no embeddings", _TRUNK, "sidecar", ("sidecar-without-roots",), _REFUSES),
    ("output norm", "no final norm", _TRUNK, "sidecar", ("sidecar-without-roots",), _REFUSES),
    ("every root", "nothing but the block", _TRUNK, "sidecar", ("sidecar-without-roots",), _REFUSES),
    ("tokenizer", "no tokenizer", _TRUNK, "sidecar", ("sidecar-without-roots",), _REFUSES),
    ("mark of forks", "marked as sharing the target's embeddings, which it brings", "`--fix` drops the mark", "sidecar",
     ("sidecar-shares-target",), _DRAFTS),
    ("mark of forks, false", "the mark is false", _FINE, "sidecar", (), _DRAFTS),
    ("another architecture's mark", "the mark has another architecture's prefix", "`--fix` drops the mark", "sidecar",
     ("sidecar-shares-target",), _DRAFTS),
    ("block count", "`block_count` is missing", _HEADER, "sidecar", ("wrong-block-count",), _REFUSES),
    ("numbered from 0", "the block is called layer 0", _HEADER, "sidecar", ("block-at-wrong-index",), _REFUSES),
    ("eh_proj", "`eh_proj` is missing", _DONOR, "sidecar", ("block-not-whole",), "aborts"),
    ("the block's marks", "the block lost all `nextn.*` tensors", _DONOR, "sidecar", ("block-not-whole",), "aborts"),
    ("another architecture", "`general.architecture` is `qwen36`", "`--fix` gives it its real name", "sidecar",
     ("architecture-renamed",), _REFUSES),
)
ROWS: tuple[Wild, ...] = (
    *(
        Wild(SICK, name, what, does, partial(_model, name), shape, found, engine, without)
        for name, what, does, shape, found, engine, without in _MODELS
    ),
    *(
        Wild(SICK_SIDECARS, name, what, does, partial(_sidecar, name), shape, found, engine)
        for name, what, does, shape, found, engine in _SIDECARS
    ),
)
