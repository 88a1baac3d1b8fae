"""Rotary tables, FSQ arithmetic and masks against the release's scalars and their own laws."""

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax.ops import fsq, masks, rope

LEVELS = (8, 8, 8, 5, 5, 5)


def test_inverse_frequencies_are_the_released_ones():
    exact = rope.inverse_frequencies(128, 1e6)
    np.testing.assert_allclose(exact[:4], [1, 0.8058422, 0.6493816, 0.5232992], rtol=1e-6)
    np.testing.assert_allclose(exact[63], 1.2409378e-6, rtol=1e-6)
    rounded = rope.inverse_frequencies(128, 1e6, bfloat16=True)
    np.testing.assert_array_equal(rounded[:4], [1, 0.8046875, 0.6484375, 0.5234375])
    np.testing.assert_allclose(rounded[63], 1.2442470e-6, rtol=1e-6)


def test_rotation_depends_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    frequencies = rope.inverse_frequencies(16, 1e4)

    def score(i, j):
        at = [rope.rotation_at(jnp.array([p]), frequencies) for p in (i, j)]
        return jnp.sum(rope.rotate(q, at[0]) * rope.rotate(k, at[1]))

    np.testing.assert_allclose(score(3, 9), score(40, 46), atol=1e-5)  # float32 angles near 46
    assert abs(score(3, 9) - score(3, 10)) > 1e-3


def test_codes_split_into_the_released_digits():
    known = {
        0: (0, 0, 0, 0, 0, 0),
        1: (1, 0, 0, 0, 0, 0),
        12345: (1, 7, 0, 4, 4, 0),
        35847: (7, 0, 0, 0, 4, 2),
        63999: (7, 7, 7, 4, 4, 4),
    }
    digits = fsq.digits_from_codes(jnp.array(list(known)), LEVELS)
    np.testing.assert_array_equal(digits, list(known.values()))


def test_codes_and_digits_are_inverse_over_the_whole_codebook():
    codes = jnp.arange(64_000)
    digits = fsq.digits_from_codes(codes, LEVELS)
    np.testing.assert_array_equal(fsq.codes_from_digits(digits, LEVELS), codes)
    values = fsq.values_from_digits(digits, LEVELS)
    np.testing.assert_array_equal(fsq.digits_from_values(values, LEVELS), digits)


def test_channels_round_as_in_the_release():
    z = jnp.array([-3, -1, -0.5, 0, 0.1, 0.5, 1, 3.0])
    for level, want in {8: (0, 1, 2, 4, 4, 5, 6, 7), 5: (0, 0, 1, 2, 2, 3, 4, 4)}.items():
        _, codes = fsq.quantize(z[:, None], (level,))
        np.testing.assert_array_equal(codes, want)


def test_every_level_is_reached_and_no_other():
    z = jnp.linspace(-4, 4, 4001)[:, None]
    for level in (5, 8):
        _, codes = fsq.quantize(z, (level,))
        assert sorted(set(np.asarray(codes).tolist())) == list(range(level))


def test_gradient_is_straight_through_inside_and_zero_outside_the_clamp():
    z = jnp.array([[0.3], [4.0]])
    slope = jax.grad(lambda z: fsq.quantize(z, (8,))[0].sum())(z)
    c = 8 / 7
    np.testing.assert_allclose(slope[0, 0], 1 / np.cosh(0.3 / c) ** 2, rtol=1e-5)
    assert slope[1, 0] == 0  # c tanh(4 / c) = 1.14 is cut to 1


def test_bfloat16_codebook_has_the_released_asymmetry():
    digits = jnp.arange(8)[:, None]
    want = [-1, -0.71484375, -0.4296875, -0.14453125, 0.140625, 0.421875, 0.7109375, 1]
    got = jax.jit(lambda d: fsq.values_from_digits(d, (8,), bfloat16=True))(digits)
    np.testing.assert_array_equal(got[:, 0], want)
    np.testing.assert_allclose(fsq.values_from_digits(digits, (8,))[3, 0], -1 / 7, rtol=1e-6)
    assert fsq.bound(jnp.array([[50.0]]), (8,), bfloat16=True) == 1


def test_a_patch_is_real_if_either_of_its_frames_is():
    frames = jnp.arange(7)[None] < jnp.array([[3], [4], [7]])
    want = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(masks.patches(frames), np.array(want, bool))


def test_positions_skip_padding_on_either_side():
    mask = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    np.testing.assert_array_equal(masks.positions(mask), [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]])
