"""Making a new site: settings file, site key, authority, certificates of roles, credentials of the bus."""

from __future__ import annotations

from edgeward.bus import server
from edgeward.config import TEMPLATE, Settings
from edgeward.home import Home, write_private
from edgeward.privacy import identity
from edgeward.privacy.keys import SiteKey


class AlreadyInitialised(RuntimeError):
    """The state directory already holds a site."""


def initialised(home: Home) -> bool:
    """Return whether `home` holds a site (complete: the mark is written last)."""
    return (home.identity / "complete").exists()


def initialise(home: Home, settings: Settings) -> None:
    """Make a site in `home`. Safe to repeat after a crash half-way: nothing served before the mark was written.

    Raises
    ------
    AlreadyInitialised
        If there is one already; nothing is touched.
    WrongKey
        If a key lies there that is not this site's.
    """
    if initialised(home):
        raise AlreadyInitialised(f"{home.root} already holds a site; nothing was changed")
    home.create()
    if not home.settings_file.exists():
        text = TEMPLATE.format(name=settings.site.name, node=settings.site.node)
        write_private(home.settings_file, text.encode())
    if (home.keys / "site.key").exists():
        SiteKey.load(home)
    else:
        (home.keys / "site.check").unlink(missing_ok=True)
        SiteKey.create(home)
    identity.create_authority(home, settings.site.name)
    identity.create_roles(home, settings.site.name, _hosts(settings))
    server.create_credentials(home)
    write_private(home.identity / "complete", b"1\n")


def bring_up_to_date(home: Home, settings: Settings) -> list[str]:
    """Make what a site of an older version does not have: certificate and credentials of newer roles.

    A role without a certificate is new here. One that only lost a key or its credentials is left as it is: that is
    damage, and is told as such. May be repeated after a crash half-way: a role's certificate is written last.

    Returns
    -------
    list
        The roles that are new.

    Raises
    ------
    IdentityError
        If the site has no authority.
    """
    new = [role for role in identity.ROLES if not (home.identity / "roles" / f"{role}.pem").exists()]
    for role in new:
        server.create_credential(home, role)
        identity.create_role(home, settings.site.name, role, _hosts(settings))
    return new


def _hosts(settings: Settings) -> tuple[str, ...]:
    return settings.bus.host, settings.bus.mqtt_host, settings.dicom.host, settings.console.host
