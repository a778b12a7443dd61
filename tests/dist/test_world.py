"""Processes that train together: two real ones, meeting in a file, against one."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from heed.dist.world import World
from heed.errors import UserError

NUM_ITEMS = 5


def model_and_data():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model, torch.randn(NUM_ITEMS, 4, generator=generator, dtype=torch.float64)


def gradients_of_a_step(world, bucket_bytes=None):
    """The mean over all items of a loss, from this process's share of them."""
    if bucket_bytes is not None:
        import heed.dist.world

        heed.dist.world.BUCKET_BYTES = bucket_bytes
    model, items = model_and_data()
    mine = world.share(list(items))
    count = world.sum(torch.tensor(float(len(mine)), dtype=torch.float64))
    for item in mine:
        (model(item).pow(4).sum() / count).backward()
    world.sum_gradients(model.parameters())
    return [p.grad for p in model.parameters()]


def gradients_with_gaps(world):
    """Parameters with a gradient on both processes, on the second only, on none; and one that is frozen."""
    both, second, neither, frozen = (torch.ones(2, requires_grad=i < 3) for i in range(4))
    both.grad = torch.full((2,), float(world.rank + 1))
    if world.rank == 1:
        second.grad = torch.tensor([5.0, 6.0])
    world.sum_gradients([both, second, neither, frozen])
    return [None if p.grad is None else p.grad.tolist() for p in (both, second, neither, frozen)]


def fail(error):
    raise error


def outcome_of(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


USER_ERROR = UserError("the disk is full", where="a", found="b", expected="c", fix="d")


def work(rank, folder):
    """Everything the two processes do together, so that they are started once."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    world = World.from_environment("cpu", init_method=f"file://{folder}/meeting")
    tensor = torch.tensor([1.0, 10.0], dtype=torch.float64) * (rank + 1)
    seen = {
        "world": (world.rank, world.size, world.local_rank, world.is_first),
        "gradients": gradients_of_a_step(world),
        "gradients_in_small_buckets": gradients_of_a_step(world, bucket_bytes=100),
        "gaps": gradients_with_gaps(world),
        "sum": world.sum(tensor).tolist(),
        "summed_tensor_after": tensor.tolist(),
        "share": world.share(range(NUM_ITEMS)),
        "broadcast": world.broadcast_object({"from": rank}),
        "gathered": world.gather_objects({"from": rank}),
        "on_first": world.on_first(lambda: f"done by {rank}"),
        "user_error": outcome_of(lambda: world.on_first(lambda: fail(USER_ERROR))),
        "bug": outcome_of(lambda: world.on_first(lambda: fail(KeyError("x")))),
    }
    if rank == 1:
        time.sleep(0.5)  # the other process would be past a barrier that does not wait
        (Path(folder) / "late").touch()
    world.barrier()
    seen["late_file_seen"] = (Path(folder) / "late").exists()
    torch.save(seen, Path(folder) / f"seen-{rank}.pt")
    world.close()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"seen-{rank}.pt") for rank in range(2)]


def test_unequal_shares_give_the_gradient_of_one_process(seen):
    expected = gradients_of_a_step(World())
    for process in seen:
        for name in ("gradients", "gradients_in_small_buckets"):
            torch.testing.assert_close(process[name], expected, rtol=1e-12, atol=1e-12)


def test_both_processes_hold_bit_equal_gradients(seen):
    assert all(torch.equal(a, b) for a, b in zip(seen[0]["gradients"], seen[1]["gradients"], strict=True))


def test_a_missing_gradient_counts_as_zeros_unless_it_is_missing_everywhere(seen):
    assert seen[0]["gaps"] == seen[1]["gaps"] == [[3.0, 3.0], [5.0, 6.0], None, None]


def test_a_sum_is_over_processes_and_leaves_its_input(seen):
    assert [process["sum"] for process in seen] == [[3.0, 30.0]] * 2
    assert [process["summed_tensor_after"] for process in seen] == [[1.0, 10.0], [2.0, 20.0]]


def test_every_item_goes_to_exactly_one_process(seen):
    assert [process["share"] for process in seen] == [[0, 2, 4], [1, 3]]


def test_objects_travel_from_the_first_and_from_all(seen):
    assert [process["broadcast"] for process in seen] == [{"from": 0}] * 2
    assert [process["gathered"] for process in seen] == [[{"from": 0}, {"from": 1}]] * 2


def test_each_process_knows_its_place(seen):
    assert [process["world"] for process in seen] == [(0, 2, 0, True), (1, 2, 1, False)]


def test_a_barrier_waits_for_the_last(seen):
    assert all(process["late_file_seen"] for process in seen)


def test_work_of_the_first_ends_alike_for_all(seen):
    assert [process["on_first"] for process in seen] == ["done by 0"] * 2
    assert [process["user_error"] for process in seen] == [("UserError", str(USER_ERROR))] * 2
    assert seen[0]["bug"] == ("KeyError", "'x'")
    assert seen[1]["bug"] == ("RuntimeError", "the first process failed: KeyError: 'x'")


def test_nothing_talks_inside_the_work_of_the_first_also_in_a_process_on_its_own():
    world = World()
    talks = {
        "sum": lambda: world.sum(torch.ones(1)),
        "gradients": lambda: world.sum_gradients([]),
        "barrier": world.barrier,
        "broadcast": lambda: world.broadcast_object(1),
        "gathering": lambda: world.gather_objects(1),
        "work": lambda: world.on_first(lambda: 1),
    }
    for talk in talks.values():
        with pytest.raises(RuntimeError, match="which the first process does alone"):
            world.on_first(talk)
    assert world.on_first(lambda: 7) == 7
    assert world.gather_objects(1) == [1]


def test_alone_everything_is_the_identity():
    world, tensor = World(), torch.tensor([1.5])
    assert world.sum(tensor) is tensor
    assert world.share("abc") == ["a", "b", "c"]
    assert world.broadcast_object(7) == world.on_first(lambda: 7) == 7
    assert world.gather_objects(7) == [7]
    assert world.is_first
    parameter = torch.ones(2, requires_grad=True)
    world.sum_gradients([parameter])
    world.barrier()
    world.close()
    assert parameter.grad is None


def test_without_torchrun_a_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert World.from_environment() == World(0, 1)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"RANK": "0"}, "no WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "no RANK"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2, WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "no MASTER_ADDR and no MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "http"}, "MASTER_PORT='http'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
    ],
)
def test_surroundings_that_make_no_sense_are_named(monkeypatch, variables, found):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        World.from_environment()
    assert caught.value.found == found


@pytest.mark.slow
def test_processes_started_by_torchrun_meet(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import torch\n"
        "from heed.dist.world import World\n"
        "world = World.from_environment()\n"
        "total = world.sum(torch.tensor([world.rank + 1.0]))\n"
        "assert total.item() == 3, total\n"
        "world.close()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port),
        script,
    ]
    subprocess.run(command, check=True, timeout=120)
