"""Arrangement styles: tempo range, metres, drum grooves and who plays what.

A groove is a string a bar and voice of the kit, sixteen steps for 4 quarters, twelve for 3 quarters
or for 6 eighths: `x` a stroke, `o` a soft one, `.` none.
"""

import dataclasses
from collections.abc import Mapping

GROOVES: Mapping[str, Mapping[int, Mapping[str, str]]] = {
    "rock": {
        4: {"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."},
        3: {"kick": "x.......x...", "snare": "....x.......", "hat": "x.x.x.x.x.x."},
        6: {"kick": "x.........o.", "snare": "......x.....", "hat": "x.x.x.x.x.x."},
    },
    "soft": {
        4: {"kick": "x.......x.......", "rim": "....x.......x...", "hat": "o...o...o...o..."},
        3: {"kick": "x...........", "rim": "....o...o...", "hat": "o...o...o..."},
        6: {"kick": "x...........", "rim": "......o.....", "hat": "o.o.o.o.o.o."},
    },
    "four": {
        4: {"kick": "x...x...x...x...", "clap": "....x.......x...", "open": "..x...x...x...x."},
    },
    "synthwave": {
        4: {"kick": "x.....x.x.......", "snare": "....x.......x...", "hat": "xoxoxoxoxoxoxoxo"},
    },
    "reggae": {
        4: {"kick": "........x.......", "rim": "........x.......", "hat": "x.xox.xox.xox.xo"},
    },
    "bossa": {
        4: {"kick": "x..xx..xx..xx..x", "rim": "x..x..x...x..x..", "shaker": "xoxoxoxoxoxoxoxo"},
    },
    "funk": {
        4: {"kick": "x..x..x...x.....", "snare": "....x..o.o..x..o", "hat": "x.xxx.x.x.xxx.x."},
    },
    "march": {
        4: {"kick": "x.......x.......", "snare": "x.o.x.oox.o.x.oo", "crash": "x..............."},
        3: {"kick": "x...........", "snare": "o...x.oox.oo", "crash": "x..........."},
        6: {"kick": "x.....x.....", "snare": "x.oox.x.oox.", "crash": "x..........."},
    },
    "swing": {
        # on a triplet grid of twelve: ride "ding, ding-a"
        12: {"kick": "x.....o.....", "hat": "...x.....x..", "ride": "x..x.xx..x.x"},
    },
    "hiphop": {
        4: {"kick": "x......x..x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.xxx."},
    },
    "country": {
        4: {"kick": "x.......x.......", "snare": "..o.x.o...o.x.o.", "shaker": "x.x.x.x.x.x.x.x."},
        3: {"kick": "x...........", "snare": "....o...o...", "shaker": "x...x...x..."},
        6: {"kick": "x.....x.....", "snare": "...o.....o..", "shaker": "x.x.x.x.x.x."},
    },
    "none": {3: {}, 4: {}, 6: {}},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """One arrangement style.

    Attributes:
      name: as captions call it.
      bpm: range the tempo is drawn from; dotted quarters in 6/8.
      metres: units a bar that the style can play.
      groove: a key of `GROOVES`.
      lead, chords, pad: instruments (keys of `instruments.INSTRUMENTS`), "" for none.
      bass: the bass instrument, "" for none.
      pattern: how the chord player moves: "block", "strum", "arpeggio", "offbeat" or "pulse".
      bass_line: "root", "fifths", "walking", "octaves", "pedal" or "syncopated".
      moods: words for captions.
    """

    name: str
    bpm: tuple[int, int]
    metres: tuple[int, ...] = (4,)
    groove: str = "none"
    lead: str = ""
    chords: str = ""
    pad: str = ""
    bass: str = ""
    pattern: str = "block"
    bass_line: str = "root"
    moods: tuple[str, ...]


STYLES: tuple[Style, ...] = (
    Style(
        name="pop rock",
        bpm=(100, 140),
        metres=(3, 4, 6),
        groove="rock",
        lead="electric guitar",
        chords="electric guitar",
        pad="organ",
        bass="electric bass",
        pattern="strum",
        bass_line="syncopated",
        moods=("energetic", "bright", "driving"),
    ),
    Style(
        name="piano ballad",
        bpm=(60, 84),
        metres=(3, 4, 6),
        groove="soft",
        lead="violin",
        chords="piano",
        pad="string ensemble",
        bass="electric bass",
        pattern="arpeggio",
        moods=("tender", "emotional", "slow"),
    ),
    Style(
        name="electronic dance",
        bpm=(118, 138),
        groove="four",
        lead="saw lead",
        chords="synth stab",
        pad="synth pad",
        bass="synth bass",
        pattern="offbeat",
        bass_line="octaves",
        moods=("euphoric", "driving", "bright"),
    ),
    Style(
        name="synthwave",
        bpm=(84, 116),
        groove="synthwave",
        lead="square lead",
        chords="synth pluck",
        pad="synth pad",
        bass="synth bass",
        pattern="arpeggio",
        bass_line="octaves",
        moods=("nostalgic", "dreamy", "nocturnal"),
    ),
    Style(
        name="acoustic folk",
        bpm=(84, 124),
        metres=(3, 4, 6),
        groove="country",
        lead="flute",
        chords="acoustic guitar",
        bass="upright bass",
        pattern="strum",
        bass_line="fifths",
        moods=("warm", "gentle", "pastoral"),
    ),
    Style(
        name="lullaby",
        bpm=(60, 84),
        metres=(3, 4, 6),
        lead="music box",
        chords="harp",
        pad="string ensemble",
        pattern="arpeggio",
        moods=("soft", "calm", "sleepy"),
    ),
    Style(
        name="reggae",
        bpm=(68, 90),
        groove="reggae",
        lead="brass section",
        chords="organ",
        bass="electric bass",
        pattern="offbeat",
        bass_line="syncopated",
        moods=("relaxed", "sunny", "laid-back"),
    ),
    Style(
        name="bossa nova",
        bpm=(104, 136),
        groove="bossa",
        lead="flute",
        chords="acoustic guitar",
        bass="upright bass",
        pattern="offbeat",
        bass_line="fifths",
        moods=("smooth", "relaxed", "warm"),
    ),
    Style(
        name="funk",
        bpm=(94, 116),
        groove="funk",
        lead="brass section",
        chords="electric piano",
        bass="synth bass",
        pattern="offbeat",
        bass_line="syncopated",
        moods=("groovy", "playful", "tight"),
    ),
    Style(
        name="brass band march",
        bpm=(96, 124),
        metres=(3, 4, 6),
        groove="march",
        lead="trumpet",
        chords="brass section",
        bass="tuba",
        pattern="offbeat",
        bass_line="fifths",
        moods=("proud", "festive", "bold"),
    ),
    Style(
        name="orchestral",
        bpm=(66, 108),
        metres=(3, 4, 6),
        lead="violin",
        chords="string ensemble",
        pad="horns",
        bass="cellos",
        pattern="block",
        bass_line="pedal",
        moods=("majestic", "cinematic", "solemn"),
    ),
    Style(
        name="chiptune",
        bpm=(120, 160),
        metres=(3, 4, 6),
        groove="rock",
        lead="square lead",
        chords="square lead",
        bass="triangle bass",
        pattern="arpeggio",
        bass_line="octaves",
        moods=("playful", "retro", "lively"),
    ),
    Style(
        name="country",
        bpm=(96, 132),
        metres=(3, 4, 6),
        groove="country",
        lead="banjo",
        chords="acoustic guitar",
        bass="upright bass",
        pattern="strum",
        bass_line="fifths",
        moods=("cheerful", "rustic", "easy-going"),
    ),
    Style(
        name="ambient",
        bpm=(60, 80),
        metres=(3, 4, 6),
        lead="glass bells",
        chords="synth pad",
        pad="string ensemble",
        bass="sub bass",
        pattern="block",
        bass_line="pedal",
        moods=("spacious", "meditative", "floating"),
    ),
    Style(
        name="swing jazz",
        bpm=(112, 160),
        groove="swing",
        lead="clarinet",
        chords="piano",
        bass="upright bass",
        pattern="offbeat",
        bass_line="walking",
        moods=("swinging", "playful", "smoky"),
    ),
    Style(
        name="hip hop",
        bpm=(78, 98),
        groove="hiphop",
        lead="glass bells",
        chords="electric piano",
        pad="synth pad",
        bass="sub bass",
        pattern="block",
        bass_line="syncopated",
        moods=("laid-back", "dark", "confident"),
    ),
)
