"""A base in four bits that is divided among processes by torch's own FSDP: the gradient of one process."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny import CPU, write_base
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from heed.forest.build import build
from heed.models.adapters.lora import add_adapter
from heed.models.four_bits import packed_layers
from heed.models.intake.access import Access
from heed.models.load import LoadedModel, load_model, load_tokenizer, prepare_training
from heed.models.score import forest_score
from heed.types import Tokens

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["heed.models.load", "torch.distributed.fsdp"])
SECONDS_AT_MOST = 300


class Scorer(torch.nn.Module):
    """A root whose forward encloses trunk and head."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, forest):
        return forest_score(self.model, forest)[0]


def forest_of(rank):
    rng = np.random.default_rng(rank)
    root = rng.integers(3, 200, 7)
    sequences = []
    for _ in range(3):
        ids = np.concatenate([root, rng.integers(3, 200, 6)]).astype(np.int32)
        weight = np.zeros(13, dtype=np.float32)
        weight[7:] = 1 / 36
        sequences.append(Tokens(ids, weight))
    return build(sequences)


def adapted(base, checkpointing):
    model = load_model(base, CPU, torch.bfloat16, Access(say=lambda line: None), quantise=True)
    loaded = add_adapter(LoadedModel(model, load_tokenizer(base)), rank=3, alpha=6.0, new_token_ids=[], seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in loaded.trained_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    prepare_training(loaded.model, activations="recompute" if checkpointing else "keep")
    return loaded


def one_of(rank, world, base, checkpointing, port, told):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (world,))
    loaded = adapted(base, checkpointing)
    for layer in loaded.model.model.layers:
        fully_shard(layer, mesh=mesh)
    root = fully_shard(Scorer(loaded.model), mesh=mesh)
    for module in root.modules():
        if isinstance(module, FSDPModule):  # gloo has no mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    weights = [layer.weight for layer in packed_layers(loaded.model).values()]
    assert all(isinstance(weight, DTensor) for weight in weights)
    held = sum(weight.to_local().numel() for weight in weights)
    with torch.no_grad():  # as sampling between steps is
        root(forest_of(0))
    root(forest_of(rank)).backward()
    gradients = {name: p.grad.full_tensor() for name, p in loaded.trained_parameters()}
    if rank == 0:
        torch.save({"gradients": gradients, "held": held}, told)
    dist.barrier()
    dist.destroy_process_group()
    sys.exit(0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_divided_among_two_processes_the_gradient_is_that_of_one(checkpointing, tmp_path):
    base = write_base(tmp_path / "base", "llama untied", dtype=torch.bfloat16)
    whole, world = adapted(base, checkpointing), 2
    for rank in range(world):
        forest_score(whole.model, forest_of(rank))[0].backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = tmp_path / "told.pt"
    processes = [
        SERVER.Process(target=one_of, args=(rank, world, base, checkpointing, port, told)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS_AT_MOST)
    assert [process.exitcode for process in processes] == [0] * world
    found = torch.load(Path(told))
    names = {name for name, _ in whole.trained_parameters()}
    assert found["gradients"].keys() == names
    for name, parameter in whole.trained_parameters():
        apart = float((found["gradients"][name] - parameter.grad).norm())
        assert apart <= 1e-6 * float(parameter.grad.norm()), name
    all_packed = sum(layer.weight.numel() for layer in packed_layers(whole.model).values())
    assert found["held"] <= 0.51 * all_packed
