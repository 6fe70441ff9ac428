"""The entry point of the pure part of `compute`: DICOM bytes in, finding and preview out.

Responsible for running the stages in order and timing them with the caller's clock. Not responsible for the stages
themselves, for processes, or for the bus (see ``engine.py``).
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeward.compute import breast_ultrasound as model
from edgeward.compute import cine
from edgeward.compute.decode import Frame, ImageObject, frame_of
from edgeward.compute.package import SHIPPED, Package, PackageError, load_package
from edgeward.compute.rows import Batch, Rows
from edgeward.messages import Finding, FrameFinding, StageTime

PREVIEW_WIDTH = 1024
PREVIEW_QUALITY = 85
_OUTPUTS = ("mask", "classes", "domain", "features")

YIELDED = "yielded"  # the stage of a loop in which other objects had their turn

Clock = Callable[[], float]  # seconds, monotonic


@dataclass(frozen=True)
class AnalysisResult:
    """What came of one object.

    Attributes
    ----------
    preview : JPEG of the whole analysed frame, at most `PREVIEW_WIDTH` wide
    preview_scale : preview pixels per source pixel
    stages : time per stage in milliseconds, in order, without overlap; of a loop, summed over its frames
    looked : the sampled frames of a loop and what was found in each, in the loop's order; empty for a single frame
    in_scope : by its attributes, the object is of the kind that the model is for
    note : what a reader must know although the object was analysed
    """

    frame: Frame
    assessment: model.Assessment
    model_name: str
    model_version: str
    preview: bytes
    preview_scale: float
    stages: list[StageTime]
    looked: list[tuple[int, model.Assessment]] = field(default_factory=list)
    in_scope: bool = True
    note: str = ""

    def finding(self, *, finding_id: str, item_id: str, created_ns: int) -> Finding:
        """Return the finding as a message."""
        outcome = self.assessment
        rows, columns = self.frame.pixels.shape[:2]
        return Finding(
            finding_id=finding_id,
            item_id=item_id,
            sop_instance_uid=self.frame.sop_instance_uid,
            status="not_analysed" if outcome.reason else "analysed",
            reason=_reason(outcome) or self.note,
            model=self.model_name,
            model_version=self.model_version,
            frame=self.frame.index,
            frames=self.frame.frames,
            rows=rows,
            columns=columns,
            spacing_mm=self.frame.spacing_mm,
            spacing_source=self.frame.spacing_source,
            pixel_aspect=self.frame.aspect,
            lesions=outcome.lesions,
            label=outcome.label,
            probabilities=outcome.probabilities or {},
            malignancy=outcome.malignancy,
            suspicious=outcome.suspicious,
            stages=self.stages,
            created_ns=created_ns,
            in_scope=self.in_scope,
            frame_findings=[_frame_finding(index, outcome) for index, outcome in self.looked],
        )


def _reason(outcome: model.Assessment) -> str:
    return f"outside the model's domain: {outcome.reason}" if outcome.reason else ""


def _frame_finding(index: int, outcome: model.Assessment) -> FrameFinding:
    return FrameFinding(
        frame=index,
        status="not_analysed" if outcome.reason else "analysed",
        reason=_reason(outcome),
        lesions=outcome.lesions,
        label=outcome.label,
        probabilities=outcome.probabilities or {},
        malignancy=outcome.malignancy,
        suspicious=outcome.suspicious,
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """One view of a frame on its way through the network."""

    view: Frame
    placement: model.Placement
    origin: tuple[float, float]
    coloured: float
    batch: Batch


class Analyser:
    """A verified model, ready to analyse; safe to call from several threads.

    Parameters
    ----------
    package : the model
    helpers : threads of low priority that compute inferences beside the callers' (``rows.Rows``)
    """

    def __init__(self, package: Package, helpers: int = 0) -> None:
        shape = package.runtime.inputs.get("image")
        if shape is None or len(shape) != 4 or not isinstance(shape[2], int) or not isinstance(shape[3], int):
            raise PackageError(f"package {package.name}: the model has no input 'image' of fixed size, but {shape}")
        missing = [name for name in _OUTPUTS if name not in package.runtime.outputs]
        if missing:
            raise PackageError(f"package {package.name}: the model lacks the outputs {missing}")
        self.package = package
        self.rows, self.columns = shape[2], shape[3]
        self._rows = Rows(package.runtime, helpers)

    def close(self) -> None:
        """Let the helpers end."""
        self._rows.close()

    def analyse(
        self,
        source: bytes | BinaryIO,
        clock: Clock,
        *,
        cine_frames: int = 1,
        left_s: Callable[[], float] | None = None,
    ) -> AnalysisResult:
        """Analyse one DICOM object at a stretch; see `steps`."""
        steps = self.steps(source, clock, cine_frames=cine_frames, left_s=left_s)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: AnalysisResult = end.value
                return result

    def steps(
        self,
        source: bytes | BinaryIO,
        clock: Clock,
        *,
        cine_frames: int = 1,
        left_s: Callable[[], float] | None = None,
    ) -> Generator[float, None, AnalysisResult]:
        """Analyse one DICOM object, a loop in steps, between which the caller may do something else.

        Of a loop, `cine_frames` frames are analysed, the middle one first, and the best one (``cine.best``) stands for
        all. When the time that is left does not suffice for the next one, the rest is left out and the result says so.
        A single frame is done in one step.

        Parameters
        ----------
        source : the object's bytes, or a file with them
        clock : returns monotonic seconds
        cine_frames : frames of a loop to look at, at most
        left_s : returns the seconds that the analysis may still take; None for as long as it needs

        Yields
        ------
        float
            After the middle frame, and after each further step: the seconds that the rest will take, without helpers.

        Raises
        ------
        DecodeError
            If the source is no readable image object.
        VaultDamaged
            If the source is a vault object that was altered.
        RuntimeFailure
            If inference fails.
        """
        times = _Stages(clock)
        image = ImageObject(source)
        middle = image.frames // 2
        frame = frame_of(image, middle)
        times.end("decode")
        refusal = model.refusal_by_attributes(frame)
        if refusal:
            outcomes, wanted = {middle: model.Assessment(refusal, [])}, 1
        else:
            outcomes, wanted = yield from self._sampled(image, frame, times, cine_frames, left_s)
        order = sorted(outcomes)
        position = cine.best([outcomes[index] for index in order], order, middle)
        chosen = order[position]
        if chosen != middle:  # decoded again rather than kept: a hundred large frames are gigabytes
            frame = frame_of(image, chosen)
            times.end("decode")
        preview, scale = render_preview(frame)
        times.end("preview")
        note = f"{len(order)} of {wanted} sampled frames were analysed, for lack of time" if len(order) < wanted else ""
        return AnalysisResult(
            frame,
            outcomes[chosen],
            self.package.name,
            self.package.version,
            preview,
            scale,
            times.stages,
            looked=[(index, outcomes[index]) for index in order] if image.frames > 1 and not refusal else [],
            in_scope=not refusal,
            note=note,
        )

    def _sampled(
        self, image: ImageObject, frame: Frame, times: _Stages, wanted: int, left_s: Callable[[], float] | None
    ) -> Generator[float, None, tuple[dict[int, model.Assessment], int]]:
        """Look at the middle frame and at as many others as there is time for.

        With helpers, frames are prepared ahead of this thread's own inferences, so that they always find a row.
        """
        # Nothing else can be done meanwhile: a helper that is slow here would only be overtaken, and rest.
        outcomes = {frame.index: self._look(frame, times)}
        spent = slowest = times.worked_s
        if image.frames == 1 or wanted == 1:
            return outcomes, 1
        chosen = cine.sample(cine.frame_times(image.dataset, image.frames), wanted)
        left = deque(cine.spread(chosen, frame.index)[1:])
        under_way: deque[tuple[int, list[_Look]]] = deque()
        try:
            while left or under_way:
                yield slowest * (len(left) + len(under_way))
                times.end(YIELDED)
                if left and (not under_way or self._rows.hungry):
                    if left_s is not None and left_s() < slowest * (1 + len(under_way)):
                        left.clear()
                        continue
                    index = left.popleft()
                    other = frame_of(image, index)
                    times.end("decode")
                    under_way.append((index, self._prepared(other, times, offered=True)))
                    if self._rows.helpers:
                        continue
                batches = [look.batch for _, looks in under_way for look in looks]
                if self._rows.helpers and not all(look.batch.ready for look in under_way[0][1]):
                    self._rows.advance(batches)
                    times.end("infer")
                    continue
                index, looks = under_way.popleft()
                outcomes[index] = self._assessed(looks, times)
                spent, before = times.worked_s, spent
                slowest = max(slowest, spent - before)
        finally:
            self._rows.drop([look.batch for _, looks in under_way for look in looks])
        return outcomes, len(chosen)

    def assess_frame(self, frame: Frame, clock: Clock) -> model.Assessment:
        """Analyse pixels that did not come as DICOM, such as files of a test set."""
        reason = model.refusal_by_attributes(frame)
        return model.Assessment(reason, []) if reason else self._look(frame, _Stages(clock))

    def predict(self, rgb: NDArray[np.uint8]) -> tuple[model.Prediction, model.Placement]:
        """Run the network on RGB pixels (rows, columns, 3), before any decision."""
        colour = rgb if model.coloured_fraction(rgb) else None
        canvas, placement = model.letterbox(model.to_grey(rgb), self.rows, self.columns, colour)
        outputs = self._rows.run(self._rows.submit({"image": model.views(canvas)}, offered=False))
        return model.combine(outputs, self.package.domain), placement

    def _look(self, frame: Frame, times: _Stages) -> model.Assessment:
        """Analyse a frame now, in this thread alone."""
        return self._assessed(self._prepared(frame, times, offered=False), times)

    def _prepared(self, frame: Frame, times: _Stages, *, offered: bool) -> list[_Look]:
        """Bring each view of the frame (`breast_ultrasound.views_of`) on its way through the network.

        A single frame is not offered to helpers: it gains a little where the machine is idle, and loses as much where
        it is not.
        """
        looks = []
        for view in model.views_of(frame):
            rows, columns = view.pixels.shape[:2]
            x0, y0, x1, y1 = view.region or (0, 0, columns, rows)
            if view.grey is not None:
                grey, part, coloured = view.grey[y0:y1, x0:x1], None, 0.0
            else:
                part = np.ascontiguousarray(view.pixels[y0:y1, x0:x1])
                grey, coloured = model.to_grey(part), model.coloured_fraction(part)
            canvas, placement = model.letterbox(
                grey, self.rows, self.columns, part if coloured else None, aspect=view.aspect
            )
            batch = self._rows.submit({"image": model.views(canvas)}, offered=offered)
            looks.append(_Look(view, placement, (float(x0), float(y0)), coloured, batch))
            times.end("preprocess")
        return looks

    def _assessed(self, looks: list[_Look], times: _Stages) -> model.Assessment:
        """Judge a frame by what the network says of its views."""
        outcomes = []
        for look in looks:
            outputs = self._rows.run(look.batch)
            times.end("infer")
            prediction = model.combine(outputs, self.package.domain)
            outcomes.append(
                model.assess(
                    self.package,
                    prediction,
                    look.placement,
                    frame=look.view,
                    origin=look.origin,
                    coloured=look.coloured,
                )
            )
            times.end("postprocess")
        return model.joined(outcomes)


class _Stages:
    """Collects the time since the last stage ended, summed per stage, in the order of their first end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock()
        self._ms: dict[str, float] = {}

    @property
    def worked_s(self) -> float:
        """The time so far without that in which others had their turn, seconds."""
        return sum(ms for name, ms in self._ms.items() if name != YIELDED) / 1000.0

    def end(self, name: str) -> None:
        now = self._clock()
        self._ms[name] = self._ms.get(name, 0.0) + (now - self._last) * 1000.0
        self._last = now

    @property
    def stages(self) -> list[StageTime]:
        return [StageTime(name=name, ms=ms) for name, ms in self._ms.items()]


def load_analyser(threads: int = 1, folder: Path | str = "", *, helpers: int = 0) -> Analyser:
    """Load, verify and self-test a model package and return its analyser.

    Parameters
    ----------
    threads : threads inside one inference
    folder : a package's folder; empty for the one that ships
    helpers : as for `Analyser`

    Raises
    ------
    PackageError
        If the package must not serve.
    """
    return Analyser(load_package(Path(folder) if folder else SHIPPED, threads=threads), helpers)


def render_preview(frame: Frame) -> tuple[bytes, float]:
    """JPEG of a frame, reduced to at most `PREVIEW_WIDTH` columns, and its scale."""
    pixels = frame.pixels if frame.grey is None else frame.grey
    rows, columns = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    scale = min(1.0, PREVIEW_WIDTH / columns)
    if scale < 1.0:
        # Halving by averages first is quick; what remains is less than a halving.
        size = (PREVIEW_WIDTH, max(1, round(rows * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=PREVIEW_QUALITY)
    return out.getvalue(), scale
