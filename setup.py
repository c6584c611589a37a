"""Build of the C core; everything else is in pyproject.toml.

FORWARDER_BUILD = release (default) | debug | asan | tsan | cov.  A mode changes no time stamp, so
build any other than release apart: `setup.py build --build-base build/X --build-lib build/X/lib`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from glob import glob
from typing import NamedTuple

from setuptools import Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext


class Library(NamedTuple):
    """A library by its pkg-config name, the oldest version that will do, and its packages."""

    name: str
    minimum: str
    apt: str
    dnf: str
    brew: str


LIBRARIES = (
    Library("libcurl", "7.84", "libcurl4-openssl-dev", "libcurl-devel", "curl"),
    Library("libpcre2-8", "10.40", "libpcre2-dev", "pcre2-devel", "pcre2"),
    Library("jansson", "2.13", "libjansson-dev", "jansson-devel", "jansson"),
    Library("sqlite3", "3.37", "libsqlite3-dev", "sqlite-devel", "sqlite"),
)
CFLAGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wvla",
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# name: (compiler flags, linker flags); they follow Python's own and win.
BUILDS = {
    "release": (["-O2", "-DNDEBUG", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"], ["-Wl,-O1"]),
    "debug": (["-O0", "-UNDEBUG", "-DFORWARDER_FAULTS"], []),
    "asan": (["-O1", "-UNDEBUG", "-DFORWARDER_FAULTS", *SANITIZERS], SANITIZERS),
    "tsan": (["-O1", "-UNDEBUG", "-fsanitize=thread"], ["-fsanitize=thread"]),
    "cov": (["-O0", "-UNDEBUG", "--coverage"], ["--coverage"]),
}
ELF_LDFLAGS = ["-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now"]
LIMITED_API = (3, 11)


def pkg_config(*args: str) -> list[str] | None:
    """Flags as pkg-config prints them; None when it, or what was asked for, is not there."""
    tool = os.environ.get("PKG_CONFIG", "pkg-config")
    try:
        done = subprocess.run([tool, *args], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return shlex.split(done.stdout) if done.returncode == 0 else None


def missing_message(missing: list[Library]) -> str:
    names = ", ".join(f"{library.name} >= {library.minimum}" for library in missing)
    apt = " ".join(library.apt for library in missing)
    dnf = " ".join(library.dnf for library in missing)
    brew = " ".join(library.brew for library in missing)
    return (
        f"\nerror: mitm-forwarder needs pkg-config and the development files of: {names}\n"
        f"  Debian, Ubuntu:  sudo apt-get install build-essential pkg-config python3-dev {apt}\n"
        f"  Fedora, RHEL:    sudo dnf install gcc pkgconf-pkg-config python3-devel {dnf}\n"
        f"  macOS:           brew install pkg-config {brew}\n"
    )


def library_flags() -> tuple[list[str], list[str]]:
    """Compile and link flags of all libraries, or one message that names every missing one."""
    cflags: list[str] = []
    libs: list[str] = []
    missing: list[Library] = []
    for library in LIBRARIES:
        query = f"{library.name} >= {library.minimum}"
        found = pkg_config("--libs", query)
        if found is None:
            missing.append(library)
            continue
        libs += found
        cflags += pkg_config("--cflags", query) or []
    if missing:
        raise SystemExit(missing_message(missing))
    return cflags, libs


class BuildExt(build_ext):
    """Asks for the libraries only when something is compiled: sdist and metadata need none."""

    def build_extensions(self) -> None:
        mode = os.environ.get("FORWARDER_BUILD", "release")
        if mode not in BUILDS:
            raise SystemExit(f"error: FORWARDER_BUILD={mode!r} is none of {', '.join(BUILDS)}")
        mode_cflags, mode_ldflags = BUILDS[mode]
        cflags, libs = library_flags()
        elf = [] if sys.platform == "darwin" else ELF_LDFLAGS
        # A Python built with --enable-shared writes its own library folder into every RUNPATH.
        self.compiler.linker_so = [
            arg for arg in self.compiler.linker_so if not arg.startswith("-Wl,-rpath")
        ]
        for extension in self.extensions:
            extension.extra_compile_args += [*CFLAGS, *cflags, *mode_cflags]
            extension.extra_link_args += [*mode_ldflags, *elf, *libs]
            extension.define_macros += [
                ("FORWARDER_VERSION", f'"{self.distribution.get_version()}"'),
            ]
        super().build_extensions()


# The free-threaded build of CPython has no limited API.
limited = not sysconfig.get_config_var("Py_GIL_DISABLED")
version_hex = "0x{:02x}{:02x}0000".format(*LIMITED_API)
setup(
    ext_modules=[
        Extension(
            "mitm_forwarder._core",
            sources=sorted(glob("csrc/*.c")),
            depends=sorted(glob("csrc/*.h")),
            py_limited_api=limited,
            define_macros=[("Py_LIMITED_API", version_hex)] if limited else [],
        ),
    ],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp{}{}".format(*LIMITED_API)}} if limited else {},
)
