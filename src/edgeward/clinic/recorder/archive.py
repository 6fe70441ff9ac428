"""All segments on the disk: which one is written, when each is erased, and where a time lies.

Responsible for retention. A segment takes what arrives in half an hour and is erased when the last of it is as old as
the settings say (24 h); so nothing is destroyed earlier, and everything is gone half an hour later at most. Ages come
from ``recorder.clock``, never from the wall clock alone.

Not responsible for the bytes (``recorder.segment``) nor for what is in a block. Everything here blocks: it runs in
threads, one that writes and erases, any that read.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeward.clinic.recorder import segment as files
from edgeward.clinic.recorder.clock import SECOND, RetentionClock
from edgeward.clinic.recorder.segment import Frame, Segment, SegmentError
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vaultfile import sync_directory

SEGMENT_S = 1800.0
_log = logging.getLogger("edgeward.recorder")


class DiskLow(OSError):
    """So little of the disk is free that recording leaves it to others."""


class Archive:
    """The recording of one node.

    Parameters
    ----------
    folder
        Where the segments lie; made if missing.
    hours
        How long everything is kept.
    max_bytes
        Above this the oldest segment goes first.
    min_free_bytes
        Below this much free disk nothing is written.

    Raises
    ------
    OSError
        If the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        site_key: SiteKey,
        clock: RetentionClock,
        *,
        hours: float,
        max_bytes: float,
        min_free_bytes: int = 0,
    ) -> None:
        self._folder, self._site_key, self.clock = folder, site_key, clock
        self._keep_s, self._max_bytes, self._min_free = hours * 3600.0, max_bytes, min_free_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._segments: dict[int, Segment] = {}
        self._current: Segment | None = None
        self.given_up = 0  # segments erased before their time, because of max_bytes
        self.cut = 0  # bytes of unfinished frames cut off at start
        self._take_up()

    def _take_up(self) -> None:
        """Finish erasures that were interrupted, and load what there is."""
        for stray in self._folder.glob(".*.key.*"):  # a key file that never got its name
            files.shred(stray)
        keys = {int(path.stem) for path in self._folder.glob("[0-9]*.key")}
        for number in sorted(keys):
            segment = Segment.load(self._folder, number, self._site_key)
            if segment is None:
                files.erase(self._folder, number)
                continue
            self._segments[number] = segment
        for path in self._folder.glob("[0-9]*.rec"):
            if int(path.stem) not in keys:  # its key is gone: an erasure was interrupted
                path.unlink()
        sync_directory(self._folder)
        unreadable = [number for number, segment in self._segments.items() if not segment.readable]
        if unreadable:
            _log.error("%d segments do not open with this site's key; they are kept until their time", len(unreadable))
        self.unreadable = len(unreadable)
        last = self._segments.get(max(self._segments, default=-1))
        if last is not None and last.readable and self._takes(last):
            self.cut = last.open_to_append()
            self._current = last

    def close(self) -> None:
        """Close the files."""
        if self._current is not None:
            self._current.close()

    # ---------------------------------------- writing

    def append(self, kind: int, blocks: list[tuple[str, bytes]], from_wall_ns: int) -> tuple[int, Frame]:
        """Write a frame to the disk; return the number of its segment, and the frame.

        Raises
        ------
        DiskLow
            If less is free than others need.
        OSError
            If the disk does not take it. Nothing of it is kept then.
        """
        if shutil.disk_usage(self._folder).free < self._min_free:
            raise DiskLow(f"less than {self._min_free // 1_000_000} MB are free")
        segment = self.current()
        return segment.number, segment.append(kind, blocks, from_wall_ns, self.clock.now())

    def current(self) -> Segment:
        """Return the segment that takes what arrives now; a new one if the last is full.

        Raises
        ------
        OSError
            If a new one cannot be made.
        """
        current = self._current
        if current is not None and self._takes(current):
            return current
        if current is not None:
            current.close()
        number = max(self._segments, default=-1) + 1
        segment = Segment.create(self._folder, number, self.clock.now(), self._site_key)
        segment.open_to_append()
        # Another dictionary: readers go on with the one they have.
        self._segments = {**self._segments, number: segment}
        self._current = segment
        return segment

    def nearly_full(self, within_s: float) -> bool:
        """Return whether the current segment ends within `within_s`."""
        return self._current is None or not self._takes(self._current, within_s)

    def _takes(self, segment: Segment, within_s: float = 0.0) -> bool:
        now = self.clock.now()
        # Never across a reboot: its age is sure only within one. Where the limit is low, it must leave some to erase.
        fits = segment.opened.boot_id == now.boot_id and segment.size < self._max_bytes / 4
        return fits and (now.boot_ns - segment.opened.boot_ns) / SECOND + within_s < SEGMENT_S

    def expire(self) -> list[int]:
        """Erase what is old enough, and the oldest above the limit of size; return the numbers.

        Raises
        ------
        OSError
            If the disk does not do it; it is tried again at the next call.
        """
        gone: list[int] = []
        if self._current is not None and not self._takes(self._current):
            self._current.close()  # nothing may arrive for hours: it must come due all the same
            self._current = None
        for number, segment in sorted(self._segments.items()):
            age = self.clock.age_s(segment.opened)
            if age is not None and age >= self._keep_s + SEGMENT_S:
                self._erase(number)
                gone.append(number)
        while len(self._segments) > 1 and self.size() > self._max_bytes:
            oldest = min(self._segments)
            self.given_up += 1
            _log.warning("the recording is above its limit of size: its oldest half hour is erased early")
            self._erase(oldest)
            gone.append(oldest)
        return gone

    def _erase(self, number: int) -> None:
        segment = self._segments[number]
        segment.erase()
        if segment is self._current:
            self._current = None
        self._segments = {other: kept for other, kept in self._segments.items() if other != number}

    # ---------------------------------------- reading

    def size(self) -> int:
        """Return the bytes on the disk."""
        return sum(segment.size for segment in self._segments.values())

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return len(self._segments)

    def kept_since_ns(self) -> int:
        """Return the wall clock at which the oldest readable segment began; 0 if there is none."""
        return min((s.opened.wall_ns for s in self._segments.values() if s.readable and s.size), default=0)

    def blocks(
        self, kinds: tuple[int, ...], key: str | None, start_ns: int, end_ns: int
    ) -> Iterator[tuple[Segment, Frame, bytes]]:
        """Return blocks with arrivals between two times (wall clock), oldest first, of the source `key` or of all.

        What cannot be opened is left out and logged.
        """
        for _, segment in sorted(self._segments.items()):
            try:
                with segment.reading() as handle:
                    for frame in list(segment.frames(handle)):
                        if frame.kind in kinds and frame.from_wall_ns <= end_ns and frame.wall_ns >= start_ns:
                            for block in _opened(segment, handle, frame, key):
                                yield segment, frame, block
            except (SegmentError, OSError) as error:
                _log.warning("a part of the recording cannot be read: %s", error)


def _opened(segment: Segment, handle: int, frame: Frame, key: str | None) -> list[bytes]:
    """Return the blocks of a frame; none if it is damaged, so that those after it can still be read."""
    try:
        return segment.blocks(handle, frame, key)
    except SegmentError as error:
        _log.warning("a part of the recording cannot be read: %s", error)
        return []
