"""Tests that run Apache Beam itself (`make test-beam`); without Beam they are not collected."""

import importlib.util

if importlib.util.find_spec("apache_beam") is None:
    collect_ignore_glob = ["test_*.py"]
