# The commands of the project. Each installs what it needs from Debian first and says what it does.
SWIFT ?= swift
export SWIFT
BIN = $(shell $(SWIFT) build -c release --show-bin-path)
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 60
FAILOVERS ?= 50
KIND ?= kill

.PHONY: build demo test bench lookup-bench tracking-bench relay-bench bench-datagrams conformance soak failover baseline fuzz format lint clean packages

packages:
	@scripts/install-packages.sh build lab

build: packages
	$(SWIFT) build -c release

# A client, the redirector and three iSCSI servers in network namespaces, and what they do.
demo: build
	@scripts/demo.sh "$(BIN)"

# All tests, those with namespaces and real clients and servers included (root).
test: packages
	$(SWIFT) build -c release --build-tests
	@scripts/test.sh

# Against a bare cable, nftables and HAProxy, in one run; then look-ups in memory.
bench: packages
	@scripts/install-packages.sh bench
	@Benchmarks/run.sh
	@$(SWIFT) run --package-path Benchmarks -c release lookup

lookup-bench: packages
	@$(SWIFT) run --package-path Benchmarks -c release lookup

# Sessions that are relayed over several servers, against HAProxy.
relay-bench: packages
	@scripts/install-packages.sh bench
	@Benchmarks/relay.sh

# NFS calls over UDP, against nftables and nginx.
bench-datagrams: packages
	@scripts/install-packages.sh bench
	@Benchmarks/datagrams.sh

# What following the messages of iSCSI sessions costs, and what keeping their open requests costs on top.
tracking-bench: packages
	@Benchmarks/tracking.sh

# libiscsi's tests directly against the server and through the redirector: the list of differences.
conformance: build
	@tools/conformance.sh

# Out of the fast path and in again every 50 ms for a minute, over good and bad links, IPv4 and IPv6.
soak: build
	@tools/soak.py $(SOAK_SECONDS)

# A server fails and is mended FAILOVERS times under a load that verifies every octet. KIND: kill, freeze, link,
# remove, drain, all (these in turn), controller, spare or add.
failover: build
	@tools/failover-loop.py --failovers $(FAILOVERS) --kind $(KIND)

# What initiators see of a server's failure, without the redirector and with it: a table, about 10 minutes.
baseline: build
	@tools/baseline.sh

fuzz: packages
	$(SWIFT) run --package-path Fuzz -c release fuzz --seconds $(FUZZ_SECONDS)

format:
	$(SWIFT) format -i -r Package.swift Sources Tests Benchmarks/Sources Fuzz/Sources

lint:
	$(SWIFT) format lint --strict -r Package.swift Sources Tests Benchmarks/Sources Fuzz/Sources

clean:
	rm -rf .build .build-* Benchmarks/.build Fuzz/.build
