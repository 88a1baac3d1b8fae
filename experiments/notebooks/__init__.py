"""Notebooks, the program that executes them, and what they measure with."""
