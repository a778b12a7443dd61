"""Files as people have them, each read as it is meant, shown, or refused with what to do."""

import bz2
import csv
import gzip
import json
import lzma
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from heed.cli.main import main
from heed.data.read import read, read_nouns, read_prompts
from heed.errors import UserError
from heed.types import Conversation, Document, Finding, Judged, Ranking

FRUIT = {"prompt": "Name a fruit.", "response": "A pear."}
NFD = unicodedata.normalize("NFD", "Tiếng Việt")


def everything(path, columns=None):
    """All that is read at a path, and what was noted."""
    notes: Counter[str] = Counter()
    return [noun for _, noun in read_nouns(str(path), columns, notes)], notes


def noted(notes, words) -> int:
    return sum(count for note, count in notes.items() if words in note)


def texts(messages) -> list[str]:
    return [message.content for message in messages]


@pytest.fixture(scope="module")
def field(shared) -> Path:
    return shared / "field"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["Name a fruit."], trainer)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return folder


@pytest.fixture
def shown(tokenizer, capsys):
    """Every record of a data set as `heed show` tells it, and what it says beside."""

    def show(path, *words, template="chatml"):
        given = ["show", str(path), "--tokenizer", str(tokenizer), "--template", template, "--limit", "0", "--json"]
        code = main([*given, *words])
        captured = capsys.readouterr()
        return code, [json.loads(line) for line in captured.out.splitlines()], captured.err

    return show


def trained_text(record) -> str:
    return "".join(record["text"][begin:end] for begin, end in record["spans"])


# ---- what is read of every file, and what is noted


READ = {
    "kto.csv": (Judged, 20, None),
    "kto_strings.jsonl": (Judged, 20, None),
    "cloned": (Conversation, 15, "train; not test, validation"),
    "cloned_infos": (Conversation, 15, None),
    "numeric.jsonl": (Conversation, 20, "a number in place of text"),
    "nan.jsonl": (Conversation, 20, "NaN"),
    "nan_messages.jsonl": (Conversation, 20, "NaN"),
    "pandas_index.csv": (Conversation, 20, "without a name"),
    "trailing_delim.csv": (Conversation, 20, "without a name"),
    "excel_sep.csv": (Conversation, 20, "sep=;"),
    "quotes.tsv": (Conversation, 20, "quotation marks"),
    "columns.json": (Conversation, 20, "columns"),
    "messages_repr.csv": (Conversation, 20, "list written as text"),
    "ranked.csv": (Ranking, 20, "list written as text"),
    "ok.jsonl.zst": (Conversation, 20, None),
    "trailing.jsonl": (Conversation, 20, "a comma"),
    "two_systems.jsonl": (Conversation, 20, "same system prompt"),
    "function_call.jsonl": (Conversation, 20, None),
    "tool_calls.jsonl": (Conversation, 20, None),
    "sharegpt_fc.jsonl": (Conversation, 20, None),
    "tool_call_role.jsonl": (Conversation, 20, None),
    "gpt_first.jsonl": (Conversation, 20, "greeting"),
    "late_system.jsonl": (Conversation, 20, None),
    "parts_value.jsonl": (Conversation, 2, None),
    "chosen_messages.jsonl": (Ranking, 2, None),
    "problem_solution.jsonl": (Conversation, 2, "nothing reads: answer, source"),
    "evil.jsonl": (Conversation, 1, None),
}
ELSEWHERE = {"lfs.csv", "lfs.jsonl", "dupkeys.jsonl", "ultra_like.jsonl", "prompts_prefill.jsonl", "README.md"}


@pytest.mark.parametrize("name", READ)
def test_a_file_of_the_field_is_read_whole_as_what_it_is_with_a_note_where_something_was_put_right(field, name):
    kind, count, note = READ[name]
    nouns, notes = everything(field / name)
    assert Counter(map(type, nouns)) == {kind: count}
    assert len(notes) == (note is not None)
    if note is not None:
        assert noted(notes, note) in (1, count)


def test_every_file_of_the_field_has_its_test(field):
    assert {path.name for path in field.iterdir()} == READ.keys() | ELSEWHERE


def test_the_same_twenty_answers_are_read_out_of_every_way_to_write_them(field):
    names = ["pandas_index.csv", "trailing_delim.csv", "excel_sep.csv", "columns.json", "messages_repr.csv"]
    expected = [texts(noun.messages) for noun in everything(field / "ok.jsonl.zst")[0]]
    assert expected[0] == ["Name a fruit.", "A pear."]
    for name in [*names, "trailing.jsonl"]:
        assert [texts(noun.messages) for noun in everything(field / name)[0]] == expected


