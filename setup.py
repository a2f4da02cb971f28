"""Cascaded diffusion models with SR3 super-resolution on JAX and Flax."""

from setuptools import find_packages, setup

TFDS = "tensorflow-datasets>=4.9.9,<5"
STUDY = ["starlette>=1,<2", "uvicorn>=0.30,<1"]
TENSORBOARD = "tensorboardX>=2.6,<3"
DICOM = "pydicom>=3,<4"

setup(
    name="cdm",
    version="0.1.0",
    description="Cascaded diffusion models with SR3 super-resolution on JAX and Flax",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["cdm", "cdm.*"]),
    package_data={
        "cdm": ["weights/*/*", "weights/*/*/*"],
        "cdm.data": ["fluent_emoji.zip"],
        "cdm.evals.study": ["pages/*"],
    },
    install_requires=[
        "jax>=0.10,<0.12",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "grain>=0.2.18,<0.3",
        "array-record>=0.8,<0.9",
        "ml-collections>=1.1,<2",
        "absl-py>=2.1,<3",
        "numpy>=2,<3",
        "scipy>=1.14,<2",
        "pillow>=11,<14",
        "safetensors>=0.5,<0.9",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "test": ["pytest>=8,<10", "pytest-xdist>=3.6,<4", TFDS, TENSORBOARD, DICOM, *STUDY,
                 "selenium>=4.20,<5"],
        # Sets prepared by TensorFlow Datasets (some twenty packages, none of them TensorFlow), and preparing them.
        "tfds": [TFDS],
        "prepare": [TFDS, "tensorflow>=2.20,<3"],
        # Whoever else listens to a run's log: `log.writers`.
        "loggers": [TENSORBOARD, "wandb>=0.19,<1"],
        # The web page of `cdm study`.
        "study": STUDY,
        # Medical pictures in `cdm upscale`.
        "dicom": [DICOM],
        # Figures of the experiments.
        "experiments": ["matplotlib>=3.8,<4"],
        # Independent implementations, to remake the golden files of the tests.
        "reference": ["diffusers>=0.30,<1", "efficientnet-lite-pytorch>=0.1,<0.2", "lpips>=0.1.4,<0.2",
                      "prdc>=0.2,<0.3", "pytorch-fid>=0.3,<0.4", "scikit-image>=0.25,<1", "torch>=2.5,<3",
                      "torch-fidelity>=0.4,<0.5", "transformers>=5.20,<6"],
    },
    entry_points={"console_scripts": ["cdm=cdm.cli:command"]},
)
