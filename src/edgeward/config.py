"""One settings tree: ``edgeward.toml``, then environment variables, validated at start.

Responsible for what may be set, its default, and a clear error when a value is wrong. Not responsible for acting on it.

An environment variable overrides the file: ``EDGEWARD_<SECTION>__<KEY>``, for example ``EDGEWARD_DICOM__PORT=11112``.
The state directory (``--home``) is not a setting: it holds the settings.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

FILE = "edgeward.toml"

Port = Annotated[int, Field(ge=0, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
AeTitle = Annotated[str, Field(pattern=r"^[A-Za-z0-9_. -]{1,16}$")]


class ConfigError(ValueError):
    """The settings are wrong. The text has one line per wrong value: which, why, and what is allowed."""


class Section(BaseModel):
    """A table of the settings: unknown keys are errors, because a misspelt key is a wish that is ignored."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Site(Section):
    """Who we are."""

    name: Name = "hospital"
    node: Name = "node1"


class Bus(Section):
    """The NATS server: our own child process, or with `url` an existing cluster."""

    url: str = Field("", description="nats:// or tls:// address of an existing cluster; empty: run our own server")
    credentials: str = Field("", description="folder with <role>.nk seeds for an existing cluster")
    host: str = "127.0.0.1"
    port: Port = Field(4222, description="0 chooses a free port")
    mqtt_host: str = "127.0.0.1"
    mqtt_port: Port = 8883
    server: str = Field("", description="path of another nats-server binary")
    max_connections: int = Field(20_000, ge=10, le=1_000_000)
    store_mb: int = Field(2048, ge=64, description="JetStream's limit on disk, MB")


class LegacyDevice(Section):
    """An explicit exception for one device that cannot do TLS 1.3 with a client certificate."""

    name: Name
    ae_title: AeTitle
    address: str = Field(description="the only address it may come from")
    transport: Literal["plain", "tls1.2"]


class Modality(Section):
    """Where a device listens for storage commitment results; only needed if it does not wait on its own association."""

    ae_title: AeTitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False


class Dicom(Section):
    """The DICOM listener."""

    host: str = "127.0.0.1"
    port: Port = Field(2762, description="DICOM over TLS")
    legacy_port: Port = Field(11112, description="opened only when a legacy device is listed")
    ae_title: AeTitle = "EDGEWARD"
    max_associations: int = Field(64, ge=1, le=1000)
    max_associations_per_device: int = Field(0, ge=0, le=1000, description="0: half of max_associations")
    max_object_mb: int = Field(4096, ge=1, le=16_384)
    idle_timeout_s: float = Field(60.0, gt=0, le=3600, description="an association that says nothing is aborted")
    pdu_timeout_s: float = Field(30.0, gt=0, le=600, description="a PDU that was begun must be complete within this")
    legacy: list[LegacyDevice] = []
    modality: list[Modality] = []


class Pacs(Section):
    """One destination that takes DICOM results."""

    name: Name
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    ae_title: AeTitle
    tls: bool = False
    takes: list[Literal["sr", "seg", "gsps", "capture"]] = ["sr", "seg", "gsps", "capture"]


class Fhir(Section):
    """One FHIR R4 server that takes results."""

    name: Name
    url: str = Field(pattern=r"^https?://", description="base address, such as https://emr.example/fhir")
    token_file: str = Field("", description="file with a bearer token, sent with every request")
    ca: str = Field("", description="file with the authority that signed the server's certificate; empty: the system's")
    client_certificate: bool = Field(False, description="show our certificate of the site's authority")
    ids: Literal["ours", "server"] = Field("ours", description="who chooses resource ids; see docs/protocols")
    patient_system: str = Field("", description="system (URI) of the identifiers that images carry as patient ID")
    timeout_s: float = Field(10.0, gt=0, le=120)
    alarms: bool = Field(False, description="send alarms too, as Observations")


class Hl7(Section):
    """One HL7 v2 receiver that takes results (ORU^R01 over MLLP)."""

    name: Name
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False
    application: str = Field("EMR", max_length=180, description="MSH-5, receiving application")
    facility: str = Field("HOSPITAL", max_length=180, description="MSH-6, receiving facility")
    timeout_s: float = Field(10.0, gt=0, le=120, description="for the acknowledgement")


class LegacyMllp(Section):
    """An explicit exception for one system that sends HL7 v2 without TLS."""

    name: Name
    address: str = Field(description="the only address it may come from")


