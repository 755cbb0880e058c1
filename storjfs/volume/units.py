"""Sizes, durations and amounts as people write them in settings and on the command line."""

import re
from decimal import Decimal
from fractions import Fraction

from storjfs.protocol.terms import CREDIT
from storjfs.volume.errors import SettingsError

_SIZES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "t": 1 << 40,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_DURATIONS = {
    "": 1,
    "s": 1,
    "min": 60,
    "h": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
    "week": 7 * 86400,
    "weeks": 7 * 86400,
}
_SHOWN_SIZES = ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB")
_SHOWN_DURATIONS = ("d", "h", "min", "s")
_QUANTITY = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(text: str | int) -> int:
    """Bytes from `10 GiB`, `500MB`, `4k` (1024) or a plain number. Raises SettingsError."""
    return _quantity(text, _SIZES, "a size", "10 GiB")


def parse_duration(text: str | int) -> int:
    """Seconds from `90 days`, `24 h`, `10min` or a plain number. Raises SettingsError."""
    return _quantity(text, _DURATIONS, "a duration", "24 h")


def parse_credits(text: str | int) -> int:
    """Nanocredits from an exact decimal number of credits. Raises SettingsError."""
    nanocredits = (
        Fraction(str(text)) * CREDIT if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", str(text)) else None
    )
    if nanocredits is None:
        raise SettingsError(f"{text!r} is not an amount of credits", hint='Write it as in "0.005".')
    return int(nanocredits)


def parse_price(text: str | int) -> int:
    """Nanocredits per GiB and month (of 30 days) from `0.005`, which means just that, or from `4/TiB-month`,
    `40/TB-year`: rounded down to a whole nanocredit. Raises SettingsError."""
    amount, per, unit = str(text).partition("/")
    if not per:
        return parse_credits(text)
    found = re.fullmatch(r"([A-Za-z]+)-(month|year)", unit.strip())
    size = _SIZES.get(found[1].lower()) if found else None
    if found is None or size is None:
        raise SettingsError(
            f"{text!r} is not a price", hint='Write it as in "0.005" (per GiB and month) or "4/TiB-month".'
        )
    months = Fraction(365, 30) if found[2] == "year" else 1
    return int(parse_credits(amount.strip()) * Fraction(1 << 30, size) / months)


def parse_region(text: str) -> str:
    """A region as `EU` or `EU-DE`, in capitals; empty for none. Raises SettingsError."""
    if not re.fullmatch(r"[A-Za-z0-9]{0,16}(-[A-Za-z0-9]{1,16}){0,3}", text):
        raise SettingsError(f"{text!r} is not a region", hint='Write it as in "EU" or "EU-DE".')
    return text.upper()


def show_size(size: int) -> str:
    """The shortest text from which `parse_size` gives exactly `size` back."""
    return _shown(size, _SHOWN_SIZES, _SIZES, "B")


def show_duration(seconds: int) -> str:
    """The shortest text from which `parse_duration` gives exactly `seconds` back."""
    return _shown(seconds, _SHOWN_DURATIONS, _DURATIONS, "s")


def show_credits(nanocredits: int) -> str:
    """The decimal number of credits, exactly."""
    text = f"{Decimal(nanocredits) / CREDIT:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _quantity(text: str | int, units: dict[str, int], what: str, example: str) -> int:
    found = _QUANTITY.fullmatch(str(text))
    unit = units.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise SettingsError(f"{text!r} is not {what}", hint=f'Write it as in "{example}".')
    return int(Fraction(found[1]) * unit)


def _shown(number: int, names: tuple[str, ...], units: dict[str, int], smallest: str) -> str:
    fitting = [name for name in names if number and number % units[name.lower()] == 0]
    if not fitting:
        return f"{number} {smallest}"
    # The first of the shortest: 10 GiB rather than 10240 MiB, and 20 GB rather than 19531250 KiB.
    shown = [f"{number // units[name.lower()]} {name}" for name in fitting]
    return min(shown, key=lambda text: len(text.partition(" ")[0]))
