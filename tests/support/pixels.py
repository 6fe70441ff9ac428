"""Small objects in every transfer syntax, ways to damage them, and a process to decode what is dangerous."""

from __future__ import annotations

import multiprocessing
import random
import resource
import time
import zlib
from multiprocessing.connection import Connection

import imagecodecs
import numpy as np
from pydicom.encaps import encapsulate, encapsulate_extended

from tests.support.imaging import test_file
from tests.support.objects import dataset, to_bytes

_KNOWN = "1.2.840.10008.1.2.4.80"
LIMIT_S = 30.0  # CPU; CharLS needs some 5 to give up a JPEG-LS frame whose bits run out within a code
GREY = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
DEEP = (GREY.astype(np.uint16) << 4) + 3


def compressed(syntax: str, frames: list[bytes], pixels: np.ndarray, *, extended: bool = False, **attributes) -> bytes:
    """An object whose frames are these codestreams; `pixels` says what the attributes should be."""
    ds = dataset(pixels, **attributes)
    if len(frames) > 1:
        ds.NumberOfFrames = len(frames)
    if extended:
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    # Written as a syntax that pydicom knows, and then renamed: it does not know all of them.
    ds.file_meta.TransferSyntaxUID = _KNOWN
    uid = f"1.2.840.10008.1.2{syntax}"
    return to_bytes(ds).replace(_element(_KNOWN), _element(uid), 1)


def _element(uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x02\x00\x10\x00UI" + len(value).to_bytes(2, "little") + value


def deflated(plain: bytes) -> bytes:
    pump = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return pump.compress(plain) + pump.flush()


def rle(pixels: np.ndarray) -> bytes:
    """One frame in RLE (PS3.5 annex G)."""
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    width = pixels.dtype.itemsize
    parts = []
    for plane in planes:
        split = np.ascontiguousarray(plane).view(np.uint8).reshape(-1, width)
        parts += [imagecodecs.packbits_encode(split[:, width - 1 - n].tobytes()) for n in range(width)]
    parts = [part + b"\0" * (len(part) % 2) for part in parts]
    offsets = np.cumsum([64, *map(len, parts)])[:-1]
    head = np.zeros(16, "<u4")
    head[0], head[1 : 1 + len(parts)] = len(parts), offsets
    return head.tobytes() + b"".join(parts)


def made() -> dict[str, tuple[bytes, np.ndarray]]:
    """Objects made here, with the stored values they must give; lossless kinds only."""
    jpeg, j2k = imagecodecs.jpeg8_encode, imagecodecs.jpeg2k_encode
    return {
        "JPEG lossless 8": (compressed(".4.70", [jpeg(GREY, lossless=True)], GREY), GREY),
        "JPEG lossless 16": (compressed(".4.57", [jpeg(DEEP, lossless=True, bitspersample=16)], DEEP), DEEP),
        "JPEG-LS": (compressed(".4.80", [imagecodecs.jpegls_encode(DEEP)], DEEP), DEEP),
        "JPEG-LS colour": (compressed(".4.80", [imagecodecs.jpegls_encode(COLOUR)], COLOUR), COLOUR),
        "JPEG 2000": (compressed(".4.90", [j2k(DEEP, codecformat="J2K", reversible=True)], DEEP), DEEP),
        "JPEG 2000 colour": (
            compressed(".4.90", [j2k(COLOUR, codecformat="J2K", reversible=True, mct=True)], COLOUR,
                       PhotometricInterpretation="YBR_RCT"),
            COLOUR,
        ),
        "HTJ2K": (compressed(".4.201", [imagecodecs.htj2k_encode(DEEP, reversible=True)], DEEP), DEEP),
        "HTJ2K colour": (
            compressed(".4.202", [imagecodecs.htj2k_encode(COLOUR, reversible=True)], COLOUR,
                       PhotometricInterpretation="YBR_RCT"),
            COLOUR,
        ),
        "JPEG XL": (compressed(".4.110", [imagecodecs.jpegxl_encode(DEEP, lossless=True)], DEEP), DEEP),
        "JPEG XL colour": (compressed(".4.110", [imagecodecs.jpegxl_encode(COLOUR, lossless=True)], COLOUR), COLOUR),
        "RLE": (compressed(".5", [rle(DEEP)], DEEP), DEEP),
        "RLE colour": (compressed(".5", [rle(COLOUR)], COLOUR), COLOUR),
        "encapsulated uncompressed": (compressed(".1.98", [COLOUR.tobytes()], COLOUR), COLOUR),
        "deflated frame": (compressed(".8.1", [deflated(DEEP.tobytes())], DEEP), DEEP),
        "native": (to_bytes(dataset(COLOUR)), COLOUR),
    }  # fmt: skip


def seeds() -> list[bytes]:
    """What the fuzzers damage: one small object of each kind."""
    lossy = [
        compressed(".4.50", [imagecodecs.jpeg8_encode(COLOUR, level=80)], COLOUR, PhotometricInterpretation="YBR_FULL_422"),
        compressed(".4.51", [imagecodecs.jpeg8_encode(DEEP, level=80, bitspersample=12)], DEEP, BitsStored=12, HighBit=11),
        compressed(".4.50", [imagecodecs.jpeg8_encode(GREY, level=80)] * 5, GREY, extended=True),
        compressed(".4.81", [imagecodecs.jpegls_encode(DEEP, level=2)], DEEP),
    ]  # fmt: skip
    files = ["MR_small_RLE.dcm", "MR_small_bigendian.dcm", "SC_rgb_small_odd.dcm", "liver_1frame.dcm", "CT_small.dcm"]
    palette = dataset(GREY, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{name}PaletteColorLookupTableData", np.arange(0, 65536, 256, dtype="<u2").tobytes())
    return (
        [data for data, _ in made().values()] + lossy + [test_file(f).read_bytes() for f in files] + [to_bytes(palette)]
    )


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Change a few bytes, lengths or the end, mostly near the header and the codestream's beginning."""
    broken = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 8, 40))):
        place = draw.choice((draw.randrange(len(broken)), min(len(broken) - 1, 132 + int(draw.expovariate(1 / 600)))))
        what = draw.randrange(6)
        if what == 0:
            broken[place] = draw.randrange(256)
        elif what == 1:
            broken[place] ^= 1 << draw.randrange(8)
        elif what == 2:
            broken[place : place + 4] = draw.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x01\0\0\0")
            )
        elif what == 3:
            del broken[place : place + draw.randrange(1, 9)]
        elif what == 4:
            broken[place:place] = draw.randbytes(draw.randrange(1, 9))
        else:
            broken[place : place + 2] = draw.choice((b"\xff\xff", b"\0\0", b"\xff\xd9", b"\xff\x4f"))
        if len(broken) < 2:
            break
    if draw.random() < 0.15:
        del broken[draw.randrange(len(broken) + 1) :]
    return bytes(broken)


