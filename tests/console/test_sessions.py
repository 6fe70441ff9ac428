"""Sessions and the slowing down of guessing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeward.console.sessions import Sessions, Throttle, csrf_token
from edgeward.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_a_session_lasts_its_time_and_no_longer(home: Home) -> None:
    sessions = Sessions(home, lifetime_s=100, now_s=1000)
    token, session = sessions.open("maja", 1000)

    assert sessions.find(token, 1099) == session
    assert sessions.find(token, 1100) is None
    assert not sessions.alive(session.id, 1100)


def test_a_restarted_console_knows_its_sessions_but_not_their_tokens(home: Home) -> None:
    token, session = Sessions(home, 100, 1000).open("maja", 1000)

    again = Sessions(home, 100, 1010)

    assert again.find(token, 1010) == session
    assert token not in (home.data / "sessions.json").read_text()
    assert Sessions(home, 100, 1100).find(token, 1050) is None, "expired sessions are dropped at the start"


def test_an_invented_token_finds_nothing(home: Home) -> None:
    sessions = Sessions(home, 100, 0)
    _, session = sessions.open("maja", 0)

    assert sessions.find("", 1) is None
    assert sessions.find(session.id, 1) is None, "what lies on disk does not open a session"


def test_closing_all_of_a_person_spares_others(home: Home) -> None:
    sessions = Sessions(home, 100, 0)
    mine, _ = sessions.open("maja", 0)
    kept, keep = sessions.open("maja", 0)
    other, _ = sessions.open("li", 0)

    sessions.close_all_of("maja", keep=keep.id)

    assert sessions.find(mine, 1) is None
    assert sessions.find(kept, 1)
    assert sessions.find(other, 1)


def test_form_tokens_differ_by_session() -> None:
    assert csrf_token("a") != csrf_token("b")


def test_guessing_one_account_from_one_address_is_slowed_and_forgiven_after_success() -> None:
    throttle = Throttle()
    for _ in range(4):
        throttle.failed("admin", "10.0.0.1", 0.0)
    assert throttle.wait_s("admin", "10.0.0.1", 0.0) == 0

    throttle.failed("admin", "10.0.0.1", 0.0)
    throttle.failed("admin", "10.0.0.1", 0.0)

    assert throttle.wait_s("admin", "10.0.0.1", 0.0) == pytest.approx(2.0)
    assert throttle.wait_s("admin", "10.0.0.2", 0.0) == 0, "the true owner elsewhere is not locked out"
    throttle.succeeded("admin", "10.0.0.1")
    assert throttle.wait_s("admin", "10.0.0.1", 0.0) == 0


def test_guessing_many_accounts_from_one_address_is_slowed() -> None:
    throttle = Throttle()
    for i in range(20):
        throttle.failed(f"user{i}", "10.0.0.1", 0.0)

    assert throttle.wait_s("somebody-else", "10.0.0.1", 0.0) > 0


def test_guessing_one_account_from_many_addresses_is_slowed_but_bounded() -> None:
    throttle = Throttle()
    for i in range(500):
        throttle.failed("admin", f"10.0.{i // 250}.{i % 250}", 0.0)

    assert 0 < throttle.wait_s("admin", "192.0.2.1", 0.0) <= Throttle.LONGEST_S


def test_failures_are_forgotten() -> None:
    throttle = Throttle()
    for _ in range(30):
        throttle.failed("admin", "a", 0.0)
    throttle.failed("admin", "a", Throttle.FORGET_S + 1)

    assert throttle.wait_s("admin", "a", Throttle.FORGET_S + 1) == 0
