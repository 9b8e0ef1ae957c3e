"""What mkdocs fills in while it builds: texts that the code holds already."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent / "src" / "actune"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of a page; mkdocs calls this by its name."""
    for mark, text in (("<!-- commands -->", commands), ("<!-- modules -->", modules), ("<!-- recipes -->", recipes)):
        if mark in markdown:
            markdown = markdown.replace(mark, text())
    return markdown


def commands() -> str:
    """Write the reference of all commands, from their signatures and docstrings."""
    os.environ["ACTUNE_LANG"] = "en"
    from actune.cli import app

    text = app().generate_docs(output_format="markdown", heading_level=1)
    # The title and table of contents are the page's own.
    return text[text.index("## actune ") :]


def modules() -> str:
    """Write what each file is for, from its docstring's first line."""
    lines = []
    for file in sorted(PACKAGE.rglob("*.py"), key=lambda file: (len(file.relative_to(PACKAGE).parts) > 1, file)):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        first = text.split("\n\n")[0].replace("\n", " ")
        lines.append(f"| `{file.relative_to(PACKAGE).as_posix()}` | {first} |")
    return "\n".join(["| file | what it is for |", "|---|---|", *lines])


def recipes() -> str:
    """Write what the recipes set, side by side."""
    from actune.tune.options import RECIPES

    sides = [recipe.to_dict() for recipe in RECIPES.values()]
    lines = [f"| option | {' | '.join(RECIPES)} |", "|---|" + "---|" * len(sides)]
    for key in sides[0]:
        values = [str(side[key]) for side in sides]
        if key != "recipe" and len(set(values)) > 1:
            lines.append(f"| `{key}` | {' | '.join(values)} |")
    return "\n".join([*lines, "", "All other options are the same in both: [Commands and options](options.md)."])
