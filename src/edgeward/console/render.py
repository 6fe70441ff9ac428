"""Templates: one environment, and what every page knows.

Responsible for language, theme and escaping. Templates contain structure only: each word comes from the catalogue.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse

from edgeward import __version__
from edgeward.console import languages
from edgeward.console.access import Visitor, console_of, visitor_of
from edgeward.console.present import Notice
from edgeward.console.views import datetime_text

HERE = Path(__file__).parent
STATIC = HERE / "static"
THEMES = ("auto", "dark", "light")
LANGUAGE_COOKIE = "edgeward_language"
THEME_COOKIE = "edgeward_theme"


def _build() -> str:
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(STATIC).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


BUILD = _build()  # part of every static address, so that a new version is never mixed with a cached old one
STATIC_URL = f"/static/{BUILD}"


def _number(value: float | None, digits: int = 0) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}".replace(",", "\u202f")


def _iso(at_ns: int) -> str:
    stamp = dt.datetime.fromtimestamp(at_ns / 1e9, dt.UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S") + f".{at_ns // 1_000_000 % 1000:03d}Z"


def _when(at_ns: int, form: str = "auto") -> Markup:
    """Return a time element: UTC until the browser's script writes it in local time."""
    if not at_ns:
        return Markup("<span class='none'>—</span>")
    iso = _iso(at_ns)
    return Markup('<time datetime="{0}" title="{0}" data-form="{2}">{1}</time>').format(iso, iso[11:19] + "Z", form)


def _ms(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "—"
    if value >= 10_000:
        return f"{value / 1000:.1f}\u00a0s"
    return f"{value:.0f}\u00a0ms" if value >= 10 else f"{value:.1f}\u00a0ms"


def _percent(value: float | None) -> str:
    """Return a probability as a percentage; never 0 % or 100 %, which a model cannot know."""
    if value is None or not math.isfinite(value):
        return "—"
    if value < 0.01:
        return "<1\u202f%"
    return ">99\u202f%" if value > 0.99 else f"{value * 100:.0f}\u202f%"


def _unit(code: str) -> str:
    return languages.UNITS.get(code, code)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, when=_when, iso=_iso, ms=_ms, percent=_percent, unit=_unit, examined=datetime_text
    )
    return environment


ENVIRONMENT = _environment()


def language_of(connection: HTTPConnection, visitor: Visitor | None) -> str:
    """Return the language of the reader."""
    return languages.choose(
        account=visitor.user.language if visitor else "",
        cookie=connection.cookies.get(LANGUAGE_COOKIE, ""),
        accept=connection.headers.get("accept-language", ""),
    )


def theme_of(connection: HTTPConnection) -> str:
    """Return the reader's theme."""
    wish = connection.cookies.get(THEME_COOKIE, "")
    return wish if wish in THEMES else "auto"


def page(connection: HTTPConnection, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return the page `name` (a template) filled with `values`."""
    visitor = visitor_of(connection)
    console = console_of(connection)
    language = language_of(connection, visitor)

    def t(key: str, **slots: object) -> str:
        return languages.text(language, key, **slots)

    def word(section: str, key: str) -> str:
        """Text of a code, or the code itself when we have no word for it."""
        return t(f"{section}.{key}") if languages.has(f"{section}.{key}") else key

    def alarm_text(code: str, args: dict[str, object]) -> str:
        return languages.alarm_text(language, code, args)

    def reason(text: str) -> str:
        """A reason as the role gave it, as far as its words are known."""
        return languages.reason(language, text)

    def notice_text(notice: Notice) -> str:
        """What the overview says is wrong."""
        told = {k: reason(v) if k in ("reason", "text") and isinstance(v, str) else v for k, v in notice.args.items()}
        return t(f"notice.{notice.kind}", **told)

    def stage(name: str) -> str:
        """A stage; ``engine.infer`` is the stage `infer` as the engine measured it."""
        role, _, plain = name.rpartition(".")
        key = f"stage.{plain.replace(' ', '_')}"
        return (f"{role} · " if role else "") + (t(key) if languages.has(key) else plain)

    html = ENVIRONMENT.get_template(name).render(
        t=t,
        word=word,
        alarm_text=alarm_text,
        reason=reason,
        notice_text=notice_text,
        stage=stage,
        language=language,
        theme=theme_of(connection),
        static=STATIC_URL,
        build=BUILD,
        visitor=visitor,
        csrf=visitor.csrf if visitor else "",
        path=connection.url.path,
        site_name=console.settings.site.name,
        version=__version__,
        **values,
    )
    return HTMLResponse(html, status_code=status)
