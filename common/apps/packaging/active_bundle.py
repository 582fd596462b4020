"""Keep bundles apart that run in one process and bring Python of their own as `scripts`, as packed ones do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

__all__ = ["activate"]

_SHELF = "packed_bundles_modules"


def activate() -> None:
    """Make `scripts` that of the first bundle on the Python path; a packed configuration begins `run` with it.

    MONAI puts a bundle's folder in front when it runs, but Python would still find the modules of the bundle that ran
    before. Those are put aside, and come back as the same modules when their bundle runs again.
    """
    bundles = [Path(entry) for entry in sys.path if (Path(entry) / "configs" / "metadata.json").is_file()]
    here = [bundle / "scripts" for bundle in bundles if (bundle / "scripts").is_dir()]
    loaded = sys.modules.get("scripts")
    if not here or loaded is None or Path(loaded.__file__).parent.resolve() == here[0].resolve():
        return
    shelf = sys.modules.setdefault(_SHELF, ModuleType(_SHELF)).__dict__
    names = [name for name in sys.modules if name.split(".")[0] == "scripts"]
    shelf[str(Path(loaded.__file__).parent.resolve())] = {name: sys.modules.pop(name) for name in names}
    sys.modules.update(shelf.get(str(here[0].resolve()), {}))
