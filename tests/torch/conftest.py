"""Tests that run PyTorch itself (`make test-torch`); without PyTorch they are not collected."""

import importlib.util

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
    collect_ignore_glob = ["test_*.py"]
