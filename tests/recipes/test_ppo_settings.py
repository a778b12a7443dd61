"""Settings of `heed ppo` that contradict each other are refused before anything is written."""

import pytest
from tastes import heed, lines

ASKED = [{"prompt": f"Which is it, {i}?"} for i in range(6)]
POLICY = {"reward": "regex: e", "steps": 2, "batch_size": 4, "max_new_tokens": 4, "rank": 2}


def test_a_beta_of_0_with_a_target_is_refused_before_anything_is_written(tmp_path, instruct, write, capsys):
    out = tmp_path / "run"
    assert heed("ppo", model=instruct, data=write(ASKED), out=out, kl_beta=0, kl_target=5, **POLICY) == 2
    printed, told = capsys.readouterr()
    assert printed == ""
    *_, where, found, _, fix = told.splitlines()
    assert "--kl.beta, --kl.target" in where
    assert "0" in found
    assert "5" in found
    assert fix.endswith("--kl.beta 0.05")
    assert not out.exists()


@pytest.mark.parametrize("kl", [{"kl_beta": 0}, {"kl_beta": 0.05, "kl_target": 5}], ids=["no target", "as advised"])
def test_a_beta_of_0_without_a_target_and_any_other_beta_with_one_are_taken(tmp_path, instruct, write, kl):
    out = tmp_path / "run"
    assert heed("ppo", model=instruct, data=write(ASKED), out=out, **kl, **POLICY) == 0
    betas = [line["beta"] for line in lines(out / "metrics.jsonl", "train")]
    assert betas[0] == kl["kl_beta"]
    assert (betas[1] == 0) == ("kl_target" not in kl)
