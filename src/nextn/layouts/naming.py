"""File names that work with engines and their discovery rules.

llama.cpp never takes a file whose name contains lower-case `mtp-` for a main model, and takes one whose name
starts with `mtp-` for the sidecar of the model in the same folder (common/download.cpp, common/preset.cpp).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import UsageError
from ..gguf.files import AUXILIARY_MARKS, Model
from .places import check_folder, model_name

# The last part of a file name after a dash or a dot, if it is a quantization tag.
_QUANT_TAG = re.compile(
    r"^(?P<rest>.+?)[-.](?P<tag>(UD-)?(I?Q\d\w*|TQ\d\w*|BF16|F16|F32|FP8\w*|MXFP4\w*|NVFP4\w*))\Z", re.I | re.S
)
_OWN_MARK = re.compile(r"-MTP(?=-|\Z)")
_MARK = re.compile(r"[-_. ]MTP(?=[-_. ]|\Z)", re.IGNORECASE)  # as others write it: X-Q4_K_M-mtp, X_MTP.Q6_K
MAIN_FORBIDDEN = AUXILIARY_MARKS


def split_quant(base: str) -> tuple[str, str]:
    """(name, quantization tag or '') of a base name: `A-Q4_K_M` gives `A` and `Q4_K_M`."""
    match = _QUANT_TAG.match(base)
    return (match["rest"], match["tag"]) if match else (base, "")


def with_mark(base: str, mark: str) -> str:
    """`NAME-MARK-QUANT`: the mark goes before the quantization tag, since engines look for the tag at the end."""
    name, tag = split_quant(base)
    return f"{name}-{mark}-{tag}" if tag else f"{name}-{mark}"


def bundled_base(base: str) -> str:
    """The base name of a bundled model made from trunk `base`; never contains lower-case `mtp-`."""
    clean = _taken(base)
    return clean if _OWN_MARK.search(clean) else _taken(with_mark(_MARK.sub("", clean), "MTP"))


def trunk_base(base: str) -> str:
    """The base name of a trunk-only model made from bundled `base`."""
    return _taken(with_mark(plain_base(base), "trunk"))


def plain_base(base: str) -> str:
    """The base name of a published trunk: without any MTP mark."""
    return _MARK.sub("", _taken(base).removeprefix("MTP-"))


def same_base(base: str, *, is_model: bool) -> str:
    """The base name of another form of the same file, also as shards; llama.cpp takes a model's for one."""
    return _taken(f"{base}-")[:-1] if is_model else base


def _taken(base: str) -> str:
    """A base name that llama.cpp takes for a main model's."""
    return base.replace("mtp-", "MTP-")


def sidecar_name(model: Model, type_name: str, mark: str = "mtp-") -> str:
    """`mtp-NAME-TYPE.gguf` for a model; `mark` is that of the sidecar's kind."""
    name, _ = split_quant(_MARK.sub("", model_name(model)).removeprefix("mtp-"))
    return f"{mark}{name}-{type_name}.gguf"


def donor_name(base: str, type_name: str) -> str:
    """`NAME-MTP-donor-TYPE.gguf`: a name that discovery does not take for a sidecar."""
    name, _ = split_quant(_MARK.sub("", base).removeprefix("mtp-"))
    return f"{_taken(name + '-')}MTP-donor-{type_name}.gguf"


def check_main_name(name: str) -> None:
    """Refuse a name under which llama.cpp would not take the file for a model."""
    for mark in MAIN_FORBIDDEN:
        if mark in name:
            raise UsageError(
                f"{name}: llama.cpp never loads a file with '{mark}' in its name as a model; choose another name."
            )


def resolve_output(out: Path | str | None, default_folder: Path, default_name: str) -> tuple[Path, str]:
    """(folder, file name) from `-o`: a name ending in `.gguf` is a file, everything else a folder.

    Raises UsageError for an empty `out`, and for a folder in the cache of another program.
    """
    if out is None:
        return check_folder(default_folder), default_name
    text = str(out)
    if not text:
        raise UsageError("-o is empty: name a file that ends in .gguf, or a folder.")
    path = Path(text)
    is_folder = os.path.isdir(path)  # noqa: PTH112 - never raises
    if path.suffix.lower() == ".gguf" and not is_folder and not text.endswith("/"):
        return check_folder(path.parent), path.name
    return check_folder(path), default_name
