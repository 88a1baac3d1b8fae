"""How many tokens a second does the planner write, and beside transformers?

    python -m experiments.planner.speed [--preset planner_nano] [--batch 1 8]
                                       [--against transformers]

Random weights at the preset's sizes. Timed are the loops that planning goes through, compiled and
warm: a fixed number of audio codes (`codes`), and as many tokens without any grammar (`free`). With
`--against`, transformers' `generate` with a static cache continues the same prompt by as many
tokens, on the same weights and device, in turn in the same run.

The last line is one JSON object. `limit` is the time that the device would need to read all weights
and the cache once a token, over the time that codes took; the bandwidth is measured in the same
run.
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
from acestep_jax.nn.config import PLANNERS
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import grammar as grammar_lib
from acestep_jax.ops.logits import Rules
from acestep_jax.sampling import decode
from acestep_jax.typing import Params

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


def ours(module: Qwen3, params: Params, batch: int) -> dict[str, Callable[[], Any]]:
    """Gives the calls to be timed; each writes TOKENS tokens an item."""
    size = module.config.vocab_size
    ids = np.random.default_rng(0).integers(0, 1000, (batch, PROMPT)).astype(np.int32)
    prompts = decode.Prompts(ids, np.ones(ids.shape, bool))
    keys, rules = jax.random.split(jax.random.key(1), batch), Rules(jnp.ones(batch))
    span = decode.Span(min(2176, size // 2), size, 2)
    exact = jnp.full(batch, TOKENS, jnp.int32)
    tables = grammar_lib.unconstrained(size)
    program = jnp.tile(jnp.asarray([[1 + grammar_lib.ANY, 1 + grammar_lib.END]]), (batch, 1))

    def codes() -> Any:
        return decode.decode_codes(
            module, params, prompts, keys, span, (exact, exact), rules, budget=TOKENS
        )

    def free() -> Any:
        zeros = jnp.zeros(batch, jnp.int32)
        return decode.decode_text(
            module, params, prompts, keys, tables, program, zeros, rules, budget=TOKENS
        )

    return {"codes": codes, "free": free}


def theirs(module: Qwen3, params: Params, batch: int) -> dict[str, Callable[[], Any]]:
    """Gives transformers' `generate` on the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        weights.save_qwen3(folder, weights.Network(module.config, params), causal=True)
        model = AutoModelForCausalLM.from_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, getattr(torch, jnp.dtype(module.dtype).name)).eval()
    ids = np.random.default_rng(0).integers(0, 1000, (batch, PROMPT))
    prompt = torch.from_numpy(ids).to(device)

    def generate() -> Any:
        with torch.inference_mode():
            return model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_k=0,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                cache_implementation="static",
                pad_token_id=0,
            ).cpu()

    return {"transformers": generate}


def measure(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Times every call in turn, after one warm-up each; the median, in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """Measures bytes a second of reading and writing a large array."""
    x = jnp.zeros(megabytes * 2**18, jnp.float32)
    step = jax.jit(lambda x: x + 1)
    x = jax.block_until_ready(step(x))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        x = jax.block_until_ready(step(x))
        times.append(time.perf_counter() - start)
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
    arguments = parser.parse_args(argv)
    module = Qwen3(PLANNERS[arguments.preset], dtype=jnp.dtype(arguments.dtype))
    params = random_params(module, arguments.dtype)
    speed = bandwidth()
    report: dict[str, Any] = {"preset": arguments.preset, "bandwidth": speed, "batches": {}}
    for batch in arguments.batch:
        calls = ours(module, params, batch)
        if arguments.against:
            calls |= theirs(module, params, batch)
        seconds = measure(calls, arguments.repeats)
        rates = {name: batch * TOKENS / value for name, value in seconds.items()}
        limit = bytes_a_token(module, params, batch) * TOKENS / speed / seconds["codes"]
        row = {"tokens_a_second": rates, "limit": limit}
        if arguments.against:
            row["ratio"] = rates["codes"] / rates["transformers"]
        report["batches"][batch] = row
        print(f"batch {batch}: {row}", flush=True)
    report["device"] = str(jax.devices()[0])
    print(json.dumps(report))
    return report


if __name__ == "__main__":
    main()
