"""The codes that results are written with.

PS3.16 annex D (DCM), the SNOMED CT subset of DICOM (SCT), UCUM, and a few of our own where no standard code says what
must be said (99EDGEWARD; explained in docs/protocols/dicom-results.md). Written out: the dictionary of pydicom costs
18 MB and half a second.
"""

from __future__ import annotations

from typing import NamedTuple

from pydicom.dataset import Dataset


class Code(NamedTuple):
    """A coded concept (PS3.3 section 8): value of at most 16 characters, coding scheme, meaning of at most 64."""

    value: str
    scheme: str
    meaning: str

    def item(self) -> Dataset:
        """Return the code as an item of a code sequence."""
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = self
        return item


OWN_SCHEME = "99EDGEWARD"  # PS3.16 section 8.2: private designators begin with 99

# ---------------------------------------- what is measured and seen
BREAST = Code("76752008", "SCT", "Breast")
SIDES = {
    "R": Code("24028007", "SCT", "Right"),  # CID 244 "Laterality"
    "L": Code("7771000", "SCT", "Left"),
    "B": Code("51440002", "SCT", "Right and left"),
}
BREAST_ULTRASOUND = Code("47079000", "SCT", "Ultrasonography of breast")
IMAGING = Code("363679005", "SCT", "Imaging procedure")
LESION = Code("52988006", "SCT", "Lesion")
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Altered Structure")  # CID 7150
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
AREA = Code("42798000", "SCT", "Area")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PROBABILITY_OF_CANCER = Code("111047", "DCM", "Probability of cancer")
IMPRESSION = Code("121073", "DCM", "Impression")
LABELS = {
    "benign": Code("30807003", "SCT", "Benign"),
    "malignant": Code("21594007", "SCT", "Malignant"),
    "normal": Code("17621005", "SCT", "Normal"),
}
SUSPECTED = Code("suspected", OWN_SCHEME, "Malignancy suspected at the model's operating point")
YES = Code("373066001", "SCT", "Yes")
NO = Code("373067005", "SCT", "No")
SUMMARY_OF_ANALYSES = Code("111064", "DCM", "Summary of Analyses")
NOT_ATTEMPTED = Code("111225", "DCM", "Not Attempted")  # CID 6042 "Status of Results"
DECISION = Code("decision", OWN_SCHEME, "Clinician's decision on the AI result")
DECISIONS = {
    "confirm": Code("confirmed", OWN_SCHEME, "Confirmed"),
    "correct": Code("corrected", OWN_SCHEME, "Corrected"),
    "reject": Code("rejected", OWN_SCHEME, "Rejected"),
}
MM = Code("mm", "UCUM", "millimeter")
MM2 = Code("mm2", "UCUM", "square millimeter")
PIXELS = Code("{pixels}", "UCUM", "pixels")
PERCENT = Code("%", "UCUM", "percent")

# ---------------------------------------- the frame of a report, TID 1500, 1001, 1204, 1410, 1501, 4019
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH_US = Code("en-US", "RFC5646", "English (United States)")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
PERSON = Code("121006", "DCM", "Person")
PERSON_NAME = Code("121008", "DCM", "Person Observer Name")
DEVICE = Code("121007", "DCM", "Device")
DEVICE_UID = Code("121012", "DCM", "Device Observer UID")
DEVICE_NAME = Code("121013", "DCM", "Device Observer Name")
DEVICE_MANUFACTURER = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_MODEL = Code("121015", "DCM", "Device Observer Model Name")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING = Code("121071", "DCM", "Finding")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
LATERALITY = Code("272741003", "SCT", "Laterality")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
SOURCE = Code("260753009", "SCT", "Source")
SOURCE_OF_MEASUREMENT = Code("121112", "DCM", "Source of Measurement")
COMMENT = Code("121106", "DCM", "Comment")

# ---------------------------------------- segmentation
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162
SEGMENTATION = Code("113076", "DCM", "Segmentation")  # CID 7203
SOURCE_FOR_PROCESSING = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
