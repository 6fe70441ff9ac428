"""What others call our parameters: IEEE 11073-10101 (MDC) numbers and reference identifiers, and LOINC codes.

Responsible for finding the parameter that a code stands for, and for which of several codes of one parameter is to be
preferred. Not responsible for values or units.

Sources: IEEE 11073-10101 as published in the value sets of FHIR implementation guides and in monitors' interface
guides; LOINC. Numbers are context-free: partition x 65,536 + term (partition 2, SCADA).

Left out on purpose, because the number would be taken for another one: skin, airway and room temperature, differences
of temperatures, control solution (glucose), invasive pressures that do not say where they are measured
(``MDC_PRESS_BLD_SYS``), rates that a ventilator is set to, and saturations of drawn blood.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeward import units
from edgeward.parameters import PARAMETERS, Parameter


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code stands for.

    Attributes
    ----------
    parameter
        Of `edgeward.parameters`.
    rank
        Where one message measures a parameter in several ways, the lowest rank is taken.
    """

    parameter: Parameter
    rank: int = 0


# Reference identifier, number, parameter, rank.
_MDC = (
    ("MDC_ECG_HEART_RATE", 147842, "heart_rate", 0),
    ("MDC_ECG_CARD_BEAT_RATE", 147842, "heart_rate", 0),
    ("MDC_TTHOR_HEART_RATE", 149554, "heart_rate", 2),
    ("MDC_PULS_OXIM_PULS_RATE", 149530, "pulse_rate", 0),
    ("MDC_PLETH_PULS_RATE", 149538, "pulse_rate", 0),
    ("MDC_PULS_RATE", 149514, "pulse_rate", 1),
    ("MDC_BLD_PULS_RATE_INV", 149522, "pulse_rate", 1),
    ("MDC_PULS_RATE_NON_INV", 149546, "pulse_rate", 3),  # of the cuff: at its last measurement
    ("MDC_PULS_OXIM_SAT_O2", 150456, "spo2", 0),
    ("MDC_BLD_PERF_INDEX", 150488, "perfusion_index", 0),
    ("MDC_PULS_OXIM_PERF_REL", 150448, "perfusion_index", 1),
    ("MDC_RESP_RATE", 151562, "respiratory_rate", 0),
    ("MDC_CO2_RESP_RATE", 151594, "respiratory_rate", 1),
    ("MDC_AWAY_RESP_RATE", 151570, "respiratory_rate", 1),
    ("MDC_TTHOR_RESP_RATE", 151578, "respiratory_rate", 2),
    ("MDC_ACOUSTIC_RESP_RATE", 151650, "respiratory_rate", 2),
    ("MDC_PULS_OXIM_PLETH_RESP_RATE", 151658, "respiratory_rate", 3),
    ("MDC_PRESS_CUFF_SYS", 150301, "nibp_systolic", 0),
    ("MDC_PRESS_CUFF_DIA", 150302, "nibp_diastolic", 0),
    ("MDC_PRESS_CUFF_MEAN", 150303, "nibp_mean", 0),
    ("MDC_PRESS_BLD_NONINV_SYS", 150021, "nibp_systolic", 0),
    ("MDC_PRESS_BLD_NONINV_DIA", 150022, "nibp_diastolic", 0),
    ("MDC_PRESS_BLD_NONINV_MEAN", 150023, "nibp_mean", 0),
    ("MDC_PRESS_BLD_ART_ABP_SYS", 150037, "abp_systolic", 0),
    ("MDC_PRESS_BLD_ART_ABP_DIA", 150038, "abp_diastolic", 0),
    ("MDC_PRESS_BLD_ART_ABP_MEAN", 150039, "abp_mean", 0),
    ("MDC_PRESS_BLD_ART_SYS", 150033, "abp_systolic", 1),
    ("MDC_PRESS_BLD_ART_DIA", 150034, "abp_diastolic", 1),
    ("MDC_PRESS_BLD_ART_MEAN", 150035, "abp_mean", 1),
    ("MDC_PRESS_BLD_VEN_CENT_MEAN", 150087, "cvp_mean", 0),
    ("MDC_PRESS_BLD_VEN_CENT", 150084, "cvp_mean", 1),
    ("MDC_TEMP_CORE", 150368, "temperature", 0),
    ("MDC_TEMP_ESOPH", 150372, "temperature", 0),
    ("MDC_TEMP_NASOPH", 150380, "temperature", 0),
    ("MDC_TEMP_FOLEY", 150348, "temperature", 0),
    ("MDC_TEMP_ART", 150352, "temperature", 0),
    ("MDC_TEMP_RECT", 188420, "temperature", 0),
    ("MDC_TEMP_GIT", 188456, "temperature", 0),
    ("MDC_TEMP_BODY", 150364, "temperature", 1),
    ("MDC_TEMP_TYMP", 150392, "temperature", 1),
    ("MDC_TEMP_ORAL", 188424, "temperature", 1),
    ("MDC_TEMP_EAR", 188428, "temperature", 1),
    ("MDC_TEMP_AXILLA", 188452, "temperature", 2),
    ("MDC_TEMP_AXIL", 188496, "temperature", 2),
    ("MDC_TEMP", 150344, "temperature", 3),
    ("MDC_CONC_GLU_GEN", 160020, "glucose", 1),
    ("MDC_CONC_GLU_CAPILLARY_WHOLEBLOOD", 160184, "glucose", 0),
    ("MDC_CONC_GLU_CAPILLARY_PLASMA", 160188, "glucose", 0),
    ("MDC_CONC_GLU_VENOUS_WHOLEBLOOD", 160192, "glucose", 0),
    ("MDC_CONC_GLU_VENOUS_PLASMA", 160196, "glucose", 0),
    ("MDC_CONC_GLU_ARTERIAL_WHOLEBLOOD", 160200, "glucose", 0),
    ("MDC_CONC_GLU_ARTERIAL_PLASMA", 160204, "glucose", 0),
    ("MDC_CONC_GLU_ISF", 160212, "glucose", 2),
    ("MDC_CONC_AWAY_CO2_ET", 151708, "etco2", 0),
    ("MDC_AWAY_CO2_ET", 151728, "etco2", 0),
    ("MDC_CONC_AWAY_CO2_EXP", 151712, "etco2", 1),
)

