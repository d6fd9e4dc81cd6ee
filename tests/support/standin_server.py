"""A stand-in for llama-server: its options, its log and its HTTP, on any CPU, without a model's arithmetic.

It answers with tokens that follow from the prompt alone, so texts with and without drafts are the same; a file whose
path says "shuffled" or "control" drafts in vain. `write` makes an executable of it, which may be told to die.

Tests start it hundreds of times, so it starts in 20 ms: what it can do is said by the shell, HTTP is read here, since
the standard library's server imports half of that library, and its bytecode is kept.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socketserver
import sys
import time
from pathlib import Path
from typing import Any

VERSION = "11549 (stand-in)"
# name -> number of values; spelled as llama-server spells them
OPTIONS = {
    "-m": 1, "--host": 1, "--port": 1, "-c": 1, "-np": 1, "-t": 1, "--no-warmup": 0, "--no-webui": 0, "-cram": 1,
    "-lv": 1, "--spec-type": 1, "--spec-draft-n-max": 1, "--spec-draft-p-min": 1, "-md": 1, "--rpc": 1, "-ngl": 1,
    "--fit": 1, "--models-preset": 1,
}  # fmt: skip
KINDS = " none,draft-mtp,draft-eagle3,draft-dflash,draft-dspark"
HELP = "".join(
    f"{name}{' [on|off]' if name == '--fit' else KINDS if name == '--spec-type' else ' VALUE' * n}\n"
    for name, n in OPTIONS.items()
)
HEADER_BYTES = 1 << 20
N_VOCAB = 256
TOKEN_S = 2e-5
REQUEST_MS, BATCH_MS = 0.3, 0.5  # a batch of k tokens takes BATCH_MS * (1 + k), and a token 1 ms
SHARES = (1.0, 0.5, 0.25)  # of the drafts at the 1st, 2nd, ... position that are accepted
STAGES = ("start", "load", "answer")
_RUN = "import sys; sys.path.append(sys.argv.pop(1)); import standin_server as it; sys.exit(it.main(sys.argv[1:]))"


def write(folder: Path, *, die: str = "", at: str = "", help_text: str = HELP) -> Path:
    """A `llama-server` in `folder` that dies of the signal `die` ("SIGILL", ...) at "start", "load" or "answer"."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / "llama-server"
    settings = json.dumps({"die": die, "at": at})
    command = shlex.join([sys.executable, "-I", "-S", "-c", _RUN, str(Path(__file__).resolve().parent), settings])
    says = {"--version": f"version: {VERSION}\n", "--help": help_text}
    cases = "".join(f"{option}) printf %s {shlex.quote(text)}; exit ;;\n" for option, text in says.items())
    said = "" if at == "start" else f'case "$*" in\n{cases}esac\n'
    binary.write_text(f'#!/bin/sh\n{said}exec {command} "$@"\n')
    binary.chmod(0o755)
    return binary


def main(argv: list[str]) -> int:
    """Serve; `argv`: settings as JSON, and arguments of llama-server."""
    settings, args = json.loads(argv[0]), argv[1:]
    if settings["at"] == "start":
        die(settings)
    if stray := [name for name in os.environ if name.startswith(("LLAMA_ARG_", "AIP_"))]:
        return refuse(f"error while handling environment variable {stray[0]}: invalid argument")
    given = read_arguments(args)
    if isinstance(given, str):
        return refuse(f"error: invalid argument: {given}")
    return serve(settings, given)


def read_arguments(args: list[str]) -> dict[str, str] | str:
    """Options and their values, or the argument that it does not know."""
    given, rest = {"-c": "4096"}, iter(args)
    for name in rest:
        if name not in OPTIONS:
            return name
        given[name] = next(rest) if OPTIONS[name] else ""
    return given


def refuse(line: str) -> int:
    """End as llama-server does when it cannot start."""
    log(line)
    return 1


