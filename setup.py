"""Build of the extension iwae_fast._C from csrc/. It requires a C++17 compiler and pybind11, but not torch.

The kernels are compiled once per instruction set, and the best one is selected when the module is imported. Without a
working compiler the package is installed without the extension and runs on its reference backend;
IWAE_FAST_REQUIRE_EXTENSION=1 makes this an error. IWAE_FAST_EXTENSION=0 leaves the extension out on purpose, and makes
a wheel for every platform, py3-none-any.

If an NVIDIA GPU is present and nvcc is found (in $CUDA_HOME/bin or on PATH), the CUDA kernels are built as well.
IWAE_FAST_CUDA=1 also builds them without a GPU, and makes a failure an error; IWAE_FAST_CUDA=0 leaves them out.
IWAE_FAST_CUDA_ARCHITECTURES sets the compute capabilities, for example "90" or "80 90" (the default), and also builds
them without a GPU. GPUs newer than the last one use its PTX, which the driver compiles.

Object files are cached in build/objects/ under a digest of their sources and command, since compiling takes minutes:
another environment, or a change of Python code only, reuses them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
CUDA_KERNELS = "csrc/cuda/kernels.cu"
CUDA_FLAGS = [
    "-std=c++17",
    "-O3",
    "-DIWAE_ISA=cuda",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "--threads=0",
    "-Xfatbin=-compress-all",
]
CUDA_ARCHITECTURES = "80 90"
OBJECTS = os.path.join("build", "objects")
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))


class BuildExtension(build_ext):
    """The build_ext command that compiles the kernels for each instruction set, with OpenMP if the compiler has it."""

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
            raise CompileError(str(error)) from error  # setuptools ignores this error for an optional extension

    def _build(self, ext: Extension) -> None:
        x86_64 = platform.machine().lower() in ("x86_64", "amd64")
        openmp = ["-fopenmp"] if self._accepts("-fopenmp") else []
        isas = {"baseline": [], **(X86_ISAS if x86_64 else {})}
        ext.extra_compile_args = [*FLAGS, *openmp]
        ext.extra_link_args = openmp
        ext.define_macros = [("IWAE_HAVE_X86_64", "1")] if x86_64 else []
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            cuda = pool.submit(self._compile_cuda)
            objects = list(pool.map(lambda isa: self._compile_kernels(isa, [*isas[isa], *openmp]), isas))
        ext.extra_objects = objects
        if (compiled := cuda.result()) is not None:
            ext.extra_objects.append(compiled)
            ext.define_macros.append(("IWAE_HAVE_CUDA", "1"))
            # Linked statically, so that the extension loads without CUDA.
            ext.extra_link_args = [*openmp, *cuda_libraries(), "-lcudart_static", "-ldl", "-lpthread", "-lrt"]
        super().build_extension(ext)

    def _compile_kernels(self, isa: str, flags: list[str]) -> str:
        flags = [*FLAGS, *flags]

        def compile_into(folder: str) -> None:
            self.compiler.compile([KERNELS], output_dir=folder, macros=[("IWAE_ISA", isa)], extra_postargs=flags)

        command = [*compiler_version(getattr(self.compiler, "compiler_so", [])), isa, *flags]
        return self._object(f"CPU kernels, {isa}", [KERNELS, *HEADERS], command, compile_into)

    def _compile_cuda(self) -> str | None:
        """Return the object file of the CUDA kernels, or None if they are left out."""
        wish, nvcc = os.environ.get("IWAE_FAST_CUDA", ""), find_nvcc()
        if wish == "0" or (wish != "1" and not cuda_is_wanted()):
            return None
        if nvcc is None:
            if wish == "1":
                raise CompileError("IWAE_FAST_CUDA=1 requires nvcc, which is neither in $CUDA_HOME/bin nor on PATH")
            return None
        architectures = cuda_architectures()
        command = [nvcc, *CUDA_FLAGS, *cuda_targets(architectures), "-c", CUDA_KERNELS, "-o"]

        def compile_into(folder: str) -> None:
            compiled = os.path.join(folder, self._object_name(CUDA_KERNELS))
            os.makedirs(os.path.dirname(compiled), exist_ok=True)
            result = subprocess.run([*command, compiled], capture_output=True, text=True, check=False)
            if result.returncode:
                raise CompileError(f"{' '.join([*command, compiled])} failed:\n{result.stderr}")

        try:
            return self._object(
                f"CUDA kernels, sm_{', sm_'.join(architectures)}", [CUDA_KERNELS, *HEADERS], command, compile_into
            )
        except CompileError as error:
            if wish == "1":
                raise
            print(f"warning: iwae_fast is built without CUDA: {error}", file=sys.stderr)
            return None

    def _object(self, name: str, sources: list[str], command: list[str], compile_into: Callable[[str], None]) -> str:
        """Return the object file of ``sources[0]``, from the cache or compiled by ``compile_into(folder)``.

        The cache also has object files of earlier builds by other environments: pip builds in a new folder each time,
        and compiling takes minutes.
        """
        digest = hashlib.sha256("\0".join(command).encode())
        for source in sources:
            digest.update(Path(source).read_bytes())
        folder = os.path.join(OBJECTS, digest.hexdigest()[:16])
        compiled = os.path.join(folder, self._object_name(sources[0]))
        if not os.path.exists(compiled):
            print(f"compiling {name} ...", flush=True)
            started = time.monotonic()
            os.makedirs(OBJECTS, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=OBJECTS) as unfinished:
                compile_into(unfinished)
                os.makedirs(os.path.dirname(compiled), exist_ok=True)
                os.replace(os.path.join(unfinished, self._object_name(sources[0])), compiled)
            print(f"compiled {name} in {time.monotonic() - started:.0f} s", flush=True)
        return compiled

    def _object_name(self, source: str) -> str:
        return os.path.splitext(source)[0] + self.compiler.obj_extension

    def _accepts(self, flag: str) -> bool:
        """Return True if a program compiles and links with the flag."""
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


def compiler_version(command: list[str]) -> list[str]:
    """Return a compiler's command and the output of --version, on both of which an object file depends."""
    if not command:
        return []
    told = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False)
    return [*command, told.stdout]


