"""Every decodable file at hand: pixel by pixel what gdcm, dcmtk and pydicom say, lossy ones included.

Where they disagree, the file is listed with who is right by the standard. Files under ``../shared/data/dicom`` are
compared when they are there.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from tests.support.decoders import Gdcm, dcmtk, pydicom_frame
from tests.support.imaging import test_file

from edgeward.compute.colour import to_rgb
from edgeward.compute.decode import DecodeError, ImageObject

pytestmark = pytest.mark.peer
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom"
_NO_OBJECTS = {".py", ".pyc", ".json", ".md", ".txt", ".xml", ".zst", ".csv", ".typed"}
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# What nobody can decode rightly, and why.
UNDECODABLE = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "tiles",  # a delimiter was written over the codestream's header
    "MR_truncated.dcm": "truncated",
    "badVR.dcm": "NumberOfFrames",  # "1A"
}
# Frames that contradict the object although others of it are right: dcmtk decodes them to another size.
PARTLY_UNDECODABLE = {"multiframe.dcm": "compressed frame is"}
# Where one of the peers is wrong, and how that is known.
WRONG = {
    # The codestream is unsigned, the object says signed: the sign is extended from the codestream's depth, as pydicom
    # does; the same picture without the mismatch is 693_J2KR.
    "J2K_pixelrep_mismatch.dcm": {"gdcm"},
    # gdcm takes the bytes of 16- and 32-bit colour RLE in the wrong order (PS3.5 G.2: most significant byte first).
    "SC_rgb_rle_16bit.dcm": {"gdcm"},
    "SC_rgb_rle_16bit_2frame.dcm": {"gdcm"},
    "SC_rgb_rle_32bit.dcm": {"gdcm"},
    "SC_rgb_rle_32bit_2frame.dcm": {"gdcm"},
    # 32-bit values in big endian (retired): PS3.5 7.3 read to the letter swaps OW by words of 16 bits, as gdcm and dcmtk
    # do; these files have whole values swapped, and only so do they equal their little-endian twins (tested below).
    "rtdose_expb.dcm": {"gdcm", "dcmtk"},
    "rtdose_expb_1frame.dcm": {"dcmtk"},
}


def objects() -> list[Path]:
    site = Path(pydicom.__file__).parent.parent
    packaged = [site / str(f) for name in ("pydicom", "pydicom-data") for f in importlib.metadata.files(name) or ()]
    shared = sorted(SHARED.rglob("*")) if SHARED.is_dir() else []
    found = []
    for path in [*packaged, *shared]:
        if path.suffix in _NO_OBJECTS or not path.is_file():
            continue
        try:
            header = pydicom.dcmread(path, force=True, specific_tags=["Rows", *_PIXELS], defer_size=64)
        except Exception:
            continue  # not DICOM, or deliberately broken in its header
        if "Rows" in header and any(keyword in header for keyword in _PIXELS):
            found.append(path)
    return found


@pytest.fixture(scope="module")
def gdcm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gdcm]:
    peer = Gdcm(tmp_path_factory.mktemp("gdcm"))
    yield peer
    peer.close()


@pytest.mark.parametrize("path", [pytest.param(p, id=p.name) for p in objects()])
def test_pixels_are_those_of_the_other_decoders(path: Path, gdcm: Gdcm, tmp_path: Path) -> None:
    if path.name in UNDECODABLE:
        with path.open("rb") as file, pytest.raises(DecodeError, match=UNDECODABLE[path.name]):
            ImageObject(file).stored(0)
        return
    with path.open("rb") as file:
        image = ImageObject(file)
        theirs = gdcm.frames(path)
        converted = dcmtk(path, image.syntax, tmp_path / "dcmtk.dcm")
        compared = 0
        for index in sorted({0, image.frames // 2, image.frames - 1}):
            if path.name in PARTLY_UNDECODABLE and index:
                with pytest.raises(DecodeError, match=PARTLY_UNDECODABLE[path.name]):
                    image.stored(image.frames - 1)
                continue
            stored = image.stored(index)
            mine = stored.values
            if mine.ndim == 3 and stored.photometric.startswith("YBR"):
                mine = to_rgb(mine, stored.photometric, stored.bits)
            peers = {
                "gdcm": theirs[index] if theirs is not None and index < len(theirs) else None,
                "dcmtk": pydicom_frame(converted, index) if converted else None,
                "pydicom": pydicom_frame(path, index),
            }
            for name, pixels in peers.items():
                if pixels is None:
                    continue
                equal = pixels.shape == mine.shape and np.array_equal(mine, pixels)
                assert equal != (name in WRONG.get(path.name, ())), f"{name}, frame {index}"
                compared += equal
        assert compared or path.name in WRONG, "nobody else reads it: nothing was compared"


@pytest.mark.parametrize(
    ("big", "little"),
    [
        ("rtdose_expb.dcm", "rtdose.dcm"),
        ("rtdose_expb_1frame.dcm", "rtdose_1frame.dcm"),
        ("OBXXXX1A_expb.dcm", "OBXXXX1A.dcm"),
        ("SC_rgb_expb.dcm", "SC_rgb.dcm"),
        ("liver_expb.dcm", "liver.dcm"),
        ("emri_small_big_endian.dcm", "emri_small.dcm"),
    ],
)
def test_big_endian_twins_have_the_same_pixels(big: str, little: str) -> None:
    one, two = (ImageObject(test_file(name).read_bytes()) for name in (big, little))

    for index in range(one.frames):
        assert np.array_equal(one.stored(index).values, two.stored(index).values)


def test_there_are_enough_files_of_every_kind() -> None:
    syntaxes = set()
    for path in objects():
        try:
            with path.open("rb") as file:
                syntaxes.add(ImageObject(file).syntax.removeprefix("1.2.840.10008.1.2"))
        except DecodeError:
            continue

    assert syntaxes >= {"", ".1", ".2", ".1.99", ".5", ".4.50", ".4.51", ".4.70", ".4.80", ".4.81", ".4.90", ".4.91"}
