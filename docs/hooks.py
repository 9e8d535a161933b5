"""Notebooks as pages of the site.

`docs/notebooks/NAME.ipynb` becomes `docs/notebooks/NAME.md`, its Korean edition `NAME.ko.ipynb` becomes
`docs/ko/notebooks/NAME.md`; git ignores both. Nothing is executed: outputs are those that the notebook has.

A plugin that reads notebooks does not work beside mkdocs-static-i18n, which makes its own objects of all files.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from nbconvert import MarkdownExporter

SECTION = "Tutorials"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write the pages, and put them behind the first section; mkdocs calls this once for each language."""
    docs = Path(config.docs_dir)
    names = []
    for notebook in sorted((docs / "notebooks").glob("*.ipynb")):
        name, korean = re.subn(r"\.ko$", "", notebook.stem)
        page = docs / ("ko/notebooks" if korean else "notebooks") / f"{name}.md"
        _write(notebook, page)
        if not korean:
            names.append(page.relative_to(docs).as_posix())
    if names and not any(SECTION in entry for entry in config.nav):
        config.nav.insert(1, {SECTION: names})
    return config


def _write(notebook: Path, page: Path) -> None:
    text, found = MarkdownExporter().from_filename(str(notebook))
    text = re.sub(r"<style scoped>.*?</style>\s*", "", text, flags=re.DOTALL)  # pandas' own look of a table
    page.parent.mkdir(parents=True, exist_ok=True)
    for name, content in found.get("outputs", {}).items():
        (page.parent / f"{page.stem}-{name}").write_bytes(content)
        text = text.replace(f"({name})", f"({page.stem}-{name})")
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")
