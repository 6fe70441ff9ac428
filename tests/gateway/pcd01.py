"""Messages of monitors, written for these tests: PCD-01 and its relatives."""

from __future__ import annotations

MDC = {
    "spo2": ("150456^MDC_PULS_OXIM_SAT_O2^MDC", "262688^MDC_DIM_PERCENT^MDC", "1.3.1.150456"),
    "pulse": ("149530^MDC_PULS_OXIM_PULS_RATE^MDC", "264864^MDC_DIM_BEAT_PER_MIN^MDC", "1.3.1.149530"),
    "hr": ("147842^MDC_ECG_HEART_RATE^MDC", "264864^MDC_DIM_BEAT_PER_MIN^MDC", "1.7.4.147842"),
    "sys": ("150301^MDC_PRESS_CUFF_SYS^MDC", "266016^MDC_DIM_MMHG^MDC", "1.1.9.150301"),
    "dia": ("150302^MDC_PRESS_CUFF_DIA^MDC", "266016^MDC_DIM_MMHG^MDC", "1.1.9.150302"),
    "temp": ("150344^MDC_TEMP^MDC", "268192^MDC_DIM_DEGC^MDC", "1.2.1.150344"),
    "rr": ("151562^MDC_RESP_RATE^MDC", "264928^MDC_DIM_RESP_PER_MIN^MDC", "1.14.1.151562"),
    "glucose": ("160184^MDC_CONC_GLU_CAPILLARY_WHOLEBLOOD^MDC", "264274^MDC_DIM_MILLI_G_PER_DL^MDC", "1.0.0.1"),
}
AT = "20260301120000+0000"


def msh(
    control: str = "1", *, at: str = AT, version: str = "2.6", acks: str = "AL|NE", charset: str = "UNICODE UTF-8"
) -> str:
    return (
        f"MSH|^~\\&|BEDSIDE^0011223344556677^EUI-64|ICU|||{at}||ORU^R01^ORU_R01|{control}|P|{version}|||{acks}||{charset}"
        "|||IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO"
    )


def pid(number: str = "4711", name: str = "Muster^Erika^^^^^L") -> str:
    return f"PID|||{number}^^^HOSP^MR||{name}|||F"


def pv1(place: str = "ICU^1^2") -> str:
    return f"PV1||I|{place}"


def obr(at: str = AT) -> str:
    return f"OBR|1|1^BEDSIDE^0011223344556677^EUI-64|1^BEDSIDE^0011223344556677^EUI-64|182777000^monitoring of patient^SCT|||{at}"


def obx(
    what: str,
    value: object,
    *,
    kind: str = "NM",
    code: str | None = None,
    unit: str | None = None,
    sub: str | None = None,
    flags: str = "",
    status: str = "R",
    at: str = "",
    method: str = "",
    device: str = "",
) -> str:
    known_code, known_unit, known_sub = MDC.get(what, (what, "", "1.0.0.1"))
    fields = ["OBX", "1", kind, code or known_code, known_sub if sub is None else sub, str(value)]
    fields += [known_unit if unit is None else unit, "", flags, "", "", status, "", "", at, "", "", method, device]
    return "|".join(fields).rstrip("|")


def oru(*segments: str, **more: str) -> str:
    """One message: a header, a patient at a place unless `segments` bring their own, and these segments."""
    own = any(segment.startswith("PID") for segment in segments)
    return "\r".join([msh(**more), *(() if own else (pid(), pv1(), obr())), *segments]) + "\r"
