"""Reports stand alone, say what they were told, and their pictures show what was played."""

import base64
import html.parser
import io
import re
import struct
import sys
import zlib

import numpy as np
import pytest

from acestep_jax.training import media, report

RATE = 48_000


def sine(hertz, seconds=0.5, amplitude=0.5):
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)
    return np.stack([wave, wave], axis=-1).astype(np.float32)


def decode(uri):
    head, _, data = uri.partition(",")
    return head, base64.b64decode(data)


def test_sounds_survive_the_report():
    import soundfile

    audio = sine(440)
    head, data = decode(media.audio_uri(audio, RATE))
    assert head == "data:audio/mpeg;base64"
    heard, rate = soundfile.read(io.BytesIO(data))
    assert (rate, heard.shape) == (RATE, audio.shape)
    gain = np.sum(heard * audio) / np.sum(audio**2)
    np.testing.assert_allclose(gain, 0.95, atol=2e-3)  # LAME turns constant bit rates down by 5 %
    error = np.mean((heard - gain * audio) ** 2) / np.mean(audio**2)
    assert error < 1e-6  # measured 2e-8


def test_sounds_are_wav_without_soundfile(monkeypatch):
    import wave

    monkeypatch.setitem(sys.modules, "soundfile", None)
    audio = sine(440)
    head, data = decode(media.audio_uri(audio, RATE))
    assert head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, RATE)
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32767
    np.testing.assert_allclose(heard, audio, atol=1 / 32767)  # 16 bits


def test_sounds_that_cannot_be_heard_are_refused():
    with pytest.raises(ValueError, match=r"shape \(10,\); expected \[samples, channels\]"):
        media.audio_uri(np.zeros(10), RATE)
    with pytest.raises(ValueError, match="not finite"):
        media.audio_uri(np.full((10, 2), np.nan), RATE)


@pytest.mark.parametrize("hertz", [60.0, 440.0, 5000.0])
def test_a_sine_is_a_bright_row_at_its_pitch(hertz):
    levels = media.spectrogram(sine(hertz), RATE, width=20, height=112)
    row = int(np.argmax(levels.mean(axis=1)))
    span = np.log(media.HIGHEST_HERTZ / media.LOWEST_HERTZ)
    expected = 112 * (1 - np.log(hertz / media.LOWEST_HERTZ) / span)
    # A row is 5.7 % of pitch; below 200 Hz a bin of 11.7 Hz is wider than that
    assert abs(row - expected) <= (4 if hertz < 200 else 1.5)
    np.testing.assert_allclose(levels.max(), 20 * np.log10(0.5), atol=1.5)  # Hann scalloping


def test_silence_and_very_short_sounds_have_spectrograms():
    assert media.spectrogram(np.zeros((RATE, 2)), RATE).max() == -200
    assert np.isfinite(media.spectrogram(sine(440, 0.01), RATE)).all()


def read_png(data):
    """Decodes a palette PNG without filters by the chunk layout of the specification."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (checksum,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert checksum == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 3)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[rows[:, 1:]]


def test_pictures_are_png_files():
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    colours = media.palette()
    np.testing.assert_array_equal(read_png(media.png(indices, colours)), colours[indices])
    assert (np.diff(colours.astype(int).sum(axis=1)) >= 0).all()  # louder is lighter


def test_ticks_are_round_and_cover_the_range():
    assert report.ticks(0, 600) == [0, 200, 400, 600]
    assert report.ticks(0.11, 0.52) == [0.2, 0.4]
    assert report.ticks(-3, 9) == [0, 5]
    assert report.ticks(2, 2) == [2]
    assert report.log_ticks(0.02, 30) == [0.01, 0.1, 1, 10, 100]


class Page(html.parser.HTMLParser):
    """Collects tags with attributes, and text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    audio = {(0, 0): sine(220), (0, 1): sine(440, amplitude=2.0), (1, 0): sine(330)}
    report.write(
        tmp_path / "report.html",
        "A <short> report",
        report.section(
            "Listen", report.players(["slow & low", "high"], ["Teacher", "Student"], audio)
        ),
        report.section(
            "Numbers",
            report.table(
                ["System", "Steps", "Distance"],
                [["Teacher", 50, 0.0], ["Student", 8, 0.123456], ["Other", 8, 0.2]],
                best={"Steps": "low"},
                caption="Lower is better.",
            ),
            report.charts({"loss/fit": [(1, 2.0), (2, 1.0)], "one": [(1, 1.0)], "none": []}),
            report.chart({"a": [(0, 1.0), (9, 1e-3)], "b": [(0, 0.5)]}, title="Two", log=True),
        ),
        lead="All of it measured.",
    )
    return (tmp_path / "report.html").read_text()


def test_a_report_is_one_well_formed_file_that_fetches_nothing(page):
    parsed = Page(page)
    assert parsed.open == []
    sources = [a[key] for _, a in parsed.tags for key in ("src", "href") if key in a]
    assert len(sources) == 6
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)
    tags = [tag for tag, _ in parsed.tags]
    assert (tags.count("audio"), tags.count("svg")) == (3, 3)


def test_a_report_says_what_it_was_told(page):
    words = " ".join(Page(page).words)
    for expected in ("A <short> report", "slow & low", "0.1235", "Lower is better.", "−6.0 dB"):
        assert expected in words
    assert page.count("<td class=best>8</td>") == 2


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="cannot be told apart"):
        report.chart({str(i): [(0, 1.0)] for i in range(7)})
    with pytest.raises(ValueError, match="logarithmic axis cannot show 0"):
        report.chart({"a": [(0, 0.0), (1, 2.0)]}, log=True)
