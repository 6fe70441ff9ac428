"""Both languages say everything, and no template or script says anything by itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

import edgeward
from edgeward.clinic.monitor.alarms import RULES
from edgeward.console import languages, render
from edgeward.console.accounts import ROLES
from edgeward.console.present import FILTERS, LABELS

TEMPLATES = sorted((render.HERE / "templates").glob("*.html"))
SCRIPTS = sorted((render.STATIC / "js").rglob("*.js"))
SLOT = re.compile(r"\{([a-z_0-9]+)")
# Neither language: product, commands to be typed, units, what is printed on keys, and what the other language's switch
# shows.
NOT_PROSE = {"EN", "TLS", "Python", "px", "mm", "ms", "edgeward", "ew", "Enter", "Shift", "Tab", "Esc", "mV"}


def test_both_catalogues_have_the_same_keys() -> None:
    english, chinese = languages.catalogue("en"), languages.catalogue("zh")

    assert set(english) == set(chinese)
    assert all(value.strip() for value in (*english.values(), *chinese.values()))


def test_both_catalogues_fill_in_the_same_values() -> None:
    english, chinese = languages.catalogue("en"), languages.catalogue("zh")

    differing = [k for k in english if set(SLOT.findall(english[k])) != set(SLOT.findall(chinese[k]))]

    assert differing == []


# Calls whose text people see on the page of what was refused.
TELLING = {
    "note", "refuse", "_refuse", "_refuse_object", "_note", "Refusal", "NotUnderstood", "Broken", "Malformed", "Misread",
    "OrderError", "Answer", "MultipartError", "NotHl7", "TooMuch", "VaultError", "VaultDamaged",
    "Unreachable", "Interrupted", "Rejected", "_Gone", "quarantine",
}  # fmt: skip


# What begins with another's words, of which only they know what they are.
UNKNOWN = {"HL7: 77", "77: 77", *(f"77: {said}" for said in ("it does not let us in", "nothing takes results at its address", "it has moved; set its new address"))}  # fmt: skip


def spoken(node: ast.expr) -> Iterator[str]:
    """Yield the wordings that an expression may have; a value in it is told as 77."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "77" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from spoken(node.body)
        yield from spoken(node.orelse)


