"""Decode the pixels of one DICOM file with GDCM and write them to standard output.

Run as a script in a process of its own, because GDCM aborts its process on corrupt data;
nothing of `cxr` is imported, so that starting it takes a few hundredths of a second.
"""

from __future__ import annotations

import ctypes
import signal
import sys

import gdcm

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Decode `sys.argv[1]` within `sys.argv[2]` seconds; 0 done, 3 unreadable."""
    _die_with_parent()
    reader = gdcm.ImageReader()
    reader.SetFileName(sys.argv[1])
    if not reader.Read():
        return 3
    sys.stdout.buffer.write(reader.GetImage().GetBuffer().encode("utf-8", errors="surrogateescape"))
    sys.stdout.buffer.flush()
    return 0


def _die_with_parent() -> None:
    """Leave no decoder that hangs behind: end with the reader, and where the system cannot, by the clock."""
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
