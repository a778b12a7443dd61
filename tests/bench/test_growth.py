"""What the measurements over size run, keep and say: their order, exponents, table and picture, from known numbers."""

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"
POINT = {"over": "lengths", "x": 64, "kind": "sft", "model": "3M", "batch": 4, "length": 64, "shared": 0.125}
RUN = {"cpu_seconds": 2.0, "wall_seconds": 1.0, "peak_memory_bytes": 10**9, "tokens_per_cpu_second": 1_024.0}
WHERE = {"processor": "a processor", "instruction_sets": ["avx2"], "cores": 2, "memory_bytes": 24 * 10**9}
CONDITIONS = {"machine": WHERE, "threads": 2, "dtype": "float32", "versions": {"torch": "2"}}


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("scaling")
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    return module


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("scaling_report")


def ran(repeat: int, contestant: str, cpu: float) -> dict:
    return {"repeat": repeat, "contestant": contestant, **RUN, "cpu_seconds": cpu}


# ---- the order of runs


def test_the_first_repeat_tries_every_setting_and_the_others_the_best_in_alternation(scaling: ModuleType) -> None:
    runs, order = [], []
    cost = {"heed": 1.0, "b1-grouped": 9.0, "b4-grouped": 5.0, "b4-grouped-unpadded": 7.0}
    while (turn := next(scaling.schedule(POINT, runs, 3), None)) is not None:
        order.append(turn)
        runs.append(ran(*turn, cost[turn[1]]))
    assert order == [
        *((0, name) for name in cost),
        *((1, name) for name in ("b4-grouped", "heed")),
        *((2, name) for name in ("heed", "b4-grouped")),
    ]


def test_a_setting_that_failed_is_not_the_best_and_is_told(scaling: ModuleType) -> None:
    runs = [ran(0, "heed", 1.0), {"repeat": 0, "contestant": "b1-grouped", "failed": "why"}, ran(0, "b4-grouped", 5.0)]
    found = scaling.found_at(POINT, runs)
    assert (found["trl"]["setting"], found["ratio"]) == ("b4-grouped", 5.0)
    assert found["failed"] == {"b1-grouped": "why"}
    assert scaling.found_at(POINT, runs[1:]) is None


def test_the_median_of_all_repeats_counts(scaling: ModuleType) -> None:
    runs = [ran(i, name, cpu) for i in range(3) for name, cpu in (("heed", 1.0 + i), ("b4-grouped", 9.0 - i))]
    found = scaling.found_at(POINT, runs)
    assert (found["heed"]["cpu_seconds"], found["trl"]["cpu_seconds"], found["ratio"]) == (2.0, 8.0, 4.0)


def test_without_the_peer_and_for_what_it_does_not_do_heed_runs_alone(scaling: ModuleType, monkeypatch) -> None:
    records = {"over": "records", "x": 1_000, "kind": "prepare"}
    assert list(scaling.schedule(records, [], 2)) == [(0, "heed"), (1, "heed")]
    assert list(scaling.schedule(records | {"x": 1_000_000}, [], 2)) == [(0, "heed")]
    monkeypatch.setattr(scaling, "find_spec", lambda name: None)
    assert list(scaling.schedule(POINT, [], 1)) == [(0, "heed")]


