"""What environment.json says, and random generators that go on where they were."""

import io
import random

import numpy as np
import torch

from heed.dist.world import World
from heed.train.environment import environment, random_states, set_random_states


def draw():
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.rand(3).tolist(),
        np.random.standard_normal(),
        torch.randn(3).tolist(),
    )


def test_the_generators_go_on_where_they_were_after_a_trip_through_a_file():
    draw()  # odd numbers of Gaussian draws leave a second one cached in python and numpy
    stream = io.BytesIO()
    torch.save(random_states(), stream)
    expected = [draw(), draw()]
    draw()
    stream.seek(0)
    set_random_states(torch.load(stream, weights_only=True))
    assert [draw(), draw()] == expected


def test_the_environment_names_what_bits_depend_on():
    facts = environment("cpu", World(rank=0, size=4))
    assert facts["torch"] == torch.__version__.partition("+")[0] or facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["instruction_set"] == torch.backends.cpu.get_cpu_capability()
    assert facts["processes"] == 4
    assert facts["device"] == "cpu"
    assert facts["cpu"]
    assert facts["transformers"] != "not installed"
