"""Feeds crafted models, checkpoints, sets, journals and servers to every verb.

    python scripts/fuzz.py --seconds 3600 [--seed N] [--kinds mixed,keys,sets,...] [--keep FOLDER]

First every known key with every value type, every tensor with every number of axes and every value of a config with
every JSON type; then random mixtures, of models, of sets that are taken apart and put together, of files that are
changed in place, of journals of interrupted changes, and of repositories that are pulled. The time is shared among
the kinds. What a call is held to is in fuzz_findings.py. What is found is written to FOLDER, once for each place in
the code, with the call that shows it; it belongs into tests/data/fuzz_corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
for _more in ("tests", "tests/support", "scripts"):
    sys.path.insert(0, str(ROOT / _more))

import all_verbs  # noqa: E402
import mutants  # noqa: E402
import standin_server  # noqa: E402
from hub_server import HubServer  # noqa: E402

import fuzz_writing  # noqa: E402
import nextn  # noqa: E402
import nextn.engines  # noqa: E402
from fuzz_findings import Bench, Findings, Model, arch_of  # noqa: E402
from nextn.engines import LlamaServer  # noqa: E402
from nextn.writing.system import System  # noqa: E402
from tiny_families import make_family  # noqa: E402

MOST_MEMORY = 4 << 30
FAMILIES = ("glm4moe", "deepseek3", "step35", "nemotronh", "mimo2", "bailingmoe3", "qwen4exp")


@dataclass
class Models:
    """Models to spoil: (file, architecture, donor, trunk)."""

    folder: Path

    def all(self) -> Iterator[Model]:
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
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path, default=ROOT / "fuzz-found")
    args = parser.parse_args()
    if resource is not None:  # what wants all of the memory is found without taking it
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.RLIM_INFINITY))
    end = time.monotonic() + args.seconds
    chosen = args.kinds.split(",")
    with tempfile.TemporaryDirectory(prefix="nextn-fuzz-") as scratch, HubServer() as hub:
        folder = Path(scratch)
        set_up(folder, hub)
        found = Findings(args.keep, folder / "models")
        models = list(Models(folder / "models").all())
        dice = random.Random(args.seed)
        bench = Bench(models, found, folder, dice, hub)
        print(f"seed {args.seed}, {len(models)} models", flush=True)
        for number, kind in enumerate(chosen):
            run, share = KINDS[kind]
            all_shares = sum(KINDS[later][1] for later in chosen[number:])
            now = time.monotonic()
            bench.end = now + (end - now) * share / all_shares
            run(bench)
            took = time.monotonic() - now
            print(
                f"{kind} ({took:.0f} s): so far {found.n_files:,} inputs, {found.n_calls:,} calls, "
                f"{len(found.places)} found",
                flush=True,
            )
    for verb in sorted({verb for verb, _ in found.ends}):
        codes = sorted((code, n) for (of, code), n in found.ends.items() if of == verb)
        print(f"{verb}: " + ", ".join(f"{n:,} x {code}" for code, n in codes))
    for place, n in found.places.most_common():
        print(f"{n:6} {place}")
    return bool(found.places)


def set_up(folder: Path, hub: HubServer) -> None:
    """No server but `hub`, no engine but a stand-in, a cache and notes of its own; nothing waits for a disk."""
    all_verbs.quiet_environment()
    os.environ |= {
        "NEXTN_DATA": str(folder / "data"), "NEXTN_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    (folder / "stand-in").mkdir()
    engine = LlamaServer.find(standin_server.write(folder / "stand-in"))
    nextn.engines.find_engine = lambda name=None: all_verbs.engine_or_none(name, engine)
    System.fsync = lambda self, fd: None  # type: ignore[method-assign]  # a kill loses nothing that was written


def _spoilt(name: str, data: bytes, model: Model, bench: Bench, share: float) -> None:
    kind, path, donor, trunk = model
    dice, place = bench.dice, bench.place()
    spoilt = place / path.name
    spoilt.write_bytes(data)
    title = f"{kind} {path.parent.name}/{path.name}: {name}"
    for argv in all_verbs.on_model(spoilt, donor, trunk, place / "out", real=dice.random() < 0.15):
        if dice.random() < share:
            bench.found.run(argv, place, title, {".gguf": data})


def _systematic(which: str, bench: Bench) -> None:
    every = []
    for model in bench.models:
        parts = mutants.Parts.of(model[1])
        if len(parts.data) > 1_000_000:
            continue
        made = mutants.tensor_mutants(parts)
        if which == "keys":
            made = mutants.key_mutants(parts, arch_of(model[1]), mutants.one_of_each_type())
        every += [(model, name, mutant) for name, mutant in made]
    bench.dice.shuffle(every)
    for model, name, mutant in every:
        if bench.is_over:
            print(f"{which}: stopped by the clock", flush=True)
            return
        _spoilt(name, mutant.encode(), model, bench, 0.35)


_JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json")


def _configs(bench: Bench) -> None:
    every = []
    for checkpoint, trunk in {model[2]: model[3] for model in bench.models}.items():
        for name in _JSON_FILES:
            path = checkpoint / name
            if path.exists():
                made = mutants.config_mutants(path.read_text())
                every += [(checkpoint, trunk, name, what, make) for what, make in made]
    dice = bench.dice
    dice.shuffle(every)
    for checkpoint, trunk, name, what, make in every:
        if bench.is_over:
            print("configs: stopped by the clock", flush=True)
            return
        text, place = make(), bench.place()
        spoilt = place / checkpoint.name
        shutil.copytree(checkpoint, spoilt, copy_function=os.link)
        (spoilt / name).unlink()
        (spoilt / name).write_text(text, "utf-8", "surrogatepass")
        title, kept = f"{checkpoint.name}/{name}: {what}", json.dumps([checkpoint.name, name, text]).encode()
        for argv in all_verbs.on_checkpoint(spoilt, trunk, place / "out", real=dice.random() < 0.15):
            if dice.random() < 0.4:
                bench.found.run(argv, place, title, {".json": kept})


def _mixed(bench: Bench) -> None:
    small = bench.small()
    while not bench.is_over:
        model, parts, arch = bench.dice.choice(small)
        name, data = mutants.random_mutant(parts, arch, bench.dice)
        _spoilt(name, data, model, bench, 0.35)


# What is tried, and its share of the time.
KINDS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "keys": (partial(_systematic, "keys"), 2),
    "tensors": (partial(_systematic, "tensors"), 2),
    "configs": (_configs, 1.5),
    "sets": (fuzz_writing.sets, 1.5),
    "in-place": (fuzz_writing.in_place, 2),
    "journals": (fuzz_writing.journals, 1),
    "pull": (fuzz_writing.pull, 2),
    "mixed": (_mixed, 2),
}

if __name__ == "__main__":
    sys.exit(main())
