"""A plain-Python state machine of the planner's grammar: one item, one token at a time.

Written from the description of the grammar, without tables: values are compared with lists of
values, text with bytes. The only thing it shares with the compiled one is the noise it draws by,
one number for each allowed token in rising order (trees), or for each token (text).
"""

import functools

import numpy as np

VALUES = ("bpm", "duration", "keyscale", "language", "timesignature")
ORDER = ("bpm", "caption", "duration", "genres", "keyscale", "language", "timesignature")


def spelled(vocabulary, name, value):
    """Tokens of a value behind its field's name, the line break included."""
    head = vocabulary.encode(f"{name}:")
    return vocabulary.encode(f"{name}: {value}")[len(head) :] + [vocabulary.newline]


@functools.cache
def legal(book):
    """What may be written: {field: token sequences}, and the tokens of a caption's first line."""
    vocabulary = book.vocabulary
    values = {
        name: [spelled(vocabulary, name, value) for value in book.rules.values()[name]]
        for name in VALUES
    }
    plain = [
        i
        for i, s in enumerate(vocabulary.spellings)
        if s and b"`" not in s and b"\n" not in s.rstrip(b"\n")
    ]
    return values, plain


class Machine:
    """Follows one item through a blueprint.

    Attributes:
      state: what is being written, for instance "bpm value".
      done: whether the item has ended.
    """

    def __init__(self, book, *, given=(), skip=("genres",), ending="stop"):
        self.vocabulary, self.rules = book.vocabulary, book.rules
        self.given, self.ending = dict(given), ending
        self.fields = [name for name in ORDER if name not in skip]
        self.values, self.plain = legal(book)
        self.done = False
        self.enter_fixed("think", self.vocabulary.encode("<think>\n"), self.next_field)

    # where it goes

    def enter_fixed(self, state, tokens, then):
        self.state, self.queue, self.then = state, list(tokens), then

    def next_field(self):
        if self.fields:
            name = self.fields.pop(0)
            self.enter_fixed(
                f"{name} name",
                self.vocabulary.encode(f"{name}:"),
                lambda: self.enter_value(name),
            )
        elif self.ending == "stop":
            self.enter_fixed("end", [self.vocabulary.stop], self.end)
        else:
            self.enter_fixed("end", self.vocabulary.encode("</think>"), self.enter_free)

    def enter_value(self, name):
        self.state, self.queue, self.written = f"{name} value", [], []
        if name in self.given:
            tokens = spelled(self.vocabulary, name, str(self.given[name]))
            self.enter_fixed(f"{name} value", tokens, self.next_field)

    def enter_free(self):
        self.state, self.queue = "free", []

    def end(self):
        self.done = True

    # one token

    def allowed(self, logits):
        """The tokens that may follow, or None where one is fixed. May move the machine on."""
        if not self.queue and self.state == "caption value":
            fresh = bool(self.written) and b"\n" in self.spelling(self.written[-1])
            full = len(self.written) >= self.rules.caption_tokens
            best = self.spelling(int(np.argmax(logits)))
            if fresh and (full or best[:1] not in (b" ", b"\t")):
                self.next_field()
            else:
                return self.caption_tokens(fresh, full)
        if self.queue:
            return None
        if self.state == "genres value":
            if len(self.written) >= self.rules.genre_tokens:
                return [self.vocabulary.newline]
            return self.caption_tokens(False, False)
        if self.state == "free":
            stops = {self.vocabulary.stop, self.vocabulary.pad}
            return [i for i in range(len(logits)) if i in stops or self.spelling(i)]
        name = self.state.removesuffix(" value")
        n = len(self.written)
        return sorted({v[n] for v in self.values[name] if v[:n] == self.written and len(v) > n})

    def caption_tokens(self, fresh, full):
        if full:
            return [self.vocabulary.newline]
        if fresh:
            return [i for i in self.plain if self.spelling(i)[:1] in (b" ", b"\t")]
        return self.plain

    def spelling(self, token):
        return self.vocabulary.spellings[token]

    def step(self, logits, few_noise, noise, temperature, top_k, top_p):
        """Chooses a token: (token, log-probability, number of tokens it was chosen from)."""
        ids = self.allowed(logits)
        if ids is None:
            token = self.queue.pop(0)
            if not self.queue:
                self.then()
            return token, 0.0, 1
        text = self.state in ("caption value", "genres value", "free")
        scores = np.asarray(logits, np.float64)[ids]
        if self.state == "language value" and not self.written:
            token, log_prob, ids = ids[int(np.argmax(scores))], 0.0, [0]
        else:
            own = noise[ids] if text else few_noise[: len(ids)]
            column, log_prob = choose(scores, own, temperature, top_k, top_p)
            token = ids[column]
        self.accept(token)
        return token, log_prob, len(ids)

    def accept(self, token):
        if self.state == "free":
            self.done = token in (self.vocabulary.stop, self.vocabulary.pad)
            return
        self.written.append(token)
        if self.state == "caption value":
            return
        if self.state == "genres value":
            if b"\n" in self.spelling(token):
                self.next_field()
        elif token == self.vocabulary.newline:
            self.next_field()


def choose(scores, noise, temperature, top_k, top_p):
    """Temperature, top-k, top-p, and the best of log p + noise."""
    scaled = scores / (temperature if temperature > 0 else 1.0)
    keep = np.ones(len(scaled), bool)
    if top_k:
        keep &= scaled >= np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1]
    if top_p < 1:
        rising = np.sort(scaled[keep])
        mass = np.cumsum(np.exp(rising - rising[-1]) / np.exp(rising - rising[-1]).sum())
        keep &= scaled >= rising[min(int((mass <= 1 - top_p).sum()), len(rising) - 1)]
    kept = np.where(keep, scaled, -np.inf)
    log_probs = kept - kept.max() - np.log(np.exp(kept - kept.max()).sum())
    drawn = log_probs + noise if temperature > 0 else log_probs
    column = int(np.argmax(drawn))
    return column, log_probs[column]
