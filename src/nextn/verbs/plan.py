"""`nextn plan`: what each setup of a model costs, before it exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..block.anatomy import Anatomy
from ..block.draft import Draft
from ..block.model import Block
from ..discovery.sidecars import find_sidecars
from ..engines.xllamacpp import Xllamacpp
from ..errors import EngineFailed, EngineMissing, NextnError, NoBlock, UsageError
from ..gguf.files import Model, open_sound
from ..gguf.names import LARGE
from ..measure.worth_store import kept_answer
from ..memory.account import Account, account
from ..memory.answers import Machine, fits, longest_context, this_machine
from ..memory.estimate import Prediction, predict
from ..memory.family_block import family_block
from ..memory.materialize import RealFiles
from ..memory.measured import Measured
from ..memory.measured import measure as measured_run
from ..memory.memory_plan import MemoryPlan, SetupCost
from ..memory.settings import DEFAULT_N_CTX, Settings, kv_types
from ..memory.setups import TITLES, Setup, Setups, check_plannable, make_setups, publishing
from ..progress import Say, heard
from ..writing.scratch import scratch_folder


def plan(
    model: str | Path,
    *,
    donor: str | Path | None = None,
    sidecar: str | Path | None = None,
    n_ctx: int | None = None,
    kv_type: str = "f16",
    n_gpu_layers: int | None = None,
    n_parallel: int = 1,
    n_max: int = 3,
    gpu_memory_bytes: int | None = None,
    measure: bool = False,
    header_only: bool = False,
    for_engine: str | None = None,
    say: Say | None = None,
) -> MemoryPlan:
    """What each setup of `model` costs: disk, weights, KV cache, recurrent state and compute buffers, per device.

    Nothing is written beside the model and nothing is loaded, except with `measure`, which starts and measures every
    setup whose files exist or can be made in the temporary folder. `donor` is anything that attach takes; without
    one, the block's size is taken from the family's table. `n_ctx` defaults to 8,192 or the model's training
    context. `header_only`: no engine is asked. `for_engine`: as in attach; setups whose files it does not accept are
    shown as not possible, with the reason.

    Raises UsageError, NoBlock, FormatError, IncompleteModel, StorageError, RemoteError, and with `measure`
    EngineMissing, or EngineFailed if the engine dies before it has run anything.
    """
    say = heard(say)
    for what, value in (("n_ctx", n_ctx), ("n_parallel", n_parallel), ("n_max", n_max)):
        if value is not None and value < 1:
            raise UsageError(f"{what} is {value:,}; it must be at least 1.")
    kv_type_k, kv_type_v = kv_types(kv_type)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder("plan"))
        opened = stack.enter_context(_open(model))
        say("reading headers")
        trained = opened.arch_int("context_length")
        settings = Settings(
            n_ctx or min(DEFAULT_N_CTX, trained or DEFAULT_N_CTX),
            kv_type_k, kv_type_v, n_parallel, n_max, n_gpu_layers,
        )  # fmt: skip
        beside = None if sidecar is None else open_sound(sidecar)
        notes: list[str] = []
        beside = beside or _found_sidecar(opened, notes)
        check_plannable(opened, beside)
        block = stack.enter_context(_block(opened, donor, beside))
        found = _engine(not header_only, measure, notes, opened)
        setups = make_setups(opened, block, beside, scratch, for_engine, on_disk=found is not None)
        machine = this_machine(gpu_memory_bytes)
        maker = _Rows(found, settings, machine, scratch, trained, say)
        rows = maker.all(setups, measure)
        if setups.block is not None and setups.block.kind == "family":
            notes.append("no donor is named: the block's size is the usual one of its family, at q8_0")
        if n_gpu_layers and found is not None and _no_gpu(rows):
            notes.append("this engine has no GPU: it placed everything in main memory")
        title = None if found is None else f"{found.name} {found.version}"
        worth = kept_answer(opened)
        return MemoryPlan(
            opened, settings, machine, title, setups.block, tuple(rows), publishing(setups),
            (*setups.notes, *notes), str(model), None if worth is None else worth[1], maker.engine_died,
        )  # fmt: skip


def _no_gpu(rows: list[SetupCost]) -> bool:
    return all(len(row.prediction.devices) == 1 for row in rows if row.prediction is not None)


@contextmanager
def _open(model: str | Path) -> Iterator[Model]:
    from ..remote.opening import opened

    with opened(model) as found:
        if found.model is None:
            raise UsageError(f"{model}: this is a checkpoint, and memory can be planned only for a GGUF; name one.")
        yield found.model


@contextmanager
def _block(
    model: Model, donor: str | Path | None, sidecar: Model | None
) -> Iterator[Callable[[Model], Block]]:
    """How to get the block for a trunk: the donor's, the sidecar's, else the family's."""
    if donor is not None:
        from ..donors.open_donor import open_block

        with open_block(donor, trunk=model) as source:
            yield lambda trunk: source.block
        return
    if sidecar is not None:
        from ..block.from_gguf import block_from_model

        if Anatomy.of(sidecar).is_draft:
            yield lambda trunk: _refused(sidecar)
            return
        yield lambda trunk: block_from_model(sidecar)
        return
    yield family_block


