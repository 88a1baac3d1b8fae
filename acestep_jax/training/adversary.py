"""The adversarial part of distillation: a discriminator of noised latents and its two losses.

Real and generated songs are noised to one common level with one common noise, so that a pair
differs in the song alone. The generator's side is returned as a slope on the generated latents: the
caller adds it to the distribution-matching gradient, in the same units, and both sizes can be seen.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from acestep_jax.nn.discriminator import FeatureDiscriminator, LatentDiscriminator
from acestep_jax.nn.model import Networks
from acestep_jax.ops import distill, flow, losses
from acestep_jax.training import scene as scene_lib
from acestep_jax.training.recipes.distill import Gan
from acestep_jax.training.scene import Scene
from acestep_jax.typing import Array, Key, Params

Metrics = dict[str, Array]
Views = Mapping[str, tuple[Array, Scene]]
"""{name: (noised latents [B, T, C], what they are judged under)}."""
_PAIR = ("real", "fake")


class Judged(NamedTuple):
    """What the discriminator says of several views.

    Attributes:
      logits: {view: [B, S]}.
      mask: [B, S], the segments that count.
      slopes: {view: derivative of the counted logits' sum by the latents, [B, T, C]}, or {}.
    """

    logits: dict[str, Array]
    mask: Array
    slopes: dict[str, Array]


class Penalty(NamedTuple):
    """A way to measure how steep the discriminator is."""

    views: Callable[[Gan, Views, Key], Views]  # what it wants judged besides
    evaluate: Callable[[Callable, Array], tuple]  # (judge, x_t) -> logits, mask, slopes or None
    size: Callable[[Gan, Judged], Array]  # the mean of |grad D|^2, real and fake added up


def _nearby(config: Gan, views: Views, key: Key) -> Views:
    keys = dict(zip(_PAIR, jax.random.split(key), strict=True))
    near = {name: jax.random.normal(keys[name], views[name][0].shape) for name in _PAIR}
    return {f"near {n}": (x + config.r1_sigma * near[n], s) for n, (x, s) in views.items()}


def _plainly(judge: Callable, x_t: Array) -> tuple[Array, Array, None]:
    return *judge(x_t), None


def _with_slopes(judge: Callable, x_t: Array) -> tuple[Array, Array, Array]:
    """Evaluates once and walks back once."""
    logits, back, mask = jax.vjp(judge, x_t, has_aux=True)
    return logits, mask, back(mask)[0]


def _finite_slope(config: Gan, judged: Judged) -> Array:
    pairs = [(judged.logits[name], judged.logits[f"near {name}"]) for name in _PAIR]
    sizes = [losses.masked_mean(distill.approximate_r1(*pair), judged.mask) for pair in pairs]
    return sum(sizes) / config.r1_sigma**2


def _slope(config: Gan, judged: Judged) -> Array:
    count = jnp.maximum(jnp.sum(judged.mask), 1.0)
    return sum(jnp.sum(distill.exact_r1(judged.slopes[name])) for name in _PAIR) / count


PENALTIES = {
    "approximate": Penalty(_nearby, _plainly, _finite_slope),
    "exact": Penalty(lambda config, views, key: {}, _with_slopes, _slope),
}
"""Penalties by the name that `Gan.r1` gives."""


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The modules of the game; parameters are arguments.

    Attributes:
      config: kind, losses and weights.
      networks: for the DiT whose hidden states a feature discriminator reads.
      module: the discriminator.
    """

    config: Gan
    networks: Networks
    module: nn.Module

    def init(self, key: Key, features: Params) -> Params:
        """Draws the discriminator's parameters, from a scene of zeros.

        Args:
          key: a random key.
          features: DiT parameters, for a feature discriminator.
        """
        config = self.networks.config
        channels, width = config.audio_acoustic_hidden_dim, config.encoder.width
        frames, null = jnp.zeros((1, 8, channels)), jnp.zeros((1, 1, width))
        context = jnp.concatenate([frames, frames], axis=-1)
        scene = Scene(null, None, null, context, None, frames)

        def draw(key: Key) -> Params:
            seen = self._seen(features, frames, jnp.ones(1), scene)
            return self.module.init(key, seen, jnp.ones(1), scene.tokens)["params"]

        return jax.jit(draw)(key)

    def choose_features(self, players: Params) -> Params:
        """Chooses the DiT whose hidden states a feature discriminator reads."""
        return jax.lax.stop_gradient(players[self.config.features_of])

    def judge(
        self, params: Params, features: Params, x_t: Array, t: Array, scene: Scene
    ) -> tuple[Array, Array]:
        """Gives logits [B, S] for latents at level t, and the mask of real segments."""
        seen = self._seen(features, x_t, t, scene)
        rest = (t, scene.tokens, scene.mask, scene.frame_mask)
        return self.module.apply({"params": params}, seen, *rest)

    def _seen(self, features: Params, x_t: Array, t: Array, scene: Scene) -> Array | dict:
        if self.config.discriminator != "features":
            return x_t
        _, hidden = self.networks.dit.apply(
            {"params": features},
            x_t,
            t,
            scene.context,
            scene.tokens,
            condition_mask=scene.mask,
            frame_mask=scene.frame_mask,
            hidden_layers=self.config.layers,
        )
        return hidden

    def discriminator_loss(
        self, params: Params, features: Params, scene: Scene, generated: Array, key: Key
    ) -> tuple[Array, Metrics]:
        """Separates real songs from generated ones, and right prompts from wrong ones.

        Args:
          params: the discriminator's.
          features: DiT parameters, for a feature discriminator.
          scene: with the real songs.
          generated: [B, T, C].
          key: of level and noises.
        """
        config, penalty = self.config, PENALTIES[self.config.r1]
        level_key, noise_key, near_key = jax.random.split(key, 3)
        level = self._level(level_key, generated.shape[:1])
        noise = jax.random.normal(noise_key, generated.shape)
        views = {
            name: (flow.interpolate(songs, noise, level), scene)
            for name, songs in zip(_PAIR, (scene.real, generated), strict=True)
        }
        if config.r1_weight > 0:
            views |= penalty.views(config, views, near_key)
        if config.contrastive_weight > 0:
            views["wrong"] = (views["real"][0], scene_lib.with_other_prompts(scene))
        judged = self._judge_all(params, features, views, level)

        mean = functools.partial(losses.masked_mean, mask=judged.mask)
        real, fake = judged.logits["real"], judged.logits["fake"]
        parts = {"discriminator": mean(distill.GAN_LOSSES[config.loss][0](real, fake))}
        if config.r1_weight > 0:
            parts["r1"] = config.r1_weight * penalty.size(config, judged)
        if config.contrastive_weight > 0:
            contrast = mean(distill.contrastive(real, judged.logits["wrong"]))
            parts["contrastive"] = config.contrastive_weight * contrast
        accuracy = mean((real > fake).astype(jnp.float32))
        metrics = {f"loss/{name}": value for name, value in parts.items()}
        return sum(parts.values()), metrics | {"discriminator/accuracy": accuracy}

    def _judge_all(self, params: Params, features: Params, views: Views, level: Array) -> "Judged":
        """Judges several views of a batch in one call."""
        x_t = jnp.concatenate([x for x, _ in views.values()])
        scene = scene_lib.concatenate([scene for _, scene in views.values()])
        t = jnp.tile(level, len(views))

        def split(x: Array | None) -> dict[str, Array]:
            return {} if x is None else dict(zip(views, jnp.split(x, len(views)), strict=True))

        judge = functools.partial(self.judge, params, features, t=t, scene=scene)
        evaluate = PENALTIES[self.config.r1].evaluate
        logits, mask, slopes = evaluate(lambda x_t: judge(x_t=x_t), x_t)
        return Judged(split(logits), mask[: level.shape[0]], split(slopes))

    def pull(
        self, players: Params, scene: Scene, generated: Array, key: Key
    ) -> tuple[Array, Metrics]:
        """Differentiates the generator's loss by the generated latents.

        Args:
          players: {"discriminator", "teacher", "fake"} parameters.
          scene: with the real songs.
          generated: [B, T, C].
          key: of level and noise.

        Returns:
          The slope times the number of values and the config's weight, [B, T, C], in the units of
          `distill.surrogate_loss`; and the loss, before the weight.
        """
        params, features = players["discriminator"], self.choose_features(players)
        level_key, noise_key = jax.random.split(key)
        level = self._level(level_key, generated.shape[:1])
        noise = jax.random.normal(noise_key, generated.shape)
        judge = functools.partial(self.judge, params, features, t=level, scene=scene)
        real, mask = judge(x_t=flow.interpolate(scene.real, noise, level))

        def loss(generated: Array) -> Array:
            fake, _ = judge(x_t=flow.interpolate(generated, noise, level))
            return losses.masked_mean(distill.GAN_LOSSES[self.config.loss][1](real, fake), mask)

        value, slope = jax.value_and_grad(loss)(jax.lax.stop_gradient(generated))
        scaled = self.config.weight * generated.size * slope
        return jax.lax.stop_gradient(scaled), {"loss/adversarial": value}

    def _level(self, key: Key, shape: tuple[int, ...]) -> Array:
        if self.config.level_law == "log_snr":
            return distill.draw_log_snr_level(key, shape)
        return distill.draw_level(key, shape)


def make_adversary(config: Gan, networks: Networks, remat: bool = False) -> Adversary | None:
    """Builds the adversary that the configuration describes, if any; `remat` is its module's."""
    if config.discriminator == "none":
        return None
    if config.discriminator == "features":
        module = FeatureDiscriminator(config.widths[0], config.blocks, config.layer_scale, remat)
    else:
        module = LatentDiscriminator(config.widths, config.blocks, config.layer_scale, remat)
    return Adversary(config, networks, module)
