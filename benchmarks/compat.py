"""What loads, drafts with or refuses what: every family x layout on every engine, measured.

    python benchmarks/compat.py --cache FOLDER                 # all of it; commits nothing
    python benchmarks/compat.py --cache FOLDER --only glm4moe  # some models again on the engines at hand
    python benchmarks/compat.py --render                       # docs/compatibility.md from the committed JSON

The engines: the builds of the wheel xllamacpp from 2026.5 on, the wheel ik-llama-cpp-python, each in an environment
of its own in --cache, and the llama-server that NEXTN_IK_SERVER names (--ik-source says what it was built from). The
models are the tiny ones of the tests: found in tests/data/trunks, their blocks made by scripts/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import nextn  # noqa: E402
from nextn.archs import FAMILIES  # noqa: E402
from nextn.compat import LAYOUTS, EngineBuild, Run, Table, from_json, to_json  # noqa: E402
from nextn.engines import Completion, Engine, IkServer, Launch, Running, Xllamacpp  # noqa: E402
from nextn.engines.ik import IK_PATH_VARIABLE  # noqa: E402
from nextn.engines.logs import decisive_line  # noqa: E402
from nextn.errors import EngineFailed, EngineMissing, EngineRefused, NextnError  # noqa: E402
from nextn.gguf.files import open_model  # noqa: E402
from nextn.gguf.header import pad_to  # noqa: E402
from nextn.writing.plan import Copy  # noqa: E402

TABLE = ROOT / "src" / "nextn" / "compat" / "table.json"
DOCUMENT = ROOT / "docs" / "compatibility.md"
TRUNKS = ROOT / "tests" / "data" / "trunks"
IK_WHEEL = "ik-llama-cpp-python==0.1.5"
FIRST = (2026, 5)
FIRST_MTP = ("2026.5.9093", "2026.5.9294")  # the last build without MTP, and the first with it
PROMPT = "def read(self):\n"
N_PREDICT = 24
BAD_TEXT = ("invalid UTF-8", "does not match the expected", "Failed to parse input")
MORE_PROMPTS = ("import os\n", "for name in", "class A:", "x = 1\n", "return", "if", "the", "a b c", "0 1 2", "def f(")
TIMEOUT_S = 90.0


# ---- engines --------------------------------------------------------------------------------------------------


def versions() -> list[str]:
    """The published builds of xllamacpp from `FIRST` on, oldest first."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "xllamacpp"], capture_output=True, text=True, check=True
    ).stdout
    line = next(line for line in said.splitlines() if line.startswith("Available versions:"))
    found = [tuple(map(int, v.split("."))) for v in line.partition(":")[2].replace(" ", "").split(",")]
    return [".".join(map(str, v)) for v in sorted(found) if v >= FIRST]


def monthly(builds: list[str]) -> list[str]:
    """The first build that drafts, the one before it, and the last one of each month."""
    last = {tuple(build.split(".")[:2]): build for build in builds}  # oldest first: the newest stays
    return [build for build in builds if build in (*FIRST_MTP, *last.values())]


def environment(cache: Path, *requirements: str) -> str:
    """The interpreter of an environment that holds these wheels, made once."""
    folder = cache / re.sub(r"[^\w.]+", "-", requirements[0])
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python]
        subprocess.run([*pip, "install", "-q", "--no-deps", "--no-compile", *requirements], check=True)
        (folder / "complete").touch()
    return str(python)


class IkWheel:
    """ik-llama-cpp-python: an older ik_llama.cpp without a server; it loads and generates, and never drafts."""

    name = "ik-llama-cpp-python"

    def __init__(self, python: str) -> None:
        self.python = python

    def generate(self, model: Path) -> tuple[list[int], str]:
        """(token ids, "") or ([], the decisive line)."""
        command = [self.python, str(ROOT / "scripts" / "ik_wheel_run.py"), str(model), PROMPT, str(N_PREDICT)]
        env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return [], f"no answer within {TIMEOUT_S:g} s"
        if done.returncode == 0:
            return list(json.loads(done.stdout.splitlines()[-1])), ""
        return [], decisive_line(done.stderr) or f"ended by signal or code {done.returncode}"


