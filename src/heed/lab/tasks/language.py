"""Tasks of language: translate, rewrite, classify, one word, story."""

from __future__ import annotations

from heed.lab import words
from heed.lab.sentences import Tense
from heed.lab.tasks.task import Family, Pool, Task, instruction
from heed.lab.words import Noun, article
from heed.lab.world import nouns

KINDS = ("animal", "food", "tool", "job", "place")
PLURAL_KINDS = {"animal": "animals", "food": "foods", "tool": "tools", "job": "jobs"}

TO_VIETNAMESE = (
    "Translate this sentence into Vietnamese: {text}",
    "Translate into Vietnamese: {text}",
    "{text}\nTranslate the sentence above into Vietnamese.",
    "Put this English sentence into Vietnamese.\n{text}",
    "Say this in Vietnamese: {text}",
    "What is this sentence in Vietnamese? {text}",
    "Write the following sentence in Vietnamese.\n{text}",
    "Dịch câu sau sang tiếng Việt: {text}",
    "How do you say this in Vietnamese? {text}",
    "Please give the Vietnamese translation.\n{text}",
)
TO_ENGLISH = (
    "Translate this sentence into English: {text}",
    "Translate into English: {text}",
    "{text}\nTranslate the sentence above into English.",
    "Put this Vietnamese sentence into English.\n{text}",
    "Say this in English: {text}",
    "What is this sentence in English? {text}",
    "Write the following sentence in English.\n{text}",
    "Dịch câu sau sang tiếng Anh: {text}",
    "How do you say this in English? {text}",
    "Please give the English translation.\n{text}",
)
WORD_TO_VIETNAMESE = (
    "What is the Vietnamese word for {word}?",
    "Translate the word {word} into Vietnamese.",
    "Give the Vietnamese word for {word}.",
    "What is {word} in Vietnamese?",
    "Say the word {word} in Vietnamese.",
    "{word}: what is this word in Vietnamese?",
    "Which Vietnamese word means {word}?",
    "Từ {word} trong tiếng Việt là gì?",
    "How do you say {word} in Vietnamese?",
    "Name the Vietnamese word that means {word}.",
)
WORD_TO_ENGLISH = (
    "What does the word {word} mean?",
    "Translate the word {word} into English.",
    "Give the English word for {word}.",
    "What is {word} in English?",
    "Say the word {word} in English.",
    "{word}: what is this word in English?",
    "Which English word means {word}?",
    "Từ {word} trong tiếng Anh là gì?",
    "How do you say {word} in English?",
    "Name the English word that means {word}.",
)
TO_PAST = (
    "Write this sentence in the past tense: {text}",
    "Put the sentence into the past: {text}",
    "{text}\nRewrite the sentence in the past tense.",
    "Change this sentence to the past tense.\n{text}",
    "Say that it happened before: {text}",
    "Rewrite in the past: {text}",
    "What is the past tense of this sentence? {text}",
    "Tell it as something of the past. {text}",
    "Turn this into the past tense: {text}",
    "Please write it in the past.\n{text}",
)
TO_FUTURE = (
    "Write this sentence in the future tense: {text}",
    "Put the sentence into the future: {text}",
    "{text}\nRewrite the sentence in the future tense.",
    "Change this sentence to the future tense.\n{text}",
    "Say that it will happen later: {text}",
    "Rewrite in the future: {text}",
    "What is the future tense of this sentence? {text}",
    "Tell it as something of the future. {text}",
    "Turn this into the future tense: {text}",
    "Please write it in the future.\n{text}",
)
TO_NEGATIVE = (
    "Say the opposite with the word not: {text}",
    "Make this sentence negative: {text}",
    "{text}\nRewrite the sentence as a negative.",
    "Deny this sentence.\n{text}",
    "Say that this is not so: {text}",
    "Put the word not into this sentence: {text}",
    "Write the negative of this sentence. {text}",
    "Change this to a negative sentence: {text}",
    "Turn this into a negative sentence: {text}",
    "Please write that it does not happen.\n{text}",
)
KIND = (
    "Does {word} name an animal, a food, a tool, a job or a place?",
    "What kind of thing does {word} name: animal, food, tool, job or place?",
    "Say what kind of thing this is, animal, food, tool, job or place: {word}",
    "Choose animal, food, tool, job or place for the word {word}.",
    "{word}\nIs this an animal, a food, a tool, a job or a place?",
    "Classify the word {word} as animal, food, tool, job or place.",
    "Animal, food, tool, job or place? {word}",
    "To which kind does the word {word} belong: animal, food, tool, job or place?",
    "Pick the kind of {word}: animal, food, tool, job, place.",
    "Decide if the word {word} names an animal, a food, a tool, a job or a place.",
)
LANGUAGE = (
    "Which language is this, English or Vietnamese? {text}",
    "Is this sentence English or Vietnamese? {text}",
    "{text}\nName the language of the sentence.",
    "Say which language this is.\n{text}",
    "In which language is this written? {text}",
    "Name the language, English or Vietnamese: {text}",
    "What language is it? {text}",
    "Classify the sentence as English or Vietnamese.\n{text}",
    "Tell me the language of this: {text}",
    "English or Vietnamese?\n{text}",
)
ALSO_OPPOSITE = {
    "old": ("new",),
    "new": ("old",),
    "light": ("dark",),
    "dark": ("light",),
    "bright": ("dim",),
    "thin": ("fat",),
    "short": ("tall",),
    "soft": ("loud",),
    "hard": ("easy",),
    "sour": ("bitter",),
    "sweet": ("bitter",),
    "small": ("large",),
    "happy": ("unhappy",),
}
"""what is right besides the opposite that the base text names"""
OPPOSITE = (
    "What is the opposite of {word}?",
    "Give the opposite of {word} in one word.",
    "Name the opposite of the word {word}.",
    "Which word is the opposite of {word}?",
    "Say in one word what is not {word}.",
    "Reply with one word, the opposite of {word}.",
    "{word}: what is the opposite?",
    "Write the opposite of {word}.",
    "Tell me the opposite of {word}.",
    "What word means the opposite of {word}?",
)
GROUP = (
    "Say in one word what these are: {list}",
    "What are these in one word? {list}",
    "{list}\nName all of these with one word.",
    "Give one word for all of these: {list}",
    "Reply with one word. What are {list}?",
    "Which word stands for all of these? {list}",
    "In one word, what kind of things are {list}?",
    "Find one word for the whole list: {list}",
    "Sum this list up in one word: {list}",
    "One word for these, please: {list}",
)
STORY = (
    "Write a short story with these words: {list}",
    "Tell a story with the words {list}.",
    "Use the words {list} in a short story.",
    "Write a story in which these words come up: {list}",
    "Make up a story with {list}.",
    "{list}\nWrite a short story with the words above.",
    "Tell me a story about {list}.",
    "Write some sentences with {list}.",
    "Please write a little story that has {list} in it.",
    "Compose a short story with these words: {list}",
)
TITLED = (
    "Write a short story called “{title}”.",
    "Tell the story “{title}”.",
    "The title is “{title}”. Write the story.",
    "Write the story that has this title: {title}",
    "Tell me the story of “{title}”.",
    "Make up a story with the title “{title}”.",
    "{title}\nWrite a story for this title.",
    "Begin a story called “{title}”.",
    "Please write a little story with the title “{title}”.",
    "What happens in the story “{title}”?",
)


