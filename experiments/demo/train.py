"""Train the four demo stages that are sized for two CPU cores, then write them as one cascade folder.

    python -m experiments.demo.train --runs runs --out cascade

About three and a half hours on two CPU cores, one stage after the other; stopped and started again it goes on where it
was. The cascade in the package has the same super-resolution stages, and a base stage of configs/demo/base_32_wide.py,
which was trained on a GPU.
"""

import argparse
import pathlib
import subprocess
import sys

STAGES = ("base_32", "sr_64", "sr_128", "sr_256")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="folder of the run folders")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="cascade folder to write; must not exist yet")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"--out {args.out} must not exist yet")
    configs = pathlib.Path(__file__).parents[2] / "configs" / "demo"
    for name in STAGES:
        # A process a stage: each compiles for itself and gives its memory back.
        cdm("train", f"--config={configs / name}.py", f"--workdir={args.runs / name}")
    cdm("export", *(args.runs / name for name in STAGES), "--out", args.out)


def cdm(*arguments):
    code = subprocess.run([sys.executable, "-m", "cdm.cli", *map(str, arguments)]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
