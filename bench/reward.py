"""heed and TRL's RewardTrainer in turn on the same pairs: processor seconds and peak memory, as one JSON line.

    python bench/reward.py --out bench/results.jsonl
    python bench/reward.py --rows --repeats 1                 # heed alone, without TRL installed

See bench/README.md for what is measured and why it is fair.
"""

import preferences

if __name__ == "__main__":
    preferences.main("reward", str(__doc__), steps=4)
