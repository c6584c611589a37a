# C unit tests: each tests/c/test_*.c is one program, linked with the core without its binding (csrc/py_*.c).
#
# A mode is a compiler and its flags; build/MODE holds its objects, one archive of the core and the programs.
# `make ctest` runs gcc and clang, `make asan` and `make tsan` what the name says, and `make torture` the asan programs
# with --torture: every allocation fails once.  `make build/asan/test_url.run` is one test alone.

C_WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
C_BASE := -std=c11 -D_GNU_SOURCE -DFORWARDER_FAULTS -DFORWARDER_VERSION='"test"' -g -fno-omit-frame-pointer $(C_WARN)
C_LIBRARIES := libcurl libpcre2-8 jansson sqlite3

CC_gcc := gcc
FLAGS_gcc := -O1
CC_clang := clang
FLAGS_clang := -O1
CC_asan := clang
FLAGS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
CC_tsan := clang
FLAGS_tsan := -O1 -fsanitize=thread

CORE_C := $(filter-out csrc/py_%.c,$(wildcard csrc/*.c))
BINDING_C := $(wildcard csrc/py_*.c)
TEST_C := $(wildcard tests/c/test_*.c)
# Programs that a test in Python talks to; `make pytest` builds them first.
TOOL_C := $(wildcard tests/c/*_tool.c)
TOOLS := $(TOOL_C:tests/c/%.c=build/gcc/%)
SUPPORT_C := $(filter-out $(TEST_C) $(TOOL_C),$(wildcard tests/c/*.c))
TEST_NAMES := $(TEST_C:tests/c/%.c=%)
# What threads share; the rest is one thread's and would only cost time.
TSAN_NAMES := $(filter test_mailbox test_reactor test_rules test_spool test_stats test_engine,$(TEST_NAMES))

# Asked once, and only when something is compiled: the packages may just have been installed.
LIB_CFLAGS = $(eval LIB_CFLAGS := $$(shell pkg-config --cflags $(C_LIBRARIES)))$(LIB_CFLAGS)
LIB_LIBS = $(eval LIB_LIBS := $$(shell pkg-config --libs $(C_LIBRARIES)) -lpthread -lm)$(LIB_LIBS)
PY_INCLUDE = $(eval PY_INCLUDE := $$(shell $(PY) -c 'import sysconfig; print(sysconfig.get_paths()["include"])'))$(PY_INCLUDE)

# V=1 shows the commands.
SAY = $(if $(V),,@echo "  $@";)

define C_MODE
build/$(1)/csrc/%.o: csrc/%.c tests/c/rules.mk | $(TEST_PACKAGES)
	@mkdir -p $$(@D)
	$$(SAY)$$(CC_$(1)) $$(C_BASE) $$(FLAGS_$(1)) $$(LIB_CFLAGS) -MMD -MP -c -o $$@ $$<
build/$(1)/tests/%.o: tests/c/%.c tests/c/rules.mk | $(TEST_PACKAGES)
	@mkdir -p $$(@D)
	$$(SAY)$$(CC_$(1)) $$(C_BASE) $$(FLAGS_$(1)) -Icsrc -Itests/c -MMD -MP -c -o $$@ $$<
build/$(1)/libcore.a: $(CORE_C:%.c=build/$(1)/%.o) $(SUPPORT_C:tests/c/%.c=build/$(1)/tests/%.o)
	@rm -f $$@
	$$(SAY)$$(AR) rcs $$@ $$^
build/$(1)/%: build/$(1)/tests/%.o build/$(1)/libcore.a
	$$(SAY)$$(CC_$(1)) $$(FLAGS_$(1)) -o $$@ $$^ $$(LIB_LIBS)
-include $(wildcard build/$(1)/csrc/*.d build/$(1)/tests/*.d)
endef
$(foreach mode,gcc clang asan tsan,$(eval $(call C_MODE,$(mode))))

# The binding has no C test; it has to compile without a warning, with both compilers, against the limited API.
define BINDING_CHECK
build/$(1)/binding/%.o: csrc/%.c $(C_SOURCES) tests/c/rules.mk | $(TEST_PACKAGES) $(DEPS)
	@mkdir -p $$(@D)
	$$(SAY)$$(CC_$(1)) $$(C_BASE) $$(FLAGS_$(1)) -fPIC -DPy_LIMITED_API=0x030b0000 -isystem $$(PY_INCLUDE) -c -o $$@ $$<
endef
$(foreach mode,gcc clang,$(eval $(call BINDING_CHECK,$(mode))))

export ASAN_OPTIONS ?= detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS ?= print_stacktrace=1
export TSAN_OPTIONS ?= halt_on_error=1:second_deadlock_stack=1

# A test says nothing when it passes and everything when it does not.
define RUN
@echo "$(@:build/%=%)"; timeout 600 $(1) >$@.log 2>&1 || { rc=$$?; cat $@.log; echo "$(1): exit code $$rc"; exit 1; }
endef
%.run: % FORCE
	$(call RUN,$<)
%.torture: % FORCE
	$(call RUN,$< --torture)
FORCE:
# Objects and programs are kept between runs.
.SECONDARY:

BINDING_OBJECTS = $(foreach mode,gcc clang,$(BINDING_C:csrc/%.c=build/$(mode)/binding/%.o))
ctest: $(foreach mode,gcc clang,$(TEST_NAMES:%=build/$(mode)/%.run)) $(BINDING_OBJECTS) ## C unit tests with gcc and with clang, -Werror
asan: $(TEST_NAMES:%=build/asan/%.run) ## C unit tests and the fuzz corpora under AddressSanitizer with leak check and UBSan
tsan: $(TSAN_NAMES:%=build/tsan/%.run) ## C unit tests of what threads share, under ThreadSanitizer
torture: $(TEST_NAMES:%=build/asan/%.torture) ## every C unit test with every allocation failing once
.PHONY: ctest asan tsan torture FORCE
