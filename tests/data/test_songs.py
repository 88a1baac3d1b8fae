"""Our own songs: the notation, the harmony, the voice, and labels that agree with the sound."""

import subprocess
import sys

import numpy as np
import pytest

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data.songs import (
    arrange,
    compose,
    drums,
    harmony,
    instruments,
    notation,
    phonemes,
    render,
    styles,
    tunes,
    voice,
    write,
)
from acestep_jax.tasks import prompt


@pytest.fixture(scope="module")
def song():
    """A sung pop song of 20 to 30 s."""
    rng = np.random.default_rng(5)
    tune = next(t for t in tunes.traditional_tunes() if t.name == "london_bridge")
    style = next(s for s in styles.STYLES if s.name == "pop rock")
    score = arrange.arrange(tune, style, sung=True, rng=rng)
    return score, render.render_score("test", score, "female", rng)


def test_every_bar_of_every_tune_fills_its_metre():
    problems = [
        problem
        for tune, melodies in tunes.tunes_with_melodies()
        for problem in notation.check_tune(tune, melodies)
    ]
    assert problems == []
    assert len(tunes.traditional_tunes()) >= 30


def test_the_notation_reads_degrees_octaves_accidentals_and_lengths():
    notes = notation.parse_melody("1 ~#4' 7,/ 0- 5/. 2.", "minor")
    assert [note.pitch for note in notes] == [0, 18, -2, None, 7, 2]
    assert [note.length for note in notes] == [1, 1, 0.5, 2, 0.75, 1.5]
    assert [note.carried for note in notes] == [False, True, False, False, False, False]
    assert notes[-1].start == 5.25


def test_a_line_with_too_few_syllables_is_refused():
    with pytest.raises(ValueError, match="2 syllables for 3 notes"):
        notation.make_line("1 2 3", "Jin-gle", "major", "verse")
    with pytest.raises(ValueError, match="is not a note"):
        notation.parse_melody("1 9", "major")


@pytest.mark.parametrize("metre", [3, 4, 6])
def test_composed_tunes_repeat_their_seed_and_end_on_the_tonic(metre):
    for seed in range(8):
        tune = compose.compose_tune(seed, metre)
        assert tune == compose.compose_tune(seed, metre)
        assert tune.lines[-1].notes[-1].pitch % 12 == 0
        assert {round(line.length / metre) for line in tune.lines} == {2}


def test_a_cadence_is_harmonised_with_dominant_and_tonic():
    rng = np.random.default_rng(0)
    notes = [(0, 4, 0), (4, 2, 7), (6, 2, 11), (8, 4, 0)]
    chords = harmony.harmonize(notes, "major", 4, 3, rng)
    assert [harmony.chord_name(chord, 2) for chord in chords] == ["D", "A", "D"]


def test_every_key_name_is_one_the_release_knows():
    for mode in notation.MODES:
        for tonic in range(12):
            note, scale = harmony.keyscale_name(tonic, mode).split()
            assert note[0] in "ABCDEFG"
            assert note[1:] in ("", "#", "b")
            assert scale in ("major", "minor")


def test_every_style_names_instruments_and_grooves_that_exist():
    for style in styles.STYLES:
        names = {style.lead, style.chords, style.pad, style.bass} - {""}
        assert names <= set(instruments.INSTRUMENTS)
        groove = styles.GROOVES[style.groove]
        for metre in style.metres:
            patterns = groove.get(metre, groove.get(12, {}))
            assert patterns or style.groove == "none"
            assert set(patterns) <= set(drums.PANNING)
    tracks = {instrument.track for instrument in instruments.INSTRUMENTS.values()}
    assert tracks <= set(prompt.TRACK_NAMES)


def test_an_instrument_sounds_at_its_pitch():
    wave = instruments.play_note("flute", 57, 1.0, 0.8).mean(axis=1)  # written A3, sounds A4
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    peak = spectrum.argmax() * units.SAMPLE_RATE / len(wave)
    assert abs(peak - 440) < 2  # bins are 0.9 Hz wide, the vibrato reaches 3 Hz


