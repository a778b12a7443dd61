"""Lines of numbers: what they look like, and how a resumed run drops those of steps it repeats."""

import json

import pytest

from heed.errors import UserError
from heed.train.metrics import drop_lines_after, metrics_line


def lines(*steps):
    return "".join(f'{{"step": {step}, "phase": "train", "loss": 1.5}}\n' for step in steps)


def test_a_line_says_step_phase_and_numbers_with_all_their_digits():
    line = metrics_line(5, "train", {"loss": 0.1 + 0.2, "tokens": 12})
    assert line == '{"step": 5, "phase": "train", "loss": 0.30000000000000004, "tokens": 12}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_null(value):
    assert json.loads(metrics_line(1, "held_out", {"perplexity": value}))["perplexity"] is None


def test_numbers_of_numpy_and_torch_are_written_as_numbers():
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    line = json.loads(metrics_line(1, "train", {"a": numpy.float32(0.5), "b": torch.tensor(0.25)}))
    assert (line["a"], line["b"]) == (0.5, 0.25)


def test_lines_after_the_step_are_dropped_and_the_rest_is_kept_byte_for_byte(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1, 2, 2, 3, 4))
    assert drop_lines_after(path, 2) == 2
    assert path.read_text() == lines(1, 2, 2)


def test_a_last_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1, 2) + '{"step": 1, "pha')
    assert drop_lines_after(path, 5) == 1
    assert path.read_text() == lines(1, 2)


def test_a_last_line_of_zeros_left_by_a_power_cut_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1).encode() + b"\0" * 20 + b"\n")
    assert drop_lines_after(path, 5) == 1
    assert path.read_text() == lines(1)


def test_minus_one_drops_the_measurements_made_before_the_first_step_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(0, 1))
    assert drop_lines_after(path, -1) == 2
    assert path.read_text() == ""


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1) + "oops\n" + lines(2))
    with pytest.raises(UserError, match=r"line 2\n.*oops"):
        drop_lines_after(path, 1)
    assert path.read_text() == lines(1) + "oops\n" + lines(2)


def test_a_file_that_is_not_there_has_nothing_to_drop(tmp_path):
    assert drop_lines_after(tmp_path / "samples.jsonl", 3) == 0
    assert not (tmp_path / "samples.jsonl").exists()
