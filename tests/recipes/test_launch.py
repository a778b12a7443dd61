"""The launchers of examples/launch: sound scripts, sound YAML, one heed command, and it runs on two processes."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "examples" / "launch"
BIN = Path(sys.executable).parent
NAMES = ("two_machines.sh", "slurm.sh", "kubernetes.yaml", "skypilot.yaml")
SECONDS_AT_MOST = 300


def script_of(name: str) -> str:
    """The shell script that each machine of a launcher runs."""
    text = (LAUNCH / name).read_text(encoding="utf-8")
    if name == "kubernetes.yaml":
        _, job = yaml.safe_load_all(text)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["command"][:2] == ["bash", "-c"]
        return container["command"][2]
    return yaml.safe_load(text)["run"] if name == "skypilot.yaml" else text


def variables_of(name: str, node: int, port: int, **own: str) -> dict[str, str]:
    """What the launcher's surroundings set on a machine; here every machine is this one, with one process."""
    theirs = {
        "two_machines.sh": {"HEAD": "127.0.0.1", "NODE": str(node)},
        "slurm.sh": {
            "SLURM_JOB_NODELIST": "this",
            "SLURM_JOB_ID": str(port - 20_000),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_NODEID": str(node),
        },
        "kubernetes.yaml": {"JOB_COMPLETION_INDEX": str(node), "HEAD": "127.0.0.1"},
        "skypilot.yaml": {
            "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": str(node),
            "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        },
    }[name]
    return {**os.environ, "GPUS": "1", "PORT": str(port), **theirs, **own}


def free_port() -> int:
    """One below 40,000, which is what the Slurm script can name."""
    for port in range(20_000 + os.getpid() % 10_000, 40_000):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@pytest.fixture
def programs(tmp_path):
    """A folder of programs before all others: what Slurm has, in its simplest form."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, script in {"srun": 'exec "$@"', "scontrol": "echo 127.0.0.1; echo 127.0.0.2"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_sound_by_bash_and_shellcheck(tmp_path, name):
    path = tmp_path / "script.sh"
    text = script_of(name)
    path.write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}")
    subprocess.run(["bash", "-n", path], check=True)
    checked = subprocess.run([BIN / "shellcheck", "--severity=style", path], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_shellcheck_would_find_something(tmp_path):
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm -rf $1/bin\n")
    assert subprocess.run([BIN / "shellcheck", tmp_path / "bad.sh"], capture_output=True).returncode == 1


def test_every_launcher_gives_torchrun_the_same_command(tmp_path, programs):
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    (programs / "torchrun").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{show}" "$@"\n')
    (programs / "torchrun").chmod(0o755)
    said = {}
    for name in NAMES:
        variables = variables_of(name, 1, 23_456, MODEL="a model", DATA="d", OUT="o")
        variables["PATH"] = f"{programs}:{variables['PATH']}"
        done = subprocess.run(["bash", "-c", script_of(name)], env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said[name] = json.loads(done.stdout)
    expected = shlex.split(
        "--nnodes 2 --node-rank 1 --nproc-per-node 1 --master-addr 127.0.0.1 --master-port 23456 "
        "-m heed sft --model 'a model' --data d --out o"
    )
    assert said == dict.fromkeys(NAMES, expected)


def test_the_kubernetes_file_has_what_an_indexed_job_needs():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 2
    assert pod["restartPolicy"] in ("OnFailure", "Never"), "a Job refuses Always"
    assert pod["terminationGracePeriodSeconds"] >= 120, "a run that is told to stop ends its step and saves"
    assert service["spec"]["clusterIP"] == "None", "pods are found by name in a headless service alone"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}, "the label that a Job gives its pods"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"{job['metadata']['name']}-0.{pod['subdomain']}" in script_of("kubernetes.yaml")
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(isinstance(part, str) for part in container["command"])
    assert str(service["spec"]["ports"][0]["port"]) in script_of("kubernetes.yaml")


def test_the_skypilot_file_has_the_fields_of_a_task():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task.keys() == {"name", "num_nodes", "resources", "volumes", "envs", "setup", "run"}
    assert task["num_nodes"] == 2
    assert all(isinstance(value, str) for value in task["envs"].values())


@pytest.fixture
def tiny_run(tmp_path, instruct, colours, write) -> dict[str, str]:
    return {"MODEL": str(instruct), "DATA": str(write(colours)), "OUT": str(tmp_path / "run")}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_command_trains_on_two_processes(tmp_path, programs, name, tiny_run):
    port = free_port()
    started = []
    for node in range(2):
        variables = variables_of(name, node, port, **tiny_run)
        variables["PATH"] = f"{programs}:{BIN}:{variables['PATH']}"
        script = script_of(name).rstrip().removesuffix("'")
        closing = "'" if script_of(name).rstrip().endswith("'") else ""
        words = f" --steps 2 --batch-size 4 --device cpu{closing}"
        with (tmp_path / f"told-{node}").open("w") as told:
            command = ["bash", "-c", script + words]
            started.append(subprocess.Popen(command, env=variables, stderr=told, stdout=told, start_new_session=True))
    try:
        status = [process.wait(SECONDS_AT_MOST) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    told = [(tmp_path / f"told-{node}").read_text() for node in range(2)]
    assert status == [0, 0], told
    out = Path(tiny_run["OUT"])
    assert json.loads((out / "environment.json").read_text())["processes"] == 2
    assert (out / "model.safetensors").exists()
