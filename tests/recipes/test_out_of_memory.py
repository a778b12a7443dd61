"""Memory that is used up is told in five parts that name what takes less, wherever in a run it happens."""

import pytest
import torch
from test_what_learns import OPTIONS, run

from heed.errors import UserError, is_out_of_memory
from heed.models import self_check
from heed.recipes.training.memory import memory_told

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def use_it_up(*args: object, **kwargs: object) -> None:
    """Ask the allocator for a petabyte."""
    torch.empty(2**50)


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def of_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("used_up", [use_it_up, on_a_gpu, of_python])
def test_every_allocators_way_to_say_it_is_known(used_up):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        used_up()
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("command", OPTIONS)
def test_in_a_step_it_names_smaller_forwards_checkpointing_and_an_adapter(
    command, tmp_path, instruct, monkeypatch, capsys
):
    monkeypatch.setattr(torch.Tensor, "backward", use_it_up)
    more = {"lora_rank": 0} if command in ("ppo", "grpo") else {}
    status, _ = run(command, tmp_path, instruct, max_tokens=300, **more)
    said = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in said
    for part in ("where:", "found:", "expected:", "fix:", "--max-tokens 150", "--activations recompute"):
        assert part in said
    assert "--lora.rank 8" in said
    assert "300 tokens" in said


def test_what_is_taken_already_is_no_cure(tmp_path, instruct, monkeypatch, capsys):
    monkeypatch.setattr(torch.Tensor, "backward", use_it_up)
    status, _ = run("sft", tmp_path, instruct, activations="recompute", lora_rank=4)
    fix = capsys.readouterr().err.split("fix:")[1]
    assert status == 2
    assert "--max-tokens 512" in fix
    assert "--activations" not in fix
    assert "--lora.rank" not in fix


def test_in_the_self_check_it_is_told_and_chooses_no_path(tmp_path, instruct, monkeypatch, capsys):
    monkeypatch.setattr(self_check, "forest_score", use_it_up)
    status, _ = run("sft", tmp_path, instruct)
    said = capsys.readouterr().err
    assert status == 2
    assert "one sequence per row" not in said
    assert "--max-tokens" in said


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes") as caught, memory_told(None, torch.device("cpu")):  # type: ignore[arg-type]
        raise RuntimeError("shapes")
    assert not isinstance(caught.value, UserError)
