# make train: the main job, from a fresh machine.  make test: the tests.  Every target sets the environment up first.
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup train test serve suffix bench clean

setup: $(READY)

$(READY): requirements/cpu.txt requirements/dev.txt scripts/setup.sh
	@VENV=$(VENV) bash scripts/setup.sh
	@touch $@

train: setup
	$(PY) main.py mode=train $(ARGS)

test: setup
	$(PY) -m pytest $(ARGS)

# the page and an OpenAI-compatible API on 127.0.0.1:8000, with the newest run's policy or the embedded starter
serve: setup
	$(PY) main.py mode=serve $(ARGS)

# the package behind engine.speculative=suffix
suffix: setup
	@VENV=$(VENV) bash scripts/suffix.sh

bench: setup
	$(PY) -m benchmarks.train $(ARGS)

clean:
	rm -rf $(VENV) .venv-trl build *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
