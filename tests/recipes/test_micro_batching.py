import numpy as np

from heed.dist.together import Together
from heed.dist.world import World
from heed.recipes.training.micro_batches import MicroBatching
from heed.types import Tokens


def test_a_group_takes_as_many_times_the_tokens_as_it_has_processes():
    ids = np.random.default_rng(0).integers(0, 50, (40, 30)).astype(np.int32)
    groups = [(Tokens(row, np.ones(30, np.float32)),) for row in ids]
    for rank in range(4):
        in_twos = World(rank=rank, size=4, together=Together(rank % 2, 2, None))
        alone = World(rank=rank // 2, size=2)
        found = MicroBatching(64, True, in_twos).forwards(groups)
        assert found == MicroBatching(128, True, alone).forwards(groups)
        assert found != MicroBatching(64, True, alone).forwards(groups)