def test_the_voice_sings_at_the_written_pitch_and_time():
    rng = np.random.default_rng(0)
    syllables = [
        voice.Syllable(text="sta", notes=((0.5, 57),), end=1.5),
        voice.Syllable(text="mo", notes=((2.0, 64),), end=3.0),
    ]
    mono, times = voice.sing(syllables, "it", voice.Singer(vibrato=0), 192_000, rng)
    assert times[0][0] == pytest.approx(0.33, abs=0.01)  # s and t take 0.17 s before the note
    assert np.abs(mono[:14_400]).max() < 1e-3  # silence before the first consonant
    for first, hz in ((0.8, 220.0), (2.3, 329.6)):
        piece = mono[int(first * 48_000) :][:24_000]
        lags = np.correlate(piece[:12_000], piece[:4_800], "valid")
        low, high = int(48_000 / 500), int(48_000 / 150)
        lag = low + lags[low:high].argmax()
        assert abs(48_000 / lag / hz - 1) < 0.02  # drift of the voice: a third of a semitone


def test_a_consonant_is_noisier_than_a_vowel():
    rng = np.random.default_rng(0)
    syllable = voice.Syllable(text="sa", notes=((0.5, 60),), end=1.5)
    mono, _ = voice.sing([syllable], "it", voice.Singer(), 96_000, rng)
    hiss, vowel = mono[20_200:23_500], mono[40_000:60_000]

    def brightness(wave):
        power = np.abs(np.fft.rfft(wave)) ** 2
        return (power * np.fft.rfftfreq(len(wave), 1 / 48_000)).sum() / power.sum()

    assert brightness(hiss) > 5000 > 2000 > brightness(vowel)


@pytest.mark.parametrize(
    ("syllable", "language", "expected"),
    [
        ("twin", "en", ("tw", "i", "n")),
        ("night", "en", ("n", "ai", "t")),
        ("schö", "de", ("S", "2", "")),
        ("Haus", "de", ("h", "au", "s")),
        ("lu", "fr", ("l", "y", "")),
        ("く", "ja", ("k", "u", "")),
        ("wstań", "pl", ("vst", "a", "nj")),
        ("'ll", "en", ("l", "@", "")),
    ],
)
def test_spelling_rules_give_a_singable_syllable(syllable, language, expected):
    onset, nucleus, coda = phonemes.syllable_phonemes(syllable, language)
    assert (onset, nucleus.rstrip("@") or nucleus, coda) == expected


def test_stems_add_up_to_the_mix(song):
    _, rendered = song
    total = np.sum(list(rendered.stems.values()), axis=0)
    np.testing.assert_allclose(total, rendered.mix, atol=1e-6)  # float32 sums of six stems
    assert 0.5 < np.abs(rendered.mix).max() <= 0.951
    assert set(rendered.stems) <= set(prompt.TRACK_NAMES)


def test_labels_agree_with_each_other(song):
    score, rendered = song
    labels = rendered.labels
    assert len(rendered.mix) == round(labels.seconds * units.SAMPLE_RATE)
    starts = [word.start for word in labels.words]
    assert starts == sorted(starts)
    by_line: dict[int, list[str]] = {}
    for word in labels.words:
        assert 0 <= word.start < word.end <= labels.seconds
        by_line.setdefault(word.line, []).append(word.text)
    for index, words in by_line.items():
        assert labels.lines[index].text == " ".join(words)
    assert "[chorus]" in labels.lyrics
    assert labels.bpm == score.bpm
    assert any("voice" in c or "vocals" in c or "woman" in c for c in labels.captions)


def test_the_voice_is_heard_in_its_words_and_not_elsewhere(song):
    _, rendered = song
    level = np.abs(rendered.stems["vocals"]).max(axis=1)
    sung = np.zeros(len(level), bool)
    for word in rendered.labels.words:
        sung[int(word.start * 48_000) : int(word.end * 48_000)] = True
    first = int(rendered.labels.words[0].start * 48_000)
    assert level[: first - 2400].max() < 1e-4
    # reverberation rings on between phrases, hence a factor and not silence
    assert level[sung].mean() > 4 * level[~sung].mean()


