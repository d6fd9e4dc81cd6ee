"""The first stage: the trunk answers prompts, and its answers are kept with the states that a draft sees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from ..archs import FAMILIES
from ..archs.engines import LLAMA_CPP
from ..block.anatomy import Anatomy
from ..compat.graphs import graphs
from ..engines.base import Launch
from ..engines.xllamacpp import Xllamacpp
from ..errors import UnsupportedModel, UsageError
from ..gguf.files import Model, open_sound
from ..layouts.places import header_sha256, model_name
from ..measure.cpu_watch import n_cpus
from ..memory.answers import this_machine
from ..units import counted
from .answers import StatesReader
from .asked import MOST_TOKENS, UserTurn, ask_itself, mixed, read_asked, user_turn, write_asked
from .chunk_writer import LEAST_CHUNK, ChunkWriter, How, Limits, Report, StatesProgress
from .engine_reader import EngineReader, What
from .kind import usual_taps
from .libraries import installing
from .probe import Agreement, probe
from .prompts import Prompt, Tokenized, own_prompts, sha256_of, shipped, templated, tokenized, usable
from .states import States, StatesFolder, StatesManifest, Trunk

__all__ = ["Report", "StatesOptions", "StatesProgress", "usual_taps", "write_states"]

N_TORCH, N_ENGINE = 128, 64  # prompts per chunk, fewer for wide models
_CHUNK_BYTES = 1 << 29
_SLOTS = 32  # answers that the engine writes together
_LEAST_PROMPTS = 256  # that are looked at, however little is to be written
_FAST_TPS = 2000  # tokens per second that no small machine exceeds
_SPARE_MEMORY = 0.7  # share of what is available that torch may take
_SHIPPED = "shipped"  # where prompts come from that the user did not name
_MOST_ASKED = 2000  # prompts that a model asks itself
_ASKED_SHARE = 0.12  # of the time or tokens that these may take


@dataclass(frozen=True)
class StatesOptions:
    """How much is written, and how."""

    native: bool = False  # the state that the MTP graph gets, for native blocks; else layer inputs, for EAGLE-3
    taps: tuple[int, ...] | None = None  # the layers; None: EAGLE-3's usual three
    tokens: int | None = 500_000  # of prompts and answers, in all chunks; None: no limit
    seconds: float | None = None  # that this call may take
    max_disk: int | None = 10_000_000_000  # bytes of the folder
    n_predict: int = 192  # most tokens of an answer
    temperature: float = 0.8  # of the answers that are not greedy
    greedy_share: float = 0.5
    top_k: int = 32
    seed: int = 0
    prompts: Path | None = None
    chats: Path | None = None
    asks_itself: bool = True  # a model with a chat template also answers what it asks itself, unless prompts are given
    reader: Literal["auto", "engine", "torch"] = "auto"
    threads: int | None = None
    engine: Xllamacpp | None = None  # None: the installed one


def write_states(trunk: Path, out: Path, options: StatesOptions, progress: Report | None = None) -> States:
    """Let the trunk answer prompts until there is enough; go on in a folder that has some.

    Raises UsageError, UnsupportedModel (no such states in the engine's graph), EngineMissing, EngineRefused,
    EngineFailed, NoSpace, StorageError, and what opening files raises.
    """
    return _Stage(Path(trunk), Path(out), options, progress or (lambda one: None)).run()


@dataclass
class _Stage:
    trunk: Path
    out: Path
    options: StatesOptions
    report: Report
    began: float = field(default_factory=time.monotonic)
    turn: UserTurn | None = None  # where the trunk asks itself; None: it does not

    def run(self) -> States:
        o = self.options
        model = open_sound(self.trunk)
        self.taps = _taps(model, o)
        self.report(StatesProgress("starting the engine"))
        self.engine = o.engine or Xllamacpp.find()
        prompts, source = self._prompts(model)
        wanted = self._manifest(model, prompts, source)
        self.folder = StatesFolder.start(self.out, wanted)
        self.n_most = self._most_together()
        asks_itself = o.asks_itself and source == _SHIPPED and templated(model)
        self.texts = self._tokenized(model, prompts[: self._n_needed()], asks_itself)
        if not self._writer().wants_more():
            return States.open(self.out) if self.folder.manifest.chunks else self._none()
        reader, agreement = self._reader(model)
        with reader:
            if not self.folder.manifest.chunks:
                agreed = None if agreement is None else agreement.to_json()
                self.folder.manifest.reader, self.folder.manifest.agreement = _kind(reader), agreed
            self.folder.save()
            if reader.name == "engine":
                self.n_most = min(self.n_most, N_ENGINE)
            if self.turn is not None:
                self.texts = mixed(self.texts, self._asked(model, reader, self.turn), self.turn, o.seed)
            self._writer().write(reader)
        return States.open(self.out) if self.folder.manifest.chunks else self._none()

    def _writer(self) -> ChunkWriter:
        o = self.options
        return ChunkWriter(
            self.folder, self.texts, How(o.n_predict, o.temperature, o.greedy_share, o.seed),
            Limits(o.tokens, None if o.seconds is None else self.began + o.seconds, o.max_disk), self.n_most,
            self.report,
        )  # fmt: skip

    def _asked(self, model: Model, reader: StatesReader, turn: UserTurn) -> list[tuple[int, ...]]:
        """What the trunk asks itself: read back, or written in a small part of the time."""
        o, known = self.options, read_asked(self.out)
        if known is not None or self.folder.manifest.chunks:
            return known or []
        until = None if o.seconds is None else time.monotonic() + _ASKED_SHARE * o.seconds
        most = [_MOST_ASKED] if o.tokens is None else [_MOST_ASKED, int(_ASKED_SHARE * o.tokens) // MOST_TOKENS]
        asked = ask_itself(
            model, reader, turn, min(most), self.n_most, o.seed,
            lambda: until is not None and time.monotonic() >= until,
            lambda n: self.report(StatesProgress(f"asking itself: {counted(n, 'prompt')}")),
        )  # fmt: skip
        write_asked(self.out, asked)
        return asked

    def _n_needed(self) -> int:
        """As many prompts as can be answered within the limits, more or less: those after them need no tokens yet."""
        o, n = self.options, [1 << 62]
        if o.tokens is not None:
            n.append(o.tokens)
        if o.seconds is not None:
            n.append(self.folder.n_tokens + int(o.seconds * _FAST_TPS))
        return _LEAST_PROMPTS + 2 * min(n) // o.n_predict

    def _none(self) -> NoReturn:
        raise UsageError(
            f"{self.out}: no text was written within the limits; give it more time, or more than "
            f"{LEAST_CHUNK * self.folder.manifest.token_bytes * self.options.n_predict / 1e6:,.1f} MB of disk."
        )

    def _most_together(self) -> int:
        """Prompts per chunk of torch: as many as its matrices like, fewer where states are wide."""
        answer_bytes = (self.options.n_predict + 64) * self.folder.manifest.token_bytes
        return max(8, min(N_TORCH, _CHUNK_BYTES // answer_bytes))

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _prompts(self, model: Model) -> tuple[list[Prompt], str]:
        own = own_prompts(self.options.prompts, self.options.chats)
        if own:
            return own, "own"
        return usable(shipped(), templated(model)), _SHIPPED

    def _manifest(self, model: Model, prompts: Sequence[Prompt], source: str) -> StatesManifest:
        o = self.options
        n_embd = model.arch_int("embedding_length")
        tokens = model.header.get("tokenizer.ggml.tokens")
        return StatesManifest(
            trunk=Trunk(model_name(model), model.size_bytes, header_sha256(model.files[0])),
            architecture=model.architecture,
            n_embd=n_embd,
            n_vocab=0 if tokens is None else len(tokens),
            taps=None if self.taps is None else list(self.taps),
            nextn_state=self.taps is None,
            reader="engine",
            agreement=None,
            engine=f"{self.engine.name} {self.engine.version}",
            seed=o.seed,
            top_k=o.top_k,
            n_predict=o.n_predict,
            temperature=o.temperature,
            greedy_share=o.greedy_share,
            prompts={"source": source, "n": len(prompts), "sha256": sha256_of(prompts)},
        )

    def _tokenized(self, model: Model, prompts: Sequence[Prompt], asks_itself: bool) -> list[Tokenized]:
        self.report(StatesProgress(f"tokenizing {len(prompts):,} prompts"))
        longest = max(64, 4 * self.options.n_predict)
        if trained := model.arch_int("context_length"):
            longest = max(1, min(longest, trained - self.options.n_predict))
        with self.engine.start(Launch(model.entry, n_ctx=512, threads=1)) as running:
            found = tokenized(prompts, running, templated(model), longest, self.options.seed)
            if asks_itself:
                self.turn = user_turn(running)
        if len(found) < len(prompts):
            left = counted(len(prompts) - len(found), "prompt")
            self.report(StatesProgress(f"{left} of more than {longest:,} tokens left out"))
        return found

    # -- with what ----------------------------------------------------------------------------------------------------

    def _reader(self, model: Model) -> tuple[StatesReader, Agreement | None]:
        """The fastest way that agrees with the engine, and how far it does."""
        o = self.options
        longest = max([len(one.ids) for one in self.texts] + ([] if self.turn is None else [self.turn.most_tokens]))
        longest += o.n_predict + 1
        launch = Launch(model.entry, n_ctx=longest, threads=o.threads, slots=min(_SLOTS, self.n_most))
        what = What(self.taps, o.top_k)
        earlier = self.folder.manifest.reader if self.folder.manifest.chunks else None
        if o.reader != "engine" and earlier != "engine":
            try:
                return self._torch(model, launch, what, longest)
            except _NotHere as error:
                if o.reader == "torch" or earlier == "torch":
                    raise UsageError(f"{model.entry}: torch cannot write its states: {error}.") from error
                self.report(StatesProgress(f"the engine writes, since torch cannot: {error}"))
        return EngineReader(self.engine, launch, what), None

    def _torch(self, model: Model, launch: Launch, what: What, longest: int) -> tuple[StatesReader, Agreement]:
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise _NotHere(f"torch is not installed ({installing('torch')})") from error
        from .dense import NotDense, sizes_of
        from .torch_reader import TorchReader

        if what.taps is None:
            raise _NotHere("it has no graph for native blocks")
        o, rows = self.options, self.n_most
        n_workers = o.threads or n_cpus()
        try:
            s = sizes_of(model)
            weights = 2 * sum(info.n_elements for _, info in model.items())
            each = rows * longest * (4 * s.n_layer * s.n_head_kv * s.head + self.folder.manifest.token_bytes)
            room = this_machine().ram_available_bytes
            if room is not None:
                n_workers = max(0, min(n_workers, int(_SPARE_MEMORY * room - weights) // each))
            if n_workers < 1:
                raise _NotHere(f"it would take {(weights + each) / 1e9:,.1f} GB of memory")
            self.report(StatesProgress("reading the trunk into torch"))
            with EngineReader(self.engine, launch, what) as engine:
                ends = engine.ends()
                reader = TorchReader(model, what.taps, what.top_k, ends, n_workers)
                self.report(StatesProgress("comparing torch with the engine"))
                agreement = probe(reader, engine, [one.ids for one in self.texts if one.held], o.seed)
        except NotDense as error:
            raise _NotHere(str(error)) from error
        if not agreement.is_enough:
            raise _NotHere(f"it disagrees with the engine ({agreement.words})")
        self.report(StatesProgress(f"torch agrees with the engine: {agreement.words}"))
        return reader, agreement


class _NotHere(Exception):
    """Torch cannot do it here; `str(error)` says why."""


def _kind(reader: StatesReader) -> Literal["engine", "torch"]:
    return "torch" if reader.name == "torch" else "engine"


def _taps(model: Model, options: StatesOptions) -> tuple[int, ...] | None:
    """Which layers are read; None: the state of the MTP graph. Raises UnsupportedModel, UsageError."""
    arch, n_layer = model.architecture, Anatomy.of(model).n_layer_trunk
    if options.native:
        family = FAMILIES.get(arch)
        if family is None or not family.on(LLAMA_CPP).drafts:
            raise UnsupportedModel(
                f"{model.entry}: llama.cpp {graphs().build} has no graph for MTP of '{arch}', so there is no state for "
                "a native block to read; train an EAGLE-3 draft."
            )
        return None
    if graphs().has_taps(arch) is False:
        raise UnsupportedModel(
            f"{model.entry}: llama.cpp {graphs().build} has no layer inputs for EAGLE-3 in its graph of '{arch}'; "
            "use --kind native if that architecture has a graph for MTP."
        )
    taps = options.taps or usual_taps(n_layer)
    if any(not 0 <= tap <= n_layer for tap in taps) or list(taps) != sorted(set(taps)):
        raise UsageError(
            f"{model.entry}: it has {n_layer} layers, so layers {', '.join(map(str, taps))} cannot be read."
        )
    return taps