def engines(cache: Path, ik_source: str) -> Iterator[tuple[EngineBuild, Engine | IkWheel]]:
    """Every engine there is, llama.cpp's builds first, oldest first."""
    for version in monthly(versions()):
        wheel = f"xllamacpp=={version}"
        engine = Xllamacpp.of_environment(environment(cache, wheel))
        yield EngineBuild(f"xllamacpp {version}", "llama.cpp", engine.version, f"wheel {wheel}"), engine
    python = environment(cache, IK_WHEEL, "numpy")
    name = IK_WHEEL.replace("==", " ")
    yield EngineBuild(name, "ik_llama.cpp", IK_WHEEL.partition("==")[2], f"wheel {IK_WHEEL}"), IkWheel(python)
    if os.environ.get(IK_PATH_VARIABLE):
        server = IkServer.find()
        commit = ik_source or server.version
        yield EngineBuild(f"ik_llama.cpp {commit[:8]}", "ik_llama.cpp", server.version, f"commit {commit}"), server


# ---- models ---------------------------------------------------------------------------------------------------


def models(scratch: Path) -> Iterator[tuple[str, Path, Path]]:
    """(name, trunk, checkpoint with the block) of every tiny model."""
    from make_tiny_checkpoints import KINDS, make_checkpoint
    from tiny_deepseek4 import with_compression
    from tiny_families import KINDS as FAMILY_KINDS
    from tiny_families import TRUNK_OF, make_family
    from tiny_openpangu import make_checkpoint as make_openpangu
    from tiny_openpangu import make_trunk

    yield "qwen35", TRUNKS / "tiny-qwen35-Q8_0.gguf", ROOT / "src" / "nextn" / "demo_data" / "tiny-qwen35-mtp"
    for name in ("qwen35moe", "qwen3next"):
        kind = next(kind for kind in KINDS if kind.startswith(name))
        folder = scratch / kind
        make_checkpoint(kind, folder, "bf16")
        yield name, TRUNKS / f"{name}-BF16.gguf", folder
    for trunk in sorted((TRUNKS / "families").glob("*.gguf")):
        kind = trunk.stem.rpartition("-")[0]
        if kind.endswith("-wide"):
            continue
        source = "deepseek4-plain" if kind == "deepseek4" else kind
        if (wide := f"{kind}-wide") in FAMILY_KINDS:  # ik_llama.cpp takes latent attention in published widths alone
            source, trunk = wide, trunk.with_name(f"{TRUNK_OF.get(wide, wide)}-Q8_0.gguf")
        if kind == "deepseek4":
            trunk = with_compression(trunk, scratch / "compressed" / trunk.name)
        yield kind, trunk, make_family(source, scratch / source)
    tokenizer = TRUNKS / "families" / "glm4moe-Q8_0.gguf"
    pangu = make_trunk(scratch / "pangu" / "openpangu-F32.gguf", tokenizer)
    yield "openpangu", pangu, make_openpangu(scratch / "openpangu")


def made(trunk: Path, donor: Path, arch: str, layout: str, out: Path) -> tuple[Path, Path | None]:
    """(what to load, its sidecar) of one layout. Raises NextnError when nextn makes no such file."""
    if layout == "trunk-only":
        return trunk, None
    kind = layout.removeprefix("ik-").removesuffix("+head")
    head = "q4_0" if layout.endswith("+head") else None
    for_engine = "ik" if layout.startswith("ik-") else None
    if kind == "shards":  # of a set: the tests' trunks are single files
        trunk = in_two(trunk, out.parent / f"{trunk.stem} set")
    result = nextn.attach(trunk, donor, layout=kind, draft_head=head, for_engine=for_engine, out=out, remember=False)
    return result.entry, result.sidecar


