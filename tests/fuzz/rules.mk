# Fuzzing: tests/fuzz/fuzz_NAME.c is a libFuzzer entry, tests/fuzz/corpus/NAME what it begins with.
# FUZZ_SECONDS=3600 make fuzz MATCHES=100000000 make fuzz-rules by hand; the defaults are for CI.

FUZZ_SECONDS ?= 10
MATCHES ?= 1000000
CC_fuzz := clang
FLAGS_fuzz := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
$(eval $(call C_MODE,fuzz))

FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_FLAGS = $(C_BASE) -Icsrc -Itests/fuzz -Wno-missing-prototypes

build/fuzz/entry/%: tests/fuzz/fuzz_%.c tests/fuzz/fuzz.h build/fuzz/libcore.a
	@mkdir -p $(@D)
	$(SAY)clang $(FUZZ_FLAGS) $(FLAGS_fuzz) -fsanitize=fuzzer -o $@ $< build/fuzz/libcore.a $(LIB_LIBS)
build/asan/replay/%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c tests/fuzz/fuzz.h build/asan/libcore.a
	@mkdir -p $(@D)
	$(SAY)$(CC_asan) $(FUZZ_FLAGS) $(FLAGS_asan) -o $@ $< tests/fuzz/replay.c build/asan/libcore.a $(LIB_LIBS)
build/gcc/rules_search: tests/fuzz/rules_search.c tests/fuzz/fuzz.h build/gcc/libcore.a
	$(SAY)$(CC_gcc) $(FUZZ_FLAGS) -O2 -o $@ $< build/gcc/libcore.a $(LIB_LIBS)

fuzz: $(FUZZ_NAMES:%=build/fuzz/entry/%) ## each fuzz entry for a while; FUZZ_SECONDS=3600
	@for name in $(FUZZ_NAMES); do \
	    echo "fuzz $$name"; mkdir -p build/fuzz/corpus/$$name; \
	    build/fuzz/entry/$$name -max_total_time=$(FUZZ_SECONDS) -max_len=2000 -artifact_prefix=build/fuzz/ \
	        build/fuzz/corpus/$$name tests/fuzz/corpus/$$name >build/fuzz/$$name.log 2>&1 || \
	        { tail -40 build/fuzz/$$name.log; exit 1; }; \
	done
fuzz-replay: $(FUZZ_NAMES:%=build/asan/replay/%) ## the fuzz entries on their corpora
	@for name in $(FUZZ_NAMES); do echo "replay $$name"; build/asan/replay/$$name tests/fuzz/corpus/$$name || exit 1; done
fuzz-rules: build/gcc/rules_search ## no match is hidden by the index; MATCHES=1000000, SEED=1
	$< $(MATCHES) $(or $(SEED),1)
.PHONY: fuzz fuzz-replay fuzz-rules
