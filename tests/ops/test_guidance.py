"""Guidance rules against the released functions' numbers, and what each leaves alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax.ops import guidance

# The release's own functions on these inputs, float32 (float64 inside), printed to six digits.
CONDITIONAL = jnp.sin(jnp.arange(12.0)).reshape(1, 4, 3)
UNCONDITIONAL = jnp.cos(0.7 * jnp.arange(12.0)).reshape(1, 4, 3)
PROJECTED = [
    *(-6.0, -1.060124, 2.330180, 4.680729, 2.479484, 2.085924),
    *(-0.328682, 1.636171, -1.008456, -1.175763, -6.804908, -4.604353),
]
PROJECTED_AGAIN = [
    *(-2.1, 0.091766, 1.315677, 1.715871, 0.451578, 0.202665),
    *(-0.268717, 0.934002, 0.191188, -0.184852, -2.680930, -2.161518),
]
ANGULAR = [
    *(-0.165237, 0.629669, 1.046181, 0.829476, -0.741922, -0.310984),
    *(0.463670, 1.921871, 1.360391, -0.444093, -1.575295, -1.649668),
]


def test_projected_guidance_gives_the_released_numbers_and_remembers_as_it_does():
    momentum, first = guidance.projected(jnp.zeros((1, 4, 3)), CONDITIONAL, UNCONDITIONAL, 7.0)
    np.testing.assert_allclose(first.ravel(), PROJECTED, atol=3e-6)  # printed to 1e-6
    _, second = guidance.projected(momentum, 0.9 * CONDITIONAL, 1.1 * UNCONDITIONAL, 7.0)
    np.testing.assert_allclose(second.ravel(), PROJECTED_AGAIN, atol=3e-6)


def test_what_projected_guidance_adds_is_across_the_conditional_velocity():
    momentum = jnp.zeros((1, 4, 3))
    _, velocity = guidance.projected(momentum, CONDITIONAL, UNCONDITIONAL, 3.0)
    added = jnp.sum((velocity - CONDITIONAL) * CONDITIONAL, axis=1)
    np.testing.assert_allclose(added, 0, atol=1e-6)
    assert jnp.abs(velocity - CONDITIONAL).max() > 0.5


def test_angular_guidance_gives_the_released_numbers_on_every_item_of_a_batch():
    x_t = jnp.sin(1.3 * jnp.arange(12.0)).reshape(1, 4, 3)
    arrays = [jnp.concatenate([x, x[:, ::-1]]) for x in (x_t, CONDITIONAL, UNCONDITIONAL)]
    guided = guidance.angular(*arrays, jnp.float32(0.6), 7.0)
    np.testing.assert_allclose(guided[0].ravel(), ANGULAR, atol=3e-6)
    np.testing.assert_allclose(guided[1, ::-1], guided[0], atol=1e-6)  # frames stand alone


@pytest.mark.parametrize("t", [jnp.float32(0.6), jnp.array([0.3, 0.6], jnp.float32)])
def test_angular_guidance_without_strength_hardly_turns(t):
    x_t = jnp.sin(1.3 * jnp.arange(24.0)).reshape(2, 4, 3)
    arrays = [jnp.concatenate([x, x]) for x in (CONDITIONAL, UNCONDITIONAL)]
    guided = guidance.angular(x_t, *arrays, t, 1.0)
    # the release turns by a thousandth of the angle even then
    np.testing.assert_allclose(guided, arrays[0], atol=0.02)


@pytest.mark.parametrize("rule", ["projected", "angular"])
def test_padding_does_not_change_how_an_item_is_guided(rule):
    def guide(conditional, unconditional, mask):
        if rule == "projected":
            momentum = jnp.zeros_like(conditional)
            return guidance.projected(momentum, conditional, unconditional, 5.0, frame_mask=mask)[1]
        x_t = 0.5 * conditional + 0.1
        options = {"keep_length": True, "frame_mask": mask}
        return guidance.angular(x_t, conditional, unconditional, jnp.float32(0.4), 5.0, **options)

    rubbish = jnp.full((1, 2, 3), 100.0)
    longer = [
        jnp.concatenate([x, k * rubbish], 1) for k, x in ((1, CONDITIONAL), (2, UNCONDITIONAL))
    ]
    padded = guide(*longer, jnp.arange(6)[None] < 4)
    np.testing.assert_allclose(padded[:, :4], guide(CONDITIONAL, UNCONDITIONAL, None), atol=1e-6)


def test_equal_branches_are_left_as_they_are_by_projected_guidance():
    momentum = jnp.zeros((1, 4, 3))
    _, velocity = guidance.projected(momentum, CONDITIONAL, CONDITIONAL, 9.0)
    np.testing.assert_array_equal(velocity, CONDITIONAL)
