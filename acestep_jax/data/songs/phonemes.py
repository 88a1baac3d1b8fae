"""From syllables to phonemes, by small spelling rules for each language.

The rules are approximate on purpose: they give a formant voice something true to the spelling to
sing. A rule is `spelling=phonemes`; the longest spelling that fits comes first. `^` in front means
at the start of the syllable, `$` behind means at its end.

Phonemes: vowels a e i o u E O 2 y @ & V; consonants p b t d k g f v s z S Z T h x m n N l r w j.
"""

import functools
import unicodedata

VOWELS = frozenset("aeiouEO2y@&V")

_SHARED = """
    a=a e=e i=i o=o u=u y=i á=a à=a â=a ã=a é=e è=E ê=E ë=E í=i ì=i î=i ó=o ò=o ô=o ú=u ù=u
    û=u ü=y ö=2 ä=E å=o ø=2 æ=& b=b c=k ch=tS d=d f=f g=g h=h j=Z k=k l=l m=m n=n ng=N p=p
    q=k r=r s=s t=t v=v w=w x=ks z=z ñ=nj ç=s ß=s œ=2
"""

_RULES = {
    "en": """
        a=& e=E i=i o=O u=V y=j y$=i ^wh=w sh=S ch=tS tch=tS th=T ph=f ck=k qu=kw ^kn=n
        ^wr=r igh=ai eigh=ei ough=o aw=O au=O ou=au ow=o oa=o oo=u ee=i ea=i ai=ei ay=ei
        oi=Oi oy=Oi ie$=ai ey=i ew=ju ar=ar er=@r ir=@r ur=@r or=Or all=Ol ce=s ci=si cy=sai
        ge$=dZ dge=dZ j=dZ ll=l ss=s tt=t ff=f nn=n pp=p rr=r bb=b dd=d gg=g zz=z es$=z
        ed$=d le$=@l e$= ame$=eim ake$=eik ate$=eit ide$=aid ine$=ain ice$=ais ife$=aif
        ite$=ait ome$=om one$=on ore$=Or ove$=ov ale$=eil ace$=eis ind$=aind ild$=aild o$=o
        y$=i ies$=iz the$=T@ ere$=Er are$=Er sure$=S@r gh$= mb$=m
    """,
    "de": """
        sch=S ch=x chs=ks ck=k ei=ai ai=ai eu=Oi äu=Oi au=au ie=i ih=i eh=e ah=a oh=o uh=u
        üh=y öh=2 äh=E z=ts tz=ts w=v v=f j=j ^s=z ^st=St ^sp=Sp ng=N pf=pf qu=kv er$=@r
        en$=@n e$=@ ll=l ss=s mm=m nn=n tt=t ff=f th=t ph=f dt$=t b$=p d$=t g$=k
    """,
    "fr": """
        eau=o au=o ou=u oi=wa ai=E ei=E eu=2 œu=2 on=ON om=ON an=aN am=aN en=aN em=aN in=EN
        un=EN ch=S j=Z ge=Z gi=Zi gn=nj qu=k ç=s é=e è=E ê=E u=y e=@ h= lle=l nn=n tt=t ss=s
        er$=e t$= s$= d$= x$= z$= p$= es$=@ ent$= rs$=r ez$=e ll=l ieu=j2 eux$=2 eu$=2 ot$=o
        ont$=ON
    """,
    "it": "gli=lji gn=nj ch=k ce=tSe ci=tSi ge=dZe gi=dZi sce=Se sci=Si z=ts h= cc=k ll=l",
    "es": "ll=j qu=k j=x h= z=s ce=se ci=si ge=xe gi=xi v=b ch=tS rr=r",
    "nl": "oe=u ij=Ei ei=Ei ui=2i uu=y aa=a ee=e oo=o ie=i eu=2 sch=sx g=x ch=x w=v e$=@ en$=@n",
    "sv": "å=o ä=E ö=2 u=y sj=S skj=S kj=S j=j w=v ck=k",
    "pl": "sz=S cz=tS rz=Z ch=x ł=w w=v ą=ON ę=EN ó=u y=i ń=nj ś=S ć=tS ź=Z ż=Z dz=dz c=ts ni=nji",
    "ja": "sh=S ch=tS ts=ts j=dZ y=j z=z",
}

_KANA_ROWS = (
    ("", "あいうえお"),
    ("k", "かきくけこ"),
    ("g", "がぎぐげご"),
    ("s", "さしすせそ"),
    ("z", "ざじずぜぞ"),
    ("t", "たちつてと"),
    ("d", "だぢづでど"),
    ("n", "なにぬねの"),
    ("h", "はひふへほ"),
    ("b", "ばびぶべぼ"),
    ("m", "まみむめも"),
    ("r", "らりるれろ"),
)
_KANA = {kana: row + "aiueo"[i] for row, kanas in _KANA_ROWS for i, kana in enumerate(kanas)}
_KANA |= {"や": "ya", "ゆ": "yu", "よ": "yo", "わ": "wa", "を": "o", "ん": "nn"}
_KANA |= {"し": "shi", "ち": "chi", "つ": "tsu"}

_WORDS = {
    "en": {
        "a": "@",
        "are": "ar",
        "come": "kVm",
        "do": "du",
        "for": "fOr",
        "have": "h&v",
        "i": "ai",
        "i'm": "aim",
        "me": "mi",
        "my": "mai",
        "by": "bai",
        "sky": "skai",
        "be": "bi",
        "he": "hi",
        "we": "wi",
        "she": "Si",
        "of": "Ov",
        "oh": "o",
        "once": "wVns",
        "one": "wVn",
        "the": "T@",
        "to": "tu",
        "true": "tru",
        "two": "tu",
        "was": "wOz",
        "you": "ju",
        "your": "jOr",
        "wool": "wul",
        "so": "so",
        "go": "go",
        "no": "no",
    },
}


@functools.cache
def _table(language: str) -> tuple[tuple[str, str], ...]:
    text = f"{_SHARED} {_RULES.get(language, '')}"  # a language's own rule replaces a shared one
    rules = {rule.split("=")[0]: rule.split("=")[1] for rule in text.split()}
    return tuple(sorted(rules.items(), key=lambda rule: -len(rule[0].strip("^$"))))


@functools.cache
def syllable_phonemes(syllable: str, language: str) -> tuple[str, str, str]:
    """Spells a syllable as (onset, nucleus, coda) phonemes; the nucleus is never empty.

    Characters without a rule (apostrophes, other scripts) are silent.
    """
    text = unicodedata.normalize("NFC", syllable.lower()).strip("'’,.!?")
    text = "".join(_KANA.get(char, char) for char in text)
    known = _WORDS.get(language, {}).get(text)
    phonemes = known if known is not None else _spell(text, language)
    first = next((i for i, p in enumerate(phonemes) if p in VOWELS), None)
    if first is None:
        return phonemes, "@", ""
    last = max(i for i, p in enumerate(phonemes) if p in VOWELS)
    return phonemes[:first], phonemes[first : last + 1], phonemes[last + 1 :]


def _spell(text: str, language: str) -> str:
    phonemes, at = "", 0
    while at < len(text):
        for spelling, sound in _table(language):
            plain = spelling.strip("^$")
            if not text.startswith(plain, at) or (spelling.startswith("^") and at > 0):
                continue
            # a rule for the end must leave a vowel, as in "be"
            at_end = at + len(plain) == len(text)
            if spelling.endswith("$") and not (at_end and (set(phonemes + sound) & VOWELS)):
                continue
            phonemes, at = phonemes + sound, at + len(plain)
            break
        else:
            at += 1
    return phonemes
