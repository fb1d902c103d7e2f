"""What to do when the disk refuses to write, by what the system says of it."""

from __future__ import annotations

_AGAIN = "then run the same command again; it goes on where it stopped."
_FULL = f"The disk is full: free space, {_AGAIN}"
_QUOTA = f"Your disk quota is used up: free space, {_AGAIN}"
_LIMIT = f"A file reached the size limit (ulimit -f): raise it, {_AGAIN}"
_READ_ONLY = "The disk is read-only: make it writable, or choose another place."
_FORBIDDEN = "You may not write there: change the permissions, or choose another place."

# In the words of the C library, which Python repeats, and by the numbers that Rust adds.
_REMEDIES = {
    "no space left": _FULL,
    "os error 28": _FULL,
    "quota exceeded": _QUOTA,
    "os error 122": _QUOTA,
    "file too large": _LIMIT,
    "os error 27": _LIMIT,
    "read-only file system": _READ_ONLY,
    "os error 30": _READ_ONLY,
    "permission denied": _FORBIDDEN,
    "os error 13": _FORBIDDEN,
}


def disk_remedy(said: str) -> str | None:
    """A sentence that says what to do about an error message; None for one that no full, read-only or
    forbidden disk gives."""
    return next((remedy for sign, remedy in _REMEDIES.items() if sign in said.lower()), None)
