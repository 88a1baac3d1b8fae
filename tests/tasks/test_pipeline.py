"""From requests to songs, with networks too small to be musical and otherwise complete."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax import units
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn import model
from acestep_jax.nn.config import VAEConfig
from acestep_jax.nn.vae import VAE
from acestep_jax.tasks import pipeline, tokens
from acestep_jax.tasks.request import BadRequest, Request
from acestep_jax.tasks.settings import Settings
from tests import tiny

HOP = units.SAMPLES_PER_FRAME
FAST = Settings(steps=3, shift=2.0)
CHANNELS = tiny.CONFIG.audio_acoustic_hidden_dim


def fill(shapes):
    """Random parameters from shapes: no initialiser is compiled."""
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([0.2 * rng.standard_normal(x.shape, np.float32) for x in leaves])


@pytest.fixture(scope="module")
def pipe():
    text = dataclasses.replace(tiny.TEXT_CONFIG, vocab_size=2176)
    config = dataclasses.replace(tiny.CONFIG, tasks=("text2music", "cover", "repaint", "lego"))
    networks = model.build_networks(config, text)
    vae = VAE(
        VAEConfig(
            encoder_hidden_size=2,
            downsampling_ratios=(32, 60),
            channel_multiples=(1, 1),
            decoder_channels=2,
            decoder_input_channels=CHANNELS,
        )
    )
    key = jax.random.key(0)
    return pipeline.Pipeline(
        networks=networks,
        params=fill(jax.eval_shape(lambda: model.init_params(networks, key))),
        vae=vae,
        vae_params=fill(jax.eval_shape(vae.init, key, jnp.zeros((1, HOP, 2)), key)["params"]),
        tokenizer=tokens.load_tokenizer(NANO_TOKENIZER),
        silence_latent=jnp.zeros((1, 750, CHANNELS)),
        settings=FAST,
    )


@pytest.fixture(scope="module")
def source():
    """A song of 12 s."""
    noise = np.random.default_rng(1).standard_normal((12 * units.SAMPLE_RATE, 2))
    return np.clip(0.1 * noise, -1, 1).astype(np.float32)


def test_a_song_has_its_length_and_is_the_same_in_any_company(pipe):
    alone = pipe("a waltz", lyrics="[verse]\nla", duration=11.0, seed=5)
    assert alone.audio.shape == (275 * HOP, 2)
    assert np.abs(alone.audio).max() <= 1
    others = [Request(caption="a march", seed=4, duration=12), alone.request]
    told = []
    songs = pipe.generate(others, progress=lambda *event: told.append(event))
    # measured 4e-7: float32 sums in another order
    np.testing.assert_allclose(songs[1].latents, alone.latents, atol=2e-5)
    assert len(songs[0].latents) == 300
    assert [stage for stage, *_ in told if stage != "decode"] == [
        *("listen", "condition", "sample", "songs")
    ]


def test_repainting_keeps_every_sample_beyond_its_ramps(pipe, source):
    song = pipe("drums", task="repaint", source=source, span=(4.0, 6.0), keeping="conservative")
    ramp = int(0.05 * units.SAMPLE_RATE)
    first, last = 100 * HOP - ramp, 150 * HOP + ramp
    np.testing.assert_array_equal(song.audio[:first], source[:first])
    np.testing.assert_array_equal(song.audio[last:], source[last : len(song.audio)])
    assert np.abs(song.audio[100 * HOP : 150 * HOP] - source[100 * HOP : 150 * HOP]).mean() > 0.01


def test_outpainting_adds_to_both_sides_and_keeps_the_song_between(pipe, source):
    song = pipe("drums", task="repaint", source=source, span=(-2.0, 14.0), keeping="conservative")
    assert len(song.audio) == 16 * units.SAMPLE_RATE
    before = pipe("drums", task="repaint", source=source, span=(-2.0, 3.0))
    kept = round(5.1 * units.SAMPLE_RATE)
    np.testing.assert_array_equal(before.audio[kept:], source[kept - 2 * units.SAMPLE_RATE :])


def test_a_covers_strength_switches_its_conditions(pipe, source):
    cover = {"task": "cover", "source": source, "seed": 3}
    whole, half, none = (
        pipe("a waltz", cover_strength=strength, **cover).latents for strength in (1.0, 0.5, 0.0)
    )
    plain = pipe("a waltz", duration=12.0, seed=3).latents
    np.testing.assert_allclose(none, plain, atol=2e-5)
    assert min(np.abs(half - whole).max(), np.abs(half - none).max()) > 1e-2


def test_codes_stand_for_the_song_they_were_taken_from(pipe, source):
    request = Request(caption="a waltz", task="cover", source=source, seed=3)
    latents = pipe.listen(request).source
    _, codes = pipe.networks.tokenizer.apply(
        {"params": pipe.params["tokenizer"]}, latents[None], pipe.silence_latent
    )
    again = pipe("a waltz", codes=tuple(map(int, codes[0])), seed=3)
    np.testing.assert_allclose(again.latents, pipe.generate([request])[0].latents, atol=2e-5)


def test_several_references_of_several_songs_find_their_songs(pipe, source):
    requests = [
        Request(caption="a", seed=1, duration=10, references=(source, source[::-1].copy())),
        Request(caption="a", seed=1, duration=10),
    ]
    both, none = pipe.generate(requests)
    np.testing.assert_allclose(none.latents, pipe("a", seed=1, duration=10).latents, atol=2e-5)
    assert np.abs(both.latents - none.latents).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "extract", "tracks": ("drums",)}, "load a base model"),
        ({"codes": (125,) * 50}, "beyond this model's 125 codes"),
        ({"lyrics": "la " * 3000}, "the model reads 2048"),
    ],
)
def test_what_this_model_cannot_do_is_refused_before_anything_is_computed(
    pipe, source, fields, said
):
    if fields.get("task"):
        fields = fields | {"source": source}
    with pytest.raises(BadRequest, match=said):
        pipe("a", **fields)


def test_sound_longer_than_a_tile_is_encoded_in_tiles(pipe):
    audio = np.random.default_rng(0).standard_normal((800 * HOP + 5, 2)).astype(np.float32)
    assert pipe.encode(audio, jax.random.key(0)).shape == (800, CHANNELS)