def in_two(trunk: Path, folder: Path) -> Path:
    """The trunk as a set: a first shard with metadata alone, and one with the tensors. Made once."""
    from nextn.gguf.header import build_header
    from nextn.gguf.kv_table import KVTable, edit
    from nextn.layouts import metadata
    from nextn.layouts.parts import new_header, trunk_parts

    entry, other = (folder / f"{trunk.stem}-0000{n}-of-00002.gguf" for n in (1, 2))
    if entry.exists():
        return entry
    folder.mkdir(parents=True, exist_ok=True)
    model = open_model(trunk)
    parts = tuple(trunk_parts(model.files))
    n_tensors = len(parts)
    entry.write_bytes(build_header(edit(model.kvs, put=metadata.split_kvs(0, 2, n_tensors)), []))
    header = new_header(KVTable.of(metadata.split_kvs(1, 2, n_tensors)), parts, 3, model.header.alignment)
    with trunk.open("rb") as source, other.open("wb") as out:
        out.write(header.data)
        for part in parts:
            assert isinstance(part.segment, Copy)
            source.seek(part.segment.where.start)
            data = source.read(part.size_bytes)
            out.write(data + bytes(pad_to(len(data), model.header.alignment) - len(data)))
    return entry


# ---- measuring ------------------------------------------------------------------------------------------------


def ask(engine: Engine, model: Path, sidecar: Path | None, n_max: int) -> tuple[str, str, int, int, list[int]]:
    """(result, what it says, drafted, accepted, token ids) of one start and one answer."""
    launch = Launch(
        model, sidecar, n_max, n_ctx=512, threads=1, start_timeout_s=TIMEOUT_S, answer_timeout_s=TIMEOUT_S
    )
    log = None
    try:
        with engine.start(launch) as running:
            log = running.log
            answer, prompt = one_answer(running, drafting=n_max > 0)
        drafted, accepted = answer.draft_n, answer.draft_n_accepted
        if not drafted and n_max:
            drafted, accepted = drafts_in(log)
        # Texts are compared on the first prompt alone.
        same = answer.tokens if prompt == PROMPT else []
        return "drafts" if drafted else "runs", "", drafted, accepted, same
    except EngineFailed as error:
        log = error.log or log
        if any(words in str(error) for words in BAD_TEXT):  # the engine did its work, and its server fell over the text
            drafted, accepted = drafts_in(log)
            return "drafts" if drafted else "runs", "", drafted, accepted, []
        return "fails", plain(error.line or str(error)), 0, 0, []
    except EngineRefused as error:
        log = error.log
        return "refuses", plain(error.line), 0, 0, []
    except EngineMissing as error:
        return "refuses", plain(str(error)), 0, 0, []
    finally:
        if log is not None:
            log.unlink(missing_ok=True)


def drafts_in(log: Path | None) -> tuple[int, int]:
    """(drafted, accepted) by the lines of a log that tell them for each answer."""
    text = "" if log is None or not log.exists() else log.read_text("utf-8", "replace")
    found = re.findall(r"draft acceptance(?: rate)? = \S+ \(\s*(\d+) accepted /\s*(\d+) generated\)", text)
    return sum(int(n) for _, n in found), sum(int(n) for n, _ in found)


def one_answer(running: Running, *, drafting: bool) -> tuple[Completion, str]:
    """An answer, and to which prompt; when drafting, one with drafts, if there is any.

    Random models end at once, or write what some servers choke on: then another prompt.
    """
    found: tuple[Completion, str] | None = None
    for prompt in (PROMPT, *MORE_PROMPTS):
        try:
            answer = running.complete(prompt, N_PREDICT if prompt == PROMPT else 12)
        except EngineFailed as error:
            last = prompt == MORE_PROMPTS[-1] and found is None
            if last or not any(words in str(error) for words in BAD_TEXT):
                raise
            continue
        found = found or (answer, prompt)
        if answer.draft_n or not drafting:
            return answer, prompt
    assert found is not None
    return found


def plain(line: str) -> str:
    """The engine's words without what differs from run to run."""
    line = re.sub(r"(?:/[^\s'\":]+)+/", "", line)
    line = re.sub(r'\| tid="\d+" timestamp=\d+ ', "| ", line)
    return line if len(line) <= 160 else line[:157] + "..."


