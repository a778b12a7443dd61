"""Rollouts on a server: the same run as heed's own sampler, whatever happens to the server; and the wrong server told.

The server is `engines.Engine`; tests/engine has the same with vLLM itself.
"""

import ast
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import Engine, once
from safetensors.torch import load_file
from tastes import heed, lines, prompts, write
from test_two_processes import distance, ended, files, words_of
from test_two_processes import weights as all_weights

from heed.engine import servers
from heed.engine.client import Ask, Server, UnreachableError, seed_of_prompt
from heed.engine.servers import Servers
from heed.engine.start import ENVIRONMENT, environment_of
from heed.models.load import load_model

__all__ = ["files"]  # a fixture

OPTIONS = {"steps": 2, "batch_size": 8, "max_new_tokens": 8, "lr": 3e-3, "temperature": 0.8, "eval_limit": 4}
COMMANDS = {"ppo": {}, "grpo": {"group_size": 4}}
DRAWING = "/v1/completions"


@pytest.fixture
def engine(tuned):
    made = Engine(tuned, range(10))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(servers, "BETWEEN_LOOKS", 0.05)


@pytest.fixture
def learn(tmp_path, tuned, capsys):
    """Run a command; its exit status, what it said, and its folder."""

    def run(command, name, *, engine=None, rank=4, **options):
        out = tmp_path / name
        by = {} if engine is None else {"rollout": "vllm", "rollout.url": engine.url, "rollout.patience": 20}
        data = write(tmp_path / "prompts.jsonl", prompts())
        given = OPTIONS | COMMANDS[command] | {"lora_rank": rank} | by | options
        status = heed(command, model=tuned, data=data, reward="contains: wanted", out=out, **given)
        told = capsys.readouterr()
        return status, told.out + told.err, out

    return run


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next(out.glob("*model.safetensors")))


def apart(one: Path, other: Path) -> float:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def answers(out: Path) -> list[str]:
    return [line["answer"] for line in lines(out / "samples.jsonl")]


@pytest.mark.parametrize(("command", "rank"), [("grpo", 4), ("ppo", 0)])
def test_answers_of_a_server_that_draws_as_heed_does_make_the_same_run(learn, engine, command, rank):
    _, _, ours = learn(command, "ours", rank=rank)
    status, told, theirs = learn(command, "theirs", rank=rank, engine=engine)
    assert status == 0, told
    assert ("keeps the policy's weights" in told) == (rank == 0)
    assert answers(ours) == answers(theirs)
    assert apart(ours, theirs) < 1e-5
    for line in lines(theirs / "metrics.jsonl", "train"):
        assert line["sampler_gap_max"] < 1e-4
        assert line["importance_weight_max"] == pytest.approx(1, abs=1e-4)


def test_every_phase_is_drawn_from_the_weights_of_that_phase(learn, engine):
    status, _, _ = learn("grpo", "run", engine=engine, steps=3)
    assert status == 0
    drawing = [body["model"] for path, body in engine.calls if path == DRAWING]
    loaded = [body["lora_name"] for path, body in engine.calls if path == "/v1/load_lora_adapter"]
    names = list(dict.fromkeys(drawing))
    assert len(names) >= 3
    assert list(dict.fromkeys(loaded)) == names
    gone = [body["lora_name"] for path, body in engine.calls if path == "/v1/unload_lora_adapter"]
    assert gone == names, "the last one too, when the run ends"


