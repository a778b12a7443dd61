"""The run folder: who may write it, what is in it, and that a killed run ends like one in one piece."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from heed.dist.world import World
from heed.errors import UserError
from heed.files import append_line
from heed.train.run import open_run
from heed.train.same_run import FREE, first_difference, keep_content, read_config

CONFIG = "model: tiny\noptim:\n  lr: 0.001\n  warmup: 3\ndata:\n- path: a.json\n"
ENVIRONMENT = {"torch": "2.13.0", "threads": 2}


def start(out, config=CONFIG, environment=ENVIRONMENT, **settings):
    return open_run(out, config, environment, **settings)


def saver(value):
    def save_model(folder):
        (folder / "model.safetensors").write_text(str(value))
        (folder / "config.json").write_text("{}")

    return save_model


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps_of(folder, name="metrics.jsonl"):
    return [json.loads(line)["step"] for line in (folder / name).read_text().splitlines()]


def test_a_new_run_keeps_its_settings_and_its_environment(tmp_path):
    with start(tmp_path / "deep" / "run") as run:
        assert (run.finished, run.notes, run.latest()) == (False, (), None)
    assert (tmp_path / "deep" / "run" / "config.yaml").read_text() == CONFIG
    assert json.loads((tmp_path / "deep" / "run" / "environment.json").read_text()) == ENVIRONMENT
    assert names(tmp_path / "deep" / "run") == [".lock", "config.yaml", "environment.json"]


def test_an_empty_folder_may_become_a_run(tmp_path):
    start(tmp_path).close()
    assert read_config(tmp_path) == yaml.safe_load(CONFIG)


def test_the_same_settings_written_otherwise_are_the_same_run(tmp_path):
    start(tmp_path, "out: runs/a\n" + CONFIG).close()
    start(tmp_path, "data: [{path: a.json}]\nmodel: tiny\nout: ./runs/a\noptim: {warmup: 3, lr: 1.0e-3}\n").close()


@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        (("lr: 0.001", "lr: 0.01"), "optim.lr = 0.01 in", "optim.lr = 0.001,"),
        (("path: a.json", "path: b.json"), "data[0].path = b.json in", "data[0].path = a.json,"),
        (("  warmup: 3\n", ""), "optim.warmup = (not set) in", "optim.warmup = 3,"),
        (("model: tiny", "model: tiny\nseed: 1"), "seed = 1 in", "seed = (not set),"),
    ],
)
def test_another_run_is_refused_by_the_first_setting_that_differs(tmp_path, change, found, expected):
    with start(tmp_path / "run") as run:
        run.log(1, "train", loss=1.0)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match="belongs to another run") as caught:
        start(tmp_path / "run", CONFIG.replace(*change))
    assert caught.value.found.startswith(found)
    assert caught.value.expected.startswith(expected)
    assert f"--out {tmp_path / 'run-2'} " in caught.value.fix
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_one_is_not_true(tmp_path):
    assert first_difference({"a": 1}, {"a": True}) == ("a", 1, True)
    assert first_difference({"a": 1}, {"a": 1.0}) is None


@pytest.mark.parametrize("content", ["- a list\n", "a: [\n", ""])
def test_settings_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"cannot be read\n.*config\.yaml"):
        start(tmp_path)


def test_a_folder_with_other_things_in_it_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"not empty and is not a run[\s\S]*thesis\.tex"):
        start(tmp_path)
    assert names(tmp_path) == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="is a file"):
        start(tmp_path / "run")


def test_two_processes_cannot_write_one_run(tmp_path):
    first = start(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()} holds"):
        start(tmp_path)
    first.close()
    start(tmp_path).close()


def test_where_the_file_system_cannot_lock_a_run_starts_and_says_so(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", no_locks)  # a network file system without locks is not at hand
    with start(tmp_path) as run:
        (note,) = run.notes
    assert note == f"the file system of {tmp_path} has no locks: do not start a second process on this run"


def test_a_user_error_before_the_first_line_leaves_no_folder(tmp_path):
    def train():
        with start(tmp_path / "run") as run:
            (run.folder / "findings.jsonl").touch()
            raise UserError("no records left", where="a", found="b", expected="c", fix="d")

    with pytest.raises(UserError, match="no records left"):
        train()
    assert names(tmp_path) == []


def test_a_user_error_later_or_in_a_resumed_run_leaves_what_is_there(tmp_path):
    def train(out, step):
        with start(out) as run:
            if step:
                run.log(step, "train", loss=1.0)
            raise UserError("the loss is not finite", where="a", found="b", expected="c", fix="d")

    with pytest.raises(UserError):
        train(tmp_path / "logged", 1)
    start(tmp_path / "resumed").close()
    with pytest.raises(UserError):
        train(tmp_path / "resumed", 0)
    assert names(tmp_path) == ["logged", "resumed"]
    assert steps_of(tmp_path / "logged") == [1]


def test_a_changed_environment_is_allowed_kept_and_said_in_one_line(tmp_path):
    start(tmp_path).close()
    for _ in range(2):
        with start(tmp_path, environment={"torch": "2.13.0", "threads": 1}) as run:
            (note,) = run.notes
            assert "threads 2 -> 1:" in note
            assert "torch" not in note
    assert json.loads((tmp_path / "environment.json").read_text()) == ENVIRONMENT | {"resumed": [{"threads": 1}]}
    with start(tmp_path) as run:
        assert run.notes == ()


def test_a_checkpoint_gives_back_model_state_and_random_numbers(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = torch.arange(3.0)
    optimiser.step()
    with start(tmp_path) as run:
        run.checkpoint(7, saver("weights"), {"optimiser": optimiser.state_dict(), "drawn": [1, 2]})
        expected = torch.randn(4)
        torch.randn(9)
        checkpoint = run.latest()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.folder) == (7, tmp_path / "checkpoints" / "step-000007")
    assert (checkpoint.folder / "model.safetensors").read_text() == "weights"
    state = checkpoint.state()
    assert state["drawn"] == [1, 2]
    torch.testing.assert_close(state["optimiser"]["state"], optimiser.state_dict()["state"], rtol=0, atol=0)
    checkpoint.restore_random_states()
    assert torch.equal(torch.randn(4), expected)


def test_the_newest_checkpoints_are_kept(tmp_path):
    with start(tmp_path, keep_checkpoints=2) as run:
        for step in (5, 10, 999_999, 1_000_000):
            run.checkpoint(step, saver(step), {})
        assert names(tmp_path / "checkpoints") == ["step-1000000", "step-999999"]
        assert run.latest().step == 1_000_000
    with pytest.raises(ValueError, match="keep_checkpoints is 0"):
        start(tmp_path, keep_checkpoints=0)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_an_incomplete_checkpoint_is_removed_and_the_one_before_is_used(tmp_path, name, damage):
    with start(tmp_path, keep_checkpoints=2) as run:
        run.checkpoint(5, saver(5), {})
        run.checkpoint(10, saver(10), {})
        path = tmp_path / "checkpoints" / "step-000010" / name
        path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-1])
        if (damage, name) == ("cut", "checkpoint.json"):
            path.write_text("{")
        told = []
        assert run.latest(told.append).step == 5
    assert names(tmp_path / "checkpoints") == ["step-000005"]
    (note,) = told
    assert "step-000010" in note
    assert name in note


def test_a_checkpoint_whose_bytes_have_changed_is_left_for_the_one_before_and_said(tmp_path):
    with start(tmp_path, keep_checkpoints=2) as run:
        run.checkpoint(5, saver(5), {})
        run.checkpoint(10, saver(10), {})
        path = tmp_path / "checkpoints" / "step-000010" / "model.safetensors"
        path.write_text("11")
        told = []
        assert run.latest(told.append).step == 5
        assert "model.safetensors has another content" in told[0]
        assert run.latest(told.append).step == 5
        assert len(told) == 1


def test_when_no_whole_checkpoint_is_left_that_is_said(tmp_path):
    with start(tmp_path) as run:
        run.checkpoint(5, saver(5), {})
        (tmp_path / "checkpoints" / "step-000005" / "config.json").unlink()
        told = []
        assert run.latest(told.append) is None
    assert "starts from its beginning" in told[-1]


@pytest.mark.parametrize("name", [name for name in FREE if name != "out"])
def test_a_setting_that_cannot_change_the_result_may_change_and_is_said_and_kept(tmp_path, name):
    start(tmp_path, CONFIG + f"{name}: 1\n").close()
    with start(tmp_path, CONFIG + f"{name}: 2\n") as run:
        (note,) = run.notes
    assert f"{name} 2 instead of 1" in note
    assert FREE[name] in note
    assert read_config(tmp_path)[name] == 2


@pytest.mark.parametrize("choosing", ["keep_best", "stop_early"])
def test_where_measurements_decide_on_the_result_they_may_not_change(tmp_path, choosing):
    start(tmp_path, CONFIG + f"{choosing}: 3\neval_every: 1\n").close()
    with pytest.raises(UserError, match="eval_every"):
        start(tmp_path, CONFIG + f"{choosing}: 3\neval_every: 2\n")


def test_a_run_of_an_older_release_takes_defaults_for_what_it_lacks_and_says_so(tmp_path):
    def read(path):
        return yaml.safe_dump({"seed": 0, **yaml.safe_load(path.read_text())})

    start(tmp_path, CONFIG).close()
    with pytest.raises(UserError, match="belongs to another run"):
        start(tmp_path, CONFIG + "seed: 1\n", read=read)
    with start(tmp_path, CONFIG + "seed: 0\n", read=read) as run:
        (note,) = run.notes
    assert "seed 0" in note
    with start(tmp_path, CONFIG + "seed: 0\n", read=read) as run:
        assert run.notes == ()


def test_an_absolute_path_for_a_relative_one_is_the_same_run(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.json").touch()
    (tmp_path / "b.json").touch()
    monkeypatch.chdir(tmp_path / "here")
    with start(tmp_path / "run") as run:
        run.keep_content({})
    start(tmp_path / "run", CONFIG.replace("a.json", str(tmp_path / "here" / "a.json"))).close()
    start(tmp_path / "run", CONFIG).close()
    monkeypatch.chdir(tmp_path)
    start(tmp_path / "run", CONFIG.replace("a.json", "here/a.json")).close()
    with pytest.raises(UserError, match="belongs to another run"):
        start(tmp_path / "run", CONFIG.replace("a.json", str(tmp_path / "b.json")))


def test_content_that_changed_is_refused_by_its_name(tmp_path):
    keep_content(tmp_path, {"chat template": "a" * 64})
    keep_content(tmp_path, {"chat template": "a" * 64, "tokenizer": "b" * 64})
    with pytest.raises(UserError, match="the tokenizer has changed since this run began") as caught:
        keep_content(tmp_path, {"chat template": "a" * 64, "tokenizer": "c" * 64})
    assert (caught.value.found, caught.value.expected) == ("content cccccccccccc", "content bbbbbbbbbbbb, as it was")


def test_a_finished_run_drops_what_only_training_needs_unless_it_is_to_stay(tmp_path):
    for keep in (False, True):
        with start(tmp_path / str(keep), keep_states=keep) as run:
            run.checkpoint(5, saver(5), {"optimiser": [1.0] * 100})
            dropped = run.finish(saver(5))
        checkpoint = tmp_path / str(keep) / "checkpoints" / "step-000005"
        assert (checkpoint / "model.safetensors").exists()
        assert (checkpoint / "training_state.pt").exists() == keep
        assert (checkpoint / "random_states.pt").exists() == keep
        assert (dropped == 0) == keep


def test_a_finished_run_cannot_be_made_longer_and_is_told_how_to_go_on(tmp_path):
    with start(tmp_path / "run", CONFIG + "epochs: 2\n") as run:
        run.finish(saver(1))
    with pytest.raises(UserError, match="finished") as caught:
        start(tmp_path / "run", CONFIG + "epochs: 4\n")
    assert "epochs = 4" in caught.value.found
    assert f"--model {tmp_path / 'run'} --out {tmp_path / 'run-2'}" in caught.value.fix


def test_a_checkpoint_of_the_right_size_that_cannot_be_read_is_named(tmp_path):
    with start(tmp_path) as run:
        checkpoint = run.checkpoint(5, saver(5), {})
    path = checkpoint.folder / "training_state.pt"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(UserError, match="a checkpoint cannot be read") as caught:
        checkpoint.state()
    assert caught.value.fix.startswith(f"rm -r {checkpoint.folder}")


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    start(tmp_path).close()
    (tmp_path / ".tmp-metrics").touch()
    (tmp_path / "checkpoints" / ".tmp-step-000005-99").mkdir(parents=True)
    start(tmp_path).close()
    assert names(tmp_path) == [".lock", "checkpoints", "config.yaml", "environment.json"]
    assert names(tmp_path / "checkpoints") == []


def test_rewinding_drops_numbers_and_samples_after_the_step(tmp_path):
    with start(tmp_path) as run:
        for step in range(1, 8):
            run.log(step, "train", loss=1 / step, tokens=step)
            run.log_sample(step, {"prompt": "hỏi", "response": "đáp"})
        append_line(tmp_path / "samples.jsonl", '{"step": 8, "prompt": "h')
        assert run.rewind(5) == 2
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5]
    assert steps_of(tmp_path, "samples.jsonl") == [1, 2, 3, 4, 5]
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first == {"step": 1, "phase": "train", "loss": 1.0, "tokens": 1}


def test_a_finished_run_holds_the_model_and_says_that_nothing_is_left_to_do(tmp_path):
    def save_with_folder(folder):
        saver("final")(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("y")

    with start(tmp_path) as run:
        run.log(1, "train", loss=1.0)
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "old").touch()
        run.finish(save_with_folder)
    assert (tmp_path / "model.safetensors").read_text() == "final"
    assert names(tmp_path / "sub") == ["x"]
    with start(tmp_path, environment={"torch": "3"}) as run:
        assert run.finished
        assert run.notes == (f"{tmp_path} is finished: there is nothing left to do",)
    assert ".tmp-model" not in names(tmp_path)


def test_a_model_may_not_overwrite_the_files_of_the_run(tmp_path):
    def save_model(folder):
        (folder / "metrics.jsonl").touch()

    with start(tmp_path) as run:
        with pytest.raises(ValueError, match=r"metrics\.jsonl"):
            run.finish(save_model)
        assert not (tmp_path / "metrics.jsonl").exists()
        assert not (tmp_path / "state.json").exists()


# A training of 6 steps on random numbers, as a recipe would write it, and a way to be killed at the n-th time that
# the process touches the file system: an audit hook sees every open, rename, mkdir and removal before it happens.
TRAINING = textwrap.dedent("""
    import os, random, signal, sys
    from pathlib import Path
    import torch
    from heed.train.run import open_run

    TOUCHES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}

    def train(out):
        torch.manual_seed(0)
        random.seed(0)
        with open_run(out, "steps: 6", {"threads": 1}) as run:
            if run.finished:
                return
            value, start = torch.zeros(50), 0
            checkpoint = run.latest()
            run.rewind(checkpoint.step if checkpoint else -1)
            if checkpoint:
                start, value = checkpoint.step, torch.load(checkpoint.folder / "model.pt")
                assert checkpoint.state()["step"] == start
                checkpoint.restore_random_states()
            for step in range(start + 1, 7):
                value = value * random.random() + torch.randn(50)
                run.log(step, "train", loss=float(value.sum()))
                if step % 2 == 0:
                    run.checkpoint(step, lambda folder: torch.save(value, folder / "model.pt"), {"step": step})
            run.finish(lambda folder: torch.save(value, folder / "model.pt"))

    def kill_at(number):
        seen = 0
        def hook(event, arguments):
            nonlocal seen
            if event in TOUCHES:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)

    def in_child(work):
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""")

KILL_EVERYWHERE = TRAINING + textwrap.dedent("""
    folder = Path(sys.argv[1])
    train(folder / "whole")
    def result(run):
        files = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
        return files, (run / "model.pt").read_bytes(), (run / "metrics.jsonl").read_text()
    for number in range(1, 10_000):
        run = folder / f"killed-at-{number}"
        code = in_child(lambda: (kill_at(number), train(run)))
        assert code in (0, -signal.SIGKILL), code
        assert in_child(lambda: train(run)) == 0, number
        assert result(run) == result(folder / "whole"), number
        if code == 0:
            print(number)
            break
