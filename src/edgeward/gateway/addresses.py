"""Whether a connection comes from an address that the settings name.

Responsible for the forms in which one address can be written. Not responsible for what an address is worth: it is no
identity, and only devices that are excepted from TLS are known by it.
"""

from __future__ import annotations

import ipaddress


def same_address(wanted: str, given: str) -> bool:
    """Return whether two texts are one IP address; a zone (``fe80::1%eth0``) and an IPv4 address within IPv6 count not.

    Parameters
    ----------
    wanted : str
        As the settings have it.
    given : str
        Of the connection.
    """
    try:
        one, two = ipaddress.ip_address(wanted), ipaddress.ip_address(given.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    return (getattr(one, "ipv4_mapped", None) or one) == (getattr(two, "ipv4_mapped", None) or two)
