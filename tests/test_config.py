"""Settings: one definition, three ways in (file, flags, Python), and errors that say what to type."""

import datetime

import pytest

from heed.cli.main import COMMANDS
from heed.config import (
    DataSource,
    MergeSettings,
    SftSettings,
    ShowSettings,
    dump,
    load_settings,
    lora_alpha,
    peak_learning_rate,
)
from heed.errors import UserError
from heed.preference_config import DpoSettings, GrpoSettings, PpoSettings, RewardSettings
from heed.settings import nearest, options

REQUIRED = {"model": "base", "data": ["a.jsonl"], "out": "run"}


def sft(**overrides):
    return load_settings(SftSettings, None, REQUIRED | overrides)


def refused(overrides, yaml_path=None, cls=SftSettings):
    with pytest.raises(UserError) as caught:
        load_settings(cls, yaml_path, overrides)
    return caught.value


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "sft.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def test_what_is_dumped_loads_back_equal(write):
    settings = sft(
        **{
            "data": [{"path": "câu hỏi.jsonl", "weight": 0.1, "cap": 30, "wordings": "w.json"}, "b.csv"],
            "optim.lr": 1.2345678901234567e-5,
            "date": "2026-11-22",
            "lora.rank": 8,
            "template": "yes",
        }
    )
    text = dump(settings)
    assert "câu hỏi" in text
    assert load_settings(SftSettings, write(text), {}) == settings


def test_settings_with_a_renamed_key_load_back_too(write):
    settings = load_settings(ShowSettings, None, {"data": "a.jsonl", "json": True})
    assert settings.print_json
    assert load_settings(ShowSettings, write(dump(settings)), {}) == settings


@pytest.mark.parametrize(("written", "meant"), [("true", "recompute"), ("false", "keep"), ("'True'", "recompute")])
@pytest.mark.parametrize("settings", [SftSettings, RewardSettings, DpoSettings, PpoSettings, GrpoSettings])
def test_a_file_of_an_older_release_says_gradient_checkpointing(write, settings, written, meant):
    more = "reward: r\n" if "reward" in settings.model_fields else ""
    path = write(f"model: base\ndata: a.jsonl\nout: run\n{more}gradient_checkpointing: {written}\n")
    assert load_settings(settings, path, {}).activations == meant
    assert load_settings(settings, path, {"activations": "selective"}).activations == "selective"


def test_what_is_kept_is_said_once_and_by_a_word_that_there_is(write):
    path = write("model: base\ndata: a.jsonl\nout: run\ngradient_checkpointing: true\nactivations: offload\n")
    with pytest.raises(UserError, match="'activations' is given twice"):
        load_settings(SftSettings, path, {})
    for wrong in ("all", "1", ""):
        with pytest.raises(UserError, match="activations has a value it cannot have") as caught:
            sft(activations=wrong)
        assert "--activations keep" in str(caught.value)


def test_a_flag_wins_over_the_file_and_leaves_the_rest(write):
    path = write("model: base\ndata: a.jsonl\nout: run\nbatch_size: 4\noptim:\n  lr: 1e-4\n  warmup: 0.2\n")
    settings = load_settings(SftSettings, path, {"optim.lr": "3e-4"})
    assert (settings.batch_size, settings.optim.lr, settings.optim.warmup) == (4, 3e-4, 0.2)


def test_a_file_may_write_dotted_keys(write):
    path = write("model: base\ndata: a.jsonl\nout: run\noptim.lr: 1e-4\noptim:\n  warmup: 0.2\n")
    assert load_settings(SftSettings, path, {}).optim.lr == 1e-4


@pytest.mark.parametrize("data", ["a.jsonl", ["a.jsonl"], {"path": "a.jsonl"}, [{"path": "a.jsonl"}]])
def test_data_is_a_path_a_mapping_or_a_list_of_them(data):
    assert sft(data=data).data == (DataSource(path="a.jsonl"),)


def test_two_epochs_if_no_length_is_given_and_none_if_steps_are():
    assert (sft().steps, sft().epochs) == (None, 2)
    assert (sft(steps="7").steps, sft(steps="7").epochs) == (7, None)
    assert (sft(epochs="3").steps, sft(epochs="3").epochs) == (None, 3)