class Mllp(Section):
    """The HL7 v2 listener (MLLP): orders in."""

    host: str = "127.0.0.1"
    port: Port = Field(2575, description="MLLP over TLS 1.3 with client certificates")
    legacy_port: Port = Field(2576, description="plain MLLP, opened only when a legacy system is listed")
    max_message_kb: int = Field(1024, ge=1, le=65_536)
    max_connections: int = Field(64, ge=1, le=10_000)
    idle_timeout_s: float = Field(300.0, gt=0, le=86_400)
    legacy: list[LegacyMllp] = []


class Web(Section):
    """The HTTPS door for systems: DICOMweb and FHIR. Client certificates of the site's authority are required."""

    host: str = "127.0.0.1"
    port: Port = 8443
    max_body_mb: int = Field(4096, ge=1, le=16_384)


class Imaging(Section):
    """Images and studies."""

    cine_frames: int = Field(8, ge=1, le=256, description="frames of a cine loop that are analysed")
    study_quiet_s: float = Field(60.0, gt=0, le=86_400, description="a study is complete when nothing came for so long")
    orders_keep_days: int = Field(30, ge=1, le=3650)


class Console(Section):
    """The web pages."""

    host: str = "127.0.0.1"
    port: Port = 8042
    session_hours: float = Field(12.0, gt=0, le=72)


class Budgets(Section):
    """Milliseconds each class of service has (``messages.ServiceClass``); what takes longer is told as late."""

    control_ms: float = Field(10.0, gt=0)
    alarm_ms: float = Field(500.0, gt=0)
    interactive_ms: float = Field(1000.0, gt=0)


class Engine(Section):
    """Inference."""

    threads: int = Field(1, ge=1, le=64, description="threads of one inference")
    concurrency: int = Field(1, ge=1, le=64, description="objects analysed at once")
    helpers: int = Field(1, ge=0, le=64, description="threads of low priority that share a loop's inferences")
    queue: int = Field(16, ge=1, le=1000, description="frames that may wait before the engine says busy")
    model: str = Field("", description="folder of another model package; empty: the one that ships")


class Monitor(Section):
    """Site-wide alarm limits. Sources: docs/findings.md 'Clinical numbers', IEC 60601-2-27."""

    asystole_s: float = Field(4.0, ge=3.0, le=10.0)
    extreme_tachycardia: float = Field(160.0, ge=100, le=300, description="1/min")
    extreme_bradycardia: float = Field(35.0, ge=15, le=60, description="1/min")
    ventricular_tachycardia_rate: float = Field(100.0, ge=80, le=200, description="1/min")
    ventricular_tachycardia_beats: int = Field(5, ge=3, le=15)
    silence_s: float = Field(4.0, ge=1.5, le=10.0, description="no packet for this long is an alarm")
    profile: Name = Field("adult", description="limits of beds of no ward: adult, child, neonate or a [[profile]]")
    ward: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$", description="of beds that nobody put into a ward")
    audio_pause_s: float = Field(120.0, ge=10, le=600, description="the longest a sound may be paused at once")
    reminder_s: float = Field(
        0.0, ge=0, le=3600, description="an acknowledged alarm that lasts so long calls once more; 0: never"
    )
    flood_beds: int = Field(8, ge=2, le=10_000, description="so many beds falling silent together are one alarm")
    flood_s: float = Field(5.0, ge=1, le=60, description="within this time")
    reorder_ms: float = Field(150.0, ge=0, le=1000, description="a packet waits so long for its predecessor; 0: not")
    suppress: bool = Field(True, description="check lethal rhythm alarms against the pulse and the signal's quality")
    standby: bool = Field(True, description="a second process waits, loaded, for the first to fail (about 250 MB)")


class LimitSetting(Section):
    """Limits of one parameter (its unit: docs/protocols/vitals.md). What is not given is the base profile's."""

    low: float | None = None
    high: float | None = None
    extreme_low: float | None = None
    extreme_high: float | None = None
    off: list[Literal["low", "high", "extreme_low", "extreme_high"]] = []
    priority: Literal["high", "medium", "low"] | None = None
    delay_s: float | None = Field(None, ge=0, le=120)
    averaging_s: float | None = Field(None, ge=0, le=60)


class Profile(Section):
    """Alarm limits of a kind of patient, from which a ward's beds start."""

    name: Name
    base: Literal["adult", "child", "neonate"] = "adult"
    limits: dict[str, LimitSetting] = {}
    rhythm: dict[str, float] = Field({}, description="asystole_s, extreme_tachycardia and so on, as in [monitor]")


class EscalationStep(Section):
    """Who is told when an alarm was not acknowledged for so long."""

    after_s: float = Field(ge=0, le=3600)
    contacts: Annotated[list[Name], Field(min_length=1)]
    priorities: list[Literal["high", "medium", "low"]] = ["high"]


