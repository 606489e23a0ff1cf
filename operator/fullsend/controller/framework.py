"""kopf, without the official client's generated classes.

kopf imports them wherever they are installed, to recognise objects made of them; we hand it none, and they would cost
the operator 15 MB. Invariant: whoever needs kopf imports it from here, and the official client can be imported
afterwards.
"""

from __future__ import annotations

import sys

if "kubernetes" not in sys.modules:
    # None is what the import system takes for "there is none".
    sys.modules["kubernetes"] = None  # type: ignore[assignment]
    try:
        import kopf
    finally:
        del sys.modules["kubernetes"]
else:
    import kopf

__all__ = ["kopf"]