def test_a_flag_for_steps_takes_the_place_of_epochs_in_the_file(write):
    path = write("model: base\ndata: a.jsonl\nout: run\nepochs: 3\n")
    settings = load_settings(SftSettings, path, {"steps": "5"})
    assert (settings.steps, settings.epochs) == (5, None)


def test_steps_and_epochs_together_are_refused(write):
    assert "steps and epochs are both given" in str(refused(REQUIRED | {"steps": "5", "epochs": "2"}))
    path = write("model: base\ndata: a.jsonl\nout: run\nepochs: 3\nsteps: 4\n")
    assert "leave out" in refused({}, path).fix


def test_settings_never_change():
    with pytest.raises(ValueError, match="frozen"):
        sft().seed = 3


@pytest.mark.parametrize(
    ("key", "value", "part", "says"),
    [
        ("batch_size", "0", "fix", "--batch-size 16"),
        ("batch_size", "0", "expected", "greater than or equal to 1 (conversations per optimiser step"),
        ("batch_size", "2.5", "expected", "a whole number"),
        ("batch_size", True, "expected", "a number, not true or false"),
        ("optim.lr", "-1e-4", "where", "command line, --optim.lr"),
        ("optim.lr", "-1e-4", "expected", "greater than 0"),
        ("optim.lr", "nan", "expected", "a finite number"),
        ("optim.lr", "fast", "fix", "--optim.lr auto"),
        ("too_long", "cut", "expected", "'error', 'drop' or 'truncate'"),
        ("device", "gpu", "expected", "auto, cpu, cuda or cuda:N"),
        ("held_out_share", "1", "expected", "less than 1"),
        ("share_prefixes", "perhaps", "found", "'perhaps'"),
        ("date", "yesterday", "expected", "YYYY-MM-DD"),
        ("data", [], "expected", "at least one"),
        ("data", 3, "expected", "a path, a list of paths"),
        ("data", [{"path": "a", "weight": -1}], "where", "--data, item 1, weight"),
        ("data", ["a", {"path": "b", "weight": float("nan")}], "where", "--data, item 2, weight"),
        ("data", [{"path": "a", "wieght": 1}], "fix", "did you mean 'weight'?"),
        ("data", [{"weight": 1}], "fix", "path: PATH"),
    ],
)
def test_a_value_that_cannot_be_is_explained(key, value, part, says):
    assert says in getattr(refused(REQUIRED | {key: value}), part)


@pytest.mark.parametrize("key", ["model", "data", "out"])
def test_a_required_setting_that_is_missing_is_asked_for(key):
    error = refused({name: value for name, value in REQUIRED.items() if name != key})
    assert str(error).startswith(f"{key} is missing")
    assert f"--{key} {key.upper()}" in error.fix


@pytest.mark.parametrize(
    ("key", "near"),
    [("optim.warmpu", "optim.warmup"), ("batchsize", "batch_size"), ("lr", "optim.lr"), ("max-tokens", "max_tokens")],
)
def test_a_misspelt_key_is_answered_with_the_nearest(key, near):
    assert refused(REQUIRED | {key: 1}).fix == f"did you mean '{near}'?"


def test_a_value_that_is_none_of_a_few_is_answered_with_one_of_them():
    with pytest.raises(UserError) as caught:
        load_settings(SftSettings, None, {"model": "m", "data": "d", "out": "o", "quantise": "fp4"})
    assert caught.value.fix == "--quantise nf4"


def test_a_misspelt_key_in_a_section_lists_that_section_only():
    assert refused(REQUIRED | {"optim.warmpu": 1}).expected == (
        "one of optim.lr, optim.warmup, optim.weight_decay, optim.max_norm, optim.schedule, optim.bits"
    )


def test_a_word_like_no_other_has_no_nearest():
    assert nearest("zebra", ["model", "data"]) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: [", "the settings file cannot be read"),
        ("- model\n", "found:    a list"),
        ("model: a\nmodel: b\n", "the key 'model' twice"),
        ("optim: {lr: 1e-4, lr: 1e-3}\n", "the key 'lr' twice"),
        ("optim: 3\n", "'optim' is a section, not a value"),
        ("optim.lr: 1e-4\noptim: {lr: 1e-3}\n", "'optim.lr' is given twice"),
        ("optim: {warmpu: 3}\n", "did you mean 'optim.warmup'?"),
    ],
)
def test_a_broken_settings_file_is_explained(write, text, says):
    assert says in str(refused({}, write(text)))


