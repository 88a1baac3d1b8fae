"""What tempo and what key a stretch of music has, as two automatic judges hear it.

Tempo is librosa's. The key comes from the notes that sound:

    spectrum -> harmonic part -> notes >= 0 with  |spectrum| ~ sum of notes' overtones   (1)
    -> pitch classes of all notes, of the bass alone, and triads, averaged over frames   (2)
    -> score of 24 keys: the features, counted from the tonic, times the mode's weights  (3)

(1) is what a plain chroma lacks: the third partial of a note lies a fifth (and an octave) above it,
so that a chroma hears keys a fifth too high. The weights of (3) are fitted (`tune_key.py`) on
songs of the train split; as they are counted from the tonic, all twelve transpositions share them.

Source of (1): Mauch & Dixon 2010, "Approximate note transcription for the improved identification
of difficult chords"; the updates are those of Lee & Seung 2001 for the Kullback-Leibler divergence.
"""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from acestep_jax.data.songs import harmony

PITCH_CLASSES = harmony.KEY_NAMES
MODES = ("major", "minor")
KEYS = harmony.KEYS

_WINDOW = 32768  # 0.68 s: half a semitone apart at 50 Hz
_HOP = _WINDOW // 4
_LOWEST, _HIGHEST = 33, 88  # MIDI notes A1 to E6
_BASS_BELOW = 52  # E3
_TOP_HERTZ = 4000.0
_PARTIALS = 12
_DECAY = 0.7  # of a partial's amplitude to the next
_UPDATES = 40
WEIGHTS = pathlib.Path(__file__).with_name("key_judge.json")


def estimate_tempo(audio: np.ndarray, sample_rate: int = 48_000) -> float:
    """Estimates beats a minute with librosa's tempogram: audio [W, channels].

    The hop is 256 samples at 22,050 Hz, so that neighbouring tempi at 160 are 1.9 % apart.
    """
    import librosa

    mono = librosa.resample(audio.mean(axis=1), orig_sr=sample_rate, target_sr=22_050)
    strength = librosa.onset.onset_strength(y=mono, sr=22_050, hop_length=256)
    return float(librosa.feature.tempo(onset_envelope=strength, sr=22_050, hop_length=256)[0])


def compare_tempo(estimate: float, truth: float, tolerance: float = 0.04) -> str:
    """Says how an estimate relates to the truth: "same", "octave", "other level" or "none".

    An octave error is a factor of 2; another metrical level a factor of 3, 3/2 or 4/3.
    """
    levels = {"same": (1,), "octave": (2, 0.5), "other level": (3, 1 / 3, 1.5, 2 / 3, 4 / 3, 0.75)}
    for name, factors in levels.items():
        if any(abs(estimate / (truth * factor) - 1) <= tolerance for factor in factors):
            return name
    return "none"


def note_activity(audio: np.ndarray, sample_rate: int = 48_000) -> np.ndarray:
    """Transcribes roughly, by (1): audio [W, channels] -> strength of each note [frames, notes].

    Raises:
      ValueError: if the audio is shorter than one window of 0.68 s.
    """
    from librosa import decompose

    if len(audio) < _WINDOW:
        raise ValueError(f"{len(audio)} samples are too few to hear a key; give {_WINDOW}.")
    frames = np.lib.stride_tricks.sliding_window_view(audio.mean(axis=1), _WINDOW)[::_HOP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW).astype(np.float32), axis=1))
    bins = int(_TOP_HERTZ * _WINDOW / sample_rate)
    harmonic, _ = decompose.hpss(spectrum[:, :bins].T, kernel_size=(5, 31))
    level = harmonic / (harmonic.sum(axis=0, keepdims=True) + 1e-9)  # every moment counts alike
    return _explain(level, _overtones(bins, sample_rate)).T


