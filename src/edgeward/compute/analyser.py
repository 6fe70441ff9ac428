"""The entry point of the pure part of `compute`: DICOM bytes in, finding and preview out.

Responsible for running the stages in order and timing them with the caller's clock. Not responsible for the stages
themselves, for processes, or for the bus (see ``engine.py``).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeward.compute import breast_ultrasound as model
from edgeward.compute.decode import Frame, decode_frame
from edgeward.compute.package import SHIPPED, Package, PackageError, load_package
from edgeward.messages import Finding, StageTime

PREVIEW_WIDTH = 1024
PREVIEW_QUALITY = 85
_OUTPUTS = ("mask", "classes", "domain", "features")

Clock = Callable[[], float]  # seconds, monotonic


@dataclass(frozen=True)
class AnalysisResult:
    """What came of one object.

    Attributes
    ----------
    preview : JPEG of the whole analysed frame, at most `PREVIEW_WIDTH` wide
    preview_scale : preview pixels per source pixel
    stages : time per stage in milliseconds, in order
    """

    frame: Frame
    assessment: model.Assessment
    model_name: str
    model_version: str
    preview: bytes
    preview_scale: float
    stages: list[StageTime]

    def finding(self, *, finding_id: str, item_id: str, created_ns: int) -> Finding:
        """Return the finding as a message."""
        outcome = self.assessment
        rows, columns = self.frame.pixels.shape[:2]
        return Finding(
            finding_id=finding_id,
            item_id=item_id,
            sop_instance_uid=self.frame.sop_instance_uid,
            status="not_analysed" if outcome.reason else "analysed",
            reason=f"outside the model's domain: {outcome.reason}" if outcome.reason else "",
            model=self.model_name,
            model_version=self.model_version,
            frame=self.frame.index,
            frames=self.frame.frames,
            rows=rows,
            columns=columns,
            spacing_mm=self.frame.spacing_mm,
            spacing_source=self.frame.spacing_source,
            lesions=outcome.lesions,
            label=outcome.label,
            probabilities=outcome.probabilities or {},
            malignancy=outcome.malignancy,
            suspicious=outcome.suspicious,
            stages=self.stages,
            created_ns=created_ns,
        )


class Analyser:
    """A verified model, ready to analyse; safe to call from several threads."""

    def __init__(self, package: Package) -> None:
        shape = package.runtime.inputs.get("image")
        if shape is None or len(shape) != 4 or not isinstance(shape[2], int) or not isinstance(shape[3], int):
            raise PackageError(f"package {package.name}: the model has no input 'image' of fixed size, but {shape}")
        missing = [name for name in _OUTPUTS if name not in package.runtime.outputs]
        if missing:
            raise PackageError(f"package {package.name}: the model lacks the outputs {missing}")
        self.package = package
        self.rows, self.columns = shape[2], shape[3]

    def analyse(self, data: bytes, clock: Clock) -> AnalysisResult:
        """Analyse one DICOM object.

        Parameters
        ----------
        data : the object's bytes
        clock : returns monotonic seconds

        Raises
        ------
        DecodeError
            If the bytes are no readable image object.
        RuntimeFailure
            If inference fails.
        """
        times = _Stages(clock)
        frame = decode_frame(data)
        times.end("decode")
        reason = model.refusal_by_attributes(frame)
        assessment = model.Assessment(reason, []) if reason else self._look(frame, times)
        preview, scale = render_preview(frame.pixels)
        times.end("preview")
        return AnalysisResult(frame, assessment, self.package.name, self.package.version, preview, scale, times.stages)

    def assess_frame(self, frame: Frame, clock: Clock) -> model.Assessment:
        """Analyse pixels that did not come as DICOM, such as files of a test set."""
        reason = model.refusal_by_attributes(frame)
        return model.Assessment(reason, []) if reason else self._look(frame, _Stages(clock))

    def predict(self, rgb: NDArray[np.uint8]) -> tuple[model.Prediction, model.Placement]:
        """Run the network on RGB pixels (rows, columns, 3), before any decision."""
        canvas, placement = model.letterbox(model.to_grey(rgb), self.rows, self.columns)
        outputs = self.package.runtime.run({"image": model.views(canvas)})
        return model.combine(outputs, self.package.domain), placement

    def _look(self, frame: Frame, times: _Stages) -> model.Assessment:
        rows, columns = frame.pixels.shape[:2]
        x0, y0, x1, y1 = frame.region or (0, 0, columns, rows)
        image = np.ascontiguousarray(frame.pixels[y0:y1, x0:x1])
        coloured = model.coloured_fraction(image)
        canvas, placement = model.letterbox(model.to_grey(image), self.rows, self.columns)
        batch = model.views(canvas)
        times.end("preprocess")
        outputs = self.package.runtime.run({"image": batch})
        times.end("infer")
        prediction = model.combine(outputs, self.package.domain)
        assessment = model.assess(
            self.package, prediction, placement, frame=frame, origin=(float(x0), float(y0)), coloured=coloured
        )
        times.end("postprocess")
        return assessment


class _Stages:
    """Collects the time since the last stage ended."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock()
        self.stages: list[StageTime] = []

    def end(self, name: str) -> None:
        now = self._clock()
        self.stages.append(StageTime(name=name, ms=(now - self._last) * 1000.0))
        self._last = now


def load_analyser(threads: int = 1, folder: Path | str = "") -> Analyser:
    """Load, verify and self-test a model package and return its analyser.

    Parameters
    ----------
    threads : threads inside one inference
    folder : a package's folder; empty for the one that ships

    Raises
    ------
    PackageError
        If the package must not serve.
    """
    return Analyser(load_package(Path(folder) if folder else SHIPPED, threads=threads))


def render_preview(pixels: NDArray[np.uint8]) -> tuple[bytes, float]:
    """JPEG of a frame (rows, columns, 3), reduced to at most `PREVIEW_WIDTH` columns, and its scale."""
    rows, columns = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    scale = min(1.0, PREVIEW_WIDTH / columns)
    if scale < 1.0:
        picture = picture.resize((PREVIEW_WIDTH, max(1, round(rows * scale))), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=PREVIEW_QUALITY)
    return out.getvalue(), scale
