"""Which build of the native engine these tests run: the installed one, or RUNOFF_NATIVE's (`make check-native`)."""

from __future__ import annotations

import importlib.util
import os
import sys

if _path := os.environ.get("RUNOFF_NATIVE"):
    # Before anything imports `runoff._native`, which then is this one.
    _spec = importlib.util.spec_from_file_location("runoff._native", _path)
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["runoff._native"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["runoff._native"])


def pytest_report_header() -> str:
    return f"native engine: {os.environ.get('RUNOFF_NATIVE', 'the installed one')}"
