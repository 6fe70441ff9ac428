"""The site key: one AES-256 key that wraps all others.

Responsible for making, verifying and using it. The check value is verified *before* anything starts: the NATS server
with a wrong key starts, does not find its streams, and a create then deletes the encrypted data.
"""

from __future__ import annotations

import functools
import hmac
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgeward.home import Home, write_private

KEY_BYTES = 32
_NONCE = 12
_CHECK = b"edgeward site key check v1"


class WrongKey(RuntimeError):
    """The site key is missing, malformed, or not the one this site's data was encrypted with."""


class ContentMac:
    """A GMAC over bytes that come in any pieces; it costs a twentieth of SHA-256."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._mac: AEADEncryptionContext | None = None

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        if self._mac is None:
            self._mac = Cipher(AES(self._key), GCM(bytes(_NONCE))).encryptor()
        self._mac.authenticate_additional_data(data)

    def finish(self, data: bytes | memoryview = b"") -> bytes:
        """Take the last bytes and return the digest (16 bytes). All at once costs a third of what pieces do."""
        if self._mac is None:
            return AESGCM(self._key).encrypt(bytes(_NONCE), b"", data)
        self._mac.authenticate_additional_data(data)
        self._mac.finalize()
        return self._mac.tag


@dataclass(frozen=True, slots=True)
class SiteKey:
    """The site's key. Its bytes never appear in a repr, a log or a message."""

    _key: bytes = field(repr=False)

    @classmethod
    def create(cls, home: Home) -> SiteKey:
        """Make the key of a new site.

        Raises
        ------
        WrongKey
            If this site already has one, or has data and no key.
        """
        path, check = home.keys / "site.key", home.keys / "site.check"
        if path.exists() or check.exists():
            raise WrongKey(f"{home.keys} already holds a site key; it is not replaced")
        key = cls(os.urandom(KEY_BYTES))
        write_private(check, key.seal(_CHECK, b"check"))
        write_private(path, key._key.hex().encode() + b"\n")
        return key

    @classmethod
    def load(cls, home: Home) -> SiteKey:
        """Read the key and verify it against the check value.

        Raises
        ------
        WrongKey
            If it is missing, malformed, readable by others, or does not open the check value.
        """
        path, check = home.keys / "site.key", home.keys / "site.check"
        try:
            text = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise WrongKey(f"{path} is missing: run `edgeward init`, or restore the key from your safe") from None
        except UnicodeDecodeError:
            raise WrongKey(f"{path} is not a site key (64 hexadecimal digits)") from None
        if path.stat().st_mode & 0o077:
            raise WrongKey(f"{path} can be read by others; make it private: chmod 600 {path}")
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise WrongKey(f"{path} is not a site key (64 hexadecimal digits)")
        site_key = cls(key)
        try:
            sealed = check.read_bytes()
        except FileNotFoundError:
            raise WrongKey(f"{check} is missing: the key cannot be verified, so nothing is started") from None
        try:
            site_key.open(sealed, b"check")
        except WrongKey:
            raise WrongKey(
                f"{path} is not the key this site's data was encrypted with. Nothing was started and nothing was "
                "changed. Put the right key back."
            ) from None
        return site_key

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt a small value; `context` must be given again to open it.

        Returns
        -------
        bytes
            Nonce (12 bytes), ciphertext, tag (16 bytes).
        """
        nonce = os.urandom(_NONCE)
        return nonce + _cipher(self._derived(b"seal")).encrypt(nonce, plaintext, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypt what ``seal`` made.

        Raises
        ------
        WrongKey
            If the key, the context or the data is not the one it was sealed with.
        """
        try:
            return _cipher(self._derived(b"seal")).decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
        except (InvalidTag, ValueError) as error:
            raise WrongKey("sealed value does not open: wrong key, wrong context or damaged data") from error

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Wrap an object's data key; `context` is the object's id."""
        return self.seal(data_key, b"wrap:" + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Unwrap an object's data key.

        Raises
        ------
        WrongKey
            If it was not wrapped by this site's key for this object.
        """
        return self.open(wrapped, b"wrap:" + context)

    def jetstream_key(self) -> str:
        """Return the key given to the NATS server for its own encryption at rest (64 hexadecimal digits)."""
        return self._derived(b"jetstream").hex()

    def content_mac(self, context: str) -> ContentMac:
        """Return a keyed digest that tells equal contents within one `context` without revealing anything about them.

        The key is the context's own: tags of different contexts cannot be compared, and a tag is never shown, so that
        the fixed nonce gives nobody a second equation (NIST SP 800-38D, 8).
        """
        return ContentMac(hmac.digest(self.content_key(), context.encode(), "sha256"))

    def content_key(self) -> bytes:
        """Return what the keys of `content_mac` are made from: for the compiled admission, which makes them too."""
        return self._derived(b"content")

    def pseudonym(self, value: bytes) -> bytes:
        """Return a keyed digest (32 bytes) of an identifier: equal ones can be found without being readable."""
        return _pseudonym(self._derived(b"pseudonym"), value)

    def _derived(self, purpose: bytes) -> bytes:
        return _derive(self._key, purpose)


@functools.lru_cache(maxsize=64)  # the images of one patient come one after another
def _pseudonym(key: bytes, value: bytes) -> bytes:
    return hmac.digest(key, value, "sha256")


@functools.lru_cache(maxsize=32)
def _cipher(key: bytes) -> AESGCM:
    return AESGCM(key)


@functools.lru_cache(maxsize=32)
def _derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"edgeward:" + purpose).derive(key)
