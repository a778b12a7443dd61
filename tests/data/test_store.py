"""Records come back from the disk as they were, and a store is there whole or not at all."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.data.store import StoreWriter, TokenStore, fingerprint
from heed.errors import UserError
from heed.types import Origin, Tokens


def tokens(ids, weight=None):
    weight = [float(i % 2) for i in range(len(ids))] if weight is None else weight
    return Tokens(np.array(ids, dtype=np.int32), np.array(weight, dtype=np.float32))


def written(folder, records, mark="a"):
    with StoreWriter(folder, mark) as writer:
        for number, record in enumerate(records, start=1):
            writer.append(record, Origin("a.json", number))
    return TokenStore(folder)


def as_lists(store):
    return [[(t.ids.tolist(), t.weight.tolist()) for t in record] for record in store]


FLOATS = st.floats(width=32, allow_nan=False)
SEQUENCES = st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), FLOATS), max_size=8).map(
    lambda pairs: tokens([i for i, _ in pairs], [w for _, w in pairs])
)
RECORDS = st.lists(
    st.tuples(
        st.lists(SEQUENCES, min_size=1, max_size=4),
        st.sampled_from(["a.json", "dữ liệu.jsonl", "b.csv"]),
        st.integers(1, 2**40),
        st.booleans(),
    ),
    max_size=6,
)


@given(records=RECORDS)
def test_records_come_back_bit_for_bit(records):
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(Path(folder) / "store")
        for sequences, path, number, held_out in records:
            writer.append(sequences, Origin(path, number), held_out=held_out)
        store = writer.close()
        assert len(store) == len(records)
        for i, (sequences, path, number, held_out) in enumerate(records):
            assert [t.ids.tobytes() for t in store[i]] == [t.ids.tobytes() for t in sequences]
            assert [t.weight.tobytes() for t in store[i]] == [t.weight.tobytes() for t in sequences]
            assert store.num_tokens[i] == sum(len(t) for t in sequences)
            assert store.num_trained_tokens[i] == sum((t.weight != 0).sum() for t in sequences)
            assert store.held_out[i] == held_out
            assert store.origin(i) == Origin(path, number)


def test_a_record_read_may_be_changed_without_changing_the_store(tmp_path):
    store = written(tmp_path / "s", [(tokens([1, 2, 3]),)])
    (first,) = store[0]
    first.ids[:] = 9
    first.weight[:] = 9
    assert as_lists(store) == [[([1, 2, 3], [0.0, 1.0, 0.0])]]


def test_the_arrays_of_the_index_cannot_be_written(tmp_path):
    store = written(tmp_path / "s", [(tokens([1, 2, 3]),)])
    with pytest.raises(ValueError, match="read-only"):
        store.num_tokens[0] = 5


def test_a_store_may_hold_no_records(tmp_path):
    store = written(tmp_path / "s", [])
    assert len(store) == 0
    assert list(store) == []
    assert store.num_tokens.tolist() == []


def test_negative_numbers_count_from_the_end_and_others_are_refused(tmp_path):
    store = written(tmp_path / "s", [(tokens([1]),), (tokens([2, 3]),)])
    assert store[-1][0].ids.tolist() == [2, 3]
    assert store.origin(-2) == Origin("a.json", 1)
    for outside in (2, -3):
        with pytest.raises(IndexError, match="of a store of 2 records"):
            store[outside]
        with pytest.raises(IndexError):
            store.origin(outside)


def read_first(store):
    return as_lists(store)[0]


def test_another_process_reads_the_same_and_only_the_name_travels(tmp_path):
    store = written(tmp_path / "s", [(tokens(range(10_000)), tokens([7]))])
    assert len(pickle.dumps(store)) < 1_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_first, (store,)) == as_lists(store)[0]


def test_a_store_is_used_again_only_with_its_own_fingerprint(tmp_path):
    assert TokenStore.matching(tmp_path / "s", "a") is None
    written(tmp_path / "s", [(tokens([1, 2]),)], mark="a")
    again = TokenStore.matching(tmp_path / "s", "a")
    assert again is not None
    assert as_lists(again) == [[([1, 2], [0.0, 1.0])]]
    assert TokenStore.matching(tmp_path / "s", "b") is None


@pytest.mark.parametrize("damage", ["cut", "removed", "no marker", "marker is not JSON", "other version"])
def test_a_damaged_store_is_not_used(tmp_path, damage):
    written(tmp_path / "s", [(tokens([1, 2, 3]),)])
    ids, marker = tmp_path / "s" / "ids", tmp_path / "s" / "store.json"
    if damage == "cut":
        ids.write_bytes(ids.read_bytes()[:-1])
    elif damage == "removed":
        ids.unlink()
    elif damage == "no marker":
        marker.unlink()
    elif damage == "marker is not JSON":
        marker.write_text("{")
    else:
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"version": -1}))
    assert TokenStore.matching(tmp_path / "s", "a") is None
    with pytest.raises(UserError, match="missing or damaged"):
        TokenStore(tmp_path / "s")


def test_the_old_store_stays_until_the_new_one_is_closed_and_goes_on_being_readable(tmp_path):
    old = written(tmp_path / "s", [(tokens([1]),)], mark="old")
    writer = StoreWriter(tmp_path / "s", "new")
    writer.append((tokens([2, 3]),), Origin("b", 1))
    assert TokenStore(tmp_path / "s").fingerprint == "old"
    new = writer.close()
    assert (new.fingerprint, as_lists(new)) == ("new", [[([2, 3], [0.0, 1.0])]])
    assert as_lists(old) == [[([1], [0.0])]]
    assert os.listdir(tmp_path) == ["s"]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def interrupted():
        with StoreWriter(tmp_path / "s") as writer:
            writer.append((tokens([1]),), Origin("a", 1))
            raise KeyError("elsewhere")

    with pytest.raises(KeyError):
        interrupted()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "sequences",
    [
        (),
        (Tokens(np.zeros(2, np.int32), np.zeros(3, np.float32)),),
        (Tokens(np.zeros((1, 2), np.int32), np.zeros((1, 2), np.float32)),),
        (Tokens(np.zeros(2, np.int64), np.zeros(2, np.float32)),),
        (Tokens(np.zeros(2, np.int32), np.zeros(2, np.float64)),),
    ],
)
def test_what_is_not_a_record_of_int32_ids_and_float32_weights_is_refused_before_anything_is_written(
    tmp_path, sequences
):
    with StoreWriter(tmp_path / "s") as writer:
        with pytest.raises(ValueError, match=r"a\.json, record 3"):
            writer.append(sequences, Origin("a.json", 3))
        writer.append((tokens([5]),), Origin("a.json", 4))
    assert as_lists(TokenStore(tmp_path / "s")) == [[([5], [0.0])]]


WRITE_UNTIL = textwrap.dedent("""
    import os, resource, signal, sys
    import numpy as np
    from heed.data.store import StoreWriter
    from heed.errors import UserError
    from heed.types import Origin, Tokens

    folder, how = sys.argv[1:]
    if how == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    writer = StoreWriter(folder, "new")
    try:
        for number in range(1, 101):
            writer.append((Tokens(np.ones(1000, np.int32), np.ones(1000, np.float32)),), Origin("a", number))
            if how == "killed" and number == 50:
                os.kill(os.getpid(), signal.SIGKILL)
        writer.close()
    except UserError as error:
        print(error.problem)
    assert "torch" not in sys.modules
