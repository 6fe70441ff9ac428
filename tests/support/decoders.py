"""Other decoders, for comparison: gdcm in a process of its own (it aborts on some files), dcmtk, pydicom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import convert_color_space, pixel_array

_GDCM = """
import sys, numpy, gdcm
for line in sys.stdin:
    source, target = line.rstrip("\\n").split("\\t")
    reader = gdcm.ImageReader()
    reader.SetFileName(source)
    if not reader.Read():
        print("unreadable", flush=True)
        continue
    image = reader.GetImage()
    form = image.GetPixelFormat()
    columns, rows = image.GetDimensions()[:2]
    buffer = image.GetBuffer()
    if isinstance(buffer, str):
        buffer = buffer.encode("utf-8", "surrogateescape")
    samples, bits = form.GetSamplesPerPixel(), form.GetBitsAllocated()
    if bits not in (8, 16, 32):
        print("unreadable", flush=True)
        continue
    pixels = numpy.frombuffer(buffer, ("i" if form.GetPixelRepresentation() else "u") + str(bits // 8))
    if samples == 3 and image.GetPlanarConfiguration():
        pixels = numpy.moveaxis(pixels.reshape(-1, 3, rows, columns), 1, 3)
    else:
        pixels = pixels.reshape(-1, rows, columns, samples)
    numpy.savez(target, pixels=pixels[..., 0] if samples == 1 else pixels,
                photometric=str(image.GetPhotometricInterpretation()))
    print("read", flush=True)
"""


class Gdcm:
    """gdcm in a child process, which is started anew when a file kills it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._child = folder, self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _GDCM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def frames(self, path: Path) -> NDArray | None:
        """All frames, colour as RGB; None if gdcm does not read the file."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        target = self._folder / "gdcm.npz"
        self._child.stdin.write(f"{path.resolve()}\t{target}\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline().strip()
        if not answer:
            self.close()
            self._child = self._start()
        if answer != "read":
            return None
        with np.load(target) as archive:
            pixels, photometric = archive["pixels"], str(archive["photometric"])
        if photometric.startswith("YBR_FULL"):
            return np.stack([convert_color_space(frame, "YBR_FULL", "RGB") for frame in pixels])
        return pixels

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


_DCMTK = {
    "1.2.840.10008.1.2.5": ("dcmdrle",),
    "1.2.840.10008.1.2.4.80": ("dcmdjpls",),
    "1.2.840.10008.1.2.4.81": ("dcmdjpls",),
    "1.2.840.10008.1.2.2": ("dcmconv", "+te"),
    "1.2.840.10008.1.2.1.99": ("dcmconv", "+te"),
    **{f"1.2.840.10008.1.2.4.{n}": ("dcmdjpeg",) for n in (50, 51, 53, 55, 57, 70)},
}


def dcmtk(path: Path, syntax: str, target: Path) -> Path | None:
    """Decompress with dcmtk; None if it has no tool for the syntax or fails."""
    tool = _DCMTK.get(syntax)
    if tool is None:
        return None
    target.unlink(missing_ok=True)
    subprocess.run([*tool, str(path), str(target)], capture_output=True, check=False)
    return target if target.exists() else None


def pydicom_frame(path: Path, index: int) -> NDArray | None:
    """One frame by pydicom's own choice of decoder, colour as RGB; None if it has none that works."""
    try:
        return np.asarray(pixel_array(pydicom.dcmread(path, force=True), index=index))
    except Exception:
        return None
