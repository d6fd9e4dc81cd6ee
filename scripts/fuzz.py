"""Feeds crafted models and checkpoints to every verb, and keeps what ends in anything but an answer or one sentence.

    python scripts/fuzz.py --seconds 600 [--seed N] [--kinds mixed,keys,tensors,configs,...] [--keep FOLDER]

First every known key with every value type, every tensor with every number of axes and every value of a config with
every JSON type; then random mixtures until the time is up. What is found is written to FOLDER, once for each place
in the code, with the calls that show it; it belongs into tests/data/fuzz_corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for _more in ("tests", "tests/support", "scripts"):
    sys.path.insert(0, str(ROOT / _more))

import all_verbs  # noqa: E402
import mutants  # noqa: E402
import standin_server  # noqa: E402

import nextn  # noqa: E402
import nextn.engines  # noqa: E402
from nextn.engines import LlamaServer  # noqa: E402
from tiny_families import make_family  # noqa: E402

FAMILIES = ("glm4moe", "deepseek3", "step35", "nemotronh", "mimo2", "bailingmoe3", "qwen4exp")
_FRAME = re.compile(r'File "[^"]*/(nextn/[^"]+)", line (\d+)')
SLOW_S = 5.0  # of processor time, for files of a few hundred kB


@dataclass
class Findings:
    """What ended otherwise than promised, once for each place."""

    keep: Path
    places: Counter[str] = field(default_factory=Counter)
    n_files: int = 0
    n_calls: int = 0

    def check(self, ran: all_verbs.Ran, name: str, data: bytes | str, suffix: str, took: float) -> None:
        """Note a bug, a code that means one, a raw control character, a call without measure."""
        self.n_calls += 1
        place = ""
        if ran.bug or ran.code == 70:
            frames = _FRAME.findall(ran.bug)
            error = ran.bug.strip().splitlines()[-1] if ran.bug else ran.err
            place = f"{error[:100]} at {':'.join(frames[-1]) if frames else '?'}"
        elif ran.raw_control:
            place = f"raw {sorted(map(ascii, ran.raw_control))[:4]} from {ran.argv[0]} {ran.code}"
        elif took > SLOW_S:
            place = f"slow: {ran.argv[0]}"
        if not place:
            return
        key = re.sub(r"\d{2,}", "N", place)
        self.places[key] += 1
        if self.places[key] > 1:
            return
        number = len(self.places)
        print(f"FOUND {number}: {place}\n    {name}\n    {' '.join(ran.argv)} ({took:.1f} s)", flush=True)
        self.keep.mkdir(parents=True, exist_ok=True)
        path = self.keep / f"found-{number:03d}{suffix}"
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        path.with_suffix(".txt").write_text(f"{name}\n{ran.argv}\n{ran.bug}{ran.err}", "utf-8", "backslashreplace")


@dataclass
class Models:
    """Models to spoil: (file, architecture, donor, trunk)."""

    folder: Path

    def all(self) -> Iterator[tuple[str, Path, Path, Path]]:
        demo, trunks = ROOT / "src/nextn/demo_data", ROOT / "tests/data/trunks"
        sources = [("qwen35", trunks / "qwen35-dense-F32.gguf", self._qwen())]
        sources += [(k, trunks / "families" / f"{k}-Q8_0.gguf", make_family(k, self.folder / k)) for k in FAMILIES]
        for kind, trunk, checkpoint in sources:
            out = self.folder / f"{kind}-made"
            yield kind, trunk, checkpoint, trunk
            yield kind, nextn.attach(trunk, checkpoint, layout="bundle", out=out / "bundle").entry, checkpoint, trunk
            sidecar = nextn.attach(trunk, checkpoint, layout="sidecar", out=out / "sidecar").sidecar
            if sidecar is not None:
                yield kind, sidecar, checkpoint, trunk
            yield kind, nextn.extract(checkpoint, block_only=True, out=out / "donor.gguf").entry, checkpoint, trunk
        yield "qwen35", demo / "tiny-qwen35-Q4_K_M.gguf", demo / "tiny-qwen35-mtp", demo / "tiny-qwen35-Q4_K_M.gguf"

    def _qwen(self) -> Path:
        from make_tiny_checkpoints import make_checkpoint

        make_checkpoint("qwen35-dense", self.folder / "qwen", "f32")
        return self.folder / "qwen"


def main() -> int:
    """0: nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kinds", default="keys,tensors,configs,mixed")
    parser.add_argument("--keep", type=Path, default=ROOT / "fuzz-found")
    args = parser.parse_args()
    all_verbs.quiet_environment()
    end = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory(prefix="nextn-fuzz-") as scratch:
        folder = Path(scratch)
        os.environ |= {"NEXTN_DATA": str(folder / "data"), "NEXTN_CACHE": str(folder / "cache")}
        (folder / "stand-in").mkdir()
        engine = LlamaServer.find(standin_server.write(folder / "stand-in"))
        nextn.engines.find_engine = lambda name=None: all_verbs.engine_or_none(name, engine)
        found = Findings(args.keep)
        models = list(Models(folder / "models").all())
        dice = random.Random(args.seed)
        print(f"seed {args.seed}, {len(models)} models", flush=True)
        for kind in args.kinds.split(","):
            KINDS[kind](models, found, folder, dice, end)
            print(f"{kind}: {found.n_files:,} files, {found.n_calls:,} calls, {len(found.places)} found", flush=True)
    for place, n in found.places.most_common():
        print(f"{n:6} {place}")
    return bool(found.places)