@pytest.mark.parametrize("name", ["kto.csv", "kto_strings.jsonl"])
def test_judged_answers_keep_their_judgement(field, name):
    nouns, _ = everything(field / name)
    assert [noun.is_desirable for noun in nouns] == [True, False] * 10
    assert all((texts(noun.answer) == ["I will not say."]) is not noun.is_desirable for noun in nouns)


def test_numbers_are_their_text(field):
    nouns, _ = everything(field / "numeric.jsonl")
    assert texts(nouns[1].messages) == ["What is 1 plus 2?", "3"]


@pytest.mark.parametrize("name", ["nan.jsonl", "nan_messages.jsonl"])
def test_nothing_of_a_missing_field_reaches_the_conversation(field, name):
    for noun in everything(field / name)[0]:
        assert "nan" not in str(noun.messages).lower().replace("name an", "")
        assert noun.tools == ()


def test_a_quotation_mark_inside_a_cell_is_text(field):
    found = [texts(noun.messages) for noun in everything(field / "quotes.tsv")[0]]
    assert ['"Snow" is which colour?', "White, like milk."] in found
    assert ['Name a 6" tool.', 'A "small" saw.'] in found
    assert ['"Which bird stands in rivers?', "A heron."] in found


def test_equal_system_prompts_count_once_and_different_ones_are_a_finding(field, tmp_path):
    assert [m.role for m in everything(field / "two_systems.jsonl")[0][0].messages] == ["system", "user", "assistant"]
    record = json.loads((field / "two_systems.jsonl").read_text().splitlines()[0]) | {"system": "Another."}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    [finding], _ = everything(tmp_path / "a.jsonl")
    assert isinstance(finding, Finding)
    assert "Another." in finding.found
    assert "You help." in finding.found


@pytest.mark.parametrize(
    "name", ["function_call.jsonl", "tool_calls.jsonl", "sharegpt_fc.jsonl", "tool_call_role.jsonl"]
)
def test_calls_of_tools_are_the_assistants_and_answers_of_tools_are_the_tools(field, name):
    noun = everything(field / name)[0][3]
    messages = [message for message in noun.messages if message.role != "system"]
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    [call] = messages[1].extra["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": {"place": "town 3"}}
    assert [message.weight for message in messages if message.role == "assistant"] == [1, 1]
    assert len(noun.tools) == (name != "tool_call_role.jsonl")


def test_a_greeting_is_context_unless_it_says_otherwise(field, tmp_path):
    greeting, _, answer = everything(field / "gpt_first.jsonl")[0][0].messages
    assert (greeting.weight, answer.weight) == (0, 1)
    turns = [{"role": "assistant", "content": "Hi.", "train": True}, {"role": "user", "content": "?"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [*turns, {"role": "assistant", "content": "!"}]}))
    assert everything(tmp_path / "a.jsonl")[0][0].messages[0].weight == 1


def test_parts_may_hold_their_text_in_value_and_a_loss_weight_is_a_weight(field):
    nouns, _ = everything(field / "parts_value.jsonl")
    assert [texts(noun.messages) for noun in nouns] == [["Name a fruit.", "A pear."], ["Say hello.", "Hello there."]]
    assert [noun.messages[1].weight for noun in nouns] == [1, 0.5]


def test_chosen_and_rejected_conversations_share_their_prompt(field):
    for noun in everything(field / "chosen_messages.jsonl")[0]:
        assert len(noun.prompt) == 1
        assert texts(noun.answers[1]) == ["No."]


def test_the_solution_is_the_answer_and_not_its_last_number(field):
    assert texts(everything(field / "problem_solution.jsonl")[0][0].messages)[1] == "2 plus 3 is 5."


def test_completions_are_ranked_by_their_scores_with_ties_and_one_without_a_score_is_a_finding(field):
    (ranking, finding), _ = everything(field / "ultra_like.jsonl")
    assert ranking.scores == (8.5, 8.5, 2.0)
    assert [texts(answer) for answer in ranking.answers] == [["A pear."], ["An apple."], ["A chair."]]
    assert isinstance(finding, Finding)
    assert "completion 2 of 2" in finding.found


def test_a_prompt_that_ends_in_the_assistants_words_keeps_them(field):
    for _, prompt in read_prompts(str(field / "prompts_prefill.jsonl")):
        assert [message.role for message in prompt.messages] == ["user", "assistant"]
        assert prompt.messages[-1].content == "Well,"


