"""Sounds and pictures as data URIs, so that a report is one file.

Spectrograms are drawn on a logarithmic frequency axis, 40 Hz to 20 kHz, over 80 dB.
"""

import base64
import io
import itertools
import struct
import wave
import zlib

import numpy as np

LOWEST_HERTZ, HIGHEST_HERTZ = 40.0, 20_000.0
RANGE_DB = 80.0

# Dark to light with even steps of lightness, after matplotlib's "magma" (CC0)
_COLOURS = (
    (0, 0, 4),
    (28, 16, 68),
    (79, 18, 123),
    (129, 37, 129),
    (181, 54, 122),
    (229, 80, 100),
    (251, 135, 97),
    (254, 194, 135),
    (252, 253, 191),
)


def data_uri(mime: str, data: bytes) -> str:
    """Writes bytes as a URI that needs no other file."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def loudest_within_full_scale(audio: np.ndarray) -> tuple[np.ndarray, float]:
    """Turns down audio that a file would clip.

    Returns:
      The audio divided by its peak if that exceeds 1, and the decibels taken away (0 or more).
    """
    peak = float(np.max(np.abs(audio), initial=0.0))
    if peak <= 1.0:
        return audio, 0.0
    return audio / peak, 20 * float(np.log10(peak))


def audio_uri(audio: np.ndarray, sample_rate: int) -> str:
    """Encodes audio [W, channels] in [-1, 1]: MP3 at 160 kb/s with soundfile, 16-bit WAV without.

    Raises:
      ValueError: for another rank, or values that are not finite.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 2:
        raise ValueError(f"audio has shape {audio.shape}; expected [samples, channels].")
    if not np.isfinite(audio).all():
        raise ValueError("audio holds values that are not finite; they cannot be heard.")
    buffer = io.BytesIO()
    try:
        import soundfile
    except ImportError:
        return data_uri("audio/wav", wav(audio, sample_rate))
    soundfile.write(
        buffer,
        audio,
        sample_rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=0.5,  # 160 kb/s in libsndfile 1.2.2
    )
    return data_uri("audio/mpeg", buffer.getvalue())


def wav(audio: np.ndarray, sample_rate: int) -> bytes:
    """Encodes audio [W, channels] in [-1, 1] as 16-bit WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(audio.shape[1])
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(np.round(audio * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def spectrogram(
    audio: np.ndarray, sample_rate: int, width: int = 320, height: int = 112
) -> np.ndarray:
    """Measures levels over time and log-frequency: decibels [height, width], high notes on top.

    Full scale is a sine of amplitude 1, at 0 dB. Each column is a Hann window of 4,096 samples, or
    less if the audio is shorter.
    """
    mono = np.asarray(audio, np.float64).mean(axis=-1)
    window = min(4096, len(mono))
    starts = np.linspace(0, len(mono) - window, width).astype(int)
    shape = np.hanning(window + 1)[:-1]
    frames = mono[starts[:, None] + np.arange(window)] * shape
    amplitude = np.abs(np.fft.rfft(frames, axis=-1)).T * 2 / shape.sum()
    top = min(HIGHEST_HERTZ, sample_rate / 2)
    edges = np.geomspace(LOWEST_HERTZ, top, height + 1)[::-1] * window / sample_rate
    rows = [_loudest(amplitude, low, high) for high, low in itertools.pairwise(edges)]
    return 20 * np.log10(np.maximum(np.stack(rows), 1e-10))


def _loudest(amplitude: np.ndarray, low: float, high: float) -> np.ndarray:
    """Takes the loudest bin of a band, or the nearest one if the band lies between two."""
    first, last = int(np.ceil(low)), int(np.floor(high))
    if last < first:
        first = last = round((low + high) / 2)
    return amplitude[first : last + 1].max(axis=0)


def spectrogram_uri(audio: np.ndarray, sample_rate: int) -> str:
    """Draws `spectrogram` as a PNG, from 80 dB below full scale to full scale."""
    levels = spectrogram(audio, sample_rate)
    indices = np.round(255 * np.clip(1 + levels / RANGE_DB, 0, 1)).astype(np.uint8)
    return data_uri("image/png", png(indices, palette()))


def palette() -> np.ndarray:
    """Gives 256 colours, dark to light: uint8 [256, 3]."""
    anchors = np.array(_COLOURS, float)
    at = np.linspace(0, len(anchors) - 1, 256)
    return np.stack(
        [np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], axis=-1
    ).astype(np.uint8)


def png(indices: np.ndarray, colours: np.ndarray) -> bytes:
    """Writes an image of palette indices, uint8 [height, width], as PNG."""
    height, width = indices.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = np.hstack([np.zeros((height, 1), np.uint8), indices])  # filter 0 before every row
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", colours.astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )
