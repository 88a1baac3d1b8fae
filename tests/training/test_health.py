"""The diagnostics of a distillation: what is well is left alone, what is not is called by name."""

import numpy as np
import pytest

from acestep_jax.training import health

WELL = {
    "dm_gap": 0.3,
    "fake_over_teacher": 0.7,
    "dm_ca_cosine": -0.3,
    "ca_over_dm": 1.5,
    "channel_std_ratio": 1.0,
    "discriminator/accuracy": 0.7,
    "gan_over_dm": 0.1,
}


def _series(**changes):
    values = WELL | changes
    return {name: [(step, value) for step in range(8)] for name, value in values.items()}


def _warnings(series):
    return [finding.warning for finding in health.check(series) if finding.warning]


def test_a_healthy_run_is_left_in_peace():
    assert len(health.check(_series())) == len(WELL) == len(health.DIAGNOSTICS)
    assert _warnings(_series()) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("discriminator/accuracy", 0.86, "above 0.8: the discriminator is too strong"),
        ("discriminator/accuracy", 0.5, "below 0.55: the discriminator cannot tell"),
        ("gan_over_dm", 0.5, "the adversary leads"),
        ("gan_over_dm", 0.01, "raise gan.weight"),
        ("fake_over_teacher", 1.2, "raise critic_steps"),
        ("dm_ca_cosine", 0.8, "matching pulls with guidance"),
        ("dm_ca_cosine", -0.99, "undoes guidance"),
        ("ca_over_dm", 20.0, "guidance outweighs"),
        ("ca_over_dm", 0.0, "raise guidance_scale"),
        ("channel_std_ratio", 1.4, "louder than real ones"),
        ("channel_std_ratio", 0.5, "flatter than real ones"),
    ],
)
def test_what_leaves_its_range_is_named_with_a_remedy(name, value, words):
    (warning,) = _warnings(_series(**{name: value}))
    assert warning.startswith(f"{name} is {value:.3g}, ")
    assert words in warning


def test_the_beginning_of_a_run_does_not_count():
    series = _series()
    series["discriminator/accuracy"] = [(i, 0.95 if i < 6 else 0.7) for i in range(8)]
    assert _warnings(series) == []


def test_a_gap_may_fall_and_level_off_but_not_rise_again():
    def gap(values):
        return [(i, v) for i, v in enumerate(values)]

    falling = [0.9, 0.8, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3]
    assert health.rise(gap(falling)) == 1.0
    rising = gap([0.9, 0.8, 0.3, 0.3, 0.5, 0.5, 0.6, 0.6])
    np.testing.assert_allclose(health.rise(rising), 2.0)
    assert "dm_gap is 2, above 1.5" in _warnings(_series() | {"dm_gap": rising})[0]


def test_short_runs_and_absent_metrics_can_be_read():
    findings = health.check({"dm_gap": [(1, 0.3)], "gan_over_dm": []})
    assert [finding.diagnostic.name for finding in findings] == ["dm_gap"]
    (row,) = health.rows(findings)
    assert row == ["dm_gap, last quarter over its lowest", 1.0, "1 to 1.5", "well"]
