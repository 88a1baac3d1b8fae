"""Teaches a text encoder to read: tempo, key, metre and the words of a caption.

The release conditions on Qwen3-Embedding, a model that has read most of what there is to read. A
small family has none, and flow matching is a poor teacher of reading: "1", "2" and "0" mean a tempo
only to a model that makes music in time, which none does before it understands tempi. So a small
text encoder is taught first, to say what a line of a prompt said, at its end and ever after:

    tempo   cross-entropy with  p(b) ~ exp(-(log b - log bpm)^2 / 2 width^2)  over 30 <= b <= 300
    key     cross-entropy over 24 keys
    metre   cross-entropy over 2, 3, 4 and 6 beats a bar
    words   binary cross-entropy, at the prompt's end: is this word in it?  over the vocabulary (1)

and the sum is minimised. The first three are asked of one token a step, drawn from the end of their
line to the end of the prompt, and read by cosines at a fixed scale: a fact in one token of a
hundred, or in the smallest corner of a state, where a steep head would find it, is a fact that no
DiT looks for. Tempo, key and metre are drawn anew for every prompt (data/facts.py); one that is
left out is not asked for. The heads are thrown away.

    python -m train.text_encoder --config configs/nano/text_encoder.py
"""

import functools
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from acestep_jax import weights
from acestep_jax.data import facts, labels, sources
from acestep_jax.data.facts import UNTOLD, FactBatch, FactBatches, FactSpec
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn.config import TEXT_ENCODERS, Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import losses
from acestep_jax.tasks import tokens as tokens_lib
from acestep_jax.training import cli, loop, models, optim, processes
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.recipes.text_encoder import TrainTextEncoder
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]
SLOWEST, FASTEST = labels.BPM_RANGE
FACTS = ("tempo", "key", "metre")
"""In the order of `FactBatch.ends`."""
SCALE = 16.0
"""Of cosines: to be sure of a fact, a state must lie near its direction."""
RARE = 4.0
"""Logarithm of the odds against a word; a prompt has some 40 of 2,176."""


class Setting(NamedTuple):
    """What a step needs besides state and batch: the run, and the text encoder."""

    config: TrainTextEncoder
    module: Qwen3


# The loss -----------------------------------------------------------------------------------------


def init_heads(key: Key, width: int, vocabulary: int) -> Params:
    """Draws the heads that read states of `width` channels: kernels, and the bias of words."""
    sizes = (FASTEST - SLOWEST + 1, len(facts.KEYS), len(facts.METRES), vocabulary)
    keys = jax.random.split(key, len(sizes))
    heads: Params = {
        name: {"kernel": jax.random.normal(k, (width, size)) / width**0.5}
        for name, k, size in zip((*FACTS, "words"), keys, sizes, strict=True)
    }
    # without it the first thousand steps would learn that words are rare
    heads["words"]["bias"] = jnp.full(vocabulary, -RARE)
    return heads


def last_tokens(batch: FactBatch) -> Array:
    """Finds the last token of every prompt: [B, 1]."""
    return jnp.sum(batch.mask, axis=1, keepdims=True) - 1


def draw_places(key: Key, batch: FactBatch) -> Array:
    """Draws which token is asked for each fact, from the end of its line on: [B, 3]."""
    room = last_tokens(batch) - batch.ends + 1
    return batch.ends + jnp.floor(jax.random.uniform(key, room.shape) * room).astype(jnp.int32)


def read(module: Qwen3, params: Params, batch: FactBatch, places: Array) -> dict[str, Array]:
    """Reads the prompts: the logits [B, N] of every head.

    Args:
      module, params: the text encoder, and {"encoder", "heads"}.
      batch: prompts.
      places: [B, 3], the tokens that are asked for tempo, key and metre; words are the last one's.
    """
    states = module.apply({"params": params["encoder"]}, batch.tokens, mask=batch.mask)
    asked = jnp.concatenate([places, last_tokens(batch)], axis=1)
    told = jnp.take_along_axis(states, asked[..., None], axis=1).astype(jnp.float32)
    heads, found = params["heads"], {}
    for i, name in enumerate(FACTS):
        found[name] = SCALE * _unit(told[:, i], axis=1) @ _unit(heads[name]["kernel"], axis=0)
    words = heads["words"]
    return found | {"words": told[:, -1] @ words["kernel"] + words["bias"][None]}


def _unit(x: Array, axis: int) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-6)


