"""A whole pipeline in one folder, as diffusers' `AceStepPipeline.from_pretrained` opens it.

    transformer/ condition_encoder/ audio_tokenizer/ audio_token_detokenizer/   the package
    vae/ text_encoder/ tokenizer/ scheduler/ model_index.json                   the rest

The index names a library and a class for each folder; the pipeline's own modules stand under the
name of its folder in diffusers. Its scheduler only adds up steps: the pipeline hands it the levels,
so it knows one training step and no shift.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from acestep_jax.nn.config import Qwen3Config, VAEConfig
from acestep_jax.weights import configs, save
from acestep_jax.weights.checkpoint import Model, Network

_CLASSES = {
    "audio_token_detokenizer": ("ace_step", "AceStepAudioTokenDetokenizer"),
    "audio_tokenizer": ("ace_step", "AceStepAudioTokenizer"),
    "condition_encoder": ("ace_step", "AceStepConditionEncoder"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "Qwen3Model"),
    "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
    "transformer": ("diffusers", "AceStepTransformer1DModel"),
    "vae": ("diffusers", "AutoencoderOobleck"),
}
_SCHEDULER = {"num_train_timesteps": 1, "shift": 1.0, "use_dynamic_shifting": False}
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja"),
)


def save_pipeline(
    folder: str | os.PathLike,
    model: Model,
    vae: Network[VAEConfig],
    text_encoder: Network[Qwen3Config],
    tokenizer: str | os.PathLike,
    *,
    dtype: Any = None,
) -> None:
    """Saves everything that makes songs, for diffusers and for `Pipeline.load` alike.

    Args:
      folder: made if needed.
      model: the diffusion package; diffusers wants a silence latent of 15,000 frames.
      vae, text_encoder: beside it.
      tokenizer: folder of the text encoder's tokenizer files, which are copied.
      dtype: as in `save_model`.

    Raises:
      FileNotFoundError: if there is no `tokenizer.json`.
      ValueError: if a tree does not fit its configuration, or the silence its layout.
    """
    folder, tokenizer = Path(folder), Path(tokenizer)
    if not (tokenizer / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{tokenizer} holds no tokenizer.json; name the tokenizer's folder."
        )
    save.save_model(folder, model, layout="diffusers", dtype=dtype)
    save.save_vae(folder / "vae", vae, dtype=dtype)
    save.save_qwen3(folder / "text_encoder", text_encoder, causal=False, dtype=dtype)
    for target in (folder / "tokenizer", folder / "text_encoder"):  # theirs, and ours
        target.mkdir(exist_ok=True)
        for name in _TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, target / name)
    scheduler = configs.diffusers_class(_CLASSES["scheduler"][1], _SCHEDULER)
    configs.write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {name: list(pair) for name, pair in _CLASSES.items()}
    configs.write_json(
        folder / "model_index.json", configs.diffusers_class("AceStepPipeline", index)
    )
