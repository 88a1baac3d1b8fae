"""Folders, hub ids and the cache between them; nothing here reaches a network."""

import pytest

from acestep_jax import weights
from acestep_jax.weights import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache that holds one repository with one subfolder, as huggingface_hub lays it out."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = root / "models--Some--Music1.5"
    snapshot = repository / "snapshots" / COMMIT
    (snapshot / "part").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_folder_is_itself(tmp_path):
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_a_hub_id_is_found_in_the_cache_when_offline(cache):
    assert hub.resolve("Some/Music1.5").samefile(cache)
    assert hub.resolve("Some/Music1.5@main").samefile(cache)
    assert hub.resolve("Some/Music1.5/part").samefile(cache / "part")


def test_a_checkpoint_loads_from_the_cache(cache, checkpoints):
    for file in (checkpoints / "vae-tiny").iterdir():
        (cache / "part" / file.name).symlink_to(file)
    loaded = weights.load_vae("Some/Music1.5/part")
    assert loaded.config.audio_channels == 1


def test_what_is_not_cached_is_an_error_that_says_what_to_do(cache):
    with pytest.raises(FileNotFoundError, match="offline, and not in the local cache; download it"):
        hub.resolve("Some/Other")
    with pytest.raises(FileNotFoundError, match="has no folder elsewhere"):
        hub.resolve("Some/Music1.5/elsewhere")


@pytest.mark.parametrize("where", ["no-such-folder", "/no/such/folder", "a/../b"])
def test_what_is_neither_folder_nor_id_is_refused(where):
    with pytest.raises(FileNotFoundError):
        hub.resolve(where)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a hub id"):
        hub.resolve(tmp_path / "model")
