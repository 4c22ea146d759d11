"""A cohort and its label maps → a page on this machine in which one leafs through the scans."""

from crossbeat.errors import SettingsError

try:
    from crossbeat.viewer.server import make_app, open_app, serve
except ModuleNotFoundError as error:
    raise SettingsError(f"the viewer needs {error.name}: pip install 'crossbeat[viewer]'") from None

__all__ = ["make_app", "open_app", "serve"]
