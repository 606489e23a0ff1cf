"""Makes docs/images/demo.svg: a run of the demo, as a terminal would show it. Run with the project's Python."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from rich.console import Console

from fullsend.cli.demo import run_demo

ROOT = Path(__file__).parents[1]


def main() -> None:
    console = Console(record=True, width=112, force_terminal=False)
    with tempfile.TemporaryDirectory(prefix="fs-") as folder:
        console.print("$ make demo", style="bold")
        asyncio.run(run_demo(console, ROOT / "manifests" / "samples", Path(folder) / "demo-out"))
    console.save_svg(str(ROOT / "docs" / "images" / "demo.svg"), title="fullsend")


if __name__ == "__main__":
    main()
