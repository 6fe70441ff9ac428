"""Reads an expression of UCUM: what it measures, and how much of it one is.

Responsible for the grammar (UCUM 2.1, section 2: prefixes, exponents, products, parentheses, annotations) over the
atoms that a vital sign can be written with. Not responsible for what else devices write, or for which quantity a
parameter is (``units``). Temperatures on a scale with a zero of its own (Cel, [degF]) are no
expressions: they stay there.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

_LONGEST = 64
_LARGEST_EXPONENT = 20
_PREFIXES = {
    "Y": 1e24, "Z": 1e21, "E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "h": 1e2, "da": 1e1,
    "d": 1e-1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15, "a": 1e-18,
}  # fmt: skip

#: Exponents of metre, gram, second, mole, kelvin.
Dimension = tuple[int, int, int, int, int]
NONE: Dimension = (0, 0, 0, 0, 0)
_PRESSURE: Dimension = (-1, 1, -2, 0, 0)
# Atom: (how much of the base units one is, dimension, whether it takes prefixes). Base of mass is the gram.
_ATOMS: dict[str, tuple[float, Dimension, bool]] = {
    "m": (1.0, (1, 0, 0, 0, 0), True), "g": (1.0, (0, 1, 0, 0, 0), True), "s": (1.0, (0, 0, 1, 0, 0), True),
    "[in_i]": (0.0254, (1, 0, 0, 0, 0), False), "[ft_i]": (0.3048, (1, 0, 0, 0, 0), False),
    "[lb_av]": (453.59237, (0, 1, 0, 0, 0), False), "[oz_av]": (28.349523125, (0, 1, 0, 0, 0), False),
    "mol": (1.0, (0, 0, 0, 1, 0), True), "K": (1.0, (0, 0, 0, 0, 1), True), "[degR]": (5 / 9, (0, 0, 0, 0, 1), False),
    "min": (60.0, (0, 0, 1, 0, 0), False), "h": (3600.0, (0, 0, 1, 0, 0), False),
    "Hz": (1.0, (0, 0, -1, 0, 0), True), "L": (1e-3, (3, 0, 0, 0, 0), True), "l": (1e-3, (3, 0, 0, 0, 0), True),
    "N": (1e3, (1, 1, -2, 0, 0), True), "dyn": (1e-2, (1, 1, -2, 0, 0), True), "Pa": (1e3, _PRESSURE, True),
    "bar": (1e8, _PRESSURE, True), "atm": (101325e3, _PRESSURE, False), "[psi]": (6894757.293, _PRESSURE, False),
    "m[Hg]": (133.322e6, _PRESSURE, True), "m[H2O]": (9806.65e3, _PRESSURE, True),
    "[in_i'Hg]": (133.322e6 * 0.0254, _PRESSURE, False), "[in_i'H2O]": (9806.65e3 * 0.0254, _PRESSURE, False),
    "%": (1e-2, NONE, False), "[ppth]": (1e-3, NONE, False), "[ppm]": (1e-6, NONE, False),
    "10*": (10.0, NONE, False), "10^": (10.0, NONE, False),
}  # fmt: skip

_TOKEN = re.compile(r"\{[^{}]*\}|[./()]|(?:10[*^])(?:[+-]?\d+)?|\d+|[^./(){}]+", re.ASCII)
_EXPONENT = re.compile(r"(.*?[^\d+-])([+-]?\d{1,2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Measure:
    """One of a unit: so much (in metre, gram, second, mole, kelvin) of this dimension."""

    amount: float
    dimension: Dimension

    def times(self, other: Measure, sign: int = 1) -> Measure:
        """Return the product with another (`sign` -1: the quotient)."""
        amount = self.amount * other.amount**sign
        first, second = self.dimension, other.dimension
        metre, gram, second_, mole, kelvin = (a + sign * b for a, b in zip(first, second, strict=True))
        return Measure(amount, (metre, gram, second_, mole, kelvin))


class _NotUcum(ValueError):
    pass


@functools.lru_cache(maxsize=512)
def read(text: str) -> Measure | None:
    """Return what an expression is, or None if it is none of the atoms that are known here. Case matters."""
    if not text or len(text) > _LONGEST or not text.isascii():
        return None
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        return None
    try:
        found = _term(tokens)
    except (_NotUcum, OverflowError, ZeroDivisionError):
        return None
    usable = not tokens and math.isfinite(found.amount) and found.amount > 0
    return found if usable else None


def _term(tokens: list[str]) -> Measure:
    """Take a term off the front of `tokens`: up to their end, or to a closing parenthesis."""
    result = Measure(1.0, NONE)
    sign = 1
    if tokens and tokens[0] == "/":
        tokens.pop(0)
        sign = -1
    while True:
        result = result.times(_component(tokens), sign)
        if not tokens or tokens[0] == ")":
            return result
        operator = tokens.pop(0)
        if operator not in (".", "/"):
            raise _NotUcum
        sign = 1 if operator == "." else -1


def _component(tokens: list[str]) -> Measure:
    if not tokens:
        raise _NotUcum
    token = tokens.pop(0)
    if token == "(":  # noqa: S105 - a parenthesis
        found = _term(tokens)
        if not tokens or tokens.pop(0) != ")":
            raise _NotUcum
        return found
    if token.startswith("{"):  # an annotation alone is a 1
        return Measure(1.0, NONE)
    found = _simple(token)
    if tokens and tokens[0].startswith("{"):  # it has no meaning
        tokens.pop(0)
    return found


def _simple(token: str) -> Measure:
    if token.isdigit():
        return Measure(float(token), NONE)
    exponent = 1
    if token not in _ATOMS and (found := _EXPONENT.fullmatch(token)):
        token, exponent = found[1], int(found[2])
    if abs(exponent) > _LARGEST_EXPONENT:
        raise _NotUcum
    amount, (metre, gram, second, mole, kelvin) = _atom(token)
    return Measure(
        amount**exponent,
        (metre * exponent, gram * exponent, second * exponent, mole * exponent, kelvin * exponent),
    )


def _atom(symbol: str) -> tuple[float, Dimension]:
    if symbol in _ATOMS:
        amount, dimension, _ = _ATOMS[symbol]
        return amount, dimension
    for length in (1, 2):
        prefix, rest = symbol[:length], symbol[length:]
        if prefix in _PREFIXES and rest in _ATOMS and _ATOMS[rest][2]:
            amount, dimension, _ = _ATOMS[rest]
            return _PREFIXES[prefix] * amount, dimension
    raise _NotUcum
