"""A checkpoint copied with other tables in it."""

import torch
from safetensors.torch import load_file, save_file

from heed.models.intake.copies import copy_with_tables


def copied(tmp_path, weights, tables):
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "copy").mkdir()
    done = copy_with_tables([tmp_path / "model.safetensors"], tables, tmp_path / "copy")
    return load_file(tmp_path / "copy" / "model.safetensors") if done else None


def test_a_table_that_ends_like_another_is_not_taken_for_it(tmp_path):
    rows, other, new = torch.ones(3, 2), torch.full((7, 5), 2.0), torch.full((4, 2), 3.0)
    weights = {"model.embed_tokens.weight": rows, "mtp.model.embed_tokens.weight": other}
    found = copied(tmp_path, weights, {"model.embed_tokens.weight": new})
    assert torch.equal(found["model.embed_tokens.weight"], new)
    assert torch.equal(found["mtp.model.embed_tokens.weight"], other)


def test_files_may_have_a_prefix_more_or_less_than_the_model(tmp_path):
    new = torch.full((4, 2), 3.0)
    more = copied(tmp_path, {"transformer.wte.weight": torch.ones(3, 2)}, {"wte.weight": new})
    assert torch.equal(more["transformer.wte.weight"], new)
    (tmp_path / "less").mkdir()
    less = copied(tmp_path / "less", {"wte.weight": torch.ones(3, 2)}, {"transformer.wte.weight": new})
    assert torch.equal(less["wte.weight"], new)


def test_what_cannot_be_copied_in_pieces_is_left_to_another_way(tmp_path):
    new = torch.full((4, 2), 3.0)
    assert copied(tmp_path, {"wte.weight": torch.ones(3, 2, dtype=torch.float64)}, {"wte.weight": new}) is None
    (tmp_path / "none").mkdir()
    assert copied(tmp_path / "none", {"other": torch.ones(3, 2)}, {"wte.weight": new}) is None
