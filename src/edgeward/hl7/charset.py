"""Character sets of HL7 v2 messages (MSH-18, HL7 table 0211).

Responsible for turning bytes into text and back by what the header declares. What the header does not declare, or
declares wrongly, is read as UTF-8 if it is UTF-8 and as ISO 8859-1 otherwise: every byte then has some reading, and a
name in the wrong character set is better than an order that is lost.
"""

from __future__ import annotations

_CODECS = {
    "": "ascii",
    "ASCII": "ascii",
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "GB 18030-2000": "gb18030",
    "GB18030": "gb18030",
    "GB2312": "gb18030",
    "GBK": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
    "ISO IR6": "ascii",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp_2",
    "ISO IR159": "iso2022_jp_2",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
}


_TO_KOREAN = b"\x1b$)C"  # ISO 2022: from here on bytes above 127 are KS X 1001; EUC-KR has them so in any case


def declared(data: bytes) -> str:
    """Return the character set (MSH-18) of an encoded message, or an empty string.

    Of several the first that is more than ASCII: ASCII, or none, stands before one that escape sequences lead to.
    """
    line = data.lstrip(b"\xef\xbb\xbf\r\n\t ")[:4096].split(b"\r", 1)[0].split(b"\n", 1)[0]
    if len(line) < 9:
        return ""
    fields = line.split(line[3:4])
    if len(fields) < 18:
        return ""
    named = [one.decode("ascii", "replace").strip().upper() for one in fields[17].split(line[5:6])]
    return next((one for one in named if one not in ("", "ASCII", "ISO IR6")), named[0])


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of an encoded message, and the codec it was read with."""
    data = data.removeprefix(b"\xef\xbb\xbf").replace(_TO_KOREAN, b"")
    for codec in (_CODECS.get(declared(data), "utf-8"), "utf-8"):
        try:
            return data.decode(codec), codec
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1"), "latin-1"


def encode(text: str, codec: str) -> bytes:
    """Return `text` in a codec that ``decode`` named; what it cannot express becomes a question mark."""
    return text.encode(codec or "ascii", "replace")