""")


def test_a_run_killed_at_any_touch_of_the_disk_and_started_again_ends_bit_equal(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILL_EVERYWHERE, tmp_path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80  # as many kills as there were touches: it did happen in every place


KILLED_WHILE_SAVING = textwrap.dedent("""
    import os, signal, sys
    from heed.train.run import open_run

    def killed_half_way(folder):
        (folder / "model.safetensors").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    run = open_run(sys.argv[1], sys.argv[2], {})
    run.log(5, "train", loss=2.0)
    run.checkpoint(5, lambda folder: (folder / "model.safetensors").write_text("whole"), {"step": 5})
    run.log(6, "train", loss=1.0)
    if sys.argv[3] == "checkpoint":
        run.checkpoint(10, killed_half_way, {})
    else:
        run.finish(killed_half_way)
""")


@pytest.mark.parametrize("method", ["checkpoint", "finish"])
def test_a_kill_while_the_model_is_written_leaves_the_checkpoint_before(tmp_path, method):
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, tmp_path, CONFIG, method])
    assert done.returncode == -9
    with start(tmp_path, environment={}) as run:
        checkpoint = run.latest()
        assert checkpoint is not None
        assert checkpoint.state() == {"step": 5}
        assert (checkpoint.folder / "model.safetensors").read_text() == "whole"
        assert not run.finished
        run.rewind(5)
    assert steps_of(tmp_path) == [5]
    assert names(tmp_path) == [".lock", "checkpoints", "config.yaml", "environment.json", "metrics.jsonl"]
    assert names(tmp_path / "checkpoints") == ["step-000005"]


NO_ROOM = textwrap.dedent("""
    import resource, signal, sys
    import torch
    from safetensors.torch import save_file
    from heed.errors import UserError
    from heed.train.run import open_run

    out, config, limit, what = sys.argv[1:]
    run = open_run(out, config, {})
    save_small = lambda folder: save_file({"a": torch.zeros(5)}, folder / "model.safetensors")
    save_large = lambda folder: save_file({"a": torch.zeros(300_000)}, folder / "model.safetensors")
    run.log(5, "train", loss=2.0)
    run.checkpoint(5, save_small, {"step": 5})
    if limit == "file size":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    try:
        if what == "model":
            run.checkpoint(10, save_large, {})
        elif what == "state":
            run.checkpoint(10, save_small, {"moments": torch.zeros(300_000)})
        else:
            run.finish(save_large)
    except UserError as error:
        print(error.problem)
    print(*sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()))
    run.close()
    with open_run(out, config, {}) as run:
        assert run.latest().state() == {"step": 5} and not run.finished
