"""Which syllables Vietnamese has, and which follow one another: what a guess at lost letters is measured by.

    log P(s_1 ... s_n) = sum_i log( a P(s_i | s_{i-1}) + b P(s_i) + c [s_i is a possible syllable] / N )

The first two are counts of text that is whole, learnt from whatever the user's own files have of it; the third is the
language's own rule (an onset, a rime, a tone), which needs nothing learnt.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

WRITTEN_ONSETS = "b c ch d đ g gh gi h k kh l m n ng ngh nh p ph qu r s t th tr v x"
WRITTEN_RIMES = """
a ac ach ai am an ang anh ao ap at au ay ăc ăm ăn ăng ăp ăt âc âm ân âng âp ât âu ây e ec em en eng eo ep et ê êch
êm ên ênh êp êt êu i ia ich iêc iêm iên iêng iêp iêt iêu im in inh ip it iu o oa oac oach oai oam oan oang oanh oao
oap oat oay oăc oăm oăn oăng oăt oc oe oen oeo oet oi om on ong ooc oong op ot ô ôc ôi ôm ôn ông ôp ôt ơ ơi ơm ơn ơp
ơt u ua uân uâng uât uây uc uê uêch uênh ui um un ung uôc uôi uôm uôn uông uôt uơ up ut uy uya uych uyên uyêt uynh
uyt uyu ư ưa ưc ưi ưng ươc ươi ươm ươn ương ươp ươt ươu ưt ưu y yêm yên yêng yêt yêu
"""
ONSETS = frozenset(WRITTEN_ONSETS.split()) | {""}
RIMES = frozenset(WRITTEN_RIMES.split())
TONES = "\u0300\u0301\u0303\u0309\u0323"
STOPS = ("c", "ch", "p", "t")
NUM_POSSIBLE = 15_000
"""syllables that the rule allows, about"""
FOLLOWS, OCCURS, POSSIBLE, IMPOSSIBLE = 0.7, 0.2, 0.1, 1e-9
"""the weights a, b and c, and the probability of what is no syllable at all"""
WORD = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f]+[^\W\d_]*)*")


class Syllables:
    """Counts of syllables and of those that follow one another."""

    def __init__(self) -> None:
        self.single: Counter[str] = Counter()
        self.pair: Counter[tuple[str, str]] = Counter()
        self.total = 0

    def learn(self, texts: Iterable[str]) -> None:
        """Count the syllables of texts that are whole."""
        for text in texts:
            found = syllables_of(text)
            self.single.update(found)
            self.pair.update(zip(("", *found), found, strict=False))
            self.single[""] += 1
            self.total += len(found)

    def log_probability(self, syllable: str, before: str) -> float:
        """log P(syllable | the one before it), in nats; "" stands before the first."""
        after = self.pair[before, syllable] / self.single[before] if self.single[before] else 0.0
        occurs = self.single[syllable] / self.total if self.total else 0.0
        possible = POSSIBLE / NUM_POSSIBLE if is_possible(syllable) else IMPOSSIBLE
        return math.log(FOLLOWS * after + OCCURS * occurs + possible)

    def score(self, words: Sequence[str], before: str = "") -> float:
        """log P of syllables in a row."""
        total = 0.0
        for word in words:
            total += self.log_probability(word, before)
            before = word
        return total


def syllables_of(text: str) -> list[str]:
    """The words of a text, composed and in lower case."""
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


@lru_cache(maxsize=50_000)
def is_possible(word: str) -> bool:
    """Whether Vietnamese has, or could have, this syllable: a known onset, a known rime, a tone that goes with it.

    Args:
        word: composed and in lower case.
    """
    apart = unicodedata.normalize("NFD", word)
    tones = [mark for mark in apart if mark in TONES]
    if len(tones) > 1:
        return False
    plain = unicodedata.normalize("NFC", "".join(mark for mark in apart if mark not in TONES))
    for cut in range(min(3, len(plain)) + 1):
        onset, rime = plain[:cut], plain[cut:]
        if onset in ONSETS and rime in RIMES:
            # a syllable that ends in a stop has the rising tone or the heavy one
            return not rime.endswith(STOPS) or tones in (["\u0301"], ["\u0323"])
    return False
