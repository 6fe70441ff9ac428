"""The parameters that are monitored: their names here, units, codes and how long a value stays valid.

Responsible for the one table that every protocol, limit and page refers to. Not responsible for conversion of units
(``units``), for the codes that others use (``codes``), or for what a value means.

Codes: IEEE 11073-10101 (MDC), LOINC; units: UCUM.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameter:
    """One monitored parameter.

    Attributes
    ----------
    name
        Key in messages, limits and translations.
    unit
        UCUM.
    mdc
        IEEE 11073-10101 reference identifier that we send.
    mdc_code
        Its number.
    loinc
        LOINC code that we send.
    plausible
        A value outside is no value: the sensor or the message is wrong.
    stale_s
        A value older than this is not shown as live.
    decimals
        Digits shown after the point.
    """

    name: str
    unit: str
    mdc: str
    mdc_code: int
    loinc: str
    plausible: tuple[float, float]
    stale_s: float
    decimals: int = 0


_ALL = (
    Parameter("heart_rate", "/min", "MDC_ECG_HEART_RATE", 147842, "8867-4", (0, 350), 10),
    Parameter("pulse_rate", "/min", "MDC_PULS_OXIM_PULS_RATE", 149530, "8889-8", (0, 350), 15),
    Parameter("spo2", "%", "MDC_PULS_OXIM_SAT_O2", 150456, "59408-5", (1, 100), 30),
    Parameter("perfusion_index", "%", "MDC_BLD_PERF_INDEX", 150488, "61006-3", (0, 100), 30, 2),
    Parameter("respiratory_rate", "/min", "MDC_RESP_RATE", 151562, "9279-1", (0, 200), 30),
    Parameter("nibp_systolic", "mm[Hg]", "MDC_PRESS_CUFF_SYS", 150301, "8480-6", (20, 350), 7200),
    Parameter("nibp_diastolic", "mm[Hg]", "MDC_PRESS_CUFF_DIA", 150302, "8462-4", (10, 300), 7200),
    Parameter("nibp_mean", "mm[Hg]", "MDC_PRESS_CUFF_MEAN", 150303, "8478-0", (10, 320), 7200),
    Parameter("abp_systolic", "mm[Hg]", "MDC_PRESS_BLD_ART_ABP_SYS", 150037, "76215-3", (0, 350), 15),
    Parameter("abp_diastolic", "mm[Hg]", "MDC_PRESS_BLD_ART_ABP_DIA", 150038, "76213-8", (0, 300), 15),
    Parameter("abp_mean", "mm[Hg]", "MDC_PRESS_BLD_ART_ABP_MEAN", 150039, "76214-6", (0, 320), 15),
    Parameter("cvp_mean", "mm[Hg]", "MDC_PRESS_BLD_VEN_CENT_MEAN", 150087, "60985-9", (-40, 100), 15),
    Parameter("temperature", "Cel", "MDC_TEMP", 150344, "8310-5", (15, 45), 14400, 1),
    Parameter("glucose", "mg/dL", "MDC_CONC_GLU_GEN", 160020, "2339-0", (10, 1500), 14400),
    Parameter("etco2", "mm[Hg]", "MDC_CONC_AWAY_CO2_ET", 151708, "19891-1", (0, 150), 30),
    Parameter("supplemental_oxygen", "1", "", 0, "", (0, 1), 43200),  # 0 air, 1 oxygen
    Parameter("consciousness", "1", "", 0, "", (0, 4), 43200),  # ACVPU: 0 alert, 1 new confusion, 2 V, 3 P, 4 U
)

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _ALL}