def test_a_repeated_key_is_a_finding_in_every_record_and_layout(field, tmp_path):
    nouns, _ = everything(field / "dupkeys.jsonl")
    assert [(type(noun), noun.found) for noun in nouns] == [(Finding, "'response'")] * 3
    lines = (field / "dupkeys.jsonl").read_text().splitlines()
    (tmp_path / "list.json").write_text(f"[{', '.join(lines)}, {json.dumps(FRUIT)}]")
    assert [type(noun) for noun in everything(tmp_path / "list.json")[0]] == [Finding] * 3 + [Conversation]


@pytest.mark.parametrize("name", ["lfs.jsonl", "lfs.csv"])
def test_a_pointer_of_git_is_told_from_data(field, name):
    with pytest.raises(UserError, match=r"Git LFS pointer[\s\S]*git lfs pull"):
        list(read(str(field / name)))


# ---- what is shown


@pytest.mark.parametrize("name", [name for name in READ if name not in ("late_system.jsonl", "gpt_first.jsonl")])
def test_every_record_of_a_file_of_the_field_is_shown_with_its_answer_trained(field, shown, name):
    code, records, said = shown(field / name)
    kind, count, note = READ[name]
    assert code == 0
    assert [record for record in records if "finding" in record] == []
    assert len(records) == count * (2 if kind is Ranking else 1)
    assert all(trained_text(record) for record in records)
    assert note is None or note in said


@pytest.mark.parametrize(
    "name", ["tool_calls.jsonl", "sharegpt_fc.jsonl", "function_call.jsonl", "tool_call_role.jsonl"]
)
def test_calls_of_tools_are_trained_under_chatml(field, shown, name):
    _, records, _ = shown(field / name)
    assert "get_weather" in trained_text(records[0])
    assert "It is 21 degrees." in trained_text(records[0])
    assert "<|im_end|>" in trained_text(records[0])


def test_a_greeting_is_shown_and_not_trained(field, shown):
    _, records, said = shown(field / "gpt_first.jsonl")
    usable = [record for record in records if "finding" not in record]
    assert len(usable) == 20
    assert all("Welcome." in record["text"] and "Welcome." not in trained_text(record) for record in usable)
    assert "greeting" in said


def test_a_late_system_message_is_shown_where_the_template_takes_it(field, shown):
    _, records, _ = shown(field / "late_system.jsonl")
    assert all("capital letters" in record.get("text", "") or "finding" in record for record in records)


def test_findings_are_shown_as_such(field, shown):
    _, records, _ = shown(field / "dupkeys.jsonl")
    assert ["finding" in record for record in records] == [True] * 3
    _, records, _ = shown(field / "ultra_like.jsonl")
    assert ["finding" in record for record in records] == [False] * 3 + [True]


@pytest.mark.parametrize("name", ["lfs.jsonl", "lfs.csv", "prompts_prefill.jsonl"])
def test_what_cannot_be_shown_says_what_to_type(field, shown, name):
    code, records, said = shown(field / name)
    assert code != 0
    assert records == []
    assert "fix:" in said


# ---- relatives


LINES = "".join(json.dumps(FRUIT | {"prompt": f"{i}?"}) + "\n" for i in range(5))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst", ".lz4", ".zst joined"])
def test_every_compression_is_read_and_a_damaged_one_named(tmp_path, suffix):
    data = LINES.encode()
    packed = {
        ".gz": lambda: gzip.compress(data),
        ".bz2": lambda: bz2.compress(data),
        ".xz": lambda: lzma.compress(data),
        ".zst": lambda: pa.compress(data, "zstd", asbytes=True),
        ".lz4": lambda: _stream(data, "lz4"),
        ".zst joined": lambda: b"".join(_stream(line.encode(), "zstd") for line in LINES.splitlines(keepends=True)),
    }[suffix]()
    path = tmp_path / f"a.jsonl{suffix.split()[0]}"
    path.write_bytes(packed)
    assert len(everything(path)[0]) == 5
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="damaged"):
        everything(path)


