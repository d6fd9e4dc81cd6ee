"""The `llama-server` of ik_llama.cpp: the same HTTP interface, but its own options.

MTP is `--spec-type mtp:n_max=N,p_min=P`; a sidecar goes to `-md`, which ik accepts for few families (see
docs/compatibility.md). Acceptance by position is part of the answer (`timings.draft_by_depth`).
"""

from __future__ import annotations

import os
from pathlib import Path

from nextn.engines.base import Launch
from nextn.engines.llama_server import LlamaServer
from nextn.errors import EngineMissing

IK_PATH_VARIABLE = "NEXTN_IK_SERVER"  # environment variable that names the binary to use
IK_KIND = "ik_llama.cpp"


class IkServer(LlamaServer):
    """One `llama-server` binary of ik_llama.cpp; implements `Engine`."""

    name = "ik_llama.cpp"

    @classmethod
    def find(cls, binary: str | os.PathLike[str] | None = None) -> IkServer:
        """`binary`, else $NEXTN_IK_SERVER; the PATH is not searched, since both projects call theirs llama-server.

        Raises EngineMissing when none is named, it cannot be run, or it is another project's server or a build from
        before `--spec-type`.
        """
        chosen = binary or os.environ.get(IK_PATH_VARIABLE)
        if not chosen:
            raise EngineMissing(
                f"ik_llama.cpp was not found: set {IK_PATH_VARIABLE} to its llama-server, or name its path"
            )
        return cls.of(cls._probe(Path(chosen).expanduser().absolute(), {}))

    @classmethod
    def of(cls, server: LlamaServer) -> IkServer:
        """The same binary as this class. Raises EngineMissing unless it is a server of ik_llama.cpp with MTP."""
        if server.kind != IK_KIND:
            raise EngineMissing(
                f"{server.binary} ({server.version}) has no option '--spec-type mtp:n_max=...', so it is not "
                "a llama-server of ik_llama.cpp, or is too old for MTP; name another"
            )
        return cls(server.binary, server.version, server.help, server.env)

    def _arguments(self, launch: Launch, port: int) -> list[str]:
        # Without it the server writes a llama.log to the folder it was started from.
        quiet = ["--log-disable"] if "--log-disable" in self.help else []
        return [*quiet, *super()._arguments(launch, port)]
