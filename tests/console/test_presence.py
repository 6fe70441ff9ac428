"""Who looks at what, and that it ends with the page."""

from __future__ import annotations

from edgeward.console.presence import Presence


def test_people_are_listed_once_per_item_however_many_pages_they_open() -> None:
    presence = Presence()
    presence.look("tab 1", "lee", "item-1")
    presence.look("tab 2", "lee", "item-1")
    presence.look("tab 3", "ada", "item-1")
    presence.look("tab 4", "ada", "item-2")

    assert presence.now() == {"item-1": ["ada", "lee"], "item-2": ["ada"]}


def test_a_page_that_closes_or_goes_on_is_gone() -> None:
    presence = Presence()
    presence.look("tab 1", "lee", "item-1")
    presence.look("tab 2", "lee", "item-1")

    presence.leave("tab 1")
    assert presence.now() == {"item-1": ["lee"]}, "the other tab is still open"
    presence.look("tab 2", "lee", "item-2")
    assert presence.now() == {"item-2": ["lee"]}
    presence.leave("tab 2")
    presence.leave("tab 2")
    assert presence.now() == {}


def test_only_changes_are_told() -> None:
    presence = Presence()
    assert presence.take() is None
    presence.look("tab", "lee", "item-1")
    assert presence.take() == {"item-1": ["lee"]}
    presence.look("tab", "lee", "item-1")
    assert presence.take() is None
    presence.leave("tab")
    assert presence.take() == {}


def test_what_is_no_item_is_nothing() -> None:
    presence = Presence()
    for odd in ("", "../x", "a b", "x" * 65, "<script>"):
        presence.look("tab", "lee", odd)
    presence.look("nobody's", "", "item-1")

    assert presence.now() == {}