def _stream(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def test_an_export_of_excel_in_utf_16_is_read_with_a_note(tmp_path):
    (tmp_path / "a.csv").write_bytes("prompt\tresponse\r\nThế nào?\tTốt.\r\n".encode("utf-16"))
    [noun], notes = everything(tmp_path / "a.csv")
    assert texts(noun.messages) == ["Thế nào?", "Tốt."]
    assert noted(notes, "UTF-16") == 1


def test_bytes_of_latin_1_are_named_with_their_place(tmp_path):
    (tmp_path / "a.csv").write_bytes("prompt,response\nCafé?,Oui.\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8[\s\S]*line 2, byte offset 19[\s\S]*iconv"):
        everything(tmp_path / "a.csv")


def test_windows_line_ends_inside_cells_and_strings_become_line_feeds_and_a_lone_return_stays(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'prompt,response\r\n"a\r\nb","c\r\nd"\r\ne,f\r\n')
    nouns, notes = everything(tmp_path / "a.csv")
    assert [texts(noun.messages) for noun in nouns] == [["a\nb", "c\nd"], ["e", "f"]]
    assert noted(notes, "CR LF") == 1
    record = {"messages": [{"role": "user", "content": "a\r\nb"}, {"role": "assistant", "content": "10%\r20%\r\n"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    [noun], notes = everything(tmp_path / "a.jsonl")
    assert texts(noun.messages) == ["a\nb", "10%\r20%\n"]
    assert noted(notes, "CR LF") == noted(notes, "ends no line") == 1


def test_decomposed_accents_a_byte_order_mark_and_empty_lines_change_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text("\ufeff\n" + json.dumps({"prompt": NFD, "response": NFD}) + "\n\n \n")
    [noun], notes = everything(tmp_path / "a.jsonl")
    assert texts(noun.messages) == [NFD, NFD]
    assert not notes


def test_a_decimal_comma_is_no_number_and_named(tmp_path):
    (tmp_path / "a.csv").write_text(
        'prompt;answers;scores\np;"[""a"", ""b""]";"[8,5, 2]"\np;"[""a"", ""b""]";[8.5, 2]\n'
    )
    (finding, ranking), _ = everything(tmp_path / "a.csv")
    assert isinstance(finding, Finding)
    assert "2 answers" in finding.found
    assert ranking.scores == (8.5, 2)


def test_a_comment_in_json_is_named_as_one(tmp_path):
    (tmp_path / "a.json").write_text('[\n// the first\n{"prompt": "a", "response": "b"}]')
    with pytest.raises(UserError, match=r"line 2, column 1[\s\S]*a comment"):
        everything(tmp_path / "a.json")


def test_records_under_a_key_are_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": "1.0", "data": [FRUIT, FRUIT]}))
    assert len(everything(tmp_path / "a.json")[0]) == 2


def test_parquet_with_structs_numbers_and_missing_values_is_read(tmp_path):
    messages = [{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b", "name": None}]
    table = pa.table({"messages": [messages], "score": [float("nan")], "__index_level_0__": [7]})
    pq.write_table(table, tmp_path / "a.parquet")
    [noun], _ = everything(tmp_path / "a.parquet")
    assert texts(noun.messages) == ["a", "b"]
    assert [message.extra for message in noun.messages] == [{}, {}]
    pq.write_table(pa.table({"prompt": ["p"], "completion": [3], "label": [0]}), tmp_path / "b.parquet")
    [judged], _ = everything(tmp_path / "b.parquet")
    assert (judged.is_desirable, texts(judged.answer)) == (False, ["3"])


def test_an_archive_or_a_workbook_is_named_whatever_its_suffix(tmp_path):
    for name in ("a.zip", "a.xlsx", "a.csv"):
        (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(100))
        with pytest.raises(UserError, match=r"zip archive or an Excel workbook[\s\S]*unzip"):
            everything(tmp_path / name)


def test_no_fix_gives_a_file_two_suffixes(tmp_path):
    (tmp_path / "my data.jsonl.br").write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        everything(tmp_path / "my data.jsonl.br")
    assert ".jsonl.jsonl" not in caught.value.fix
    assert f"'{tmp_path}/my data.jsonl'" in caught.value.fix


def test_strings_that_numpy_prints_side_by_side_are_not_joined(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,answers\np,\"['A pear.' 'No.']\"\n")
    with pytest.raises(UserError, match="unknown shape"):
        everything(tmp_path / "a.csv")


@pytest.mark.parametrize("written", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [{"role": "user", "content": "it's?"}], "completion": [{"role": "assistant", "content": "a"}]},
        {"chosen": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}], "rejected": "unused"},
        {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": 'a "b"'}]},
        {"instruction": "?", "output": ["a", "b"], "scores": [2, 1]},
        {"prompt": "?", "completions": [{"response": "a", "score": 2}, {"response": "b", "score": 1}]},
    ],
    ids=["prompt", "chosen", "sharegpt", "output", "completions"],
)
def test_lists_in_cells_are_lists_in_every_shape(tmp_path, record, written):
    if "rejected" in record:
        record = record | {"rejected": [record["chosen"][0], {"role": "assistant", "content": "b"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(record))
        writer.writeheader()
        writer.writerow({key: value if isinstance(value, str) else written(value) for key, value in record.items()})
    [[straight], [celled]] = (everything(tmp_path / name)[0] for name in ("a.jsonl", "a.csv"))
    assert vars_of(celled) == vars_of(straight)


def vars_of(noun):
    return {name: getattr(noun, name) for name in noun.__slots__ if name != "origin"}


def test_an_answer_that_begins_with_a_bracket_stays_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "List them.", "response": '["a", "b"]'}))
    assert texts(everything(tmp_path / "a.jsonl")[0][0].messages)[1] == '["a", "b"]'


# ---- columns and plain text


def test_columns_of_any_name_are_read_where_they_are_named(tmp_path, shown):
    (tmp_path / "a.csv").write_text("Frage,Antwort,label\nWo?,Hier.,geography\n")
    with pytest.raises(UserError, match="--columns prompt=Frage response=Antwort"):
        everything(tmp_path / "a.csv")
    nouns, _ = everything(tmp_path / "a.csv", {"prompt": "Frage", "response": "Antwort", "topic": "label"})
    assert [texts(noun.messages) for noun in nouns] == [["Wo?", "Hier."]]
    code, [record], _ = shown(tmp_path / "a.csv", "--columns", "prompt=Frage", "response=Antwort", "topic=label")
    assert code == 0
    assert trained_text(record) == "Hier.<|im_end|>"


def test_a_column_that_no_record_has_is_named_with_those_there_are(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({**FRUIT, "system": "Be kind."}))
    with pytest.raises(UserError, match=r"'sistem'[\s\S]*prompt, response, system"):
        everything(tmp_path / "a.jsonl", {"system": "sistem"})


@pytest.mark.parametrize(
    ("record", "asked"),
    [
        ({"question": "?", "context": "So it is.", "answer": "a"}, "?\n\nSo it is."),
        ({"question": "So it is. ?", "context": "So it is.", "answer": "a"}, "So it is. ?"),
        ({"inputs": "?", "targets": "a"}, "?"),
        ({"query": "?", "response": "a", "history": []}, "?"),
        ({"instruction": "?", "context": "c", "response": "a"}, "?\n\nc"),
    ],
)
def test_the_usual_names_are_known_and_a_context_goes_with_its_question(tmp_path, record, asked):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert texts(everything(tmp_path / "a.jsonl")[0][0].messages) == [asked, "a"]


def test_a_question_with_choices_is_not_asked_without_them(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "?", "choices": ["a", "b"], "answer": "a"}))
    with pytest.raises(UserError, match="wordings"):
        everything(tmp_path / "a.jsonl")