def cuda_is_wanted() -> bool:
    """Return True if there is an NVIDIA GPU, or if architectures are given."""
    return bool(os.environ.get("IWAE_FAST_CUDA_ARCHITECTURES")) or os.path.exists("/proc/driver/nvidia/version")


def find_nvcc() -> str | None:
    """Return the path of nvcc, in $CUDA_HOME/bin or on PATH, or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return (shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None) or shutil.which("nvcc")


def cuda_architectures() -> list[str]:
    """Return the compute capabilities without their decimal point; raise CompileError for an invalid setting."""
    given = os.environ.get("IWAE_FAST_CUDA_ARCHITECTURES") or CUDA_ARCHITECTURES
    architectures = re.split(r"[\s,;]+", given.strip())
    if not all(re.fullmatch(r"\d+[af]?", architecture) for architecture in architectures):
        raise CompileError(f"IWAE_FAST_CUDA_ARCHITECTURES must be numbers as in {CUDA_ARCHITECTURES!r}, got {given!r}")
    return architectures


def cuda_targets(architectures: list[str]) -> list[str]:
    """Return nvcc's options for machine code of each architecture, and for PTX that newer ones compile."""
    codes = [(architecture, f"sm_{architecture}") for architecture in architectures]
    codes.append((architectures[-1], f"compute_{architectures[-1]}"))
    return [f"-gencode=arch=compute_{architecture},code={code}" for architecture, code in codes]


def cuda_libraries() -> list[str]:
    """Return the linker options that nvcc uses to find the static runtime."""
    told = subprocess.run([find_nvcc() or "nvcc", "--dryrun", "-c", CUDA_KERNELS], capture_output=True, text=True)
    line = next((line for line in told.stderr.splitlines() if "LIBRARIES=" in line), "LIBRARIES=")
    return shlex.split(line.split("LIBRARIES=", 1)[1])


def extensions() -> list[Extension]:
    """Return the extension module, which is optional unless IWAE_FAST_REQUIRE_EXTENSION=1; none if left out."""
    required = os.environ.get("IWAE_FAST_REQUIRE_EXTENSION") == "1"
    if os.environ.get("IWAE_FAST_EXTENSION") == "0":
        if required:
            raise SystemExit("IWAE_FAST_EXTENSION=0 and IWAE_FAST_REQUIRE_EXTENSION=1 contradict each other")
        return []
    import pybind11

    return [
        Extension(
            "iwae_fast._C",
            sources=["csrc/bindings.cpp"],
            include_dirs=[pybind11.get_include()],
            depends=[KERNELS, CUDA_KERNELS, *HEADERS],
            language="c++",
            optional=not required,
        )
    ]


def index_page(readme: str) -> str:
    """Return the README for a package index, which cannot resolve relative links: without pictures, and with links to
    files and headings replaced by their text."""
    without_pictures = re.sub(r"!\[[^\]]*\]\([^)]*\)\n*", "", readme)
    return re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]*\)", r"\1", without_pictures)


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtension},
    long_description=index_page(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
