# What people run. `make help` lists it.
#
# PYTHON   the Python that makes .venv (3.11 to 3.13); default: the first that fits of python3,
#          python3.13, python3.12, python3.11
# VENV     the environment's folder, default .venv

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV ?= .venv
RUN := $(VENV)/bin/python
FAST := not slow and not gpu and not browser and not server

# Versions are asked, not read off the name: a command may exist and refuse to run.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
define FIND_PYTHON
found=; for python in "$(PYTHON)" $(if $(PYTHON),,python3 python3.13 python3.12 python3.11); do \
  test -n "$$python" && "$$python" -c '$(FITS)' 2>/dev/null && found="$$python" && break; \
done; \
if test -z "$$found"; then \
  echo "make: no Python 3.11, 3.12 or 3.13 found$(if $(PYTHON), as PYTHON=$(PYTHON))." >&2; \
  echo "On Debian and Ubuntu: apt-get install python3 python3-venv; or name one:" >&2; \
  echo "make install PYTHON=/path/to/python3.12" >&2; \
  exit 2; \
fi
endef

# CHROMIUM names another browser of its kind, which the browser tests then use.
define CHROMIUM_INSTALLED
test -n "$$CHROMIUM" || command -v chromium >/dev/null || { \
  if ! command -v apt-get >/dev/null; then \
    echo "make: no chromium here, and no apt-get to install it. Install Chromium, or name one:" >&2; \
    echo "make test-browser CHROMIUM=/path/to/chrome" >&2; exit 2; \
  fi; \
  sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
  if test -n "$$sudo" && ! command -v sudo >/dev/null; then \
    echo "make: chromium is absent; as root: apt-get install chromium" >&2; exit 2; \
  fi; \
  $$sudo apt-get update && \
  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium || { \
    echo "make: chromium could not be installed (above). Install it by hand, or name one:" >&2; \
    echo "make test-browser CHROMIUM=/path/to/chrome" >&2; exit 2; }; \
}
endef
export CHROMIUM

# What tests/rtsp_server.py needs, run by Debian's own Python.
RTSP_PARTS := python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base \
  gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
RTSP_WORKS := import gi; gi.require_version("GstRtspServer", "1.0"); \
  from gi.repository import Gst, GstRtspServer; Gst.init(None); \
  exit(not all(map(Gst.ElementFactory.find, ("x264enc", "rtph264pay", "videotestsrc"))))
define RTSP_INSTALLED
/usr/bin/python3 -c '$(RTSP_WORKS)' 2>/dev/null || { \
  if ! command -v apt-get >/dev/null; then \
    echo "make: no apt-get here: the tests with an RTSP server will be skipped" >&2; \
  else \
    sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
    if test -n "$$sudo" && ! command -v sudo >/dev/null; then \
      echo "make: as root: apt-get install $(RTSP_PARTS)" >&2; exit 2; \
    fi; \
    $$sudo apt-get update && $$sudo env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y --no-install-recommends $(RTSP_PARTS) || { \
      echo "make: the RTSP server could not be installed (above): $(RTSP_PARTS)" >&2; exit 2; }; \
  fi; \
}
endef

.PHONY: help install demo test test-slow test-browser test-server lint clean clean-all

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

install: ## make or update .venv (PYTHON=..., DETECTRON2_COMMIT=...)
	@$(FIND_PYTHON); "$$found" tools/install.py --venv "$(VENV)" $(if $(PYTHON),--python-chosen)

demo: install ## the whole path on real aerial images, to output/demo (20 minutes at most)
	$(RUN) tools/demo.py --output output/demo

# A process a core with one thread each: half the time on two cores.
test: install ## the fast tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile -m "$(FAST)"

test-slow: install ## the tests that take minutes
	$(RUN) -m pytest -m "slow and not gpu and not browser and not server"

test-browser: install ## the tests in a web browser (installs Debian's chromium when it is absent)
	@$(CHROMIUM_INSTALLED)
	$(RUN) -m pytest -m "browser and not gpu and not server"

test-server: install ## streams that fail, on real servers (installs Debian's parts when absent)
	@$(RTSP_INSTALLED)
	$(RUN) -m pytest -m "server and not gpu and not browser and not slow"

lint: install ## style and format check
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean: ## remove caches, build leftovers and the demo's output; keeps .venv and your results
	rm -rf output/demo build dist .pytest_cache .ruff_cache .hypothesis
	find . -path "./$(VENV)" -prune -o -name __pycache__ -type d -exec rm -rf {} +

clean-all: clean ## also remove .venv
	rm -rf "$(VENV)" *.egg-info
