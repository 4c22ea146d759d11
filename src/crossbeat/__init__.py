"""crossbeat: segment the heart in cardiac MR where labels are scarce."""

__version__ = "0.1.0"
