"""The configuration of every training method, one file a method."""