@pytest.mark.slow
@pytest.mark.parametrize(("trouble", "rank"), [("gone", 4), ("broken", 0), ("cut", 4)])
def test_a_server_that_fails_in_mid_phase_loses_nothing(learn, engine, trouble, rank):
    _, _, ours = learn("grpo", "ours", rank=rank)
    engine.trouble = once(DRAWING, 12, lambda: trouble)
    status, told, theirs = learn("grpo", "theirs", rank=rank, engine=engine)
    assert status == 0, told
    assert answers(ours) == answers(theirs)
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    ("rank", "at"),
    [(4, 7), pytest.param(4, 13, marks=pytest.mark.slow), pytest.param(0, 14, marks=pytest.mark.slow)],
)
def test_a_server_that_dies_in_mid_phase_and_comes_back_without_its_weights_loses_nothing(learn, engine, rank, at):
    _, _, ours = learn("grpo", "ours", rank=rank)

    def die():
        engine.die_for(0.3)
        return "gone"

    engine.trouble = once(DRAWING, at, die)
    status, told, theirs = learn("grpo", "theirs", rank=rank, engine=engine)
    assert status == 0, told
    assert "waiting" in told
    assert answers(ours) == answers(theirs)
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    ("told", "limit", "weight"), [(-0.3, 2.0, np.exp(0.3)), (-0.3, 1.2, 1.2), (0.3, 2.0, np.exp(-0.3))]
)
def test_a_token_that_the_server_thinks_rarer_weighs_more_up_to_a_limit(learn, engine, told, limit, weight):
    """All weights the same, w: the first gradient is w times that of heed's own sampler."""
    engine.told_apart = told
    how = {"steps": 1, "rollout.max_gap": 0.5, "rollout.max_weight": limit}
    _, _, ours = learn("grpo", "ours", steps=1)
    status, said, theirs = learn("grpo", "theirs", engine=engine, **how)
    assert status == 0, said
    [one], [other] = (lines(out / "metrics.jsonl", "train") for out in (ours, theirs))
    assert other["importance_weight_mean"] == pytest.approx(weight, rel=1e-4)
    assert other["grad_norm"] / one["grad_norm"] == pytest.approx(weight, rel=1e-4)
    assert other["sampler_gap_mean"] == pytest.approx(abs(told), rel=1e-4)


def test_several_servers_draw_in_turn_and_make_the_same_run(learn, engine, tuned):
    other = Engine(tuned, range(10))
    try:
        _, _, one = learn("ppo", "one", engine=engine)
        status, _, two = learn("ppo", "two", engine=engine, **{"rollout.url": f"{engine.url},{other.url}"})
        assert status == 0
        assert sum(path == DRAWING for path, _ in other.calls) > 12
        assert answers(one) == answers(two)
    finally:
        other.stop()


def test_a_policy_in_parts_on_two_processes_draws_from_two_servers_what_one_process_draws_itself(
    tmp_path, files, engine, tuned
):
    """Each process asks for its own prompts, of weights that are written once."""
    other = Engine(tuned, range(10))
    alone, together = tmp_path / "alone", tmp_path / "together"
    ended(words_of("grpo", files, alone / "run"), alone, 1, torch.float32)
    served = {"rollout": "vllm", "rollout.url": f"{engine.url},{other.url}", "parallel": "fsdp"}
    ended(words_of("grpo", files, together / "run", **served), together, 2, torch.float32)
    other.stop()
    assert_same_run(alone, together)
    for each in (engine, other):
        given = [body["lora_name"] for path, body in each.calls if path == "/v1/load_lora_adapter"]
        assert len(given) == 3 + 2, "before each phase, and before both measurements"
        assert list(each.models) == [each.base]


@pytest.mark.slow
def test_a_policy_in_parts_starts_a_server_of_the_whole(tmp_path, files):
    """All parameters are trained: the server is started with the model as it is, and ends with the run."""
    python = tmp_path / "python"
    where = Path(servers.__file__).parents[2]
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={where} exec {sys.executable} {Path(__file__).with_name("engines.py")} "$@"\n'
    )
    python.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    alone, together = tmp_path / "alone", tmp_path / "together"
    ended(words_of("ppo, all parameters", files, alone / "run"), alone, 1, torch.float32)
    served = {"rollout": "vllm", "rollout.start": True, "rollout.python": python, "rollout.url": url}
    words = words_of("ppo, all parameters", files, together / "run", **served, parallel="fsdp")
    ended(words, together, 2, torch.float32)
    assert_same_run(alone, together)
    with pytest.raises(UnreachableError):
        Server(url).facts()
    assert not [path for path in (together / "run" / "engine").rglob("*") if path.suffix == ".safetensors"]


