"""Trains the planner: one language model that plans, listens, expands and formats.

    L = mean over words -log p(token | before)  +  w mean over codes -log p(token | before)      (1)

Words are chains of thought and lyrics, codes the 5 Hz audio tokens and the end of their turn. Codes
outnumber words ten to one, hence two means. Only the assistant's turn counts; prompts are read.
Every song serves four tasks in the prompts that generation uses (data/chat.py), so that one model
writes a song from a caption and a caption from a song. Some conversations have `NO USER INPUT` in
place of the user's text, or an empty thought before the codes: what guidance subtracts, and what
likelihood ratios divide by. Thoughts that were cut short are read and never trained on.

Conversations are packed into rows; each sees itself alone and counts its positions from 0, so that
a packed row has the losses of its parts. Logits are computed a chunk at a time: at 217,204 tokens
they are larger than the model.

A plain Qwen3 is extended by the audio tokens first (`model.plain`, training/extend.py). With `lora`
adapters are trained; they are exported merged, and by themselves as PEFT reads them.

    python -m train.planner --config configs/nano/planner.py
"""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tokenizers
from absl import logging

from acestep_jax import weights
from acestep_jax.data import chat, sources
from acestep_jax.data.chat import ChatBatch, ChatBatches, ChatSpec
from acestep_jax.data.loader import NANO_TOKENIZER
from acestep_jax.nn import lora
from acestep_jax.nn.config import PLANNERS, Qwen3Config
from acestep_jax.nn.qwen3 import Qwen3
from acestep_jax.ops import logits as logits_lib
from acestep_jax.ops import losses, packing
from acestep_jax.tasks import tokens as tokens_lib
from acestep_jax.tasks.planning.vocabulary import Vocabulary
from acestep_jax.training import cli, extend, loop, models, optim, processes
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import state as state_lib
from acestep_jax.training.recipes.planner import TrainPlanner
from acestep_jax.training.state import TrainState
from acestep_jax.typing import Array, Key, Params
from acestep_jax.weights import adapters

Metrics = dict[str, Array]

RELEASED_CODES = 65_535
"""Audio tokens that the release adds to Qwen3; 64,000 of them are codes."""
_KINDS = {"thought": chat.THOUGHT, "lyrics": chat.LYRICS, "codes": chat.CODES}


class Setting(NamedTuple):
    """What a step needs besides state and batch: the run, and the planner."""

    config: TrainPlanner
    module: Any


class Start(NamedTuple):
    """A planner to train: its sizes and parameters, its tokenizer, and where that came from."""

    network: weights.Network[Qwen3Config]
    tokenizer: tokenizers.Tokenizer
    folder: pathlib.Path


# The loss -----------------------------------------------------------------------------------------


def token_losses(setting: Setting, params: Params, batch: ChatBatch) -> Array:
    """Evaluates -log p of every token but the first, [B, T - 1]; those of prompts too."""
    hidden = setting.module.apply(
        {"params": params},
        batch.tokens[:, :-1],
        mask=packing.segment_mask(batch.segments[:, :-1]),
        positions=packing.segment_positions(batch.segments[:, :-1]),
    )
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), batch.tokens[:, 1:].reshape(-1)
    chunk = min(setting.config.loss_chunk, len(targets))
    missing = -len(targets) % chunk
    flat, targets = jnp.pad(flat, ((0, missing), (0, 0))), jnp.pad(targets, (0, missing))

    @jax.checkpoint
    def score(some: tuple[Array, Array]) -> Array:
        logits = setting.module.apply({"params": params}, some[0][None], method="logits")[0]
        return -logits_lib.token_log_probs(logits, some[1])

    parts = (flat.reshape(-1, chunk, flat.shape[-1]), targets.reshape(-1, chunk))
    scored = jax.lax.map(score, parts).reshape(-1)
    return scored[: scored.size - missing].reshape(batch.tokens.shape[0], -1)