def _explain(spectrum: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Finds notes >= 0 of least divergence: spectrum [bins, frames] ~ templates @ notes."""
    notes = templates.T @ spectrum + 1e-9
    norms = templates.sum(axis=0)[:, None]
    for _ in range(_UPDATES):
        notes *= templates.T @ (spectrum / (templates @ notes + 1e-9)) / norms
    return notes


@functools.cache
def _overtones(bins: int, sample_rate: int) -> np.ndarray:
    """Spectra of single notes [bins, notes]: partials of falling strength, as wide as a window."""
    centres = np.arange(bins)[:, None]
    columns = []
    for midi in range(_LOWEST, _HIGHEST + 1):
        partials = np.arange(1, _PARTIALS + 1)
        at = 440 * 2 ** ((midi - 69) / 12) * partials * _WINDOW / sample_rate
        width = np.maximum(1.0, 0.012 * at)  # a fifth of a semitone: voices glide and vibrate
        shape = np.exp(-0.5 * ((centres - at) / width) ** 2) / width
        columns.append(shape @ _DECAY ** (partials - 1))
    templates = np.stack(columns, axis=1)
    return templates / templates.sum(axis=0)


def key_features(audio: np.ndarray, sample_rate: int = 48_000) -> np.ndarray:
    """Summarises the notes of a stretch of music, by (2): [4, 12] from C.

    Rows: pitch classes, pitch classes of the bass, major and minor triads by their roots.
    """
    notes = note_activity(audio, sample_rate)
    classes = (np.arange(_LOWEST, _HIGHEST + 1) % 12)[:, None] == np.arange(12)
    low = (np.arange(_LOWEST, _HIGHEST + 1) < _BASS_BELOW)[:, None]
    chroma, bass = notes @ classes, notes @ (classes & low)
    chroma, bass = (x / (x.sum(axis=1, keepdims=True) + 1e-6) for x in (chroma, bass))
    root = np.sqrt(chroma)
    triads = [root * np.roll(root, -third, axis=1) * np.roll(root, -7, axis=1) for third in (4, 3)]
    return np.stack([x.mean(axis=0) for x in (chroma, bass, *triads)])


@dataclasses.dataclass(frozen=True)
class KeyJudge:
    """Scores 24 keys from features, by (3).

    Attributes:
      weights: [2, 4, 12], for major and minor, counted from the tonic.
      bias: [2].
    """

    weights: np.ndarray
    bias: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Evaluates (3): features [..., 4, 12] -> [..., 24] in the order of `KEYS`."""
        turned = from_every_tonic(features)
        by_mode = np.einsum("...tfp,mfp->...mt", turned, self.weights) + self.bias[:, None]
        return by_mode.reshape(*by_mode.shape[:-2], 24)

    def estimate(self, audio: np.ndarray, sample_rate: int = 48_000) -> str:
        """Names the most likely key of audio [W, channels]."""
        return KEYS[int(np.argmax(self.scores(key_features(audio, sample_rate))))]


def from_every_tonic(features: np.ndarray) -> np.ndarray:
    """Counts pitch classes from each of the twelve tonics: [..., 4, 12] -> [..., 12, 4, 12]."""
    return np.stack([np.roll(features, -tonic, axis=-1) for tonic in range(12)], axis=-3)


def load_key_judge(path: pathlib.Path = WEIGHTS) -> KeyJudge:
    """Reads the fitted weights."""
    fitted = json.loads(path.read_text())
    return KeyJudge(np.array(fitted["weights"]), np.array(fitted["bias"]))


def relation(estimate: str, truth: str) -> str:
    """Names how an estimated key relates to the true one.

    Returns:
      "same", "fifth" (either way, same mode), "relative", "parallel" or "other".
    """
    (tonic, mode), (true_tonic, true_mode) = (_split(key) for key in (estimate, truth))
    up = (tonic - true_tonic) % 12
    if mode == true_mode:
        return {0: "same", 7: "fifth", 5: "fifth"}.get(up, "other")
    if up == 0:
        return "parallel"
    return "relative" if up == (9 if true_mode == "major" else 3) else "other"


def _split(key: str) -> tuple[int, str]:
    tonic, mode = key.split()
    return PITCH_CLASSES.index(tonic), mode
