"""The data sets of a run: prepared once, drawn in fixed shares, said in many ways, and accounted for."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from heed.config import DataSource
from heed.data.prepare import Preparation
from heed.data.tokens import Tokenizer, fit_template
from heed.dist.world import World
from heed.errors import UserError
from heed.recipes.training.data_sets import Data, Mixture, prepare_data
from heed.recipes.training.setup import open_tokenizer


@pytest.fixture(scope="module")
def tokenizer(instruct) -> Tokenizer:
    return open_tokenizer(str(instruct))


@pytest.fixture
def prepared(tokenizer, tmp_path) -> Callable[..., Data]:
    """Prepare data sets into one run folder, as a run does when it starts."""
    assert tokenizer.template is not None
    template = fit_template(tokenizer.template, tokenizer)

    def made(*sources: DataSource, eval_sources=(), settings="", held_out_share=0.0, eval_limit=512, **changes) -> Data:
        values = {"max_length": 256, "too_long": "drop", "max_bad_records": 0.5, **changes}
        preparation = Preparation(template=template, tokenizer=tokenizer, held_out_share=held_out_share, **values)
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        return prepare_data(
            sources, tuple(eval_sources), folder, preparation, seed=3, eval_limit=eval_limit,
            settings=settings, world=World(),
        )  # fmt: skip

    return made


def numbered(count: int, name: str = "") -> list[dict[str, str]]:
    return [{"instruction": f"{name}{i}?", "output": f"{i}."} for i in range(count)]


def said_in(mixture: Mixture, tokenizer: Tokenizer, *, num_epochs: int = 1, batch_size: int = 4) -> list[str]:
    """All conversations of some epochs, in the order they are drawn."""
    num_draws = num_epochs * mixture.draws_in_epoch
    steps = range(1, -(-num_draws // batch_size) + 1)
    drawn = [conversation for step in steps for conversation in mixture.batch(step, batch_size, num_draws)]
    return [tokenizer.backend.decode(tokens[0].ids.tolist(), skip_special_tokens=False) for tokens in drawn]


def asked(conversation: str) -> str:
    return conversation.removeprefix("<|user|>\n").partition("<|end|>")[0]


# ---- how often what is drawn


def test_weight_and_cap_fix_how_often_a_data_set_is_drawn(prepared, tokenizer, write):
    data = prepared(
        DataSource(path=str(write(numbered(10, "a"), "a.jsonl"))),
        DataSource(path=str(write(numbered(20, "b"), "b.jsonl")), cap=5),
        DataSource(path=str(write(numbered(4, "c"), "c.jsonl")), weight=2.5),
    )
    mixture = data.training
    assert mixture.draws_in_epoch == 10 + 5 + 10
    questions = [asked(text) for text in said_in(mixture, tokenizer, num_epochs=4)]
    epochs = [Counter(q[0] for q in questions[i : i + 25]) for i in range(0, 100, 25)]
    assert epochs == [{"a": 10, "b": 5, "c": 10}] * 4
    # What the cap leaves out in one epoch has its turn in the next.
    often = Counter(questions)
    assert {often[f"a{i}?"] for i in range(10)} == {4}
    assert {often[f"b{i}?"] for i in range(20)} == {1}
    assert {often[f"c{i}?"] for i in range(4)} == {10}


def test_a_step_is_a_function_of_its_number_alone(prepared, tokenizer, write):
    mixture = prepared(DataSource(path=str(write(numbered(10))))).training
    forwards = [[t.ids.tobytes() for (t,) in mixture.batch(step, 4, 25)] for step in range(1, 8)]
    backwards = [[t.ids.tobytes() for (t,) in mixture.batch(step, 4, 25)] for step in range(7, 0, -1)]
    assert forwards == backwards[::-1]
    assert [len(step) for step in forwards] == [4, 4, 4, 4, 4, 4, 1]
    assert len({conversation for step in forwards[:2] for conversation in step}) == 8


# ---- wordings


FLAN = {"task": "rte", "options": ["yes", "no"]}


def labelled(count: int) -> list[dict[str, object]]:
    return [
        {**FLAN, "premise": f"An has {i} cats.", "hypothesis": f"An has {i + i % 2} cats.", "label": i % 2}
        for i in range(count)
    ]


def test_a_labelled_record_is_said_in_another_flan_wording_each_epoch(prepared, tokenizer, shared, write):
    wordings = shared / "instruct" / "flan2021_templates.json"
    num_wordings = len(json.loads(wordings.read_text(encoding="utf-8"))["rte"])
    source = DataSource(path=str(write(labelled(6))), wordings=str(wordings))
    data = prepared(source, max_length=None)
    texts = said_in(data.training, tokenizer, num_epochs=num_wordings)
    assert len(texts) == 6 * num_wordings
    assert len(set(texts)) == 6 * num_wordings  # every wording of every record once
    for epoch in range(num_wordings):
        assert (
            len(
                {
                    number
                    for t in texts[epoch * 6 : epoch * 6 + 6]
                    for number in range(6)
                    if f"An has {number} cats." in t[:200]
                }
            )
            == 6
        )
    for text in texts:
        # Either the choices are shown and one of them is the answer, or the record itself is to be made up.
        question, answer = asked(text), text.partition("<|assistant|>\n")[2]
        if "OPTIONS:\n- yes\n- no" in question:
            assert answer in ("yes<|end|>\n", "no<|end|>\n")
        else:
            assert "Hypothesis: An has" in answer
    assert sum("OPTIONS:" in text for text in texts) == 6 * (num_wordings - 1)
    first_questions = {asked(text).replace(str(i), "N") for i in range(6) for text in texts[:6]}
    assert len(first_questions) > 6  # within an epoch, records are not all said alike


def test_wordings_from_a_settings_file_are_tuned_on(instruct, shared, write, tune, lines_of, tmp_path):
    config = tmp_path / "sft.yaml"
    config.write_text(
        f"model: {instruct}\nout: {tmp_path / 'run'}\nepochs: 2\nbatch_size: 5\nheld_out_share: 0.2\n"
        f"data:\n- path: {write(labelled(10), 'rte.jsonl')}\n"
        f"  wordings: {shared / 'instruct' / 'flan2021_templates.json'}\n  weight: 2\n"
        f"- {{path: {write(numbered(30), 'numbers.jsonl')}, cap: 3}}\n"
    )
    assert tune(config) == 0
    first, second = json.loads((tmp_path / "run" / "data.json").read_text())
    assert first["read"] == "read 10 records as labelled"
    num_draws = 2 * (2 * (first["num_kept"] - first["num_held_out"]) + 3)
    train = lines_of(tmp_path / "run" / "metrics.jsonl", "train")
    assert len(train) == -(-num_draws // 5)
    held_out = lines_of(tmp_path / "run" / "metrics.jsonl", "held_out")[-1]
    assert {"nll_per_token rte.jsonl", "nll_per_token numbers.jsonl"} < held_out.keys()
    assert second["num_held_out"] > 0


# ---- real data


REAL = ("alpaca-5000.json", "vi-alpaca-5000.jsonl", "t0-train-50k.jsonl.gz")


def sample_of(path: Path, count: int, to: Path) -> Path:
    """Records from all over a data set, in a file of the same kind."""
    if path.suffix == ".json":
        records = json.loads(path.read_text(encoding="utf-8"))
        to.write_text(json.dumps(records[:: len(records) // count][:count]), encoding="utf-8")
        return to
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = file.readlines()
    with opened(to, "wt", encoding="utf-8") as copy:
        copy.writelines(lines[:: len(lines) // count][:count])
    return to


def check_mixture(paths: list[Path], model: Path, out: Path, tune, lines_of, num_records: list[int]) -> None:
    status = tune(
        model=model, data=paths, out=out, template="alpaca", steps=4, batch_size=8, too_long="drop", eval_every=0
    )
    assert status == 0
    accounts = json.loads((out / "data.json").read_text())
    assert [account["num_records"] for account in accounts] == num_records
    for account in accounts:
        assert account["num_records"] == account["num_kept"] + account["num_too_long"] + account["num_findings"]
        assert account["num_trained_tokens"] > 0
    left_out = lines_of(out / "left_out.jsonl")
    assert len(left_out) == sum(account["num_too_long"] + account["num_findings"] for account in accounts) > 0
    train = lines_of(out / "metrics.jsonl", "train")
    assert [line["step"] for line in train] == [1, 2, 3, 4]
    for line in lines_of(out / "metrics.jsonl", "held_out"):
        assert {f"nll_per_token {path.name}" for path in paths} < line.keys()


def test_a_mixture_of_three_real_data_sets_is_tuned_on(shared, tune, lines_of, tmp_path):
    paths = [sample_of(shared / "instruct" / name, 150, tmp_path / name) for name in REAL]
    model = shared / "models" / "stories260K"
    check_mixture(paths, model, tmp_path / "run", tune, lines_of, [150, 150, 150])


@pytest.mark.slow
def test_a_mixture_of_three_whole_data_sets_is_tuned_on(shared, tune, lines_of, tmp_path):
    paths = [shared / "instruct" / name for name in REAL]
    model = shared / "models" / "stories260K"
    check_mixture(paths, model, tmp_path / "run", tune, lines_of, [5000, 5000, 55_185])


# ---- prepared once


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in (folder / "data").rglob("*") if p.is_file()}


def test_what_is_prepared_is_not_prepared_again(prepared, write, tmp_path, capsys):
    sources = [DataSource(path=str(write(numbered(5, name), f"{name}.jsonl"))) for name in "ab"]
    first = prepared(*sources)
    before = stamps(tmp_path / "run")
    assert "read 5 conversations as alpaca" in capsys.readouterr().err
    again = prepared(*sources)
    assert stamps(tmp_path / "run") == before
    assert capsys.readouterr().err == ""
    assert again.training.batch(1, 10, 10)[0][0].ids.tolist() == first.training.batch(1, 10, 10)[0][0].ids.tolist()


def test_a_file_that_has_changed_is_refused_and_what_was_prepared_stays(prepared, write, tmp_path):
    sources = [DataSource(path=str(write(numbered(5, name), f"{name}.jsonl"))) for name in "ab"]
    prepared(*sources)
    before = stamps(tmp_path / "run")
    write(numbered(7, "b"), "b.jsonl")
    with pytest.raises(UserError, match="the data has changed since this run began") as caught:
        prepared(*sources)
    assert caught.value.where == sources[1].path
    assert "b.jsonl" in caught.value.found
    assert stamps(tmp_path / "run") == before
    write(numbered(5, "b"), "b.jsonl")  # the same content, written later
    prepared(*sources)
    assert stamps(tmp_path / "run") == before


@pytest.mark.parametrize("changed", ["a file of the folder", "the wordings", "the settings"])
def test_other_settings_make_the_tokens_prepared_anew_and_other_data_is_another_run(prepared, write, tmp_path, changed):
    (tmp_path / "many").mkdir()
    write(numbered(5), "many/data.jsonl")
    write([{"a": "x"}, {"a": "y"}], "labelled.jsonl")
    wordings = tmp_path / "wordings.json"
    wordings.write_text('[["{a}?", "{a}!"]]')
    sources = [
        DataSource(path=str(tmp_path / "many")),
        DataSource(path=str(tmp_path / "labelled.jsonl"), wordings=str(wordings)),
    ]
    prepared(*sources)
    if changed == "a file of the folder":
        write(numbered(6), "many/data.jsonl")
    elif changed == "the wordings":
        wordings.write_text('[["{a}?", "{a}!"], ["Say {a}", "{a}"]]')
    if changed != "the settings":
        # A run is what it names: it does not go on with other data under the same name.
        with pytest.raises(UserError, match="data has changed"):
            prepared(*sources)
        return
    data = prepared(*sources, settings="other")
    assert len(data.training.sets[0].training) == 5
    assert data.training.sets[1].num_wordings(0) == 1


def test_a_start_that_was_killed_between_two_data_sets_accounts_for_both(prepared, write, tmp_path, lines_of):
    bad = {"instruction": "bad?", "output": ""}
    sources = [DataSource(path=str(write([*numbered(5, name), bad], f"{name}.jsonl"))) for name in "ab"]
    prepared(sources[0])
    (tmp_path / "run" / "data.json").unlink()
    (tmp_path / "run" / "left_out.jsonl").unlink()
    prepared(*sources)
    accounts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [(account["path"], account["num_kept"]) for account in accounts] == [(s.path, 5) for s in sources]
    assert [line["path"] for line in lines_of(tmp_path / "run" / "left_out.jsonl")] == [s.path for s in sources]


# ---- what is measured


def test_data_to_measure_on_takes_nothing_from_training(prepared, write):
    train, measured = (DataSource(path=str(write(numbered(40, name), f"{name}.jsonl"))) for name in "ab")
    data = prepared(train, eval_sources=[measured], held_out_share=0.5)
    assert data.training.draws_in_epoch == 40
    assert {name: len(conversations) for name, conversations in data.held_out.items()} == {"b.jsonl": 40}


def test_what_is_measured_of_a_sorted_file_is_like_the_whole_file(prepared, write, capsys, tmp_path):
    records = [*numbered(150, "first"), *numbered(50, "last")]
    source = DataSource(path=str(write(records, "sorted.jsonl")))
    data = prepared(DataSource(path=str(write(numbered(3), "few.jsonl"))), eval_sources=[source], eval_limit=80)
    measured = data.held_out["sorted.jsonl"]
    all_of_it = prepared(DataSource(path=str(write(numbered(3), "few.jsonl"))), eval_sources=[source], eval_limit=0)
    order = {c[0].ids.tobytes(): place for place, c in enumerate(all_of_it.held_out["sorted.jsonl"])}
    from_the_end = sum(order[conversation[0].ids.tobytes()] >= 150 for conversation in measured)
    assert (len(measured), data.num_measured, data.num_held_out) == (80, 80, 200)
    assert 10 <= from_the_end <= 30
    assert "sorted.jsonl: measured are 80 of 200 held out" in capsys.readouterr().err


def test_a_data_set_without_held_out_records_is_not_measured(prepared, write):
    sources = [DataSource(path=str(write(numbered(n, name), f"{name}.jsonl"))) for name, n in (("a", 40), ("b", 1))]
    assert set(prepared(*sources, held_out_share=0.2).held_out) == {"a.jsonl"}


def test_nothing_left_to_train_on_says_what_became_of_all_and_names_what_brings_it_back(prepared, write):
    source = DataSource(path=str(write(numbered(3))))
    with pytest.raises(UserError, match="no records are left") as caught:
        prepared(source, max_length=3)
    assert caught.value.where.endswith("data.jsonl")
    assert "of 3 records 3 too long, 0 held out" in caught.value.found
    assert "--too-long truncate" in caught.value.fix
    assert "--held-out-share" not in caught.value.fix  # nothing was held out
    with pytest.raises(UserError, match="no records are left") as caught:
        prepared(source, held_out_share=0.999)
    assert "0 too long, 3 held out" in caught.value.found
    assert caught.value.fix == "--held-out-share 0"
