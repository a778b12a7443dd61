"""`heed eval` as a process of its own: killed and gone on with, without a network, on the real files of many tasks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

FILES = {
    "arc": "arc-challenge.jsonl",
    "arc_easy": "arc-easy.jsonl",
    "bbq": "bbq-age.jsonl",
    "boolq": "boolq.jsonl",
    "copa": "copa.jsonl",
    "crows_pairs": "crows-pairs.csv",
    "gsm8k": "gsm8k-test.jsonl",
    "hellaswag": "hellaswag.jsonl",
    "ifeval": "ifeval-en.jsonl",
    "lambada": "lambada.jsonl",
    "piqa": "piqa.jsonl",
    "selfaware": "selfaware.json",
    "stereoset": "stereoset.jsonl",
    "triviaqa": "triviaqa-3000.jsonl",
    "truthfulqa_mc1": "truthfulqa.csv",
    "truthfulqa_mc2": "truthfulqa.csv",
    "winogender": "winogender-all-sentences.tsv",
    "winogrande": "winogrande.jsonl",
    "xcopa_vi": "xcopa-vi.jsonl",
    "xquad_vi": "xquad-vi.json",
    "xstest": "xstest.csv",
}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "heed.cli.main", "eval", *map(str, words), "--device", "cpu"]


def items(out: Path) -> dict[str, dict]:
    [path] = out.glob("*/*/items.jsonl")
    return {item["id"]: item for item in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


@pytest.mark.slow
def test_an_evaluation_that_is_killed_goes_on_and_ends_as_if_it_never_was(shared, tmp_path):
    model, task = shared / "models" / "stories260K", f"arc={shared / 'eval' / 'arc-easy.jsonl'}"
    words = ("--model", model, "--task", task, "--num-shots", 2, "--too-long", "drop-shots", "--limit", 600)
    subprocess.run(command(*words, "--out", tmp_path / "whole"), check=True, capture_output=True)
    out = tmp_path / "killed"
    for enough in (1, 200):
        process = subprocess.Popen(command(*words, "--max-tokens", 2000, "--out", out), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            kept = [path.read_bytes().count(b"\n") for path in out.glob("*/*/items.jsonl")]
            if kept and kept[0] >= enough:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(*words, "--out", out), check=True, capture_output=True)
    expected, found = items(tmp_path / "whole"), items(out)
    assert found.keys() == expected.keys()
    for name, item in found.items():
        assert item["shots"] == expected[name]["shots"]
        for one, other in zip(item["options"], expected[name]["options"], strict=True):
            np.testing.assert_allclose(one["logp"], other["logp"], rtol=1e-5, atol=1e-5)
    results = [
        json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (tmp_path / "whole", out)
    ]
    assert [row["value"] for row in results[0]["figures"]] == pytest.approx([r["value"] for r in results[1]["figures"]])


@pytest.mark.slow
def test_every_task_that_heed_brings_runs_on_its_file_without_a_network(shared, tmp_path):
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no network namespaces")
    tasks = [f"{name}={shared / 'eval' / file}" for name, file in FILES.items()]
    tasks.append(
        f"text={shared / 'text' / 'wikitext2-test.txt'}"
        if (shared / "text" / "wikitext2-test.txt").exists()
        else tasks[0]
    )
    home = tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "NLTK"))}
    words = [word for task in dict.fromkeys(tasks) for word in ("--task", task)]
    done = subprocess.run(
        [
            unshare,
            "-rn",
            *command(
                "--model",
                shared / "models" / "stories260K",
                *words,
                "--limit",
                3,
                "--out",
                tmp_path / "out",
                "--too-long",
                "drop",
                "--max-new-tokens",
                16,
                "--max-bad-records",
                1.0,
            ),
        ],
        env={**kept, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert {task["name"] for task in results["tasks"]} >= set(FILES)
    measured = {row["task"] for row in results["figures"]}
    assert measured >= set(FILES)
