"""`heed show` of a run folder: what the run was made from, as its own tokenizer and template have it."""

import json

import pytest
import tastes

from heed.cli.main import main


def test_a_run_in_place_of_data_shows_what_it_learns_from(green_reward, capsys):
    assert main(["show", str(green_reward), "--record", "5", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = [each["text"][slice(*each["spans"][-1])] for each in answers]
    assert texts == [f"{tastes.answer(colour)}<|end|>" for colour in ("green", "blue", "white", "red")]
    assert [each["score"] for each in answers] == [1, 0, 0, 0]
    assert answers[0]["text"].startswith("<|user|>\n")


@pytest.mark.parametrize("stays", ["a run that ended", "a run without its model"])
def test_the_settings_of_the_run_hold_unless_others_are_given(tmp_path, instruct, write, capsys, stays):
    data, out = write([{"instruction": "Where?", "output": "Here."}] * 2), tmp_path / "run"
    assert tastes.heed("sft", model=instruct, data=data, out=out, template="plain", steps=1, held_out_share=0) == 0
    if stays == "a run without its model":
        (out / "tokenizer.json").unlink()
    capsys.readouterr()
    assert main(["show", str(out), "--limit", "1", "--json"]) == 0
    [shown] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (shown["dataset"], shown["text"]) == (str(data), "Where?\nHere.<|endoftext|>")
    assert main(["show", str(out), "--limit", "1", "--json", "--template", "alpaca"]) == 0
    assert "### Response:" in capsys.readouterr().out
