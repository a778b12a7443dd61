"""How many records of each data set a mixture holds. Pure; numbers in, whole numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from heed.errors import UserError, typed

ROUNDED = Fraction(1, 1_000)
"""by which shares of all data sets may miss the whole, as 33.3% three times does"""


@dataclass(frozen=True, slots=True)
class Part:
    """One data set of a mixture."""

    path: str
    num_records: int
    weight: float = 1.0
    """how often its records are drawn, relative to once each"""
    share: float | None = None
    """of the mixture; None: by its weight"""
    cap: int | None = None
    """records that count at most"""

    @property
    def counted(self) -> int:
        """Its records, as many as count."""
        return self.num_records if self.cap is None else min(self.num_records, self.cap)

    @property
    def most(self) -> int:
        """How often it is drawn at most where nothing is said of repeating: once each, unless its weight says more."""
        return round(max(self.weight, 1.0) * self.counted)


@dataclass(frozen=True, slots=True)
class Planned:
    """How often a data set is drawn."""

    draws: int
    wanted: int
    """what its share of the size is; more than `draws` where it has too few records"""


def planned(parts: Sequence[Part], size: int | None, repeats: bool) -> list[Planned]:
    """How often each data set is drawn.

    With no size and no shares: round(weight x min(num_records, cap)), as an epoch of training draws (T5,
    arXiv:1910.10683, 3.5.2). With a size, as many records as that, in the proportion of the shares; a data set without
    one takes its part of what the shares leave, in proportion to weight x min(num_records, cap). With shares and no
    size, the mixture is as large as it can be with no record drawn more often than its weight says.

    Whole numbers are the parts rounded down, and one more for the largest remainders until the sum is right
    (Hamilton's method); the first data sets first where remainders are equal.

    Args:
        size: of the mixture, in records.
        repeats: whether records are drawn again where a data set has fewer than its part; otherwise it is drawn as
            often as it can be, and the mixture is smaller.

    Raises:
        UserError: the shares are no division of a whole, or a data set would never be drawn.
    """
    proportions = _proportions(parts)
    if size is None and all(part.share is None for part in parts):
        wanted = [round(part.weight * part.counted) for part in parts]
    else:
        if size is None:
            size = max(int(min(part.most / each for part, each in zip(parts, proportions, strict=True) if each)), 1)
        wanted = apportioned(proportions, size)
    for part, count in zip(parts, wanted, strict=True):
        if count == 0:
            raise UserError(
                "a data set of the mixture would never be drawn",
                where=part.path,
                found=f"{part.num_records:,} records, weight {part.weight:g}, of which 0 are drawn",
                expected="at least one",
                fix="a larger --size, or leave that data set out",
            )
    return [
        Planned(count if repeats else min(count, part.most), count) for part, count in zip(parts, wanted, strict=True)
    ]


def _proportions(parts: Sequence[Part]) -> list[Fraction]:
    shares = [None if part.share is None else Fraction(str(part.share)) for part in parts]
    total = sum((share for share in shares if share is not None), Fraction(0))
    others = [Fraction(str(part.weight)) * part.counted for part in parts if part.share is None]
    if not others and abs(total - 1) <= ROUNDED:
        return [share / total for share in shares if share is not None]
    if total > 1 or not others or total == 1:
        given = [f"{part.path}:{100 * part.share:g}%" for part in parts if part.share is not None]
        scaled = [f"{part.path}:{float(100 * share / total):.4g}%" for part, share in _with_share(parts, shares)]
        raise UserError(
            "the shares are no division of the whole",
            where="heed data mix",
            found=f"{' '.join(given)}, together {float(100 * total):g}%"
            + (f", and {len(others)} data sets without a share" if others else ""),
            expected="100% together; or less, and data sets without a share, which take the rest",
            fix=" ".join(map(typed, scaled)),
        )
    rest, whole = 1 - total, sum(others, Fraction(0))
    return [
        Fraction(str(part.weight)) * part.counted * rest / whole if share is None else share
        for part, share in zip(parts, shares, strict=True)
    ]


def _with_share(parts: Sequence[Part], shares: Sequence[Fraction | None]) -> list[tuple[Part, Fraction]]:
    return [(part, share) for part, share in zip(parts, shares, strict=True) if share is not None]


def apportioned(proportions: Sequence[Fraction], size: int) -> list[int]:
    """Whole numbers with the sum `size`, as near to the proportions, which have the sum 1, as they can be."""
    exact = [each * size for each in proportions]
    counts = [int(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda m: (counts[m] - exact[m], m))
    for m in by_remainder[: size - sum(counts)]:
        counts[m] += 1
    return counts
