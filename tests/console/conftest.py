"""A real console on a real bus, with a synthetic hospital behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import argon2
import httpx
import pytest

from tests.support.synthetic import SyntheticHospital, synthetic_console

OWN = "correct horse battery"


@dataclass
class Served:
    hospital: SyntheticHospital
    url: str

    @property
    def one_time(self) -> str:
        return str(json.loads((self.hospital.site.home.run / "first-login.json").read_text())["password"])

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"origin": self.url}, timeout=20)

    async def logged_in(self, user: str = "admin", password: str = "", own: str = OWN) -> httpx.AsyncClient:
        """A client that has logged in and set its own password if it came with a one-time one."""
        client = self.client()
        password = password or self.one_time
        answer = await client.post("/login", data={"user": user, "password": password})
        assert answer.status_code == 303, answer.text
        if answer.headers["location"] == "/password":
            answer = await client.post(
                "/password",
                data={"csrf": await csrf(client, "/password"), "current": password, "new": own, "again": own},
            )
            assert answer.status_code == 303, answer.text
        return client

    async def person(self, admin: httpx.AsyncClient, name: str, *roles: str) -> httpx.AsyncClient:
        """Create an account and log in with it."""
        answer = await admin.post("/system/people", data={"csrf": await csrf(admin), "name": name, "role": list(roles)})
        password = answer.text.split('class="secret">')[1].split("<")[0]
        return await self.logged_in(name, password, own=f"the words of {name}")


async def csrf(client: httpx.AsyncClient, path: str = "/system") -> str:
    page = await client.get(path)
    return page.text.split('<meta name="csrf" content="')[1].split('"')[0]


@pytest.fixture(autouse=True)
def cheap_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing is slow on purpose; what is tested here does not depend on how slow."""
    monkeypatch.setattr(argon2.profiles, "RFC_9106_LOW_MEMORY", argon2.profiles.CHEAPEST)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with synthetic_console(tmp_path / "home", beds=4, items=6, furnished=True) as (hospital, url):
        yield Served(hospital, url)
