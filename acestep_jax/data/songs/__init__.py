"""Our own songs: traditional and newly composed tunes, arranged, sung and rendered by numpy alone.

    tunes.py      traditional melodies and words, in a compact notation
    notation.py   reads the notation
    compose.py    new melodies over words of our own
    harmony.py    scales, chords, and a harmony for any melody
    styles.py     what an arrangement style consists of
    score.py      what an arrangement is
    arrange.py    tune x style x key x tempo -> a score whose every time is known
    band.py       drums, bass, chords and pad
    captions.py   descriptions of a score, in varied words
    instruments.py, drums.py, voice.py   sound
    render.py     score -> stems -> mix, with labels

Everything follows from a seed: the same seed gives the same bytes.
"""
