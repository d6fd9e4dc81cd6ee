"""Drafting as a server does it: several answers at once, and prompts with an image. Prints docs/serving.md's tables.

    python benchmarks/serving.py                   # the installed xllamacpp
    python benchmarks/serving.py --cache FOLDER    # images on older builds too, as made by benchmarks/compat.py

The model is the shipped one, trained; the vision tower is random (scripts/tiny_vision.py), so images show what an
engine does with them and not what a model sees in them.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import nextn  # noqa: E402
from nextn.engines import Engine, Launch, Xllamacpp, find_engine  # noqa: E402
from nextn.engines.running import RunningServer  # noqa: E402
from nextn.errors import EngineRefused  # noqa: E402
from nextn.measure.slots import ask_all  # noqa: E402
from nextn.measure.tasks import shipped_tasks  # noqa: E402

DEMO = ROOT / "src" / "nextn" / "demo_data"
PROMPT, N_PREDICT = "def read(self):\n", 64
SLOTS, N_MAX = (1, 2, 4, 6), (1, 2, 3)


def slots(engine: Engine, model: Path, prompts: list[str]) -> list[str]:
    """A row for each number of slots: accepted and drafted tokens by n_max, and whether the texts are the same."""
    rows, texts = [], {}
    for n in SLOTS:
        cells = []
        for n_max in (0, *N_MAX):
            with engine.start(Launch(model, n_max=n_max, n_ctx=512, threads=1, slots=n)) as running:
                answers = ask_all(running, prompts, N_PREDICT, n)
            texts.setdefault(0, [answer.tokens for answer in answers])
            drafted, accepted = (sum(getattr(a, k) for a in answers) for k in ("draft_n", "draft_n_accepted"))
            same = sum(answer.tokens == text for answer, text in zip(answers, texts[0], strict=True))
            if n_max:
                cells.append(f"{accepted}/{drafted} ({100 * accepted / drafted:.1f} %), {same} of {len(answers)}")
        rows.append(f"| {n} | " + " | ".join(cells) + " |")
    return rows


def with_image(running: RunningServer, image: bytes | None) -> dict[str, Any]:
    """The answer to the prompt with an image before it, or without one. Raises EngineFailed."""
    marker = ""
    if image is not None:
        with urllib.request.urlopen(f"http://127.0.0.1:{running._client.port}/props") as props:
            marker = json.loads(props.read()).get("media_marker", "<__media__>")
    prompt = {
        "prompt_string": marker + PROMPT,
        "multimodal_data": [] if image is None else [base64.b64encode(image).decode()],
    }
    payload = {"prompt": prompt, "n_predict": N_PREDICT, "temperature": 0, "cache_prompt": False, "return_tokens": True}
    return running._post("/completion", payload)


def images(engine: Xllamacpp, model: Path, mmproj: Path) -> list[str]:
    """Cells for each n_max: accepted and drafted tokens behind an image, and whether the text is that without MTP."""
    from tiny_vision import png

    cells, text = [], None
    for n_max in (0, *N_MAX):
        extra = (f"mmproj.path={mmproj}", "mmproj_use_gpu=false")
        try:
            with engine.start(Launch(model, n_max=n_max, n_ctx=1024, threads=1, extra_args=extra)) as running:
                answer = with_image(running, png())
        except EngineRefused as error:
            if n_max:
                cells.append(f"fails: `{error.line}`")
            continue
        if n_max == 0:
            text = answer["tokens"]
            continue
        drafted, accepted = (answer["timings"][key] for key in ("draft_n", "draft_n_accepted"))
        same = "same text" if answer["tokens"] == text else "another text"
        cells.append(f"{accepted}/{drafted} ({100 * accepted / drafted:.1f} %), {same}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder with the environments of older builds")
    args = parser.parse_args()
    from tiny_vision import make_mmproj

    with tempfile.TemporaryDirectory(prefix="nextn-serving-") as folder:
        model = nextn.attach(
            DEMO / "tiny-qwen35-Q4_K_M.gguf", DEMO / "tiny-qwen35-mtp", layout="bundle", out=Path(folder)
        ).entry
        engine = find_engine("xllamacpp")
        prompts = [prompt for task in shipped_tasks(None) for prompt in task.prompts][: max(SLOTS)]
        head = "| " + " | ".join(f"n_max {n}" for n in N_MAX) + " |"
        print(f"{engine.name} {engine.version}, {len(prompts)} prompts\n\n| slots {head}\n" + "| --- " * 4 + "|")
        print("\n".join(slots(engine, model, prompts)), flush=True)
        mmproj = make_mmproj(Path(folder) / "mmproj-tiny.gguf", 256)
        print(f"\n| build {head}\n" + "| --- " * 4 + "|")
        builds = sorted(args.cache.glob("xllamacpp-*"), key=lambda path: path.name) if args.cache else []
        engines = [Xllamacpp.of_environment(path / "bin" / "python") for path in builds] or [Xllamacpp.find()]
        for one in sorted(engines, key=lambda found: [int(n) for n in found.version.split(" ")[0].split(".")]):
            print(f"| {one.version} | " + " | ".join(images(one, model, mmproj)) + " |", flush=True)


if __name__ == "__main__":
    main()
