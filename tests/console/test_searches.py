"""Searches stay with their session, in memory, bounded."""

from __future__ import annotations

from edgeward.console.searches import IN_ALL, MAX_TEXT, PER_SESSION, Searches


def test_a_search_is_found_again_by_its_handle_and_only_by_its_session() -> None:
    searches = Searches()

    handle = searches.keep("mine", "  Lindqvist   Maja ")

    assert searches.find("mine", handle) == "Lindqvist Maja"
    assert searches.find("another", handle) is None
    assert "lindqvist" not in handle.lower()
    assert searches.keep("mine", "Lindqvist Maja") == handle, "the same search has the same address"


def test_no_text_is_no_search_and_nonsense_is_none() -> None:
    searches = Searches()

    assert searches.keep("mine", "   ") == ""
    assert searches.find("mine", "") == ""
    for odd in ("x", "0" * 16, "../etc", "0" * 5000, "𝟘" * 16):
        assert searches.find("mine", odd) is None


def test_memory_is_bounded_per_session_and_in_all() -> None:
    searches = Searches()
    first = searches.keep("mine", "first")
    for i in range(PER_SESSION):
        searches.keep("mine", f"patient {i}")
    assert searches.find("mine", first) is None

    early = searches.keep("early", "early")
    for i in range(IN_ALL + 10):
        searches.keep(f"session {i}", "x" * 1000)

    assert searches.find("early", early) is None
    last = searches.keep("late", "y" * 1000)
    assert searches.find("late", last) == "y" * MAX_TEXT


def test_a_session_that_ended_is_forgotten() -> None:
    searches = Searches()
    mine, theirs = searches.keep("mine", "a"), searches.keep("theirs", "b")

    searches.forget(["mine"])

    assert searches.find("mine", mine) is None
    assert searches.find("theirs", theirs) == "b"
