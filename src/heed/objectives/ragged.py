"""Sums over flat, ragged sequences: what every objective does between tokens and sequences."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sum_by_sequence(
    per_token: Float[Tensor, " N"], sequence: Int[Tensor, " N"], num_sequences: int
) -> Float[Tensor, " {num_sequences}"]:
    """The sum of each sequence's tokens, with its gradient; 0 for a sequence without tokens.

    Args:
        per_token: any quantity of each trained token.
        sequence: which sequence each token belongs to, from 0.
    """
    return per_token.new_zeros(num_sequences).index_add(0, sequence, per_token)


def lengths_of(sequence: Int[Tensor, " N"], num_sequences: int) -> Int[Tensor, " {num_sequences}"]:
    """Trained tokens of each sequence, 1 or more.

    Raises:
        ValueError: the ids fall somewhere, are not below `num_sequences`, or leave a sequence without a token. Its
            score would have no token to go to, and its neighbours' credit would run into each other.
    """
    lengths = torch.bincount(sequence, minlength=num_sequences)
    if len(lengths) > num_sequences or bool((lengths == 0).any()):
        raise ValueError(
            f"every sequence from 0 to {num_sequences - 1} needs a trained token, and no other may have one"
        )
    if bool((sequence[1:] < sequence[:-1]).any()):
        raise ValueError("the tokens of a sequence must stand together, in the order of the sequences")
    return lengths


def last_tokens(sequence: Int[Tensor, " N"], num_sequences: int) -> Int[Tensor, " {num_sequences}"]:
    """The index, among all N, of each sequence's last trained token. Raises as `lengths_of`."""
    return lengths_of(sequence, num_sequences).cumsum(0) - 1
