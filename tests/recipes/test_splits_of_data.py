"""Data sets that come with splits: train on one, measure another, leave the test alone."""

import json
from collections.abc import Callable

import pytest

from heed.config import DataSource
from heed.data.prepare import Preparation
from heed.data.tokens import Tokenizer, fit_template
from heed.dist.world import World
from heed.errors import UserError
from heed.recipes.preference.data import JUDGED, RANKINGS, prepare_preference_data
from heed.recipes.training.data_sets import Data, prepare_data
from heed.recipes.training.setup import open_tokenizer
from heed.recipes.training.splits import sides_of


@pytest.fixture(scope="module")
def tokenizer(instruct) -> Tokenizer:
    return open_tokenizer(str(instruct))


@pytest.fixture
def preparation(tokenizer) -> Preparation:
    assert tokenizer.template is not None
    return Preparation(fit_template(tokenizer.template, tokenizer), tokenizer, 256, "drop", 0.5, 0.3)


@pytest.fixture
def prepared(preparation, tmp_path) -> Callable[..., Data]:
    def made(*paths, eval_paths=(), prepare=prepare_data) -> Data:
        (tmp_path / "run").mkdir()
        sources, measured = (tuple(DataSource(path=str(path)) for path in each) for each in (paths, eval_paths))
        return prepare(
            sources, measured, tmp_path / "run", preparation, seed=3, settings="", world=World(), eval_limit=0
        )

    return made


def texts(conversations, tokenizer) -> str:
    return " ".join(tokenizer.backend.decode(tokens.ids.tolist()) for [tokens] in conversations)


def test_a_folder_with_splits_trains_on_train_measures_validation_and_leaves_test_alone(
    prepared, tokenizer, shared, tmp_path
):
    data = prepared(shared / "field" / "cloned")
    assert data.training.draws_in_epoch == 15
    assert [len(found) for found in data.held_out.values()] == [2]
    trained = texts(data.training.batch(1, 15, 15), tokenizer)
    measured = texts(next(iter(data.held_out.values())), tokenizer)
    assert "Name a spice." in measured
    assert "What ticks?" in measured
    for held_back in ("bread", "cows", "round", "spice", "ticks"):
        assert held_back not in trained
    accounts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [account["path"].rpartition(":")[2] for account in accounts] == ["train", "validation"]
    [said] = accounts[0]["notes"]
    assert "validation is measured" in said
    assert "test is left alone" in said


