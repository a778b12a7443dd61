"""Rankings, judged answers and prompts of a run: prepared once, drawn in fixed shares, and accounted for."""

import json
import shutil
from collections import Counter

import pytest

from heed import files
from heed.config import DataSource
from heed.data.prepare import Preparation
from heed.data.tokens import fit_template
from heed.dist.world import World
from heed.errors import UserError
from heed.recipes.preference.data import JUDGED, PROMPTS, RANKINGS, prepare_preference_data
from heed.recipes.training.setup import open_tokenizer


@pytest.fixture(scope="module")
def tokenizer(instruct):
    return open_tokenizer(str(instruct))


@pytest.fixture
def prepared(tokenizer, tmp_path):
    """Prepare data sets of one kind into one run folder, as a run does when it starts."""
    template = fit_template(tokenizer.template, tokenizer)

    def made(kind, *sources, eval_sources=(), settings="", held_out_share=0.0, eval_limit=30, **changes):
        values = {"max_length": 256, "too_long": "drop", "max_bad_records": 0.0, **changes}
        given = Preparation(template=template, tokenizer=tokenizer, held_out_share=held_out_share, **values)
        (tmp_path / "run").mkdir(exist_ok=True)
        return prepare_preference_data(
            kind, sources, tuple(eval_sources), tmp_path / "run", given, seed=3, eval_limit=eval_limit,
            settings=settings, world=World(),
        )  # fmt: skip

    return made


def pairs(count: int, name: str = "") -> list[dict[str, str]]:
    return [{"prompt": f"{name}{i}?", "chosen": f"{i}.", "rejected": "no"} for i in range(count)]