class Ward(Section):
    """A ward: its limits and who is told."""

    name: Name
    label: str = Field("", max_length=64)
    profile: Name = "adult"
    escalation: list[EscalationStep] = []


class Contact(Section):
    """Somebody, or something, that is told of an alarm."""

    name: Name
    webhook: str = Field("", pattern=r"^(https?://.*)?$", description="address that takes a POST of JSON")
    token_file: str = Field("", description="file with a bearer token for the webhook")
    secret_file: str = Field("", description="file with the key of the HMAC-SHA-256 signature of the body")
    email: str = Field("", max_length=254)
    ca: str = Field("", description="file with the authority that signed the webhook's certificate")
    identity: bool = Field(False, description="may the name of the bed leave the site to this contact")


class Smtp(Section):
    """The mail server for contacts with an e-mail address."""

    host: str = ""
    port: Port = 587
    security: Literal["starttls", "tls", "plain"] = "starttls"
    sender: str = "edgeward@localhost"
    user: str = ""
    password_file: str = ""
    ca: str = ""
    timeout_s: float = Field(10.0, gt=0, le=120)


class Pcd04(Section):
    """One receiver of alarms by HL7 v2 (IHE PCD-04, ORU^R40 over MLLP)."""

    name: Name
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False
    application: str = Field("AM", max_length=180, description="MSH-5, receiving application")
    facility: str = Field("HOSPITAL", max_length=180, description="MSH-6, receiving facility")
    timeout_s: float = Field(10.0, gt=0, le=120, description="for the acknowledgement")
    priorities: list[Literal["high", "medium", "low"]] = ["high", "medium", "low"]


class Recorder(Section):
    """Waveforms and trends at rest."""

    hours: int = Field(24, ge=1, le=168, description="waveforms are kept for so long, then their keys are destroyed")
    max_gb: float = Field(200.0, gt=0, description="when full the oldest hour goes first, and says so")


class Vault(Section):
    """Raw objects at rest."""

    min_free_mb: int = Field(
        256,
        ge=0,
        description="below this much free disk new objects are refused; with less, a start on a full disk may fail",
    )


class Log(Section):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    keep_mb: int = Field(64, ge=1)


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix="EDGEWARD_", env_nested_delimiter="__", extra="forbid", validate_default=True
    )

    site: Site = Site()
    bus: Bus = Bus()
    dicom: Dicom = Dicom()
    pacs: list[Pacs] = []
    fhir: list[Fhir] = []
    hl7: list[Hl7] = []
    mllp: Mllp = Mllp()
    web: Web = Web()
    imaging: Imaging = Imaging()
    console: Console = Console()
    budgets: Budgets = Budgets()
    engine: Engine = Engine()
    monitor: Monitor = Monitor()
    profile: list[Profile] = []
    ward: list[Ward] = []
    contact: list[Contact] = []
    smtp: Smtp = Smtp()
    pcd04: list[Pcd04] = []
    recorder: Recorder = Recorder()
    vault: Vault = Vault()
    log: Log = Log()

    @model_validator(mode="after")
    def _names_differ(self) -> Settings:
        names = self.destinations
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")
        for kind in ("profile", "ward", "contact", "pcd04"):
            given = [entry.name for entry in getattr(self, kind)]
            if len(set(given)) != len(given):
                raise ValueError(f"two entries of [[{kind}]] have the same name")
        profiles = {"adult", "child", "neonate"} | {profile.name for profile in self.profile}
        wanted = {self.monitor.profile} | {ward.profile for ward in self.ward}
        if unknown := sorted(wanted - profiles):
            raise ValueError(f"there is no profile {unknown[0]}")
        if self.monitor.ward and self.monitor.ward not in {ward.name for ward in self.ward}:
            raise ValueError(f"monitor.ward: there is no ward {self.monitor.ward}")
        contacts = {contact.name for contact in self.contact}
        called = {name for ward in self.ward for step in ward.escalation for name in step.contacts}
        if unknown := sorted(called - contacts):
            raise ValueError(f"there is no contact {unknown[0]}")
        return self

    @property
    def destinations(self) -> list[str]:
        """Names of all destinations of results."""
        return [pacs.name for pacs in self.pacs] + [fhir.name for fhir in self.fhir] + [hl7.name for hl7 in self.hl7]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the base class's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file."""
        return env_settings, init_settings