def to_vietnamese(pool: Pool) -> Task:
    """A sentence into Vietnamese."""
    said = pool.sentence()
    return instruction(pool.worded(TO_VIETNAMESE).format(text=said.english), said.vietnamese, "line")


def to_english(pool: Pool) -> Task:
    """A sentence into English."""
    said = pool.sentence()
    return instruction(pool.worded(TO_ENGLISH).format(text=said.vietnamese), said.english, "line")


def word_to_vietnamese(pool: Pool) -> Task:
    """A noun into Vietnamese; with its classifier it is right too."""
    noun = pool.noun(nouns())
    prompt = pool.worded(WORD_TO_VIETNAMESE).format(word=noun.english)
    return instruction(prompt, noun.vietnamese, "line", noun.vietnamese, noun.classified)


def word_to_english(pool: Pool) -> Task:
    """A noun into English."""
    noun = pool.noun(nouns())
    prompt = pool.worded(WORD_TO_ENGLISH).format(word=noun.vietnamese)
    return instruction(prompt, noun.english, "line", *in_english(noun))


def in_english(noun: Noun) -> tuple[str, ...]:
    """The noun with and without an article; Vietnamese does not tell one egg from eggs, so either is right."""
    one = noun.english
    if noun.kind == "food" and one.endswith("s"):
        one = one[:-2] if one.endswith(("oes", "ches")) else one[:-1]
    return (noun.english, f"the {noun.english}", one, f"{article(one)} {one}", f"the {one}")


def _in_tense(pool: Pool, wordings: tuple[str, ...], tense: Tense) -> Task:
    said = pool.sentence()
    prompt = pool.worded(wordings).format(text=said.in_tense("present").english)
    answer = said.in_tense(tense).english
    short = answer.replace(" does not ", " doesn't ").replace(" do not ", " don't ")
    return instruction(prompt, answer, "line", answer, short)


