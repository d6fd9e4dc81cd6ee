"""Files with other types of the block, through the same plans as attach and extract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..archs import FAMILIES
from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..block.model import DRAFT_HEAD
from ..errors import NextnError, UsageError
from ..gguf.files import Model
from ..gguf.types import parse_type_name
from ..layouts.build import block_parts
from ..layouts.sidecar import main_type_of
from ..progress import Say
from .target import MeasuredModel
from .tune_space import Artifact
from .typed_sidecar import write_sidecar

_EMBD_TYPE = "q4_0"  # attach's default for a sidecar's embeddings and head


def _type_of(model: Model, name: str) -> str | None:
    found = model.tensors.get(name)
    return None if found is None else found[1].type_name


class Maker:
    """Sidecars of one model by type; those made for the search are in a scratch folder."""

    def __init__(
        self, target: MeasuredModel, donor: str | Path | None, folder: Path, say: Say = lambda text: None
    ) -> None:
        """`donor`: where the block comes from if the model has none. Raises UsageError."""
        own = replace(target, sidecar=None).has_block
        if donor is not None and target.has_block:
            raise UsageError(
                f"{target.model.entry}: there is a block already, so --from is not needed; leave it out."
            )
        self._target, self._folder, self._say = target, folder, say
        self._bundled = own
        self._donor = donor if donor is not None else None if own else target.sidecar_path
        self._made: dict[Artifact, Path] = {}
        self._draft = target.sidecar is not None and Anatomy.of(target.sidecar).is_draft
        self.can_make = not (own and target.sidecar is not None) and not self._draft
        """False for a model with its own block and a sidecar beside it: it is unclear which of the two to change; and
        for a draft that is a model of its own, which is used as it is."""
        self.model = target.model.entry
        family = FAMILIES.get(target.model.architecture)
        self.separate_head = family is not None and family.draft_head

    @property
    def own(self) -> Artifact:
        """The types of the user's own file, as engines use them; without a block, those of what attach would make."""
        if not self._target.has_block:
            return Artifact(None, _EMBD_TYPE, _EMBD_TYPE)
        if self._draft:
            return Artifact(None, None, None)
        origin = self._target.block_origin
        block = block_from_model(origin)
        kind = main_type_of(block_parts(block, block.n_layer_trunk or 0, None, [], in_model=False))
        heads = (f"blk.{layer}.{DRAFT_HEAD}" for layer in Anatomy.of(origin).blocks)
        embd = _type_of(origin, "token_embd.weight")
        head = next(filter(None, (_type_of(origin, name) for name in (*heads, "output.weight"))), embd)
        return Artifact(kind.name, head, embd)

    def sidecar(self, artifact: Artifact) -> Path | None:
        """The file to draft with, made if it does not exist. Raises QuantizeError, NoSpace, and what making raises."""
        if artifact.as_is and self._target.has_block:
            return self._target.sidecar_path
        if artifact not in self._made:
            self._say(f"making a sidecar: {artifact.title or 'block as it comes'}")
            self._made[artifact] = self.write(artifact, self._folder / f"mtp-{artifact.label}.gguf", scratch=True)
        return self._made[artifact]

    def write(self, artifact: Artifact, out: Path, *, scratch: bool = False) -> Path:
        """Write the sidecar under its own name. Raises OutputExists, NoSpace, QuantizeError and what making raises."""
        block, head, embd = (
            None if name is None else parse_type_name(name) for name in (artifact.block, artifact.head, artifact.embd)
        )
        explicit = head if self.separate_head and (artifact.head != artifact.embd or self._has_draft_head()) else None
        model = self._target.model
        if self._bundled:
            return write_sidecar(model, model, out, type=block, embd_type=embd, draft_head=explicit, scratch=scratch)
        assert self._donor is not None
        wanted = parse_type_name(_EMBD_TYPE) if artifact.as_is else embd
        return write_sidecar(
            model, self._donor, out, type=block, embd_type=wanted, draft_head=explicit, scratch=scratch
        )

    def _has_draft_head(self) -> bool:
        if not self._target.has_block:
            return False
        return any(name.endswith(DRAFT_HEAD) for name in self._target.block_origin.tensors)


def possible(maker: Maker, artifact: Artifact) -> str | None:
    """Make it; returns None, or a sentence that says why it cannot be made."""
    try:
        maker.sidecar(artifact)
    except NextnError as error:
        return str(error)
    return None