def drawn(data, *, num_epochs: int = 1, batch_size: int = 4):
    num_draws = num_epochs * data.draws_in_epoch
    return [
        item for step in range(1, -(-num_draws // batch_size) + 1) for item in data.batch(step, batch_size, num_draws)
    ]


def test_weight_and_cap_fix_how_often_a_data_set_is_drawn(prepared, write):
    a = DataSource(path=str(write(pairs(10, "a"), "a.jsonl")))
    b = DataSource(path=str(write(pairs(20, "b"), "b.jsonl")), cap=5)
    c = DataSource(path=str(write(pairs(4, "c"), "c.jsonl")), weight=2.5)
    data = prepared(RANKINGS, a, b, c)
    assert data.draws_in_epoch == 10 + 5 + 10
    files = [item.origin.path[-7] for item in drawn(data, num_epochs=4)]
    assert [Counter(files[i : i + 25]) for i in range(0, 100, 25)] == [{"a": 10, "b": 5, "c": 10}] * 4
    often = Counter((item.origin.path, item.origin.record) for item in drawn(data, num_epochs=4))
    assert {often[c.path, i] for i in range(1, 5)} == {10}


@pytest.mark.parametrize("kind", [RANKINGS, JUDGED, PROMPTS])
def test_a_step_is_a_function_of_its_number_alone(prepared, write, kind):
    data = prepared(kind, DataSource(path=str(write(pairs(10)))))
    count = data.draws_in_epoch
    assert count == (20 if kind is JUDGED else 10)
    forwards = [[item.origin.record for item in data.batch(step, 4, 25)] for step in range(1, 8)]
    backwards = [[item.origin.record for item in data.batch(step, 4, 25)] for step in range(7, 0, -1)]
    assert forwards == backwards[::-1]
    assert [len(step) for step in forwards] == [4, 4, 4, 4, 4, 4, 1]
    assert Counter(item.origin.record for item in drawn(data)) == dict.fromkeys(range(1, 11), count // 10)
    assert data.longest > 4


def test_one_run_holds_several_kinds_and_tells_of_all(prepared, write, tmp_path, lines_of):
    source = DataSource(path=str(write([*pairs(5), {"prompt": "?", "chosen": "a", "rejected": "a"}])))
    prepared(RANKINGS, source)
    prepared(PROMPTS, source)
    accounts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [account["num_kept"] for account in accounts] == [6, 5]
    assert accounts[1]["num_uninformative"] == 1
    [line] = lines_of(tmp_path / "run" / "left_out.jsonl")
    assert (line["record"], line["reason"]) == (6, "nothing to compare: answer 2 of 2 says the same as answer 1")


def test_what_is_prepared_is_not_prepared_again_and_may_not_change(prepared, write, tmp_path, capsys):
    source = DataSource(path=str(write(pairs(5))))
    prepared(RANKINGS, source)
    assert "read 5 rankings as preference" in capsys.readouterr().err
    prepared(RANKINGS, source)
    assert capsys.readouterr().err == ""
    prepared(RANKINGS, source, settings="other")
    assert "read 5 rankings" in capsys.readouterr().err
    write(pairs(7))
    with pytest.raises(UserError, match="the data has changed since this run began"):
        prepared(RANKINGS, source)


def test_a_start_killed_before_the_scores_were_written_is_made_good(prepared, write, tmp_path, monkeypatch):
    source = DataSource(path=str(write(pairs(5))))
    monkeypatch.setattr(files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepared(RANKINGS, source)
    monkeypatch.undo()
    (tmp_path / "run" / "data" / "rankings-train-0" / "scores.npy").unlink()
    assert prepared(RANKINGS, source).batch(1, 1, 1)[0].scores.tolist() == [1, 0]


def test_what_is_held_out_is_measured_by_data_set_and_capped(prepared, write):
    train = DataSource(path=str(write(pairs(40, "a"), "a.jsonl")))
    measured = DataSource(path=str(write(pairs(39, "b"), "b.jsonl")))
    data = prepared(RANKINGS, train, eval_sources=[measured], held_out_share=0.5)
    assert data.draws_in_epoch == 40
    assert {name: len(items) for name, items in data.held_out.items()} == {"b.jsonl": 30}
    data = prepared(PROMPTS, train, held_out_share=0.5)
    assert data.draws_in_epoch + len(data.held_out["a.jsonl"]) == 40


@pytest.mark.parametrize("kind", [RANKINGS, JUDGED, PROMPTS])
def test_what_is_measured_of_a_sorted_file_is_like_the_whole_file(prepared, write, tmp_path, capsys, kind):
    """All records of one kind come first: as they would, if the first ones were measured."""
    records = [*pairs(150, "first "), *pairs(50, "last ")]
    source = DataSource(path=str(write(records, "sorted.jsonl")))
    train = DataSource(path=str(write(pairs(3), "few.jsonl")))
    data = prepared(kind, train, eval_sources=[source], eval_limit=80)
    [measured] = data.held_out.values()
    from_the_end = sum(item.origin.record > 150 for item in measured)
    assert len(measured) == data.num_measured == 80
    assert 10 <= from_the_end <= 30
    total = 200 * (1 + (kind is JUDGED))
    assert data.num_held_out == total
    assert f"measured are 80 of {total} held out" in capsys.readouterr().err
    account = json.loads((tmp_path / "run" / "data.json").read_text())[0]
    assert (account["num_held_out"], account["num_measured"]) == (total, 80)


def test_the_same_records_are_measured_wherever_they_stand(prepared, write, tmp_path):
    def measured_of(records, name):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)  # other data is another run
        train = DataSource(path=str(write(pairs(3), "few.jsonl")))
        data = prepared(RANKINGS, train, eval_sources=[DataSource(path=str(write(records, name)))], eval_limit=10)
        return {item.sequences[0].ids.tobytes() for item in data.held_out[name]}

    assert measured_of(pairs(50), "forwards.jsonl") == measured_of(pairs(50)[::-1], "backwards.jsonl")


def test_a_limit_of_0_measures_all(prepared, write, capsys):
    train, source = (DataSource(path=str(write(pairs(n), f"{n}.jsonl"))) for n in (3, 90))
    data = prepared(RANKINGS, train, eval_sources=[source], eval_limit=0)
    assert data.num_measured == data.num_held_out == 90
    assert "--eval-limit" not in capsys.readouterr().err


def test_wordings_are_refused(prepared, write):
    with pytest.raises(UserError, match="wordings cannot be used here"):
        prepared(RANKINGS, DataSource(path=str(write(pairs(3))), wordings="w.json"))


def test_nothing_left_to_train_on_is_refused(prepared, write):
    same = [{"prompt": "p", "chosen": "a", "rejected": "a"}]
    with pytest.raises(UserError, match="no records are left") as caught:
        prepared(RANKINGS, DataSource(path=str(write(same))))
    assert caught.value.where.endswith("data.jsonl")
