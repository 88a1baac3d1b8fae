"""A drum kit from noise and falling sines; each seed tunes its own kit."""

import numpy as np

from acestep_jax import units

PANNING = {
    "kick": 0.0,
    "snare": 0.05,
    "rim": 0.15,
    "clap": -0.1,
    "hat": 0.35,
    "open": 0.35,
    "shaker": -0.4,
    "ride": -0.45,
    "crash": -0.3,
}
"""Where each piece stands, -1 left to 1 right."""


def make_kit(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Renders every piece of a kit as stereo float32 [W, 2]."""
    tune = 2.0 ** rng.uniform(-0.2, 0.2)
    pieces = {
        "kick": _kick(rng, tune),
        "snare": _snare(rng, tune),
        "rim": _noise(rng, 0.06, 60, 1800 * tune, 900) + _tone(0.06, 820 * tune, 70),
        "clap": _clap(rng),
        "hat": _noise(rng, 0.08, 60, 9500 * tune, 3000),
        "open": _noise(rng, 0.35, 10, 9000 * tune, 3200),
        "shaker": _shaker(rng),
        "ride": _noise(rng, 0.7, 6, 7500 * tune, 2500) + 0.3 * _tone(0.7, 3150 * tune, 7),
        "crash": _noise(rng, 1.6, 3, 6500 * tune, 4000),
    }
    return {name: _place(wave, PANNING[name], rng) for name, wave in pieces.items()}


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * units.SAMPLE_RATE)) / units.SAMPLE_RATE


def _kick(rng: np.random.Generator, tune: float) -> np.ndarray:
    time = _time(0.35)
    drop = rng.uniform(80, 150)
    hz = 46 * tune + drop * np.exp(-time * 32)
    body = np.sin(2 * np.pi * np.cumsum(hz) / units.SAMPLE_RATE) * np.exp(-time * 9)
    return body + 0.25 * np.exp(-time * 350)


def _snare(rng: np.random.Generator, tune: float) -> np.ndarray:
    rattle = _noise(rng, 0.25, rng.uniform(14, 24), 4200 * tune, 4500)
    time = _time(0.25)
    hz = 185 * tune + 45 * np.exp(-time * 40)
    body = np.sin(2 * np.pi * np.cumsum(hz) / units.SAMPLE_RATE) * np.exp(-time * 24)
    return 0.7 * rattle + 0.5 * body


def _clap(rng: np.random.Generator) -> np.ndarray:
    wave = _noise(rng, 0.22, 18, 1600, 1300)
    for delay in (0.011, 0.023):
        burst = _noise(rng, 0.02, 120, 1600, 1300)
        start = int(delay * units.SAMPLE_RATE)
        wave[start : start + len(burst)] += burst
    return wave


def _shaker(rng: np.random.Generator) -> np.ndarray:
    wave = _noise(rng, 0.09, 30, 7000, 2200)
    return wave * np.minimum(_time(0.09) / 0.02, 1.0)


def _tone(seconds: float, hz: float, decay: float) -> np.ndarray:
    time = _time(seconds)
    return np.sin(2 * np.pi * hz * time) * np.exp(-time * decay)


def _noise(
    rng: np.random.Generator, seconds: float, decay: float, centre: float, width: float
) -> np.ndarray:
    """Band of noise around `centre` Hz that decays; unit peak."""
    time = _time(seconds)
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    hz = np.fft.rfftfreq(len(time), 1 / units.SAMPLE_RATE)
    spectrum *= np.exp(-0.5 * ((hz - centre) / width) ** 2)
    wave = np.fft.irfft(spectrum, len(time)) * np.exp(-time * decay)
    return wave / np.abs(wave).max()


def _place(wave: np.ndarray, pan: float, rng: np.random.Generator) -> np.ndarray:
    """Pans a mono wave at constant power; the farther ear hears it up to 0.3 ms later."""
    angle = (pan + 1) * np.pi / 4
    delay = int(abs(pan) * rng.uniform(8, 16))
    late = np.concatenate([np.zeros(delay), wave])[: len(wave)]
    left, right = (late, wave) if pan > 0 else (wave, late)
    stereo = np.stack([left * np.cos(angle), right * np.sin(angle)], axis=1)
    return (np.sqrt(2) * stereo).astype(np.float32)
