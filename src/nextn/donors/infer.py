"""Where a trunk's block may be found, inferred from the trunk itself and confirmed by headers.

`infer_donors` reads only metadata and names; `confirm` compares a candidate's config.json, tensor names and tokens
with the trunk; `decide` picks the one that fits, or asks. Nothing here touches the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from ..archs import FAMILIES, of_classes
from ..archs.base import Family
from ..archs.hparams import Config
from ..archs.qwen import LAYER_PREFIX, name_in_block
from ..errors import DonorMismatch, FormatError, NextnError, NoBlock, UsageError
from ..gguf.files import Model
from ..layouts.donor_check import TOKENS, compare_tokens, n_layer_trunk, n_vocab
from ..layouts.naming import split_quant
from ..layouts.places import is_named_by_hash
from ..sources.checkpoint import classes_of, plain_name, text_part

_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")
_CACHE_FOLDER = re.compile(r"models--([^/]+?)--([^/]+)\Z")
# What quantizers append to the name of the checkpoint they quantized.
_QUANT_TAIL = re.compile(
    r"[-_.]("
    r"i1|GGUF|MTP|fixed|imatrix|AWQ|GPTQ|EXL[23]|MLX|bnb|unsloth|UD|FP8|NVFP4|MXFP4\w*|Int[48]|W[48]A\d+|[2-8]bit|[248]bits"
    r")\Z",
    re.IGNORECASE,
)
# Header pairs that describe sizes; a fine-tune may change others (context, RoPE, experts in use).
_SIZES = (
    "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "expert_count", "expert_feed_forward_length",
    "expert_shared_feed_forward_length", "ssm.conv_kernel", "ssm.state_size", "ssm.group_count",
    "ssm.time_step_rank", "ssm.inner_size", "attention.recurrent_layers",
)  # fmt: skip


class Strength(IntEnum):
    """How sure a guess is before anything has been looked up."""

    BASE = 1  # the model this one was fine-tuned from
    NAME = 2  # constructed from names
    DERIVED = 3  # from the quant's own repository or licence, without what quantizers append
    STATED = 4  # the metadata name it as the source of this model


@dataclass(frozen=True)
class Guess:
    """A repository that may hold the block."""

    repo: str  # ORG/NAME
    why: str  # what in the trunk says so
    strength: Strength


class Evidence(Protocol):
    """The few parts of a candidate that are read to decide; each is only requested when the ones before it fit."""

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json."""

    @property
    def tensor_names(self) -> Collection[str] | None:
        """Names in the index; None: not known."""

    @property
    def vocabulary(self) -> Mapping[int, str] | None:
        """Token texts by id; None: not known."""


@dataclass(frozen=True)
class Headers:
    """Evidence that has already been read."""

    config: Mapping[str, Any]
    tensor_names: Collection[str] | None = None
    vocabulary: Mapping[int, str] | None = None


Read: TypeAlias = Callable[[str], Evidence | NextnError | None]


class Doubt(UsageError):
    """Several donors fit equally well; `candidates` are values for --from, each with the evidence for it."""

    def __init__(self, message: str, candidates: Sequence[tuple[str, str]]) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


@dataclass(frozen=True)
class Confirmation:
    """Whether a candidate fits, and why."""

    guess: Guess
    fits: bool
    reason: str  # a clause


# -- guessing ---------------------------------------------------------------------------------------------------------


def repo_of(text: object) -> str | None:
    """ORG/NAME from a Hub address, from `hf:ORG/NAME` or by itself; None for anything else."""
    if not isinstance(text, str):
        return None
    text = text.strip().removeprefix("hf:")
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or (parts.hostname or "").lower() not in _HUB_HOSTS:
            return None
        names = [unquote(name) for name in parts.path.split("/") if name]
        if names[:1] in (["datasets"], ["spaces"], ["collections"]):
            return None
        text = "/".join(names[:2])
    return text if _REPO.match(text) else None


