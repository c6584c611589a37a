"""The rules of the C core that a compiler does not check: levels, libraries, functions, sizes.

The levels come from the table in ``csrc/README.md``.  Every rule is a function from the sources to
a list of complaints, so that the second half of this file can show that each is able to complain.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 80

# libc and POSIX; anything else is a third-party library and has to stand in the table.
SYSTEM_HEADERS = frozenset(
    """
    arpa/inet.h assert.h ctype.h dirent.h errno.h fcntl.h ifaddrs.h inttypes.h limits.h locale.h
    math.h netdb.h netinet/in.h poll.h pthread.h signal.h stdarg.h stdatomic.h stdbool.h stddef.h
    stdint.h
    stdio.h stdlib.h string.h strings.h sys/eventfd.h sys/file.h sys/mman.h sys/random.h
    sys/resource.h sys/socket.h sys/stat.h sys/time.h sys/types.h sys/uio.h sys/wait.h time.h
    unistd.h
    """.split()
)
# Not below L1, whose business they are.
THREAD_HEADERS = frozenset({"pthread.h", "sys/eventfd.h"})

# What mem.h replaces; not even as a function pointer.
ALLOCATORS = "malloc calloc realloc reallocarray free".split()
# What allocates behind mem.h's back, trusts a length, cannot report an error, or keeps its answer
# in static storage.
BANNED_CALLS = """
    strdup strndup asprintf vasprintf getline getdelim open_memstream aligned_alloc posix_memalign
    alloca sprintf vsprintf strcpy stpcpy strcat strncpy strncat gets scanf fscanf sscanf atoi atol
    atoll atof strtok localtime gmtime ctime asctime rand srand random srandom drand48 tmpnam
    tempnam mktemp system popen setenv putenv sleep usleep longjmp setjmp
    """.split()


@dataclass(frozen=True)
class Place:
    """Where a file stands in the table: the row, and the column within it."""

    level: int
    position: int


@dataclass(frozen=True)
class Core:
    """The sources by file name, and what the README says of them."""

    files: dict[str, str]
    places: dict[str, Place]
    # Level -> the third-party headers that its row names, by their last part ("curl.h").
    libraries: dict[int, frozenset[str]]
    # Levels within which a file may include those to its left.
    ordered: frozenset[int]


def read_table(readme: str) -> tuple[dict[str, Place], dict[int, frozenset[str]], frozenset[int]]:
    places: dict[str, Place] = {}
    libraries: dict[int, frozenset[str]] = {}
    for row in re.finditer(r"^\| L(\d) \|([^|]*)\|([^|]*)\|", readme, re.MULTILINE):
        level = int(row[1])
        libraries[level] = frozenset(re.findall(r"[\w.]+\.h\b", row[3]))
        position = 0
        for name, extensions in re.findall(r"`(\w+)\.(\[ch\]|c|h)`", row[2]):
            # A header stands to the left of its own source.
            for extension in ("h", "c") if extensions == "[ch]" else (extensions,):
                file = f"{name}.{extension}"
                assert file not in places, f"{file} is twice in the table of csrc/README.md"
                places[file] = Place(level, position)
                position += 1
    sentence = re.search(r"\(within ([^)]*) also those to its left\)", readme)
    assert sentence is not None, (
        "csrc/README.md no longer says where a file may include its neighbours"
    )
    return places, libraries, frozenset(int(level) for level in re.findall(r"L(\d)", sentence[1]))


def read_core() -> Core:
    files = {path.name: path.read_text() for path in sorted(CSRC.glob("*.[ch]"))}
    return Core(files, *read_table((CSRC / "README.md").read_text()))


def code_of(text: str) -> str:
    """The text without comments and what stands in quotes; lines stay where they are."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    tokens = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(tokens, blank, text, flags=re.DOTALL)


def own_includes(text: str) -> list[str]:
    return re.findall(r'^#\s*include "([^"]+)"', text, re.MULTILINE)


def system_includes(text: str) -> list[str]:
    return re.findall(r"^#\s*include <([^>]+)>", text, re.MULTILINE)


def numbered_lines(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.splitlines(), start=1))


# --- the rules ------------------------------------------------------------------------------------


def table_complaints(core: Core) -> list[str]:
    """The table and the directory name the same files."""
    missing = [
        f"{name} is not in the table of csrc/README.md"
        for name in core.files
        if name not in core.places
    ]
    gone = [
        f"{name} is in the table but not in csrc/" for name in core.places if name not in core.files
    ]
    return missing + gone


def may_include(core: Core, includer: str, header: str) -> bool:
    below, above = core.places[header], core.places[includer]
    if below.level != above.level:
        return below.level < above.level
    if header.removesuffix(".h") == includer.removesuffix(".c"):
        return True
    return above.level in core.ordered and below.position < above.position