def planner_loss(
    trained: Params, setting: Setting, frozen: Params, batch: ChatBatch, key: Key
) -> tuple[Array, Metrics]:
    """Evaluates (1), and the mean of every kind of token.

    Args:
      trained: the planner's parameters, or adapters with `lora`.
      setting: configuration and module.
      frozen: the planner's parameters with `lora`, else empty.
      batch: rows.
      key: of the adapters' dropout.
    """
    config = setting.config
    each = token_losses(setting, planner_params(config, trained, frozen, key), batch)
    kinds = batch.kinds[:, 1:]
    means = {name: losses.masked_mean(each, kinds == kind) for name, kind in _KINDS.items()}
    words = losses.masked_mean(each, (kinds == chat.THOUGHT) | (kinds == chat.LYRICS))
    loss = words + config.code_weight * means["codes"]
    filled = jnp.mean(batch.segments > 0)
    return loss, {"loss": loss, "filled": filled} | {f"loss/{k}": v for k, v in means.items()}


def planner_params(
    config: TrainPlanner, trained: Params, frozen: Params, key: Key | None = None
) -> Params:
    """Gives what the module is applied with: the trained parameters, or the base with adapters."""
    if not config.lora:
        return trained
    variables = lora.collection(trained, config.adapter.scale, config.adapter.dropout)
    return lora.WithAdapters(frozen, variables, key if config.adapter.dropout else None)


# Steps: the only jit of the file ------------------------------------------------------------------


def make_state(config: TrainPlanner, trained: Params) -> TrainState:
    """Makes the state before the first step."""
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)
    key = jax.random.key(config.seed)
    return state_lib.init_state(
        key, {"planner": trained}, {"planner": optimizer}, {"planner": config.optimizer}
    )


