"""Builds the extension iwae_fast._C from csrc/: a C++17 compiler and pybind11, no torch.

The kernels are compiled once for each instruction set and chosen when the module is imported. Without a working
compiler the package installs all the same and runs on its reference backend; IWAE_FAST_REQUIRE_EXTENSION=1 makes
that an error.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi"]
X86_ISAS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}
KERNELS = "csrc/cpu/kernels.cpp"
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))


class BuildExtension(build_ext):
    """Compiles the kernels for each instruction set, with OpenMP where the compiler has it."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except Exception as error:
            if ext.optional:
                print(
                    f"warning: iwae_fast is installed WITHOUT its C++ extension, because building it failed: {error}\n"
                    "warning: it runs on its reference backend; install a C++17 compiler (GCC or Clang) and reinstall.",
                    file=sys.stderr,
                )
            raise CompileError(str(error)) from error  # which setuptools passes over for an optional extension

    def _build(self, ext: Extension) -> None:
        x86_64 = platform.machine().lower() in ("x86_64", "amd64")
        openmp = ["-fopenmp"] if self._accepts("-fopenmp") else []
        isas = {"baseline": [], **(X86_ISAS if x86_64 else {})}
        ext.extra_compile_args = [*FLAGS, *openmp]
        ext.extra_link_args = openmp
        ext.define_macros = [("IWAE_HAVE_X86_64", "1")] if x86_64 else []
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(lambda isa: self._compile_kernels(isa, [*isas[isa], *openmp]), isas))
        ext.extra_objects = objects
        super().build_extension(ext)

    def _compile_kernels(self, isa: str, flags: list[str]) -> str:
        (compiled,) = self.compiler.compile(
            [KERNELS],
            output_dir=os.path.join(self.build_temp, isa),
            macros=[("IWAE_ISA", isa)],
            extra_postargs=[*FLAGS, *flags],
            depends=HEADERS,
        )
        return compiled

    def _accepts(self, flag: str) -> bool:
        """Whether a program compiles and links with the flag."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.cpp")
            with open(source, "w") as file:
                file.write("#include <omp.h>\nint main() { return omp_get_max_threads() < 0; }\n")
            try:
                objects = self.compiler.compile([source], output_dir=folder, extra_postargs=[flag])
                self.compiler.link_executable(objects, os.path.join(folder, "probe"), extra_postargs=[flag])
            except Exception:
                return False
        return True


def extensions() -> list[Extension]:
    import pybind11

    return [
        Extension(
            "iwae_fast._C",
            sources=["csrc/bindings.cpp"],
            include_dirs=[pybind11.get_include()],
            depends=[KERNELS, *HEADERS],
            language="c++",
            optional=os.environ.get("IWAE_FAST_REQUIRE_EXTENSION") != "1",
        )
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtension})
