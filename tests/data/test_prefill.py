"""A prompt that ends in the assistant's words is gone on from, in prompts and in what is compared."""

from pathlib import Path
from typing import Any

import pytest
from letter_tokens import preparation, text_of, trained_text_of, write
from mask_cases import FAMILIES, assistant, built_in, conversation, family, inline, system, user

from heed.data.answers import rendered_answer
from heed.data.chat import asked, inference_prompt, masked
from heed.data.preferences import open_judged, open_rankings, prepare_judged, prepare_rankings
from heed.data.prepare import open_prepared, prepare
from heed.data.prompts import open_prompts, prepare_prompts
from heed.data.read import read_prompts
from heed.data.rendering.render import ChatTemplate
from heed.types import Conversation, Finding, Origin, Prompt, Rendered

BEGUN = [system("Be terse."), user("Name a fruit."), assistant("Well,", 0)]
ORIGIN = Origin("prompts.jsonl", 1)
LEAD = {
    "mistral-7b-instruct-v0.3": " ",
    "qwen3-0.6b": "<think>\n\n</think>\n\n",
    "deepseek-r1-distill-qwen-7b": "\n</think>\n\n",
}


def template_of(shared: Path, name: str) -> ChatTemplate:
    return built_in(name) if name in ("chatml", "alpaca", "plain") else family(shared, name)


@pytest.mark.parametrize("name", [*FAMILIES, "chatml", "alpaca", "plain"])
def test_the_prompt_ends_with_the_assistants_words_and_without_a_stop(shared: Path, name: str) -> None:
    template = template_of(shared, name)
    found = asked(conversation(*BEGUN), template)
    assert isinstance(found, Rendered)
    assert found.text == inference_prompt(BEGUN[:-1], template) + LEAD.get(name, "") + "Well,"


@pytest.mark.parametrize("name", [*FAMILIES, "chatml", "alpaca", "plain"])
def test_an_answer_is_trained_from_where_the_assistants_words_end(shared: Path, name: str) -> None:
    template = template_of(shared, name)
    opening = asked(conversation(*BEGUN), template)
    made = rendered_answer(tuple(BEGUN), (assistant(" a pear."),), ORIGIN, template)
    assert not isinstance(made, Finding)
    assert isinstance(opening, Rendered)
    rendered, _ = made
    [span] = rendered.spans
    assert rendered.text[: span.start] == opening.text
    answer = rendered.text[span.start : span.stop]
    assert answer.startswith(" a pear.")
    assert "Well," not in answer
    assert len(answer) > len(" a pear.")  # its stop token


def test_an_answer_that_cannot_go_on_is_a_finding() -> None:
    cuts = inline(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content.replace(', ', '; ') }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    found = rendered_answer((user("q"), assistant("Well,", 0)), (assistant(" a pear"),), ORIGIN, cuts)
    assert isinstance(found, Finding)
    assert "Well," in found.found


def prefilled(**more: Any) -> dict[str, Any]:
    words = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "We"}]
    return {"prompt": words, **more}


def test_pairs_and_judged_answers_go_on_from_the_prompt(tmp_path: Path) -> None:
    path = write(tmp_path, prefilled(chosen="ll", rejected="ird"), name="pairs.jsonl")
    prepare_rankings(path, tmp_path / "pairs", preparation(), fingerprint="f")
    sequences = open_rankings(path, tmp_path / "pairs").ranking(0).sequences
    assert [text_of(each) for each in sequences] == ["Q:q\nA:Well</s>", "Q:q\nA:Weird</s>"]
    assert [trained_text_of(each) for each in sequences] == ["ll</s>", "ird</s>"]
    path = write(tmp_path, prefilled(completion="ll", label=True), name="judged.jsonl")
    prepare_judged(path, tmp_path / "judged", preparation(), fingerprint="f")
    tokens = open_judged(path, tmp_path / "judged").judged(0).tokens
    assert (text_of(tokens), trained_text_of(tokens)) == ("Q:q\nA:Well</s>", "ll</s>")


