"""Kubernetes' quantities: `500m` of a CPU, `1.5Gi`, and what an API server makes of them (`1181116006400m`).

    quantity("128Mi")          # Decimal(134217728)
    whole(quantity("1.5"))     # 2: Kubernetes rounds up, too

Grammar and rounding: k8s.io/apimachinery v0.30, pkg/api/resource/quantity.go.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_UP, Context, Decimal

__all__ = ["quantity", "whole"]

_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?:(?P<binary>[KMGTPE]i)|(?P<decimal>[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]+))?",
    re.ASCII,
)
_BINARY = {f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_NANO = Decimal("1e-9")
_MOST_BINARY = Decimal(2**63 - 1)
_LONGEST, _HIGHEST = 64, 99
"""What is longer, or has more zeros, is nobody's resource, and would only take time to be computed."""
_EXACT = Context(prec=4 * (_LONGEST + _HIGHEST))


def quantity(text: str | float) -> Decimal:
    """What a quantity is in its base unit (CPUs, bytes, pieces), exactly; YAML's plain numbers are some, too.

    Finer parts than a billionth are rounded away from zero, binary ones are at most 2^63 - 1, as Kubernetes
    does. ValueError, in plain words, for what is none.
    """
    found = _QUANTITY.fullmatch(str(text)) if not isinstance(text, bool) else None
    if found is None or len(found[0]) > _LONGEST:
        raise ValueError(f"{text!s:.40} is no quantity of Kubernetes': write 250m, 1.5, 512Mi or 2Gi")
    power = int(found["exponent"] or _DECIMAL.get(found["decimal"] or "", 0))
    if abs(power) > _HIGHEST:
        raise ValueError(f"{text} is beyond any resource")
    amount = _EXACT.scaleb(Decimal(found["number"]), power)
    if found["binary"]:
        amount = _EXACT.multiply(amount, Decimal(_BINARY[found["binary"]]))
        amount = min(amount, _MOST_BINARY)
    amount = amount.quantize(_NANO, rounding=ROUND_UP, context=_EXACT)
    return _EXACT.minus(amount) if found["sign"] == "-" else amount


def whole(amount: Decimal) -> int:
    """Rounded up to a whole number."""
    return int(amount.to_integral_value(rounding=ROUND_CEILING))