def level_complaints(core: Core) -> list[str]:
    """A file includes its own header and lower levels; in some levels also what is to its left."""
    complaints = []
    for name, text in core.files.items():
        for header in own_includes(text):
            if header not in core.places:
                complaints.append(f"{name} includes {header}, which is not in the table")
            elif name in core.places and not may_include(core, name, header):
                complaints.append(f"{name} (L{core.places[name].level}) may not include {header}")
    return complaints


def library_complaints(core: Core) -> list[str]:
    """A third-party header has one includer, in the level whose row names it."""
    complaints = []
    includers: dict[str, list[str]] = {}
    for name, text in core.files.items():
        level = core.places[name].level if name in core.places else -1
        for header in system_includes(text):
            last_part = header.rpartition("/")[2]
            if header not in SYSTEM_HEADERS:
                includers.setdefault(last_part, []).append(name)
                if last_part not in core.libraries.get(level, ()):
                    complaints.append(f"{name}: <{header}> is not for L{level}")
            elif header in THREAD_HEADERS and level < 1:
                complaints.append(f"{name}: <{header}> is not for L{level}")
    complaints += [
        f"<{header}> is included by more than one file: {', '.join(names)}"
        for header, names in includers.items()
        if len(names) > 1
    ]
    return complaints


def function_complaints(core: Core) -> list[str]:
    """No allocator but mem.c's, and none of the banned functions."""
    # Neither a member nor a longer name.
    allocators = re.compile(rf"(?<![\w.>])({'|'.join(ALLOCATORS)})\b")
    calls = re.compile(rf"(?<![\w.>])({'|'.join(BANNED_CALLS)})\s*\(")
    complaints = []
    for name, text in core.files.items():
        for number, line in numbered_lines(code_of(text)):
            found = calls.findall(line)
            if name != "mem.c":
                found += allocators.findall(line)
            complaints += [f"{name}:{number}: {function} is banned" for function in found]
    return complaints


def opening_complaints(core: Core) -> list[str]:
    """Every header opens with three paragraphs: what it is, who owns what, which thread calls."""
    complaints = []
    for name, text in core.files.items():
        if not name.endswith(".h"):
            continue
        opening = re.match(r"/\*(.*?)\*/", text, re.DOTALL)
        lines = opening[1].splitlines() if opening else []
        prose = "\n".join(line.strip().removeprefix("*").strip() for line in lines)
        paragraphs = [part for part in prose.split("\n\n") if part.strip()]
        if len(paragraphs) != 3:
            complaints.append(f"{name} opens with {len(paragraphs)} paragraphs instead of three")
    return complaints


def size_complaints(core: Core) -> list[str]:
    """Files and functions past twice their target are two things."""
    complaints = []
    for name, text in core.files.items():
        lines = numbered_lines(code_of(text))
        if len(lines) > MAX_FILE_LINES:
            complaints.append(f"{name} has {len(lines)} lines, more than {MAX_FILE_LINES}")
        begin = 0
        for number, line in lines:
            if line.rstrip() == "{":
                begin = number
            elif line.startswith("}") and begin:
                if number - begin - 1 > MAX_FUNCTION_LINES:
                    complaints.append(f"{name}:{begin}: a function of {number - begin - 1} lines")
                begin = 0
            elif re.match(r"\w[^=]*\)\s*\{", line):
                complaints.append(
                    f"{name}:{number}: the brace of a function belongs on a line of its own"
                )
    return complaints


RULES: list[Callable[[Core], list[str]]] = [
    table_complaints,
    level_complaints,
    library_complaints,
    function_complaints,
    opening_complaints,
    size_complaints,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removesuffix("_complaints"))
def test_core_keeps_the_rule(rule: Callable[[Core], list[str]]) -> None:
    complaints = rule(read_core())
    assert not complaints, "\n".join(complaints)


@pytest.mark.skipif(sys.platform != "linux", reason="nm -D is for ELF")
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (binutils)")
def test_only_the_init_function_is_exported() -> None:
    built = sorted((ROOT / "mitm_forwarder").glob("_core*.so"))
    if not built:
        pytest.skip("mitm_forwarder/_core is not built in this checkout")
    for library in built:
        listing = subprocess.run(
            ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
        ).stdout
        symbols = {line.split()[-1] for line in listing.splitlines()}
        assert symbols == {"PyInit__core"}, library.name


# --- every rule can complain ----------------------------------------------------------------------

