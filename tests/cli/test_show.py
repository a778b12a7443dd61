"""`heed show`: what is drawn is what is trained, in the terminal, as JSON and as a page."""

import html.parser
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tokenizers

from heed.cli.main import main
from heed.cli.page import page
from heed.cli.show import CONTEXT, TRAINED, drawn
from heed.config import ShowSettings, load_settings
from heed.data.answers import judged_answers, ranked_answers
from heed.data.prepare import Preparation
from heed.data.read import read_judged, read_rankings
from heed.data.rendering.choice import choose_template
from heed.data.tokens import Tokenizer, fit_template
from heed.recipes.show import Piece, Shown, pieces, run, shared_beginnings
from heed.types import Origin, Rendered, Span, Tokens

NFC = "Tiếng Việt rất đẹp"
ODD_ANSWER = f"  [bold]Chào[/bold] <b>&amp; 👨‍👩‍👧 {NFC}; {unicodedata.normalize('NFD', NFC)}\nhai \t"

# History shows an answer plainly, but at inference the model is to think first: each turn is a sequence of its own.
THINKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)

LINES_TEMPLATE = THINKING_TEMPLATE.replace("<|end|>", "<|end|>\n").replace("<think>", "")
"""a line end stands behind every answer"""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A byte-level tokenizer learnt from a few words, in which Vietnamese and emoji take several tokens a letter."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the answer to the question is an instruction below"] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return folder


@pytest.fixture
def data(tmp_path):
    def write(*records):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return write


def asked(question, answer):
    return {"instruction": question, "input": "", "output": answer}