def tempo_target(bpm: Array, width: float) -> Array:
    """Gives the distribution over tempi SLOWEST ... FASTEST that counts as right: [B] -> [B, N]."""
    known = jnp.log(jnp.arange(SLOWEST, FASTEST + 1))[None]
    asked = jnp.log(jnp.maximum(bpm, 1))[:, None]
    return jax.nn.softmax(-0.5 * ((known - asked) / width) ** 2, axis=-1)


def words_target(batch: FactBatch, vocabulary: int) -> Array:
    """Tells which tokens stand in each prompt: [B, V] of 0 and 1."""
    rows = jnp.arange(batch.tokens.shape[0])[:, None]
    present = jnp.zeros((batch.tokens.shape[0], vocabulary))
    return present.at[rows, batch.tokens].max(batch.mask.astype(present.dtype))


def fact_losses(logits: dict[str, Array], batch: FactBatch, width: float) -> Metrics:
    """Evaluates each term of (1), the mean over the prompts that tell it."""
    words = words_target(batch, logits["words"].shape[-1])
    each = {
        "tempo": optax.softmax_cross_entropy(logits["tempo"], tempo_target(batch.bpm, width)),
        "key": _cross_entropy(logits["key"], batch.key),
        "metre": _cross_entropy(logits["metre"], batch.metre),
    }
    # summed over the vocabulary: what is told in nats, as the other terms are
    bits = jnp.sum(optax.sigmoid_binary_cross_entropy(logits["words"], words), axis=-1)
    return _told_means(each, batch) | {"words": jnp.mean(bits)}


def _told_means(values: dict[str, Array], batch: FactBatch) -> Metrics:
    """Averages [B] of each fact over the prompts that tell it."""
    told = {"tempo": batch.bpm, "key": batch.key, "metre": batch.metre}
    return {name: losses.masked_mean(v, told[name] != UNTOLD) for name, v in values.items()}


def _cross_entropy(logits: Array, classes: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(classes, 0))


