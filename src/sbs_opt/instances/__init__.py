"""Where requests and windows come from: traces, window files, generators, and how a trace is made heavier."""

from __future__ import annotations

from sbs_opt.instances.files import atomic_write, check_name, check_writable
from sbs_opt.instances.formats.plain import write_trace
from sbs_opt.instances.generator import GeneratorConfig, generate, generator_config_from_dict
from sbs_opt.instances.offered import ideal_unit_ns_per_token, offered_decode_load, offered_load, scale_to_load
from sbs_opt.instances.scaling import compress, cut, superpose
from sbs_opt.instances.trace import Trace, list_formats, read_trace
from sbs_opt.instances.windows import read_windows, write_windows

__all__ = [
    "GeneratorConfig",
    "Trace",
    "atomic_write",
    "check_name",
    "check_writable",
    "compress",
    "cut",
    "generate",
    "generator_config_from_dict",
    "ideal_unit_ns_per_token",
    "list_formats",
    "offered_decode_load",
    "offered_load",
    "read_trace",
    "read_windows",
    "scale_to_load",
    "superpose",
    "write_trace",
    "write_windows",
]