def to_past(pool: Pool) -> Task:
    """A sentence of today into the past."""
    return _in_tense(pool, TO_PAST, "past")


def to_future(pool: Pool) -> Task:
    """A sentence of today into the future."""
    return _in_tense(pool, TO_FUTURE, "future")


def to_negative(pool: Pool) -> Task:
    """A sentence denied."""
    return _in_tense(pool, TO_NEGATIVE, "negative")


def kind_of_thing(pool: Pool) -> Task:
    """Which of five kinds a noun belongs to."""
    noun = pool.noun(nouns())
    others = [kind for kind in KINDS if kind != noun.kind]
    prompt = pool.worded(KIND).format(word=noun.english)
    return instruction(prompt, noun.kind, "choice", noun.kind, *others)


def language_of_sentence(pool: Pool) -> Task:
    """English or Vietnamese."""
    said = pool.sentence()
    text, name, other = pool.rng.choice(
        ((said.english, "English", "Vietnamese"), (said.vietnamese, "Vietnamese", "English"))
    )
    return instruction(pool.worded(LANGUAGE).format(text=text), name, "choice", name, other)


def opposite(pool: Pool) -> Task:
    """The contrary of a word; some have more than one."""
    pairs = [pair for a, b in words.OPPOSITES for pair in ((a, b), (b, a))]
    given, answer = pool.rng.choice([pair for pair in pairs if pool.keeps(" ".join(sorted(pair)))])
    return instruction(
        pool.worded(OPPOSITE).format(word=given), answer, "starts", answer, *ALSO_OPPOSITE.get(given, ())
    )


def group_in_one_word(pool: Pool) -> Task:
    """What three things of a kind are."""
    kinds: tuple[tuple[Noun, ...], ...] = (words.ANIMALS, words.FOODS, words.TOOLS, words.JOBS)
    some = pool.rng.sample([noun for noun in pool.rng.choice(kinds) if pool.keeps_noun(noun)], 3)
    listed = ", ".join(noun.english for noun in some)
    answer = PLURAL_KINDS[some[0].kind]
    return instruction(pool.worded(GROUP).format(list=listed), answer, "starts", answer, some[0].kind)


def story_with_words(pool: Pool) -> Task:
    """A short story in which three words come up."""
    (person,) = pool.people(1)
    tool, place, animal = pool.noun(words.TOOLS), pool.noun(words.PLACES), pool.noun(words.ANIMALS)
    wanted = [person.name, tool.english, place.english]
    told = f"One day {person.name} took {tool.with_article} to the {place.english}. "
    told += f"There {person.she} met {animal.with_article}."
    pool.rng.shuffle(wanted)
    return instruction(pool.worded(STORY).format(list=", ".join(wanted)), told, "words", *wanted)


def story_with_title(pool: Pool) -> Task:
    """The story that a title promises."""
    (person,) = pool.people(1)
    tool, place, animal = pool.noun(words.TOOLS), pool.noun(words.PLACES), pool.noun(words.ANIMALS)
    title = f"The {tool.english}, the {animal.english} and the {place.english}"
    told = f"One day {person.name} took {tool.with_article} to the {place.english}. "
    told += f"There {person.she} met {animal.with_article}."
    wanted = (tool.english, animal.english, place.english)
    return instruction(pool.worded(TITLED).format(title=title), told, "words", *wanted)


FAMILIES = (
    Family("translate_to_vietnamese", "translate", to_vietnamese, TO_VIETNAMESE),
    Family("translate_to_english", "translate", to_english, TO_ENGLISH),
    Family("word_to_vietnamese", "translate", word_to_vietnamese, WORD_TO_VIETNAMESE),
    Family("word_to_english", "translate", word_to_english, WORD_TO_ENGLISH),
    Family("rewrite_in_past", "rewrite", to_past, TO_PAST),
    Family("rewrite_in_future", "rewrite", to_future, TO_FUTURE),
    Family("rewrite_as_negative", "rewrite", to_negative, TO_NEGATIVE),
    Family("kind_of_thing", "classify", kind_of_thing, KIND),
    Family("language_of_sentence", "classify", language_of_sentence, LANGUAGE),
    Family("opposite", "one word", opposite, OPPOSITE),
    Family("group_in_one_word", "one word", group_in_one_word, GROUP),
    Family("story_with_words", "story", story_with_words, STORY),
    Family("story_with_title", "story", story_with_title, TITLED),
)