_LOINC = {
    "heart_rate": (("8867-4", 0), ("76282-3", 0)),
    "pulse_rate": (("8889-8", 0), ("8893-0", 2)),
    "spo2": (("59408-5", 0), ("2708-6", 1)),
    "perfusion_index": (("61006-3", 0),),
    "respiratory_rate": (("9279-1", 0), ("76270-8", 2)),
    "nibp_systolic": (("8480-6", 0), ("76534-7", 0)),
    "nibp_diastolic": (("8462-4", 0), ("76535-4", 0)),
    "nibp_mean": (("8478-0", 0), ("76536-2", 0)),
    "abp_systolic": (("76215-3", 0),),
    "abp_diastolic": (("76213-8", 0),),
    "abp_mean": (("76214-6", 0),),
    "cvp_mean": (("60985-9", 0), ("8591-0", 0)),
    "temperature": (
        ("8310-5", 1),
        ("8329-5", 0),  # core
        ("8332-9", 0),  # rectal
        ("8334-5", 0),  # bladder
        ("8331-1", 1),  # oral
        ("8333-7", 1),  # tympanic
        ("8328-7", 2),  # axillary
    ),
    "glucose": (
        ("2339-0", 0),
        ("41653-7", 0),
        ("2345-7", 0),
        ("32016-8", 0),
        ("15074-8", 0),  # the same, by substance (mmol/L)
        ("14743-9", 0),
        ("14749-6", 0),
    ),
    "etco2": (("19891-1", 0),),
    "consciousness": (("67775-7", 0), ("80288-4", 0)),
}

#: Codes that profiles ask for beside the true one (FHIR R4 vital signs, "magic values"), and what may be truly meant.
_GENERAL = {
    "8867-4": ("heart_rate", "pulse_rate"),
    "8480-6": ("nibp_systolic", "abp_systolic"),
    "8462-4": ("nibp_diastolic", "abp_diastolic"),
    "8478-0": ("nibp_mean", "abp_mean"),
    "8310-5": ("temperature",),
    "2708-6": ("spo2",),
}

#: Levels of consciousness in SNOMED CT (UK Core, value set ACVPU), in words that ``measurement`` knows.
LEVELS = {
    "248234008": "alert",
    "130987000": "confusion",
    "300202002": "voice",
    "450847001": "pain",
    "422768004": "unresponsive",
}

BY_REFERENCE: dict[str, Meaning] = {row[0]: Meaning(PARAMETERS[row[2]], row[3]) for row in _MDC}
BY_NUMBER: dict[str, Meaning] = {str(row[1]): Meaning(PARAMETERS[row[2]], row[3]) for row in reversed(_MDC)}
BY_LOINC: dict[str, Meaning] = {
    code: Meaning(PARAMETERS[name], rank) for name, rows in _LOINC.items() for code, rank in rows
}
BY_NAME: dict[str, Meaning] = {name: Meaning(parameter) for name, parameter in PARAMETERS.items()}


def mdc(number: str, reference: str = "") -> Meaning | None:
    """Return what an MDC code stands for; the reference identifier counts where both are given.

    None if neither is known, and if they are two parameters: which one is meant cannot be told. The number may be
    written in hexadecimal (Philips' MDIL), or be the reference identifier.
    """
    by_reference = BY_REFERENCE.get(reference.upper())
    by_number = BY_NUMBER.get(units.decimal(number)) or BY_REFERENCE.get(number.upper())
    if by_reference and by_number and by_reference.parameter is not by_number.parameter:
        return None
    return by_reference or by_number


def one_of(found: Iterable[tuple[Meaning, str]]) -> tuple[Meaning, str] | None:
    """Return what several codes of one measurement stand for together, with the code that says it best.

    A code that a profile asks for in any case gives way to the one that says more: 8867-4 beside
    ``MDC_PULS_OXIM_PULS_RATE`` is a pulse. None if there is no code, and if they stand for two parameters.
    """
    known = list(found)
    chosen = next((one for one in known if one[1] not in _GENERAL), known[0] if known else None)
    if chosen is None:
        return None
    name = chosen[0].parameter.name
    agree = all(name in _GENERAL.get(code, (meaning.parameter.name,)) for meaning, code in known)
    return chosen if agree else None


def find(name: str) -> Meaning | None:
    """Return what a single word stands for: a parameter's name, an MDC reference identifier or number, a LOINC code."""
    return BY_NAME.get(name) or BY_REFERENCE.get(name.upper()) or BY_LOINC.get(name) or BY_NUMBER.get(name)