class Victim:
    """Decodes in a child with bounded memory, so that a crash is seen and not suffered."""

    def __init__(self, memory: int = 3 << 30) -> None:
        self._memory = memory
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_victim, args=(theirs, self._memory), daemon=True)
        self._child.start()
        theirs.close()

    def decode(self, data: bytes, limit_s: float = 150.0) -> tuple[str, float]:
        """Return what came of it ("decoded", the reason of a `DecodeError`, or what went wrong), and CPU seconds."""
        self._pipe.send_bytes(data)
        if not self._pipe.poll(limit_s):
            self.close()
            self._start()
            return "HUNG", limit_s
        try:
            answer, seconds = self._pipe.recv()
        except EOFError:
            self._child.join(5)
            code = self._child.exitcode
            self._start()
            return f"CRASHED {code}", 0.0
        return answer, seconds

    def close(self) -> None:
        self._child.kill()
        self._child.join(5)
        self._pipe.close()


def _victim(pipe: Connection, memory: int) -> None:
    import logging
    import warnings

    from edgeward.compute.decode import DecodeError, ImageObject, frame_of

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    while True:
        data = pipe.recv_bytes()
        began = time.process_time()
        try:
            image = ImageObject(data)
            for index in {0, image.frames // 2, image.frames - 1}:
                frame_of(image, index)
            answer = "decoded"
        except DecodeError as error:
            answer = str(error)
        except BaseException as error:
            answer = f"RAISED {type(error).__name__}: {error}"
        pipe.send((answer, time.process_time() - began))
