"""Near duplicates, heed beside datasketch: processor time from texts to verified clusters, and which pairs are missed.

    python bench/dedupe.py                                        # datasketch installed beside heed (the bench extra)
    python bench/dedupe.py --peer-python OTHER_VENV/bin/python    # or in an environment of its own

Both get the same texts: real records, and copies of some of them in which words were changed. Both compare sets of
three words in a row by their exact Jaccard similarity, from 0.8 on. datasketch finds candidates by MinHash with 14
bands of 8 rows, and every candidate pair is verified with Python's sets. Each side runs in a fresh process, in turn;
reading the texts is not counted. One JSON line is printed.
"""

import argparse
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

THRESHOLD, BANDS, ROWS = 0.8, 14, 8
CHANGED = 0.06
"""the most words of a copy that are changed, as a share"""


def texts_in(shared: Path, num_copies: int) -> list[str]:
    """Instructions with their answers, and copies with words changed."""
    english = json.loads((shared / "instruct/alpaca-5000.json").read_text(encoding="utf-8"))
    lines = (shared / "instruct/vi-alpaca-5000.jsonl").read_text(encoding="utf-8").splitlines()
    texts = ["\n".join(map(str, record.values())) for record in (*english, *map(json.loads, lines))]
    draw = random.Random(0)
    for text in draw.sample(texts, num_copies):
        words = text.split(" ")
        for _ in range(int(len(words) * draw.random() * CHANGED)):
            words[draw.randrange(len(words))] = f"word{draw.randrange(10**6)}"
        texts.append(" ".join(words))
    draw.shuffle(texts)
    return texts


def by_heed(texts: list[str]) -> dict[str, Any]:
    """Clusters, by the functions behind `heed data dedupe --near 0.8`."""
    import numpy as np

    from heed.types import Document, Origin
    from heed.workshop.clusters import clusters_of
    from heed.workshop.near import Sets
    from heed.workshop.shingles import NUM_IN_ANSWERS, SIZE, compared
    from heed.workshop.words import words_of

    words_of(["once"], with_signs=True)  # the table of characters
    started = time.process_time()
    parts = [
        compared("record", True, [[Document(text, Origin("", 1))] for text in texts[at : at + 32]])
        for at in range(0, len(texts), 32)
    ]
    rows = np.concatenate([part.rows for part in parts])
    start = np.concatenate([[0], np.cumsum(rows[:, SIZE].astype(np.int64))])
    shingles = np.concatenate([part.shingles for part in parts]).tobytes()
    with tempfile.TemporaryDirectory() as folder:
        sets = Sets(shingles, start, rows[:, NUM_IN_ANSWERS].astype(np.int64))
        root = clusters_of(rows, len(texts), THRESHOLD, sets, Path(folder)).root
    return {"seconds": time.process_time() - started, "root": root.tolist()}


def by_datasketch(texts: list[str]) -> dict[str, Any]:
    """Clusters, by MinHash and its bands, every candidate verified."""
    from datasketch import MinHash, MinHashLSH

    started = time.process_time()
    sets, hashes = [], []
    for text in texts:
        words = re.findall(r"[^\W_]+|[^\w\s]|_", text.casefold())
        sets.append({" ".join(words[at : at + 3]) for at in range(max(len(words) - 2, 1))})
        hashed = MinHash(num_perm=BANDS * ROWS)
        hashed.update_batch([each.encode() for each in sets[-1]])
        hashes.append(hashed)
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    root = list(range(len(texts)))

    def top(at: int) -> int:
        while root[at] != at:
            at = root[at]
        return at

    for at, hashed in enumerate(hashes):
        for other in index.query(hashed):
            if len(sets[at] & sets[other]) >= THRESHOLD * len(sets[at] | sets[other]):
                low, high = sorted((top(at), top(other)))
                root[high] = low
        index.insert(at, hashed)
    return {"seconds": time.process_time() - started, "root": [top(at) for at in range(len(texts))]}


SIDES = {"heed": by_heed, "datasketch": by_datasketch}


def main() -> None:
    """Run both sides in turn, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared/data", help="real data")
    parser.add_argument("--copies", type=int, default=3_000, help="records with a changed copy")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="where datasketch is installed")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(SIDES[options.side](json.load(sys.stdin))))
        return
    texts = texts_in(options.shared, options.copies)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _, (side, python) in itertools.product(
        range(options.repeats), (("heed", sys.executable), ("datasketch", options.peer_python))
    ):
        command = [python, __file__, "--side", side]
        done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        runs[side].append(json.loads(done.stdout))
        print(f"{side}: {runs[side][-1]['seconds']:.2f} s of a processor", file=sys.stderr)
    seconds = {side: statistics.median(run["seconds"] for run in each) for side, each in runs.items()}
    removed = {side: sum(at != root for at, root in enumerate(each[0]["root"])) for side, each in runs.items()}
    told = {"records": len(texts), "threshold": THRESHOLD, "seconds": seconds, "removed": removed}
    told |= {"microseconds_a_record": {side: 1e6 * each / len(texts) for side, each in seconds.items()}}
    print(json.dumps(told | {"ratio": seconds["datasketch"] / seconds["heed"]}))


if __name__ == "__main__":
    main()
