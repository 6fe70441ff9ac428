"""Accounts: the one-time password, what makes a password acceptable, and what lies on disk."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from edgeward.console.accounts import AccountError, Accounts
from edgeward.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def first_password(home: Home) -> str:
    return str(json.loads((home.run / "first-login.json").read_text())["password"])


def test_first_start_creates_admin_with_a_private_one_time_password(home: Home) -> None:
    accounts = Accounts(home)

    assert accounts.ensure_first()

    admin = accounts.verify("admin", first_password(home))
    assert admin is not None
    assert admin.one_time
    assert set(admin.roles) == {"clinician", "engineer"}
    for path in (home.run / "first-login.json", home.data / "users.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first_password(home) not in (home.data / "users.json").read_text()


def test_setting_an_own_password_voids_the_one_time_password_and_removes_its_file(home: Home) -> None:
    accounts = Accounts(home)
    accounts.ensure_first()
    one_time = first_password(home)

    accounts.set_password("admin", one_time, "my own long words")

    assert accounts.verify("admin", one_time) is None
    assert not (home.run / "first-login.json").exists()
    again = Accounts(home)
    assert not again.ensure_first()
    user = again.verify("admin", "my own long words")
    assert user is not None
    assert not user.one_time


def test_a_lost_one_time_password_is_replaced_only_while_nobody_has_used_it(home: Home) -> None:
    Accounts(home).ensure_first()
    lost = first_password(home)
    (home.run / "first-login.json").unlink()

    accounts = Accounts(home)

    assert accounts.ensure_first()
    assert accounts.verify("admin", lost) is None
    assert accounts.verify("admin", first_password(home)) is not None


def test_a_start_keeps_the_one_time_password_that_was_printed(home: Home) -> None:
    Accounts(home).ensure_first()
    printed = first_password(home)

    assert not Accounts(home).ensure_first()

    assert first_password(home) == printed


@pytest.mark.parametrize(
    ("current", "new", "code"),
    [
        ("wrong", "long enough words", "wrong_password"),
        (None, "short 9ch", "too_short"),
        (None, None, "same_password"),
        (None, "x" * 257, "too_long"),
    ],
)
def test_unacceptable_passwords_are_refused_and_nothing_changes(
    home: Home, current: str | None, new: str | None, code: str
) -> None:
    accounts = Accounts(home)
    accounts.ensure_first()
    one_time = first_password(home)

    with pytest.raises(AccountError) as error:
        accounts.set_password("admin", current or one_time, new or one_time)

    assert error.value.code == code
    assert accounts.verify("admin", one_time) is not None


def test_a_password_equal_to_the_name_is_refused(home: Home) -> None:
    accounts = Accounts(home)
    given = accounts.create("long.clinician", ("clinician",), by="admin")

    with pytest.raises(AccountError, match="password_is_name"):
        accounts.set_password("long.clinician", given, "Long.Clinician")


def test_the_same_characters_from_another_keyboard_are_the_same_password(home: Home) -> None:
    accounts = Accounts(home)
    given = accounts.create("amelie", ("clinician",), by="admin")
    accounts.set_password("amelie", given, "Am\u00e9lie aime caf\u00e9")

    assert accounts.verify("amelie", "Ame\u0301lie aime cafe\u0301") is not None


@pytest.mark.parametrize("name", ["", " x", "a b", "<script>", "x" * 65, "../etc", "ä"])
def test_names_that_could_confuse_a_page_or_a_log_are_refused(home: Home, name: str) -> None:
    with pytest.raises(AccountError, match="bad_name"):
        Accounts(home).create(name, ("clinician",), by="admin")


def test_names_differ_by_more_than_case(home: Home) -> None:
    accounts = Accounts(home)
    accounts.create("Maja", ("clinician",), by="admin")

    with pytest.raises(AccountError, match="name_taken"):
        accounts.create("maja", ("engineer",), by="admin")


@pytest.mark.parametrize("roles", [(), ("root",), ("clinician", "root")])
def test_an_account_has_known_roles(home: Home, roles: tuple[str, ...]) -> None:
    with pytest.raises(AccountError, match="no_role"):
        Accounts(home).create("x1", roles, by="admin")


def test_a_closed_account_cannot_log_in_until_it_is_reopened(home: Home) -> None:
    accounts = Accounts(home)
    given = accounts.create("maja", ("clinician",), by="admin")

    accounts.set_disabled("maja", disabled=True, by="admin")
    assert Accounts(home).verify("maja", given) is None

    accounts.set_disabled("maja", disabled=False, by="admin")
    assert Accounts(home).verify("maja", given) is not None


def test_nobody_closes_or_resets_the_own_account(home: Home) -> None:
    accounts = Accounts(home)
    accounts.create("maja", ("engineer",), by="admin")

    with pytest.raises(AccountError, match="not_yourself"):
        accounts.set_disabled("maja", disabled=True, by="maja")
    with pytest.raises(AccountError, match="not_yourself"):
        accounts.reset("maja", by="maja")
