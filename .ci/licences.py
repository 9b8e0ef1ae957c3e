"""List the licences of all that actune brings along, in docs/licences.md; without --write only check the list.

The check fails if a licence is not one of ours to pass on, or if a package that pyproject.toml names is not listed.
Versions and what packages bring along differ from machine to machine; that alone is no failure.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
# Extras for those who change actune; what they bring is not passed on.
TOOLS = ("dev", "docs", "bench")
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT"),
    *("LLVM-exception", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
}
# Older packages name their licence in words of their own.
SPELLED = {
    "Apache Software License": "Apache-2.0",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "ISC License": "ISC",
}
HEAD = """# Licences

actune is under Apache-2.0. These packages come with it, or with the extra that is named; they are installed, not
copied. Written by `.ci/licences.py --write` from what the packages say of themselves; `make licences` checks that every
package of pyproject.toml is here and that no licence forbids passing on. Tools (extras `dev`, `docs`, `bench`) are not
listed. A base model has a licence of its own: `actune pull` shows it.

| package | licence | brought by |
|---|---|---|
"""


def licence_of(package: Distribution) -> str:
    """Find the licence as an SPDX expression, or the package's own words where they are not known to us."""
    data = package.metadata
    if expression := data.get("License-Expression"):
        return expression
    classifiers = [line.split(" :: ")[-1] for line in data.get_all("Classifier") or [] if line.startswith("License")]
    words = (data.get("License") or "").strip().split("\n")[0]
    names = [SPELLED.get(name, name) for name in classifiers if name != "OSI Approved"] or [SPELLED.get(words, words)]
    return " OR ".join(names)


def refused(licence: str) -> list[str]:
    """Name the parts of an SPDX expression that are not allowed."""
    parts = re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", licence)
    return [part for part in parts if part not in ALLOWED and part != ""] if licence else ["unknown"]


def brought(names: Iterable[str]) -> set[str]:
    """Name what these packages bring along, they included, as far as it is installed."""
    found: set[str] = set()
    waiting, seen = [Requirement(name) for name in names], set()
    while waiting:
        need = waiting.pop()
        if str(need) in seen:
            continue
        seen.add(str(need))
        try:
            needs = distribution(need.name).requires or []
        except PackageNotFoundError:
            continue
        found.add(canonicalize_name(need.name))
        for one in map(Requirement, needs):
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *need.extras)):
                waiting.append(one)
    return found - {"actune"}


def direct() -> dict[str, list[str]]:
    """Give what pyproject.toml names: under an empty text what all get, and under each extra of users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name not in TOOLS}
    return {"": project["dependencies"], **extras}


def table() -> dict[str, tuple[str, str]]:
    """Give each package its licence and who brings it."""
    rows: dict[str, tuple[str, str]] = {}
    for extra, needs in direct().items():
        for name in brought(needs) - set(rows):
            rows[name] = (licence_of(distribution(name)), f"extra `{extra}`" if extra else "actune")
    return dict(sorted(rows.items()))


def main() -> int:
    """Check, or write with --write."""
    rows = table()
    named = {canonicalize_name(Requirement(need).name): extra for extra, needs in direct().items() for need in needs}
    if "--write" in sys.argv[1:]:
        lines = [f"| {name} | {licence} | {by} |\n" for name, (licence, by) in rows.items()]
        absent = [name for name in named if name not in rows]
        lines += [f"| {name} | not installed where this was written | extra `{named[name]}` |\n" for name in absent]
        PAGE.write_text(HEAD + "".join(lines), encoding="utf-8")
    listed = re.findall(r"^\| (\S+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    bad = [f"{name}: {licence or 'no licence named'}" for name, (licence, _) in rows.items() if refused(licence)]
    bad += [f"{name}: not in {PAGE.name}; python .ci/licences.py --write" for name in named if name not in listed]
    print(
        "\n".join(bad) or f"{len(rows)} packages, {len(named)} of them named by actune: every licence may be passed on"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
