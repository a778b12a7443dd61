"""Memory while data is prepared: a few numbers a record, however many there are, and nothing of their texts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from heed.data.left_out import LeftOut, LeftOuts, of_finding
from heed.types import Finding, Origin

MOST_BYTES = 400
"""a record: the columns of the store that are mapped, the order of an epoch, what is noted of those left out, and what
the allocator does with it all; the objects of one record, or its tokens, take more than a thousand"""

PREPARE = """
import sys
from pathlib import Path

def peak():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

def main(model, *paths):
    # Here, not above: the processes that prepare data import this file anew.
    from heed.config import DataSource
    from heed.data.prepare import Preparation
    from heed.data.rendering.choice import choose_template
    from heed.data.tokens import Tokenizer, fit_template
    from heed.dist.world import World
    from heed.recipes.training.data_sets import prepare_data
    tokenizer = Tokenizer.from_folder(model)
    template, _ = choose_template("plain", tokenizer, lambda line: None)
    preparation = Preparation(fit_template(template, tokenizer), tokenizer, 60, "drop", 0.01, 0.02)
    for path in paths:
        data = prepare_data(
            (DataSource(path=path),), (), Path(path + ".run"), preparation,
            seed=0, eval_limit=64, settings="", world=World(),
        )
        for step in range(1, 100):
            data.training.batch(step, 16, 3_000)
        print(peak(), file=sys.stderr)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def test_what_was_left_out_comes_back_in_order_with_its_tokens() -> None:
    items = [
        LeftOut(Origin("a", 3), "too long", 7),
        LeftOut(Origin("b", 3), "too long", 2),
        LeftOut(Origin("a", 9), "b"),
    ]
    kept = LeftOuts(items[:1])
    kept.extend(items[1:])
    assert list(kept) == items
    assert (kept == LeftOuts(items), kept == LeftOuts(items[1:])) == (True, False)
    assert (len(kept), kept.num_tokens) == (3, 9)
    assert (list(LeftOuts()), len(LeftOuts()), LeftOuts().num_tokens) == ([], 0, 0)


def test_a_finding_is_listed_with_its_problem_and_what_was_found() -> None:
    finding = Finding("no answer", Origin("a", 1), "''", "words", "write some")
    assert of_finding(finding) == LeftOut(Origin("a", 1), "no answer: ''", 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell a process's peak memory")
def test_ten_times_the_records_take_a_few_numbers_more_a_record(tmp_path: Path, shared: Path) -> None:
    paths, counts = [], (4_000, 40_000)
    for count in counts:
        paths.append(tmp_path / f"{count}.jsonl")
        with paths[-1].open("w", encoding="utf-8") as file:
            for i in range(count):
                text = "too long for it " * 20 if i % 4 == 0 else "short "
                file.write(json.dumps({"prompt": f"Say it, number {i}:", "completion": f"{text} and {i}."}) + "\n")
    (tmp_path / "prepare.py").write_text(PREPARE, encoding="utf-8")
    run = [sys.executable, str(tmp_path / "prepare.py"), str(shared / "models/stories260K"), *map(str, paths)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    small, large = map(int, [line for line in done.stderr.splitlines() if line.isdigit()])
    assert (large - small) / (counts[1] - counts[0]) < MOST_BYTES