def test_a_settings_file_that_is_missing_or_not_utf8_is_explained(tmp_path):
    assert "No such file" in refused({}, tmp_path / "absent.yaml").found
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("model: café\n".encode("latin-1"))
    assert "utf-8" in refused({}, latin).found


def test_an_empty_section_and_an_empty_file_are_no_error(write):
    assert load_settings(SftSettings, write("optim:\n"), REQUIRED) == sft()
    assert load_settings(SftSettings, write("# nothing yet\n"), REQUIRED) == sft()


def test_a_date_is_a_date():
    assert sft(date="2026-11-22").date == datetime.date(2026, 11, 22)


def test_learning_rate_for_known_sizes_is_what_the_help_states():
    def peak(num_parameters, **more):
        return peak_learning_rate("auto", num_parameters=num_parameters, **{"has_adapter": False, **more})

    assert peak(7_000_000_000) == pytest.approx(2e-5)
    assert peak(7_000_000) == pytest.approx(2e-5 * 10**1.44)  # 1,000^0.48
    assert peak(124_000_000) == pytest.approx(1.38623e-4, rel=1e-5)
    assert peak(260_000) == pytest.approx(2.67602e-3, rel=1e-5)
    assert (peak(100_000), peak(0)) == (3e-3, 3e-3)
    assert peak(7_000_000_000, has_adapter=True) == pytest.approx(2e-4)
    assert peak(260_000, has_adapter=True) == 3e-3
    assert peak(7_000_000_000, share=0.1) == pytest.approx(2e-6)
    assert peak(100_000, share=0.1) == pytest.approx(3e-4)
    assert peak_learning_rate(0.5, num_parameters=124_000_000, has_adapter=True, share=0.1) == 0.5


def test_alpha_is_twice_the_rank_unless_given():
    assert lora_alpha(sft(**{"lora.rank": 8}).lora) == 16
    assert lora_alpha(sft(**{"lora.rank": 8, "lora.alpha": 4}).lora) == 4


@pytest.mark.parametrize("cls", [SftSettings, ShowSettings, MergeSettings])
def test_every_option_says_what_it_is_for(cls):
    assert all(option.help and "\n" not in option.help for option in options(cls))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_may_start_in_the_home_folder_in_every_setting_that_names_one(command, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    names = {"model", "out", "template", "tokenizer", "html", "base", "reward", "runs"}
    cls = COMMANDS[command]
    given = {option.key: "~/x" for option in options(cls) if option.key in names or option.required}
    given |= {"to": "folder"} if command == "export" else {}  # a file's name would have an ending
    given |= {"out": "~/x.md" if command == "data card" else "~/x.jsonl"} if command.startswith("data ") else {}
    if command == "plan":
        del given["reward"]  # what kind of reward, and no path
    settings = load_settings(cls, None, {key: ["~/x"] if key == "runs" else value for key, value in given.items()})
    for name in names & given.keys():
        value = getattr(settings, name)
        path = value[0] if isinstance(value, tuple) else value
        assert path.removesuffix(".jsonl").removesuffix(".md") == "/home/somebody/x", name


def test_a_home_folder_of_nobody_is_refused():
    with pytest.raises(UserError, match="nobody-of-that-name"):
        load_settings(SftSettings, None, {"model": "m", "data": "d", "out": "~nobody-of-that-name/x"})


@pytest.mark.parametrize("given", [["prompt=problem", "response=answer"], {"prompt": "problem", "response": "answer"}])
def test_columns_of_a_section_name_those_of_its_own_data_alone(given):
    required = {"model": "m", "reward": "regex: e", "data": "prompts.jsonl", "out": "o"}
    sources = ["a.jsonl", {"path": "b.jsonl", "columns": {"prompt": "q"}}]
    settings = load_settings(PpoSettings, None, {**required, "ptx.data": sources, "ptx.columns": given})
    named = {"prompt": "problem", "response": "answer"}
    assert [source.columns for source in settings.ptx.data] == [named, {"prompt": "q"}]
    assert settings.data[0].columns == {}


def test_a_value_of_a_list_that_is_none_of_a_few_is_answered_with_one_of_them():
    with pytest.raises(UserError) as told:
        load_settings(SftSettings, None, {"model": "m", "data": "d", "out": "o", "offload": "parameters,banana"})
    assert told.value.found == "'banana'"
    assert told.value.fix == "--offload parameters"
