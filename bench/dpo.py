"""heed and TRL's DPOTrainer in turn on the same pairs: processor seconds and peak memory, as one JSON line.

    python bench/dpo.py --out bench/results.jsonl
    python bench/dpo.py --rows --repeats 1                    # heed alone, without TRL installed

The reference's pass is counted on both sides. See bench/README.md for what is measured and why it is fair.
"""

import preferences

if __name__ == "__main__":
    preferences.main("dpo", str(__doc__), steps=2)
