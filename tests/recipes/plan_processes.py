"""What processes really hold of a divided model, for comparison with a plan."""

import multiprocessing
import os
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
import transformers as t
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heed.dist.divided import is_shard, num_local_bytes, shard
from heed.dist.world import World
from heed.models.blank_model import forest_of
from heed.models.load import prepare_training
from heed.models.score import forest_score, layers_of
from heed.train.optimiser import adamw

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["heed.models.blank_model", "torch.distributed.fsdp"])
SECONDS_AT_MOST = 120
CONFIG = {
    "vocab_size": 101, "hidden_size": 24, "intermediate_size": 50, "num_hidden_layers": 4, "num_attention_heads": 3,
    "num_key_value_heads": 3, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
"""sizes of which few are multiples of the number of processes"""


class AllLive(TorchDispatchMode):
    """The most bytes alive at once, whatever resizes them: FSDP empties storages without freeing them."""

    def __init__(self, held):
        super().__init__()
        self.peak, self.live = 0, {}
        self.held = {id(tensor.untyped_storage()): tensor.untyped_storage() for tensor in held}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, found)):
            if isinstance(tensor, torch.Tensor) and type(tensor) is torch.Tensor:
                storage = tensor.untyped_storage()
                if id(storage) not in self.held and id(storage) not in self.live:
                    self.live[id(storage)] = weakref.ref(storage)
                    weakref.finalize(storage, self.live.pop, id(storage), None)
        self.peak = max(self.peak, self.now())
        return found

    def now(self):
        return sum(storage.nbytes() for ref in list(self.live.values()) if (storage := ref()) is not None)


def local(tensor):
    return tensor.to_local() if is_shard(tensor) else tensor


def held_by_process(world: World, machines: int) -> dict[str, int]:
    """Take one step on a divided model, and count what this process holds of it."""
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(t.LlamaConfig(**CONFIG)).eval()
    prepare_training(model, activations="recompute")
    sharded = shard(model, layers_of(model), world, machines=machines, offload=False)
    optimiser = adamw(model.named_parameters(), weight_decay=0.0)
    parameters = list(model.parameters())
    forest = forest_of([9, 5])
    counted = AllLive([local(p) for p in parameters])
    with counted:
        loss, _ = sharded.call(forest_score, forest)
        loss.backward()
        del loss
    gradients = [p.grad for p in parameters]
    optimiser.step()
    moments = [x for state in optimiser.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    return {
        "parameters": num_local_bytes(parameters),
        "gradients": num_local_bytes(gradients),
        "moments": num_local_bytes(moments),
        "peak": counted.peak,
    }


def work(rank: int, size: int, machines: int, meeting: Path, told) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    told.put((rank, held_by_process(World(rank, size), machines)))
    dist.destroy_process_group()


def work_alone(rank: int, size: int, machines: int, told) -> None:
    """One of many processes, with a backend that sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    told.put((rank, held_by_process(World(rank, size), machines)))
    dist.destroy_process_group()


def really_held(size: int, machines: int, folder: Path) -> dict[int, dict[str, int]]:
    """What each of `size` gloo processes holds."""
    return _run(work, [(rank, size, machines, folder / f"meeting-{size}-{machines}") for rank in range(size)])


def held_without_others(ranks: list[int], size: int, machines: int) -> dict[int, dict[str, int]]:
    """What these of `size` processes hold."""
    return _run(work_alone, [(rank, size, machines) for rank in ranks])


def _run(function, arguments) -> dict[int, dict[str, int]]:
    os.environ["OMP_NUM_THREADS"] = "1"
    told = FORK.SimpleQueue()
    processes = [FORK.Process(target=function, args=(*given, told), daemon=True) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS_AT_MOST)
        assert process.exitcode == 0, process.exitcode
    return dict(told.get() for _ in processes)
