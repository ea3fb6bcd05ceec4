"""Settings that make no sense are refused when a network is built, by the name of their key."""

from __future__ import annotations

from cpr_deploy.files import InputError


def require(good: bool, key: str, value: object, need: str) -> None:
    """InputError naming the config key `key` and what it must be, unless `good`."""
    if not good:
        raise InputError(f"{key} is {value!r}; it must be {need}.")