""")


def check_nothing_half_written(stdout, problem):
    said, found = stdout.splitlines()
    assert said == problem
    inside = ["checkpoint.json", "model.safetensors", "random_states.pt", "training_state.pt"]
    at_root = ["config.yaml", "environment.json", "metrics.jsonl"]
    assert found.split() == [".lock", *(f"checkpoints/step-000005/{name}" for name in inside), *at_root]


@pytest.mark.parametrize("what", ["model", "state", "finish"])
def test_a_file_that_may_not_grow_leaves_nothing_half_written(tmp_path, what):
    command = [sys.executable, "-c", NO_ROOM, tmp_path, CONFIG, "file size", what]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    check_nothing_half_written(done.stdout, "a file grew past the size allowed here")


def may_mount_a_small_disk():
    if shutil.which("unshare") is None:
        return False
    probe = "mount -t tmpfs -o size=64k tmpfs /mnt"
    return subprocess.run(["unshare", "-rm", "sh", "-c", probe], capture_output=True).returncode == 0


@pytest.mark.skipif(
    not may_mount_a_small_disk(), reason="this user may not mount a small disk in a name space of its own"
)
@pytest.mark.parametrize("what", ["model", "state", "finish"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, what):
    mount_and_run = 'mount -t tmpfs -o size=700k tmpfs "$1"; shift; exec "$@"'
    program = [sys.executable, "-c", NO_ROOM, tmp_path, CONFIG, "disk", what]
    command = ["unshare", "-rm", "sh", "-c", mount_and_run, "sh", tmp_path, *program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    check_nothing_half_written(done.stdout, "the disk is full")


def two_processes(rank, folder):
    """What each of two processes meets in one run folder."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    world = World.from_environment(init_method=f"file://{folder}/meeting")
    torch.manual_seed(rank)
    out = Path(folder) / "run"
    with start(out, world=world) as run:
        run.log(1, "train", loss=1.0)
        run.log_sample(1, {"response": "x"})
        checkpoint = run.checkpoint(1, saver(f"of {rank}"), {"step": 1})
        expected = torch.randn(3)
        dropped = run.rewind(0)
        latest = run.latest()
        latest.restore_random_states(world)
        same = torch.equal(torch.randn(3), expected)
        run.finish(saver(f"of {rank}"))
    try:
        start(out, "model: other", world=world)
        refused = ""
    except UserError as error:
        refused = error.problem
    seen = {
        "same": same,
        "drawn": expected.tolist(),
        "dropped": dropped,
        "latest_is_the_one_written": latest == checkpoint,
        "state": latest.state(),
        "refused": refused,
    }
    (Path(folder) / f"seen-{rank}.json").write_text(json.dumps(seen))
    world.close()


def test_two_processes_share_a_run_and_the_first_one_writes(tmp_path):
    torch.multiprocessing.spawn(two_processes, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2))
    assert first.pop("drawn") != second.pop("drawn")  # each has random generators of its own, and gets them back
    assert first == second
    assert first == {
        "same": True,
        "dropped": 1,
        "latest_is_the_one_written": True,
        "state": {"step": 1},
        "refused": "the output folder belongs to another run",
    }
    assert (tmp_path / "run" / "model.safetensors").read_text() == "of 0"


def test_a_model_written_with_safetensors_is_whole_in_the_run(tmp_path):
    with start(tmp_path) as run:
        run.finish(lambda folder: save_file({"a": torch.arange(4)}, folder / "model.safetensors"))
    assert load_file(Path(tmp_path) / "model.safetensors")["a"].tolist() == [0, 1, 2, 3]
