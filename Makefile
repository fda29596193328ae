# Each target is one line; what takes more is a script that can be run by itself.
# See CONTRIBUTING.md.

VERSION  ?= $(shell packaging/version.sh)
PREFIX   ?= /usr/local
LIBEXEC  ?= $(PREFIX)/libexec
LDFLAGS   = -s -w -X main.version=$(VERSION:v%=%)
GOBUILD   = CGO_ENABLED=0 go build -trimpath -pgo cmd/govirtiofsd/govirtiofsd.pgo -ldflags "$(LDFLAGS)"
FUZZTIME ?= 1m
LINT      = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: all help build test test-arm64 race fuzz bench bench-peers bench-scale bench-fusedev bench-vs bench-guest profile lint vet install install-guest dist clean demo guests

all: build
help: ; @sed -n 's/^| `\(make[^`]*\)` | \([^|]*\) |.*/\1\t\2/p' CONTRIBUTING.md | expand -t 28
build: ; $(GOBUILD) -o bin/ ./cmd/govirtiofsd ./cmd/govirtiofs ./cmd/govirtiofs-guest
test: ; .ci/run
test-arm64: ; GOVIRTIOFS_LONG=1 GOVIRTIOFS_GUESTS=1 go test -v -count=1 -timeout 90m -run ARM64All ./test/arm64
race: ; GORACE="atexit_sleep_ms=10 $$GORACE" go test -race ./...
fuzz: ; .ci/fuzz $(FUZZTIME)
bench: ; go test -run '^$$' -bench . -benchmem ./...
bench-peers: ; test/bench/peers.sh
bench-scale: ; test/bench/scale.sh
bench-fusedev: ; FUSEDEV_BENCH_ROUNDS=$${ROUNDS:-7} go test -count=1 -v -timeout 1h -run TestMeasure ./test/fusedev
bench-vs: ; test/bench/vs.sh $(VS)
bench-guest: build ; go run ./internal/guest/cmd/guestbench -guest uml && go run ./internal/guest/cmd/guestbench -guest qemu72
profile: ; test/bench/profile.sh
lint: ; $(LINT) run ./...
vet: ; go vet ./... && GOARCH=arm64 go vet ./... && test -z "$$(gofmt -l .)"
install: build ; packaging/install.sh "$(DESTDIR)" "$(PREFIX)" "$(LIBEXEC)"
install-guest: build ; packaging/install-guest.sh "$(DESTDIR)" "$(PREFIX)"
dist: ; packaging/dist.sh "$(VERSION)"
clean: ; rm -rf bin dist
demo: build ; doc/demo.sh
guests: ; test/guest/setup.sh all && test/integrators/setup.sh
