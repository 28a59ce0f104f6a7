"""llama.cpp's own HTTP server (OpenAI-compatible, by xllamacpp), on loopback alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.local.model import ModelFile, find_model

__all__ = ["serve"]

HOST: Final = "127.0.0.1"
# Questions answered side by side, and the tokens that all of them share. A question in words has a few hundred.
_SLOTS: Final = 4
_CONTEXT: Final = 8_192
_PARENT_POLL_S: Final = 0.5


def serve(
    gguf: str,
    mmproj: str = "",
    *,
    port: int = 0,
    threads: int = 0,
    parent: int = 0,
    announce: Callable[..., None] = print,
) -> None:
    """Serve until told to stop, printing one line, the base URL, when ready. ``threads``: 0 is half the cores, the
    others are the learner's. ``parent``: stop when it is gone.

    Raises ConfigError: no such model, xllamacpp isn't installed or can't load it, or the port is in use.
    """
    model = find_model(gguf, mmproj)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = _started(model, port, threads or max(1, (os.cpu_count() or 1) // 2))
    announce(f"{server.listening_address}/v1", flush=True)
    while not stop.wait(_PARENT_POLL_S) and (not parent or os.getppid() == parent):
        continue


def _started(model: ModelFile, port: int, threads: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model.path)
    if model.mmproj is not None:
        params.mmproj.path = str(model.mmproj)
    params.model_alias = {model.name}
    params.hostnames = [HOST]
    params.port = port
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_ctx, params.n_parallel, params.kv_unified = _CONTEXT, _SLOTS, True
    params.cache_ram_mib = 0  # a cache of past questions would grow to GBs; a slot's own beginning is kept all the same
    params.offline = True
    params.cors_origins = f"http://{HOST}"  # its own default lets any web page that is open in a browser here ask it
    params.ui = params.endpoint_slots = False
    params.verbosity = -1
    try:
        return xllamacpp.Server(params)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"judge.gguf: got {str(model.path)!r}, which can't be served on port {port}: {reason}"
        ) from None
