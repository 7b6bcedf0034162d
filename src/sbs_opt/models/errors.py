"""Errors of the project.

::

    ValueError
    ├── InputError          the caller's data or arguments; names the field, the value and the mend
    │   └── TraceError      the same for a file: names file, row and field
    ├── PlacementError      a placement that breaks a rule of its window
    └── UnsupportedError    a solver was given a window that its capabilities exclude
    OSError                 the outside world, as Python raises it
    RuntimeError
    └── InternalError       our bug: an invariant of the library does not hold; please report it
    UserWarning
    └── ExtrapolationWarning  a prediction of the cost model beyond what was measured
"""

from __future__ import annotations


class InputError(ValueError):
    """Data or arguments that the caller can mend."""


class TraceError(InputError):
    """A file that cannot be read as what it was said to be."""


class PlacementError(ValueError):
    """A placement that breaks a rule of its window."""


class UnsupportedError(ValueError):
    """A window that uses a field which the chosen solver does not handle."""


class InternalError(RuntimeError):
    """An invariant of the library does not hold: a bug of ours."""


class ExtrapolationWarning(UserWarning):
    """A prediction beyond the range of the measurements that its law was fitted on."""
