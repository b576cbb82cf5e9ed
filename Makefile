# `make demo` and `make test` set up what they need in .venv and reuse it the next time.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

.PHONY: cpp demo gpu-check proof-finetune pycuda test test-full test-fuzz test-kills test-quick test-slow test-torchvision lint types readme clean

demo: $(INSTALLED)
	$(RUN) examples/demo.py demo

# Two tests at a time, the tests of a file one after the other.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile

test: $(INSTALLED)
	$(PYTEST)

# While you work: without the tests that start, kill and restart processes.
test-quick: $(INSTALLED)
	$(PYTEST) -m 'not slow and not processes'

# GoogLeNet at full size and chains of kills; the importers beside OpenCV 4's reader of Caffe models and torchvision,
# each in an environment of its own.
CAFFE := .venv-caffe
TORCHVISION := .venv-torchvision
test-slow: $(INSTALLED) $(CAFFE)/.installed $(TORCHVISION)/.installed
	VERYDEEP_TORCHVISION_PYTHON="$(CURDIR)/$(TORCHVISION)/bin/python" $(PYTEST) -m 'slow and not full'

# The nets at full size that test-slow leaves out, compiled training, the rehearsals of benchmarks/gpu_bare.py and
# gpu_check, benchmarks/host.py: minutes each.
test-full: $(INSTALLED) $(TORCHVISION)/.installed
	VERYDEEP_TORCHVISION_PYTHON="$(CURDIR)/$(TORCHVISION)/bin/python" $(PYTEST) -m full

# Five of torchvision's nets at full size through the import, every protocol, and engines of them; prints their table.
test-torchvision: $(INSTALLED) $(TORCHVISION)/.installed
	VERYDEEP_TORCHVISION_PYTHON="$(CURDIR)/$(TORCHVISION)/bin/python" $(RUN) -m pytest -m torchvision -s tests/export/test_torchvision_five.py

# Damages every kind of file that we read, for an hour or SECONDS, each round by another seed.
SECONDS := 3600
test-fuzz: $(INSTALLED)
	until=$$(($$(date +%s) + $(SECONDS))); while [ $$(date +%s) -lt $$until ]; do \
	  VERYDEEP_FUZZ_EXAMPLES=300 $(PYTEST) tests/fuzz || exit 1; done

# Kills every long command at random moments, KILLS times in all, until each got through with the same bytes.
KILLS := 200
test-kills: $(INSTALLED)
	$(RUN) tests/fuzz/kills.py $(KILLS)

# OpenCV 5 reads no Caffe models any more.
$(CAFFE)/.installed:
	$(PYTHON) -m venv $(CAFFE)
	$(CAFFE)/bin/python -m pip install --quiet --disable-pip-version-check opencv-python-headless==4.14.0.94
	touch $@

# torchvision's own wheel beside the tests' torch (it has no CPU build), and a Pillow that resamples as its users know.
$(TORCHVISION)/.installed: $(INSTALLED)
	$(RUN) -m venv $(TORCHVISION)
	$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(TORCHVISION)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(TORCHVISION)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.29.1 pillow==12.2.0
	touch $@

# The C++ library: built, tested, installed and used, sanitized. Installs Debian's packages where they lack.
cpp: $(INSTALLED)
	infer/cpp/check.sh $(CURDIR)/$(RUN)

# PyCUDA on the simulated driver: built once, into build/. Without it the tests of the GPU path use cuda-python alone.
pycuda: $(INSTALLED)
	$(RUN) tests/cudasim/build_pycuda.py

# Does fine-tuning help? About an hour on two cores; the tables in docs/own-photos.md.
proof-finetune: $(INSTALLED)
	$(RUN) benchmarks/finetune.py --doc docs/own-photos.md
	$(RUN) benchmarks/finetune.py --seeds 3,4,5 --tune-each --doc docs/own-photos.md

# For the first person with a GPU: tests and benchmark on it, into gpu-report.json. Runs without one, too.
gpu-check: $(INSTALLED)
	if command -v nvidia-smi > /dev/null; then \
	  driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1 | cut -d . -f 1); \
	  if [ "$$driver" -ge 580 ]; then $(RUN) -m pip install --quiet 'tensorrt>=10.3'; \
	  else $(RUN) -m pip install --quiet 'tensorrt-cu12>=10.3' 'cuda-bindings>=12.6,<13'; fi; fi
	$(RUN) benchmarks/gpu_check.py gpu-report.json

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(INSTALLED)
	$(RUN) -m mypy

readme: $(INSTALLED)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) .ci/readme.py README.md
	rm -rf demo/your-model && mkdir -p demo/your-model && cd demo/your-model && EXAMPLES="$(CURDIR)/examples" \
	  PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(CURDIR)/$(RUN) $(CURDIR)/.ci/readme.py $(CURDIR)/docs/your-model.md

# An older checkout's OpenCV has its cv2 where contrib's is.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip uninstall -qq --yes opencv-python-headless
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(CAFFE) $(TORCHVISION) .cpp-build .onnxruntime demo build dist *.egg-info