def test_runs_outlive_a_kill_in_the_middle_of_a_line_and_other_conditions_are_refused(
    scaling: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "scaling.jsonl"
    scaling.Kept(path, {"threads": 2}).add(POINT, ran(0, "heed", 1.0))
    with path.open("a") as file:
        file.write('{"point": "lengths 64", "rep')
    again = scaling.Kept(path, {"threads": 2})
    again.add(POINT, ran(1, "heed", 2.0))
    assert [run["repeat"] for run in scaling.Kept(path, {"threads": 2}).of(POINT)] == [0, 1]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    with pytest.raises(SystemExit, match="another threads"):
        scaling.Kept(path, {"threads": 1})


def test_no_run_begins_when_the_time_is_over(scaling: ModuleType, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling, "make", lambda *given: {})
    kept = scaling.Kept(tmp_path / "scaling.jsonl", {})
    with pytest.raises(scaling.OutOfTimeError):
        scaling.measure(POINT, kept, argparse.Namespace(repeats=1), until=float("-inf"))
    assert kept.of(POINT) == []


def test_points_have_names_of_their_own_and_settings_that_divide_the_step(scaling: ModuleType) -> None:
    for quick in (True, False):
        points = scaling.points(quick=quick)
        assert len({scaling.name_of(point) for point in points}) == len(points)
        assert {point["over"] for point in points} == set(scaling.OVERS)
        for point in points:
            if point["kind"] == "sft":
                rows = [int(name.removeprefix("b").split("-")[0]) for name in scaling.trl_settings(point)]
                assert rows
                assert all(point["batch"] % n == 0 for n in rows)


# ---- the report


def test_a_power_law_has_its_exponent_and_no_doubt(report: ModuleType) -> None:
    slope, doubt = report.exponent([1, 10, 100, 1_000], [3 * x**1.5 for x in (1, 10, 100, 1_000)])
    assert slope == pytest.approx(1.5)
    assert doubt == pytest.approx(0, abs=1e-6)


def test_the_interval_is_students(report: ModuleType) -> None:
    """By hand: logarithms 0, 1, 2 against 0, 1.5, 2 have slope 1 and a squared rest of 1/6, so 12.71 sqrt(1/6 / 2)."""
    e = 2.718281828459045
    slope, doubt = report.exponent([1, e, e**2], [1, e**1.5, e**2])
    assert slope == pytest.approx(1.0)
    assert doubt == pytest.approx(12.71 * (1 / 12) ** 0.5, rel=1e-6)


def test_two_points_have_no_exponent(report: ModuleType) -> None:
    assert report.exponent([1, 2], [1, 2]) is None


def test_the_table_says_where_and_what_was_shared_and_where_the_peer_was_not_run(report: ModuleType) -> None:
    heed = RUN | {"repeats": 3}
    trl = heed | {"cpu_seconds": 5.0, "setting": "b4-grouped"}
    found = [
        POINT | {"heed": heed, "trl": trl, "ratio": 2.5, "spread": True},
        POINT | {"x": 128, "length": 128, "heed": heed, "failed": {"b1": "why"}},
    ]
    text = report.table(found, CONDITIONS)
    assert "a processor (avx2), 2 cores, 24 GB; 2 threads, float32; torch 2." in text
    assert (
        "| 4 x 16 to 64, 0.125 | 3 | 2.00 | 1.00 | 1,024 | 1.00 | 5.00 (b4-grouped) | 1,024 | 1.00 | **2.50** |" in text
    )
    assert "| 4 x 128, 0.125 | 3 | 2.00 | 1.00 | 1,024 | 1.00 | not run |" in text
    assert "- left out at lengths 128: b1: why" in text


def test_exponents_are_told_of_both_sides_and_of_the_last_step_alone(report: ModuleType) -> None:
    found = [
        POINT | {"x": x, "heed": RUN | {"cpu_seconds": float(x)}, "trl": RUN | {"cpu_seconds": float(x * x)}}
        for x in (10, 100, 1_000)
    ]
    told = list(report.growth(found))
    assert told[0].startswith(
        "- CPU seconds of heed over lengths: exponent 1.00 ± 0.00 (3 points), 1.00 from 100 to 1,000"
    )
    assert told[2].startswith("- CPU seconds of TRL over lengths: exponent 2.00 ± 0.00 (3 points), 2.00 from")
    assert len(told) == 4


def test_the_picture_has_two_panels_for_each_thing_that_grows(report: ModuleType) -> None:
    found = [{"over": over, "x": x, "heed": RUN} for over in ("equal", "records", "shared") for x in (1, 2)]
    drawn = report.drawing(found)
    assert drawn.count("CPU seconds over equal") == drawn.count("peak memory, GB, over records") == 1
    assert drawn.count("<path") == 4
