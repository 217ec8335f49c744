"""Measure a model on all benchmarks that ship in packages, and put the table and the picture into docs/.

glm data eval-items
python benchmarks/evaluation.py nano --limit 200 --out runs/evaluation
"""

import argparse
import re
from pathlib import Path

from openglm.cli.main import main as glm

DOCS = Path(__file__).parent.parent / "docs"
BETWEEN = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- end of benchmarks -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--limit", type=int, default=200, help="questions of each task; 0: all")
    parser.add_argument("--out", default="runs/evaluation", help="the same command goes on there after a stop")
    options = parser.parse_args()
    argv = [options.model, "--tasks", "packaged", "--limit", str(options.limit), "--out", options.out]
    if glm(["eval", *argv]):
        return 1
    table = (Path(options.out) / "report.md").read_text(encoding="utf-8")
    said = f"`python benchmarks/evaluation.py {options.model} --limit {options.limit}`:\n\n{table.strip()}\n"
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    (DOCS / "results.md").write_text(BETWEEN.sub(lambda found: found[1] + said + found[2], page), encoding="utf-8")
    (DOCS / "images" / "benchmarks.svg").write_bytes((Path(options.out) / "report.svg").read_bytes())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
