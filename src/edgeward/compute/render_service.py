"""Pictures on request, in a process of their own beside the engine's.

Responsible for one rendering at a time at low priority, for saying busy, and for surviving what it is asked to show: a
codec that crashes or hangs on a hostile object ends the child, never the engine, and the next picture gets a new child.
Not responsible for how a picture is made (``render.py``) or for who may see it (the gateway asks).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import resource
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from edgeward import log
from edgeward.bus.process import die_with_parent
from edgeward.compute.codestream import DecodeError
from edgeward.compute.render import render
from edgeward.messages import Refused, Rendered, RenderRequest, decode, decode_one_of, encode
from edgeward.privacy.reading import open_object
from edgeward.privacy.vault import VaultDamaged

_log = logging.getLogger("edgeward.render")

WAITING = 8  # requests beyond this are refused as busy
TIMEOUT_S = 20.0
_NICE = 10
_MEMORY = 4 << 30  # address space of the child, in bytes


class RenderService:
    """Renders frames of vault objects. Made and used in the event loop."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        # One thread: it starts the child (which dies with it) and waits for its answers.
        self._thread = ThreadPoolExecutor(1, "rendering")
        self._child: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._present = 0
        self._stopping = False

    async def take(self, request: RenderRequest) -> Rendered | Refused:
        """Answer a request: with a picture, or busy, or why there is none."""
        if self._stopping:
            return Refused(reason="the engine is stopping")
        if self._present > WAITING:
            return Refused(reason="busy")
        self._present += 1
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, encode(request))
        finally:
            self._present -= 1
        result: Rendered | Refused = decode_one_of(Rendered | Refused, answer)
        return result

    def stop(self) -> None:
        """End the child and take nothing new."""
        self._stopping = True
        if self._child is not None:
            self._child.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._end()

    # ------------------------------------------------------------ in the thread

    def _ask(self, request: bytes) -> bytes:
        if self._stopping:
            return encode(Refused(reason="the engine is stopping"))
        pipe, child = self._started()
        # Killing the child unblocks whatever waits for it.
        limit = threading.Timer(self._timeout_s, child.kill)
        limit.start()
        try:
            pipe.send_bytes(request)
            return pipe.recv_bytes()
        except (EOFError, OSError):
            child.join(5.0)
            _log.warning("the renderer ended (exit code %s); the next picture gets a new one", child.exitcode)
            self._end()
            return encode(Refused(reason="the picture could not be made: decoding crashed or did not come back"))
        finally:
            limit.cancel()

    def _started(self) -> tuple[Connection, BaseProcess]:
        if self._pipe is not None and self._child is not None and self._child.is_alive():
            return self._pipe, self._child
        self._end()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(theirs,), name="renderer", daemon=True)
        child.start()
        theirs.close()
        self._pipe, self._child = ours, child
        return ours, child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.join(5.0)
            self._child = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


# ---------------------------------------- in the child


def _serve(pipe: Connection) -> None:
    die_with_parent()
    log.configure("engine")
    warnings.simplefilter("ignore")
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(encode(answer(decode(RenderRequest, pipe.recv_bytes()))))


def answer(request: RenderRequest) -> Rendered | Refused:
    """Render one frame of a vault object, or say why not."""
    try:
        with open_object(request.object.path, request.object.data_key) as file:
            return render(file, request)
    except (DecodeError, VaultDamaged) as error:
        return Refused(reason=str(error))
    except MemoryError:
        return Refused(reason="the picture needs more memory than is given to it")
    except Exception as error:  # only the type: the text of an unforeseen error may quote the data set
        return Refused(reason=f"the picture could not be made ({type(error).__name__})")