""")


@pytest.mark.parametrize("how", ["full", "killed"])
def test_a_full_disk_or_a_kill_leaves_the_old_store(tmp_path, how):
    written(tmp_path / "s", [(tokens([1]),)], mark="old")
    done = subprocess.run([sys.executable, "-c", WRITE_UNTIL, tmp_path / "s", how], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        (0, "a file grew past the size allowed here\n", "") if how == "full" else (-9, "", "")
    )
    assert TokenStore(tmp_path / "s").fingerprint == "old"
    assert os.listdir(tmp_path) == ["s"] or how == "killed"
    written(tmp_path / "s", [(tokens([2]),)], mark="new")
    assert os.listdir(tmp_path) == ["s"]


def test_a_fingerprint_changes_with_a_setting_and_with_a_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    os.utime(path, ns=(1, 1))
    first = fingerprint({"template": "alpaca", "max_length": 512}, [path])
    assert first == fingerprint({"max_length": 512, "template": "alpaca"}, [path])
    assert first != fingerprint({"template": "alpaca", "max_length": 511}, [path])
    assert first != fingerprint({"template": "alpaca", "max_length": 512}, [])
    os.utime(path, ns=(1, 2))
    touched = fingerprint({"template": "alpaca", "max_length": 512}, [path])
    path.write_text("[1, 2]")
    os.utime(path, ns=(1, 2))
    assert len({first, touched, fingerprint({"template": "alpaca", "max_length": 512}, [path])}) == 3


def test_reading_every_record_keeps_none_of_them_in_memory(tmp_path):
    """64 MB of tokens, read once by a process that grows by less than 8 MB: mapped, it would by all."""
    record = tokens(range(4_000))
    written(tmp_path / "store", [[record]] * 2_000)
    program = """
        import sys
        from heed.data.store import TokenStore

        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096

        store = TokenStore(sys.argv[1])
        store[0]
        before = resident()
        assert sum(int(tokens.ids[-1]) for tokens, in store) == 2_000 * 3_999
        print(resident() - before)
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc says what is resident here")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 8 * 2**20


def test_tokens_cut_short_after_the_store_was_opened_are_an_error_and_not_a_shorter_record(tmp_path):
    store = written(tmp_path / "store", [[tokens([1, 2, 3])], [tokens([4, 5, 6])]])
    os.truncate(tmp_path / "store" / "weight", 16)
    assert store[0][0].ids.tolist() == [1, 2, 3]
    with pytest.raises(UserError, match="missing or damaged") as caught:
        store[1]
    assert "weight, which ends at byte 16 and not after 24" in caught.value.found


def test_a_store_that_is_given_up_closes_its_files(tmp_path):
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc lists the open files here")
    first = written(tmp_path / "store", [[tokens([1])]])
    open_files = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert TokenStore(first.folder)[0][0].ids.tolist() == [1]
    assert len(os.listdir("/proc/self/fd")) <= open_files
