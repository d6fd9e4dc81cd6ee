"""A fit on disk: what it takes to go on, the curve, the candidates."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import FormatError, StorageError
from .optimizers import PARTS, Optimizers
from .options import FitOptions, HeldOutPoint

WEIGHTS, CURVE = "fit.safetensors", "fit.json"
# What may differ between a fit and its continuation.
_FREE = ("seconds", "steps", "threads", "checks", "check_tokens", "keep", "type", "device")


def key_of(options: FitOptions, trunk: Any) -> dict[str, Any]:
    """What must be the same for a fit to be continued."""
    own = {name: value for name, value in asdict(options).items() if name not in _FREE}
    return {**own, "start": None if options.start is None else str(options.start), "trunk": trunk}


class Save:
    """The files of one fit."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        """Makes the folder."""
        self.folder, self.key = folder, key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot make this folder ({error.strerror}).") from error

    def found(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """(the progress, the tensors) of an unfinished fit with the same key; None: there is none."""
        path = self.folder / WEIGHTS
        if not path.exists():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                told = json.loads(file.metadata()["nextn"])
                if told["key"] != self.key:
                    return None
                return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises its own class
            raise FormatError(f"this fit cannot be read ({error}); delete it to begin anew", path=path) from error

    def write(self, module: nn.Module, optimizer: Optimizers, told: dict[str, Any], target: Tensor) -> None:
        """Replace what is there, whole or not at all."""
        tensors = {"target": target.cpu().contiguous()}
        for name, parameter in module.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach().cpu().contiguous()
            for part, value in optimizer.state(parameter).items():
                tensors[f"{part}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        path, scratch = self.folder / WEIGHTS, self.folder / f".{WEIGHTS}.nextn-tmp"
        save_file(tensors, scratch, {"nextn": json.dumps({**told, "key": self.key})})
        _publish(scratch, path)

    def curve(self, document: dict[str, Any]) -> None:
        """Replace the curve."""
        scratch = self.folder / f".{CURVE}.nextn-tmp"
        scratch.write_text(json.dumps(document, indent=1) + "\n")
        _publish(scratch, self.folder / CURVE)

    @staticmethod
    def restore(module: nn.Module, optimizer: Optimizers, tensors: dict[str, Tensor]) -> None:
        """Weights and the optimizer's moments."""
        for name, parameter in module.named_parameters():
            with torch.no_grad():
                parameter.copy_(tensors[f"weight.{name}"])
            state = {}
            for part in PARTS:
                value = tensors.get(f"{part}.{name}")
                if value is not None:
                    state[part] = value if part == "step" else value.to(parameter.device)
            optimizer.restore(parameter, state)


def points(told: dict[str, Any]) -> list[HeldOutPoint]:
    """The curve so far."""
    return [HeldOutPoint(**{**point, "agreement": tuple(point["agreement"])}) for point in told["curve"]]


def _publish(scratch: Path, path: Path) -> None:
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
