"""Which implementation of the device face to take."""

from __future__ import annotations

from tutelage.training.device import Device, PlainDevice, resolve_device, resolve_precision

__all__ = ["make_device"]


def make_device(name: str = "auto", *, precision: str = "32", engine: str = "plain") -> Device:
    """A device by name.

    Raises:
        InputError: the device is not there.
        MissingExtraError: the engine is "fabric" and Lightning Fabric is not installed.
    """
    if engine == "fabric":
        from tutelage.training.fabric import FabricDevice

        return FabricDevice(name, precision=precision)
    device = resolve_device(name)
    return PlainDevice(device, resolve_precision(precision, device))
