"""Paths of DICOMweb resources (PS3.18, 10.1): what they say, and how they are written.

Pure. Not responsible for what is under them.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException

from edgeward.privacy.catalogue import Held

MOST_FRAMES = 10_000  # in one request


def address_of(root: str, held: Held) -> str:
    """Return the address of an instance; `root` is that of the service."""
    uids = held.study_instance_uid, held.series_instance_uid, held.sop_instance_uid
    return "{}/studies/{}/series/{}/instances/{}".format(root, *uids)


def frame_list(text: str, most: int = MOST_FRAMES) -> list[int]:
    """Return frame numbers, counted from 1 (PS3.18, 10.4.1.1.4).

    Raises
    ------
    HTTPException
        400 if they are none, or more than `most`.
    """
    parts = text.split(",")
    if len(parts) > most or not all(part.isascii() and part.isdigit() and 0 < len(part) < 10 for part in parts):
        raise HTTPException(400, f"frames are numbers from 1, with commas between, at most {most}")
    numbers = [int(part) for part in parts]
    if min(numbers) < 1:
        raise HTTPException(400, "frames are counted from 1")
    return numbers
