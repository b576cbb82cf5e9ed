# `make demo` and `make test` set up what they need in .venv and reuse it the next time.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

.PHONY: cpp demo gpu-check pycuda test test-quick test-slow test-caffe test-torchvision lint types readme clean

demo: $(INSTALLED)
	$(RUN) examples/demo.py demo

# Two tests at a time, the tests of a file one after the other.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile

test: $(INSTALLED)
	$(PYTEST)

# While you work: without the tests that start, kill and restart processes.
test-quick: $(INSTALLED)
	$(PYTEST) -m 'not slow and not processes'

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow

# An independent reader of Caffe models: OpenCV 5 has none any more, so an environment of its own.
test-caffe: $(INSTALLED) .venv-caffe/.installed
	$(RUN) -m pytest -m slow tests/export/test_from_caffe_reader.py

.venv-caffe/.installed:
	$(PYTHON) -m venv .venv-caffe
	.venv-caffe/bin/python -m pip install --quiet --disable-pip-version-check opencv-python-headless==4.14.0.94
	touch $@

# torchvision's own wheel beside the tests' torch (it has no CPU build), and a Pillow that resamples as its users know.
TORCHVISION := .venv-torchvision
$(TORCHVISION)/.installed: $(INSTALLED)
	$(RUN) -m venv $(TORCHVISION)
	$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(TORCHVISION)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(TORCHVISION)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.29.1 pillow==12.2.0
	touch $@

test-torchvision: $(TORCHVISION)/.installed
	VERYDEEP_TORCHVISION_PYTHON="$(CURDIR)/$(TORCHVISION)/bin/python" $(RUN) -m pytest -m slow tests/export/test_from_torchvision_slow.py

# The C++ library: built, tested, installed and used, sanitized. Installs Debian's packages where they lack.
cpp: $(INSTALLED)
	infer/cpp/check.sh $(CURDIR)/$(RUN)

# PyCUDA on the simulated driver: built once, into build/. Without it the tests of the GPU path use cuda-python alone.
pycuda: $(INSTALLED)
	$(RUN) tests/cudasim/build_pycuda.py

# For the first person with a GPU: tests and benchmark on it, into gpu-report.json. Runs without one, too.
gpu-check: $(INSTALLED)
	if command -v nvidia-smi > /dev/null; then $(RUN) -m pip install --quiet 'tensorrt>=10.9'; fi
	$(RUN) benchmarks/gpu_check.py gpu-report.json

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(INSTALLED)
	$(RUN) -m mypy

readme: $(INSTALLED)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) .ci/readme.py README.md

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-caffe $(TORCHVISION) .cpp-build .onnxruntime demo build dist *.egg-info
