"""Results in a real PACS: Orthanc receives them and serves them back unchanged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from datetime import UTC

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage
from tests.support.deliver import Gateway, accepted, child, start, until
from tests.support.imaging import as_file, breast_image, finding_for, pixels_of, request_for
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import require

from edgeward.clinic.imaging.capture import build_capture
from edgeward.clinic.imaging.pacs import PacsSink
from edgeward.clinic.imaging.presentation import build_presentation
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.report_text import as_text, walk
from edgeward.clinic.imaging.segmentation import build_segmentation
from edgeward.clinic.imaging.sink import Result
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding

pytestmark = pytest.mark.peer


def results(image: Dataset, finding: Finding) -> list[Result]:
    source = read_source(image, finding)
    return [
        Result("sr", build_report(finding, source, UTC)),
        Result("seg", build_segmentation(finding, source, UTC)),
        Result("gsps", build_presentation(finding, source, UTC)),
        Result("capture", build_capture(finding, source, pixels_of(image), UTC)),
    ]


def contour_of(report: Dataset) -> np.ndarray:
    (region,) = [item for _, item in walk(report) if item.get("ValueType") == "SCOORD"]
    return np.asarray(region.GraphicData, dtype=float).reshape(-1, 2)


async def test_report_and_capture_come_back_as_they_were_sent(orthanc: Orthanc):
    image = breast_image(rows=480, columns=640, PatientName="Müller^Erika")
    finding = finding_for(image)
    report, segmentation, presentation, capture = results(image, finding)
    sink = PacsSink(orthanc.pacs(), "EDGEWARD")

    for result in (report, segmentation, presentation, capture):
        await sink.send(result)
    await sink.close()

    held = orthanc.by_uid()
    assert set(held) == {report.uid, segmentation.uid, presentation.uid, capture.uid}
    assert held[segmentation.uid].PixelData == segmentation.dataset.PixelData
    back = held[report.uid]
    assert back.SOPClassUID == ComprehensiveSRStorage
    assert as_text(back) == as_text(report.dataset)
    assert np.allclose(contour_of(back)[:-1], np.asarray(finding.lesions[0].contour) + 0.5, atol=1e-3)
    assert back.PatientName == "Müller^Erika"
    back = held[capture.uid]
    assert back.SOPClassUID == SecondaryCaptureImageStorage
    assert back.PixelData == capture.dataset.PixelData
    assert back.StudyInstanceUID == image.StudyInstanceUID


async def test_the_results_lie_in_the_study_of_the_image(orthanc: Orthanc):
    image = breast_image()
    orthanc.store(as_file(image))
    sink = PacsSink(orthanc.pacs(), "EDGEWARD")
    for result in results(image, finding_for(image)):
        await sink.send(result)
    await sink.close()

    objects = orthanc.objects()

    assert len(objects) == 5
    assert {o.StudyInstanceUID for o in objects} == {image.StudyInstanceUID}
    assert {o.PatientID for o in objects} == {image.PatientID}
    assert len({o.SeriesInstanceUID for o in objects}) == 5


async def test_sending_again_leaves_one_object(orthanc: Orthanc):
    image = breast_image()
    sink = PacsSink(orthanc.pacs(), "EDGEWARD")

    for _ in range(3):
        for result in results(image, finding_for(image)):
            await sink.send(result)
    await sink.close()

    assert len(orthanc.identifiers()) == 4


async def test_dsrdump_reads_the_report(orthanc: Orthanc, tmp_path):
    image = breast_image()
    report, *_ = results(image, finding_for(image))
    sink = PacsSink(orthanc.pacs(), "EDGEWARD")
    await sink.send(report)
    await sink.close()
    file = tmp_path / "report.dcm"
    orthanc.by_uid()[report.uid].save_as(file)

    dump = subprocess.run([require("dsrdump"), file], capture_output=True, text=True, check=False)

    assert dump.returncode == 0, dump.stderr
    assert dump.stderr == ""
    assert "Preliminary Flag    : PRELIMINARY" in dump.stdout
    assert '(,,"Image Region")=(POLYLINE' in dump.stdout
    assert '(,,"Long Axis")="13.33" (mm,UCUM' in dump.stdout


async def test_a_wrong_ae_title_is_refused_by_orthanc_and_told(orthanc: Orthanc):
    sink = PacsSink(orthanc.pacs(ae_title="WRONG"), "EDGEWARD")
    image = breast_image()

    with pytest.raises(Exception, match="refuses the association"):
        await sink.send(results(image, finding_for(image))[0])
    await sink.close()


async def test_orthanc_down_then_up_gets_everything(bus_site, tmp_path):
    gateway = await Gateway(bus_site).start()
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        deliver = await start(bus_site, orthanc.pacs())
        await gateway.hand_over(gateway.request("item-0"))
        await until(lambda: len(gateway.reports) == 1)
        orthanc.kill()
        for n in range(1, 6):
            await gateway.hand_over(gateway.request(f"item-{n}"))
        await until(lambda: bool(deliver.context.state().warnings))

        orthanc.start()
        await until(lambda: len(gateway.reports) == 6, 60)

        assert all(report.state == "delivered" for report in gateway.reports)
        assert set(orthanc.by_uid()) == {uid for report in gateway.reports for uid in report.sop_instance_uids}
        await until(lambda: not deliver.context.state().warnings)
        await deliver.stop()


@pytest.mark.fault
async def test_killed_again_and_again_deliver_brings_everything_exactly_once_in_effect(bus_site, orthanc: Orthanc):
    gateway = await Gateway(bus_site).start()
    requests = [gateway.request(f"item-{n}") for n in range(12)]
    deliver = await child(bus_site, orthanc.pacs())
    for n, request in enumerate(requests):
        await accepted(gateway, request)
        if n % 4 == 3:
            # Kill at another moment each time: while reading, writing, connecting, sending.
            await asyncio.sleep(0.02 * (n // 4))
            os.kill(deliver.pid, signal.SIGKILL)
            await deliver.wait()
            deliver = await child(bus_site, orthanc.pacs())

    await until(lambda: {r.item_id for r in gateway.reports} == {r.item_id for r in requests}, 90)
    deliver.send_signal(signal.SIGTERM)
    await deliver.wait()

    told = {r.item_id: set(r.sop_instance_uids) for r in gateway.reports}
    assert all(r.state == "delivered" for r in gateway.reports)
    assert set(orthanc.by_uid()) == set().union(*told.values())
    assert len(orthanc.identifiers()) == 4 * len(requests)


async def test_what_orthanc_stores_is_what_the_gateway_is_told(bus_site, orthanc: Orthanc):
    gateway = await Gateway(bus_site).start()
    image = breast_image(rows=768, columns=1024)
    finding = finding_for(image, "item-1")
    deliver = await start(bus_site, orthanc.pacs())

    await gateway.hand_over(request_for(bus_site.home.vault, gateway.key, as_file(image), finding))
    await until(lambda: bool(gateway.reports))
    await deliver.stop()

    expected = {result.uid for result in results(image, finding)}
    assert set(gateway.reports[0].sop_instance_uids) == expected == set(orthanc.by_uid())
