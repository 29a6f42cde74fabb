"""Makes the README's picture of guides: a row of threes by the classifier alone, by a symmetry too, and by darkness too.

    python scripts/guides_picture.py
"""
from __future__ import annotations

import re
import tempfile
from pathlib import Path

from PIL import Image

from guided_sample.folder import grid
from guided_sample.plan import Plan
from guided_sample.request import Request

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ("symmetric,scale=20", "darker,scale=60,interval=0.2:3")  # as the README's command has them


def main() -> None:
    code = re.search(r"```python\n(# my_guides.py.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "my_guides.py")
        file.write_text(code[1])
        images = []
        for count in range(3):
            request = Request(model="digits", classes=(3,), guide=tuple(f"{file}:{guide}" for guide in GUIDES[:count]))
            images += list(Plan.of(request, "cpu").draw(range(10)).images)
    Image.fromarray(grid(images, columns=10)).save(ROOT / "scripts" / "pictures" / "guides.png")


if __name__ == "__main__":
    main()
