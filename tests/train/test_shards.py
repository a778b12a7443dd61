"""Checkpoints of a module that is divided among processes: any number writes them, any other reads them.

Real processes and FSDP2. Of three, one holds no row of the smallest tensor.
"""

import json
import multiprocessing
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from heed.dist.shards import Divided, load_shards, take_out
from heed.dist.world import World
from heed.errors import UserError
from heed.train.checkpoint import Checkpoint, restore_optimiser, restore_tensors
from heed.train.optimiser import adamw, set_learning_rate
from heed.train.run import open_run

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.checkpoint", "heed.train.run"])
SECONDS_AT_MOST = 120


def trained(world: World) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same small module on any number of processes, divided among them where there are several."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    if world.size > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for module in (model[0], model[2], model):
            fully_shard(module, mesh=init_device_mesh("cpu", (world.size,)))
        for module in (model[0], model[2], model):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    optimiser = adamw(model.named_parameters(), weight_decay=0.1)
    set_learning_rate(optimiser, 0.05)
    return model, optimiser


def take_step(model: nn.Module, optimiser: torch.optim.Optimizer, step: int, world: World) -> None:
    data = torch.randn(6, 6, generator=torch.Generator().manual_seed(step))
    mine = data[world.rank :: world.size]
    model(mine).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def work(rank: int, size: int, folder: Path, start: int, stop: int, spoil: str) -> None:
    sys.stderr = (folder / f"told-{rank}").open("w")
    torch.set_num_threads(1)
    out = folder / "run"
    if size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    meeting = folder / f"meeting-{start}-{size}"
    try:
        with World.from_environment(init_method=f"file://{meeting}") as world:
            model, optimiser = trained(world)
            with open_run(out, "model: m", {}, world=world, keep_checkpoints=5) as run:
                checkpoint = run.latest(lambda line: (folder / "said").write_text(line))
                begin = 0
                if checkpoint is not None:
                    kept = checkpoint.state()
                    restore_tensors(dict(model.named_parameters()), kept["model"])
                    restore_optimiser(optimiser, kept["optimiser"])
                    begin = checkpoint.step
                assert begin == start, (begin, start)
                for step in range(begin + 1, stop + 1):
                    take_step(model, optimiser, step, world)
                    if step == stop and spoil and rank == size - 1:
                        exec(spoil)
                    state = {"model": dict(model.named_parameters()), "optimiser": optimiser.state_dict()}
                    run.checkpoint(step, lambda to: (to / "model").write_text("m"), state)
            result = {name: whole(p).detach() for name, p in model.named_parameters()}
            if rank == 0:
                torch.save(result, folder / f"result-{size}.pt")
    except UserError as error:
        if not error.is_told:
            print("error:", error, file=sys.stderr, flush=True)
        sys.exit(2)


def run_on(size: int, folder: Path, start: int, stop: int, spoil: str = "") -> list[int | None]:
    folder.mkdir(exist_ok=True)
    processes = [FORK.Process(target=work, args=(rank, size, folder, start, stop, spoil)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(SECONDS_AT_MOST)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


def told(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("told-*")))


@pytest.fixture(scope="module")
def in_one_piece(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert run_on(1, folder, 0, 4) == [0], told(folder)
    return torch.load(folder / "result-1.pt")


@pytest.mark.parametrize(("saved_on", "read_on"), [(2, 1), (2, 3), (3, 2), (1, 2)])
def test_what_some_processes_saved_others_go_on_from(tmp_path, in_one_piece, saved_on, read_on):
    assert run_on(saved_on, tmp_path, 0, 2) == [0] * saved_on, told(tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    parts = {path.name for path in checkpoint.glob("shards/*")}
    assert parts == ({f"__{rank}_0.distcp" for rank in range(saved_on)} | {".metadata"} if saved_on > 1 else set())
    assert run_on(read_on, tmp_path, 2, 4) == [0] * read_on, told(tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / f"result-{read_on}.pt"), in_one_piece, rtol=1e-5, atol=1e-6)


def test_on_as_many_processes_the_bits_are_those_of_a_run_in_one_piece(tmp_path):
    assert run_on(2, tmp_path / "whole", 0, 4) == [0, 0]
    assert run_on(2, tmp_path / "halves", 0, 2) == [0, 0]
    assert run_on(2, tmp_path / "halves", 2, 4) == [0, 0], told(tmp_path / "halves")
    ours, theirs = (torch.load(tmp_path / name / "result-2.pt") for name in ("halves", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_each_process_writes_about_its_share(tmp_path):
    assert run_on(2, tmp_path, 0, 1) == [0, 0], told(tmp_path)
    folder = tmp_path / "run" / "checkpoints" / "step-000001"
    rest = torch.load(folder / "training_state.pt", weights_only=True)
    assert all(set(of) == {"step", "exp_avg", "exp_avg_sq"} for of in rest["optimiser"]["state"].values())
    assert all(of["exp_avg"].keys() == {"divided among processes"} for of in rest["optimiser"]["state"].values())


def test_a_disk_full_on_one_process_ends_all_and_leaves_the_checkpoint_before(tmp_path, in_one_piece):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))"
    assert run_on(2, tmp_path, 0, 3, spoil=full) == [2, 2], told(tmp_path)
    assert told(tmp_path).count("error: ") == 1
    assert "a file grew past the size allowed here" in told(tmp_path)
    assert "Traceback" not in told(tmp_path)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-000001", "step-000002"]
    assert run_on(3, tmp_path, 2, 4) == [0, 0, 0], told(tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "result-3.pt"), in_one_piece, rtol=1e-5, atol=1e-6)


def test_a_process_that_is_killed_before_it_writes_ends_all_and_leaves_the_checkpoint_before(tmp_path):
    status = run_on(2, tmp_path, 0, 3, spoil="os.kill(os.getpid(), signal.SIGKILL)")
    assert status == [2, -signal.SIGKILL]
    assert "rank 1" in told(tmp_path)
    assert run_on(1, tmp_path, 2, 4) == [0], told(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut short", "other bits"])
def test_a_damaged_shard_is_said_and_the_checkpoint_before_is_used(tmp_path, damage):
    assert run_on(2, tmp_path, 0, 3) == [0, 0]
    shard = tmp_path / "run" / "checkpoints" / "step-000003" / "shards" / "__1_0.distcp"
    content = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content[:-9] if damage == "cut short" else content[:700] + b"x" * 9 + content[709:])
    assert run_on(2, tmp_path, 2, 3) == [0, 0], told(tmp_path)
    assert "is damaged and is left: shards/__1_0.distcp" in (tmp_path / "said").read_text()


def test_a_table_of_shards_that_names_code_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="shards of a checkpoint cannot be read") as caught:
        load_shards({"a": Divided(tmp_path / "shards", "a")}, {"a": torch.zeros(2)})
    assert "mkdir" in caught.value.found
    assert not (tmp_path / "ran").exists()


def test_a_state_without_divided_tensors_is_kept_as_it_always_was(tmp_path):
    state = {"a": torch.ones(2), "b": [1, (2.0, "x")], 3: {"c": None}}
    rest, divided = take_out(state)
    assert (rest["b"], rest[3], divided) == (state["b"], state[3], {})
    with open_run(tmp_path, "model: m", {}) as run:
        run.checkpoint(1, lambda to: (to / "model").write_text("m"), state)
    folder = tmp_path / "checkpoints" / "step-000001"
    names = json.loads((folder / "checkpoint.json").read_text())["sizes"].keys()
    assert names == {"model", "random_states.pt", "training_state.pt"}
    assert Checkpoint(1, folder).state()["b"] == state["b"]
