"""What every program needs of the Python that runs it: version 3.11 or newer, and the packages that it imports.

Guarantees that a program which lacks either ends with one plain line and its status, without a traceback. The first
thing that each package of programs does is to call `demand`. This file and the ones that lead to it must be readable
for a Python that is too old, so they hold nothing that is newer than Python 3.6.
"""

import importlib.util
import os
import sys

OLDEST = (3, 11)
EXTRAS = {
    "": ("msgspec", "prometheus_client", "starlette", "uvicorn"),
    "fast": ("httptools", "rtoml", "uvloop"),
    "tls": ("cryptography",),
    "trainer": (
        "backports", "lightgbm", "matplotlib", "numpy", "pyarrow", "safetensors", "scipy", "sklearn", "threadpoolctl",
    ),
    "trainer,torch": ("torch",),
    "trainer,onnx": ("onnx", "onnxmltools", "onnxruntime", "onnxscript"),
}  # fmt: skip
"""Names that are imported, by the extras of the project that bring them; "" is the project without an extra."""


def demand(status: int) -> None:
    """End a program whose Python is too old, and prepare its output and its end for the case that a package is missing.

    Only the first call counts: the package that a program belongs to is imported before those that it uses. Somebody
    else's hook for exceptions stays.

    Args:
        status: Exit status of the program that lacks something.
    """
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        sys.stderr.write(
            "this needs Python 3.11 or newer, and " + sys.executable + " is Python " + found + "; install a newer one "
            "(Debian 12: apt-get install python3) and start this with it\n"
        )
        sys.exit(status)
    # The encoding of a terminal or a pipe may lack a letter; no program may end because of it.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.excepthook is not sys.__excepthook__:
        return

    def end(kind: type, error: BaseException, trace: object) -> None:
        line = missing(error)
        if line is None:
            sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]
            return
        sys.stderr.write(line + "\n")
        raise SystemExit(status)

    sys.excepthook = end


def demand_packages(*names: str) -> None:
    """Raise for the first package that is missing, before programs are started that could only say so one by one.

    Args:
        names: What is imported; the one whose extra brings the others comes first.

    Raises:
        ModuleNotFoundError: The package is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)


def missing(error: BaseException) -> "str | None":
    """Return the line about the package that an error says is missing; None for every other error."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    name = error.name.split(".")[0]
    for extra, names in EXTRAS.items():
        if name in names:
            return "this needs the package " + name + ", which " + sys.executable + " lacks; " + installing(extra)
    return None


def installing(extra: str) -> str:
    """Return what to type to install the project with these extras for the Python that runs, as part of a sentence.

    A Python of the system takes no packages on Debian 12 and others, so it is given an environment of its own.

    Source:
        PEP 668, Marking Python base environments as "externally managed".
    """
    project = "." if extra == "" else "'.[" + extra + "]'"
    if sys.prefix != sys.base_prefix:
        return "in the checkout, run: " + sys.executable + " -m pip install " + project
    python = os.path.join("env", "Scripts" if os.name == "nt" else "bin", "python")  # noqa: PTH118 - pathlib costs 10 ms
    return (
        "in the checkout, run: " + sys.executable + " -m venv env && " + python + " -m pip install " + project
        + "; then start this with " + python
    )  # fmt: skip