def checkpoint_name(name: str) -> str:
    """A repository's or file's name without what quantizers append: `A-27B-FP8-i1-GGUF` gives `A-27B`."""
    while True:
        shorter = _QUANT_TAIL.sub("", split_quant(name)[0])
        if shorter == name:
            return name
        name = shorter


def same_name(left: str, right: str) -> bool:
    """Whether two names mean the same model, ignoring owner, quant, letter case and punctuation."""
    return _bare(left) == _bare(right)


@lru_cache(maxsize=1 << 16)
def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", checkpoint_name(text.rpartition("/")[2]).lower())


def infer_donors(trunk: Model) -> list[Guess]:
    """Repositories that may hold the block of `trunk`, the most certain first, each once."""
    best: dict[str, Guess] = {}
    for guess in _guesses(trunk):
        known = best.get(guess.repo.lower())
        if known is None or guess.strength > known.strength:
            best[guess.repo.lower()] = guess
    return sorted(best.values(), key=lambda guess: -guess.strength)


def _text(trunk: Model, key: str) -> str:
    value = trunk.header.get(key)
    return value.strip() if isinstance(value, str) else ""


def names_of(trunk: Model) -> dict[str, str]:
    """The model's names -> where each comes from."""
    found: dict[str, str] = {}
    parts = [_text(trunk, f"general.{key}") for key in ("basename", "size_label", "finetune", "version")]
    if parts[0] and parts[1]:
        found.setdefault("-".join(filter(None, parts)).replace(" ", "-"), "general.basename and general.size_label")
    if name := _text(trunk, "general.name"):
        found.setdefault(checkpoint_name(name.replace(" ", "-")), "general.name")
    if not is_named_by_hash(trunk.entry):
        found.setdefault(checkpoint_name(trunk.base_name.removeprefix("mtp-")), "the file's name")
    return found


def _guesses(trunk: Model) -> Iterator[Guess]:
    stated = ("general.source.huggingface.repository", "general.source.repo_url", "general.source.url")
    own = [(key, repo) for key in (*stated, "general.repo_url") if (repo := repo_of(trunk.header.get(key)))]
    for key, repo in own:
        yield from _with_unquantized(repo, key, Strength.STATED)
    names = names_of(trunk)
    for index in range(_n_bases(trunk)):
        yield from _base(trunk, index, names)
    for key in ("general.license.link", "general.url"):
        if repo := repo_of(trunk.header.get(key)):
            yield from _with_unquantized(repo, key, Strength.DERIVED)
    for part in trunk.entry.absolute().parts:
        if match := _CACHE_FOLDER.match(part):
            yield from _with_unquantized(f"{match[1]}/{match[2]}", "the cache folder that it is in", Strength.DERIVED)
    family = FAMILIES.get(trunk.architecture)
    known = family.publishers if family is not None else ()
    publishers = dict.fromkeys(known, f"the publisher of '{trunk.architecture}'")
    if organization := _text(trunk, "general.organization"):
        publishers = {organization.replace(" ", "-"): "general.organization", **publishers}
    for publisher, who in publishers.items():
        for name, what in names.items():
            if repo := repo_of(f"{publisher}/{name}"):
                yield Guess(repo, f"{what}, and {who}", Strength.NAME)


def _with_unquantized(repo: str, what: str, strength: Strength) -> Iterator[Guess]:
    """A named repository; when its name says that it holds quants, also the checkpoint they were made from."""
    owner, _, name = repo.partition("/")
    short = checkpoint_name(name)
    if short == name:
        yield Guess(repo, f"{what} names it", strength)
        return
    weaker = min(strength, Strength.DERIVED)
    yield Guess(f"{owner}/{short}", f"{what} names {repo}, a quant of it", weaker)
    publisher, mark, rest = short.partition("_")
    if mark and (inner := repo_of(f"{publisher}/{rest}")):  # `ORG_NAME-GGUF`, as some quantizers write it
        yield Guess(inner, f"{what} names {repo}, a quant of it", weaker)


