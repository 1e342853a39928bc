# make demo   set everything up, and show the main job on a real Postfix
# make test   set everything up, and run every test
# make run    start Postseal on a database in ./run, to look around
# make bench  the benchmarks, as ratios within one run
# make guards take each guard out, and see its end-to-end test fail: an hour
# make screens the pictures of docs/screens.md, anew
# make lint   gofmt, go vet, staticcheck
#
# demo and test want root (they make network namespaces of their own) and
# install Debian packages they miss; they say which.

SHELL := /bin/bash
.DELETE_ON_ERROR:
export CGO_ENABLED := 1

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

.PHONY: all build demo test run bench lint fuzz guards screens

all: build

build:
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/postseal ./cmd/postseal

demo:
	@internal/lab/setup.sh demo
	@$(MAKE) -s build
	@bin/postseal demo $(if $(KEEP),--keep)

test:
	@internal/lab/setup.sh test
	@$(MAKE) -s lint
	@$(MAKE) -s build
	internal/lab/test.sh

run: build
	@mkdir -p run && chmod 700 run
	@test -e run/postseal.key || bin/postseal key new --key-file run/postseal.key
	bin/postseal serve --db sqlite:run/postseal.db --key-file run/postseal.key \
		--own-domain localhost --notice-from postseal@localhost

# bench is what docs/bench.md tells of: the program itself beside a bare echo server.
# BENCH takes its options, such as -only '^map$$' or -rounds 15.
bench: build
	@go build -o bin/bench ./internal/lab/bench
	@bin/bench -postseal bin/postseal $(BENCH)

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "gofmt: run gofmt -w on these"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

# fuzz runs every fuzz target for a while, beyond its seeds.
FUZZTIME ?= 30s
fuzz:
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep ^Fuzz); do \
		echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

# guards takes the guards of the promise out, one at a time, and runs the test that
# must notice. GUARDS is a regular expression of names.
GUARDS ?= .
guards:
	@internal/lab/setup.sh test
	@go run ./internal/lab/guards -run '$(GUARDS)'

# screens takes the pictures of docs/screens.md from the pages that the tests visit;
# only those that are there already are kept. Japanese wants a font (fonts-noto-cjk).
screens:
	@d=$$(mktemp -d); POSTSEAL_SCREENSHOTS=$$d go test -count=1 -timeout 20m -run 'Looks|BrowserInbox' ./escrow/portal; \
	for f in docs/screens/*.png; do cp $$d/$$(basename $$f) $$f || exit 1; done; rm -r $$d
