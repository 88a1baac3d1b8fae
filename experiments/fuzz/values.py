"""What a request may be asked for: fields that can be done, and fields that cannot.

A request starts as one that can be done; a few of its fields are then replaced. What can be done is
drawn from few lengths and few kinds, so that a few dozen compiled programs serve any number of
requests.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from acestep_jax.tasks import edits, prompt
from acestep_jax.tasks import request as request_lib

Rng = np.random.Generator
Fields = dict[str, Any]

PLANES = 17
"""Of Unicode."""
_WORDS = ("waltz", "slow", "[verse]", "la", "rain", "d'été", "夜", "🎷", "\u202e", "|", "\t", "\n")
_SECONDS = (10.0, 10.1, 10.2)  # 250 to 255 latent frames: one bucket


def choose(rng: Rng, values: Any) -> Any:
    """Chooses one of a sequence, as the Python value that it is."""
    return values[int(rng.integers(len(values)))]


def planes(rng: Rng, length: int) -> str:
    """Draws characters of every Unicode plane, halves of surrogate pairs left out."""
    points = [
        0x10000 * int(rng.integers(PLANES)) + int(rng.integers(0x10000)) for _ in range(length)
    ]
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def sensible(rng: Rng) -> Fields:
    """Draws a request that can be done; sound is left to `sounds`, named by its place."""
    task = choose(rng, edits.TASKS)
    fields: Fields = {
        "caption": " ".join(choose(rng, _WORDS) for _ in range(int(rng.integers(4)))),
        "task": task,
        "seed": int(rng.integers(2**32)),
    }
    if rng.random() < 0.3:
        fields["instrumental"] = True
    else:
        fields["lyrics"] = " ".join(choose(rng, _WORDS) for _ in range(int(rng.integers(4))))
        fields["language"] = choose(rng, prompt.LANGUAGES)
    if rng.random() < 0.5:
        fields["bpm"] = int(rng.integers(request_lib.MIN_BPM, request_lib.MAX_BPM + 1))
        fields["keyscale"] = choose(rng, request_lib.KEYS)
        fields["timesignature"] = choose(rng, request_lib.TIME_SIGNATURES)
    if task == "text2music":
        fields["duration"] = choose(rng, _SECONDS)
    return fields | _of_task(rng, task)


def _of_task(rng: Rng, task: str) -> Fields:
    start = float(rng.integers(-2, 5))
    if task == "repaint":
        keeping = choose(rng, tuple(request_lib.KEEPING))
        return {"span": (max(start, 0.0), start + 3.0), "keeping": keeping}
    if task == "cover":
        return {"cover_strength": choose(rng, (1.0, 1.0, 0.5)), "cover_codes": rng.random() < 0.5}
    if task in ("extract", "lego"):
        return {"tracks": (choose(rng, prompt.TRACK_NAMES),)}
    if task == "complete":
        return {"tracks": tuple(prompt.TRACK_NAMES[: int(rng.integers(1, 12))])}
    return {}


_NUMBERS: tuple[Any, ...] = (
    *(
        0,
        -1,
        1e308,
        -0.0,
        10**400,
        10**5000,
        2**63,
        float("nan"),
        float("inf"),
        -float("inf"),
        1e-300,
    ),
    *(True, None, "10", "", b"10", (), (1,), [], {}, 3 + 4j, np.float32(3.5), np.int8(-7)),
    *(np.array(5.0), np.array([1, 2]), object(), len, dt.date(2026, 1, 1)),
)
_SPANS: tuple[Any, ...] = (
    *((5.0, 2.0), (5.0, 5.0), (100.0, 200.0), (-9.0, -5.0), (-600.0, 1300.0), (0.0, 1e9)),
    *((1.0,), (1.0, 2.0, 3.0), (None, None), (None, 3.0), (float("nan"), 1.0), ("a", "b")),
    *((0.0, float("inf")), (True, False), (10**400, None), (9.999999, 10.0), (0.0, 1e-9)),
)
_TRACKS: tuple[Any, ...] = (
    *((), ("drums", "drums"), ("DRUMS",), ("kazoo",), (1,), (None,), (("drums",),), ([],)),
    *(prompt.TRACK_NAMES, prompt.TRACK_NAMES * 2, ("",), ("dr\nums",)),
)
_CODES: tuple[Any, ...] = (
    *((), (-1,), (10**9,), (1.5,), (True,), ("1",), (None,), (0,) * 3001, (63_999,) * 51),
    *(((1, 2),), (np.int32(3),) * 51, (999,) * 51, (1000,), (float("nan"),), (2**70,)),
)
Draw = Callable[[Rng], Any]


def _text(rng: Rng) -> Any:
    kinds: tuple[Draw, ...] = (
        lambda r: planes(r, int(r.integers(1, 6))),
        lambda r: planes(r, 5000),
        lambda r: "la " * int(r.integers(3000, 60_000)),  # more than a model reads
        lambda r: "[verse]\nla la la la\n" * 100,  # as much as ten minutes are sung to
        lambda r: "\ud800" + chr(0x61),  # half a surrogate pair
        lambda r: "<|endoftext|>" * int(r.integers(1, 4)),
        lambda r: "\x00\x01\x7f",
        lambda r: choose(r, _NUMBERS),
    )
    return choose(rng, kinds)(rng)


def _word(known: tuple[str, ...]) -> Draw:
    def draw(rng: Rng) -> Any:
        own = choose(rng, known)
        others = (own, own.upper(), own + " ", own[:-1], *(_text(rng),) * 3)
        return choose(rng, others)

    return draw


def _one_of(values: tuple[Any, ...], others: tuple[Any, ...] = _NUMBERS) -> Draw:
    return lambda rng: choose(rng, values if rng.random() < 0.8 else others)


HOSTILE: Mapping[str, Draw] = {
    "caption": _text,
    "lyrics": _text,
    "instruction": _text,
    "instrumental": _one_of((True, False)),
    "task": _word(edits.TASKS),
    "language": _word(prompt.LANGUAGES),
    "bpm": _one_of((29, 301, 120.0, 120.5, 30, 300), _NUMBERS),
    "keyscale": _word(request_lib.KEYS),
    "timesignature": _one_of(("5", "4/4", "", 4, "2")),
    "duration": _one_of((0.0, 9.99, 600.1, 1e6, -5.0, 10, "10")),
    "tracks": _one_of(_TRACKS),
    "codes": _one_of(_CODES),
    "span": _one_of(_SPANS),
    "cover_strength": _one_of((-0.1, 1.1, 0.0, 1, 0.5)),
    "cover_noise": _one_of((-0.1, 1.1, 0.0, 1.0, 0.5)),
    "cover_codes": _one_of((True, False)),
    "tell_span": _one_of((True, False)),
    "keeping": _word(tuple(request_lib.KEEPING)),
    "seed": _one_of((-1, 2**32, 2**32 - 1, 1.5, 0)),
}
"""What may stand in each field that is not sound."""


def spoil(rng: Rng, fields: Fields) -> Fields:
    """Replaces a few fields, mostly one, at times none."""
    count = int(choose(rng, (0, 1, 1, 1, 2, 4)))
    names = rng.choice(list(HOSTILE), size=count, replace=False).tolist()
    return fields | {name: HOSTILE[name](rng) for name in names}


BOMB = "&a [x, x, x, x, x, x, x, x]"
for _name, _last in zip("bcdefghij", "abcdefghi", strict=True):
    BOMB += f", &{_name} [{', '.join([f'*{_last}'] * 8)}]"
"""A list of YAML with a billion entries, in half a kilobyte."""
FILES: tuple[bytes, ...] = (
    *(b"", b"[]", b"{}", b"null", b"3", b"- ", b"[[]]", b"caption: a", b"\x00", b"\xff\xfe[]"),
    *(b"[" * 100_000, b"[{" * 5000, b'[{"caption": "a", "caption": "b"}]', b"[{bpm: 0x5a}]"),
    b"[!!python/object/apply:os.system ['true']]",
    b"[{caption: !!binary aGVsbG8=}]",
    b"[{bpm: 2026-01-01, seed: 1_0, duration: 1:30}]",
    b"[&a {caption: *a}]",
    b"[{? [a, b] : c}]",
    *(f"[{{{name}: [{BOMB}]}}]".encode() for name in ("caption", "codes", "tracks", "span")),
    *(f"[{{{name}: [{BOMB}]}}]".encode() for name in ("out", "source", "references", "bpm")),
    f"[{BOMB}]".encode(),
    b'[{"bpm": ' + b"9" * 5000 + b"}]",
    b'[{"seed": 1e999, "duration": NaN}]',
    "[{caption: a}]".encode("utf-16"),
    b"\xef\xbb\xbf[{duration: 5}]",
)
"""Files of requests that are none, or none that can be done."""
LORA: tuple[str, ...] = ("nowhere", "nowhere:0.5", "text.safetensors", "a:nan", "folder:inf", "")
"""Adapters that cannot be read."""
OPTIONS: tuple[tuple[str, ...], ...] = (
    *(("--steps=0",), ("--steps=1.5",), ("--shift=nan",), ("--times", "0.5", "0.7"), ("--times",)),
    *(("--guidance=nan",), ("--guidance=3",), ("--rule=apg",), ("--interval", "1", "0")),
    *(("--best_of=0",), ("--best_of=-1",), ("--best_of=2", "--score=loud"), ("--nothing",)),
    *(("--again=nowhere.flac",), ("--think=nowhere",), ("--weights=int4",), ("--retake=2",)),
    ("--bpm=1", "--seed=3"),
)
"""Options that cannot be followed, or not beside a file of requests."""
OUTS: tuple[Any, ...] = (
    *("a/b.wav", "../a.flac", "/no/such/place/a.flac", "a", "", ".", "a\x00.flac", 3, None, [1]),
    "long" * 100 + ".flac",
)
"""Names of files that a request may give its song."""

SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "steps": (0, -1, 1001, 1.5, "8", None, float("nan"), True, 10**30),
    "shift": (0.0, -1.0, 101.0, float("nan"), float("inf"), "3", None),
    "solver": ("euler ", "dpm", "", None, 3, ["euler"]),
    "rule": ("", "CFG", None, 0, "apg"),
    "guidance": (0.0, -1.0, float("nan"), float("inf"), "2", None, 1e9),
    "times": ((0.5, 0.7), (1.5,), (float("nan"),), (0.0,), "abc", (1.0, "a"), 3, (None,)),
    "interval": ((0.5,), (2.0, 1.0), "ab", (float("nan"), 1.0), 3),
    "retake": (-0.1, 1.1, float("nan"), "1", None),
    "retake_seed": (-1, 2**40, 1.5, "1", None),
    "velocity_limit": (-1.0, float("nan"), "1", 0.0),
    "velocity_memory": (-0.5, 1.5, float("nan"), "1"),
    "wavelet": ("haar", None, 3),
}
"""What may stand in each setting and cannot be done, mostly."""
