"""What a simulated ultrasound machine images: files of a folder, or phantoms mixed with frames of other kinds.

Responsible for an unending (or, for DICOM files sent as they are, ending) series of exposures, the same for the same
seed. Not responsible for the objects' form (`ultrasound_image`) or for sending them (`ultrasound`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from edgeward.device.phantom import Kind, Phantom, phantom
from edgeward.device.ultrasound_image import IMAGES_PER_STUDY, Session, identify, ultrasound_image

PICTURES = (".png", ".jpg", ".jpeg")
_MASKS = ("mask", "masks")
_POOL = 12  # phantoms drawn: each takes 0.2 s of a core, so a machine shows them again as other patients
_FOREIGN_EVERY = 5
_KINDS: tuple[Kind, ...] = ("malignant", "benign", "benign", "malignant", "normal", "benign")
# Ultrasound that is no breast: the site must say so instead of guessing. They ship with pydicom itself.
_FOREIGN = ("examples_ybr_color.dcm", "examples_rgb_color.dcm", "examples_palette.dcm", "examples_jpeg2k.dcm")

log = logging.getLogger(__name__)


class ExposureError(ValueError):
    """There is nothing to image; the text says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One image to send.

    Attributes
    ----------
    uid
        SOP Instance UID.
    build
        Makes the data set; called again when a send is repeated, and then gives the same object.
    study
        Number of its study in the session; -1 for an object that is sent as it is.
    """

    uid: str
    build: Callable[[], Dataset]
    study: int = -1


def built_in(session: Session) -> Iterator[Exposure]:
    """Yield breast phantoms for ever, every fifth exposure an ultrasound frame of something else."""
    number = 0
    while True:
        who = session.exam(number)
        if number % _FOREIGN_EVERY == _FOREIGN_EVERY - 1:
            name = _FOREIGN[number // _FOREIGN_EVERY % len(_FOREIGN)]

            def build(name: str = name, number: int = number) -> Dataset:
                dataset = dcmread(str(get_testdata_file(name, download=False)))
                identify(dataset, session.exam(number))
                return dataset

        else:
            turn = number % _POOL

            def build(turn: int = turn, number: int = number) -> Dataset:  # type: ignore[misc]
                drawn = _drawn(session.seed % 1_000_003 * _POOL + turn, _KINDS[turn % len(_KINDS)])
                # About half of the machines in use send grey frames as RGB.
                image = np.repeat(drawn.image[:, :, None], 3, axis=2) if turn % 2 else drawn.image
                return ultrasound_image(image, session.exam(number), session.station, drawn.spacing_mm)

        yield Exposure(who.sop_uid, build, number // IMAGES_PER_STUDY)
        number += 1


@lru_cache(maxsize=_POOL)
def _drawn(seed: int, kind: Kind) -> Phantom:
    return phantom(seed, kind=kind)


def from_folder(folder: Path, session: Session) -> Iterator[Exposure]:
    """Return the exposures of the pictures and DICOM files below `folder`, in an order that the seed decides.

    Pictures become new objects without calibration (a picture does not say its spacing) and come round again for ever;
    DICOM files are sent as they are, each once. Folders called ``mask`` or ``masks`` and files ``*_mask*`` are passed
    over, and so are files that cannot be read, with a warning.

    Raises
    ------
    ExposureError
        If there is nothing to send.
    """
    if not folder.is_dir():
        raise ExposureError(f"there is no folder {folder}")
    pictures, objects = [], []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or _is_mask(path.relative_to(folder)):
            continue
        if path.suffix.lower() in PICTURES:
            pictures.append(path)
        elif _is_dicom(path):
            objects.append(path)
    if not pictures and not objects:
        raise ExposureError(f"{folder} holds neither pictures (png, jpg) nor DICOM files")
    return _walk(pictures, objects, session)


def _walk(pictures: list[Path], objects: list[Path], session: Session) -> Iterator[Exposure]:
    rng = random.Random(session.seed)
    unreadable: set[Path] = set()
    number, first_round = 0, True
    while first_round or len(unreadable) < len(pictures):
        paths = [path for path in pictures if path not in unreadable] + (objects if first_round else [])
        rng.shuffle(paths)
        for path in paths:
            if path.suffix.lower() not in PICTURES:
                if exposure := _as_it_is(path):
                    yield exposure
                continue
            try:
                _pixels(path)
            except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                log.warning("a picture is not sent: %s", error)
                unreadable.add(path)
                continue

            def build(path: Path = path, number: int = number) -> Dataset:
                return ultrasound_image(_pixels(path), session.exam(number), session.station)

            yield Exposure(session.exam(number).sop_uid, build, number // IMAGES_PER_STUDY)
            number += 1
        first_round = False


def _is_mask(path: Path) -> bool:
    return any(part.lower() in _MASKS for part in path.parts[:-1]) or "_mask" in path.stem.lower()


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _as_it_is(path: Path) -> Exposure | None:
    try:
        head = dcmread(path, stop_before_pixels=True)
        uid, _ = str(head.SOPInstanceUID), head.SOPClassUID
    except (InvalidDicomError, AttributeError, OSError, ValueError, EOFError, KeyError) as error:
        log.warning("a DICOM file is not sent: %s", type(error).__name__)
        return None
    return Exposure(uid, lambda: dcmread(path))


def _pixels(path: Path) -> NDArray[np.uint8]:
    """Read a picture as uint8, grey (rows, columns) or RGB (rows, columns, 3)."""
    with Image.open(path) as picture:
        if picture.mode in ("1", "L", "LA"):
            return np.asarray(picture.convert("L"), dtype=np.uint8)
        if picture.mode.startswith(("I", "F")):  # 16 bit and more
            deep = np.asarray(picture, dtype=np.float64)
            span = max(float(deep.max() - deep.min()), 1.0)
            return np.asarray(np.round((deep - deep.min()) / span * 255.0), dtype=np.uint8)
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)
