# `make bench-rules`: what the blacklist costs.  Hyperscan and RE2 take part where their development files are installed
# (Debian: libhyperscan-dev libre2-dev).

CC_bench := gcc
FLAGS_bench := -O2 -DNDEBUG -UFORWARDER_FAULTS -Wno-error
$(eval $(call C_MODE,bench))

BENCH_RULES := build/bench/rules
BENCH_PROGRAMS := $(addprefix $(BENCH_RULES)/,index_bench redos_bench)
BENCH_PROGRAMS += $(if $(shell pkg-config --exists libhs 2>/dev/null && echo yes),$(BENCH_RULES)/hs_bench)
BENCH_PROGRAMS += $(if $(shell pkg-config --exists re2 2>/dev/null && echo yes),$(BENCH_RULES)/re2_bench)

$(BENCH_RULES)/%: bench/rules/%.c bench/rules/bench.h build/bench/libcore.a
	@mkdir -p $(@D)
	$(SAY)$(CC_bench) $(C_BASE) $(FLAGS_bench) -Icsrc -o $@ $< build/bench/libcore.a \
	    $(if $(filter %hs_bench,$@),$(shell pkg-config --libs libhs)) $(LIB_LIBS)
$(BENCH_RULES)/re2_bench: bench/rules/re2_bench.cc bench/rules/bench.h
	@mkdir -p $(@D)
	$(SAY)g++ -std=c++17 -O2 -Wall -o $@ $< $(shell pkg-config --libs re2) -lpcre2-8

bench-rules: $(BENCH_PROGRAMS) $(CORE) ## what rules cost, beside other engines; some five minutes
	$(PY) bench/rules/run.py $(BENCH_RULES) --json $(BENCH_RULES)/result.json
.PHONY: bench-rules
