"""What this process holds in memory, by the system's own count (Linux)."""

import ctypes
import gc


def now() -> int:
    """Returns the resident bytes."""
    return _status("VmRSS")


def peak() -> int:
    """Returns the most that was resident since `begin`, in bytes."""
    return _status("VmHWM")


def settled() -> int:
    """Returns the resident bytes, with nothing that could be given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return now()


def begin() -> int:
    """Sets the peak back to what is resident, settled; returns that."""
    before = settled()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return before


def _status(what):
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(what))
    return 1024 * int(line.split()[1])
