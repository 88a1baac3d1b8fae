"""Time grids, their warp, and the law of training times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import timesteps


def test_shifts_compose_by_multiplication_and_invert_by_their_reciprocal(x64):
    t = jnp.linspace(0.0, 1.0, 101)
    twice = timesteps.shift_times(timesteps.shift_times(t, 2.0), 3.0)
    np.testing.assert_allclose(twice, timesteps.shift_times(t, 6.0), atol=1e-15)
    back = timesteps.shift_times(timesteps.shift_times(t, 3.0), 1 / 3.0)
    np.testing.assert_allclose(back, t, atol=1e-15)


def test_shift_refuses_what_is_not_positive():
    with pytest.raises(ValueError, match="shift must be positive, got 0"):
        timesteps.shift_times(jnp.ones(2), 0)


@pytest.mark.parametrize(
    ("shift", "times"),
    [
        (1.0, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]),
        (2.0, [1, 14 / 15, 6 / 7, 10 / 13, 2 / 3, 6 / 11, 2 / 5, 2 / 9, 0]),
        (3.0, [1, 21 / 22, 9 / 10, 5 / 6, 3 / 4, 9 / 14, 1 / 2, 3 / 10, 0]),
    ],
)
def test_eight_step_grids_are_the_released_turbo_tables(x64, shift, times):
    np.testing.assert_allclose(timesteps.time_grid(8, shift), times, atol=1e-15)
    np.testing.assert_allclose((*timesteps.TURBO_TIMES[int(shift)], 0), times, atol=1e-15)


@pytest.mark.parametrize(("num_steps", "count"), [(8, 20), (4, 8), (5, 13), (6, 14), (7, 19)])
def test_joint_shifts_visit_the_known_number_of_levels(num_steps, count):
    assert len(timesteps.levels(num_steps)) == count


def test_four_step_levels_are_among_the_eight_step_levels_and_others_are_not():
    eight = set(timesteps.levels(8))
    assert set(timesteps.levels(4)) <= eight
    outside = {n: len(set(timesteps.levels(n)) - eight) for n in (5, 6, 7)}
    assert outside == {5: 9, 6: 7, 7: 14}


def test_a_grid_an_item_equals_the_grid_of_each_shift():
    shifts = jnp.array([1.0, 2.0, 3.0])
    grids = timesteps.time_grid(8, shifts)
    for i, shift in enumerate((1.0, 2.0, 3.0)):
        np.testing.assert_allclose(grids[:, i], timesteps.time_grid(8, shift), atol=2e-7)


def test_a_padded_grid_is_the_grid_followed_by_zeros():
    shifts = jnp.array([1.0, 3.0])
    padded = jax.jit(lambda n: timesteps.padded_time_grid(n, 8, shifts))(5)
    np.testing.assert_allclose(padded[:6], timesteps.time_grid(5, shifts), atol=2e-7)
    np.testing.assert_array_equal(padded[6:], 0.0)


def test_a_grid_needs_a_step():
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        timesteps.time_grid(0)


def test_released_training_times_are_the_larger_of_two_logit_normals():
    t = np.asarray(timesteps.sample_times(jax.random.key(0), (2_000_000,)))
    assert abs(t.mean() - 0.535) < 1e-3
    # median: sigmoid(-0.4 + Phi^-1(sqrt(0.5)))
    for quantile, expected in ((0.5, 0.536), (0.1, 0.293), (0.9, 0.775)):
        assert abs(np.quantile(t, quantile) - expected) < 1e-3


def test_a_single_logit_normal_sits_lower_and_uniform_is_uniform():
    single = np.asarray(timesteps.sample_times(jax.random.key(0), (500_000,), "single"))
    assert abs(single.mean() - 0.418) < 2e-3
    assert abs(np.median(single) - 0.401) < 2e-3
    uniform = np.asarray(timesteps.sample_times(jax.random.key(0), (500_000,), "uniform"))
    assert abs(uniform.mean() - 0.5) < 2e-3
    assert abs(uniform.std() - 12**-0.5) < 2e-3


def test_an_unknown_time_law_is_refused():
    with pytest.raises(ValueError, match="unknown time law 'max3'; choose one of max2"):
        timesteps.sample_times(jax.random.key(0), (2,), "max3")
