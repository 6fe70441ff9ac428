"""Analysis in a process of its own: for an object that was in an engine's hands when that engine died.

If the object is what kills, it kills the child, the engine lives to say so, and nobody else is disturbed (law 7). If it
was killed from outside, the analysis simply succeeds. Slow (the model is loaded anew), and only for suspects.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection

from edgeward.bus.process import die_with_parent
from edgeward.compute.analyser import AnalysisResult, load_analyser
from edgeward.compute.decode import DecodeError

TIMEOUT_S = 40.0  # below the engine's own limit (``compute.engine.HUNG_S``)


class AnalysisCrashed(RuntimeError):
    """The child died or did not come back: the object is not to be analysed by this model on this machine."""


def analyse(data: bytes, *, threads: int, model: str, timeout_s: float = TIMEOUT_S) -> AnalysisResult:
    """Analyse one DICOM object in a child process.

    Raises
    ------
    DecodeError
        If the object cannot be decoded.
    AnalysisCrashed
        If the child ended by a signal, ran out of memory, or took longer than `timeout_s`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs, threads, model), name="isolated analysis", daemon=True)
    child.start()
    theirs.close()
    # Killing the child unblocks whatever waits for it, be it the sending or the answer.
    limit = threading.Timer(timeout_s, child.kill)
    limit.start()
    began = time.monotonic()
    try:
        ours.send_bytes(data)
        kind, value = ours.recv()
    except (EOFError, OSError) as error:
        child.join(5.0)
        if time.monotonic() - began >= timeout_s:
            raise AnalysisCrashed(f"the analysis did not come back within {timeout_s:g} s") from error
        raise AnalysisCrashed(f"the analysis crashed (exit code {child.exitcode})") from error
    finally:
        limit.cancel()
        ours.close()
        child.kill()
        child.join(5.0)
    if kind == "undecodable":
        raise DecodeError(value)
    if kind != "done":
        raise AnalysisCrashed(str(value))
    result: AnalysisResult = value
    return result


def _child(pipe: Connection, threads: int, model: str) -> None:
    die_with_parent()
    data = pipe.recv_bytes()
    answer: tuple[str, object]
    try:
        answer = ("done", load_analyser(threads, model).analyse(data, time.perf_counter))
    except DecodeError as error:
        answer = ("undecodable", str(error))
    except Exception as error:  # only the type: the text of an unforeseen error may quote the data set
        answer = ("failed", f"the analysis failed ({type(error).__name__})")
    with contextlib.suppress(OSError):
        pipe.send(answer)
    pipe.close()