def test_prompts_as_people_have_them_keep_the_words_they_end_in(shared: Path, tmp_path: Path) -> None:
    path = str(shared / "field" / "prompts_prefill.jsonl")
    account = prepare_prompts(path, tmp_path / "store", preparation(), fingerprint="f")
    prepared = open_prompts(path, tmp_path / "store")
    assert account.num_kept == account.num_records == 20
    from heed.types import Tokens

    for record in range(20):
        prompt = prepared.prompt(record)
        assert text_of(Tokens(prompt.ids, prompt.ids)).endswith("\nA:Well,")
        assert prompt.messages[-1].content == "Well,"


@pytest.mark.parametrize("last", [{"content": " "}, {"content": "", "tool_calls": [{"name": "f", "arguments": {}}]}])
def test_words_that_say_nothing_and_calls_cannot_be_gone_on_from(last: dict[str, Any]) -> None:
    extra = {key: value for key, value in last.items() if key != "content"}
    found = asked(conversation(user("a"), assistant(last["content"], 0, **extra)), built_in("chatml"))
    assert isinstance(found, Finding)
    assert found.problem == "the prompt ends with an answer"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_that_a_template_drops_a_part_of_is_a_finding(shared: Path, name: str) -> None:
    tool = {
        "type": "function",
        "function": {"name": "weather", "description": "Tells.", "parameters": {"properties": {}}},
    }
    found = asked(conversation(user("a"), tools=(tool,)), family(shared, name))
    shown = "weather" in (inference_prompt([user("a")], family(shared, name), (tool,)))
    assert isinstance(found, Rendered) == shown


def test_supervised_tuning_goes_on_from_the_prompt_and_trains_the_answer_alone(tmp_path: Path) -> None:
    answers = [{"role": "assistant", "content": "ll"}]
    records = [
        prefilled(completion="ll"),
        prefilled(completion=answers),
        prefilled(chosen="ll", rejected="ird"),
        prefilled(completion="ll", label=True),
    ]
    path = write(tmp_path, *records)
    account = prepare(path, None, tmp_path / "out", preparation(max_bad_records=0), fingerprint="f")
    assert account.num_kept == len(records)
    prepared = open_prepared(path, tmp_path / "out")
    for record in range(len(records)):
        [tokens] = prepared.conversation(record)
        assert (text_of(tokens).rstrip(), trained_text_of(tokens)) == ("Q:q\nA:Well</s>", "ll</s>")


def test_words_in_the_prompt_that_are_marked_for_training_are_trained_with_the_answer(tmp_path: Path) -> None:
    record = prefilled(completion="ll")
    record["prompt"][1]["train"] = True
    path = write(tmp_path, record)
    prepare(path, None, tmp_path / "out", preparation(), fingerprint="f")
    [tokens] = open_prepared(path, tmp_path / "out").conversation(0)
    assert trained_text_of(tokens) == "Well</s>"


def test_of_an_answer_of_several_turns_each_is_trained_and_the_first_goes_on() -> None:
    answer = (assistant(" a pear."), user("Another?"), assistant("A plum."))
    found = masked(Conversation.answered(tuple(BEGUN), answer, ORIGIN), built_in("chatml"))
    assert not isinstance(found, Finding)
    [rendered] = found
    trained = [rendered.text[span.start : span.stop] for span in rendered.spans]
    assert trained == [" a pear.<|im_end|>", "A plum.<|im_end|>"]


def test_what_a_record_with_an_answer_asks_keeps_the_words_that_it_begins_with(tmp_path: Path) -> None:
    path = write(tmp_path, prefilled(completion="ll", score=1))
    [(_, prompt)] = read_prompts(path)
    assert isinstance(prompt, Prompt)
    assert [(m.role, m.content) for m in prompt.messages] == [("user", "q"), ("assistant", "We")]
