# SPDX-License-Identifier: GPL-2.0-or-later
#
# All output goes below build/. QEMU_SRC=DIR uses a QEMU source tree of your
# own, which is only read; PEER=1 builds QEMU with its own spapr-rng.

MAKEFLAGS += --no-builtin-rules
SHELL = /bin/sh

OUT = $(if $(QEMU_SRC),build/own,build)$(if $(PEER),/peer)
SOURCE = $(or $(QEMU_SRC),build/base/qemu)
QEMU = $(OUT)/qemu-system-ppc64
PREFIX = /usr/local
export PREFIX DESTDIR

# A git hook sets these, but scripts use other repositories, too.
unexport GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

.DEFAULT_GOAL = help
.PHONY: help packages tree qemu peer full build run shell debian check \
	check-debian bench soak many fuzz coverage docs series install \
	uninstall deb bisect-check export clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo
	@sed -n '/^# All output/,/^$$/s/^# //p' Makefile

packages:
	@scripts/install-packages

tree: packages
	@scripts/get-base build/base
	@scripts/assemble $(SOURCE) $(OUT)/qemu $(if $(PEER),peer)

qemu: tree
	@scripts/build-qemu $(OUT) native qemu-system-ppc64
	@ln -sfn native/qemu-system-ppc64 $(QEMU)

peer:
	@$(MAKE) --no-print-directory PEER=1 qemu

full: tree
	@scripts/install-packages full
	@scripts/build-qemu $(OUT) full all

build: qemu ## build QEMU with the device, for this host and for POWER hosts with KVM
	@scripts/build-qemu $(OUT) ppc64le qemu-system-ppc64

run: qemu ## boot a Linux guest that draws random numbers through H_RANDOM
	@QEMU=$(QEMU) scripts/boot-guest show

shell: qemu ## an interactive Linux guest with the device
	@QEMU=$(QEMU) scripts/boot-guest shell

debian: full ## boot a whole Debian with the device; the first time takes 20 minutes
	@guests/debian/build
	@QEMU=$(OUT)/full/qemu-system-ppc64 scripts/boot-guest debian

install: full ## install a QEMU with all features, below PREFIX=/usr/local: 10 minutes
	@scripts/install $(OUT) add

uninstall: ## remove the installed files
	@scripts/install $(OUT) remove

deb: tree ## build and test Debian packages of QEMU with the device: 30 minutes
	@scripts/install-packages deb
	@guests/linux/build 6.1
	@scripts/make-deb $(OUT)

check: $(if $(SANITIZE),qemu,build peer) ## run every test; some on a QEMU with SANITIZE=address,undefined or thread
	@OUT=$(OUT) SANITIZE=$(SANITIZE) scripts/check

check-debian: full ## check the device within a whole Debian: 17 minutes
	@guests/debian/build
	@OUT=$(OUT) /usr/bin/python3 -m pytest -p no:cacheprovider -v --durations=0 \
		--basetemp $(OUT)/checks-debian -m debian checks

fuzz: tree ## fuzz the device for SECONDS=60
	@scripts/build-qemu $(OUT) asan qemu-system-ppc64
	@cd checks && OUT=$(abspath $(OUT)) FUZZ_SECONDS=$(or $(SECONDS),60) \
		FUZZ_SEED=$(or $(SEED),$$(date +%s)) \
		/usr/bin/python3 -m pytest -p no:cacheprovider -s -v \
		--basetemp $(abspath $(OUT))/fuzz test_fuzz.py

soak: qemu ## make and check 10^9 calls during 100 migrations: 6 minutes
	@OUT=$(OUT) bench/soak.py

bench: qemu peer ## measure this device and QEMU's own in turn: 15 minutes
	@guests/linux/build 6.1
	@OUT=$(OUT) bench/compare.py

many: qemu ## measure 20 guests at once: 3 minutes
	@OUT=$(OUT) bench/many.py

coverage: tree ## report which lines of the series the tests run
	@scripts/coverage $(OUT)

docs: tree ## build QEMU's manual, with warnings as errors
	@scripts/install-packages full
	@scripts/build-qemu $(OUT) full html
	@echo "The manual is $(OUT)/full/docs/manual/index.html"

series: tree ## write the patches as a mail series with a cover letter
	@scripts/mail-series $(OUT)/qemu $(OUT)/series

bisect-check: tree ## build and test QEMU at each patch of the series
	@scripts/bisect-check $(OUT)/qemu $(OUT)/bisect

export: ## write the commits of build/qemu back into this repository
	@scripts/export $(OUT)/qemu

clean: ## remove all output
	rm -rf build