def _n_bases(trunk: Model) -> int:
    count = trunk.header.get("general.base_model.count", 0)
    return min(count, 16) if isinstance(count, int) and not isinstance(count, bool) else 0


def _base(trunk: Model, index: int, names: Mapping[str, str]) -> Iterator[Guess]:
    """A base model: the checkpoint itself for a quant published as such, else the model that was fine-tuned."""
    key = f"general.base_model.{index}"
    repo = repo_of(trunk.header.get(f"{key}.repo_url"))
    if repo is None:
        organization, name = (_text(trunk, f"{key}.{last}").replace(" ", "-") for last in ("organization", "name"))
        repo = repo_of(f"{organization}/{name}")
    if repo is None:
        return
    if any(same_name(repo, name) for name in names):
        yield from _with_unquantized(repo, key, Strength.STATED)
        return
    for guess in _with_unquantized(repo, key, Strength.BASE):
        yield Guess(guess.repo, f"{guess.why} as the base of this model", Strength.BASE)


# -- confirming -------------------------------------------------------------------------------------------------------


def confirm(trunk: Model, guess: Guess, headers: Evidence | NextnError | None) -> Confirmation:
    """Whether a candidate's block fits `trunk`, judging only by headers.

    `headers` None: there is no such checkpoint; an error: it exists but cannot be read.
    """
    if headers is None:
        return Confirmation(guess, False, "there is no such checkpoint, or it cannot be read")
    if isinstance(headers, NextnError):
        return Confirmation(guess, False, str(headers).rstrip("."))
    try:
        agreed = _agreement(trunk, guess, headers)
    except (DonorMismatch, FormatError, NoBlock) as error:
        return Confirmation(guess, False, str(error).rstrip("."))
    return Confirmation(guess, True, agreed)


def _agreement(trunk: Model, guess: Guess, headers: Evidence) -> str:
    """What agrees, as a clause. Raises DonorMismatch, FormatError, NoBlock."""
    classes = classes_of(headers.config)
    family = of_classes(classes)
    if family is None:
        raise DonorMismatch(f"its model class is {', '.join(classes) or 'not named':.80}")
    if family.arch != trunk.architecture:
        raise DonorMismatch(f"its architecture is '{family.arch}', the trunk's '{trunk.architecture}'")
    config = Config(text_part(headers.config), Path(guess.repo) / "config.json", 0)
    for what, key, ours in (
        ("hidden size", "hidden_size", trunk.arch_int("embedding_length")),
        ("vocabulary", "vocab_size", n_vocab(trunk)),
        ("number of trunk layers", "num_hidden_layers", n_layer_trunk(trunk)),
    ):
        theirs = config.integer(key)
        if ours and theirs != ours:
            raise DonorMismatch(f"its {what} is {theirs:,}, the trunk's {ours:,}")
    agreed = ["architecture", "hidden size", "vocabulary", "layers"]
    agreed += [f"{n_same} more sizes"] if (n_same := _same_sizes(trunk, config)) else []
    has_block = ""
    if headers.tensor_names is not None:
        marks = _block_marks(family, config.integer("num_hidden_layers"))
        if not any(plain_name(name).startswith(marks) for name in headers.tensor_names):
            raise NoBlock(f"it has no MTP block (no tensor named {marks[0]}*)")
        has_block = ", and it has the block"
    ours_tokens = trunk.header.by_key.get(TOKENS)
    if headers.vocabulary is not None and ours_tokens is not None:
        compare_tokens(headers.vocabulary, ours_tokens.value, trunk, guess.repo)
        agreed.append("tokens")
    return f"{', '.join(agreed[:-1])} and {agreed[-1]} agree{has_block}"


