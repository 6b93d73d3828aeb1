"""Writes what a release says of itself: its version and date, and once where it is to be had.

    python -m scripts.release version 0.2.0      # today, or --date 2026-11-27
    python -m scripts.release publish https://github.com/OWNER/keras_stateful

`version` changes `foundation/version.py`, `CITATION.cff` and `CHANGELOG.md`, whose section
Unreleased becomes that of the version. `publish`, once, before the first upload: commands of
installation, in errors and pages, name the index instead of a clone; the links of README.md, which
the index shows too, become absolute; `pyproject.toml` and `CITATION.cff` get the address of the
repository.

Neither commits: look at `git diff`; `git restore .` takes all back. docs/releases.md has the steps
of a release.
"""

import argparse
import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = "keras_stateful/foundation/version.py"

# As `foundation.version.pip_install` has it; in a fence the second half is a comment. What is
# written otherwise stays: commands beside a program of examples/, which lies in the clone.
IN_A_CLONE = re.compile(
    r'pip install (?P<options>(?:-\S+ )*)"\.(?P<extras>(?:\[[^"]*\])?)"'
    r"(?P<end>`?)(?: in|  # in) a clone of keras_stateful"
)
FROM_THE_INDEX = r'pip install \g<options>"keras-stateful\g<extras>"\g<end>'
RELATIVE_LINK = re.compile(r"\]\((?!#|\w+:)")  # of Markdown: neither an anchor nor a URL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("version", help="version and date of a release")
    command.add_argument("version", metavar="X.Y.Z")
    command.add_argument("--date", type=datetime.date.fromisoformat, default=datetime.date.today())
    command = commands.add_parser("publish", help="from clones to the index, once")
    command.add_argument("address", metavar="ADDRESS", help="of the repository, https://...")
    options = parser.parse_args()
    try:
        if options.command == "version":
            changes = release(ROOT, options.version, options.date)
        else:
            changes = publish(ROOT, options.address)
    except ValueError as error:
        sys.exit(f"{error} Nothing was changed.")
    for path, text in changes.items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)


def release(root: Path, version: str, date: datetime.date) -> dict[str, str]:
    """New texts of the files that name the version, by path."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"A version is X.Y.Z. Received: {version}.")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"## [{version}]" in changelog:
        raise ValueError(f"CHANGELOG.md has a section of {version}: it was released.")
    if not re.search(r"^## \[Unreleased\]\n+(?!## )\S", changelog, re.MULTILINE):
        raise ValueError("CHANGELOG.md says nothing under Unreleased.")
    heading = "## [Unreleased]\n"
    return {
        VERSION: replaced(root, VERSION, r'__version__ = ".*"', f'__version__ = "{version}"'),
        "CITATION.cff": replaced(
            root,
            "CITATION.cff",
            r"^version: .*(\ndate-released: .*)?$",
            f"version: {version}\ndate-released: {date}",
        ),
        "CHANGELOG.md": changelog.replace(heading, f"{heading}\n## [{version}] - {date}\n", 1),
    }


def publish(root: Path, address: str) -> dict[str, str]:
    """New texts of the files that say where the package is to be had, by path."""
    if not re.fullmatch(r"https://\S+[^/\s]", address):
        raise ValueError(f"An address is https://..., without a slash at its end: {address}.")
    changes = {
        VERSION: replaced(root, VERSION, "^PUBLISHED = False$", "PUBLISHED = True"),
        "CITATION.cff": replaced(
            root, "CITATION.cff", r"^(version: )", rf'repository-code: "{address}"\n\1'
        ),
        "pyproject.toml": replaced(
            root,
            "pyproject.toml",
            r"^(\[project\.optional-dependencies\])$",
            f'[project.urls]\nRepository = "{address}"\nIssues = "{address}/issues"\n'
            f'Changelog = "{address}/blob/main/CHANGELOG.md"\n\n\\1',
        ),
    }
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        new = IN_A_CLONE.sub(FROM_THE_INDEX, text)
        if path == root / "README.md":
            new = RELATIVE_LINK.sub(f"]({address}/blob/main/", new)
        if new != text:
            changes[path.relative_to(root).as_posix()] = new
    return changes


def replaced(root: Path, path: str, pattern: str, replacement: str) -> str:
    """A file's text with a pattern replaced, which must be there once."""
    text, times = re.subn(
        pattern, replacement, (root / path).read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    if times != 1:
        raise ValueError(f"{path} should have `{pattern}` once, and has it {times} times.")
    return text


if __name__ == "__main__":
    main()