def default_home() -> Path:
    """Return the state directory when none is given: ``$EDGEWARD_HOME`` or per XDG."""
    if home := os.environ.get("EDGEWARD_HOME"):
        return Path(home)
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "edgeward"


def _explain(error: ValidationError, origin: str) -> str:
    lines = [f"the settings in {origin} are wrong:"]
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "(root)"
        if item["type"] == "extra_forbidden":
            lines.append(f"  {where}: there is no such setting; see `edgeward init --show` for all of them")
            continue
        given = item.get("input")
        lines.append(f"  {where} = {given!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "\n".join(lines)


def load(home: Path) -> Settings:
    """Read and validate the settings of the site in `home`.

    Parameters
    ----------
    home
        State directory; ``edgeward.toml`` in it is read if it exists.

    Raises
    ------
    ConfigError
        If the file is not TOML or a value is wrong.
    """
    path = home / FILE
    data: dict[str, Any] = {}
    if path.exists():
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        return Settings(**data)
    except ValidationError as error:
        raise ConfigError(_explain(error, f"{path} and the environment (EDGEWARD_*)")) from error


TEMPLATE = """\
# Edgeward settings. Every value here is the default; uncomment to change.
# An environment variable overrides: EDGEWARD_<SECTION>__<KEY>, e.g. EDGEWARD_DICOM__PORT=2762

[site]
name = "{name}"
node = "{node}"

[dicom]
# host = "127.0.0.1"        # 0.0.0.0 to serve the network
# port = 2762               # DICOM over TLS 1.3 with client certificates
# ae_title = "EDGEWARD"
# max_object_mb = 4096
# idle_timeout_s = 60

# A device that cannot do TLS 1.3 with a certificate: an explicit, named exception, shown as a warning.
# [[dicom.legacy]]
# name = "old-scanner"
# ae_title = "OLDSCAN"
# address = "192.0.2.10"
# transport = "plain"       # or "tls1.2"

# Where results go.
# [[pacs]]
# name = "pacs"
# host = "192.0.2.20"
# port = 104
# ae_title = "PACS"
# tls = false
# takes = ["sr", "seg", "gsps", "capture"]

# [[fhir]]
# name = "emr"
# url = "https://emr.example/fhir"
# token_file = "/etc/edgeward/emr.token"

# [[hl7]]
# name = "his"
# host = "192.0.2.30"
# port = 2575
# tls = false

[mllp]                      # HL7 v2 in: orders
# host = "127.0.0.1"
# port = 2575               # MLLP over TLS 1.3 with client certificates

# A system that sends HL7 without TLS: an explicit, named exception, shown as a warning.
# [[mllp.legacy]]
# name = "old-his"
# address = "192.0.2.31"

[web]                       # DICOMweb and FHIR in, HTTPS with client certificates
# host = "127.0.0.1"
# port = 8443

[imaging]
# cine_frames = 8
# study_quiet_s = 60

[console]
# host = "127.0.0.1"        # any other address switches HTTPS on (certificate of the site's own authority)
# port = 8042

[bus]
# mqtt_host = "127.0.0.1"   # 0.0.0.0 to serve wearables on the network
# mqtt_port = 8883          # MQTT over TLS 1.3 with client certificates

[budgets]
# alarm_ms = 500
# interactive_ms = 1000

[monitor]
# asystole_s = 4.0
# extreme_tachycardia = 160.0
# extreme_bradycardia = 35
# silence_s = 4.0
# profile = "adult"         # adult | child | neonate | one of [[profile]]
# suppress = true           # check lethal rhythm alarms against pulse and signal quality

# A ward: limits of its beds, and who is told when nobody acknowledges. Beds are put into it on their page;
# `ward` in [monitor] names the ward of those that nobody did.
# [[ward]]
# name = "icu"
# label = "Intensive care"
# profile = "adult"
# escalation = [{{ after_s = 60, contacts = ["resident"] }}, {{ after_s = 180, contacts = ["on-call"] }}]

# [[contact]]
# name = "resident"
# webhook = "https://pager.example/alarm"
# email = "resident@hospital.example"
# [[contact]]
# name = "on-call"
# email = "on-call@hospital.example"

# [[profile]]
# name = "cardiac"
# base = "adult"
# [profile.limits.heart_rate]
# low = 45
# high = 130

# [smtp]
# host = "mail.hospital.example"

# Alarms by HL7 (IHE PCD-04).
# [[pcd04]]
# name = "alarm-manager"
# host = "192.0.2.40"
# port = 2577

[recorder]
# hours = 24                # waveforms are kept this long, encrypted; then their keys are destroyed

[vault]
# min_free_mb = 256

[log]
# level = "INFO"
"""