_Model = tuple[str, Path, Path, Path]


def _spoilt(
    name: str, data: bytes, model: _Model, found: Findings, folder: Path, dice: random.Random, share: float
) -> None:
    kind, path, donor, trunk = model
    found.n_files += 1
    place = all_verbs.emptied(folder / "work")
    spoilt = place / path.name
    spoilt.write_bytes(data)
    for argv in all_verbs.on_model(spoilt, donor, trunk, place / "out", real=dice.random() < 0.15):
        if dice.random() > share:
            continue
        before = time.process_time()
        ran = all_verbs.run(*argv)
        found.check(ran, f"{kind} {path.parent.name}/{path.name}: {name}", data, ".gguf", time.process_time() - before)


def _systematic(
    which: str, models: list[_Model], found: Findings, folder: Path, dice: random.Random, end: float
) -> None:
    every = []
    for model in models:
        parts = mutants.Parts.of(model[1])
        if len(parts.data) > 1_000_000:
            continue
        made = mutants.tensor_mutants(parts)
        if which == "keys":
            made = mutants.key_mutants(parts, parts_arch(model[1]), mutants.one_of_each_type())
        every += [(model, name, mutant) for name, mutant in made]
    dice.shuffle(every)
    for model, name, mutant in every:
        if time.monotonic() > end:
            print(f"{which}: stopped by the clock", flush=True)
            return
        _spoilt(name, mutant.encode(), model, found, folder, dice, 0.35)


def parts_arch(path: Path) -> str:
    """The architecture of a model."""
    from nextn.gguf.files import open_model

    return open_model(path).architecture


def _keys(models: list[_Model], found: Findings, folder: Path, dice: random.Random, end: float) -> None:
    _systematic("keys", models, found, folder, dice, end)


def _tensors(models: list[_Model], found: Findings, folder: Path, dice: random.Random, end: float) -> None:
    _systematic("tensors", models, found, folder, dice, end)


_JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json")


def _configs(models: list[_Model], found: Findings, folder: Path, dice: random.Random, end: float) -> None:
    every = []
    for checkpoint, trunk in {model[2]: model[3] for model in models}.items():
        for name in _JSON_FILES:
            path = checkpoint / name
            if path.exists():
                made = mutants.config_mutants(path.read_text())
                every += [(checkpoint, trunk, name, what, make) for what, make in made]
    dice.shuffle(every)
    for checkpoint, trunk, name, what, make in every:
        if time.monotonic() > end:
            print("configs: stopped by the clock", flush=True)
            return
        found.n_files += 1
        text = make()
        place = all_verbs.emptied(folder / "work")
        spoilt = place / checkpoint.name
        shutil.copytree(checkpoint, spoilt, copy_function=os.link)
        (spoilt / name).unlink()
        (spoilt / name).write_text(text, "utf-8", "surrogatepass")
        for argv in all_verbs.on_checkpoint(spoilt, trunk, place / "out", real=dice.random() < 0.15):
            if dice.random() > 0.4:
                continue
            before = time.process_time()
            ran = all_verbs.run(*argv)
            title = f"{checkpoint.name}/{name}: {what}"
            found.check(ran, title, json.dumps([name, text]), ".json", time.process_time() - before)


def _mixed(models: list[_Model], found: Findings, folder: Path, dice: random.Random, end: float) -> None:
    small = [(model, mutants.Parts.of(model[1])) for model in models if model[1].stat().st_size < 1_500_000]
    arch = {id(parts): parts_arch(model[1]) for model, parts in small}
    while time.monotonic() < end:
        model, parts = dice.choice(small)
        name, data = mutants.random_mutant(parts, arch[id(parts)], dice)
        _spoilt(name, data, model, found, folder, dice, 0.35)


KINDS = {"keys": _keys, "tensors": _tensors, "configs": _configs, "mixed": _mixed}

if __name__ == "__main__":
    sys.exit(main())
