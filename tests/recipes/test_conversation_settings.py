"""What settings make of conversations: a stop token put there, special tokens as text, words gone on from."""

import json

import pytest
import tastes
from transformers import AutoTokenizer

from heed.cli.main import main
from heed.data.prompts import open_prompts

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

ENDLESS = (
    "{% for m in messages %}{{ ('User: ' if m.role == 'user' else 'Falcon: ') + m.content.strip() + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Falcon:' }}{% endif %}"
)
END = "<|endoftext|>"


def test_a_run_saves_the_stop_token_that_it_put_behind_answers(base, write, tune, tmp_path, capsys):
    data = write([{"instruction": f"What is {END}?", "output": f"{END} ends a text."}] * 2)
    (tmp_path / "own.jinja").write_text(ENDLESS)
    out = tmp_path / "run"
    common = {"model": base, "data": data, "out": out, "template": tmp_path / "own.jinja", "steps": 1}
    assert tune(**common, held_out_share=0) == 2
    assert "--end-of-turn eos" in capsys.readouterr().err
    assert tune(**common, held_out_share=0, end_of_turn="eos") == 2
    assert "--special-tokens-in-text" in capsys.readouterr().err
    assert tune(**common, held_out_share=0, end_of_turn="eos", special_tokens_in_text="as-text") == 0
    assert "4 special tokens" in " ".join("".join(capsys.readouterr()).split())
    [account] = json.loads((out / "data.json").read_text())
    assert list(account["notes"].values()) == [4]

    saved = AutoTokenizer.from_pretrained(out)
    said = [{"role": "user", "content": f"What is {END}?"}, {"role": "assistant", "content": f"{END} ends a text."}]
    rendered = saved.apply_chat_template(said, tokenize=False)
    assert rendered == f"User: What is {END}?\nFalcon: {END} ends a text.{END}\n"
    assert main(["show", str(out), "--limit", "1", "--json"]) == 0
    [shown] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert shown["text"] == rendered
    assert shown["text"][slice(*shown["spans"][0])] == f" {END} ends a text.{END}"
    assert shown["ids"].count(saved.eos_token_id) == 1


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_the_policy_goes_on_from_the_assistants_words(command, tuned, tmp_path, capsys):
    words = [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "It is"}]
    data, out = tastes.write(tmp_path / "asked.jsonl", [{"prompt": words}] * 2), tmp_path / "run"
    groups = {"group_size": 2} if command == "grpo" else {}
    options = {"steps": 1, "batch_size": 2, "max_new_tokens": 4, **groups}
    assert tastes.heed(command, model=tuned, data=data, out=out, reward="regex: e", **options) == 0
    [first_byte] = out.rglob("first_byte.npy")
    ids = open_prompts("asked.jsonl", first_byte.parent).prompt(0).ids.tolist()
    read = AutoTokenizer.from_pretrained(tuned).decode(ids)
    assert read == "<|user|>\nWhich colour?<|end|>\n<|assistant|>\nIt is"