def assert_same_run(alone: Path, together: Path) -> None:
    assert answers(alone / "run") == answers(together / "run")
    assert distance(all_weights(together / "run"), all_weights(alone / "run")) < 1e-5
    assert "a process holds" in (together / "told-0").read_text()


def told_in_parts(told: str, *found: str) -> None:
    assert "Traceback" not in told
    for part in ("where:", "found:", "expected:", "fix:", *found):
        assert part in told


def test_a_server_that_stays_away_ends_the_run(learn, engine):
    engine.trouble = once(DRAWING, 8, lambda: engine.die_for(None) or "gone")
    status, told, _ = learn("grpo", "run", engine=engine, **{"rollout.patience": 0.5})
    assert status == 2
    told_in_parts(told, engine.url, "does not answer", "for 0.5 s")


def test_a_server_that_hangs_ends_the_run(learn, engine):
    engine.trouble = lambda path, count: "hanging" if path == DRAWING and count > 14 else None
    status, told, _ = learn("grpo", "run", engine=engine, **{"rollout.patience": 0.5})
    assert status == 2
    told_in_parts(told, "timed out")


def test_a_server_that_never_answers_whole_ends_the_run(learn, engine):
    engine.trouble = lambda path, count: "cut" if path == DRAWING else None
    status, told, _ = learn("grpo", "run", engine=engine, **{"rollout.patience": 0.5})
    assert status == 2
    told_in_parts(told, "cut after")


def test_an_address_where_nobody_listens_is_told(learn, engine):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    status, told, _ = learn("grpo", "run", engine=engine, **{"rollout.url": url, "rollout.patience": 0.3})
    assert status == 2
    told_in_parts(told, url)


def test_what_is_no_vllm_is_told(learn, engine):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, *words):
            pass

    page = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{page.server_address[1]}"
    status, told, _ = learn("grpo", "run", engine=engine, **{"rollout.url": url})
    page.shutdown()
    page.server_close()
    assert status == 2
    told_in_parts(told, "there is no vLLM server at this address")


def test_an_address_without_http_is_told_with_one_that_works(learn, engine):
    status, told, _ = learn("grpo", "run", engine=engine, **{"rollout.url": engine.url.removeprefix("http://")})
    assert status == 2
    told_in_parts(told, f"--rollout.url {engine.url}")


@pytest.mark.parametrize("version", ["0.31.2", "0.320.0", "1.0.0"])
def test_another_release_is_refused(learn, engine, version):
    engine.version = version
    status, told, _ = learn("grpo", "run", engine=engine)
    assert status == 2
    told_in_parts(told, version, "0.32")


def test_too_few_positions_are_told(learn, engine):
    engine.positions = 20
    status, told, _ = learn("grpo", "run", engine=engine)
    assert status == 2
    told_in_parts(told, "20 positions", "--max-model-len")


def test_another_tokenizer_is_told(learn, base):
    other = Engine(base, range(10))
    try:
        status, told, _ = learn("grpo", "run", engine=other)
        assert status == 2
        told_in_parts(told, "another tokenizer", str(base))
    finally:
        other.stop()


