"""The ring of eight modes: its exact teacher, its quadrature, and a few iterations of the game."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distill import ring


def test_the_teacher_is_the_regression_of_the_velocity():
    """Averages (noise - data) of pairs whose state falls near a point: the definition."""
    keys = jax.random.split(jax.random.key(0), 2)
    count, t = 400_000, 0.5
    data = ring.mixture(keys[0], count)[:, 0]
    noise = jax.random.normal(keys[1], data.shape)
    state = t * noise + (1 - t) * data
    point = jnp.array([0.4, 0.2])
    near = jnp.linalg.norm(state - point[None], axis=-1) < 0.08
    expected = jnp.mean((noise - data)[near], axis=0)
    found = ring.teacher(point[None, None], jnp.array([t]))[0, 0]
    # some 4,000 pairs of deviation about 1.2: four standard errors
    np.testing.assert_allclose(found, expected, atol=0.08)


def test_the_mixture_itself_has_all_modes_and_no_divergence():
    points = np.asarray(ring.mixture(jax.random.key(1), 40_000))[:, 0]
    np.testing.assert_allclose(ring.masses(points), 1 / 8, atol=0.01)  # 6 standard errors
    assert abs(ring.divergence(points)) < 0.01
    missing = points[points[:, 0] > -0.5]  # without three of the modes
    np.testing.assert_allclose(ring.divergence(missing), np.log(8 / 5), atol=0.02)
    assert np.sum(ring.masses(missing) > 1 / 16) == 5


def test_a_few_iterations_run_and_are_reported(tmp_path):
    arguments = ["--seeds", "0", "--rounds", "1", "--iterations", "2", "--critics", "1"]
    (row,) = ring.main([*arguments, "--quick", "--results", str(tmp_path)])
    assert len(row["kl"]) == 3 and np.isfinite(row["kl"]).all()
    assert (tmp_path / "ring.svg").read_text().count("<polyline") == 1