def make_train_step(
    setting: Setting, trained: Params, places: TrainState | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles (state, frozen, batch) -> (state, metrics); the state is donated.

    Args:
      setting: configuration and module.
      trained: what is trained, or its shapes.
      places: where the state lives (`mesh.state_shardings`); None for one device.
    """
    config = setting.config
    optimizer = optim.make_optimizer(config.optimizer, config.num_steps, trained)

    def train_step(
        state: TrainState, frozen: Params, batch: ChatBatch
    ) -> tuple[TrainState, Metrics]:
        key = state_lib.step_key(state)
        loss = functools.partial(planner_loss, setting=setting, frozen=frozen, batch=batch, key=key)
        state, metrics = state_lib.value_and_update(
            state, "planner", loss, optimizer, config.optimizer
        )
        return state_lib.advance(state), metrics

    shardings = {} if places is None else {"out_shardings": (places, None)}
    return jax.jit(train_step, donate_argnums=0, **shardings)


def make_held_out(
    setting: Setting, vocabulary: Vocabulary, frozen: Params, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Gives trained -> mean losses on the validation split; the rows are always the same."""
    config = setting.config

    @jax.jit
    def evaluate(trained: Params, frozen: Params, batch: ChatBatch) -> tuple[Metrics, Metrics]:
        each = token_losses(setting, planner_params(config, trained, frozen), batch)
        masks = {name: batch.kinds[:, 1:] == kind for name, kind in _KINDS.items()}
        sums = {name: jnp.sum(each * mask) for name, mask in masks.items()}
        return sums, {name: jnp.sum(mask) for name, mask in masks.items()}

    def held_out(trained: Params) -> dict[str, float]:
        if not config.eval_batches:
            return {}
        batches = open_batches(config, vocabulary, "validation")
        placed = (mesh_lib.place_batch(next(batches), mesh) for _ in range(config.eval_batches))
        tables = [evaluate(trained, frozen, batch) for batch in placed]
        sums, counts = jax.tree.map(lambda *parts: float(sum(parts)), *tables)
        return {f"eval/{name}": sums[name] / max(counts[name], 1.0) for name in _KINDS}

    return held_out


# The run, in the order it happens -----------------------------------------------------------------


def open_planner(config: TrainPlanner) -> Start:
    """Loads the planner to train, extends a plain Qwen3, or draws random parameters."""
    model = config.model
    where = models.locate(model.weights or model.plain)
    folder = weights.resolve(models.locate(model.tokenizer) or where or NANO_TOKENIZER)
    tokenizer = tokens_lib.load_tokenizer(str(folder))
    key = jax.random.key(config.seed)
    if model.weights:
        return Start(weights.load_qwen3(where), tokenizer, folder)
    if model.plain:
        plain, known = weights.load_qwen3(where), tokenizer.get_vocab_size()
        tokenizer = extend.extend_tokenizer(tokenizer, RELEASED_CODES)
        network = extend.extend_model(key, plain.config, plain.params, known, RELEASED_CODES)
        return Start(network, tokenizer, folder)
    sizes = PLANNERS[model.preset]
    init = jax.jit(functools.partial(Qwen3(sizes).init, method="score"))
    params = init(key, jnp.zeros((1, 2), jnp.int32))["params"]
    return Start(weights.Network(sizes, params), tokenizer, folder)


def build(config: TrainPlanner, sizes: Qwen3Config) -> Any:
    """Builds the module; with `lora` it takes adapters beside its parameters."""
    module = Qwen3(sizes, dtype=jnp.dtype(config.model.dtype), remat=config.model.remat)
    return lora.Adapted(module) if config.lora else module


def open_batches(config: TrainPlanner, vocabulary: Vocabulary, split: str) -> ChatBatches:
    """Opens the songs of a split as rows of conversations."""
    songs: Any = sources.open_songs(config.data.shards, split, seed=config.seed)
    if isinstance(songs, sources.Synthetic):
        songs = chat.SyntheticCodes(songs, vocabulary.num_codes)
    return ChatBatches(
        songs,
        vocabulary,
        ChatSpec(**dataclasses.asdict(config.chats)),
        seed=config.seed + (split != "train"),
        batch_size=config.data.batch_size,
        process=(jax.process_index(), jax.process_count()),
    )


def main(config: TrainPlanner) -> None:
    """Trains, evaluates, and exports the averaged weights."""
    mesh = mesh_lib.make_mesh(config.mesh)
    begin = open_planner(config)
    vocabulary = Vocabulary.of(begin.tokenizer, begin.network.config.vocab_size)
    setting = Setting(config, build(config, begin.network.config))
    trained, frozen = begin.network.params, {}
    if config.lora:
        make = jax.jit(functools.partial(lora.init, spec=config.adapter))
        trained, frozen = make(jax.random.key(config.seed), trained), trained
    batches = open_batches(config, vocabulary, "train")

    with jax.set_mesh(mesh), loop.Loop(config) as run:
        frozen = mesh_lib.place_params(frozen, mesh)
        trained = mesh_lib.place_params(trained, mesh)
        init = functools.partial(make_state, config)
        shardings = functools.partial(mesh_lib.state_shardings, mesh=mesh)
        state, start = run.restore_or_init(init, shardings, batches, (trained,))
        places = shardings(jax.eval_shape(init, trained))
        train_step = run.counted(make_train_step(setting, trained, places))
        held_out = make_held_out(setting, vocabulary, frozen, mesh)

        for step in run.steps(start):
            batch = mesh_lib.place_batch(next(batches), mesh)
            state, metrics = train_step(state, frozen, batch)
            run.end_step(step, state, metrics, batches)
            if config.eval_every and (step + 1) % config.eval_every == 0:
                run.metrics.note(step + 1, held_out(state.best("planner")))

        best = state.best("planner")
        run.metrics.note(config.num_steps, held_out(best))
        folder = export(config, begin, best, frozen, run.workdir / "export")
        logging.warning("Planner saved in %s.", folder)


def export(
    config: TrainPlanner, begin: Start, trained: Params, frozen: Params, folder: pathlib.Path
) -> pathlib.Path:
    """Writes the planner as safetensors with its tokenizer.

    Adapters are merged into the base, and written by themselves for PEFT into `folder`/adapter.
    """
    params = processes.whole(trained)
    adapter = adapters.Adapter(config.adapter, params)
    if config.lora:
        variables = lora.collection(params, config.adapter.scale)
        params = lora.merge(processes.whole(frozen), variables).params
    if jax.process_index() != 0:
        return folder
    network = weights.Network(begin.network.config, params)
    dtype = jnp.dtype(config.model.export_dtype)
    weights.save_qwen3(folder, network, causal=True, dtype=dtype)
    if config.lora:
        adapters.save_adapter(folder / "adapter", adapter, begin.network.config)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        if (begin.folder / name).exists():
            shutil.copyfile(begin.folder / name, folder / name)
    begin.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


if __name__ == "__main__":
    cli.run(main, default_config="configs/nano/planner.py")