def test_another_base_is_told_before_anything_is_drawn(learn, tmp_path, tuned, engine):
    model = load_model(str(tuned), torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    engine.models[engine.base] = model
    load = engine.said

    def other_base(path, body):
        if path == "/v1/load_lora_adapter":
            engine.models[body["lora_name"]] = model
            return 200, "Success"
        return load(path, body)

    engine.said = other_base
    status, told, out = learn("grpo", "run", engine=engine)
    assert status == 2
    told_in_parts(told, "other weights", "before a phase", "--rollout.max-gap")
    assert not (out / "samples.jsonl").exists()


@pytest.mark.parametrize("rank", [0, 4])
def test_a_server_that_keeps_old_weights_is_found_out_within_the_gap(learn, engine, rank):
    """Though it says that it took the new ones, and the steps are so small that the gap allows the old."""
    real = engine.said

    def keeping(path, body):
        if path == "/collective_rpc":
            return 200, {"results": [None]}
        if path == "/v1/load_lora_adapter" and len(engine.models) > 1:
            engine.models[body["lora_name"]] = list(engine.models.values())[-1]
            return 200, "Success"
        return real(path, body)

    engine.said = keeping
    small = {"lr": 1e-4, "steps": 5, "rollout.max_gap": 0.5}
    status, told, out = learn("grpo", "run", engine=engine, rank=rank, **small)
    assert status == 2
    told_in_parts(told, "weights of an earlier phase", "before a phase")
    assert max(line["sampler_gap_mean"] for line in lines(out / "metrics.jsonl")) < 1e-4


def test_a_server_that_comes_back_with_its_first_weights_is_found_out_within_the_gap(learn, engine):
    """It dies while it draws for the third phase, and takes no weights any more."""
    real = engine.said

    def die():
        engine.said = lambda path, body: (200, {}) if path == "/collective_rpc" else real(path, body)
        engine.die_for(0.3)
        return "gone"

    engine.trouble = once(DRAWING, 23, die)
    small = {"lr": 1e-4, "steps": 5, "rollout.max_gap": 0.5}
    status, told, _ = learn("grpo", "run", engine=engine, rank=0, **small)
    assert status == 2
    told_in_parts(told, "weights of an earlier phase", "after it came back")


def test_a_server_that_refuses_adapters_is_told_how_to_be_started(learn, engine):
    real = engine.said
    engine.said = lambda path, body: (404, "Not Found") if "lora" in path else real(path, body)
    status, told, _ = learn("grpo", "run", engine=engine)
    assert status == 2
    told_in_parts(told, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "--enable-lora")


def test_a_run_goes_on_at_another_address(learn, engine, tuned):
    status, told, _ = learn("grpo", "run", engine=engine, steps=2)
    assert status == 0
    other = Engine(tuned, range(10))
    try:
        status, told, _ = learn("grpo", "run", engine=other, steps=2)
        assert status == 0, told
    finally:
        other.stop()


def test_a_python_that_is_not_there_is_told(learn, engine):
    port = {"rollout.url": "http://127.0.0.1:1", "rollout.python": "/no/such/python", "rollout.start": True}
    status, told, _ = learn("grpo", "run", engine=engine, **port)
    assert status == 2
    told_in_parts(told, "/no/such/python", "--rollout.python")


def test_a_started_server_that_ends_at_once_is_told_with_its_last_words(learn, engine, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named vllm' >&2\nexit 1\n")
    fake.chmod(0o755)
    port = {"rollout.url": "http://127.0.0.1:1", "rollout.python": fake, "rollout.start": True}
    status, told, _ = learn("grpo", "run", engine=engine, **port)
    assert status == 2
    told_in_parts(told, "No module named vllm", f"{fake} -m vllm.entrypoints.openai.api_server --model")


def test_a_server_that_fails_while_it_forgets_an_adapter_is_waited_for(learn, engine):
    engine.trouble = once("/v1/unload_lora_adapter", 1, lambda: "broken")
    status, told, _ = learn("grpo", "run", engine=engine)
    assert (status, "waiting" in told) == (0, True), told


def test_a_server_that_does_not_say_how_it_cuts_texts_is_told(learn, engine, monkeypatch):
    said = engine.said
    monkeypatch.setattr(engine, "said", lambda path, body: (404, "no") if path == "/tokenize" else said(path, body))
    status, told, _ = learn("grpo", "run", engine=engine)
    assert status == 2
    told_in_parts(told, "404", "/tokenize")


def test_a_base_in_four_bits_is_not_what_a_server_has(learn, engine):
    status, told, _ = learn("grpo", "run", engine=engine, quantise="nf4")
    assert status == 2
    told_in_parts(told, "--quantise nf4", "--rollout heed")


def test_a_server_is_not_started_where_another_listens(learn, engine, tmp_path):
    status, told, _ = learn("grpo", "run", engine=engine, **{"rollout.start": True, "rollout.python": "sleep"})
    assert status == 2
    told_in_parts(told, "already", f"http://127.0.0.1:{engine.port + 1}")


def test_a_server_inherits_nothing_of_torchruns():
    ours = {"PATH": "/bin", "RANK": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": "1", "PYTHONPATH": "/x"}
    assert environment_of(ours | {"GROUP_RANK": "0", "HF_HOME": "/h"}) == {
        **ENVIRONMENT,
        "PATH": "/bin",
        "HF_HOME": "/h",
    }


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"rollout.words": "--gpu-memory-utilization 0.4"}, "--rollout.words='--gpu-memory-utilization 0.4'"),
        ({"rollout.words=--device-ids 1": True}, "--rollout.start --rollout.words='--device-ids 1'"),
        ({"rollout.words=--port 1": True, "rollout.start": True, "rollout.url": "http://127.0.0.1:1"}, "--port"),
    ],
)
def test_words_that_no_server_could_be_given_are_told(learn, engine, options, found):
    status, told, _ = learn("grpo", "run", engine=engine, **options)
    assert status == 2
    told_in_parts(told, "--rollout.words", found)


