"""The networks of a run: modules, weights or random parameters, and what is trained of them.

`Model` of the configuration says where weights come from: a folder, a hub id, or `asset:<folder>`
for those shipped inside this package (`asset:nano/acestep-v15-nano`).
"""

import dataclasses
import functools
import pathlib
import re
import shutil
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

import acestep_jax
from acestep_jax import weights
from acestep_jax.data import loader
from acestep_jax.nn import model as model_lib
from acestep_jax.nn.config import MODELS, TEXT_ENCODERS
from acestep_jax.nn.model import Networks
from acestep_jax.nn.vae import VAE
from acestep_jax.training import mesh as mesh_lib
from acestep_jax.training import processes
from acestep_jax.training.config import Model
from acestep_jax.training.recipes.distill import Distill
from acestep_jax.training.recipes.dit import TrainDiT
from acestep_jax.typing import Array, Params

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
ASSETS = pathlib.Path(acestep_jax.__file__).parent / "assets"
_ASSET = "asset:"
_NANO_TEXT_ENCODER = "asset:nano/text_encoder"
_SILENCE_TOLERANCE = 0.05  # of latents near unit variance; float16 and bfloat16 differ by 0.004
_EDGE = 32  # frames at either end of silence that know where it ends


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The networks of a run with their parameters.

    Attributes:
      networks: the modules.
      params: {part: parameters}: dit, condition_encoder, tokenizer, detokenizer, text_encoder and
        null_condition.
      silence_latent: [1, S, C], the recorded silence; None if no weights were loaded.
    """

    networks: Networks
    params: Params
    silence_latent: Array | None

    def without_params(self) -> "Loaded":
        """Lets go of the parameters, which a run has placed: no second copy stays."""
        return dataclasses.replace(self, params={})


def locate(where: str) -> str:
    """Turns `asset:<folder>` into the path of a folder of this package; leaves the rest alone."""
    if where.startswith(_ASSET):
        return str(ASSETS / where.removeprefix(_ASSET))
    return where


def build(config: Model) -> Networks:
    """Builds the modules of the presets, without any weights."""
    return model_lib.build_networks(
        _preset(MODELS, config.preset),
        _preset(TEXT_ENCODERS, config.text_preset),
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        attention=config.attention,
    )


def load(config: Model, seed: int = 0, mesh: jax.sharding.Mesh | None = None) -> Loaded:
    """Builds the modules and loads their weights, or draws them where none are named.

    Args:
      config: sizes come from the weights' own configuration where there are weights.
      seed: of random parameters.
      mesh: where the rules place what is loaded, no device ever holding more than its share;
        without one it is whole on the default device. Random parameters are drawn there.

    Raises:
      FileNotFoundError, weights.CheckpointError: if weights are named but not whole.
    """
    places = functools.partial(mesh_lib.leaf_sharding, mesh=mesh) if mesh else None
    package = text = None
    if config.weights:
        package = weights.load_model(locate(config.weights), shardings=places)
    if config.text_weights:
        text = weights.load_qwen3(locate(config.text_weights), shardings=places)
    networks = model_lib.build_networks(
        package.config if package else _preset(MODELS, config.preset),
        text.config if text else _preset(TEXT_ENCODERS, config.text_preset),
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        attention=config.attention,
    )
    params: dict = {}
    if package is None or text is None:
        params |= jax.jit(model_lib.init_params, static_argnums=0)(networks, jax.random.key(seed))
    if package is not None:
        params |= package.params
    if text is not None:
        params["text_encoder"] = text.params
    return Loaded(networks, params, package.silence_latent if package else None)


def common_silence(loaded: Loaded, of_data: np.ndarray) -> Array:
    """Chooses the encoded silence of a run: that of its weights, if the data has the same.

    Weights and latents belong together through their autoencoder, and silence betrays it. Where the
    two differ the run goes on, aloud, with the silence of the data: so weights are brought over to
    another autoencoder.

    Args:
      loaded: the networks of the run.
      of_data: [1, S, C], the encoded silence of the latents that it reads.
    """
    if loaded.silence_latent is None:
        return jnp.asarray(of_data)
    ours, theirs = np.asarray(loaded.silence_latent, np.float32)[0], of_data[0]
    length = min(len(ours), len(theirs))
    edge = min(_EDGE, length // 4)
    common = slice(edge, length - edge)
    apart = float(np.mean(np.abs(ours[common] - theirs[common])))
    if apart <= _SILENCE_TOLERANCE:
        return loaded.silence_latent
    logging.warning(
        "silence in the data is %.2f away from that of the weights: the latents come from another "
        "autoencoder than the weights were trained on. The run takes the silence of the data.",
        apart,
    )
    return jnp.asarray(of_data)


def shapes(networks: Networks) -> Params:
    """Gives the shapes of every parameter without making any: {part: ShapeDtypeStructs}."""
    return jax.eval_shape(lambda key: model_lib.init_params(networks, key), jax.random.key(0))


def split(params: Params, trained: Sequence[str]) -> tuple[Params, Params]:
    """Separates the parts whose names match one of the patterns from the others.

    Raises:
      ValueError: if a pattern matches no part.
    """
    for pattern in trained:
        if not any(re.search(pattern, name) for name in params):
            raise ValueError(
                f"trained={pattern!r} matches no part; the parts are {', '.join(params)}."
            )
    chosen = {name for name in params if any(re.search(pattern, name) for pattern in trained)}
    return (
        {name: params[name] for name in params if name in chosen},
        {name: params[name] for name in params if name not in chosen},
    )


def load_vae(config: Model) -> tuple[VAE, Params]:
    """Loads the autoencoder that the configuration names.

    Raises:
      ValueError: if it names none.
    """
    if not config.vae_weights:
        raise ValueError("model.vae_weights is empty; name an autoencoder, e.g. asset:nano/vae.")
    network = weights.load_vae(locate(config.vae_weights))
    return VAE(network.config), network.params


def export(
    config: Model, loaded: Loaded, parts: Params, silence_latent: Array, folder: pathlib.Path
) -> None:
    """Writes a model as safetensors: `model` (official layout) and `text_encoder` in `folder`.

    Other layouts go into `model_<layout>`.

    Args:
      config: its `export_dtype`, `export_layouts` and tokenizer are used.
      loaded: for the networks' sizes.
      parts: every part's parameters, as in `Loaded.params`.
      silence_latent: [1, S, C].
      folder: made if needed.
    """
    networks, parts = loaded.networks, processes.whole(dict(parts))
    if jax.process_index() != 0:
        return
    dtype = jnp.dtype(config.export_dtype)
    text = weights.Network(networks.text_encoder.config, parts.pop("text_encoder"))
    package = weights.Model(networks.config, parts, silence_latent)
    for layout in config.export_layouts:
        name = "model" if layout == "official" else f"model_{layout}"
        weights.save_model(folder / name, package, layout=layout, dtype=dtype)
    weights.save_qwen3(folder / "text_encoder", text, dtype=dtype)
    for file in tokenizer_folder(config).iterdir():
        if file.name in TOKENIZER_FILES:
            shutil.copyfile(file, folder / "text_encoder" / file.name)


def tokenizer_folder(config: Model) -> pathlib.Path:
    """Finds the tokenizer beside the text encoder's weights; the nano family's without weights.

    Raises:
      FileNotFoundError: if the weights have none beside them.
    """
    folder = weights.resolve(locate(config.text_weights or _NANO_TEXT_ENCODER))
    if not (folder / TOKENIZER_FILES[0]).exists():
        raise FileNotFoundError(f"{folder} has no tokenizer.json; a text encoder needs its own.")
    return folder


def open_batches(config: TrainDiT | Distill, split: str, batch_size: int = 0) -> loader.Batches:
    """Opens the data of a run, tokenised as its text encoder reads.

    Args:
      config: the run.
      split: train, validation or test.
      batch_size: instead of the configured one.
    """
    data = config.data
    if batch_size:
        buckets = tuple((frames, tokens, batch_size) for frames, tokens, _ in data.buckets)
        data = dataclasses.replace(data, batch_size=batch_size, buckets=buckets)
    if split != "train":  # a few batches: over before worker processes have started
        data = dataclasses.replace(data, num_workers=0)
    tokenizer = str(tokenizer_folder(config.model))
    return loader.make_batches(data, seed=config.seed, split=split, tokenizer=tokenizer)


def cast(params: Params, dtype: str) -> Params:
    """Rounds every parameter to `dtype`, as frozen networks may be kept."""
    return jax.tree.map(lambda x: x.astype(dtype), params)


def _preset(presets: dict, name: str) -> object:
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(presets)}.")
    return presets[name]
