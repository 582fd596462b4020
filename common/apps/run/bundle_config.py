"""MONAI's parser of configurations, with objects in the place of ids."""

from __future__ import annotations

from typing import Any

from monai.bundle import ConfigParser

__all__ = ["BundleConfig"]


class BundleConfig(ConfigParser):
    """A configuration into which objects can be put that are no configuration: paths, names, lists of cases.

    MONAI reads every text as an expression (`$`), a reference (`@`), a macro (`%`) or an id (`#`). What is provided
    here is not read at all.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._provided: dict[str, Any] = {}
        super().__init__(*args, **kwargs)

    def provide(self, **objects: Any) -> None:
        """Let ids be these objects; all else is resolved anew."""
        self._provided |= objects
        self.ref_resolver.reset()

    def parse(self, reset: bool = True) -> None:
        """Parse the configuration, and put the objects in their places."""
        super().parse(reset)
        self.ref_resolver.resolved_content.update(self._provided)
