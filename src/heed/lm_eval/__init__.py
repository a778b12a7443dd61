"""heed as a backend of lm-evaluation-harness, so that its tasks run on the prefix forest.

    python -m heed.lm_eval --model heed --model_args pretrained=runs/first --tasks arc_easy    # lm_eval's command line

lm-eval 0.4.13 looks nowhere for models of other packages, so its own command does not know this one; `python -m
heed.lm_eval` is that command with `heed` among its models. In Python, `import heed.lm_eval` does the same for
`lm_eval.simple_evaluate(model="heed", model_args=...)`. Needs the extra `heed-lm[lm-eval]`.
"""

from importlib.util import find_spec

from heed.errors import UserError

if find_spec("lm_eval") is None:
    raise UserError(
        "lm-evaluation-harness is not installed",
        where="heed.lm_eval",
        found="no package lm_eval",
        expected="lm-eval 0.4.13 or newer",
        fix="pip install 'heed-lm[lm-eval]'",
    )

from heed.lm_eval.backend import HeedLM

__all__ = ["HeedLM"]