def shown_as_json(capsys, *words):
    assert main(["show", *map(str, words), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("answer", ["Paris.", ODD_ANSWER])
def test_json_says_which_characters_and_which_tokens_are_trained(answer, data, tokenizer_folder, capsys):
    path = data(asked("Where?", answer))
    (record,) = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", "alpaca")
    assert (record["dataset"], record["record"], record["template"]) == (path, 1, "alpaca")
    ((start, stop),) = record["spans"]
    assert record["text"][start:stop] == answer + "<|end|>"
    assert record["text"][:start].endswith("### Response:\n")
    backend = Tokenizer.from_folder(tokenizer_folder).backend
    trained = [token for token, weight in zip(record["ids"], record["weight"], strict=True) if weight]
    assert backend.decode(trained, skip_special_tokens=False) == answer + "<|end|>"
    assert backend.decode(record["ids"], skip_special_tokens=False) == record["text"]


def test_a_turn_of_its_own_is_a_further_object_with_the_same_record(tmp_path, data, tokenizer_folder, capsys):
    template = tmp_path / "think.jinja"
    template.write_text(THINKING_TEMPLATE)
    turns = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    path = data({"messages": [{"role": role, "content": content} for role, content in turns]}, asked("a", "b"))
    records = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", template)
    assert [(record["record"], record["sequence"]) for record in records] == [(1, 1), (1, 2), (2, 1)]
    assert main(["show", path, "--tokenizer", str(tokenizer_folder), "--template", str(template)]) == 0
    assert "record 1, sequence 2 of 2: " in capsys.readouterr().out


def test_weights_of_messages_reach_the_tokens_and_the_line_of_counts(data, tokenizer_folder, capsys):
    messages = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1", "weight": 0.5}]
    path = data({"messages": messages})
    words = [path, "--tokenizer", tokenizer_folder, "--template", "plain"]
    (record,) = shown_as_json(capsys, *words)
    assert set(record["weight"]) == {0.0, 0.5}
    assert main(["show", *map(str, words)]) == 0
    assert "weight 0.5" in capsys.readouterr().out


def test_a_record_that_cannot_be_used_is_shown_as_what_it_is(data, tokenizer_folder, capsys):
    path = data(asked("a", ""), asked("b", "B"))
    words = [path, "--tokenizer", tokenizer_folder, "--template", "alpaca"]
    unusable, usable = shown_as_json(capsys, *words)
    assert (unusable["record"], set(unusable["finding"])) == (1, {"problem", "found", "expected", "fix"})
    assert usable["record"] == 2
    assert main(["show", *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "record 1 cannot be used: the conversation has an empty response" in out
    assert "\n  fix:      write the answer" in out


def test_three_records_unless_told_otherwise(data, tokenizer_folder, capsys):
    words = [data(*(asked(str(n), "yes") for n in range(5))), "--tokenizer", tokenizer_folder, "--template", "alpaca"]
    numbers = {
        limit: [record["record"] for record in shown_as_json(capsys, *words, *limit)]
        for limit in [(), ("--limit", "1"), ("--limit", "0"), ("--record", "4")]
    }
    assert list(numbers.values()) == [[1, 2, 3], [1], [1, 2, 3, 4, 5], [4]]


@pytest.mark.parametrize(
    ("records", "words", "says"),
    [
        ([asked("a", "b")], ["--record", "9"], "found:    1 records"),
        ([], [], "the file is empty"),
        ([asked("a", "b")], ["--html", "."], "the page cannot be written"),
    ],
)
def test_nothing_to_show_is_told_in_five_parts(records, words, says, data, tokenizer_folder, capsys):
    fixed = ["--tokenizer", str(tokenizer_folder), "--template", "alpaca"]
    assert main(["show", data(*records), *fixed, *words]) == 2
    assert says in capsys.readouterr().err


def test_a_tokenizer_has_to_be_named(data, capsys):
    assert main(["show", data(asked("a", "b"))]) == 2
    assert "--tokenizer FOLDER" in capsys.readouterr().err


def test_without_a_template_it_says_that_chatml_is_taken_and_what_would_be_added(data, tokenizer_folder, capsys):
    assert main(["show", data(asked("a", "b")), "--model", str(tokenizer_folder), "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["template"] == "chatml"
    assert record["text"].endswith("<|im_start|>assistant\nb<|im_end|>\n")
    assert "chatml" in err
    assert "<|im_end|> <|im_start|>" in err
    assert len(record["ids"]) - record["ids"][::-1].index(max(record["ids"])) > 0
    (span,) = record["spans"]
    assert record["text"][slice(*span)] == "b<|im_end|>"


def test_each_wording_of_a_labelled_record_is_shown(tmp_path, data, tokenizer_folder, capsys):
    (tmp_path / "wordings.json").write_text(json.dumps([["{question}?", "{answer}"], ["Say: {question}", "{answer}"]]))
    path = data({"question": "Up", "answer": "down"}, {"question": "In", "answer": "out"})
    (tmp_path / "show.yaml").write_text(f"data: {{path: {path}, wordings: {tmp_path / 'wordings.json'}}}\n")
    words = [tmp_path / "show.yaml", "--tokenizer", tokenizer_folder, "--template", "plain", "--limit", "1"]
    texts = [record["text"] for record in shown_as_json(capsys, *words)]
    assert texts == ["Up?\ndown<|end|>", "Say: Up\ndown<|end|>"]


# Ranked and judged answers.


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


RANKED = {
    "prompt": talk(("user", "Hi."), ("assistant", "Hello."), ("user", "Where?")),
    "answers": ["Rome.", "Paris.", "Lyon.", "Nice.", "", "Paris."],
    "scores": [1, 2.5, 1, 0.5, 0, 2.5],
}


def test_all_answers_of_a_ranking_come_best_first_with_scores_ties_and_what_they_share(data, tokenizer_folder, capsys):
    path = data(RANKED)
    answers = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", "alpaca")
    backend = Tokenizer.from_folder(tokenizer_folder).backend
    trained = []
    for each in answers:
        (start, stop) = each["spans"][-1]
        trained.append(each["text"][start:stop])
        assert stop == len(each["text"]), "nothing is read behind an answer"
        assert backend.decode(each["ids"], skip_special_tokens=False) == each["text"]
        ids = [token for token, weight in zip(each["ids"], each["weight"], strict=True) if weight]
        assert backend.decode(ids, skip_special_tokens=False) == trained[-1], "earlier answers are context"
        shared = backend.decode(each["ids"][: each["num_shared"]], skip_special_tokens=False)
        assert shared == each["text"][:start]
    assert trained == [f"{name}.<|end|>" for name in ("Paris", "Rome", "Lyon", "Nice")]
    assert [each["answer"] for each in answers] == [1, 3, 4, 5]
    assert [each["score"] for each in answers] == [2.5, 1, 1, 0.5]
    assert [each["ties_with"] for each in answers] == [[], [4], [3], []]
    lost = ["answer 2 says the same as answer 1", "answer 6 is empty"]
    assert [each["left_out"] for each in answers] == [lost, [], [], []]
    assert {each["num_answers"] for each in answers} == {6}


PAIR = {"prompt": "Where?", "chosen": "Here there", "rejected": "Here, too"}
JUDGED = {
    "prompt": talk(("user", "Hi."), ("assistant", "Hello."), ("user", "Where?")),
    "completion": "Here there",
    "label": False,
}
"""what was said earlier is context, and not judged"""
JUDGED_TURNS = {
    "prompt": "Where?",
    "completion": talk(("assistant", "Here."), ("user", "Sure?"), ("assistant", "No, there.")),
    "label": True,
}


@pytest.mark.parametrize("template", ["alpaca", LINES_TEMPLATE, THINKING_TEMPLATE], ids=["alpaca", "lines", "thinking"])
@pytest.mark.parametrize(
    ("records", "read", "prepare", "count"),
    [
        ([RANKED, PAIR], read_rankings, ranked_answers, 4 + 2),
        ([JUDGED, JUDGED_TURNS], read_judged, judged_answers, 1 + 1),
    ],
    ids=["rankings", "judged answers"],
)
def test_what_is_shown_of_answers_is_what_a_run_trains(
    records, read, prepare, count, template, tmp_path, data, tokenizer_folder, capsys
):
    path = data(*records)
    if template != "alpaca":
        (tmp_path / "own.jinja").write_text(template)
        template = str(tmp_path / "own.jinja")
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    preparation = Preparation(
        fit_template(choose_template(template, tokenizer, print)[0], tokenizer), tokenizer, None, "error", 0.0, 0.0
    )
    capsys.readouterr()
    rows = [row for record in read(path) for row in prepare(preparation, record).rows]
    trained = [(tokens.ids.tolist(), tokens.weight.tolist()) for row in rows for tokens in row.sequences]
    shown = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", template)
    assert [(each["ids"], each["weight"]) for each in shown] == trained
    assert len(trained) == count


@pytest.mark.parametrize(
    ("record", "problem", "found"),
    [
        ({"prompt": "p", "completion": " ", "label": True}, "nothing to learn", "the answer is empty"),
        ({"prompt": "", "completion": "a", "label": True}, "the prompt is empty", "the user says ''"),
        ({"prompt": "p", "completion": "<|end|>", "label": False}, "special-token text", "<|end|>"),
    ],
)
def test_a_judged_answer_that_cannot_be_learnt_from_is_shown_as_what_it_is(
    record, problem, found, data, tokenizer_folder, capsys
):
    words = [data(record), "--tokenizer", tokenizer_folder, "--template", "alpaca"]
    [unusable] = shown_as_json(capsys, *words)
    assert problem in unusable["finding"]["problem"]
    assert found in unusable["finding"]["found"]


def test_a_prompt_alone_is_refused_and_the_error_says_where_prompts_are_shown(data, tokenizer_folder, capsys):
    assert main(["show", data({"prompt": "Where?"}), "--tokenizer", str(tokenizer_folder), "--template", "plain"]) == 2
    told = capsys.readouterr().err
    assert "unknown shape of record" in told
    assert told.endswith("; prompts alone are shown of a run that asks them: heed show RUN\n")


def test_what_a_template_writes_behind_an_answer_is_no_part_of_it(tmp_path, data, tokenizer_folder, capsys):
    template = tmp_path / "lines.jinja"
    template.write_text(LINES_TEMPLATE)
    path = data({"prompt": "Where?", "chosen": "Here.", "rejected": "There."}, asked("Where?", "Here."))
    *answers, asked_alone = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", template)
    assert [each["text"][-13:] for each in answers] == [">Here.<|end|>", "There.<|end|>"]
    assert asked_alone["text"].endswith("Here.<|end|>\n")


def test_ranks_have_ties_and_no_scores(data, tokenizer_folder, capsys):
    path = data({"prompt": "Where?", "answers": ["a", "b", "c"], "ranks": [2, 1, 2]})
    answers = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", "alpaca")
    assert [(each["score"], each["ties_with"]) for each in answers] == [(None, []), (None, [3]), (None, [2])]


@pytest.mark.parametrize(
    ("record", "problem", "found"),
    [
        ({"prompt": "p", "chosen": "Same.", "rejected": "Same."}, "nothing to compare", "says the same as answer 1"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "large"}, "broken JSON", "large"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": -1}, "the scores contradict the order", "-1, 0"),
        ({"prompt": "p", "chosen": "a", "rejected": "<|end|>"}, "special-token text", "answer 2 of 2"),
    ],
)
def test_a_ranking_that_cannot_be_compared_is_shown_as_what_it_is(
    record, problem, found, data, tokenizer_folder, capsys
):
    path = data(record, asked("a", "b"))
    unusable, usable = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", "alpaca")
    assert problem in unusable["finding"]["problem"]
    assert found in unusable["finding"]["found"]
    assert usable["record"] == 2


def test_a_single_ranked_answer_is_shown_as_supervised_tuning_takes_it(data, tokenizer_folder, capsys):
    path = data({"instruction": "Where?", "output": ["Here."]})
    [shown] = shown_as_json(capsys, path, "--tokenizer", tokenizer_folder, "--template", "plain")
    assert shown["text"] == "Where?\nHere.<|end|>"
    assert "answer" not in shown


def test_a_judged_answer_says_how_it_was_judged(data, tokenizer_folder, capsys):
    path = data(*({"prompt": "Where?", "completion": "Here.", "label": label} for label in (True, False)))
    words = [path, "--tokenizer", tokenizer_folder, "--template", "plain"]
    assert [each["is_desirable"] for each in shown_as_json(capsys, *words)] == [True, False]
    assert main(["show", *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "record 1, an answer to give: " in out
    assert "record 2, an answer not to give: " in out


def test_the_terminal_heads_every_answer_with_its_place(data, tokenizer_folder, capsys):
    assert main(["show", data(RANKED), "--tokenizer", str(tokenizer_folder), "--template", "plain"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("record")]
    assert [head.partition(":")[0] for head in heads] == [
        "record 1, answer 1 of 6, score 2.5",
        "record 1, answer 3 of 6, score 1, ties with 4",
        "record 1, answer 4 of 6, score 1, ties with 3",
        "record 1, answer 5 of 6, score 0.5",
    ]
    assert heads[0].endswith("; left out: answer 2 says the same as answer 1; left out: answer 6 is empty")
    assert all(" of them shared, " in head for head in heads)


@pytest.mark.parametrize(
    ("sequences", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4], [1, 9]], [2, 2, 1]),
        ([[1, 2], [1, 2, 3]], [2, 2]),
        ([[1], [2]], [0, 0]),
        ([[1, 2]], [0]),
    ],
)
def test_what_is_shared_is_the_longest_beginning_of_any_other_answer(sequences, shared):
    assert shared_beginnings([np.array(ids) for ids in sequences]) == shared


# Drawing.


def test_what_is_shared_is_underlined_in_colour_and_marked_on_the_page(data, tokenizer_folder):
    first, second = all_shown(data({"prompt": "Where?", "chosen": "Here.", "rejected": "There."}), tokenizer_folder)
    for item in (first, second):
        text = drawn(item, coloured=True)
        spans = [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]
        assert (
            "".join(part for part, style in spans if style.startswith("underline"))
            == text.plain.partition("Here." if item is first else "There.")[0]
        )
    source = page([first, second])
    assert source.count('<span class="s" title="token') == sum(p.is_shared for p in first.pieces + second.pieces) > 20
    assert 'class="t" title="token' in source


def all_shown(path, tokenizer_folder):
    overrides = {"data": [path], "tokenizer": str(tokenizer_folder), "template": "alpaca", "limit": 0}
    return list(run(load_settings(ShowSettings, None, overrides)))


def test_pieces_join_to_the_text_and_are_trained_where_the_span_is(data, tokenizer_folder):
    (item,) = all_shown(data(asked("Où?", ODD_ANSWER)), tokenizer_folder)
    assert "".join(piece.text for piece in item.pieces) == item.rendered.text
    assert [token for piece in item.pieces for token in piece.ids] == item.tokens.ids.tolist()
    assert "".join(piece.text for piece in item.pieces if piece.weight) == ODD_ANSWER + "<|end|>"
    assert any(len(piece.ids) > 1 for piece in item.pieces), "tokens that share a letter stay together"
    assert len(item.pieces) > 40


def test_tokens_that_overlap_in_a_letter_are_one_piece(tmp_path):
    # The two bytes of é are in different tokens, the first of them together with the a before it.
    vocabulary = {"a": 0, "Ã": 1, "©": 2, "b": 3, "aÃ": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "Ã")]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens = Tokens(np.array([4, 2, 3], dtype=np.int32), np.array([0, 1, 1], dtype=np.float32))
    found = pieces(Rendered("aéb", (), Origin("a", 1)), tokens, Tokenizer.wrap(backend, {}))
    assert [(piece.text, piece.ids, piece.weight) for piece in found] == [("aé", (4, 2), 1.0), ("b", (3,), 1.0)]


def test_an_edge_inside_a_token_is_drawn_where_it_was_cut(tokenizer_folder):
    from heed.data.tokens import tokenise

    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    rendered = Rendered("the answer", (Span(2, 10),), Origin("a", 1))
    tokens = tokenise(rendered, tokenizer).tokens
    assert tokens.ids.tolist() != tokenizer.encode("the answer"), "the word is one token before it is cut"
    drawn_pieces = pieces(rendered, tokens, tokenizer)
    assert "".join(piece.text for piece in drawn_pieces if piece.weight) == "e answer"
    assert [token for piece in drawn_pieces for token in piece.ids] == tokens.ids.tolist()


def test_tokens_that_cannot_be_placed_leave_the_spans_as_they_are(tokenizer_folder):
    tokens = Tokens(np.array([1, 2, 3], dtype=np.int32), np.array([0, 1, 1], dtype=np.float32))
    rendered = Rendered("the answer!", (Span(4, 10),), Origin("a", 1))
    found = pieces(rendered, tokens, Tokenizer.from_folder(tokenizer_folder))
    assert [(piece.text, piece.weight) for piece in found] == [("the ", 0), ("answer", 1), ("!", 0)]


def test_without_colour_trained_text_stands_in_brackets(data, tokenizer_folder):
    (item,) = all_shown(data(asked("Where?", "[red]Here[/red]\u202e\x07\n")), tokenizer_folder)
    text = drawn(item, coloured=False).plain
    assert text.endswith("### Response:⏎\n⟦[red]Here[/red]<U+202E><U+0007>⏎\n<|end|>⟧")
    assert text.count("⟦") == text.count("⟧") == 1


def test_in_colour_every_character_has_the_shade_of_its_side(data, tokenizer_folder):
    (item,) = all_shown(data(asked("Where?", "Here there")), tokenizer_folder)
    text = drawn(item, coloured=True)
    styles = {str(span.style): text.plain[span.start : span.end] for span in text.spans}
    assert set(styles) == {*TRAINED, *CONTEXT}
    trained = "".join(text.plain[span.start : span.end] for span in text.spans if span.style in TRAINED)
    assert trained == "Here there<|end|>"
    assert "⟦" not in text.plain


class PageReader(html.parser.HTMLParser):
    """The text of a page's records, and of it what is marked as trained."""

    def __init__(self):
        super().__init__()
        self.text, self.trained, self.tags, self.inside = "", "", [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "link", "br"):
            self.inside.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.inside.pop()[0] == tag

    def handle_data(self, text):
        spans = [attributes for tag, attributes in self.inside if tag == "span"]
        if spans and "title" in spans[-1] and self.inside[-1][0] == "span":
            self.text += text
            self.trained += text if spans[-1].get("class") == "t" else ""


def test_the_page_holds_the_text_escaped_and_needs_nothing_else(data, tokenizer_folder, tmp_path, capsys):
    path = data(asked("<script>alert(1)</script> & co", "</span><b>bold</b>"), asked("b", ""))
    out = tmp_path / "new" / "page.html"
    words = ["show", path, "--tokenizer", str(tokenizer_folder), "--template", "alpaca", "--html", str(out)]
    assert main(words) == 0
    assert capsys.readouterr().out == ""
    source = out.read_text(encoding="utf-8")
    reader = PageReader()
    reader.feed(source)
    assert not reader.inside
    assert reader.trained == "</span><b>bold</b><|end|>"
    assert "<script>alert(1)</script> & co" in reader.text
    assert not {"script", "link", "img", "b"} & set(reader.tags)
    assert "http" not in source
    assert "record 1: " in source
    assert "record 2 cannot be used" in source


def test_a_token_that_looks_like_markup_is_text_on_the_page():
    text = "<script>alert('&amp;')</script>"
    tokens = Tokens(np.array([7], dtype=np.int32), np.array([0], dtype=np.float32))
    rendered = Rendered(text, (), Origin("<i>.jsonl", 1))
    source = page([Shown("<i>.jsonl", 1, 1, "<u>", rendered, tokens, (Piece(text, (7,), 0.0),))])
    reader = PageReader()
    reader.feed(source)
    assert reader.text == text
    assert not {"script", "u"} & set(reader.tags)
    assert "<i>.jsonl" not in source


# As a program among others.


def heed(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "heed.cli.main", *map(str, words)], capture_output=True, text=True, **options
    )


def test_a_template_is_checked_without_loading_torch(data, tokenizer_folder):
    code = (
        "import sys; from heed.cli.main import main; status = main(sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'datasets'} & sys.modules.keys())); sys.exit(status)"
    )
    words = ["show", data(asked("a", "b")), "--tokenizer", str(tokenizer_folder), "--template", "alpaca", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["[]"]


def test_a_reader_that_stops_early_ends_it_quietly(data, tokenizer_folder):
    path = data(*(asked(f"question {n}", "yes " * 200) for n in range(100)))
    words = ["show", path, "--tokenizer", str(tokenizer_folder), "--template", "alpaca", "--limit", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "heed.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_vietnamese_is_printed_even_where_the_locale_knows_no_accents(data, tokenizer_folder):
    path = data(asked("Xin chào", NFC))
    environment = {"PATH": "/usr/bin", "LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1:strict"}
    done = heed("show", path, "--tokenizer", tokenizer_folder, "--template", "plain", env=environment, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert NFC in done.stdout
