"""From requests to finished songs.

    pipe = Pipeline.load("nano")
    song = pipe("a quiet waltz for accordion", instrumental=True, duration=20, seed=7)

    sound --autoencoder--> latents --+
    text  --tokenizer--> tokens -----+--> conditions --> latents --autoencoder--> audio

Each stage is a method that can be called alone; `conditions`, `sample` and `render` are pure in
their arrays and can be differentiated through. Songs that share a length bucket and the settings
that a program is compiled for travel as one batch.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from acestep_jax import units
from acestep_jax.nn.model import Networks
from acestep_jax.nn.vae import VAE, Posterior
from acestep_jax.ops import editing, levels
from acestep_jax.sampling import flow as sampling_flow
from acestep_jax.sampling import sampler, schedule, tiles
from acestep_jax.tasks import adapted, batching, condition, inputs, loading, timbre
from acestep_jax.tasks.adapted import AnyAdapter
from acestep_jax.tasks.condition import Conditions
from acestep_jax.tasks.inputs import Inputs, Sounds
from acestep_jax.tasks.request import KEEPING, BadRequest, Request
from acestep_jax.tasks.settings import Settings, default_settings
from acestep_jax.typing import Array, Key, Params

Progress = Callable[[str, int, int], None]
"""(stage, done, of): called as stages go on."""

_SPLICE_SECONDS = 0.05
"""Ramp of the final splice where repainting keeps most; the release's."""
_SOUND = 1 << 20
"""Folded into a song's key for what its sounds draw: apart from the steps' and a retake's."""
_NANO_SETTINGS = Settings(steps=50, shift=3.0, rule="cfg", guidance=2.0)
"""What the nano teacher was measured with; stronger guidance leaves the data's range."""


