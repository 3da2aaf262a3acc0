"""From a file to a server that listens."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError, MissingExtraError, ModelError
from tutelage.export import FORMATS, Facts, Inputs, Runner, open_artifact
from tutelage.files import human_bytes, sha256
from tutelage.serve.limits import Limits
from tutelage.tasks import IMPOSSIBLE

__all__ = ["Served", "serve", "serve_runner"]

_COMPANY = 8  # rows that are asked together and alone
_ALONE = 1e-3  # of the logits' spread: more is no rounding


def _tell(line: str) -> None:
    print(line, flush=True)


@final
@dataclass(frozen=True, slots=True)
class Served:
    """A server that was stopped.

    Args:
        answered: how many requests it answered with a prediction.
    """

    answered: int


def serve(
    path: Path | str, *, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None, threads: int = 1,
    trust: bool = False, tell: Callable[[str], None] = _tell,
) -> Served:  # fmt: skip
    """Answer for a file over HTTP, until SIGINT or SIGTERM comes; what is under way then is finished.

    Args:
        path: a file that `export_model` wrote.
        host: the address to listen at.
        port: 0 takes a free one.
        limits: what is taken at most.
        threads: of the runtime.
        trust: whether the file may run code that it holds.
        tell: takes a line for whoever runs the server.

    Raises:
        InputError: the file, the address or a limit cannot be used.
        DamagedError, ModelError: the file is not what it claims to be.
        MissingExtraError: the extra `serve`, or the file's runtime, is not installed.
    """
    path = Path(path).expanduser()
    if threads < 1:
        raise InputError("--threads is too small", given=str(threads), expected="1 or more")
    _require()
    runner = open_artifact(path, threads=threads, trust=trust)
    told = {
        "name": runner.facts.name or path.name, "format": _format(path), "sha256": sha256(path),
        "bytes": path.stat().st_size,
    }  # fmt: skip
    return serve_runner(runner, told, host=host, port=port, limits=limits, tell=tell)


def serve_runner(
    runner: Runner, told: Mapping[str, Any], *, host: str = "127.0.0.1", port: int = 8000,
    limits: Limits | None = None, tell: Callable[[str], None] = _tell,
) -> Served:  # fmt: skip
    """The same for a runner that is there already.

    Args:
        runner: (B, …) → (B, C).
        told: name, format, sha256 and bytes of its file.

    Raises:
        InputError: the address cannot be used.
        ModelError: the runner does not answer as its facts say.
        MissingExtraError: the extra `serve` is not installed.
    """
    _require()
    from tutelage.serve.application import Service

    limits = limits or Limits()
    together = _is_independent(runner)
    listening, local = _bind(host, port)
    with listening:
        address = listening.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        if not together:
            tell("notice: an example's answer depends on its company in a call, so requests do not share calls")
        if not local:
            tell("warning: everybody who reaches this address can ask the model: there is neither a password nor "
                 "encryption")  # fmt: skip
        tell(f"{told['name']} ({told['format']}, {human_bytes(told['bytes'])}) answers at http://{shown}:{address[1]}; "
             "Ctrl-C stops it")  # fmt: skip
        service = Service(
            runner,
            told,
            limits,
            together=together,
            name=host if local else None,
            debug=bool(os.environ.get("TUTELAGE_DEBUG")),
        )
        _run(service.application, listening, limits)
    return Served(service.answered)


def _require() -> None:
    for package in ("starlette", "uvicorn", "h11"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", purpose="an HTTP server")


def _format(path: Path) -> str:
    """The name of a file's format: that with the longest suffix that fits."""
    fitting = [name for name, form in FORMATS.items() if path.name.endswith(form.suffix)]
    return max(fitting, key=lambda name: len(FORMATS[name].suffix))


def _is_independent(runner: Runner) -> bool:
    """Whether rows are answered alike alone and in company, which layers quantised call by call do not.

    Raises:
        ModelError: the answers have another shape than the facts say.
    """
    facts = runner.facts
    rows = _unlike(facts)
    together = runner(rows)
    if together.shape != (_COMPANY, len(facts.classes)):
        raise ModelError(
            "the model answers otherwise than its file says", given=f"shape {together.shape}",
            expected=f"{(_COMPANY, len(facts.classes))}",
        )  # fmt: skip
    alone = np.concatenate([runner(rows[row : row + 1]) for row in range(_COMPANY)])
    # Where no answer can be, logits are one number far away from all others.
    told = together[together > IMPOSSIBLE / 2] if facts.separator else together
    return bool(np.abs(together - alone).max() <= _ALONE * max(float(told.std()), 1e-6))


def _unlike(facts: Facts) -> Inputs:
    """Made-up inputs of as many kinds as can be: faint and strong ones, short and long texts."""
    rows = facts.example(_COMPANY)
    if facts.vocabulary:
        lengths = np.linspace(1, facts.input_shape[0], _COMPANY).round()
        rows[np.arange(facts.input_shape[0]) >= lengths[:, None]] = 0
        return rows
    strength = np.linspace(0.1, 1.0, _COMPANY, dtype=np.float32).reshape(-1, *[1] * len(facts.input_shape))
    found: NDArray[np.float32] = (rows * strength).astype(np.float32)
    return found


def _bind(host: str, port: int) -> tuple[socket.socket, bool]:
    """A socket that listens, and whether only this machine reaches it.

    Raises:
        InputError: there is no such address, or it is taken.
    """
    if not 0 <= port < 2**16:
        raise InputError("--port is out of range", given=str(port), expected="0 … 65535, 0 for a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(
            f"cannot listen at {host}, port {port}", given=said, expected="an address of this machine, a free port",
            fix="choose another --port, or 0 for a free one",
        ) from error  # fmt: skip
    return made, ipaddress.ip_address(made.getsockname()[0].partition("%")[0]).is_loopback


def _run(application: Any, listening: socket.socket, limits: Limits) -> None:
    import uvicorn

    from tutelage.serve.connections import connection

    class Server(uvicorn.Server):
        """Ends when a signal comes; being stopped is how a server ends, so that nobody else hears of the signal."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for one, handler in before.items():
                    signal.signal(one, handler)

    config = uvicorn.Config(
        application, http=connection(limits), ws="none", loop="asyncio", lifespan="on", log_config=None,
        log_level="critical", access_log=False, proxy_headers=False, server_header=False,
        timeout_graceful_shutdown=int(limits.timeout) + 30,
    )  # fmt: skip
    Server(config).run([listening])
