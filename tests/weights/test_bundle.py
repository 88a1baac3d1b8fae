"""A whole pipeline's folder: every part that diffusers' index names, and our own door to it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acestep_jax import units, weights
from acestep_jax.tasks import loading

NANO = loading.NANO


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The shipped weights as one folder, with silence as long as diffusers wants it."""
    model = weights.load_model(NANO)
    repeats = -(-units.MAX_FRAMES // model.silence_latent.shape[1])
    silence = jnp.tile(model.silence_latent, (1, repeats, 1))[:, : units.MAX_FRAMES]
    model = weights.Model(model.config, model.params, silence, model.source)
    text = NANO.parent / "text_encoder"
    folder = tmp_path_factory.mktemp("bundle")
    vae = weights.load_vae(NANO.parent / "vae")
    weights.save_pipeline(folder, model, vae, weights.load_qwen3(text), text)
    return folder


def test_the_index_names_a_folder_with_a_configuration_for_every_part(bundle):
    index = json.loads((bundle / "model_index.json").read_text())
    assert index["_class_name"] == "AceStepPipeline"
    parts = {name: pair for name, pair in index.items() if not name.startswith("_")}
    assert len(parts) == 8
    for name, (library, _) in parts.items():
        assert library in ("ace_step", "diffusers", "transformers")
        configs = {path.name for path in (bundle / name).glob("*config.json")}
        assert configs & {"config.json", "scheduler_config.json", "tokenizer_config.json"}
    scheduler = json.loads((bundle / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["num_train_timesteps"], scheduler["shift"]) == (1, 1.0)


def test_our_pipeline_opens_it_too(bundle):
    parts = loading.load_parts(str(bundle))
    own = loading.load_parts(str(NANO))
    for name in ("params", "vae_params"):
        jax.tree.map(np.testing.assert_array_equal, parts[name], own[name])


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        weights.save_pipeline(tmp_path / "a", None, None, None, pathlib.Path(tmp_path))
    assert not (tmp_path / "a").exists()


def test_eight_bit_parameters_are_a_fraction_and_stay_on_the_host_when_asked():
    whole = loading.load_parts(str(NANO))
    small = loading.load_parts(str(NANO), stored="int8", resident=False)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(small["params"]))
    ratio = loading.int8.num_bytes(small["params"]) / loading.int8.num_bytes(whole["params"])
    assert 0.25 < ratio < 0.4  # layers a quarter, tables a half
