"""In the running gateway an order that comes by HL7 is on the worklist, on the bus, and ends the study it led to."""

from __future__ import annotations

import asyncio

from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage
from pynetdicom import AE
from tests.gateway.door import frame, tls_of
from tests.gateway.hl7_door import Client, orm
from tests.gateway.scu import query
from tests.gateway.test_fhir_orders import order as service_request
from tests.gateway.test_performed import begun, ended
from tests.gateway.test_role import gateway
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.gateway.performed import PERFORMED_STEP
from edgeward.gateway.reconciliation import MISSING, SEVERAL
from edgeward.gateway.worklist import MODALITY_WORKLIST
from edgeward.messages import Ask, Orders, OrdersQuery, QuarantineList, StudyState
from edgeward.scu import steady


def examine(site: TestSite, folder, others: tuple[str, ...] = (), lost: tuple[str, ...] = ()) -> str:
    """Work as a modality does, over one association; return the study's UID.

    Also images of `others` are sent, by patient id, and the `lost` ones are listed that are not sent.
    """
    ae = AE(ae_title="US1")
    for uid in (MODALITY_WORKLIST, PERFORMED_STEP):
        ae.add_requested_context(uid)
    ae.add_requested_context(UltrasoundImageStorage, ExplicitVRLittleEndian)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    where = ("127.0.0.1", site.settings.dicom.port)
    association = steady(ae.associate(*where, ae_title="EDGEWARD", tls_args=(tls_of(folder), "localhost")))
    assert association.is_established
    (status, answer), (end, _) = list(association.send_c_find(query(step_Modality="US"), MODALITY_WORKLIST))
    assert (status.Status, end.Status) == (0xFF00, 0x0000)
    attributes = begun()
    step = attributes.ScheduledStepAttributesSequence[0]
    step.StudyInstanceUID, step.AccessionNumber = answer.StudyInstanceUID, answer.AccessionNumber
    step.ScheduledProcedureStepID = answer.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID
    assert association.send_n_create(attributes, PERFORMED_STEP, "1.2.3")[0].Status == 0
    made = list(lost)
    for patient in (answer.PatientID, *others):
        image = frame()
        image.StudyInstanceUID, image.PatientID = answer.StudyInstanceUID, patient
        assert association.send_c_store(image).Status == 0
        made.append(image.SOPInstanceUID)
    assert association.send_n_set(ended(instances=made), PERFORMED_STEP, "1.2.3")[0].Status == 0
    association.release()
    return str(answer.StudyInstanceUID)


async def test_from_the_order_to_the_end_of_the_study(bus_site: TestSite) -> None:
    his, modality = bus_site.enrol("his", "emr"), bus_site.enrol("us1", "ultrasound", "US1")
    async with gateway(bus_site) as console:
        told: asyncio.Queue[StudyState] = asyncio.Queue()

        async def heard(_: str, state: StudyState) -> None:
            await told.put(state)

        await console.subscribe(subjects.STATE_STUDY, StudyState, heard)
        await console.flush()
        reader, writer = await asyncio.open_connection("127.0.0.1", bus_site.settings.mllp.port, ssl=tls_of(his))
        assert (await Client(reader, writer).ask(orm())).code == "AA"
        writer.close()
        listed = await console.request(subjects.GATEWAY_ORDERS, OrdersQuery(status="scheduled"), Orders, 5.0)
        assert [order.patient_name for order in listed.orders] == ["Muster^Erika"]

        study = await asyncio.to_thread(examine, bus_site, modality)

        async with asyncio.timeout(20):
            while not (state := await told.get()).complete:
                pass
        assert (state.study_instance_uid, state.why) == (study, "performed"), "long before the quiet time"
        listed = await console.request(subjects.GATEWAY_ORDERS, OrdersQuery(), Orders, 5.0)
        assert [order.status for order in listed.orders] == ["completed"]


async def test_a_study_of_two_patients_that_is_not_all_here_is_set_aside(bus_site: TestSite) -> None:
    his, modality = bus_site.enrol("his", "emr"), bus_site.enrol("us1", "ultrasound", "US1")
    bus_site.settings.imaging.study_quiet_s = 1.0
    async with gateway(bus_site) as console:
        told: asyncio.Queue[StudyState] = asyncio.Queue()

        async def heard(_: str, state: StudyState) -> None:
            await told.put(state)

        await console.subscribe(subjects.STATE_STUDY, StudyState, heard)
        await console.flush()
        reader, writer = await asyncio.open_connection("127.0.0.1", bus_site.settings.mllp.port, ssl=tls_of(his))
        assert (await Client(reader, writer).ask(orm())).code == "AA"
        writer.close()

        await asyncio.to_thread(examine, bus_site, modality, ("SOMEBODY",), ("1.2.99",))

        async with asyncio.timeout(20):
            while not (state := await told.get()).complete:
                pass
        assert (state.why, state.listed, state.missing) == ("quiet", 3, 1)
        kept = (await console.request(subjects.GATEWAY_QUARANTINE, Ask(), QuarantineList, 5.0)).entries
        assert {MISSING, SEVERAL} <= {entry.reason for entry in kept}
        assert all(entry.item_id for entry in kept if entry.reason in (MISSING, SEVERAL))


async def test_orders_by_fhir_share_the_door_with_dicomweb(bus_site: TestSite) -> None:
    import httpx

    his = bus_site.enrol("his", "emr")
    async with gateway(bus_site) as console:
        base = f"https://127.0.0.1:{bus_site.settings.web.port}"
        async with httpx.AsyncClient(base_url=base, verify=tls_of(his), trust_env=False, timeout=20) as client:
            assert (await client.post("/fhir/ServiceRequest", json=service_request())).status_code == 201
            assert (await client.get("/fhir/metadata")).json()["fhirVersion"] == "4.0.1"
        listed = await console.request(subjects.GATEWAY_ORDERS, OrdersQuery(text="muster"), Orders, 5.0)
        assert [order.order_id for order in listed.orders] == ["P1"]
