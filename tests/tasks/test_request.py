"""Requests are taken as they are or refused with every reason; nothing is repaired."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax import units
from acestep_jax.nn.config import MODELS
from acestep_jax.ops import timesteps
from acestep_jax.tasks import request as request_lib
from acestep_jax.tasks import settings, timbre
from acestep_jax.tasks.request import BadRequest, Request

SONG = 0.1 * np.ones((units.SAMPLE_RATE * 20, 2), np.float32)


def reasons(**fields):
    with pytest.raises(BadRequest) as caught:
        Request(**fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"duration": 9.9}, "from 10 to 600"),
        ({"duration": math.nan}, "duration is nan"),
        ({"duration": "60"}, "duration is '60'"),
        ({"duration": True}, "duration is True"),
        ({"bpm": 29}, "whole number from 30 to 300"),
        ({"bpm": 120.5}, "bpm is 120.5"),
        ({"keyscale": "H major"}, "like 'C major'"),
        ({"timesignature": "5"}, "'2', '3', '4', '6'"),
        ({"timesignature": 4}, "timesignature is a int"),
        ({"language": "klingon"}, "language is 'klingon'"),
        ({"task": "dance"}, "'text2music', 'cover'"),
        ({"task": ["cover"]}, "task is a list"),
        ({"caption": None}, "caption is a NoneType"),
        ({"lyrics": "\ud800"}, "half a surrogate"),
        ({"lyrics": "la", "instrumental": True}, "leave out one"),
        ({"task": "cover"}, "needs a source"),
        ({"source": SONG}, "text2music hears no source"),
        ({"task": "cover", "source": SONG[:, 0]}, "use an array [samples, 2]"),
        ({"task": "cover", "source": SONG[:7]}, "holds 7 samples"),
        ({"task": "cover", "source": 0 * SONG}, "is silent"),
        ({"task": "cover", "source": 11 * SONG}, "reaches 1.1"),
        ({"task": "cover", "source": SONG * np.nan}, "not finite"),
        ({"task": "cover", "source": SONG, "duration": 30}, "duration is the source's own"),
        ({"references": (SONG, SONG[:0])}, "reference 1 holds 0 samples"),
        ({"references": [SONG]}, "references is a list"),
        ({"codes": (5, 64_000)}, "code 64000 lies outside"),
        ({"codes": (5, 1.5)}, "no whole number"),
        ({"task": "extract", "source": SONG, "tracks": ("lute",)}, "unknown track 'lute'"),
        ({"task": "lego", "source": SONG, "tracks": ("bass", "fx")}, "at most 1"),
        ({"tracks": ("bass",)}, "at most 0"),
        ({"task": "repaint", "source": SONG}, "needs a span"),
        ({"task": "repaint", "source": SONG, "span": (5, 5)}, "empty or reversed"),
        ({"task": "repaint", "source": SONG, "span": (8.0, 3.0)}, "empty or reversed"),
        ({"task": "repaint", "source": SONG, "span": (25, 30)}, "does not touch"),
        ({"task": "repaint", "source": SONG, "span": (-590.0, 5)}, "600 s fit"),
        ({"task": "cover", "source": SONG, "span": (1, 2)}, "leave the span out"),
        ({"cover_noise": 0.5}, "is for covers"),
        ({"cover_noise": np.ones(2)}, "cover_noise is array"),
        ({"seed": -1}, "from 0 to"),
        ({"tell_span": False}, "for requests with a span"),
        ({"codes": (0,) * 3001}, "3001 codes last longer"),
        ({"task": "cover", "source": (SONG * 2).astype(np.int16)}, "holds int16"),
        ({"tracks": (1,)}, "track 0 is a int"),
        ({"seed": 10**400}, "0000..."),
        ({"bpm": 10**5000}, "bpm is a int"),
        ({"codes": (0,) * 51, "duration": 10}, "which holds 50"),
        ({"codes": (0,) * 51, "duration": math.nan}, "duration is nan"),
        ({"keeping": "aggressive"}, "keeping is for repaint"),
        ({"task": "complete", "source": SONG, "tracks": ("fx", "fx")}, "name each once"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(fields, said):
    assert said in reasons(**fields)


def test_all_reasons_are_given_at_once():
    text = reasons(bpm=1000, duration=5, language="xx")
    assert all(word in text for word in ("bpm", "duration", "language"))


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 60.0),
        ({"duration": 600}, 600.0),
        ({"codes": (1,) * 60}, 12.0),
        ({"task": "cover", "source": SONG}, 20.0),
        ({"task": "repaint", "source": SONG, "span": (-3, 25)}, 28.0),
        ({"task": "repaint", "source": SONG, "span": (5, None)}, 20.0),
        ({"task": "lego", "source": SONG, "tracks": ("bass",)}, 20.0),
    ],
)
def test_a_song_is_as_long_as_its_source_its_codes_or_its_duration(fields, seconds):
    assert Request(**fields).seconds == pytest.approx(seconds)


def test_codes_are_announced_to_the_model_as_a_cover():
    made = Request(caption="a", codes=(1, 2, 3) * 20)
    assert "Generate audio semantic tokens" in made.caption_prompt()
    assert made.is_cover
    assert "Fill the audio semantic mask" in Request(caption="a").caption_prompt()


def test_every_key_of_the_release_is_known_once():
    assert len(set(request_lib.KEYS)) == 70


def test_the_default_settings_are_those_of_the_release():
    turbo = settings.default_settings(MODELS["turbo"])
    np.testing.assert_array_equal(turbo.grid(), timesteps.time_grid(8, 3.0))
    assert turbo.rule == "none"
    base = settings.default_settings(MODELS["base"])
    assert (len(base.grid()), base.rule, base.guidance) == (51, "apg", 7.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"shift": 0.0},
        {"times": (0.5, 0.8)},
        {"times": (1.5, 0.8)},
        {"solver": "rk4"},
        {"rule": "apg"},
        {"guidance": 4.0},
        {"retake": 2.0},
        {"times": np.ones(2)},
        {"rule": np.ones(2)},
    ],
)
def test_settings_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match="|".join(fields) + "|rule"):
        settings.Settings(**fields)


def test_a_schedule_may_be_given_with_or_without_its_end():
    for times in ((1.0, 0.6, 0.3), (1.0, 0.6, 0.3, 0.0)):
        grid = settings.Settings(times=times).grid()
        np.testing.assert_allclose(grid, [1.0, 0.6, 0.3, 0.0])


def test_heun_follows_a_curved_field_more_closely_than_euler():
    def field(x, t):
        return x * t  # x(0) = x(1) exp(-1/2)

    ends = []
    for solver in ("euler", "heun"):
        x, step = jnp.ones(()), settings.Settings(solver=solver).step()
        for t, t_next in itertools.pairwise(jnp.linspace(1, 0, 9)):
            x = step(field, x, t, t_next, None)
        ends.append(abs(float(x) - math.exp(-0.5)))
    assert ends[1] < ends[0] / 10


def test_a_reference_gives_a_segment_of_each_third_and_the_same_ones_by_the_same_seed():
    audio = np.repeat(np.arange(90 * 1920, dtype=np.float32)[:, None], 2, axis=1)
    cut = timbre.choose_segments(audio, 9, np.random.default_rng(3))
    again = timbre.choose_segments(audio, 9, np.random.default_rng(3))
    np.testing.assert_array_equal(cut, again)
    thirds = cut.reshape(3, -1, 2)[:, :, 0] // (30 * 1920)
    np.testing.assert_array_equal(thirds, np.repeat(np.arange(3)[:, None], 3 * 1920, axis=1))
    assert (cut != timbre.choose_segments(audio, 9, np.random.default_rng(4))).any()


@pytest.mark.parametrize("samples", [1, 1919, 9 * 1920, 9 * 1920 + 1])
def test_a_short_reference_is_repeated_to_its_full_length(samples):
    assert timbre.choose_segments(SONG[:samples], 9).shape == (9 * 1920, 2)
