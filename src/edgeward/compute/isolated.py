"""Analysis in a process of its own: for an object that was in an engine's hands when that engine died.

If the object is what kills, it kills the child, the engine lives to say so, and nobody else is disturbed (law 7). If it
was killed from outside, the analysis simply succeeds. Slow (the model is loaded anew), and only for suspects.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from edgeward import log
from edgeward.bus.process import die_with_parent
from edgeward.compute.analyser import AnalysisResult, load_analyser
from edgeward.compute.decode import DecodeError
from edgeward.privacy.reading import open_object
from edgeward.privacy.vault import VaultDamaged

TIMEOUT_S = 40.0  # below the engine's own limit (``compute.engine.HUNG_S``)


class AnalysisCrashed(RuntimeError):
    """The child died or did not come back: the object is not to be analysed by this model on this machine."""


def analyse(
    path: Path | str, data_key: bytes, *, threads: int, model: str, cine_frames: int = 1, timeout_s: float = TIMEOUT_S
) -> AnalysisResult:
    """Analyse one vault object in a child process, which reads it itself.

    Parameters
    ----------
    path, data_key : where the object is, and its key, as in an ``ObjectRef``
    threads, model : as for ``load_analyser``
    cine_frames : as for ``Analyser.analyse``

    Raises
    ------
    DecodeError
        If the object cannot be decoded.
    VaultDamaged
        If the object was altered.
    AnalysisCrashed
        If the child ended by a signal, ran out of memory, or took longer than `timeout_s`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs, threads, model), name="isolated analysis", daemon=True)
    child.start()
    theirs.close()
    late = threading.Event()

    def give_up() -> None:
        """Kill the child, which unblocks whatever waits for it, be it the sending or the answer."""
        late.set()
        child.kill()

    limit = threading.Timer(timeout_s, give_up)
    limit.start()
    try:
        ours.send((str(path), data_key, cine_frames))
        kind, value = ours.recv()
    except (EOFError, OSError) as error:
        child.join(5.0)
        if late.is_set():
            raise AnalysisCrashed(f"the analysis did not come back within {timeout_s:g} s") from error
        raise AnalysisCrashed(f"the analysis crashed (exit code {child.exitcode})") from error
    finally:
        limit.cancel()
        ours.close()
        child.kill()
        child.join(5.0)
    if kind == "undecodable":
        raise DecodeError(value)
    if kind == "damaged":
        raise VaultDamaged(value)
    if kind != "done":
        raise AnalysisCrashed(str(value))
    result: AnalysisResult = value
    return result


def _child(pipe: Connection, threads: int, model: str) -> None:
    die_with_parent()
    log.configure("engine")
    warnings.simplefilter("ignore")  # pydicom's warnings quote the values they warn of
    path, data_key, cine_frames = pipe.recv()
    answer: tuple[str, object]
    try:
        analyser = load_analyser(threads, model)
        with open_object(path, data_key) as file:
            answer = ("done", analyser.analyse(file, time.perf_counter, cine_frames=cine_frames))
    except DecodeError as error:
        answer = ("undecodable", str(error))
    except VaultDamaged as error:
        answer = ("damaged", str(error))
    except Exception as error:  # only the type: the text of an unforeseen error may quote the data set
        answer = ("failed", f"the analysis failed ({type(error).__name__})")
    with contextlib.suppress(OSError):
        pipe.send(answer)
    pipe.close()
