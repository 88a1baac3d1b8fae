"""Warping against the plain double loop, exhaustive search, and paths of the released code."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import dtw

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/rewards/dtw_ties.npz"


def plain_path(cost):
    """The recurrence as two loops, in numpy's float32; the path as [steps, 2]."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf, np.float32)
    move = np.full((n + 1, m + 1), 2)
    total[0, 0], move[:, 0], move[0, :] = 0, 1, 2
    for i, j in itertools.product(range(1, n + 1), range(1, m + 1)):
        both, row, column = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        if both < row and both < column:
            best, move[i, j] = both, 0
        elif row < both and row < column:
            best, move[i, j] = row, 1
        else:
            best, move[i, j] = column, 2
        total[i, j] = cost[i - 1, j - 1] + best
    path, i, j = [], n, m
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        i, j = i - (move[i, j] != 2), j - (move[i, j] != 1)
    return np.array(path[::-1]).reshape(-1, 2)


def every_path(n, m):
    """All monotone paths from (0, 0) to (n - 1, m - 1)."""
    if (n, m) == (1, 1):
        return [[(0, 0)]]
    before = [(n - 1, m - 1), (n - 1, m), (n, m - 1)]
    shorter = [path for a, b in before if a and b for path in every_path(a, b)]
    return [[*path, (n - 1, m - 1)] for path in shorter]


def kinds(rng, n, m):
    return {
        "any": rng.standard_normal((n, m)),
        "small integers": rng.integers(-2, 3, (n, m)),
        "mostly constant": np.where(rng.random((n, m)) < 0.8, -0.25, -rng.random((n, m))),
        "constant": np.full((n, m), -0.5),
        "zero": np.zeros((n, m)),
    }


_warp = jax.jit(dtw.warp, static_argnames="at_once")


def warped(costs, at_once=None):
    """Paths of up to fifty matrices as one padded batch of one shape: a single program."""
    batch = np.random.default_rng(9).standard_normal((50, 20, 31)).astype(np.float32)  # rubbish
    sizes = np.zeros((50, 2), np.int32)
    for item, cost in enumerate(costs):
        batch[item, : cost.shape[0], : cost.shape[1]], sizes[item] = cost, cost.shape
    return _warp(batch, sizes[:, 0], sizes[:, 1], at_once=at_once)


def test_paths_equal_those_of_the_release_on_every_tie():
    data = np.load(GOLDEN)
    cases = range(json.loads(str(data["meta"]))["n"])
    path = warped([data[f"cost_{case}"] for case in cases])
    for case in cases:
        np.testing.assert_array_equal(dtw.steps(path, case), data[f"path_{case}"])


def test_a_padded_batch_of_unequal_songs_has_the_paths_of_the_plain_loop():
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 9), (9, 1), (2, 2), *rng.integers(1, 20, (5, 2)).tolist(), (20, 31)]
    costs = [np.float32(x) for n, m in sizes for x in kinds(rng, n, m).values()]
    path = warped(costs)
    for item, cost in enumerate(costs):
        np.testing.assert_array_equal(dtw.steps(path, item), plain_path(cost))


def test_a_path_costs_no_more_than_any_other():
    # multiples of 1/4096 add exactly
    cost = np.random.default_rng(1).integers(0, 2**12, (4, 5)) / np.float32(2**12)
    path = dtw.steps(warped([cost]))
    cheapest = min(sum(cost[cell] for cell in path) for path in every_path(4, 5))
    assert cost[tuple(path.T)].sum() == cheapest


def test_songs_computed_in_groups_have_the_same_paths():
    costs = np.random.default_rng(2).integers(0, 3, (5, 6, 8)).astype(np.float32)
    whole, groups = warped(costs, at_once=50), warped(costs, at_once=21)
    jax.tree.map(np.testing.assert_array_equal, whole, groups)


def test_numbers_that_compilers_flush_to_zero_make_no_ties():
    rng = np.random.default_rng(5)
    costs = [np.float32(rng.standard_normal((9, 13)) * 10.0**e) for e in (-37, -39, -41, -44, 26)]
    path = warped(costs)
    for item, cost in enumerate(costs):
        np.testing.assert_array_equal(dtw.steps(path, item), plain_path(cost))


def test_costs_that_are_no_numbers_fall_to_the_last_case_as_in_the_release():
    cost = np.random.default_rng(3).integers(0, 3, (8, 5, 7)).astype(np.float32)
    for item, value in enumerate([np.nan, np.inf, -np.inf, np.nan]):
        cost[item, 2, 3], cost[item + 4, 0, 0] = value, value
    path = warped(cost)
    for item in range(8):
        np.testing.assert_array_equal(dtw.steps(path, item), plain_path(cost[item]))


def test_rows_know_their_first_and_last_column():
    rng = np.random.default_rng(4)
    path = warped([rng.integers(0, 3, (rows, 9)).astype(np.float32) for rows in (6, 4)])
    first, last = map(np.asarray, dtw.spans(path, 20))
    for item, rows in enumerate([6, 4]):
        cells = dtw.steps(path, item)
        for row in range(rows):
            columns = cells[cells[:, 0] == row, 1]
            assert (first[item, row], last[item, row]) == (columns.min(), columns.max())
        assert np.all(first[item, rows:] > last[item, rows:])


def test_nothing_has_no_path():
    assert not warped([np.zeros((0, 4)), np.zeros((3, 0))]).visited.any()
    assert not dtw.warp(jnp.zeros((2, 0, 4))).visited.any()


def test_one_matrix_without_a_batch_is_refused():
    with pytest.raises(ValueError, match="a batch of matrices"):
        dtw.warp(jnp.zeros((3, 4)))