def refused_with() -> set[str]:
    found = set()
    source = Path(edgeward.__file__).parent
    for path in (*source.glob("gateway/*.py"), *source.glob("hl7/*.py"), *source.glob("clinic/imaging/*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in TELLING:
                given = (*call.args, *(keyword.value for keyword in call.keywords))
                found |= {text for one in given for text in spoken(one) if " " in text.strip()}
    return found


def test_what_is_refused_is_told_in_chinese() -> None:
    told = refused_with()
    assert len(told) > 100, "the search has lost the calls it looks for"

    english = [text for text in told if not re.search("[\u4e00-\u9fff]", languages.reason("zh", text))]

    assert [text for text in english if text not in UNKNOWN] == []
    assert all(languages.reason("en", text) == text for text in told)


def test_the_particulars_of_a_refusal_stay() -> None:
    text = "ORM^O01 was answered AE: it is longer than 16 characters or holds characters DICOM lacks (OBR-18)"

    assert languages.reason("zh", text) == "对 ORM^O01 的答复为 AE：超过 16 个字符，或含有 DICOM 没有的字符（OBR-18）"
    assert (
        languages.reason("zh", "not delivered to emr: it answers with status 307: it has moved; set its new address")
        == "未送达 emr：对方返回状态码 307：地址已变更，请设置新地址"
    )
    assert languages.reason("zh", "something nobody foresaw") == "something nobody foresaw"


def test_chinese_is_chinese() -> None:
    same = {"app.name", "unit.mb", "unit.ms", "budget.p50", "budget.p99", "system.cpu", "kind.ct", "notice.warning",
            "bed.scale", "bed.news2", "shell.other_language", "alarm_list.by", "live.announce", "quarantine.times",
            "wave.gain", "wave.label"}  # fmt: skip
    left = [k for k, v in languages.catalogue("zh").items() if k not in same and not re.search(r"[\u4e00-\u9fff]", v)]

    assert left == []


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_every_alarm_of_the_monitor_has_words(language: str) -> None:
    missing = [
        c
        for c in RULES
        if f"alarm.{c}" not in languages.catalogue(language) or f"alarm_short.{c}" not in languages.catalogue(language)
    ]

    assert missing == []


@pytest.mark.parametrize(
    "key", [*(f"role.{r}" for r in ROLES), *(f"label.{x}" for x in LABELS), *(f"images.show.{f}" for f in FILTERS)]
)
def test_codes_have_words(key: str) -> None:
    assert languages.has(key)


def test_an_unknown_alarm_is_shown_as_it_is() -> None:
    assert languages.alarm_text("zh", "spo2_low", {"spo2": 81.0}) == "spo2_low (spo2 81.0)"
    assert languages.alarm_text("en", "spo2_low", {}) == "spo2_low"


def test_a_value_off_the_scale_of_its_device_is_said_to_be_so() -> None:
    args = {"parameter": "glucose", "value": 1.1, "unit": "mmol/L", "limit": 3.0, "bound": "below"}
    assert languages.alarm_text("en", "parameter_low", args) == "Glucose < 1.1 mmol/L: below 3"


def test_a_missing_value_shows_as_a_dash_not_as_a_number() -> None:
    assert languages.alarm_text("en", "asystole", {}) == "Asystole: no beat for — s"


def prose(source: str) -> list[str]:
    """Words in a template's text and in its attributes that people read."""
    source = re.sub(r"\{#.*?#\}", " ", source, flags=re.S)
    source = re.sub(r"<code>.*?</code>|<!doctype[^>]*>", " ", source, flags=re.S | re.I)
    source = re.sub(
        r"\{% block (?:body_class|main_class|main_attributes) %\}.*?\{% endblock %\}", " ", source, flags=re.S
    )
    source = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", source, flags=re.S)
    spoken = re.findall(r'(?:title|alt|placeholder|aria-label)="([^"]*)"', source)
    text = re.sub(r"<[^>]*>", " ", source)
    return [w for part in (*spoken, text) for w in re.findall(r"[A-Za-z]{2,}|[\u4e00-\u9fff]+", part)]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_templates_contain_no_prose(path: Path) -> None:
    words = [w for w in prose(path.read_text()) if w not in NOT_PROSE and w not in ("nbsp", "中文")]

    assert words == []


def test_the_test_for_prose_would_find_some() -> None:
    assert prose("<p>Hello {{ name }}</p><a title='x' aria-label=\"Close it\">") == ["Close", "it", "Hello"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_templates_have_no_inline_script_or_style(path: Path) -> None:
    source = path.read_text()

    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son[a-z]+=", source)
    assert "|safe" not in source.replace(" ", "")
    assert not re.search(r"https?://", source)


@pytest.mark.parametrize("path", [*TEMPLATES, *SCRIPTS], ids=lambda p: p.name)
def test_keys_that_are_used_exist(path: Path) -> None:
    used = re.findall(r"\bt\(['\"]([a-z0-9_.]+)['\"][,)]", path.read_text())
    needed = [key for key in used if not languages.has(key)]

    assert needed == []


def test_scripts_only_use_texts_that_they_are_given() -> None:
    given = languages.for_browser("en")
    used = {key for path in SCRIPTS for key in re.findall(r"\bt\(['\"]([a-z0-9_.]+)['\"][,)]", path.read_text())}

    assert used - set(given) == set()
    assert used, "the search found the calls"


@pytest.mark.parametrize(
    ("account", "cookie", "accept", "expected"),
    [
        ("", "", "", "en"),
        ("", "", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "", "fr-FR,en;q=0.5,zh;q=0.7", "zh"),
        ("", "", "de", "en"),
        ("zh", "", "en", "zh"),
        ("zh", "en", "zh", "en"),
        ("xx", "yy", "zh;q=abc,en", "en"),
    ],
)
def test_language_is_chosen(account: str, cookie: str, accept: str, expected: str) -> None:
    assert languages.choose(account=account, cookie=cookie, accept=accept) == expected


def test_templates_compile_and_know_all_their_variables() -> None:
    assert isinstance(render.ENVIRONMENT.undefined, type)
    assert issubclass(render.ENVIRONMENT.undefined, jinja2.StrictUndefined)
    for path in TEMPLATES:
        render.ENVIRONMENT.get_template(path.name)


def test_what_roles_say_is_read_in_chinese_and_their_particulars_stay() -> None:
    def read(told: str) -> str:
        return languages.reason("zh", told)

    assert (
        read("outside the model's domain: the object is of modality CT, not ultrasound")
        == "超出模型的适用范围: 模态为 CT，不是超声"
    )
    assert read("the alarm log cannot be written: it has taken more than 2 s") == "报警日志无法写入：已超过 2 秒"
    assert read("archive does not take results: connection refused") == "archive 不接收结果：连接被拒绝"
    assert read("something new: with {braces} and (brackets") == "something new: with {braces} and (brackets"


def test_an_english_reader_gets_what_a_role_said_word_for_word() -> None:
    for told in ("busy", "only 12 MB of disk are free", "no such thing", "the object cannot be decoded: busy"):
        assert languages.reason("en", told) == told