def log(line: str) -> None:
    """One line of the log."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def die(settings: dict[str, str]) -> None:
    """End by the signal it was told; there is no way back."""
    os.kill(os.getpid(), getattr(signal, settings["die"]))
    time.sleep(60)


def load(given: dict[str, str]) -> str:
    """Why the model is refused, or "". Logs what a load logs."""
    n_max, sidecar = int(given.get("--spec-draft-n-max", 0)), given.get("-md")
    log("0.00.010.000 I srv    load_model: loading model")
    for path in filter(None, (given["-m"], sidecar)):
        try:
            with Path(path).open("rb") as file:
                header = file.read(HEADER_BYTES)
        except OSError as error:
            return f"0.00.010.001 E gguf_init_from_file: failed to open GGUF file '{path}' ({error.strerror})"
        if header[:4] != b"GGUF":
            return "0.00.010.001 E gguf_init_from_reader: invalid magic characters: 'no m', expected 'GGUF'"
        size = Path(path).stat().st_size / (1 << 20)
        if servers := given.get("--rpc") if given.get("-ngl") else None:
            log(f"0.00.020.000 I load_tensors: RPC0[{servers}] model buffer size = {size:8.2f} MiB")
        else:
            log(f"0.00.020.000 I load_tensors:   CPU_Mapped model buffer size = {size:8.2f} MiB")
        log("0.00.021.000 I llama_context: constructing llama_context")
        log("0.00.022.000 I llama_kv_cache:        CPU KV buffer size =     0.50 MiB")
        log("0.00.023.000 I sched_reserve:        CPU compute buffer size =     8.02 MiB")
        if n_max and not sidecar and b"nextn_predict_layers" not in header:
            return (
                "0.00.024.000 W llama_init_from_model: context type MTP requested but model doesn't contain MTP layers"
            )
    return ""


def next_token(tokens: list[int]) -> int:
    """What follows: a printable character that depends on all that came before."""
    return 33 + (sum(tokens[-8:]) * 7 + len(tokens)) % 90


class Answers:
    """What a loaded model says."""

    def __init__(self, settings: dict[str, str], given: dict[str, str]) -> None:
        self.settings = settings
        self.n_ctx = int(given["-c"])
        self.n_max = int(given.get("--spec-draft-n-max", 0)) if "--spec-type" in given else 0
        drafts_from = str(given.get("-md") or given["-m"])
        self.vain = any(word in drafts_from for word in ("shuffled", "control"))
        self.held: list[int] = []
        self.tells = int(given.get("-lv", 3)) >= 4

    def complete(self, asked: dict[str, Any]) -> dict[str, Any] | str:
        """The answer, or the message of a refusal."""
        prompt = asked["prompt"]
        tokens = list(prompt.encode()) if isinstance(prompt, str) else list(prompt)
        if len(tokens) > self.n_ctx:
            return f"request ({len(tokens)} tokens) exceeds the available context size ({self.n_ctx} tokens)"
        n_cached = self._cached(tokens) if asked.get("cache_prompt") else 0
        n_prompt, most = len(tokens), min(asked["n_predict"], self.n_ctx - len(tokens))
        for _ in range(most):
            tokens.append(next_token(tokens))
        said = tokens[n_prompt:]
        self.held = tokens[:-1]  # the last token has not been decoded
        time.sleep(TOKEN_S * most)
        drafted, accepted = self._draft(len(said))
        n_new = max(1, n_prompt - n_cached)
        timings = {
            "predicted_per_second": 1000.0, "prompt_per_second": 5000.0,
            "prompt_n": n_new, "prompt_ms": REQUEST_MS + BATCH_MS * (1 + n_new),
        }  # fmt: skip
        if self.n_max:
            timings |= {"draft_n": drafted, "draft_n_accepted": accepted}
        n_probs = asked.get("n_probs", 0)
        likely = [
            {"top_logprobs": [{"id": (token + i) % N_VOCAB, "logprob": -0.25 - 3.0 * i} for i in range(n_probs)]}
            for token in said
        ]
        return {
            "content": bytes(token % 128 for token in said).decode(),
            "tokens": said,
            "stop_type": "limit",
            "timings": timings,
            **({"completion_probabilities": likely} if n_probs else {}),
        }

    def _cached(self, prompt: list[int]) -> int:
        """Tokens of a prompt that are in the cache."""
        both = enumerate(zip(prompt, self.held, strict=False))
        return next((at for at, (a, b) in both if a != b), min(len(prompt), len(self.held)))

    def _draft(self, n_tokens: int) -> tuple[int, int]:
        """Tokens drafted and accepted over an answer, which are logged as well."""
        if not self.n_max or not n_tokens:
            return 0, 0
        steps = max(1, n_tokens // 2)
        counts = [0 if self.vain else int(steps * share * 0.8) for share in SHARES[: self.n_max]]
        drafted, accepted = steps * self.n_max, sum(counts)
        if self.tells:
            log(
                f"0.1 I slot print_timing: id  0 | task 0 | draft acceptance = {accepted / drafted:.5f} "
                f"({accepted:5d} accepted / {drafted:5d} generated), mean len = 2.00"
            )
            shares = "" if self.vain else ", ".join(f"{count / steps:.3f}" for count in counts)
            log(f"0.1 I slot print_timing: id  0 | task 0 |      acc per pos = ({shares})")
        return drafted, accepted


def handler(answers: Answers) -> type[socketserver.StreamRequestHandler]:
    """llama-server's HTTP, as far as nextn speaks it: one request a connection."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            method, path, *_ = self.rfile.readline().decode("latin-1").split() or ("", "")
            headers = {}
            while line := self.rfile.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if method == "GET":
                self._send(200 if path == "/health" else 404, {"status": "ok"})
            elif method == "POST":
                self._answer(path, json.loads(self.rfile.read(int(headers["content-length"]))))

        def _answer(self, path: str, asked: dict[str, Any]) -> None:
            if path == "/tokenize":
                self._send(200, {"tokens": list(asked["content"].encode())})
                return
            if answers.settings["at"] == "answer":
                self._start(200, 1000)
                self.wfile.write(b'{"content": "half of it')
                die(answers.settings)
            said = answers.complete(asked)
            if isinstance(said, str):
                self._send(400, {"error": {"code": 400, "message": said, "type": "exceed_context_size_error"}})
            else:
                self._send(200, said)

        def _send(self, status: int, payload: dict[str, Any]) -> None:
            body = json.dumps(payload).encode()
            self._start(status, len(body))
            self.wfile.write(body)

        def _start(self, status: int, n_bytes: int) -> None:
            self.wfile.write(b"HTTP/1.0 %d stand-in\r\nContent-Length: %d\r\n\r\n" % (status, n_bytes))

    return Handler


class Server(socketserver.ThreadingTCPServer):
    """A port in use is in use."""

    daemon_threads = True


def serve(settings: dict[str, str], given: dict[str, str]) -> int:
    """Load, listen, answer until SIGTERM."""
    if settings["at"] == "load":
        log("0.00.010.000 I srv    load_model: loading model")
        die(settings)
    if why := load(given):
        log(why)
        return refuse("0.00.030.000 E srv    load_model: failed to load model")
    try:
        server = Server((given["--host"], int(given["--port"])), handler(Answers(settings, given)))
    except OSError:
        return refuse(f"couldn't bind HTTP server socket, hostname: {given['--host']}, port: {given['--port']}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # at once: `shutdown` is noticed only twice a second
    log(f"main: server is listening on http://{given['--host']}:{given['--port']}")
    server.serve_forever()
    return 0

