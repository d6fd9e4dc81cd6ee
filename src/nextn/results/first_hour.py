"""Sections of scan and up: the models on a machine, and what it took to get one running."""

from __future__ import annotations

from pathlib import Path

from ..schemas.scan import DonorOffer, ScanDocument, ScannedModel
from ..schemas.up import UpDocument
from ..shell import shell
from ..units import counted, size
from .section import Section, TextTable

_FASTER = {"can_pay": "yes (measured)", "cannot_pay": "no (measured)", "unlikely": "unlikely", "not_measured": "-"}


def scan(data: ScanDocument) -> Section:
    """The models on this machine."""
    rows = tuple(_model(one) for one in data.models)
    spoilt = tuple((one.path, size(one.size_bytes), one.what) for one in data.spoilt)
    others = tuple((one.path, one.what, ", ".join(map(_name, one.models)) or "-") for one in data.others)
    head = ("model", "where", "size", "block", "drafts in", "could get one from", "to fetch", "memory", "faster?")
    tables = (
        TextTable("Models", head, rows),
        TextTable("With a model, or without one", ("file", "what", "of"), others),
        TextTable("Damaged or unfinished", ("file", "size", "what"), spoilt),
    )
    with_block = sum(one.block != "none" for one in data.models)
    said = [f"{counted(len(data.models), 'model')}, {with_block} with a block"]
    said += [f"copies take {size(data.wasted_bytes)}"] if data.wasted_bytes else []
    return Section(
        "Models on this machine", (*said, *data.notes), tuple(table for table in tables if table.rows),
        commands=tuple(one.command for one in data.models if one.command),
    )  # fmt: skip


def _model(one: ScannedModel) -> tuple[str, ...]:
    offer = one.offer
    return (
        one.name if one.place == "ollama" else _name(one.path), one.place, size(one.size_bytes), one.block,
        ", ".join(name for name, use in one.programs.items() if use.word == "drafts") or "-",
        "-" if offer is None else _source(offer),
        "-" if offer is None or offer.fetch_bytes is None else size(offer.fetch_bytes),
        "-" if offer is None or offer.memory_bytes is None else size(offer.memory_bytes),
        "-" if one.faster is None else _FASTER[one.faster.word],
    )  # fmt: skip


def _source(offer: DonorOffer) -> str:
    if offer.source is not None:
        return f"{offer.source} (a guess)" if offer.state == "guess" else offer.source
    return f"one of {len(offer.candidates)}" if offer.candidates else f"none: {offer.why}"


def up(data: UpDocument) -> Section:
    """The steps from a name to a server."""
    rows = tuple(
        (
            one.step, one.state, one.what, size(one.fetch_bytes), size(one.read_bytes), size(one.write_bytes),
            "-" if one.seconds is None else f"{one.seconds:,.1f} s",
        )
        for one in data.steps
    )  # fmt: skip
    head = ("step", "state", "what", "fetched", "read", "written", "time")
    said = [data.failed] if data.failed is not None else []
    said += [f"it answers at {data.address}"] if data.address is not None and data.failed is None else []
    commands = [shell(*data.command, env=data.env)] if data.command else []
    return Section(
        f"Up: {data.asked}", (*said, *data.needs, *data.notes), (TextTable("Steps", head, rows),),
        commands=tuple(commands), badge="" if data.failed is None else "NOT RUNNING",
        tone="plain" if data.failed is None else "bad",
    )  # fmt: skip


def _name(path: str) -> str:
    return Path(path).name