def _refused(draft: Model) -> Block:
    raise NoBlock(f"{draft.entry.name}: this draft is a model of its own, so it can only be a sidecar.")


def _found_sidecar(model: Model, notes: list[str]) -> Model | None:
    """The sidecar that every verb would use. Raises UsageError if several fit equally well."""
    answer = find_sidecars(model)
    found = answer.best()
    notes += answer.notes()
    return None if found is None else found.model


def _engine(wanted: bool, needed: bool, notes: list[str], model: Model) -> Xllamacpp | None:
    if not wanted and not needed:
        return None
    rough = "figures come only from headers, so compute buffers are rough"
    n_most = max(max(len(file.header.kvs), len(file.header.tensors)) for file in model.files)
    if n_most >= LARGE and not needed:
        notes.append(
            f"{rough}: a header with {n_most:,} keys or tensors can keep an engine busy for minutes; --measure asks it "
            "all the same"
        )
        return None
    try:
        return Xllamacpp.find()
    except (EngineMissing, EngineFailed) as error:
        if needed:
            raise
        notes.append(f"{rough}: {error}")
        return None


class _Rows:
    """Predicts and measures setups; identical engine runs are made only once."""

    def __init__(
        self, engine: Xllamacpp | None, settings: Settings, machine: Machine, scratch: Path, trained: int, say: Say
    ) -> None:
        self.engine, self.settings, self.machine, self.scratch = engine, settings, machine, scratch
        self.trained, self.say = trained, say
        self.engine_died = False

    def all(self, setups: Setups, measure: bool) -> list[SetupCost]:
        """One row per setup."""
        self.maker = RealFiles(setups, self.scratch / "real")
        return [self.row(setup, measure) for setup in setups.all]

    def row(self, setup: Setup, measure: bool) -> SetupCost:
        """The row of one setup."""
        if setup.model is None:
            return SetupCost(setup, None)
        notes: list[str] = []
        self.say(f"accounting for {TITLES[setup.id]}")
        here = self._account(setup, self.settings, notes)
        other = self.settings.at(2 * self.settings.n_ctx)
        there = None if here is None else self._account(setup, other, [])
        prediction = predict(setup, self.settings, here, None if there is None else (other, there))
        notes += prediction.notes
        measured = self._measure(setup, prediction, notes) if measure else None
        return SetupCost(
            setup, prediction, measured,
            fits(prediction, self.machine, self.settings),
            longest_context(prediction, self.machine, self.settings, self.trained),
            tuple(notes),
        )  # fmt: skip

    def _account(self, setup: Setup, settings: Settings, notes: list[str]) -> Account | None:
        if self.engine is None:
            return None
        assert setup.model is not None
        beside = None if setup.sidecar is None else setup.sidecar.entry
        alone = setup.sidecar is not None and Draft.of(setup.sidecar) is not None
        if alone:  # the engine makes the context of such a draft only beside a loaded model
            notes.append("the draft's compute buffers follow from its header; the engine reports only the model's")
            beside = None
        try:
            return account(
                self.engine, setup.model.entry, beside, settings, mtp=setup.mtp and not alone, scratch=self.scratch
            )
        except NextnError as error:
            notes.append(f"from headers: {error}")
            return None

    def _measure(self, setup: Setup, prediction: Prediction, notes: list[str]) -> Measured | None:
        assert self.engine is not None and setup.model is not None
        self.say(f"running {TITLES[setup.id]}")
        try:
            real = setup if setup.is_there else self.maker.make(setup)
            return measured_run(self.engine, real, self.settings, prediction.sum("output_bytes"), self.scratch)
        except NextnError as error:
            self.engine_died |= isinstance(error, EngineFailed) and error.signal is not None
            notes.append(f"not measured: {error}")
            return None
