"""A cascade of photographs, 32 -> 64 -> 128, ten classes of ImageNet (Imagenette), from pictures to the whole report.

    cdm eval weights lite0
    python -m experiments.imagenette --data imagenette128 --runs runs/imagenette --out experiments/imagenette

`--data` is a folder with train/ and val/, each of class folders. Everything is resumable: the same command goes on
where it was stopped. It packs the pictures a size a stage, trains the three stages by the configs beside this file,
searches guidance and augmentation levels (`cdm tune`), reports on the cascade with held-out pictures entering
(`cdm eval cascade`), and measures KID, beside that of as many held-out pictures, and the classification accuracy score.
Sizes are those of two CPU cores; `--config.KEY=VALUE` given to this command goes to every training, so an accelerator
may be used in full. What is made of the trainings lies in a folder named by the images that they saw, so that longer
ones are measured anew. Weights are research only, as the pictures are (ImageNet's terms), and are not in the
repository.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np

from cdm.images.files import write_json
from experiments.demo.train import cdm

STAGES = {"base_32": 32, "sr_64": 64, "sr_128": 128}
LEVELS = ("--aug-level", "0,0.05,0.1,0.2,0.3")
SEARCHED = {"base_32": ("--steps", "20", "--guidance", "0,0.5,1,2"), "sr_64": ("--steps", "10", *LEVELS),
            "sr_128": ("--steps", "10", *LEVELS)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/imagenette"), help="where all is made")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the results go")
    parser.add_argument("--reference", type=int, default=200,
                        help="training pictures of each class that distances are from (default: 200)")
    parser.add_argument("--budget", type=int, default=1000, help="images of the search, a stage (default: 1000)")
    parser.add_argument("-n", type=int, default=20, help="pictures of each class in the report (default: 20)")
    parser.add_argument("--samples", type=int, default=100, help="images of each class for KID and CAS (default: 100)")
    args, overrides = parser.parse_known_args()
    runs, configs = args.runs, pathlib.Path(__file__).parent
    args.out.mkdir(parents=True, exist_ok=True)
    cdm("eval", "weights", "lite0")  # before hours of training
    for name, size in STAGES.items():
        pack = runs / f"train_{size}"
        if not pack.exists():
            cdm("data", "pack", args.data / "train", "--size", size, "--out", pack)
        cdm("train", f"--config={configs / name}.py", f"--workdir={runs / name}", f"--config.data.source={pack}",
            *overrides)
    seen = [json.loads((runs / name / "config.json").read_text())["config"]["train"]["images"] for name in STAGES]
    made = runs / f"made_{'_'.join(map(str, seen))}"
    cascade, val, reference = made / "cascade", args.data / "val", runs / f"reference_{args.reference}"
    choose(args.data / "train", reference, args.reference)
    if not cascade.exists():
        cdm("export", *(runs / name for name in STAGES), "--out", cascade)
    for name, searched in SEARCHED.items():
        cdm("tune", "--cascade", cascade, "--data", reference, "--workdir", made / f"tune_{name}", "--stage", name,
            "--budget", args.budget, *searched)
    cdm("eval", "cascade", "--cascade", cascade, "--data", val, "--reference", reference, "-n", args.n,
        "--out", made / "report")
    classes = json.loads((cascade / "base_32" / "stage.json").read_text())["classes"]
    samples, real = made / "samples", runs / f"val_{args.samples}"
    cdm("sample", "--cascade", cascade, "--class", *classes, "-n", args.samples, "--out", samples)
    choose(val, real, args.samples)
    for images, name in ((samples, "distribution.json"), (real, "distribution_of_val.json")):
        cdm("eval", "distribution", "--images", images, "--reference", reference, "--size", 128, "--pca", 256,
            "--out", made / name)
    cdm("eval", "cas", "--images", samples, "--reference", val, "--size", 32, "--network", "small",
        "--baseline", runs / "train_128", "--workdir", made / "cas", "--out", made / "cas.json")
    for path in ("report/report.json", "report/report.html", "distribution.json", "distribution_of_val.json",
                 "cas.json", "cascade/tune.json", "cascade/tune.html"):
        shutil.copy(made / path, args.out)
    write_json(args.out / "images.json", {name: json.loads((cascade / name / "stage.json").read_text())["facts"]
                                          for name in STAGES})


def choose(folder, out, n):
    """A folder of n pictures of each class, evenly over those of a folder of class folders."""
    for of_class in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(of_class.iterdir())
        (out / of_class.name).mkdir(parents=True, exist_ok=True)
        for i in np.linspace(0, len(files) - 1, n).astype(int):
            shutil.copy(files[i], out / of_class.name)


if __name__ == "__main__":
    main()
