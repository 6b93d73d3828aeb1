"""Run the benchmarks, write their results, and the page that shows them.

    python benchmarks/run.py                                  # all, about a minute or two each
    python benchmarks/run.py iterate fit_overhead             # some
    python benchmarks/run.py fit_overhead --backends jax      # on one backend
    python benchmarks/run.py --page                           # only writes docs/benchmarks.md
    python benchmarks/run.py --compare OLD.json NEW.json      # status 1 where a ratio got worse

Each benchmark runs in a process of its own for each backend, prints a table and writes
`benchmarks/results/NAME.json` (`--results FOLDER` elsewhere). The page is made of
`benchmarks/page.md` and those files.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import (
    BACKENDS,
    FOLDER,
    compare,
    described,
    installed,
    read,
    surroundings,
    table,
    write,
)

NAMES = (
    "iterate",
    "documents",
    "growth",
    "fit_overhead",
    "resets",
    "rollout",
    "receptive_field",
    "state_monitor",
    "torch_loop",
    "evaluation",
    "held_out",
    "layout",
    "pack",
    "burn_in",
    "dynamic",
    "generation",
    "pool",
)
RESULTS, PAGE = FOLDER / "results", FOLDER.parent / "docs" / "benchmarks.md"
WARNING = (
    "<!-- Written by `python benchmarks/run.py --page` from benchmarks/page.md and "
    "benchmarks/results. -->\n\n"
)


def page(template: str, results: dict[str, dict]) -> str:
    """The template with each line `{{NAME}}` replaced by that benchmark's table and how it was
    measured.
    """

    def fill(match: re.Match) -> str:
        name = match[1]
        found = results.get(name)
        if found is None:
            return f"Not measured yet: `python benchmarks/run.py {name}`."
        return "\n\n".join(
            [table(found["rows"]), *found["notes"], f"`{found['command']}`, {described(found)}"]
        )

    return WARNING + re.sub(r"^\{\{(\w+)\}\}$", fill, template, flags=re.MULTILINE)


def run(name: str, backends: list[str], results: Path) -> None:
    module = importlib.import_module(name)
    rows, notes = [], []
    settings = getattr(module, "ENVIRONMENTS", {"": {}})
    for backend, mark in [(b, mark) for b in module.BACKENDS if b in backends for mark in settings]:
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "rows.json"
            command = [
                sys.executable,
                __file__,
                name,
                "--backends",
                backend,
                "--inside",
                str(answer),
            ]
            environment = {
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **os.environ,
                **settings[mark],
                "KERAS_BACKEND": backend,
            }
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
            if done.returncode:
                print(f"run.py: {name} failed on {backend}", file=sys.stderr)
                sys.exit(1)
            found = json.loads(answer.read_text())
        rows += [{**r, "what": r["what"] + mark} for r in found["rows"]]
        notes += [n for n in found["notes"] if n not in notes]
    where = {
        **surroundings(),
        "command": f"python benchmarks/run.py {name}",
        "rows": rows,
        "notes": notes,
    }
    results.mkdir(parents=True, exist_ok=True)
    target = results / f"{name}.json"
    if target.exists() and set(backends) < set(module.BACKENDS):  # the other backends' rows stay
        kept = [r for r in read(target)["rows"] if r["backend"] and r["backend"] not in backends]
        where["rows"] = sorted(kept + rows, key=lambda r: BACKENDS.index(r["backend"]))
    write(target, where)
    print(f"\n{name}: {described(where)}\n\n{table(rows)}\n", *notes, sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all, if none is given"
    )
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=[b for b in BACKENDS if installed(b)]
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON files")
    parser.add_argument("--page", action="store_true", help="only write docs/benchmarks.md")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="two JSON files of one benchmark",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.15, help="by what share a ratio may get worse"
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(
            f"no such benchmark: {', '.join(sorted(unknown))}. There are {', '.join(NAMES)}."
        )

    if options.compare:
        worse = compare(*map(read, options.compare), options.tolerance)
        print("\n".join(worse) or "No ratio got worse.")
        sys.exit(1 if worse else 0)
    if options.inside:
        rows, *notes = importlib.import_module(options.names[0]).measure()
        options.inside.write_text(json.dumps({"rows": rows, "notes": notes}))
        return
    if not options.page:
        for name in options.names or NAMES:
            run(name, options.backends, options.results)
    if options.results == RESULTS:
        found = {path.stem: read(path) for path in sorted(RESULTS.glob("*.json"))}
        PAGE.write_text(page((FOLDER / "page.md").read_text(), found))


if __name__ == "__main__":
    main()
