"""How many tokens a second does the planner write, and beside transformers?

    python -m experiments.planner.speed [--preset planner_nano] [--batch 1 8] [--pinned]
                                       [--against transformers]

Random weights at the preset's sizes. Timed are the loops that planning goes through, compiled and
warm: a fixed number of audio codes (`codes`); a whole plan under the nano tokenizer's grammar
(`plan`), and as many tokens with nothing ruled out (`free`). The grammar's overhead is the time of
a plan over that of as many free tokens, less one. With `--against`, transformers' `generate` with a
static cache continues the same prompt by as many tokens as there are codes, on the same weights and
device, in turn in the same run.

The last line is one JSON object. `limit` is the time that the device would need to read all weights
and the cache once a token, over the time that codes took; the bandwidth is measured in the same
run. With `--pinned` one core is used and its processor time is told, which nobody else's work
enters.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acestep_jax import weights
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn.config import PLANNERS
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import decode
from acestep_jax.tasks import tokens as tokens_lib
from acestep_jax.tasks.planning import grammar
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.typing import Params
from experiments.benchmarks import timing

PROMPT, TOKENS = 64, 256


def random_params(module: Qwen3, dtype: str) -> Params:
    """Draws parameters of deviation 0.02."""
    one = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(functools.partial(module.init, method="score"), jax.random.key(0), one)
    leaves, tree = jax.tree.flatten(shapes["params"])
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [
        (0.02 * jax.random.normal(key, leaf.shape)).astype(dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return tree.unflatten(drawn)


def draw_prompts(batch: int) -> np.ndarray:
    """Draws tokens [B, PROMPT]."""
    return np.random.default_rng(0).integers(0, 1000, (batch, PROMPT)).astype(np.int32)


class Ours:
    """The calls to be timed, on one set of random weights and prompts.

    Attributes:
      prompts: [B, T].
      keys: one an item.
      rules: temperature 1 and no filter, as transformers is asked.
    """

    def __init__(self, module: Qwen3, params: Params, ids: np.ndarray) -> None:
        """Takes prompts [B, T]."""
        self._network = (module, params)
        self._size = module.config.vocab_size
        self.prompts = decode.Prompts(ids, np.ones(ids.shape, bool))
        self.keys = jax.random.split(jax.random.key(1), len(ids))
        self.rules = Rules(jnp.ones(len(ids)))

    def codes(self, tokens: int = TOKENS) -> Any:
        """Writes audio codes: the second half of the vocabulary stands for them."""
        exact = jnp.full(len(self.keys), tokens, jnp.int32)
        span = decode.Span(min(2176, self._size // 2), self._size, 2)
        return decode.decode_codes(
            *self._network,
            self.prompts,
            self.keys,
            span,
            (exact, exact),
            self.rules,
            budget=tokens,
        )

    def free(self, tokens: int) -> Any:
        """Writes text with nothing ruled out."""
        tables = grammar_lib.unconstrained(self._size)
        return self._text(tables, [1 + grammar_lib.ANY, 1 + grammar_lib.END], tokens)

    def plan(self, book: grammar.Book, tokens: int) -> Any:
        """Writes plans under the grammar, which ends them."""
        tables = jax.tree.map(jnp.asarray, book.tables)
        return self._text(tables, book.program(skip=["genres"]), tokens)

    def _text(self, tables: grammar_lib.Grammar, program: list[int], tokens: int) -> Any:
        batch = len(self.keys)
        programs = jnp.tile(jnp.asarray([program]), (batch, 1))
        zeros = jnp.zeros(batch, jnp.int32)
        return decode.decode_text(
            *self._network,
            self.prompts,
            self.keys,
            tables,
            programs,
            zeros,
            self.rules,
            budget=tokens,
        )


def ours(module: Qwen3, params: Params, batch: int) -> tuple[dict[str, Callable[[], Any]], int]:
    """Gives the calls to be timed, and the tokens of the longest plan."""
    own = Ours(module, params, draw_prompts(batch))
    tokenizer = tokens_lib.load_tokenizer(str(NANO_TOKENIZER))
    book = grammar.build(Vocabulary.of(tokenizer, module.config.vocab_size))
    tables = own.plan(book, book.plan_tokens)
    length = int(tables.lengths.max())
    calls = {
        "codes": own.codes,
        "plan": functools.partial(own.plan, book, length),
        "free": functools.partial(own.free, length),
    }
    return calls, length


def theirs(module: Qwen3, params: Params, batch: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Gives transformers' `generate` on the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        weights.save_qwen3(folder, weights.Network(module.config, params), causal=True)
        model = AutoModelForCausalLM.from_pretrained(folder)
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, getattr(torch, jnp.dtype(module.dtype).name)).eval()
    return {"transformers": transformers_call(model, draw_prompts(batch), TOKENS)}


def transformers_call(model: Any, ids: np.ndarray, tokens: int) -> Callable[[], Any]:
    """Lets a causal model of transformers continue prompts by exactly `tokens` drawn tokens."""
    import torch

    prompt = torch.from_numpy(ids.astype(np.int64)).to(model.device)

    def generate() -> Any:
        with torch.inference_mode():
            return model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_k=0,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                cache_implementation="static",
                pad_token_id=0,
            ).cpu()

    return generate


def measure(
    calls: dict[str, Callable[[], Any]], repeats: int, clock: timing.Clock
) -> dict[str, float]:
    """Times every call in turn, after one warm-up each; the median, in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def bandwidth(clock: timing.Clock, megabytes: int = 256, repeats: int = 5) -> float:
    """Measures bytes a second of reading and writing a large array."""
    x = jnp.zeros(megabytes * 2**18, jnp.float32)
    step = jax.jit(lambda x: x + 1)
    x = jax.block_until_ready(step(x))
    times = []
    for _ in range(repeats):
        start = clock()
        x = jax.block_until_ready(step(x))
        times.append(clock() - start)
    return 2 * x.nbytes / min(times)


