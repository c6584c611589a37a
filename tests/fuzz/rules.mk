# Fuzzing: tests/fuzz/fuzz_NAME.c is a libFuzzer entry, tests/fuzz/corpus/NAME what it begins with.  `make asan` replays
# the corpora; what `make fuzz` finds is kept in build/fuzz/found.
# FUZZ_SECONDS=3600 make fuzz MATCHES=100000000 make fuzz-rules by hand; the defaults are a quick look.

FUZZ_SECONDS ?= 10
MATCHES ?= 1000000
CC_fuzz := clang
FLAGS_fuzz := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
$(eval $(call C_MODE,fuzz))

FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_FLAGS = $(C_BASE) $(LIB_CFLAGS) -Icsrc -Itests/fuzz

build/fuzz/entry/%: tests/fuzz/fuzz_%.c tests/fuzz/fuzz.h build/fuzz/libcore.a
	@mkdir -p $(@D)
	$(SAY)$(CC_fuzz) $(FUZZ_FLAGS) $(FLAGS_fuzz) -fsanitize=fuzzer -o $@ $< build/fuzz/libcore.a $(LIB_LIBS)
build/asan/replay/%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c tests/fuzz/fuzz.h build/asan/libcore.a
	@mkdir -p $(@D)
	$(SAY)$(CC_asan) $(FUZZ_FLAGS) $(FLAGS_asan) -o $@ $< tests/fuzz/replay.c build/asan/libcore.a $(LIB_LIBS)
build/asan/replay/%.run: build/asan/replay/% FORCE
	$(call RUN,$< tests/fuzz/corpus/$*)
build/fuzz/entry/%.run: build/fuzz/entry/% FORCE
	@mkdir -p build/fuzz/found/$*
	@$< -max_total_time=$(FUZZ_SECONDS) -max_len=2000 -timeout=20 -artifact_prefix=build/fuzz/$*- \
	    build/fuzz/found/$* tests/fuzz/corpus/$* >$@.log 2>&1 || { tail -n 60 $@.log; \
	    echo "$< found an input that it must not fail on; again with: $< build/fuzz/$*-..."; exit 1; }; \
	    echo "$(@:build/%=%): $$(tail -n 1 $@.log)"
build/gcc/rules_search: tests/fuzz/rules_search.c tests/fuzz/fuzz.h build/gcc/libcore.a
	$(SAY)$(CC_gcc) $(FUZZ_FLAGS) -O2 -o $@ $< build/gcc/libcore.a $(LIB_LIBS)

fuzz: $(FUZZ_NAMES:%=build/fuzz/entry/%.run) ## each fuzz entry for a while; FUZZ_SECONDS=3600
fuzz-replay: $(FUZZ_NAMES:%=build/asan/replay/%.run) ## the fuzz entries on their corpora
asan: fuzz-replay
fuzz-rules: build/gcc/rules_search ## no match is hidden by the index; MATCHES=1000000, SEED=1
	$< $(MATCHES) $(or $(SEED),1)
fuzz-dialect: build/asan/dialect_tool $(DEPS) ## random patterns in the core and in Python's re; FUZZ_SECONDS=3600
	$(PY) -m tests.rules.fuzz --seconds $(FUZZ_SECONDS) --tool $<
.PHONY: fuzz fuzz-replay fuzz-rules fuzz-dialect
