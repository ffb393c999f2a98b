# SPDX-License-Identifier: BSD-3-Clause
# Thin entries: everything runs in .venv, which the first target creates.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
VENV := .venv
PYTHON := $(VENV)/bin/python
TORCH ?= torch==2.13.0
TARGET ?= native
CXX_SOURCES = $(shell git ls-files '*.cu' '*.cuh' '*.h' '*.hpp' '*.cpp')

.PHONY: demo test build emulator wheel bench lint format conformance gpu-report
.DEFAULT_GOAL := build

demo: build               ## embed and search real sentences with a real transformer
	$(PYTHON) -m limelight demo

test: build emulator      ## the whole suite; without a GPU the kernels run on the emulator
	$(PYTHON) -m pytest $(PYTEST_ARGS)

build: $(VENV)/.ready     ## liblimelight.so and _core for this machine's GPU, or PTX for the emulator
	$(PYTHON) -m cmake -S . -B build/native -G Ninja $(CMAKE_COMMON) -DLIMELIGHT_TARGET=$(TARGET) \
	  -Dpybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir) -DLIMELIGHT_EXTRA_RPATH=$(CUDART_DIR)
	$(PYTHON) -m cmake --build build/native -j $(JOBS)
	$(PYTHON) -m cmake --install build/native --prefix python

emulator: $(VENV)/.ready  ## the CUDA runtime that executes PTX on the CPU: build/emulator/libcudart.so.13
	$(PYTHON) -m cmake -S tests/emulator -B build/emulator-cmake -G Ninja $(CMAKE_COMMON) \
	  -DLIMELIGHT_CUDA_INCLUDE=$(CUDART_DIR)/../include
	$(PYTHON) -m cmake --build build/emulator-cmake -j $(JOBS)

wheel: $(VENV)/.ready     ## dist/*.whl with every architecture; spills and serialised wgmma are errors
	mkdir -p build
	$(PYTHON) -m pip wheel --no-deps --no-build-isolation -w dist -v . 2>&1 | tee build/wheel.log | grep -vE '^ +(ptxas|Compiling|Used|[0-9]+ bytes)'
	! grep -n 'wgmma.mma_async instructions are serialized' build/wheel.log

bench: build              ## against torch's backends; needs a GPU
	$(PYTHON) -m limelight bench

conformance: build emulator  ## golden outputs of single instructions; needs a GPU
	$(PYTHON) tests/emulator/conformance/record.py

gpu-report:               ## the whole visit to a GPU machine, without network: gpu-report/
	python3 benchmarks/gpu_report/report.py

lint: $(VENV)/.ready
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	@$(VENV)/bin/clang-format --dry-run --Werror $(CXX_SOURCES)
	! git grep -nE '\basm\b *(volatile)? *\(' -- csrc ':!csrc/arch'

format: $(VENV)/.ready
	$(PYTHON) -m ruff format . && $(VENV)/bin/clang-format -i $(CXX_SOURCES)

JOBS ?= $(shell nproc)
CMAKE_COMMON = -DPython_EXECUTABLE=$(abspath $(PYTHON)) -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja
CUDART_DIR = $(shell $(PYTHON) -c "import nvidia, pathlib; print(pathlib.Path(list(nvidia.__path__)[0]) / 'cu13' / 'lib')")

# A .pth file makes the checkout's python/ folder importable: edits need no reinstall.
$(VENV)/.ready: requirements-dev.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install -q $(TORCH)
	$(PYTHON) -m pip install -q -r requirements-dev.txt
	echo "$(abspath python)" > $$($(PYTHON) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/limelight.pth
	touch $@
