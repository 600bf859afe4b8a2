"""Calendar days as people write them in English, for the task `dates`."""

import random
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

# Every format names the day without doubt: no 3/4/1987, no 3 Mar 87.
FORMATS = (
    "{month} {d}, {year}",
    "{month} {nth}, {year}",
    "{month} the {nth}, {year}",
    "{month} the {ordinal}, {year}",
    "{mon} {d} {year}",
    "{mon}. {nth}, {year}",
    "{d} {month} {year}",
    "{d} {mon} {year}",
    "{dd}-{mon}-{year}",
    "{dd}{mon}{year}",
    "{d} {roman} {year}",
    "{d}.{roman}.{year}",
    "the {nth} of {month} {year}",
    "the {ordinal} of {month}, {year}",
    "on the {nth} day of {month}, {year}",
    "{weekday}, {d} {month} {year}",
    "{weekday}, {month} {nth}, {year}",
    "{weekday}, the {ordinal} of {month} {year}",
    "{wday} {mon} {d} {year}",
    "{wday}, {dd} {mon} {year}",
    "{year}/{mm}/{dd}",
    "{year}.{mm}.{dd}",
    "{year}{mm}{dd}",
    "{year}-{mon}-{dd}",
    "{year} {month} {d}",
    "{year}, {month} {nth}",
)
LETTER_CASES = (str, str, str, str.lower, str.upper)

# Spelled out, because the names in the module `calendar` follow the locale.
# fmt: off
MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ROMAN = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"]
ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth",
    "nineteenth", "twentieth", "twenty-first", "twenty-second", "twenty-third", "twenty-fourth", "twenty-fifth",
    "twenty-sixth", "twenty-seventh", "twenty-eighth", "twenty-ninth", "thirtieth", "thirty-first",
]
# fmt: on


class Written(NamedTuple):
    """A day, and a text that names it."""

    text: str
    day: date


class Days(NamedTuple):
    """Calendar days by what they are used for; no day is in two of the lists."""

    training: list[date]
    calibration: list[date]
    evaluation: list[date]


def split_days(first_year: int, last_year: int, *, calibration: int, evaluation: int, seed: int) -> Days:
    """Shuffle all days from the first year to the last: so many for calibration and evaluation, the rest for training.

    Raises:
        ValueError: none is left to train on.
    """
    ordinals = range(date(first_year, 1, 1).toordinal(), date(last_year, 12, 31).toordinal() + 1)
    held_out = calibration + evaluation
    if held_out >= len(ordinals):
        raise ValueError(
            f"the years {first_year} to {last_year} have {len(ordinals)} days, and calibration and evaluation take "
            f"{held_out}, so none is left to train on: give more years or fewer examples"
        )
    days = [date.fromordinal(ordinal) for ordinal in ordinals]
    random.Random(seed).shuffle(days)
    return Days(days[held_out:], days[evaluation:held_out], days[:evaluation])


def write(days: Iterable[date], rng: random.Random) -> list[Written]:
    """Each day with a text for it, whose format and letter case (as is, lower, upper) `rng` draws."""
    return [Written(rng.choice(LETTER_CASES)(render(day, rng.choice(FORMATS))), day) for day in days]


def render(day: date, form: str) -> str:
    """The day as text, in one of `FORMATS`."""
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    return form.format(
        year=day.year,
        month=month,
        mon=month[:3],
        mm=f"{day.month:02}",
        roman=ROMAN[day.month - 1],
        d=day.day,
        dd=f"{day.day:02}",
        nth=f"{day.day}{_suffix(day.day)}",
        ordinal=ORDINALS[day.day - 1],
        weekday=weekday,
        wday=weekday[:3],
    )


def _suffix(number: int) -> str:
    return "th" if 11 <= number <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