def measure(engine: Engine | IkWheel, base: Run, model: Path, sidecar: Path | None, alone: list[int]) -> Run:
    """One cell; `alone` is what the engine generated with the trunk."""
    says, drafted, accepted = "", 0, 0
    if isinstance(engine, IkWheel):
        if sidecar is not None:
            return replace(base, result="refuses", says="this wheel has no drafting, so it takes no sidecar")
        tokens, says = engine.generate(model)
        result = "runs" if tokens else "refuses"
    else:
        n_max = 0 if base.layout == "trunk-only" else 1
        result, says, drafted, accepted, tokens = ask(engine, model, sidecar, n_max)
        if result in ("refuses", "fails") and n_max and sidecar is None:  # does it at least run without MTP?
            other, other_says, _, _, tokens = ask(engine, model, None, 0)
            if other == "runs":
                result, says = "runs", f"with MTP on: {says}"
            else:
                result, says = other, other_says
    same = None if not alone or not tokens else tokens == alone
    return replace(base, result=result, says=says, draft_n=drafted, draft_n_accepted=accepted, same_text=same)


def run_all(args: argparse.Namespace) -> Table:
    """Measure everything, or `--only` these models and keep the rest of the committed table."""
    found: list[tuple[EngineBuild, Engine | IkWheel]] = list(engines(args.cache, args.ik_source))
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="nextn-compat-") as folder:
        scratch = Path(folder)
        for name, trunk, donor in models(scratch):
            if args.only and name not in args.only:
                continue
            arch = open_model(trunk).architecture
            alone: dict[str, list[int]] = {}
            for layout in sorted(LAYOUTS, key=lambda layout: layout != "trunk-only"):
                if layout.startswith("ik-") and not FAMILIES[arch].ik.extra_head:
                    continue
                try:
                    model, sidecar = made(trunk, donor, arch, layout, scratch / f"{name} {layout}")
                except NextnError as error:
                    why = plain(str(error))
                    runs += [Run(build.name, name, arch, layout, "not made", why) for build, _ in found]
                    continue
                for build, engine in found:
                    base = Run(build.name, name, arch, layout, "")
                    if layout == "trunk-only" and not isinstance(engine, IkWheel):
                        alone[build.name] = ask(engine, model, None, 0)[4]
                    elif layout == "trunk-only":
                        alone[build.name] = engine.generate(model)[0]
                    run = measure(engine, base, model, sidecar, alone[build.name])
                    runs.append(run if layout != "trunk-only" else replace(run, same_text=None))
                    counts = f"{run.draft_n_accepted}/{run.draft_n}" if run.draft_n else ""
                    print(f"{name:14} {layout:14} {build.name:28} {run.result:8} {counts} {run.says}", flush=True)
    builds = tuple(build for build, _ in found)
    if args.only:
        old = from_json(json.loads(TABLE.read_text("utf-8")))
        here = {build.name for build in builds}
        if new := here - {build.name for build in old.engines}:
            sys.exit(f"the committed table does not have {', '.join(sorted(new))}: measure all of it")
        runs += [run for run in old.runs if run.model not in args.only or run.engine not in here]
        builds = old.engines
    age = {build.name: n for n, build in enumerate(builds)}
    runs.sort(key=lambda run: (run.arch, run.model, LAYOUTS.index(run.layout), age[run.engine]))
    return Table(datetime.date.today().isoformat(), machine(), builds, tuple(runs))


def machine() -> str:
    """What it was measured on; only the instruction set matters."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        text = ""
    wide = "AVX-512" if " avx512f " in text else "AVX2" if " avx2 " in text else platform.machine()
    return f"{platform.system()}, {platform.machine()} with {wide}, CPU only, 1 thread"


def write(path: Path, table: Table) -> None:
    """The table with one run a line."""
    data = to_json(table)
    runs = data.pop("runs")
    head = json.dumps(data, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(run) for run in runs)
    path.write_text(f'{head},\n "runs": [\n{lines}\n ]\n}}\n', "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for the engines' environments (about 130 MB each)")
    parser.add_argument("--only", nargs="*", metavar="MODEL", help="measure these models again")
    parser.add_argument("--ik-source", default="", metavar="COMMIT", help=f"what {IK_PATH_VARIABLE} was built from")
    parser.add_argument("--render", action="store_true", help="only write docs/compatibility.md from the JSON")
    args = parser.parse_args()
    if not args.render:
        if args.cache is None:
            parser.error("--cache is needed to measure")
        args.cache = args.cache.resolve()
        write(TABLE, run_all(args))
    from compat_document import document

    DOCUMENT.write_text(document(from_json(json.loads(TABLE.read_text("utf-8")))), "utf-8")


if __name__ == "__main__":
    main()