def reading_loss(
    trained: Params, setting: Setting, batch: FactBatch, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates (1).

    Args:
      trained: {"encoder", "heads"}.
      setting: configuration and module.
      batch: prompts and facts.
      key: of the tokens that are asked.
    """
    config = setting.config
    logits = read(setting.module, trained, batch, draw_places(key, batch))
    terms = fact_losses(logits, batch, config.tempo_width)
    loss = terms["tempo"] + terms["key"] + terms["metre"] + config.word_weight * terms["words"]
    return loss, {"loss": loss} | {f"loss/{name}": value for name, value in terms.items()}


def hits(logits: dict[str, Array], batch: FactBatch) -> Metrics:
    """Counts right answers among those told: tempo within 2 %, key and metre exactly."""
    tempo = SLOWEST + jnp.argmax(logits["tempo"], axis=-1)
    right = {
        "tempo": jnp.abs(tempo / jnp.maximum(batch.bpm, 1) - 1) <= 0.02,
        "key": jnp.argmax(logits["key"], axis=-1) == batch.key,
        "metre": jnp.argmax(logits["metre"], axis=-1) == batch.metre,
    }
    return _told_means(right, batch)


# Steps: the only jit of the file ------------------------------------------------------------------


def make_state(config: TrainTextEncoder, trained: Params) -> TrainState:
    """Makes the state before the first step."""
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)
    key = jax.random.key(config.seed)
    settings = {"reader": config.optimizer}
    return state_lib.init_state(key, {"reader": trained}, {"reader": optimizer}, settings)


def make_train_step(
    setting: Setting, trained: Params, places: TrainState | None = None
) -> Callable[[TrainState, FactBatch], tuple[TrainState, Metrics]]:
    """Compiles (state, batch) -> (state, metrics); the state is donated.

    Args:
      setting: configuration and module.
      trained: what is trained, or its shapes.
      places: where the state lives (`mesh.state_shardings`); None for one device.
    """
    config = setting.config
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)

    def train_step(state: TrainState, batch: FactBatch) -> tuple[TrainState, Metrics]:
        key = state_lib.step_key(state)
        loss = functools.partial(reading_loss, setting=setting, batch=batch, key=key)
        state, metrics = state_lib.value_and_update(
            state, "reader", loss, optimizer, config.optimizer
        )
        return state_lib.advance(state), metrics

    shardings = {} if places is None else {"out_shardings": (places, None)}
    return jax.jit(train_step, donate_argnums=0, **shardings)


def make_held_out(setting: Setting, mesh: jax.sharding.Mesh) -> Callable[[Params], dict]:
    """Gives trained -> losses and shares of right answers on captions of held-out songs.

    All is asked of the last token, the farthest from what it must tell.
    """
    config = setting.config

    @jax.jit
    def evaluate(trained: Params, batch: FactBatch) -> Metrics:
        places = jnp.broadcast_to(last_tokens(batch), batch.ends.shape)
        logits = read(setting.module, trained, batch, places)
        terms = fact_losses(logits, batch, config.tempo_width)
        right = {f"right/{name}": share for name, share in hits(logits, batch).items()}
        return terms | right

    def held_out(trained: Params) -> dict[str, float]:
        batches = open_batches(config, "validation")
        placed = (mesh_lib.place_batch(next(batches), mesh) for _ in range(config.eval_batches))
        tables = [evaluate(trained, batch) for batch in placed]
        return {
            f"eval/{name}": float(sum(t[name] for t in tables)) / len(tables) for name in tables[0]
        }

    return held_out


# The run, in the order it happens -----------------------------------------------------------------


def open_encoder(config: TrainTextEncoder) -> weights.Network[Qwen3Config]:
    """Loads the text encoder, or draws its parameters."""
    if config.model.weights:
        return weights.load_qwen3(models.locate(config.model.weights))
    sizes = TEXT_ENCODERS[config.model.preset]
    init = jax.jit(Qwen3(sizes).init)
    variables = init(jax.random.key(config.seed), jnp.zeros((1, 2), jnp.int32))
    return weights.Network(sizes, variables["params"])


def tokenizer_folder(config: TrainTextEncoder) -> pathlib.Path:
    """Finds the tokenizer beside the weights; the nano family's without weights."""
    where = models.locate(config.model.weights) or NANO_TOKENIZER
    return weights.resolve(where)


def open_batches(config: TrainTextEncoder, split: str) -> FactBatches:
    """Opens the captions of a split."""
    return FactBatches(
        sources.open_songs(config.data.shards, split, seed=config.seed),
        tokens_lib.load_tokenizer(str(tokenizer_folder(config))),
        FactSpec(**vars(config.facts)),
        seed=config.seed + (split != "train"),
        batch_size=config.data.batch_size,
        process=(jax.process_index(), jax.process_count()),
    )


def main(config: TrainTextEncoder) -> None:
    """Trains, evaluates, and exports the averaged weights."""
    mesh = mesh_lib.make_mesh(config.mesh)
    begin = open_encoder(config)
    sizes = begin.config
    heads = init_heads(
        jax.random.fold_in(jax.random.key(config.seed), 1), sizes.hidden_size, sizes.vocab_size
    )
    trained = {"encoder": begin.params, "heads": heads}
    setting = Setting(config, Qwen3(sizes))
    batches = open_batches(config, "train")

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        trained = mesh_lib.place_params(trained, mesh)
        init = functools.partial(make_state, config)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (trained,))
        places = shardings(jax.eval_shape(init, trained))
        train_step = run.counted(make_train_step(setting, trained, places))
        held_out = make_held_out(setting, mesh)

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = train_step(state, batch)
            run.end_step(step, state, metrics, batches)
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out(state.best("reader")))

        best = state.best("reader")
        numbers = held_out(best)
        run.metrics.note(config.num_steps, numbers)
        export(config, weights.Network(sizes, best["encoder"]), run.workdir / "export")
        logging.warning(
            "Right on held-out captions: tempo %.2f, key %.2f, metre %.2f; saved in %s.",
            *(numbers[f"eval/right/{name}"] for name in ("tempo", "key", "metre")),
            run.workdir / "export" / "text_encoder",
        )


def export(
    config: TrainTextEncoder, encoder: weights.Network[Qwen3Config], folder: pathlib.Path
) -> None:
    """Writes the text encoder as safetensors, with its tokenizer, into `folder`/text_encoder."""
    params = processes.whole(encoder.params)
    if jax.process_index() != 0:
        return
    folder = folder / "text_encoder"
    network = weights.Network(encoder.config, params)
    weights.save_qwen3(folder, network, dtype=jnp.dtype(config.model.export_dtype))
    for name in models.TOKENIZER_FILES:
        if (tokenizer_folder(config) / name).exists():
            shutil.copyfile(tokenizer_folder(config) / name, folder / name)


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/text_encoder.py")
