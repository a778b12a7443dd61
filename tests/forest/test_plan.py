"""Planning: which groups share a forward. Only memory and speed depend on it, so it is held to its budget and order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from trees import prefixes_of, sequences, tokens

from heed.forest.build import build
from heed.forest.plan import SharedSize, cut, deal, even_budget, plan

GROUPS = st.lists(sequences(max_sequences=3), min_size=1, max_size=8)
BUDGET = st.integers(1, 30)


def size_of(groups, share):
    """Forest tokens of the groups together, counted the slow way."""
    items = [each for group in groups for each in group]
    return len(prefixes_of(items)) if share else sum(map(len, items))


@given(GROUPS, BUDGET, st.booleans())
def test_every_group_is_in_exactly_one_forward(groups, max_tokens, share):
    forwards = plan(groups, max_tokens, share=share)
    assert sorted(index for forward in forwards for index in forward) == list(range(len(groups)))
    assert all(forwards)


@given(GROUPS, BUDGET, st.booleans())
def test_a_forward_keeps_to_the_budget_unless_it_is_one_large_group(groups, max_tokens, share):
    for forward in plan(groups, max_tokens, share=share):
        assert len(forward) == 1 or size_of([groups[i] for i in forward], share) <= max_tokens


@given(GROUPS, BUDGET, st.booleans())
def test_a_forward_ends_only_where_the_next_group_would_not_fit(groups, max_tokens, share):
    forwards = plan(groups, max_tokens, share=share)
    for forward, following in pairwise(forwards):
        assert size_of([groups[i] for i in [*forward, following[0]]], share) > max_tokens


@given(GROUPS, BUDGET)
def test_the_planned_size_is_the_size_that_is_built(groups, max_tokens):
    for forward in plan(groups, max_tokens):
        items = [each for i in forward for each in groups[i]]
        assert build(items).num_tokens == size_of([groups[i] for i in forward], share=True)


def test_a_refused_group_leaves_no_trace_in_the_count():
    size = SharedSize(share=True)
    assert size.add_if_fits([tokens([1] * 6)], 9)
    assert not size.add_if_fits([tokens([2] * 4)], 9)
    assert size.num_tokens == 6
    assert size.cost(tokens([2] * 4).ids) == 4, "nothing is shared with what was refused"
    assert size.add_if_fits([tokens([1] * 6 + [3])], 9)
    assert not size.add_if_fits([tokens([2] * 3)], 9)
    assert size.add_if_fits([tokens([1] * 6 + [4, 4])], 9)
    assert size.num_tokens == 9


def test_a_new_forward_counts_from_nothing():
    groups = [[tokens([1] * 6)], [tokens([1, 2, 2, 2, 2, 2]), tokens([1, 2, 3, 3])], [tokens([3] * 3)]]
    assert plan(groups, 9) == [[0], [1], [2]]
    assert plan(groups, 11) == [[0], [1, 2]]


def test_what_shares_a_preamble_is_computed_together():
    preambles = ([7, 7, 7, 7, 7, 7], [8, 8, 8, 8, 8, 8])
    groups = [[tokens([*preambles[i % 2], i])] for i in range(8)]  # interleaved as given
    assert [sorted(forward) for forward in plan(groups, 10)] == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_without_sharing_the_order_given_is_kept_and_every_token_counts():
    groups = [[tokens([9, 9])], [tokens([1, 1])], [tokens([9, 9])]]
    assert plan(groups, 4, share=False) == [[0, 1], [2]]
    assert plan(groups, 4) == [[1, 0, 2]]


def test_a_group_too_large_for_the_budget_gets_a_forward_of_its_own():
    groups = [[tokens([1])], [tokens([2] * 9), tokens([3] * 9)], [tokens([4])]]
    assert plan(groups, 5) == [[0], [1], [2]]


def test_answers_to_one_prompt_are_never_cut_apart():
    answers = [tokens([1, 2, 3, i]) for i in range(50)]
    assert plan([answers], 1) == [[0]]


@given(GROUPS, BUDGET, st.booleans(), st.integers(1, 3))
def test_an_even_budget_needs_no_more_forwards(groups, max_tokens, share, multiple_of):
    budget = even_budget(groups, max_tokens, share=share, multiple_of=multiple_of)
    assert budget <= max_tokens
    before = len(plan(groups, max_tokens, share=share))
    rounded_up = -(-before // multiple_of) * multiple_of
    assert len(plan(groups, budget, share=share)) <= rounded_up
    # Small budgets are searched to the token. A single group has a forward of its own at any.
    if max_tokens < 100 and budget > 1 and len(groups) > 1:
        assert len(plan(groups, budget - 1, share=share)) > rounded_up or budget - 1 == 0


def test_equal_parts_instead_of_a_full_forward_and_a_small_rest():
    groups = [[tokens([i] * 10)] for i in range(4)]
    assert [len(forward) for forward in plan(groups, 39)] == [3, 1]
    assert even_budget(groups, 39) == 20
    assert [len(forward) for forward in plan(groups, 20)] == [2, 2]


def test_a_budget_that_holds_everything_is_cut_into_as_many_parts_as_there_are_processes():
    groups = [[tokens([i] * 10)] for i in range(4)]
    assert even_budget(groups, 1_000) <= 60
    assert even_budget(groups, 99, multiple_of=2) == 20
    assert even_budget(groups, 39, multiple_of=3) == 20  # three would be uneven: two do
    assert len(plan(groups, even_budget(groups, 39, multiple_of=4))) == 4


def test_the_even_budget_counts_shared_prefixes_once():
    groups = [[tokens([1] * 9 + [10 + i])] for i in range(4)]
    assert even_budget(groups, 60) == 13
    assert even_budget(groups, 60, share=False) == 40


@given(GROUPS, BUDGET, st.booleans(), st.integers(1, 3))
def test_every_group_is_dealt_to_exactly_one_process_within_the_budget(groups, max_tokens, share, size):
    dealt = [deal(groups, max_tokens, share=share, rank=rank, size=size) for rank in range(size)]
    assert sorted(i for of_process in dealt for forward in of_process for i in forward) == list(range(len(groups)))
    for forward in (forward for of_process in dealt for forward in of_process):
        assert len(forward) == 1 or size_of([groups[i] for i in forward], share) <= max_tokens
    counts = [len(of_process) for of_process in dealt]
    assert max(counts) - min(counts) <= 1, "no process waits for another that has two forwards more"


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 60),
)
def test_a_cut_keeps_the_order_and_the_budget_and_needs_no_more_forwards_than_it_must(sequences, max_tokens):
    lengths = [length for length, _, _ in sequences]
    shared = [0]
    for before, (length, share, _) in zip(lengths, sequences[1:], strict=False):
        shared.append(int(share * min(before, length)))
    carried = [n if is_carried else 0 for n, (_, _, is_carried) in zip(shared, sequences, strict=True)]
    parts = cut(lengths, shared, max_tokens, carried=carried)
    assert [index for part in parts for index in part] == list(range(len(lengths)))

    def size(part):
        first, *others = part
        return lengths[first] - carried[first] + sum(lengths[i] - shared[i] for i in others)

    for part in parts:
        alone = [i for i in part[1:] if lengths[i] > shared[i]]
        assert size(part) <= max_tokens or not alone
    for part, following in pairwise(parts):
        assert lengths[following[0]] > shared[following[0]], "what costs nothing begins no forward"
        assert part
    size, fewest = max_tokens + 1, 0
    for length, common, known in zip(lengths, shared, carried, strict=True):
        size += length - common
        if length > common and size > max_tokens:
            fewest, size = fewest + 1, length - known
    assert len(parts) == fewest


def test_a_sequence_that_adds_nothing_begins_no_forward_even_behind_one_that_is_too_long():
    assert cut([200, 200, 30], [0, 200, 0], 100, carried=[0, 0, 0]) == [range(2), range(2, 3)]


def test_forwards_are_cut_evenly():
    lengths, none = [10] * 11, [0] * 11
    assert [len(part) for part in cut(lengths, none, 100, carried=none)] == [6, 5]
