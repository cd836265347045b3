# make demo: a real model answers.   make test: everything is checked.   make help: the rest.
JOBS ?= $(shell nproc)
BUILD := build/release
TUTTI := $(BUILD)/tutti

.PHONY: help setup setup-dev build demo test bench bench-llama bench-serve bench-traffic bench-diffusion bundle-cuda study sanitize format lint clean

help:
	@echo "make setup        install missing apt packages and the Python wheels of .venv"
	@echo "make build        build the program: $(TUTTI)"
	@echo "make demo         set up, build, and let SmolLM2-135M answer"
	@echo "make test         set up, build, run all tests"
	@echo "make bench        throughput by rows and streams of this machine"
	@echo "make bench-llama  the same beside llama.cpp (builds it once; JSON=1 for one machine-readable line)"
	@echo "make bench-serve  tutti serve beside llama-server under the same load (builds it once; 12 minutes)"
	@echo "make bench-traffic  requests that arrive over time, under five schedulers (hours)"
	@echo "make bench-diffusion  masked models: policies, caches, FreeDave, and beside llama.cpp (half an hour)"
	@echo "make bundle-cuda  one archive that builds, checks and times the CUDA kernel on a machine with a GPU and no network"
	@echo "make study        what takes long: all windows of the conformance tests, the instruction levels, speculation on a thousand prompts, the server under load, the tables beside the peer"
	@echo "make sanitize     ASan+UBSan, TSan and 60 s of each fuzz target"
	@echo "make format lint  clang-format, clang-tidy"

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh --dev

$(BUILD)/build.ninja:
	@cmake --preset release

build: setup $(BUILD)/build.ninja
	@cmake --build $(BUILD) -j $(JOBS) --target tutti

demo: build
	@scripts/demo.sh $(TUTTI)

test: setup-dev $(BUILD)/build.ninja
	@bench/peers/llama.cpp/fetch.sh
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -j 1

bench: build
	@$(TUTTI) bench -m smollm2

bench-llama: setup-dev build
	@bench/peers/llama.cpp/build.sh
	@bench/peers/llama.cpp/compare.sh $(if $(JSON),--json)

bench-serve: setup-dev build
	@bench/peers/llama.cpp/serve.sh
	@bench/peers/llama.cpp/serve.sh --kv i8

bench-traffic: build
	@bench/traffic.sh

bench-diffusion: setup-dev build
	@bench/peers/llama.cpp/diffusion.sh
	@bench/diffusion.sh

bundle-cuda:
	@scripts/bundle_cuda.sh build/tutti-cuda.tar.gz

study: test
	@STUDY=1 ctest --test-dir $(BUILD) --output-on-failure -L "conformance|unit"
	@.venv/bin/python tests/study/levels.py
	@.venv/bin/python tests/study/lossless.py
	@.venv/bin/python tests/study/serve_equality.py
	@.venv/bin/python tests/study/serve_soak.py
	@bench/peers/llama.cpp/compare.sh --model smollm2
	@bench/peers/llama.cpp/compare.sh --model gemma3-270m
	@bench/smollm2-diffusion.sh
	@.venv/bin/python bench/credit_cost.py
	@bench/sudoku_recipe.py
	@bench/dimple_study.py
	@bench/certainty_study.py

sanitize: setup-dev
	@scripts/sanitize.sh

format:
	@git ls-files 'src/*.cpp' 'src/*.h' 'bench/*.cpp' 'tests/*.cpp' | xargs clang-format-19 -i

lint: $(BUILD)/build.ninja
	@git ls-files 'src/*.cpp' | grep -v /aten/ | xargs clang-tidy-19 --quiet -p $(BUILD)

clean:
	@rm -rf build
