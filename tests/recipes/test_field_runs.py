"""A step of tuning on every file of the field: trained, or refused with what to do."""

import json
import shutil

import pytest

TRAINED = {
    "cloned": 15,
    "cloned_infos": 15,
    "numeric.jsonl": 20,
    "nan.jsonl": 20,
    "nan_messages.jsonl": 20,
    "pandas_index.csv": 20,
    "trailing_delim.csv": 20,
    "excel_sep.csv": 20,
    "quotes.tsv": 20,
    "columns.json": 20,
    "messages_repr.csv": 20,
    "ranked.csv": 20,
    "ok.jsonl.zst": 20,
    "trailing.jsonl": 20,
    "two_systems.jsonl": 20,
    "gpt_first.jsonl": 20,
    "function_call.jsonl": 20,
    "tool_calls.jsonl": 20,
    "sharegpt_fc.jsonl": 20,
    "tool_call_role.jsonl": 20,
    "parts_value.jsonl": 2,
    "chosen_messages.jsonl": 2,
    "problem_solution.jsonl": 2,
    "evil.jsonl": 1,
}
REFUSED = {
    "kto.csv": ("not to give", "--objective kto"),
    "kto_strings.jsonl": ("not to give", "--objective kto"),
    "dupkeys.jsonl": ("stands twice", "remove or rename"),
    "ultra_like.jsonl": ("no score", "overall_score"),
    "lfs.jsonl": ("Git LFS pointer", "git lfs pull"),
    "lfs.csv": ("Git LFS pointer", "git lfs pull"),
    "prompts_prefill.jsonl": ("unknown shape", "--columns"),
}


@pytest.fixture(scope="module")
def reader(base, tmp_path_factory):
    """The tiny model with room for tools written out byte by byte; its positions are rotary, so none has a weight."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("reader") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_a_file_that_can_be_learnt_from_is_trained_on_whole(reader, tune, shared, tmp_path, name):
    options = {"template": "chatml", "steps": 1, "held_out_share": 0, "batch_size": 2}
    assert tune(model=reader, data=shared / "field" / name, out=tmp_path / "run", **options) == 0
    account = json.loads((tmp_path / "run" / "data.json").read_text())[0]
    assert account["num_kept"] == TRAINED[name]
    assert account["num_findings"] == 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_learnt_from_is_refused_with_what_to_do(base, tune, shared, tmp_path, capsys, name):
    options = {"template": "chatml", "steps": 1, "held_out_share": 0}
    assert tune(model=base, data=shared / "field" / name, out=tmp_path / "run", **options) != 0
    said = capsys.readouterr().err
    assert all(words in said for words in REFUSED[name])


def test_judged_answers_are_learnt_from_as_such(base, shared, tmp_path, instruct):
    from heed.cli.main import main

    words = [
        "dpo",
        "--model",
        str(instruct),
        "--data",
        str(shared / "field" / "kto.csv"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*words, "--objective", "kto", "--held-out-share", "0", "--batch-size", "20", "--device", "cpu"]) == 0
    [account] = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (account["num_desirable"], account["num_undesirable"]) == (10, 10)
