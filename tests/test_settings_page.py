"""The page of settings names every key there is, and no other, with its default."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

from edgeward.config import Section, Settings

PAGE = (Path(__file__).parents[1] / "docs" / "settings.md").read_text(encoding="utf-8")
Keys = dict[str, dict[str, str]]


def sections_in(annotation: object) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in sections_in(part)]


def as_toml(value: object) -> str:
    if value is None:
        return "not set"
    return f"`{int(value) if isinstance(value, float) and value.is_integer() else json.dumps(value)}`"


def of_the_program() -> Keys:
    found: Keys = {}

    def take(model: type, name: str) -> None:
        keys = found[name] = {}
        for key, field in model.model_fields.items():
            below, path = sections_in(field.annotation), f"{name.strip('[]')}.{key}".lstrip(".")
            if below:
                take(below[0], f"[[{path}]]" if typing.get_origin(field.annotation) is list else f"[{path}]")
            else:
                keys[key] = "–" if field.is_required() else as_toml(field.default)

    take(Settings, "")
    assert not found.pop("")
    return found


def of_the_page() -> Keys:
    found: Keys = {}
    for part in PAGE.split("\n## ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", part, re.MULTILINE)
        found[part.splitlines()[0].strip("`")] = dict(rows)
        assert len(rows) == len(dict(rows))
    return found


def test_every_key_is_there_with_its_default_and_no_other() -> None:
    assert of_the_page() == of_the_program()
