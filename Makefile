# Everything that a fresh clone needs: each target sets up its own environment in $(VENV).

# One that has a file in requirements/. Each has an environment of its own; what is compiled in place is of the one that
# was tested or built last.
TORCH ?= 2.13.0
VENV ?= $(if $(filter 2.13.0,$(TORCH)),.venv,.venv-torch-$(TORCH))
PYTHON ?= python3
RUN = $(VENV)/bin/python

# Of `make build` and `make wheel`, such as "9.0" or "8.0 9.0+PTX": all usual ones unless given here or in TORCH_CUDA_ARCH_LIST.
ARCH ?= $(TORCH_CUDA_ARCH_LIST)
# Of `make test`: one of each generation, to keep it short.
TEST_ARCH ?= 8.0 9.0 12.0
# The part of the suite that `make sanitize` runs: sanitized, the emulator is several times slower.
SANITIZE_SELECTION ?= -m emulated -k sanitize_smoke

# Compiles what has changed, into the package's folder.
BUILD = $(RUN) setup.py --quiet build_ext --inplace
TEST_BUILD = FUSED_RESNET_EMULATOR=1 TORCH_CUDA_ARCH_LIST="$(TEST_ARCH)" $(BUILD)
# Python is not linked to them, and a sanitizer has to be loaded ahead of everything else; it intercepts the exceptions
# of libstdc++, which it has to find then.
SANITIZERS = $(shell $${CXX:-g++} -print-file-name=libasan.so) $(shell $${CXX:-g++} -print-file-name=libstdc++.so)
# Python keeps memory until its end: not leaks of the kernels. Stacks of fibers are not those that it expects.
SANITIZE_OPTIONS = ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

CPP_FILES = $(shell find csrc tests/emulator -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')

.PHONY: help demo report figures build wheel test test-all resources sanitize gpu check format clean

help:
	@echo "make demo       train and measure on real images, unfused against fused (under 10 minutes on 2 cores)"
	@echo "make report     write build/report.html, one page with all results of benchmarks/results"
	@echo "make figures    draw the pictures of these results again, and the tables of README.md and docs/"
	@echo "make build      build the CUDA kernels for all usual GPUs; make build ARCH=9.0 for one (under 2 minutes)"
	@echo "make wheel      build an sdist and, from it, a wheel into dist/, with the kernels where there is nvcc; ARCH=9.0"
	@echo "make test       build what can be tested here, the kernels for the CPU included, and run the test suite, some"
	@echo "                cases of each test; make test TORCH=2.14.1 in an environment with another PyTorch"
	@echo "make test-all   the same with every case"
	@echo "make resources  write docs/kernels.md: registers, shared memory and occupancy of each kernel"
	@echo "make sanitize   run a part of the test suite with the address and undefined behaviour sanitizers"
	@echo "make gpu        on a machine with a GPU, in 8 minutes: build, check, time, train and sanitize; OUT=, PART="
	@echo "make check      ruff, ruff format, mypy, clang-format"
	@echo "make format     apply the fixes and formatting of ruff and clang-format"

demo: $(VENV)/ready
	$(RUN) -m benchmarks

report: $(VENV)/ready
	$(RUN) -m benchmarks report

figures: $(VENV)/ready
	$(RUN) -m benchmarks figures

build: $(VENV)/ready
	FUSED_RESNET_CUDA=1 TORCH_CUDA_ARCH_LIST="$(ARCH)" $(BUILD)

# From the sdist, so that nothing gets into the wheel that is not in both. A cache would give back the wheel of an earlier
# sdist of the same name.
wheel: $(VENV)/ready
	rm -f dist/fused_resnet-*
	$(RUN) setup.py --quiet sdist
	TORCH_CUDA_ARCH_LIST="$(ARCH)" $(RUN) -m pip wheel --no-build-isolation --no-deps --no-cache-dir --wheel-dir dist \
	    dist/fused_resnet-*.tar.gz

test: $(VENV)/ready
	$(TEST_BUILD)
	$(RUN) -m pytest -q -n auto --dist loadfile

test-all: $(VENV)/ready
	$(TEST_BUILD)
	$(RUN) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --all

resources: $(VENV)/ready
	FUSED_RESNET_CUDA=1 $(TEST_BUILD)
	$(RUN) -m kernel_resources.report

# Afterwards the ordinary modules are put back: sanitized ones cannot be loaded without more ado.
sanitize: $(VENV)/ready
	FUSED_RESNET_CUDA=0 FUSED_RESNET_SANITIZE=1 FUSED_RESNET_EMULATOR=1 $(BUILD)
	LD_PRELOAD="$(SANITIZERS)" $(SANITIZE_OPTIONS) timeout 300 $(RUN) -m pytest -q --all $(SANITIZE_SELECTION); \
	    status=$$?; $(TEST_BUILD) && exit $$status

# Of `make gpu`: where results go (default: benchmarks/results), and one of build, checks, tests, phases, training,
# evaluation, compiled, sanitize, counters (default: all). It runs with the Python that has PyTorch for the GPU.
OUT ?=
PART ?=
gpu:
	$(PYTHON) -m benchmarks.gpu --out "$(OUT)" --part "$(PART)"

check: $(VENV)/ready
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/ready
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format
	$(VENV)/bin/clang-format -i $(CPP_FILES)

clean:
	rm -rf $(VENV) build dist *.egg-info
	rm -f $(foreach name,_C _emulated,fused_resnet/$(name).*so fused_resnet/$(name).json)

# The kernels are left to the targets that need them: they are compiled again whenever they change, this is not made.
$(VENV)/ready: pyproject.toml requirements/dev.txt requirements/torch-$(TORCH).txt requirements/without-dependencies.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements/torch-$(TORCH).txt --requirement requirements/dev.txt
	$(RUN) -m pip install --quiet --no-deps --requirement requirements/without-dependencies.txt
	FUSED_RESNET_CUDA=0 $(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(RUN) -c "from fused_resnet import backend; print('fused_resnet installed:', backend.summary())"
	@touch $@
