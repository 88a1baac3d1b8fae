"""The judges of tempo and key on sounds whose truth is known, and the counting around them."""

import json

import numpy as np
import pytest

from acestep_jax.data.labels import SongLabels
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.tasks import prompt
from acestep_jax.units import SAMPLE_RATE
from experiments.music import (
    beats,
    evaluate,
    judges,
    listens,
    prompts,
    repeats,
    statistics,
    tune_key,
)


def notes(*midi, seconds=1.0, third=0.9):
    """A chord whose third partials are almost as strong as its notes."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = 440 * 2 ** ((np.array(midi)[:, None] - 69) / 12)
    partials = enumerate((1.0, 0.5, third, 0.3), 1)
    wave = sum(a * np.sin(2 * np.pi * k * pitches * time[None]) for k, a in partials).sum(axis=0)
    return np.repeat(0.05 * wave[:, None], 2, axis=1).astype(np.float32)


def cadence(tonic, minor):
    third = 3 if minor else 4
    one, four = (0, third, 7), (5, 5 + third, 12)
    chords = (one, four, (7, 11, 14), one)
    # the bass a fourth below or more, as in songs
    parts = [notes(*(60 + tonic + n for n in c), 48 + tonic + c[0]) for c in chords]
    return np.concatenate(parts)


def test_overtones_are_not_taken_for_notes():
    activity = judges.note_activity(notes(50)).mean(axis=0)
    lowest = 33
    assert activity.argmax() == 50 - lowest
    assert activity[50 + 19 - lowest] < 0.2 * activity.max()  # the third partial, 19 semitones up


@pytest.mark.parametrize(("tonic", "minor", "key"), [(0, False, "C major"), (9, True, "A minor")])
def test_a_cadence_is_heard_in_its_key(tonic, minor, key):
    assert judges.load_key_judge().estimate(cadence(tonic - 12 * (tonic > 6), minor)) == key


def test_transposed_features_give_transposed_scores():
    judge = judges.load_key_judge()
    features = np.random.default_rng(0).random((4, 12))
    scores = judge.scores(features).reshape(2, 12)
    up = judge.scores(np.roll(features, 5, axis=1)).reshape(2, 12)
    np.testing.assert_allclose(up, np.roll(scores, 5, axis=1), atol=1e-12)


def test_the_fit_recovers_keys_from_profiles():
    rng = np.random.default_rng(0)
    profiles = tune_key.profile_judge().weights[:, 0]
    keys = rng.integers(24, size=200)
    rows = np.stack([np.roll(profiles[k // 12], k % 12) for k in keys])
    features = np.repeat(rows[:, None], 4, axis=1) + 0.1 * rng.standard_normal((200, 4, 12))
    judge = tune_key.fit(features[:100], keys[:100], 1e-3)
    assert tune_key.accuracy(judge, features[100:], keys[100:]) > 0.95


def test_a_click_track_has_its_tempo():
    audio = np.zeros((8 * SAMPLE_RATE, 2), np.float32)
    for beat in range(16):
        at = beat * SAMPLE_RATE // 2
        audio[at : at + 400] = np.random.default_rng(0).uniform(-0.5, 0.5, (400, 1))
    assert judges.compare_tempo(judges.estimate_tempo(audio), 120) == "same"


@pytest.mark.parametrize(
    ("estimate", "kind"),
    [(103.9, "same"), (104.5, "none"), (50, "octave"), (200, "octave"), (150, "other level")],
)
def test_tempi_are_compared_within_four_percent_and_by_level(estimate, kind):
    assert judges.compare_tempo(estimate, 100) == kind


@pytest.mark.parametrize(
    ("estimate", "truth", "kind"),
    [
        ("G major", "C major", "fifth"),
        ("F minor", "C minor", "fifth"),
        ("A minor", "C major", "relative"),
        ("Eb major", "C minor", "relative"),
        ("C minor", "C major", "parallel"),
        ("D major", "C major", "other"),
        ("F# minor", "F# minor", "same"),
    ],
)
def test_keys_are_related_as_musicians_say(estimate, truth, kind):
    assert judges.relation(estimate, truth) == kind


def test_too_short_a_sound_has_no_key():
    with pytest.raises(ValueError, match="too few to hear a key; give 32768"):
        judges.note_activity(np.zeros((1000, 2), np.float32))


def test_the_interval_of_a_share_is_wilsons():
    # 8 of 10: 0.490 to 0.943, Brown, Cai & DasGupta 2001
    np.testing.assert_allclose(statistics.wilson(8, 10), (0.490, 0.943), atol=1e-3)
    with pytest.raises(ValueError, match="no trial was counted"):
        statistics.wilson(0, 0)


def test_agreement_tells_hits_from_chance():
    sure = statistics.agreement(np.eye(24, dtype=bool), draws=500)
    assert sure["own"] == 1 and sure["shuffled"] == 0 and sure["p"] < 0.01
    blind = np.zeros((24, 24), bool)
    blind[:, :12] = True  # every estimate fits the same half of the prompts
    result = statistics.agreement(blind, draws=500)
    assert result["gain"] == pytest.approx(0.0, abs=0.03)
    assert result["gain_interval"][0] < 0 < result["gain_interval"][1]
    assert result["p"] > 0.5


def item(bpm, key):
    labels = SongLabels(
        name="x", group="x", split="test", seconds=9.0, captions=("a song",), bpm=bpm, keyscale=key
    )
    return prompts.Prompt(labels, np.zeros((10, 2), np.float32), "a song", "[Instrumental]")


def test_estimates_are_counted_against_their_own_prompt():
    items = [item(100, "C major"), item(120, "A minor"), item(80, "G major"), item(90, "D major")]
    tempi, keys = np.array([101, 60, 81, 70]), ["C major", "A minor", "D major", "B major"]
    table = evaluate.compare_with_prompts(tempi, keys, items)
    assert (table["tempo"]["same"], table["tempo"]["octave"], table["tempo"]["own"]) == (2, 1, 0.5)
    assert (table["key"]["same"], table["key"]["fifth"], table["key"]["own"]) == (2, 1, 0.5)
    assert table["key"]["shuffled"] == pytest.approx(1 / 12, abs=1e-3)  # D major of twelve pairs
    assert evaluate.chances(items)["key"] == pytest.approx(1 / 24, abs=1e-4)


def test_held_out_prompts_have_tunes_of_no_training_song_and_make_a_batch():
    assert prompts.held_out_seeds(2) == [259, 287]
    assert not prompts.is_held_out(260)
    silence = np.full((32, 64), 0.5, np.float32)
    batch = prompts.make_batch(
        [item(100, "C major")] * 2, NANO_TOKENIZER, silence, seconds=1.28, timbre_frames=40
    )
    assert batch.latents.shape == batch.source_latents.shape == (2, 32, 64)
    assert batch.timbre_latents.shape == (2, 40, 64)
    assert batch.frame_mask.all() and (batch.edit_mask == 1).all() and not batch.is_cover.any()
    quiet = evaluate.parse(["--quick"])
    assert (quiet.prompts, quiet.steps) == (3, 2)


def test_the_beat_explains_sizes_where_signs_are_random():
    rng = np.random.default_rng(0)
    loud = np.where((np.arange(1500) + 0.5) * 2 / 25 % 1 < 0.25, 2.0, 0.5)  # 120 beats a minute
    latents = loud[:, None] * rng.choice([-1.0, 1.0], (1500, 4))
    shares = beats.measure([(latents, 120.0)])
    assert shares["latents"]["tempo"] < 0.02
    assert shares["energy"]["tempo"] > 0.6  # all of it but for frames at the edge of a place
    assert shares["energy"]["wrong"] < 0.05


def test_a_prompt_is_told_another_tempo_and_nothing_else():
    write = lambda caption, bpm: prompt.caption_prompt(caption, bpm=bpm, duration=5.0)  # noqa: E731
    assert listens.other_tempo(write("slow, 80 BPM", 80)) == write("slow, 104 BPM", 104)
    assert listens.other_tempo(write("120 drums", 120)) == write("120 drums", 92)
    silent = prompt.caption_prompt("a song", duration=5.0)
    assert listens.other_tempo(silent) == silent


@pytest.mark.slow
def test_the_shipped_model_is_asked_whether_it_listens(capsys):
    found = listens.main(["--clips", "4"])
    assert 1 <= found["clips"] <= 4
    assert len(found["levels"][0]) == len(listens.TIMES) == len(found["others"][1])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]).keys() == found.keys()


def test_a_beat_repeats_at_its_own_tempo_and_noise_at_none():
    rng = np.random.default_rng(0)
    tempi = np.array([75.0, 90.0, 105.0, 125.0])
    time = np.arange(500) / 25
    pulses = np.stack([(time * tempo / 60 % 1 < 0.25).astype(float) for tempo in tempi])
    noise = rng.standard_normal((4, 500, 64))
    kept = repeats.measure(0.1 * noise + pulses[..., None], tempi)
    lost = repeats.measure(noise, tempi)
    assert kept["own"][0] > 0.5 > kept["others"][0] + 0.3
    assert kept["highest"][0] >= kept["own"][0]
    assert abs(lost["own"][0]) < 0.1
    assert lost["highest"][0] < 0.3


def test_songs_of_the_package_repeat_at_their_prompts_tempo(capsys):
    found = repeats.main(["--clips", "8", "--steps", "1", "--guidance", "1"])
    assert found == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["prompts"]) == {"songs", "guidance 1"}
    own, others = (found["bare prompts"]["songs"][name][0] for name in ("own", "others"))
    assert own > others + 0.1
