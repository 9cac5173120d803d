# `make demo` and `make test` set up everything they need; a second call installs nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS := -m pytest -m "not long"
GROUPS := rest federation sim sovereign cli lint training core node attacks replay web
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo rehearse test coverage lint bench bench-dashboard parity croissant oms harness exits fuzz malformed
.PHONY: hostile-web test-web forged life story sim chaos split test-long site lock clean help

help:           ## this list
	@grep -hE '^[a-z-]+: .*## ' Makefile | sed 's/: .*## /\t/' | expand -t 14

$(STAMP): requirements/torch.txt requirements/lock.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tapestry needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/torch.txt -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP)  ## train a shared base on this machine: a core and three nodes
	$(BIN)/tapestry demo $(DEMO_ARGS)

lint: $(STAMP)  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In groups, three at a time, since most wait now and then; each is told when it ends, the long ones begin
# first. One that fails stops no other. The dashboard wants a browser: without one its pages are tested as text.
test: $(STAMP)  ## lint, types, contracts and every test but the long ones
	@why=$$($(BIN)/python -m tests.web.browser 2>&1 >/dev/null) && why=; code=0; TAPESTRY_NO_CHROMIUM="$$why" \
	$(MAKE) --no-print-directory --keep-going --jobs 3 --output-sync=target $(GROUPS:%=part-%) || code=$$?; \
	test -z "$$why" || printf '\n*** NOT TESTED: the dashboard in a real browser (%s)\n' "$$why" >&2; exit $$code

part-lint: lint ;
part-rest: $(STAMP)
	$(BIN)/python $(TESTS) $(patsubst %,--ignore tests/%,$(filter-out rest lint,$(GROUPS))) $(TEST_ARGS)

part-federation: TEST_ARGS += -s
part-%: $(STAMP)
	$(BIN)/python $(TESTS) tests/$* $(TEST_ARGS)

coverage: $(STAMP)  ## which lines the tests' own processes reach; slower than `make test`
	$(BIN)/coverage run $(TESTS) $(TEST_ARGS)
	$(BIN)/coverage report

test-long: $(STAMP)  ## the long runs: 200 random kills, a run repeated without a dataset
	TAPESTRY_TEST_COLD=1 $(BIN)/python -m pytest -m long --timeout 7200 -s $(TEST_ARGS)

fuzz: $(STAMP)   ## hostile input to every parser: FUZZ_ARGS="--minutes 60"; goes on where it ended
	RUST_BACKTRACE=0 $(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

forged: $(STAMP)  ## 10,000 forged governance messages: FORGED_ARGS="--messages 100000 --seed 2"
	$(BIN)/python -m tests.governance.forged --report benchmarks/results $(FORGED_ARGS)

life: $(STAMP)   ## 100,000 steps through the life of decisions: LIFE_ARGS="--steps 1000000 --seed 2"
	$(BIN)/python -m tests.governance.life --report benchmarks/results $(LIFE_ARGS)

chaos: $(STAMP)  ## 200 faults of real processes and lines, 8 nodes: CHAOS_ARGS="--batches 2"; goes on where it ended
	$(BIN)/python -m tests.chaos --report benchmarks/results $(CHAOS_ARGS)

exits: $(STAMP)  ## take leave of 100 random small runs, every bundle checked: EXIT_ARGS="--runs 1000 --real 6"
	$(BIN)/python -m tests.bundle.campaign $(EXIT_ARGS)

split: $(STAMP)  ## a core that shows two histories, 20 times: SPLIT_ARGS="--calls 3"; goes on where it ended
	$(BIN)/python -m tests.federation.split $(SPLIT_ARGS)

bench: $(STAMP)  ## measure; writes benchmarks/results/
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

parity: $(STAMP)  ## loss against bytes, one member a language: PARITY_ARGS="--setting small --corpora DIR"
	$(BIN)/python -m benchmarks.parity --out parity $(PARITY_ARGS)

story: $(STAMP)  ## the life of a consortium of five, as its guide tells it (two minutes)
	$(BIN)/python -m pytest -m long tests/federation/test_life.py $(TEST_ARGS)

sim: $(STAMP)   ## more seeds of the fault simulator: SIM_ARGS="--seeds N --minutes M"; goes on where it stopped
	$(BIN)/python -m tests.sim $(SIM_ARGS)

croissant: $(STAMP)  ## our dataset cards under mlcroissant, which gets an environment of its own (370 MB)
	test -x .venv-croissant/bin/mlcroissant || { $(PYTHON) -m venv .venv-croissant && \
	.venv-croissant/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/croissant.txt; }
	$(BIN)/python -m tests.catalog.croissant .venv-croissant/bin/mlcroissant

oms: $(STAMP)    ## our model signatures under OpenSSF's own program, which gets an environment of its own (95 MB)
	test -x .venv-oms/bin/model_signing || { $(PYTHON) -m venv .venv-oms && \
	.venv-oms/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/oms.txt; }
	$(BIN)/python -m tests.release.model_signing .venv-oms/bin/model_signing

lock: $(STAMP)  ## write requirements/lock.txt anew from what is installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude torch --exclude tapestry > requirements/lock.txt

clean:          ## remove the environments and the demo's output
	rm -rf $(VENV) .venv-croissant .venv-oms .venv-harness tapestry-demo

malformed: $(STAMP)  ## 1,000 malformed requests to the endpoint of a model: MALFORMED_ARGS="--requests 10000 --seed 2"
	$(BIN)/python -m tests.sovereign.malformed $(MALFORMED_ARGS)

harness: $(STAMP)  ## tasks of lm-evaluation-harness on models of ours, in an environment of its own (350 MB)
	test -x .venv-harness/bin/lm_eval || { $(PYTHON) -m venv .venv-harness && \
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
	> "$$(.venv-harness/bin/python -c 'import site; print(site.getsitepackages()[0])')/tapestry.pth" && \
	.venv-harness/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/harness.txt; }
	.venv-harness/bin/python -m pytest -W ignore tests/sovereign/harness.py $(TEST_ARGS)

rehearse: $(STAMP)  ## six faults of a consortium of five, on this machine, and a report: REHEARSE_ARGS="--quick"
	$(BIN)/tapestry rehearse $(REHEARSE_ARGS)

site: $(STAMP)   ## the pages of docs/ as a site in site/, which needs no network to be read
	$(BIN)/mkdocs build --strict --quiet --clean

hostile-web: $(STAMP)  ## a thousand hostile requests to a dashboard: HOSTILE_ARGS="--requests 10000 --seed 2"
	$(BIN)/python -m tests.web.hostile $(HOSTILE_ARGS)

test-web: $(STAMP)  ## the dashboard's pages and flows in a real Chromium, long ones too
	$(BIN)/python -m pytest tests/web -m "long or not long" $(TEST_ARGS)

bench-dashboard: $(STAMP)  ## 50 viewers on a run of 50 members with 1,000 rounds behind it; for an idle machine
	$(BIN)/python -m benchmarks.dashboard $(BENCH_ARGS)

.PHONY: guides
guides: $(STAMP)  ## what the guides have people type, typed with real processes (some ten minutes)
	$(BIN)/python -m pytest -m "long or not long" tests/guides $(TEST_ARGS)
