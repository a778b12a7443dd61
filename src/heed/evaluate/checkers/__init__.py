"""Checkers of generated answers: text in, a verdict out. None of them knows a model.

    (answer, record, right texts) -> checker -> Checked(verdict, extracted)

A task names its checker: `generation: {checker: number}`. See `open_checker` for all names.
"""

from heed.evaluate.checkers.checked import Checked, Checker
from heed.evaluate.checkers.opening import NAMES, is_users, open_checker

__all__ = ["NAMES", "Checked", "Checker", "is_users", "open_checker"]
