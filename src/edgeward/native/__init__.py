"""The compiled data path (`datapath.c` and its neighbours): loaded if it is there, and the memory that it works on.

Responsible for finding and verifying the library and for the structures shared with it. Not responsible for what is
done with it (``gateway.express``, ``privacy.intakelog``) or for compiling it (``native.build``).

Calls run without the interpreter's lock. There is always a way without: `library` then returns None.
``EDGEWARD_COMPILED=0`` in the environment leaves it out; a path instead is the library to load.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sysconfig
from enum import IntEnum
from pathlib import Path
from typing import Any

from cryptography.hazmat.backends.openssl.backend import backend as openssl

LIBRARY = Path(__file__).with_name(f"_datapath-{sysconfig.get_platform()}.so")
TAGS = 32
_UID = 64


class Code(IntEnum):
    """What `ew_take` and `ew_exchange` return: see the source."""

    MESSAGE = 1
    COMMAND = 2
    FULL = 3
    WAIT = 4
    OTHER = 5
    GONE = 6
    SLOW = 7
    SILENT = 8
    NOT_KEPT = 9
    NOT_SENT = 10
    NOT_TAKEN = 11


_VECTORS = 0x30100000  # the version of OpenSSL
SLOTS = 256  # objects that the compiled admission took and that have no row yet
SALT, KEY, TAG = 16, 32, 16
_NAME = 8
NOT_WALKED, EXPLICIT, IMPLICIT = 1, 2, 3  # how the data sets of a presentation context are looked at
ABSENT = 0xFFFFFFFF


class Record(ctypes.Structure):
    """``struct ew_record``: what to keep."""

    _fields_ = (
        ("sync", ctypes.c_void_p),
        ("at", ctypes.c_int64),
        ("head", ctypes.c_void_p),
        ("head_size", ctypes.c_uint64),
        ("content", ctypes.c_void_p),
        ("content_size", ctypes.c_uint64),
        ("content_room", ctypes.c_uint64),
        ("path", ctypes.c_char_p),
        ("handle", ctypes.c_int32),
        ("file_error", ctypes.c_int32),
    )


class Log(ctypes.Structure):
    """``struct ew_log``: one file that is appended to."""

    _fields_ = (
        ("sync", ctypes.c_void_p),
        ("end", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("busy", ctypes.c_uint64),
        ("alone", ctypes.c_uint64),
        ("handle", ctypes.c_int32),
        ("failed", ctypes.c_int32),
        ("salt", ctypes.c_uint8 * SALT),
        ("key", ctypes.c_uint8 * KEY),
        ("name", ctypes.c_uint8 * _NAME),
    )


class Store(ctypes.Structure):
    """The beginning of ``struct ew_store``: where the objects of all associations go."""

    _fields_ = (
        ("active", ctypes.c_void_p),
        ("crowded", ctypes.c_uint64),
        ("room", ctypes.c_int64),
        ("budget_ns", ctypes.c_int64),
        ("closed", ctypes.c_int32),
        ("pending", ctypes.c_int32),
        ("starved", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("content_key", ctypes.c_uint8 * KEY),
    )


class Slot(ctypes.Structure):
    """The beginning of ``struct ew_slot``: an object that was admitted; its row follows."""

    _fields_ = (("log", ctypes.c_void_p), ("size", ctypes.c_uint64))


class Kind(ctypes.Structure):
    """``struct ew_kind``: what all objects of one presentation context have in common."""

    _fields_ = (
        ("sop_class", ctypes.c_char_p),
        ("before", ctypes.c_char_p),
        ("after", ctypes.c_char_p),
        ("row", ctypes.c_char_p),
        ("class_size", ctypes.c_uint32),
        ("before_size", ctypes.c_uint32),
        ("after_size", ctypes.c_uint32),
        ("row_size", ctypes.c_uint32),
    )


Seal = ctypes.CFUNCTYPE(ctypes.c_int, *(4 * [ctypes.c_uint64]), ctypes.c_int)  # the last but one member of ``ew_large``


class Large(ctypes.Structure):
    """The beginning of ``struct ew_large``: an object of more than a chunk, on its way into a file of its own."""

    _fields_ = (
        ("root", ctypes.c_char_p),
        ("chunk", ctypes.c_uint64),
        ("seal", ctypes.c_void_p),
        ("index", ctypes.c_uint64),
        ("pending", ctypes.c_uint64),
        ("written", ctypes.c_uint64),
        ("meta", ctypes.c_uint64),
        ("handle", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("key", ctypes.c_uint8 * KEY),
        ("digest", ctypes.c_uint8 * TAG),
        ("path", ctypes.c_char * 1024),
    )


class Connection(ctypes.Structure):
    """``struct ew_conn``: one association."""

    _fields_ = (
        ("ahead", ctypes.c_void_p),
        ("room", ctypes.c_void_p),
        ("answer", ctypes.c_char_p),
        ("ahead_size", ctypes.c_uint64),
        ("room_size", ctypes.c_uint64),
        ("answer_size", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("idle_ms", ctypes.c_int64),
        ("pdu_ms", ctypes.c_int64),
        ("patience_ms", ctypes.c_int64),
        ("handle", ctypes.c_int32),
        ("wanted_count", ctypes.c_int32),
        ("wanted", ctypes.c_uint32 * TAGS),
        ("syntax", ctypes.c_uint8 * 256),
        ("store", ctypes.c_void_p),
        ("ciphers", ctypes.c_void_p),
        ("kinds", ctypes.c_void_p),
        ("head", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
        ("large", ctypes.c_void_p),
        ("out_size", ctypes.c_uint64),
        ("headroom", ctypes.c_uint64),
        ("small", ctypes.c_uint64),
        ("max_length", ctypes.c_uint64),
        ("kind", ctypes.c_uint8 * 256),
        ("at", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("filled", ctypes.c_uint64),
        ("pdu_left", ctypes.c_uint64),
        ("pdv_left", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_int64),
        ("begun", ctypes.c_int32),
        ("fragments", ctypes.c_int32),
        ("context", ctypes.c_int32),
        ("control", ctypes.c_int32),
        ("received_ns", ctypes.c_int64),
        ("send_limit_ns", ctypes.c_int64),
        ("error", ctypes.c_int32),
        ("kept", ctypes.c_int32),
        ("admitted", ctypes.c_int32),
        ("message_id", ctypes.c_int32),
        ("walked", ctypes.c_int32),
        ("class_size", ctypes.c_int32),
        ("instance_size", ctypes.c_int32),
        ("sop_class", ctypes.c_char * _UID),
        ("sop_instance", ctypes.c_char * _UID),
        ("value_at", ctypes.c_uint32 * TAGS),
        ("value_size", ctypes.c_uint32 * TAGS),
    )


class Pages:
    """Memory from the start of a page, whose address is known.

    Parameters
    ----------
    size
        In bytes.
    """

    __slots__ = ("_keep", "address", "view")

    def __init__(self, size: int) -> None:
        self.view = memoryview(mmap.mmap(-1, size))
        self._keep = (ctypes.c_char * size).from_buffer(self.view)
        self.address = ctypes.addressof(self._keep)


@functools.cache
def library() -> Any:
    """Return the library, or None: it is not there, left out on purpose, or of another version than this file."""
    asked = os.environ.get("EDGEWARD_COMPILED", "1")
    if asked == "0":
        return None
    try:
        loaded: Any = ctypes.CDLL(asked if "/" in asked else str(LIBRARY))
        layout = loaded.ew_layout
    except (OSError, AttributeError):
        return None
    layout.argtypes, layout.restype = [ctypes.c_int], ctypes.c_int64
    ours = (
        *(ctypes.sizeof(Record), ctypes.sizeof(Connection), Connection.value_size.offset, ctypes.sizeof(Log)),
        *(ctypes.sizeof(Store), ctypes.sizeof(Kind), ctypes.sizeof(Large)),
    )
    if tuple(layout(which) for which in (1, 2, 3, 4, 7, 9, 11)) != ours:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    loaded.ew_sync_begin.argtypes = [pointer]
    loaded.ew_sync.argtypes = [pointer, ctypes.c_int]
    loaded.ew_keep.argtypes = [pointer]
    loaded.ew_take.argtypes = [pointer]
    loaded.ew_exchange.argtypes = [pointer, pointer]
    loaded.ew_walk.argtypes = [pointer, pointer, ctypes.c_uint64, number]
    loaded.ew_store_begin.argtypes = loaded.ew_lock.argtypes = loaded.ew_unlock.argtypes = [pointer]
    loaded.ew_wait.argtypes = [pointer, number, ctypes.c_int64, ctypes.c_int64]
    loaded.ew_drain.argtypes = loaded.ew_give.argtypes = [pointer, pointer, number]
    loaded.ew_idle.argtypes = [pointer, pointer, ctypes.c_int64]
    loaded.ew_large_drop.argtypes = [pointer]
    loaded.ew_ciphers_new.restype = pointer
    loaded.ew_ciphers_free.argtypes = [pointer]
    loaded.ew_lock.restype = loaded.ew_unlock.restype = loaded.ew_give.restype = loaded.ew_large_drop.restype = None
    loaded.ew_crypto.restype = ctypes.c_uint64
    version = loaded.ew_crypto()
    loaded.admits = bool(version)  # whether the system has a libcrypto for it
    # Before 3.1 it makes no use of AES instructions on vectors: ours, which comes with `cryptography`, takes a third.
    loaded.lends = version < _VECTORS <= openssl.openssl_version_number()
    return loaded


def new_sync(loaded: Any) -> Any:
    """Return memory for the syncs of one file (``struct ew_sync``).

    Raises
    ------
    OSError
        If the system cannot give a lock.
    """
    memory = ctypes.create_string_buffer(loaded.ew_layout(0))
    error = loaded.ew_sync_begin(memory)
    if error:
        raise OSError(error, os.strerror(error))
    return memory
