# make demo | test | containers | bench | check. Everything is set up on the first call; "python3 launch/bootstrap.py" does the same without make.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help demo test containers bench check

help:
	@"$(PYTHON)" launch/bootstrap.py --help

demo:
	@"$(PYTHON)" launch/bootstrap.py demo $(DEMO_FLAGS)

test:
	@"$(PYTHON)" launch/bootstrap.py test $(TEST_FLAGS)

containers:
	@"$(PYTHON)" launch/bootstrap.py containers $(if $(CONTAINERS_FLAGS),-- $(CONTAINERS_FLAGS))

bench:
	@"$(PYTHON)" launch/bootstrap.py bench $(if $(BENCH_FLAGS),-- $(BENCH_FLAGS))

check:
	@"$(PYTHON)" launch/bootstrap.py check