def test_words_are_given_to_the_server_that_is_started(learn, engine, tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "Error: $*" >&2\nexit 1\n')
    fake.chmod(0o755)
    port = {"rollout.url": "http://127.0.0.1:1", "rollout.python": fake, "rollout.start": True}
    status, told, _ = learn("grpo", "run", engine=engine, **port, **{"rollout.words=--device-ids '1,2'": True})
    assert status == 2
    told_in_parts(told, "--enable-lora --max-lora-rank 8 --device-ids 1,2")


def test_no_copy_of_the_policy_is_left_in_the_run(learn, engine):
    _, _, out = learn("grpo", "run", engine=engine)
    assert not [path for path in (out / "engine").rglob("*") if path.is_file() and path.suffix == ".safetensors"]


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"token_ids": [], "logprobs": {"token_logprobs": []}},
        {"token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0]}},
        {"token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, float("nan")]}},
        {"token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -1.0]}},  # neither stopped nor full
        {"token_ids": [5, 1], "logprobs": {"token_logprobs": [-1.0, -1.0]}, "prompt_token_ids": [9]},
    ],
)
def test_an_answer_that_is_not_whole_is_never_learnt_from(monkeypatch, choice):
    said = {"choices": [{"index": 0, **choice}]}
    monkeypatch.setattr(Server, "call", lambda self, path, body, timeout: json.loads(json.dumps(said)))
    with pytest.raises(UnreachableError):
        Server("http://x").draw("m", [3, 4], Ask(4, 1.0, (1,), 1), seed=0, timeout=1)


def test_seeds_of_prompts_are_far_apart():
    seeds = np.sort([seed_of_prompt(seed, number) for seed in range(40) for number in range(250)])
    assert seeds.min() >= 0
    assert seeds.max() < 2**52
    assert np.diff(seeds).min() > 64  # a sample's number is added to it


def test_patience_counts_from_the_last_answer():
    said = []
    waiting = Servers((Server("http://127.0.0.1:1"),), 0.2, said.append)
    tries = iter([UnreachableError("away"), UnreachableError("away"), None])

    def work():
        if error := next(tries):
            raise error
        return "here"

    assert waiting.until(waiting.servers[0], work) == "here"
    assert len(said) == 1


def test_vllm_is_imported_nowhere():
    source = Path(servers.__file__).parents[1]
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "vllm" for name in names), file