def test_plain_text_is_a_document_and_a_text_with_a_label_is_none(tmp_path, shown):
    text = "One line.\n\nAnother paragraph, Tiếng Việt."
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text, "url": "x", "id": 3}))
    for name in ("a.txt", "a.jsonl"):
        [document], _ = everything(tmp_path / name)
        assert isinstance(document, Document)
        assert document.text == text
        _, [record], _ = shown(tmp_path / name)
        assert trained_text(record) == f"{text}<|end|>"
        assert record["weight"][0] == 0
        assert all(record["weight"][1:])
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text, "label": 1}))
    with pytest.raises(UserError, match="wordings"):
        everything(tmp_path / "b.jsonl")


def test_texts_in_a_folder_are_documents_but_not_beside_records(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    assert [noun.text for noun in everything(tmp_path)[0]] == ["a.txt", "b.txt"]
    (tmp_path / "c.jsonl").write_text(LINES)
    with pytest.raises(UserError, match=r"a file that is not read[\s\S]*a.txt"):
        everything(tmp_path)


def test_what_a_template_changes_is_counted_beside_the_records_that_are_shown(tmp_path, shown):
    turns = [{"role": "user", "content": "Why <|im_end|> and <|im_end|>?"}, {"role": "assistant", "content": "A pear."}]
    plain = [{"role": "developer", "content": "Be terse."}, {"role": "user", "content": "q"}, turns[1]]
    lines = [json.dumps({"messages": messages}) for messages in (turns, plain, plain)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    words = ["--special-tokens-in-text", "as-text"]
    code, records, said = shown(tmp_path / "a.jsonl", *words, template=str(template))
    assert code == 0
    assert len(records) == 3
    assert any(" 2 special tokens" in line for line in said.splitlines())
    assert any(" 2 records" in line and "developer" in line for line in said.splitlines())
