"""Errors of `read_trace`: one line, naming file, row and field."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.instances import list_formats, read_trace
from sbs_opt.models.errors import TraceError
from tests.instances.helpers import AZURE_HEADER, mooncake, write

ERRORS = [
    ("", None, r"trace: is empty"),
    ("\n\n", None, r"trace: is empty"),
    (AZURE_HEADER + "\n", None, r"row 1: .*no request"),
    (AZURE_HEADER + "\nXXX,5,6\n", None,
     r"row 2, field TIMESTAMP: 'XXX' is no time: the file has no times; compare needs"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,5\n", None, r"row 2, field GeneratedTokens: is missing: .* cut"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,,6\n", None, r"row 2, field ContextTokens: is missing"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,5,6,7\n", None, r"row 2: has 4 columns"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,-5,6\n", None, r"row 2, field ContextTokens: '-5' is negative"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,5.5,6\n", None,
     r"row 2, field ContextTokens: '5.5' is not a whole number"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,٥,6\n", None, r"field ContextTokens: '٥' is not a whole number"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,5_000,6\n", None,
     r"field ContextTokens: '5_000' is not a whole number"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,99999999999999999999,6\n", None,
     r"ContextTokens: .* is not a whole number below"),
    (AZURE_HEADER + "\n2023-11-31 18:17:03.1,5,6\n", None, r"row 2, field TIMESTAMP: .* is no date"),
    (AZURE_HEADER + "\n2023-11-16 24:17:03.1,5,6\n", None, r"row 2, field TIMESTAMP: .* no time of day"),
    (AZURE_HEADER + "\n1700158623,5,6\n", None, r"row 2, field TIMESTAMP: '1700158623' is not a time like"),
    (AZURE_HEADER + "\n2023-11-16 18:17:03.1,5,6\n2023-11-16 18:17:04.1Z,5,6\n", None,
     r"row 3, field TIMESTAMP: some stamps"),
    ("a,b\n1,2\n", None,
     r"row 1: its fields 'a, b' fit no known format \(mooncake, azure, sbs-csv, sbs-jsonl\)"),
    ("a,b\n1,2\n", "azure", r"row 1, field TIMESTAMP: is no column of the header"),
    ("TIMESTAMP,TIMESTAMP\n1,2\n", "azure", r"row 1, field TIMESTAMP: names two columns"),
    (AZURE_HEADER + "\n", "parquet",
     r"format 'parquet' is unknown; known formats: mooncake, azure, sbs-csv, sbs-jsonl"),
    (b"\x89PNG\r\n\x1a\n\x00\x00", None, r"row 1: is not UTF-8 text"),
    (b"PAR1\x00\x00\x00", None, r"row 1: is not UTF-8 text"),
    ("[1, 2]", None, r"row 1: holds \[1, 2\]; each line must be one JSON object"),
    ('{"timestamp": 1, "input_len', None, r"row 1: is not valid JSON .* cut off"),
    ("[" * 100_000, None, r"row 1: is not valid JSON"),
    ('{"timestamp": ' + "1" * 5000 + "}", None, r"row 1: is not valid JSON"),
    (mooncake((0, 1, 1, [0])) + '{"timestamp": 1, "input_length": 5, "out', None,
     r"row 2: is not valid JSON .* cut off"),
    (mooncake((0, 513, 1, [0])), None,
     r"row 1, field hash_ids: holds 1 ids, but input_length 513 makes 2 blocks of 512"),
    (mooncake((0, -1, 1, [])), None, r"row 1, field input_length: -1 is negative"),
    (mooncake((0, 2**63, 1, [])), None, r"row 1, field input_length: 9223372036854775808 does not fit"),
    (mooncake((2**63 - 1, 1, 1, [0])), None, r"row 1, field timestamp: lies beyond 2\^62 ns"),
    (mooncake((0, 1, 1, [0.5])), None, r"row 1, field hash_ids: \['?0.5'?\] is not a list of whole"),  # type: ignore[list-item]
    (mooncake((0, 1, True, [0])), None, r"row 1, field output_length: True is not a whole number"),
    (mooncake((0, 1, 1.5, [0])), None, r"row 1, field output_length: '1.5' is not a whole number"),  # type: ignore[arg-type]
    ('{"timestamp": 0, "input_length": 1, "output_length": 1}', None,
     r"row 1, field hash_ids: None is not a list"),
    ('{"timestamp": NaN, "input_length": 1, "output_length": 1}', None,
     r"row 1, field timestamp: nan is not a whole"),
    ("prompt_tokens,output_tokens\n1,2\n", None,
     r"row 1, field arrival_ns: is missing.*has no times; compare needs arrival"),
    ("arrival_s,arrival_ns,prompt_tokens,output_tokens\n1,1,1,2\n", None,
     r"row 1, field arrival_ns: is given and so is"),
    ("arrival_ns,prompt_tokens,output_tokens,speed\n1,1,2,3\n", None,
     r"field speed: is unknown; known fields: arrival_ns,"),
    ("arrival_s,prompt_tokens,output_tokens\n-1,1,2\n", None, r"row 2, field arrival_s: '-1' is negative"),
    ("arrival_s,prompt_tokens,output_tokens\nNaN,1,2\n", None,
     r"row 2, field arrival_s: 'NaN' is not a number of seconds"),
    ("arrival_s,prompt_tokens,output_tokens\n1e999999999,1,2\n", None,
     r"row 2, field arrival_s: .* beyond 2\^62 ns"),
    ("arrival_s,prompt_tokens,output_tokens\n0." + "1" * 5000 + ",1,2\n", None,
     r"row 2, field arrival_s: .* is not a number"),
    ("[\n{}\n]", None, r"row 1: is not valid JSON .* each line must be one object"),
    ("arrival_ns,prompt_tokens,output_tokens,block_ids\n1,1,2,5\n", None,
     r"row 2, field block_tokens: is missing"),
    ("arrival_ns,prompt_tokens,output_tokens,block_tokens\n1,1,2,0\n", None,
     r"row 2, field block_tokens: is 0"),
    ("arrival_ns,prompt_tokens,output_tokens,block_tokens,block_ids\n1,16,2,16,5 6\n", None,
     r"row 2, field block_ids: holds 2 ids, but 16 prompt tokens fill at most 1 blocks of 16"),
    ("arrival_ns,prompt_tokens,output_tokens,block_tokens,block_ids\n1,16,2,16,x\n", None,
     r"row 2, field block_ids: 'x' is no whole number"),
    ("arrival_ns,prompt_tokens,output_tokens,block_tokens\n1,1,2,16\n1,1,2,32\n", None,
     r"row 3, field block_tokens: is 32, earlier rows say 16"),
    ('{"schema": "sbs-opt/trace/9"}', None,
     r"row 1, field schema: is 'sbs-opt/trace/9'; known schemas of traces: sbs-opt/tr"),
    ('{"schema": "sbs-opt/trace/1", "notes": "x"}', None, r"row 1, field notes: must be a list of strings"),
    ('{"schema": "sbs-opt/trace/1", "note": []}', None, r"row 1, field note: is unknown in the first record"),
    ('{"schema": "sbs-opt/window/1", "demand": [], "load": [[1]]}', None,
     r"row 1: is a scheduling window, not a request"),
    ('{"arrival_ns": 1, "prompt_tokens": 2, "output_tokens": 3}\n'
     '{"arrival_s": 1, "prompt_tokens": 2, "output_tokens": 3}', None,
     r"row 2, field arrival_ns: is missing, earlier rows have it"),
    ('{"arrival_ns": 1, "prompt_tokens": 2, "output_tokens": 3, "session": 1.5}', None,
     r"row 1, field session: '1.5' must"),
    ('{"arrival_ns": 1, "prompt_tokens": "2", "output_tokens": 3}', None,
     r"row 1, field prompt_tokens: '2' is text; write the number without quotes"),
    ('{"arrival_s": "1.5", "prompt_tokens": 2, "output_tokens": 3}', None, r"row 1, field arrival_s: '1.5' is text"),
    ('{"arrival_ns": 1, "prompt_tokens": 2, "output_tokens": 3, "block_tokens": "16"}', None,
     r"row 1, field block_tokens: '16' is text"),
    ('{"timestamp": "0", "input_length": 1, "output_length": 1, "hash_ids": [0]}', None,
     r"row 1, field timestamp: '0' is text"),
    (mooncake((0, 1, 1, [0])) + '{"timestamp": 0, "input_length": 1, "input_length": 2, "output_length": 1}', None,
     r"row 2, field input_length: is given twice in one object; keep one"),
    ('{"arrival_ns": 1, "output_tokens": 3}', "sbs-jsonl", r"row 1, field prompt_tokens: is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "format_name", "message"), ERRORS, ids=range(len(ERRORS)))
def test_error_names_place_and_mend_in_one_line(
    tmp_path: Path, content: str | bytes, format_name: str | None, message: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(path, format=format_name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500 + len(str(path))


def test_format_is_looked_at_before_the_file(tmp_path: Path) -> None:
    """A format with a typing error was passed over where the trace was the bundled one."""
    with pytest.raises(TraceError, match=r"sample: format 'nope' is unknown; known formats: mooncake"):
        read_trace("sample", format="nope")
    with pytest.raises(TraceError, match=r"sample: the bundled trace is sbs-jsonl, not azure; leave it out"):
        read_trace("sample", format="azure")
    assert read_trace("sample", format="sbs-jsonl").name == "sample"
    with pytest.raises(TraceError, match=r"nowhere: format 'nope' is unknown"):
        read_trace(tmp_path / "nowhere", format="nope")


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: cannot be read \(No such file or directory\)"):
        read_trace(tmp_path / "nowhere.csv")
    with pytest.raises(TraceError, match=r"cannot be read \(Is a directory\)"):
        read_trace(tmp_path)


@given(st.binary(max_size=60), st.sampled_from([None, *(f.name for f in list_formats())]))
def test_junk_is_a_trace_error_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, format_name: str | None
) -> None:
    path = write(tmp_path_factory.mktemp("junk"), junk)
    with pytest.raises(TraceError, match="trace"):
        read_trace(path, format=format_name)
