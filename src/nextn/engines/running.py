"""A running engine reached over HTTP: waits for it, queries it, and turns failures into one sentence."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from nextn.engines import logs
from nextn.engines.activity import Silence
from nextn.engines.base import Completion, Launch, MemoryUse
from nextn.engines.deaths import explained
from nextn.engines.http import Client
from nextn.engines.process import EngineProcess
from nextn.errors import EngineFailed, EngineRefused, StorageError

_LOG_LAG_S = 1.0  # the engine writes its log in a separate thread, later than its answers
_LONGEST_PAUSE_S = 0.05  # between two looks at a loading engine
_DYING_S = 5.0  # between a broken connection and the end of the process


class RunningServer:
    """An engine process that serves llama-server's HTTP interface; implements `Running`."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        process: EngineProcess,
        port_of: Callable[[str], int | None],
    ) -> None:
        """Wait until the engine is ready; `port_of(log)` is its port once the log says that it is listening.

        Raises EngineRefused or EngineFailed, after the engine has been stopped.
        """
        self._name = name
        self._launch = launch
        self._process = process
        self._client = Client(0, timeout_s=launch.answer_timeout_s)
        self._logs_acceptance = True
        self._stopped = False
        self._failed = False
        self.memory: list[MemoryUse] = []
        try:
            self._wait_ready(port_of)
        except BaseException as error:
            self._failed = isinstance(error, EngineRefused)
            self.stop()
            raise

    def _wait_ready(self, port_of: Callable[[str], int | None]) -> None:
        began = time.monotonic()
        silence = Silence(self._process, self._launch.silence_timeout_s, began)
        pause = 0.01
        while True:
            ended = self._process.ended()
            if ended is not None:
                self._refuse(ended)
            port = port_of(self._process.read_log())
            if port is not None:
                self._client.port = port
                if self._client.healthy():
                    self.memory = logs.memory_use(self._process.read_log())
                    return
            now, what = time.monotonic(), ""
            if now - began > self._launch.start_timeout_s:
                what = f"had not loaded {self._launch.model} after {self._launch.start_timeout_s:g} s"
            elif silence.seconds(now) > self._launch.silence_timeout_s:
                limit = self._launch.silence_timeout_s
                what = f"hung while loading {self._launch.model}: it printed nothing and did nothing for {limit:g} s"
            if what:
                log = self._kept_log()
                raise EngineFailed(f"{self._name} {what}{_named(log)}", log=log)
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, pause * 1.3)

    def _refuse(self, ended: str) -> NoReturn:
        said = logs.decisive_line(self._process.read_log())
        line = said or ended
        beside = f" with {self._launch.sidecar}" if self._launch.sidecar and self._launch.n_max else ""
        number, log = self._process.signal, self._kept_log()
        if number is not None:
            why = explained(number) + (f" ({said})" if said else "")
            raise EngineFailed(
                f"{self._name} died while loading {self._launch.model}{beside}: {why}{_named(log)}",
                line=line,
                log=log,
                signal=number,
            )
        aim = "draft with" if self._launch.n_max else "load"
        raise EngineRefused(
            f"{self._name} refused to {aim} {self._launch.model}{beside}: {line}{_named(log)}", line=line, log=log
        )

    @property
    def log(self) -> Path:
        """See `Running.log`. Raises StorageError."""
        return self._process.log

    def _kept_log(self) -> Path | None:
        """The log of a failure; None where it cannot be written: the failure matters more."""
        try:
            return self.log
        except StorageError:
            return None

    @property
    def session(self) -> int:
        """See `Running.session`."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """See `Running.alive`."""
        return not self._stopped and self._process.ended() is None

    def tokenize(self, text: str) -> list[int]:
        """See `Running.tokenize`."""
        answer = self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        try:
            return [int(token) for token in answer["tokens"]]
        except (KeyError, TypeError, ValueError) as error:
            self._fail(EngineFailed(f"answered tokens that cannot be read ({error!r})"))

    def ask(self, path: str, payload: dict[str, object]) -> dict[str, Any]:
        """The JSON object that this process answers to a request of its own. Raises EngineFailed."""
        return self._post(path, payload)

    def complete(
        self,
        prompt: str | Sequence[int],
        n_predict: int,
        *,
        n_probs: int = 0,
        seed: int = 0,
        temperature: float = 0.0,
        cache_prompt: bool = False,
    ) -> Completion:
        """See `Running.complete`."""
        start = self._process.log_size()
        answer = self._post(
            "/completion",
            {
                "prompt": prompt if isinstance(prompt, str) else list(prompt),
                "n_predict": n_predict,
                "n_probs": n_probs,
                "seed": seed,
                "temperature": temperature,
                "cache_prompt": cache_prompt,
                "return_tokens": True,
                "stream": False,
            },
        )
        try:
            return self._completion(answer, start)
        except (KeyError, TypeError, ValueError) as error:
            self._fail(EngineFailed(f"answered a completion that cannot be read ({error!r})"))

    def prompt_seconds(self, prompts: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
        """For prompts that are worked on together: the tokens decoded, without those in the cache, and their seconds.

        Raises EngineFailed.
        """
        with self._readable():
            return [
                (int(one["timings"]["prompt_n"]), float(one["timings"]["prompt_ms"]) / 1000)
                for one in self._continued(prompts, 1)
            ]

    def generated(self, prompts: Sequence[Sequence[int]], n_predict: int) -> list[tuple[list[int], float]]:
        """For prompts that are continued together: the tokens generated, and the seconds of each after the first.

        Raises EngineFailed.
        """
        with self._readable():
            return [
                ([int(token) for token in one["tokens"]], 1 / float(one["timings"]["predicted_per_second"]))
                for one in self._continued(prompts, n_predict)
            ]

    def _continued(self, prompts: Sequence[Sequence[int]], n_predict: int) -> list[dict[str, Any]]:
        alone = len(prompts) == 1
        payload: dict[str, object] = {
            "prompt": list(prompts[0]) if alone else [list(prompt) for prompt in prompts],
            "n_predict": n_predict,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,  # the largest: sorting the vocabulary takes a large share of a small model's token
            "cache_prompt": True,
            "return_tokens": True,
            "ignore_eos": True,
            "stream": False,
        }
        return [self._post("/completion", payload)] if alone else self._post_all("/completion", payload)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Timings that cannot be read are a failure of the engine."""
        try:
            yield
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            self._fail(EngineFailed(f"answered timings that cannot be read ({error!r})"))

    def _completion(self, answer: dict[str, Any], start: int) -> Completion:
        text = str(answer["content"])
        timings: dict[str, Any] = answer.get("timings") or {}
        top = [
            [(int(one["id"]), _log(one["logprob"])) for one in entry.get("top_logprobs", [])]
            for entry in answer.get("completion_probabilities") or []
        ]
        tokens = answer.get("tokens")
        if not tokens and text:  # an engine that does not know return_tokens
            tokens = self._post("/tokenize", {"content": text, "add_special": False})["tokens"]
        drafted = int(timings.get("draft_n") or 0)
        accepted = int(timings.get("draft_n_accepted") or 0)
        steps, per_pos = self._acceptance(timings, drafted, accepted, start)
        return Completion(
            tokens=[int(token) for token in tokens or []],
            text=text,
            decode_tps=_finite(timings.get("predicted_per_second")),
            prompt_tps=_finite(timings.get("prompt_per_second")),
            draft_n=drafted,
            draft_n_accepted=accepted,
            draft_steps=steps,
            acceptance_per_pos=per_pos,
            top=top,
            at_limit=answer.get("stop_type") == "limit" or answer.get("stopped_limit") is True,
        )

    def _acceptance(
        self, timings: dict[str, Any], drafted: int, accepted: int, start: int
    ) -> tuple[int, list[float] | None]:
        """Verification steps and acceptance by position: from the answer (ik_llama.cpp), else from the log."""
        if drafted == 0:
            return 0, None
        n_max = self._launch.n_max
        if depths := timings.get("draft_by_depth"):
            steps = int(depths[0]["draft_n"])
            return steps, [int(depth["draft_n_accepted"]) / steps for depth in depths]
        if n_max == 1:
            return drafted, [accepted / drafted]
        rates = self._logged_rates(drafted, accepted, start) if self._logs_acceptance else None
        return logs.verification_steps(accepted, drafted, n_max, rates), rates

    def _logged_rates(self, drafted: int, accepted: int, start: int) -> list[float] | None:
        deadline = time.monotonic() + _LOG_LAG_S
        while True:
            for n_accepted, n_drafted, rates in logs.acceptance_lines(self._process.read_log(start)):
                if (n_accepted, n_drafted) == (accepted, drafted) and rates is not None:
                    return rates
            if time.monotonic() > deadline:
                self._logs_acceptance = False
                return None
            time.sleep(0.01)

    def _post(self, path: str, payload: dict[str, object]) -> dict[str, Any]:
        self._raise_if_stopped()
        try:
            return self._client.post(path, payload)
        except EngineFailed as error:
            self._fail(error)

    def _post_all(self, path: str, payload: dict[str, object]) -> list[dict[str, Any]]:
        self._raise_if_stopped()
        try:
            return self._client.post_all(path, payload)
        except EngineFailed as error:
            self._fail(error)

    def _raise_if_stopped(self) -> None:
        if self._stopped:
            raise EngineFailed(f"{self._name} has been stopped")

    def _fail(self, error: EngineFailed) -> NoReturn:
        """Raise what went wrong as one sentence: with the engine's decisive line if that is what it died of."""
        self._failed = True
        what, line = str(error), error.line
        ended = self._process.wait_ended(0.0 if line or "no answer" in what else _DYING_S)
        number = self._process.signal
        if ended is not None:
            said = logs.decisive_line(self._process.read_log())
            line = said or ended
            what = "died while answering: " + (ended if number is None else explained(number))
            what += f" ({said})" if said else ""
        log = self._kept_log()
        raise EngineFailed(
            f"{self._name} with {self._launch.model} {what}{_named(log)}", line=line, log=log, signal=number
        ) from error

    def stop(self) -> None:
        """See `Running.stop`."""
        if self._stopped:
            return
        self._stopped = True
        self._process.stop()
        if not self._failed:
            self._process.discard_log()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _named(log: Path | None) -> str:
    return "" if log is None else f" (its log: {log})"


def _finite(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def _log(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else -math.inf
