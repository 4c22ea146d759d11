"""Learned parts as folders: see `crossbeat.methods.keeping`, where the methods that keep some share it."""

from crossbeat.methods.keeping import fetch, keep

__all__ = ["fetch", "keep"]
