# Thin verbs; the work is in scripts/. `make run` and `make test` need a Debian 12 or 13, root, git and make.
.NOTPARALLEL:
.PHONY: run test test-unit test-functional lint bench soak images setup kernel agent ssh initrd stage1 clean

run: setup
	@scripts/build-images busybox
	@scripts/run-demo

test: setup images
	@scripts/test

test-unit: setup
	@scripts/test unit

test-functional: setup images
	@scripts/test functional

lint: setup
	@scripts/lint

bench: setup images
	@.venv/bin/python tests/bench/main.py

soak: setup images
	@scripts/soak

setup:
	@scripts/setup

images:
	@scripts/install-packages
	@scripts/build-images

kernel:
	@scripts/install-packages
	@scripts/build-kernel

agent:
	@scripts/install-packages
	@scripts/rust-toolchain
	@scripts/build-agent

ssh:
	@scripts/install-packages
	@scripts/rust-toolchain
	@scripts/build-ssh

initrd: agent
	@scripts/build-initrd

stage1: kernel initrd ssh
	@scripts/build-stage1

clean:
	rm -rf build .venv