@dataclasses.dataclass(frozen=True, eq=False)
class Song:
    """A finished song.

    Attributes:
      audio: [W, 2] float32 at 48 kHz, within -1 .. 1.
      latents: [T, C].
      request, settings: what made it.
    """

    audio: np.ndarray
    latents: np.ndarray
    request: Request
    settings: Settings


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """The networks of one model, their parameters, and the way through them.

    Attributes:
      networks: between text and latents.
      params: {module: parameters} and null_condition.
      vae, vae_params: between audio and latents.
      tokenizer: the text encoder's.
      silence_latent: [1, S, C].
      settings: used where a call gives none.
      base: the pipeline that adapters were put on, if they were.
      resident: whether the parameters stay on the device; else each stage puts its own there.
    """

    networks: Networks
    params: Params
    vae: VAE
    vae_params: Params
    tokenizer: tokenizers.Tokenizer
    silence_latent: Array
    settings: Settings
    base: "Pipeline | None" = None
    resident: bool = True

    @classmethod
    def load(
        cls,
        model: str,
        *,
        vae: str = "",
        text_encoder: str = "",
        dtype: Any = jnp.float32,
        weights: loading.Stored = "float32",
        resident: bool = True,
        settings: Settings | None = None,
    ) -> "Pipeline":
        """Loads a model with its autoencoder and text encoder.

        Args:
          model: "nano" or "nano_turbo", or a folder or hub id of a diffusion package.
          vae, text_encoder: folders or hub ids; by default `vae` and `Qwen3-Embedding-0.6B` (or
            `text_encoder`) beside the model's folder, as the release lays them out.
          dtype: of the computation.
          weights: what the parameters are kept in; with "int8" it is the layers' kernels that are
            (`weights.int8`), and the rest is kept in bfloat16.
          resident: False keeps the parameters on the host and puts those of a stage on the device
            while it runs: the device's memory holds the largest stage instead of all of them.
          settings: how to sample; the release's for this family by default.

        Raises:
          FileNotFoundError, CheckpointError: if a part is missing or not whole.
        """
        if model == "nano":
            settings = settings or _NANO_SETTINGS
        model = str(loading.SHIPPED.get(model, model))
        parts = loading.load_parts(
            model,
            vae=vae,
            text_encoder=text_encoder,
            dtype=dtype,
            stored=weights,
            resident=resident,
        )
        settings = settings or default_settings(parts["networks"].config)
        return cls(**parts, settings=settings, resident=resident)

    def with_adapters(
        self,
        *adapters: str | os.PathLike | AnyAdapter | tuple[str | os.PathLike | AnyAdapter, float],
        merge: bool = False,
    ) -> "Pipeline":
        """Puts LoRA or LoKr on the DiT and gives the pipeline that has them; this one has none.

        Args:
          adapters: folders, files, hub ids or loaded adapters, each alone or with its weight:
            `pipe.with_adapters("singer", ("strings", 0.5))`. They replace those that were on.
          merge: add them to the kernels instead of computing them beside; see `adapted.adapt`.

        Raises:
          FileNotFoundError, CheckpointError, ValueError: if one is missing or does not fit.
        """
        base = self.base or self
        pairs = [pair if isinstance(pair, tuple) else (pair, 1.0) for pair in adapters]
        loaded = adapted.load_all(pairs, base.networks.config)
        networks, params = adapted.adapt(base.networks, base.params, loaded, merge=merge)
        return dataclasses.replace(base, networks=networks, params=params, base=base)

    def without_adapters(self) -> "Pipeline":
        """Gives the pipeline as it was loaded, bit for bit."""
        return self.base or self

    # The way through -----------------------------------------------------------------------------

    def __call__(
        self,
        caption: str = "",
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> Song:
        """Makes one song; `fields` are those of `Request`.

        Raises:
          BadRequest: before anything is computed, with every reason.
        """
        request = Request(caption=caption, **fields)
        return self.generate([request], settings=settings, progress=progress)[0]

    def generate(
        self,
        requests: Sequence[Request],
        *,
        settings: Settings | None = None,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> list[Song]:
        """Makes songs, in batches of those that one compiled program serves.

        Args:
          requests: any mixture of tasks and lengths.
          settings: of all of them.
          batch_size: songs sampled at once.
          progress: told of stages as they go on.

        Raises:
          BadRequest: if this model cannot do one of them, before anything is computed.
          ValueError: for a batch of no songs.
        """
        songs = dict(
            self.stream(requests, settings=settings, batch_size=batch_size, progress=progress)
        )
        return [songs[i] for i in range(len(requests))]

    def stream(
        self,
        requests: Sequence[Request],
        *,
        settings: Settings | None = None,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, Song]]:
        """Makes songs as `generate` does, and gives each with its place when its batch is done."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; sample one song at once, or more.")
        for request in requests:
            self.check(request)
        groups = batching.group(requests, batch_size)
        return self._stream(requests, groups, settings or self.settings, progress or _nobody)

    def _stream(
        self,
        requests: Sequence[Request],
        groups: list[list[int]],
        settings: Settings,
        tell: Progress,
    ) -> Iterator[tuple[int, Song]]:
        done = 0
        for group in groups:
            songs = self._generate_batch([requests[i] for i in group], settings, tell)
            done += len(group)
            tell("songs", done, len(requests))
            yield from zip(group, songs, strict=True)

    def check(self, request: Request) -> None:
        """Refuses what this model was not trained for, and prompts longer than it reads.

        Raises:
          BadRequest: with the reason.
        """
        known = self.networks.config.tasks
        if request.task not in known:
            raise BadRequest(
                f"this model does {', '.join(known)}, and not {request.task!r}; load a base model."
            )
        largest = int(np.prod(self.networks.config.fsq_input_levels))
        if any(code >= largest for code in request.codes):
            raise BadRequest(f"code {max(request.codes)} is beyond this model's {largest} codes.")
        inputs.check_prompts(request, self.tokenizer)

    def _generate_batch(
        self, requests: list[Request], settings: Settings, tell: Progress
    ) -> list[Song]:
        count, sounds = len(requests), []
        heard: dict[tuple, np.ndarray] = {}
        for request in requests:
            tell("listen", len(sounds), count)
            sounds.append(self.listen(request, heard))
        tell("listen", count, count)
        arrays = inputs.make_inputs(
            requests,
            sounds,
            self.tokenizer,
            np.asarray(self.silence_latent[0]),
            timbre_frames=self.networks.config.timbre_fix_frame,
        )
        tell("sample", 0, count)
        latents = np.asarray(self.sample(requests, arrays, settings))
        tell("sample", count, count)
        songs = []
        for i, request in enumerate(requests):
            tell("decode", i, count)
            own = latents[i, : inputs.num_frames(request)]
            songs.append(Song(self.finish(request, own), own, request, settings))
        tell("decode", count, count)
        return songs

    def place(self, params: Params) -> Params:
        """Puts a stage's parameters on the device; they leave it with the stage."""
        return params if self.resident else jax.device_put(params)

    # Stages --------------------------------------------------------------------------------------

    def encode(self, audio: np.ndarray, key: Key) -> np.ndarray:
        """Encodes audio [W, 2] of any length to latents [floor(W / 1920), C].

        Latents are drawn from the posterior, as in the release, but by a key.
        """
        return _draw(self.moments(audio), key)

    def moments(self, audio: np.ndarray) -> np.ndarray:
        """Encodes audio [W, 2] to mean and deviation of the latents, [floor(W / 1920), 2 C]."""
        params = self.place(self.vae_params)

        def moments(tile: Array) -> Array:
            posterior = _encode(self.vae, params, tile)
            return jnp.concatenate([posterior.mean, posterior.std], axis=-1)

        return tiles.encode_tiled(moments, audio[None])[0]

    def render(self, latents: Array) -> Array:
        """Decodes latents [B, T, C] to audio [B, 1920 T, 2] at once; gradients pass."""
        return _decode(self.vae, self.place(self.vae_params), latents)

    def decode(self, latents: Array) -> np.ndarray:
        """Decodes latents [T, C] of any length to audio [1920 T, 2], tile by tile."""
        decode = functools.partial(_decode, self.vae, self.place(self.vae_params))
        return tiles.decode_tiled(decode, latents[None])[0]

    def listen(self, request: Request, heard: dict[tuple, np.ndarray] | None = None) -> Sounds:
        """Encodes the source and the references of a request.

        Args:
          request: the song.
          heard: moments of sources that were encoded already, extended by this one: takes of one
            source, the same array, hear it once and draw each its own latents.
        """
        key = jax.random.fold_in(jax.random.key(request.seed), _SOUND)
        frames = self.networks.config.timbre_fix_frame
        rng = np.random.default_rng(request.seed)
        references = tuple(
            self.encode(timbre.choose_segments(audio, frames, rng), jax.random.fold_in(key, i))
            for i, audio in enumerate(request.references, 1)
        )
        if request.source is None:
            return Sounds(None, references)
        heard = {} if heard is None else heard
        own = (id(request.source), request.added_seconds)
        if own not in heard:
            heard[own] = self.moments(inputs.extended_source(request))
        return Sounds(_draw(heard[own], key), references)

    def conditions(self, arrays: Inputs) -> Conditions:
        """Makes what the DiT reads."""
        refs = int(np.bincount(np.asarray(arrays.timbre_owner)).max())
        covers = bool(np.any(arrays.is_cover))
        networks = self.without_adapters().networks  # those on the DiT shall compile nothing anew
        params = {name: tree for name, tree in self.params.items() if name != "dit"}
        return _conditions(networks, self.place(params), arrays, self.silence_latent, refs, covers)

    def sample(self, requests: Sequence[Request], arrays: Inputs, settings: Settings) -> Array:
        """Samples latents [B, T, C] of requests that agree in what `program_key` lists."""
        first, made, times = requests[0], self.conditions(arrays), settings.grid()
        if first.cover_noise:
            times = schedule.start_at(times, 1.0 - first.cover_noise)
        keys = sampling_flow.item_keys(np.asarray([r.seed for r in requests], np.uint32))
        steps = len(times) - 1
        steering, later = settings.steering(), None
        if first.cover_strength < 1:
            plain = self.conditions(arrays.as_text2music())
            later = (plain.tokens, plain.mask, plain.context)
            steering = dataclasses.replace(steering, switch_step=int(steps * first.cover_strength))
        if first.task == "repaint":
            steering = dataclasses.replace(steering, hold=batching.make_hold(first, arrays, steps))
        return sampler.make_sampler(self.networks.dit, step=settings.step())(
            self.place(self.params["dit"]),
            batching.draw_start(first, arrays, made, settings, keys, float(times[0])),
            made.tokens,
            made.mask,
            made.context,
            jnp.asarray(arrays.frame_mask),
            times,
            settings.randomness(keys, steps),
            null=self.params["null_condition"],
            steering=steering,
            later=later,
        )

    def finish(self, request: Request, latents: np.ndarray) -> np.ndarray:
        """Decodes a song to its peak level, or splices a repaint into its source's samples."""
        audio = self.decode(latents)
        share = KEEPING[request.keeping]
        span = inputs.span_frames(request, len(latents))
        if request.task != "repaint" or not share or span is None:
            return np.asarray(levels.normalize_peak(audio))
        mask = np.zeros((1, len(audio)), bool)
        mask[0, slice(*(frame * units.SAMPLES_PER_FRAME for frame in span))] = True
        source = inputs.extended_source(request)[: len(audio)]
        ramp = int(_SPLICE_SECONDS * share * units.SAMPLE_RATE)
        clipped = np.clip(audio, -1.0, 1.0)  # scaling would change what must be kept
        return np.asarray(editing.crossfade(clipped[None], source[None], mask, ramp))[0]


def _draw(moments: np.ndarray, key: Key) -> np.ndarray:
    """Draws latents [T, C] from mean and deviation [T, 2 C]."""
    mean, std = np.split(moments, 2, axis=-1)
    return mean + std * np.asarray(jax.random.normal(key, mean.shape))


@functools.partial(jax.jit, static_argnums=0)
def _encode(vae: VAE, params: Params, audio: Array) -> Posterior:
    return vae.apply({"params": params}, audio, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def _decode(vae: VAE, params: Params, latents: Array) -> Array:
    return vae.apply({"params": params}, latents, method="decode")


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _conditions(
    networks: Networks, params: Params, arrays: Inputs, silence: Array, refs: int, covers: bool
) -> Conditions:
    return condition.make_conditions(
        networks, params, arrays, silence, covers=covers, max_refs=refs
    )


def _nobody(stage: str, done: int, total: int) -> None:
    """Is told, and does nothing."""
