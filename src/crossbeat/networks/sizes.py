"""The image sizes that a network takes: a side in pixels goes in, nothing or a readable refusal comes out."""

from __future__ import annotations

from crossbeat.errors import SettingsError


def require_sides(name: str, sides: tuple[int, int], divisor: int, minimum: int) -> None:
    """Refuse an image that the network cannot halve as often as it must.

    `sides` are rows and columns in pixels; both must be multiples of `divisor` and at least `minimum`.
    A `SettingsError` names the network, what came, and the next size that fits.
    """
    if all(side % divisor == 0 and side >= minimum for side in sides):
        return
    fitting = " x ".join(str(max(minimum, -(-side // divisor) * divisor)) for side in sides)
    raise SettingsError(
        f"network {name!r}: each side must be a multiple of {divisor} and at least {minimum} pixels, "
        f"got {sides[0]} x {sides[1]}; crop or pad the slices to {fitting}"
    )
