"""A checker of one's own: whether an answer is right by the rule that its record names."""

from heed.evaluate.answers import CHECKS


def right(answer, record):
    return CHECKS[record["rule"]](answer, record["accepted"])