def test_the_beat_of_the_audio_is_the_tempo_of_the_label(song):
    score, rendered = song
    drum = rendered.stems["drums"].mean(axis=1)
    hop = 480
    energy = np.square(drum[: len(drum) // hop * hop]).reshape(-1, hop).mean(axis=1)
    onsets = np.maximum(np.diff(np.log(energy + 1e-6)), 0)
    onsets -= onsets.mean()
    lag = 60 / score.bpm * units.SAMPLE_RATE / hop  # one beat, in frames of 10 ms
    scores = [
        float(onsets[: -round(k)] @ onsets[round(k) :]) for k in lag * np.linspace(0.7, 1.3, 61)
    ]
    best = np.linspace(0.7, 1.3, 61)[int(np.argmax(scores))]
    assert abs(best - 1) < 0.03  # 10 ms frames: 2 % of a beat at 120 BPM


def test_the_same_seed_gives_the_same_files(tmp_path):
    write.render_songs(tmp_path / "first", [4], stems_every=2)
    # by the command and a worker process, as a user would
    command = "-m acestep_jax.data.songs --seed 4 --count 1 --stems_every 2 --workers 1 --out"
    subprocess.run([sys.executable, *command.split(), tmp_path / "again"], check=True)
    names = sorted(path.relative_to(tmp_path / "first") for path in _files(tmp_path / "first"))
    assert {"own-000004.flac", "own-000004.json"} < {str(name) for name in names}
    assert any("stems" in name.parts for name in names)
    for name in names:
        first, again = (tmp_path / folder / name for folder in ("first", "again"))
        assert first.read_bytes() == again.read_bytes()


def test_a_song_that_is_there_is_not_rendered_again(tmp_path):
    (tmp_path / "own-000007.json").write_text("kept")
    write.write_song(tmp_path, 7, with_stems=False)
    assert [path.name for path in _files(tmp_path)] == ["own-000007.json"]
    assert (tmp_path / "own-000007.json").read_text() == "kept"


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("style", styles.STYLES, ids=lambda style: style.name)
def test_every_style_arranges_every_metre_it_offers_within_the_song(style):
    rng = np.random.default_rng(1)
    for metre in style.metres:
        score = arrange.arrange(compose.compose_tune(3, metre), style, sung=True, rng=rng)
        assert style.bpm[0] <= score.bpm <= style.bpm[1]
        for part in score.parts:
            for event in part.events:
                assert 0 <= event.start < score.seconds
                assert 20 <= event.midi <= 110
        assert bool(score.strokes) == (style.groove != "none")
        bars = len(score.chords)
        bar = 60 / score.bpm * (metre / 3 if metre == 6 else metre)
        assert score.seconds == pytest.approx(bars * bar + 1.5, abs=0.01)
        ends = [section.end for section in score.sections]
        assert [section.start for section in score.sections] == [0, *ends[:-1]]
        assert score.sections[-1].tag == "outro"


def test_a_style_refuses_a_metre_it_cannot_play():
    funk = next(style for style in styles.STYLES if style.name == "funk")
    with pytest.raises(ValueError, match="funk plays metres"):
        arrange.arrange(compose.compose_tune(0, 3), funk, sung=False, rng=np.random.default_rng(0))


def test_tunes_that_share_a_melody_share_a_group():
    by_name = {tune.name: tune for tune in tunes.traditional_tunes()}
    groups = [render.melody_group(by_name[name]) for name in ("twinkle", "baa_baa")]
    assert groups == ["twinkle", "twinkle"]
    assert render.melody_group(by_name["vader_jacob"]) == "frere_jacques"
    splits = {labels_lib.split_of(render.melody_group(t)) for t in by_name.values()}
    assert {"train", "validation"} <= splits  # composed tunes give tests as well