def test_a_saved_data_set_trains_on_train_measures_validation_and_leaves_test_alone(prepared, tokenizer, tmp_path):
    import datasets

    records = {"train": ["one", "two", "three"], "validation": ["four"], "test": ["five"]}
    splits = {
        name: datasets.Dataset.from_list([{"prompt": f"{word}?", "response": f"{word}."} for word in words])
        for name, words in records.items()
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    data = prepared(tmp_path / "saved")
    trained = texts(data.training.batch(1, 3, 3), tokenizer)
    measured = texts(next(iter(data.held_out.values())), tokenizer)
    assert [word in trained for words in records.values() for word in words] == [True] * 3 + [False] * 2
    assert [word in measured for words in records.values() for word in words] == [False] * 3 + [True, False]
    accounts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [(account["path"].rpartition(":")[2], account["num_records"]) for account in accounts] == [
        ("train", 3),
        ("validation", 1),
    ]
    assert any("test is left alone" in note for note in accounts[0]["notes"])


def test_data_to_measure_on_takes_the_place_of_the_validation_split(prepared, tokenizer, shared, write):
    other = write([{"prompt": "Other?", "response": "Yes."}], "other.jsonl")
    data = prepared(shared / "field" / "cloned", eval_paths=[other])
    assert data.training.draws_in_epoch == 15
    assert [texts(found, tokenizer).count("Other?") for found in data.held_out.values()] == [1]


def test_a_folder_with_splits_to_measure_on_gives_its_validation(prepared, tokenizer, shared, write):
    other = write([{"prompt": "Other?", "response": "Yes."}], "other.jsonl")
    data = prepared(other, eval_paths=[shared / "field" / "cloned"])
    assert "ticks" in texts(data.held_out["cloned:validation"], tokenizer)


def test_in_a_mixture_only_the_data_set_without_a_validation_split_holds_a_share_out(prepared, shared, write):
    other = write([{"prompt": f"{i}?", "response": f"{i}."} for i in range(100)], "other.jsonl")
    data = prepared(shared / "field" / "cloned", other)
    assert len(data.training.sets[0].held_out) == 0
    assert 10 < len(data.training.sets[1].held_out) < 60
    assert set(data.held_out) == {"other.jsonl", "cloned:validation"}


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (RANKINGS, {"prompt": "p?", "chosen": "c.", "rejected": "r."}),
        (JUDGED, {"prompt": "p?", "completion": "c.", "label": "False"}),
    ],
)
def test_preferences_and_judged_answers_keep_to_their_splits_too(prepared, tmp_path, kind, record):
    (tmp_path / "set" / "data").mkdir(parents=True)
    for name, count in (
        ("train-00000-of-00002", 3),
        ("train-00001-of-00002", 4),
        ("dev-00000-of-00001", 2),
        ("test", 5),
    ):
        lines = [json.dumps({**record, "prompt": f"{name} {i}?"}) for i in range(count)]
        (tmp_path / "set" / "data" / f"{name}.jsonl").write_text("\n".join(lines))
    data = prepared(tmp_path / "set", prepare=lambda *given, **more: prepare_preference_data(kind, *given, **more))
    assert data.draws_in_epoch == 7
    assert [len(found) for found in data.held_out.values()] == [2]


def folder_of(tmp_path, *names) -> str:
    for name in names:
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"prompt": name, "response": "r"}))
    return str(tmp_path / "set")


@pytest.mark.parametrize(
    ("names", "training", "measured"),
    [
        (["train/a.jsonl", "train/b.jsonl", "validation/a.jsonl"], "train", ["validation"]),
        (["my-train.jsonl", "more-train.jsonl", "my-val.jsonl", "my-test.jsonl"], "train", ["validation"]),
        (["en/train.jsonl", "de/train.jsonl", "en/eval.jsonl", "de/eval.jsonl"], "train", ["eval"]),
        (["train.1.jsonl", "train.2.jsonl", "test.jsonl"], "train", []),
        (["train.jsonl", "more.jsonl"], None, []),
        (["a.jsonl", "b.jsonl"], None, []),
        (["test.jsonl"], None, []),
    ],
)
def test_files_and_folders_say_by_their_names_what_split_they_are(tmp_path, names, training, measured):
    where = folder_of(tmp_path, *names)
    sides = sides_of([DataSource(path=where)], [])
    assert [source.path for source in sides.training] == [where if training is None else f"{where}:{training}"]
    assert [source.path for source in sides.measured] == [f"{where}:{name}" for name in measured]
    assert sides.held_out == (not measured,)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["train_sft.jsonl", "train_gen.jsonl", "test_sft.jsonl"], r"2 splits to train on[\s\S]*train_gen"),
        (["data.jsonl", "test.jsonl"], r"belongs to none[\s\S]*data.jsonl[\s\S]*:test"),
        (["dev.jsonl", "test.jsonl"], r"no split to train on[\s\S]*:dev"),
    ],
)
def test_a_folder_whose_training_split_cannot_be_told_is_refused_with_a_path_that_can(tmp_path, prepared, names, says):
    where = folder_of(tmp_path, *names)
    with pytest.raises(UserError, match=says) as caught:
        prepared(where)
    cured = next(word for word in caught.value.fix.split() if word.startswith(where))
    (tmp_path / "run").rmdir() if not any((tmp_path / "run").iterdir()) else None
    from heed.data.read import read_nouns

    assert list(read_nouns(cured))
