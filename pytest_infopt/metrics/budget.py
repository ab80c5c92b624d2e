"""Budgets: a limit on a metric, with the unit it was written in and where it was written.

Also the one place where a metric's numbers become text (`format_value`), so that a limit reads the
same in every report as it may be written in infopt.toml.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from ..errors import ConfigurationError
from .metric import Metric, Rule, Unit

_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "min": 60.0}
_SIZES = {"B": 1.0, "bytes": 1.0} | {
    prefix + suffix: base**power
    for base, suffix in ((1024.0, "iB"), (1000.0, "B"))
    for power, prefix in enumerate("KMGT", start=1)
}
_SIZES["kB"] = 1000.0  # the SI prefix is a small k; both spellings are in use

# What may stand behind a number, and the factor to the metric's own unit. "" is a plain number.
_SUFFIXES: dict[Unit, dict[str, float]] = {
    Unit.NATS: {"": 1.0, "nats": 1.0, "nat": 1.0},
    Unit.SHARE: {"": 1.0, "%": 0.01},
    Unit.RATIO: {"": 1.0, "x": 1.0},  # and a signed percentage, see _number
    Unit.SECONDS: {"": 1.0} | _TIMES,
    Unit.BYTES: {"": 1.0} | _SIZES,  # and "0.3x", see parse_budget
    Unit.DECIBEL: {"": 1.0, "dB": 1.0},
    Unit.COUNT: {"": 1.0},
    Unit.NUMBER: {"": 1.0},
}
_ALLOWED: dict[Unit, str] = {
    Unit.NATS: 'a number ≥ 0 of nats, such as 0.05 or "0.05 nats"',
    Unit.SHARE: 'a share from 0 to 1 or a percentage, such as 0.99 or "99 %"',
    Unit.RATIO: 'a factor > 0 or a signed percentage, such as 1.05, "1.05x" or "+5 %"',
    Unit.SECONDS: 'a time > 0 in s, ms, us, ns or min, such as "200 ms" (a plain number: seconds)',
    Unit.BYTES: 'a size ≥ 0 in B, KiB, MiB, GiB, kB, MB or GB, such as "250 MiB", '
    'or a factor > 0 of the reference\'s, such as "0.3x"',
    Unit.DECIBEL: 'a finite number of decibels, such as "40 dB"',
    Unit.COUNT: "a whole number ≥ 0, such as 3",
    Unit.NUMBER: "a finite number, such as 0.999",
}
_WRITTEN = re.compile(r"\s*([+-]?)(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\s*(\D*?)\s*")


@dataclass(frozen=True)
class Budget:
    """A limit on ``metric`` in the metric's unit.

    ``relative`` marks a limit on bytes that was written as a share of the reference's ("0.3x"): the
    limit is then that factor. ``origin`` says where the limit comes from, for messages.
    """

    metric: Metric
    limit: float
    relative: bool = False
    origin: str = "default"

    @property
    def is_default(self) -> bool:
        """Whether nobody wrote this limit."""
        return self.origin.startswith("default")

    def describe(self) -> str:
        """The limit as reports print it: "≤ 0.05 nats", "≥ 99 %", "≤ 0.3x of the reference's"."""
        sign = "≥" if self.metric.higher_is_better else "≤"
        if self.relative:
            return f"{sign} {self.limit:.6g}x of the reference's"
        return f"{sign} {_format(self.metric.unit, self.limit, 6)}"


def parse_budget(metric: Metric, text: str | float | int, origin: str) -> Budget:
    """The budget that ``text`` (a TOML value or a command-line word) sets on ``metric``.

    ``origin`` (file and line, or option) goes into the budget and into every message. Raises
    ConfigurationError naming value, metric and what may be written, for an unknown unit, a number
    that is not finite or out of the unit's range, and a limit that no candidate could break.
    """
    sign, number, suffix = _number(metric, text, origin)
    unit = metric.unit
    if unit is Unit.BYTES and suffix == "x":
        if number <= 0:
            raise _refused(metric, text, origin, "a factor must be above 0")
        return Budget(metric, number, relative=True, origin=origin)
    if unit is Unit.RATIO and suffix == "%":
        if not sign:
            raise _refused(metric, text, origin, "a change in per cent needs its sign")
        limit = _scaled(100 + number, 0.01)
    elif suffix in _SUFFIXES[unit]:
        limit = _scaled(number, _SUFFIXES[unit][suffix])
    else:
        raise _refused(metric, text, origin, f"the unit {suffix!r} does not fit")
    complaint = _complaint(metric, limit)
    if unit is Unit.BYTES and not suffix and not limit.is_integer() and math.isfinite(limit):
        complaint = "bytes are whole; a share of the reference's is written with an x"
    if complaint:
        raise _refused(metric, text, origin, complaint)
    return Budget(metric, limit, origin=origin)


def _number(metric: Metric, text: str | float | int, origin: str) -> tuple[str, float, str]:
    """Sign as written, signed number, suffix."""
    if isinstance(text, bool) or not isinstance(text, (str, float, int)):
        raise _refused(metric, text, origin, "it is not a number")
    if not isinstance(text, str):
        return "", float(text), ""
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise _refused(metric, text, origin, "it is not a number with a unit")
    sign, digits, suffix = match.groups()
    return sign, float(sign + digits), suffix


def _scaled(number: float, factor: float) -> float:
    """number · factor, in decimal as both were written: 99.9 % is 0.999 and nothing beside it."""
    return float(Decimal(repr(number)) * Decimal(repr(factor)))


def _complaint(metric: Metric, limit: float) -> str:
    """What is wrong with the limit, or nothing."""
    if not math.isfinite(limit):
        return "it is not finite"
    if metric.unit is Unit.SHARE:
        if not 0 <= limit <= 1:
            return "a share lies between 0 and 1"
        if limit == (0 if metric.higher_is_better else 1):
            return "no candidate could break this limit; leave the budget out"
        if metric.rule is Rule.PROPORTION and limit in (0, 1):
            return "no number of trials shows a rate without exception"
    if _better_than_equal(metric, limit):
        return f"the reference itself has {_format(metric.unit, metric.equal or 0.0, 3)}"
    if metric.unit in (Unit.RATIO, Unit.SECONDS) and limit <= 0:
        return "it must be above 0"
    if metric.unit in (Unit.NATS, Unit.BYTES, Unit.COUNT) and limit < 0:
        return "it must not be negative"
    if metric.unit is Unit.COUNT and limit != int(limit):
        return "a count is a whole number"
    return ""


def _better_than_equal(metric: Metric, limit: float) -> bool:
    """Whether the reference itself would break the limit, for what it cannot be better at."""
    if metric.equal is None or limit == metric.equal:
        return False
    return (limit > metric.equal) is metric.higher_is_better


def _refused(metric: Metric, text: object, origin: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{origin}: budget {text!r} of {metric.name}: {why}; write {_ALLOWED[metric.unit]}"
    )


def format_value(metric: Metric, value: float) -> str:
    """A value of the metric as people read it, to three significant digits, with its unit.

    Where the distance from 1 is what matters, digits are counted from there: a share of 0.99962 is
    "99.962 %", a ratio of 1.0034 is "1.003x".
    """
    return _format(metric.unit, value, 3)


def _format(unit: Unit, value: float, digits: int) -> str:
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if unit is Unit.SHARE:
        return f"{_near(100 * value, 100, digits)} %"
    if unit is Unit.RATIO:
        return f"{value:.{max(digits, 4)}g}x"
    if unit is Unit.SECONDS:
        return _with_prefix(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)), digits)
    if unit is Unit.BYTES:
        sizes = (("GiB", 1024.0**3), ("MiB", 1024.0**2), ("KiB", 1024.0))
        return _with_prefix(value, (*sizes, ("B", 1.0)), max(digits, 4))
    if unit is Unit.COUNT:
        return f"{value:.0f}" if value == int(value) else f"{value:.{digits}g}"
    if unit is Unit.NUMBER:
        return f"{_near(value, 1, digits)}"
    return f"{value:.{digits}g} {unit.value}"


def _near(value: float, whole: float, digits: int) -> str:
    """Enough digits to show how far ``value`` is from ``whole``, at least ``digits``."""
    gap = abs(whole - value)
    if 0 < gap < abs(value) / 10:
        digits += math.ceil(math.log10(abs(value) / gap)) - 1
    return f"{value:.{min(digits, 15)}g}"


def _with_prefix(value: float, scales: tuple[tuple[str, float], ...], digits: int) -> str:
    """In the largest unit that leaves at least 1 before the point; else in the smallest."""
    if value == 0:
        return f"0 {scales[0][0] if scales[0][1] == 1 else scales[-1][0]}"
    name, scale = next(((n, s) for n, s in scales if abs(value) >= s), scales[-1])
    return f"{value / scale:.{digits}g} {name}"