README = """\
A file includes lower levels only (within L0 and L2 also those to its left).

| level | files | may include | what lives there |
|---|---|---|---|
| L0 | `base.h` `mem.[ch]` | libc | memory |
| L1 | `lock.h` `wire.[ch]` | pthread, jansson.h | threads |
| L2 | `left.h` `right.h` | - | neighbours |
"""
OPENING = "/* What it is,\n * in two lines.\n *\n * Who owns what.\n *\n * Any thread. */\n"
GOOD = {
    "base.h": OPENING + "#include <stddef.h>\n",
    "mem.h": OPENING + '#include "base.h"\n',
    "mem.c": '#include "mem.h"\nvoid *\nmem_alloc(size_t n)\n{\n    return malloc(n);\n}\n',
    "lock.h": OPENING + '#include <pthread.h>\n#include "mem.h"\n',
    "wire.h": OPENING,
    "wire.c": '#include "wire.h"\n#include <jansson.h>\n/* free(x) */\nchar *text = "strcpy(";\n',
    "left.h": OPENING,
    "right.h": OPENING + '#include "left.h"\n#include "lock.h"\n',
}


def core_with(changes: dict[str, str | None]) -> Core:
    files = {name: text for name, text in {**GOOD, **changes}.items() if text is not None}
    return Core(files, *read_table(README))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removesuffix("_complaints"))
def test_rule_is_content_with_good_sources(rule: Callable[[Core], list[str]]) -> None:
    assert rule(core_with({})) == []


def function_of(lines: int) -> str:
    return "void\nf(void)\n{\n" + "    g();\n" * lines + "}\n"


BAD: list[tuple[Callable[[Core], list[str]], str, str | None, str]] = [
    (table_complaints, "new.c", "", "new.c is not in the table"),
    (table_complaints, "left.h", None, "left.h is in the table but not in csrc/"),
    (level_complaints, "base.h", '#include "wire.h"\n', "base.h (L0) may not include wire.h"),
    (level_complaints, "wire.c", '#include "lock.h"\n', "wire.c (L1) may not include lock.h"),
    (level_complaints, "left.h", '#include "right.h"\n', "left.h (L2) may not include right.h"),
    (level_complaints, "left.h", '#include "other.h"\n', "left.h includes other.h, which is not"),
    (library_complaints, "lock.h", "#include <jansson.h>\n", "more than one file: lock.h, wire.c"),
    (library_complaints, "left.h", "#include <jansson.h>\n", "left.h: <jansson.h> is not for L2"),
    (library_complaints, "left.h", "#include <zlib.h>\n", "left.h: <zlib.h> is not for L2"),
    (library_complaints, "mem.h", "#include <pthread.h>\n", "mem.h: <pthread.h> is not for L0"),
    (function_complaints, "wire.c", "\n    free(block);\n", "wire.c:2: free is banned"),
    (function_complaints, "wire.c", "    set(malloc, mem_free);\n", "wire.c:1: malloc is banned"),
    (function_complaints, "mem.c", "    strcpy(a, b);\n", "mem.c:1: strcpy is banned"),
    (function_complaints, "wire.c", "    x = atoi (text);\n", "wire.c:1: atoi is banned"),
    (opening_complaints, "left.h", "/* What.\n *\n * Who. */\n", "left.h opens with 2 paragraphs"),
    (opening_complaints, "left.h", "#ifndef LEFT_H\n" + OPENING, "left.h opens with 0 paragraphs"),
    (size_complaints, "wire.c", "\n" * 801, "wire.c has 801 lines"),
    (size_complaints, "wire.c", function_of(81), "wire.c:3: a function of 81 lines"),
    (size_complaints, "wire.c", "void f(void) {\n}\n", "wire.c:1: the brace of a function"),
]


@pytest.mark.parametrize(("rule", "name", "text", "complaint"), BAD)
def test_rule_complains(
    rule: Callable[[Core], list[str]], name: str, text: str | None, complaint: str
) -> None:
    complaints = rule(core_with({name: text}))
    assert any(complaint in line for line in complaints), complaints


def test_functions_of_the_largest_size_are_fine() -> None:
    assert size_complaints(core_with({"wire.c": function_of(80)})) == []


def test_calls_of_members_and_longer_names_are_fine() -> None:
    text = "    call->free(x);\n    curl_free(x);\n    hooks.system(x);\n    snprintf(a, b, c);\n"
    assert function_complaints(core_with({"wire.c": text})) == []


def test_table_names_a_file_once() -> None:
    with pytest.raises(AssertionError, match=r"left\.h is twice"):
        read_table(README + "| L3 | `left.h` | - | again |\n")


def test_readme_has_to_say_where_neighbours_may_be_included() -> None:
    with pytest.raises(AssertionError, match="no longer says"):
        read_table(README.replace("also those to its left", ""))
