"""The same DeepSpeed script with DeepSpeed and with openglm.deepspeed, in two CPU processes each: largest relative difference of the loss.

python benchmarks/deepspeed_curve.py [--steps 50] [--theirs PYTHON]

PYTHON is the interpreter of an environment that has this package's requirements and DeepSpeed:
pip install wheel ninja && DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed==0.19.8
DeepSpeed compiles its Adam for CPUs at the first run, which takes minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import table
from runs import torchrun

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "helpers" / "deepspeed_script.py"


def cases(steps: int, folder: Path) -> dict[str, dict]:
    """Stages 0 to 3 with accumulation, clipping and a schedule, in both types that DeepSpeed has on a CPU; and one run that saves, forgets and loads."""
    config = {
        "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "gradient_clipping": 0.5,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.01, "weight_decay": 0.1, "betas": [0.9, 0.95]}},
        "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": max(2, steps // 10), "total_num_steps": steps}},
    }  # fmt: skip
    found = {}
    for kind in ("fp32", "bf16"):
        for stage in range(4):
            own = {**config, "zero_optimization": {"stage": stage}, "bf16": {"enabled": kind == "bf16"}}
            found[f"stage {stage}, {kind}"] = {"config": own, "steps": steps}
    found["stage 2, fp32, resumed"] = {**found["stage 2, fp32"], "save_at": steps // 2, "folder": str(folder / "saved")}
    return found


def curves(python: str, library: str, steps: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps(cases(steps, folder)))
        files = [str(folder / "cases.json"), str(folder / "result.json")]
        launch = [python, *torchrun(2, str(SCRIPT), library, *files)[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(launch, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return {case: found["losses"] for case, found in json.loads((folder / "result.json").read_text()).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--theirs", default=sys.executable, help="Python of an environment with DeepSpeed")
    options = parser.parse_args()
    ours = curves(sys.executable, "openglm.deepspeed", options.steps)
    theirs = curves(options.theirs, "deepspeed", options.steps)
    rows = []
    for case, curve in ours.items():
        apart = max(abs(a - b) / abs(b) for a, b in zip(curve, theirs[case], strict=True))
        rows.append([case, f"{curve[0]:.4f}", f"{curve[-1]:.4f}", f"{apart:.1e}"])
    print(table(["case", "first loss", "last loss", "largest relative difference"], rows))


if __name__ == "__main__":
    main()