def bytes_a_token(module: Qwen3, params: Params, batch: int) -> int:
    """Counts what must be read for one token of every item: weights once, and the cache."""
    config, width = module.config, jnp.dtype(module.dtype).itemsize
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return total + batch * cache * (PROMPT + TOKENS) * width


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Times, prints a line a batch size, and everything as JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="planner_nano", choices=sorted(PLANNERS))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", choices=["transformers"])
    parser.add_argument("--pinned", action="store_true", help="one core, its processor time")
    arguments = parser.parse_args(argv)
    clock = time.process_time if arguments.pinned else time.perf_counter
    threads = timing.limit_threads(None, pinned=arguments.pinned)
    module = Qwen3(PLANNERS[arguments.preset], dtype=jnp.dtype(arguments.dtype))
    params = random_params(module, arguments.dtype)
    speed = bandwidth(clock)
    report: dict[str, Any] = {"preset": arguments.preset, "bandwidth": speed, "batches": {}}
    for batch in arguments.batch:
        calls, length = ours(module, params, batch)
        if arguments.against:
            calls |= theirs(module, params, batch, threads)
        seconds = measure(calls, arguments.repeats, clock)
        report["batches"][batch] = summarise(seconds, batch, length, speed, module, params)
        print(f"batch {batch}: {report['batches'][batch]}", flush=True)
    report |= {
        "device": str(jax.devices()[0]),
        "clock": "processor" if arguments.pinned else "wall",
    }
    print(json.dumps(report))
    return report


def summarise(
    seconds: dict[str, float], batch: int, length: int, speed: float, module: Qwen3, params: Params
) -> dict[str, Any]:
    """Turns seconds into tokens a second, and what follows from them."""
    counts = {"plan": length, "free": length}
    rates = {name: batch * counts.get(name, TOKENS) / value for name, value in seconds.items()}
    limit = bytes_a_token(module, params, batch) * TOKENS / speed / seconds["codes"]
    row: dict[str, Any] = {"tokens_a_second": rates, "limit": limit, "plan_tokens": length}
    row["grammar_overhead"] = seconds["plan"] / seconds["free"] - 1
    if "transformers" in rates:
        row["ratio"] = rates["codes"] / rates["transformers"]
        row["ratio_free"] = rates["free"] / rates["transformers"]
    return row


if __name__ == "__main__":
    main()
