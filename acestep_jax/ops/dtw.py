"""Dynamic time warping: the cheapest monotone path through a matrix of costs.

    D[0, 0] = 0,   D[i, 0] = D[0, j] = inf,   D[i, j] = x[i, j] + c,  1 <= i <= n, 1 <= j <= m

    c is D[i-1, j-1] where that is less than both others,   move 0: both
         D[i-1, j]   where that is less than both others,   move 1: the row
         D[i, j-1]   otherwise,                             move 2: the column              (1)

*Every* tie ends in the last line of (1), even where D[i, j-1] is not the least. Suppressed areas of
an attention map are constant, so paths depend on it; a NaN compares false and ends there too.

Cells of an anti-diagonal k = i + j need those of k - 1 and k - 2 alone. A scan over k computes all
rows of all songs at once, with the operands of the plain double loop in its order: the sums, and so
the paths, are the same bit for bit. Moves are kept in two bits a cell, and a scan the other way
follows them back.

Source: Sakoe & Chiba 1978 for the recurrence; the order of comparison is the release's, which has
it from Whisper's timing code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import backends
from acestep_jax.typing import Array

_PACKED = 4
"""Diagonals whose moves share a byte."""
_SONGS_AT_ONCE = 32
# On a processor, so that the copy side by side stays bounded. Of 32 songs of 800 x 3,000, processor
# time on a core with a busy neighbour: 0.34 s by eights, 0.28 by sixteens, 0.22 all at once.


class Path(NamedTuple):
    """Paths by anti-diagonal, from the first cell to the last; a move of both skips a diagonal.

    Attributes:
      rows: int32 [B, N + M], meaningful where `visited`.
      columns: the same.
      visited: bool [B, N + M]; diagonals that the path has a cell on.
    """

    rows: Array
    columns: Array
    visited: Array


def warp(
    cost: Array,
    num_rows: Array | None = None,
    num_columns: Array | None = None,
    *,
    at_once: int | None = None,
) -> Path:
    """Finds the paths from (0, 0) to (num_rows - 1, num_columns - 1) by (1).

    Args:
      cost: [B, N, M], float32 (float64 costs are added in float64 and kept in float32).
      num_rows, num_columns: [B], sizes of the matrices within the batch; None for N and M. What
        lies beyond them has no influence. A matrix without rows or columns has no path.
      at_once: songs whose sums are computed side by side; None chooses for the attached device.

    Returns:
      The paths. Where costs are not finite a path may leave the matrix as the original's does; its
      rows or columns are -1 there.

    Raises:
      ValueError: if `cost` has not three axes.
    """
    if cost.ndim != 3:
        raise ValueError(f"costs of shape {cost.shape}; give a batch of matrices [B, N, M].")
    batch, rows, columns = cost.shape
    sizes = [
        jnp.full((batch,), most) if given is None else jnp.asarray(given, jnp.int32)
        for given, most in ((num_rows, rows), (num_columns, columns))
    ]
    if 0 in cost.shape:
        nothing = jnp.zeros((batch, rows + columns), jnp.int32)
        return Path(nothing, nothing, nothing.astype(bool))
    return _follow(_moves(cost, _group_size(batch, at_once)), *sizes, columns)


def steps(path: Path, item: int = 0) -> np.ndarray:
    """Lists one song's path on the host, (row, column) a line: int [steps, 2]."""
    visited = np.asarray(path.visited[item])
    return np.stack([np.asarray(path.rows[item]), np.asarray(path.columns[item])], -1)[visited]


def spans(path: Path, num_rows: int) -> tuple[Array, Array]:
    """Gives the first and the last column of every row, both int32 [B, num_rows].

    Rows without a cell (beyond a matrix's own) have first > last.
    """
    rows = jnp.where(path.visited, path.rows, num_rows)

    def one(rows: Array, columns: Array) -> tuple[Array, Array]:
        first = jnp.full(num_rows, jnp.iinfo(jnp.int32).max).at[rows].min(columns, mode="drop")
        last = jnp.full(num_rows, -1).at[rows].max(columns, mode="drop")
        return first, last

    return jax.vmap(one)(rows, path.columns)


def _group_size(batch: int, at_once: int | None) -> int:
    if at_once is None:
        at_once = _SONGS_AT_ONCE if backends.current() == "cpu" else batch
    return max(1, min(at_once, batch))


def _moves(cost: Array, at_once: int) -> Array:
    """Computes (1) for every cell: uint8 [groups, ceil((N + M - 1) / 4), N, at_once]."""
    batch, rows, columns = cost.shape
    if columns == 1:  # the view below has one column less
        columns, cost = 2, jnp.pad(cost, ((0, 0), (0, 0), (0, 1)))
    flat = cost.reshape(batch, rows * columns)
    short = -batch % at_once
    flat = jnp.pad(flat, ((0, short), (0, 0))) if short else flat
    groups = flat.reshape(-1, at_once, rows * columns)
    if len(groups) == 1:
        return _group_moves(groups[0], rows, columns)[None]
    return jax.lax.map(lambda group: _group_moves(group, rows, columns), groups)


