"""What each setup of a model costs, and which questions that answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..block.model import Block
from ..gguf.files import Model
from ..layouts.donor_check import n_layer_trunk
from ..schemas.base import Documented, filled
from ..schemas.plan import PlanDocument, PlannedBlock, PlannedSetup, Publishing, Totals
from ..units import size
from .answers import Machine
from .estimate import COLUMNS, Prediction
from .measured import Measured
from .settings import Settings
from .setups import BUNDLED_OFF, BUNDLED_ON, NO_MTP, SIDECAR, TITLES, Setup


@dataclass(frozen=True)
class SetupCost:
    """One setup's figures."""

    setup: Setup
    prediction: Prediction | None  # None: the setup is not possible
    measured: Measured | None = None
    fits: bool | None = None
    max_n_ctx: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The setup's display name."""
        return TITLES[self.setup.id]

    @property
    def document(self) -> PlannedSetup:
        """What --json prints of it."""
        setup, found = self.setup, self.prediction
        return filled(
            PlannedSetup,
            self,
            id=setup.id,
            mtp=setup.mtp,
            available=found is not None,
            why_not=setup.why_not,
            source=None if found is None else found.source,
            disk_bytes=setup.disk_bytes if found else None,
            disk_new_bytes=setup.disk_new_bytes if found else None,
            files=setup.files,
            devices=[] if found is None else [use.document for use in found.devices],
            totals=None
            if found is None
            else Totals(**{name: found.sum(name) for name in (*COLUMNS, "total_bytes", "needed_bytes")}),
        )



@dataclass(frozen=True)
class MemoryPlan(Documented):
    """All setups of one model, and the conclusions from them."""

    model: Model
    settings: Settings
    machine: Machine
    engine: str | None
    block: Block | None
    rows: tuple[SetupCost, ...]
    publishing: Publishing | None
    notes: tuple[str, ...] = field(default=())
    name: str = ""  # what the user called the model
    worth: str | None = None  # whether drafting can pay on this machine, if that was measured before
    engine_died: bool = False  # by a signal, while running a setup; the setup's notes name the signal

    def row(self, id: str) -> SetupCost:
        """The setup of that id."""
        return next(row for row in self.rows if row.setup.id == id)

    def difference(self, id: str, base: str) -> int | None:
        """How many more bytes one setup takes than another."""
        left, right = self.row(id).prediction, self.row(base).prediction
        return None if left is None or right is None else left.total_bytes - right.total_bytes

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers to the user's questions, in sentences."""
        return answers(self)

    @property
    def document(self) -> PlanDocument:
        """What --json prints."""
        block = self.block
        return filled(
            PlanDocument,
            self,
            model=self.name,
            name=self.model.header.get("general.name"),
            architecture=self.model.architecture,
            n_layer_trunk=n_layer_trunk(self.model),
            n_ctx_train=self.model.arch_int("context_length"),
            settings=self.settings.document,
            block=None
            if block is None
            else filled(
                PlannedBlock,
                block,
                source=block.kind,
                origin=None if block.kind == "family" else block.donor_name,
                exact=block.kind != "family",
            ),
            setups=[row.document for row in self.rows],
            unused_block_bytes=self.difference(BUNDLED_OFF, NO_MTP),
            used_block_bytes=self.difference(BUNDLED_ON, NO_MTP),
            sidecar_bytes=self.difference(SIDECAR, NO_MTP),
        )



def answers(plan: MemoryPlan) -> tuple[str, ...]:
    """Does an unused block cost memory, how much does a used one cost, does it fit, and what does publishing cost?"""
    out = []
    unused, used = plan.difference("bundled_off", "no_mtp"), plan.difference("bundled_on", "no_mtp")
    beside = plan.difference("sidecar", "no_mtp")
    if unused is not None:
        out.append(
            "an unused block costs no memory"
            if unused <= 0
            else f"an unused block costs {size(unused)} of memory"
        )
    if used is not None:
        more = f" bundled, {size(beside)} with a sidecar" if beside is not None else " bundled"
        out.append(f"drafting costs {size(used)} of memory{more} (n_max {plan.settings.n_max})")
    out += _fit(plan)
    if plan.publishing is not None and plan.publishing.how is not None:
        shared = plan.publishing
        how = "with a sidecar" if shared.how == "sidecar" else "as shards"
        out.append(
            f"publishing with and without MTP takes {size(shared.separate_bytes)} as separate files and "
            f"{size(shared.shared_bytes or 0)} {how}"
        )
    if plan.worth is not None:
        out.append(plan.worth)
    return tuple(out)


def _fit(plan: MemoryPlan) -> list[str]:
    machine = plan.machine
    if machine.ram_bytes is None and machine.gpu_memory_bytes is None:
        return ["whether it fits is not known: this machine's memory cannot be read, and --gpu-memory is not given"]
    where = [f"{size(machine.ram_bytes)} of main memory"] if machine.ram_bytes is not None else []
    where += [f"{size(machine.gpu_memory_bytes)} of GPU memory"] if machine.gpu_memory_bytes is not None else []
    out = []
    for title, rows in _same_fit(plan):
        longest = rows[0].max_n_ctx
        verb = "fits" if rows[0].fits else "does not fit"
        if longest is None:
            continue
        trained = plan.model.arch_int("context_length")
        most = "what the model was trained on" if trained and longest >= trained else "the most that fits"
        tail = f"n_ctx up to {longest:,} ({most})" if longest else "no context fits"
        out.append(f"{title}: {verb} in {' and '.join(where)} at n_ctx {plan.settings.n_ctx:,}; {tail}")
    return out


def _same_fit(plan: MemoryPlan) -> list[tuple[str, list[SetupCost]]]:
    """Setups grouped by answer."""
    groups: dict[tuple[bool | None, int | None], list[SetupCost]] = {}
    for row in plan.rows:
        if row.prediction is not None:
            groups.setdefault((row.fits, row.max_n_ctx), []).append(row)
    if len(groups) == 1:
        return [("every setup", next(iter(groups.values())))]
    return [("; ".join(row.title for row in rows), rows) for rows in groups.values()]
