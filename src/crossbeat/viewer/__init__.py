"""A cohort and its label maps → a page on this machine in which one leafs through the scans."""

from crossbeat.viewer.server import make_app, open_app, serve

__all__ = ["make_app", "open_app", "serve"]