def _group_moves(flat: Array, rows: int, columns: int) -> Array:
    """Sweeps the diagonals of matrices [songs, N · M], M at least 2."""
    songs, stride = len(flat), columns - 1
    costs = _by_cell(flat, rows + (rows + columns - 2) // stride, stride)
    row = jnp.arange(rows)[:, None]
    border = jnp.full((1, songs), jnp.inf, jnp.float32)
    before = jnp.full((rows + 1, songs), jnp.inf, jnp.float32)  # D of diagonal k - 1, all rows

    def body(diagonals: tuple[Array, Array], word: Array) -> tuple[tuple[Array, Array], Array]:
        packed = jnp.zeros((rows, songs), jnp.uint8)
        for place in range(_PACKED):
            k, (older, old) = word * _PACKED + place, diagonals
            at = (k // stride, k % stride, 0)
            cost = jax.lax.dynamic_slice(costs, at, (rows, 1, songs))[:, 0]
            best, move = _choose(older[:-1], old[:-1], old[1:])
            total = (cost + best.astype(cost.dtype)).astype(jnp.float32)
            total = jnp.where((row <= k) & (k - row < columns), total, jnp.inf)
            # fused into the next diagonal it would be computed three times over
            diagonal = jax.lax.optimization_barrier(jnp.concatenate([border, total]))
            diagonals, packed = (old, diagonal), packed | move << (2 * place)
        return diagonals, packed

    words = jnp.arange(-(-(rows + columns - 1) // _PACKED))
    return jax.lax.scan(body, (before.at[0].set(0.0), before), words)[1]


def _by_cell(flat: Array, length: int, stride: int) -> Array:
    """Puts songs side by side, and diagonals in columns: [songs, N · M] -> [R, M - 1, songs].

    Cell (i, k - i) stands at i M + k - i = k + i (M - 1). In rows of M - 1 that is the same column,
    k mod (M - 1), of row i + k // (M - 1). Where k - i is no column, some other cell stands there.
    The songs of a cell fill whole lines of a processor's cache, so that a column is quickly read.
    Turning the matrices over as well, so that a diagonal is one piece, took longer than the sweep.
    """
    cells = flat.shape[1]
    length = max(length, -(-cells // stride))
    beside = jnp.pad(_above_subnormals(flat).T, ((0, length * stride - cells), (0, 0)))
    return jax.lax.optimization_barrier(beside.reshape(length, stride, -1))


def _above_subnormals(cost: Array) -> Array:
    """Multiplies float32 costs by 2^24, which changes no comparison of sums below 2^104.

    Compiled programs take numbers below 2^-126 for zero, and would find ties where there are none.
    Squares of small energies are so small; their bits are read as integers.
    """
    if cost.dtype != jnp.float32:
        return cost
    bits = jax.lax.bitcast_convert_type(cost, jnp.int32)
    fraction = (bits & 0x7FFFFF).astype(jnp.float32) * 2.0 ** (24 - 149)
    small = jnp.where(bits < 0, -fraction, fraction)
    return jnp.where((bits & 0x7F800000) == 0, small, cost * 2.0**24)


def _choose(both: Array, row: Array, column: Array) -> tuple[Array, Array]:
    """Picks what a cell adds to, and the move that it came by."""
    is_both = (both < row) & (both < column)
    is_row = (row < both) & (row < column)
    move = jnp.where(is_both, 0, jnp.where(is_row, 1, 2)).astype(jnp.uint8)
    return jnp.where(is_both, both, jnp.where(is_row, row, column)), move


def _follow(moves: Array, num_rows: Array, num_columns: Array, columns: int) -> Path:
    """Follows the moves back from every song's last cell."""
    _, words, rows, at_once = moves.shape
    song = jnp.arange(len(num_rows))
    place = (song // at_once) * (words * rows * at_once) + song % at_once  # of the song's first
    flat = moves.reshape(-1)

    def body(at: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], Path]:
        i, j = at  # counted from one
        on = i + j == k
        cell = place + ((k - 2) // _PACKED * rows + i - 1) * at_once
        word = flat.at[jnp.clip(cell, 0, flat.size - 1)].get(mode="promise_in_bounds")
        move = (word >> (2 * ((k - 2) % _PACKED)).astype(jnp.uint8)) & 3
        move = jnp.where(i == 0, 2, jnp.where(j == 0, 1, move))
        onward = i - (on & (move != 2)), j - (on & (move != 1))
        return onward, Path(i - 1, j - 1, on)

    nowhere = (num_rows == 0) | (num_columns == 0)
    start = jnp.where(nowhere, 0, num_rows), jnp.where(nowhere, 0, num_columns)
    diagonals = jnp.arange(1, rows + columns + 1)
    _, path = jax.lax.scan(body, start, diagonals, reverse=True, unroll=_PACKED)
    return Path(*(x.T for x in path))
