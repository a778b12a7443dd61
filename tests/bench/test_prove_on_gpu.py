"""The one command for a machine with a GPU, on this one: every part a row, whatever it raises."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "tools/prove_on_gpu.py"


@pytest.fixture(scope="module")
def prove() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prove_on_gpu", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["prove_on_gpu"] = module  # where its dataclasses look for their annotations
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def run(prove: ModuleType, out: Path, *words: str) -> tuple[int, dict, str]:
    status = prove.main(["--out", str(out), "--device", "cpu", "--tiny", *words])
    return status, json.loads((out / "proofs.json").read_text()), (out / "proofs.md").read_text()


def test_a_family_is_proved_and_what_needs_a_gpu_says_so(prove, tmp_path):
    status, found, table = run(prove, tmp_path, "--parts", "forest", "device", "kernels", "--families", "llama")
    by_part = {part: [row for row in found["rows"] if row["part"] == part] for part in ("forest", "device", "kernels")}
    assert status == 0
    assert [row["case"] for row in by_part["forest"]] == ["llama, float32", "llama, bfloat16"]
    assert 0 < by_part["forest"][0]["figures"]["gradient apart"] < 1e-4
    assert len(by_part["device"]) == 3
    assert {row["status"] for row in by_part["forest"] + by_part["device"]} == {"passed"}
    assert {(row["status"], row["why"]) for row in by_part["kernels"]} == {
        ("skipped", "the compiled kernels are a GPU's")
    }
    assert found["environment"]["versions"]["torch"] in table
    assert f"5 passed, 0 failed, {len(by_part['kernels'])} skipped" in table


def test_a_part_that_fails_is_a_row_and_the_rest_goes_on(prove, tmp_path, monkeypatch):
    monkeypatch.setattr(prove, "BOUND", 1e-12)
    status, found, table = run(prove, tmp_path, "--parts", "forest", "--families", "llama", "no such family")
    assert status == 1
    assert [row["status"] for row in found["rows"]] == ["failed", "passed", "failed", "failed"]
    assert "the bound is 1.0e-12" in found["rows"][0]["why"]
    assert "KeyError: 'no such family'" in found["rows"][2]["why"]
    assert "3 failed" in table
    assert found["finished"] is True


def test_what_an_interrupted_proof_measured_stays_and_says_that_it_is_not_all(prove, tmp_path, monkeypatch):
    def parts(options):
        yield "measured", lambda: {"apart": 0.0}
        yield "interrupted", interrupt

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setitem(prove.PARTS, "forest", parts)
    with pytest.raises(KeyboardInterrupt):
        run(prove, tmp_path, "--parts", "forest")
    found = json.loads((tmp_path / "proofs.json").read_text())
    assert found["finished"] is False
    assert [row["case"] for row in found["rows"]] == ["measured"]
    assert "1 passed, 0 failed, 0 skipped; not finished" in (tmp_path / "proofs.md").read_text()


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(prove):
    child = "import time; time.sleep(60)"
    program = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', '{child}'])"
    began = time.monotonic()
    status, said, _ = prove.run_to_end([sys.executable, "-c", program], limit=1.0)
    assert (status, time.monotonic() - began < 30) == (None, True)
    assert said in ("begun\n", "")  # a busy machine may not have come to it


def test_without_a_gpu_the_command_says_how_to_try_it(tmp_path):
    if __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, PROGRAM, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--device cpu --tiny" in done.stderr
    assert not (tmp_path / "out").exists()


def test_one_measured_part_runs_to_its_end(prove, tmp_path, shared):
    status, found, table = run(prove, tmp_path, "--parts", "sft")
    (row,) = found["rows"]
    assert (status, row["status"]) == (0, "passed"), row["why"]
    assert row["figures"]["heed"]["wall_seconds"] > 0
    assert "sizes that prove nothing of speed" in table