def _block_marks(family: Family, n_layer: int) -> tuple[str, ...]:
    """The prefixes of the block's tensor names in a checkpoint of this family."""
    if family.behind_trunk:
        return tuple(f"{prefix}layers.{n_layer}." for prefix in family.prefixes)
    merged = name_in_block(family, "eh_proj.", 0) is not None
    return (*family.prefixes, *([f"{LAYER_PREFIX}{n_layer}.eh_proj."] if merged else []))


def _same_sizes(trunk: Model, config: Config) -> int:
    """The number of further sizes that both sides state, all equal. Raises DonorMismatch for one that differs."""
    family = FAMILIES.get(trunk.architecture)
    n_same = 0
    for row in family.header.rows if family is not None and family.header is not None else ():
        if row.suffix not in _SIZES:
            continue
        try:
            theirs = row.value(config)
        except FormatError:
            continue  # config.json does not say
        ours = trunk.arch_value(row.suffix)
        if row.suffix == "attention.recurrent_layers" and isinstance(ours, list) and isinstance(theirs, list):
            ours = ours[: len(theirs)]  # entries of a promised block come after these
        if theirs is None or ours is None or isinstance(ours, list) != isinstance(theirs, list):
            continue
        if theirs != ours:
            raise DonorMismatch(f"its '{row.suffix}' is {theirs!r:.60}, the trunk's {ours!r:.60}")
        n_same += 1
    return n_same


# -- deciding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """The donor that was chosen."""

    guess: Guess
    sentence: str  # what was chosen and why


def decide(trunk: Model, confirmations: Sequence[Confirmation]) -> Decision:
    """The one candidate that fits and is more certain than all others that fit.

    Raises Doubt when two equally certain ones fit, NoBlock when none does; both list what was examined.
    """
    where = PurePosixPath(trunk.entry.name)
    fitting = [each for each in confirmations if each.fits]
    if not fitting:
        tried = "; ".join(f"{each.guess.repo}: {each.reason}" for each in confirmations)
        raise NoBlock(
            f"{where}: no donor could be found from its metadata"
            + (f" ({tried})" if tried else ", which names no repository")
            + "; name one with --from."
        )
    top = max(each.guess.strength for each in fitting)
    surest = [each for each in fitting if each.guess.strength is top]
    if len(surest) > 1:
        some = "; ".join(f"{each.guess.repo} ({each.guess.why})" for each in surest)
        raise Doubt(
            f"{where}: {len(surest)} checkpoints could be the donor: {some}; name one with --from.",
            [(f"hf:{each.guess.repo}", f"{each.guess.why}; {each.reason}") for each in surest],
        )
    chosen = surest[0]
    lost = [each for each in confirmations if not each.fits and each.guess.strength > top]
    but = "".join(f"; {each.guess.repo} was skipped: {each.reason}" for each in lost)
    repo = chosen.guess.repo
    if top is not Strength.NAME:
        return Decision(chosen.guess, f"{where}: the donor is {repo}: {chosen.guess.why}; {chosen.reason}{but}.")
    return Decision(
        chosen.guess,
        f"{where}: the donor is a guess: {repo}, by {chosen.guess.why}; {chosen.reason}{but}; to be certain, name it "
        f"yourself (--from hf:{repo}), or another.",
    )


def find_donor(trunk: Model, read: Read) -> Decision:
    """Guess, confirm, decide; `read` returns a repository's headers, None when there is no such checkpoint.

    Less certain guesses are only read when no more certain one fits, and not at all when a more certain one exists but
    cannot be read (an error from `read`): that error is raised. Raises what `decide` raises, and what `read` does.
    """
    confirmations: list[Confirmation] = []
    guesses = infer_donors(trunk)
    for strength in sorted({guess.strength for guess in guesses}, reverse=True):
        found = [(guess, read(guess.repo)) for guess in guesses if guess.strength is strength]
        confirmations += [confirm(trunk, guess, headers) for guess, headers in found]
        if any(each.fits for each in confirmations):
            break
        for _, headers in found:
            if isinstance(headers, NextnError):
                raise headers
    return decide(trunk, confirmations)
