"""The exponents, the table and the picture of the measurements over size: from numbers whose law is known."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("scaling")


def test_a_power_law_has_its_exponent_and_no_doubt(scaling: ModuleType) -> None:
    slope, doubt = scaling.exponent([1, 10, 100, 1_000], [3 * x**1.5 for x in (1, 10, 100, 1_000)])
    assert slope == pytest.approx(1.5)
    assert doubt == pytest.approx(0, abs=1e-6)


def test_the_interval_is_students(scaling: ModuleType) -> None:
    """By hand: logarithms 0, 1, 2 against 0, 1.5, 2 have slope 1 and a squared rest of 1/6, so 12.71 sqrt(1/6 / 2)."""
    e = 2.718281828459045
    slope, doubt = scaling.exponent([1, e, e**2], [1, e**1.5, e**2])
    assert slope == pytest.approx(1.0)
    assert doubt == pytest.approx(12.71 * (1 / 12) ** 0.5, rel=1e-6)


def test_two_points_have_no_exponent(scaling: ModuleType) -> None:
    assert scaling.exponent([1, 2], [1, 2]) is None


def test_the_table_says_what_was_shared_and_where_the_peer_was_not_run(scaling: ModuleType) -> None:
    run = {"cpu_seconds": 2.0, "wall_seconds": 1.0, "peak_memory_bytes": 10**9, "tokens_per_second": 1_024.0}
    at_0 = scaling.sft("shared", 0.0, {"model": "3M", "batch": 4, "length": 256, "shared": 0.0})
    at_half = scaling.sft("shared", 0.5, {"model": "3M", "batch": 4, "length": 256, "shared": 0.5})
    trl = {**run, "cpu_seconds": 5.0, "setting": "b4"}
    found = [at_0 | {"heed": run, "trl": trl, "ratio": 2.5}, at_half | {"heed": run, "trl_failed": {"b1": "why"}}]
    lines = scaling.table(found).splitlines()
    assert "| 4 x 256, 0% | 2.00 | 1.00 | 1,024 | 1.00 | 5.00 (b4) | 2.50 |" in lines[2]
    assert "| 4 x 256, 50% | 2.00 | 1.00 | 1,024 | 1.00 | not run |" in lines[3]


def test_points_have_names_of_their_own_and_include_no_sharing(scaling: ModuleType) -> None:
    for quick in (True, False):
        points = scaling.points(quick=quick)
        assert len({scaling.name_of(point) for point in points}) == len(points)
        assert any(point["over"] == "shared" and point["shared"] == 0 for point in points)


def test_the_picture_has_a_panel_for_each_thing_that_grows(scaling: ModuleType) -> None:
    run = {"cpu_seconds": 2.0, "wall_seconds": 1.0, "peak_memory_bytes": 10**9}
    found = [
        {"over": over, "x": x, "heed": run | {"cpu_seconds": float(x)}}
        for over in ("length", "records")
        for x in (1, 2)
    ]
    drawn = scaling.drawing(found)
    assert drawn.count("CPU seconds over length") == drawn.count("CPU seconds over records") == 1
    assert drawn.count("<path") == 2
