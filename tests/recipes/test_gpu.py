"""gpu.sh, all of it, on a CPU: what it packs, trains, writes and measures."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_dry_run_goes_all_the_way(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(ROOT / "recipes/nano/gpu.sh"), "--dry-run", str(tmp_path / "work")]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    work = tmp_path / "work"
    assert (work / "data.tar.xz").stat().st_size < 64e6
    assert (work / "data/corpus/manifest.json").read_text() == (work / "slice/corpus/manifest.json").read_text()
    assert sorted(path.name for path in (work / "int4").iterdir())
    for name in ("pretrain", "int4"):
        assert json.loads((work / f"bench-{name}.json").read_text())["decode_tokens_per_s"] > 0
