"""`sbs-opt cost`: what the cost model says of a pass, a step, a kernel."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sbs_opt.cli.arguments import add_json, add_seed, naming, positive, whole
from sbs_opt.models.errors import InputError

if TYPE_CHECKING:
    from sbs_opt.models.cost.named import Phase
    from sbs_opt.models.cost.uniform import Prediction

_OVERLAP = {"none": False, "two-batch": True}
_DEPLOYMENT = "<gpu>-<model>-<phase>-ep<N>, or a deployment as compare takes it"
_NO_DRAFT = 0

Row = dict[str, Any]


def add_to(commands: Any) -> None:
    """Add the command and its kinds to a parser."""
    parser = commands.add_parser(
        "cost",
        help="show what the cost model predicts of a pass, a decode step or a kernel",
        description="Show and check predictions of the cost model.",
    )
    kinds = parser.add_subparsers(title="what to predict", required=True, metavar="WHAT", dest="what")
    for add in (_add_prefill, _add_decode, _add_attention, _add_gemm, _add_alltoall):
        add(kinds)


def _add(kinds: Any, name: str, summary: str, row: Callable[[argparse.Namespace], Row]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=summary, description=f"Predict {summary}.")
    parser.set_defaults(run=run, row=row)
    return parser


def _add_prefill(kinds: Any) -> None:
    parser = _add(kinds, "prefill", "a prefill pass of equal prompts on every unit", _prefill)
    parser.add_argument("--deployment", required=True, metavar="D", help=_DEPLOYMENT)
    parser.add_argument("--prompt", type=positive, required=True, metavar="P", help="new tokens of a prompt")
    parser.add_argument(
        "--tokens-per-unit", type=positive, required=True, metavar="T", help="new tokens of a pass on every unit"
    )
    parser.add_argument(
        "--cached", type=whole, default=0, metavar="K", help="tokens before them found in the cache (default 0)"
    )
    parser.add_argument("--overlap", choices=_OVERLAP, default="two-batch", help="micro-batches (default two-batch)")
    _add_imbalance(parser, "1")
    _add_profile(parser, required=False)
    _finish(parser)


def _add_decode(kinds: Any) -> None:
    parser = _add(kinds, "decode", "a decode step of equal sequences on every unit", _decode)
    parser.add_argument("--deployment", required=True, metavar="D", help=_DEPLOYMENT)
    parser.add_argument("--batch", type=positive, required=True, metavar="B", help="sequences of every unit")
    parser.add_argument("--kv", type=positive, required=True, metavar="L", help="KV tokens of a sequence")
    parser.add_argument("--overlap", choices=_OVERLAP, default="none", help="micro-batches (default none)")
    _add_imbalance(parser, "1.23, measured with expert rebalancing on 72 GPUs")
    parser.add_argument(
        "--draft-tokens", type=whole, default=_NO_DRAFT, metavar="N", help="tokens drafted per step (default 0)"
    )
    parser.add_argument(
        "--acceptance", type=float, default=0.85, metavar="A", help="share of drafts that are kept (default 0.85)"
    )
    _add_profile(parser, required=False)
    _finish(parser)


def _add_imbalance(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--expert-imbalance", type=float, metavar="X", help=f"expert tokens per rank, max over mean (default {default})"
    )


def _add_attention(kinds: Any) -> None:
    parser = _add(kinds, "attention", "the attention kernel of one layer, without projections", _attention)
    _add_profile(parser)
    parser.add_argument("--new", type=positive, required=True, metavar="C", help="new tokens of a chunk")
    parser.add_argument("--cached", type=whole, default=0, metavar="P", help="tokens before the chunk (default 0)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="equal chunks in one call (default 1)")
    parser.add_argument("--model", default="deepseek-v3", metavar="M", help="gives the heads (default deepseek-v3)")
    _finish(parser)


def _add_gemm(kinds: Any) -> None:
    parser = _add(kinds, "gemm", "an FP8 GEMM, dense or one of several experts", _gemm)
    _add_profile(parser)
    for name, text in (("m", "rows, with --groups those of each expert"), ("k", "values in"), ("n", "values out")):
        parser.add_argument(f"--{name}", type=positive, required=True, metavar=name.upper(), help=text)
    parser.add_argument("--groups", type=positive, default=1, metavar="G", help="experts in one launch (default 1)")
    _finish(parser)


def _add_alltoall(kinds: Any) -> None:
    parser = _add(kinds, "alltoall", "dispatch and combine of one layer in the test that DeepEP publishes", _alltoall)
    _add_profile(parser)
    parser.add_argument("--ep", type=positive, required=True, metavar="E", help="ranks")
    parser.add_argument("--tokens", type=positive, required=True, metavar="T", help="tokens of the busiest rank")
    parser.add_argument("--mode", choices=("normal", "low-latency"), required=True, help="as DeepEP names them")
    _finish(parser)


def _add_profile(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    text = "see sbs-opt list profiles, or a .toml file" + ("" if required else " (default: the deployment's)")
    parser.add_argument("--profile", required=required, metavar="GPU", help=text)


def _finish(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_seed(parser)


def run(given: argparse.Namespace) -> None:
    """Print the prediction, write the JSON."""
    from sbs_opt.cli.output import check_outputs, console, write_json
    from sbs_opt.reports.cost_table import cost_tables
    from sbs_opt.reports.json_rows import envelope

    check_outputs([], given.json, [])
    row = given.row(given)
    write_json(given.json, envelope("cost", given.seed, [row], what=given.what))
    screen = console(given.json)
    for part in cost_tables(row):
        screen.print(part)


def _prefill(given: argparse.Namespace) -> Row:
    from sbs_opt.models.cost import PrefillCost, load_hardware, load_model
    from sbs_opt.models.cost.memory import kv_tokens_of
    from sbs_opt.models.cost.routing import imbalance_of
    from sbs_opt.models.cost.uniform import predict_pass

    phase = _asked(given, "prefill")
    hardware, model = load_hardware(phase.hardware), load_model(phase.model)
    imbalance = imbalance_of(1.0 if given.expert_imbalance is None else given.expert_imbalance)
    cost = PrefillCost(
        hardware, model, units=phase.units, chunk_tokens=given.tokens_per_unit, overlap=_OVERLAP[given.overlap],
        expert_imbalance=imbalance,
    )  # fmt: skip
    found = predict_pass(
        cost, prompt_tokens=given.prompt, tokens_per_unit=given.tokens_per_unit, cached_tokens=given.cached
    )
    room = kv_tokens_of(hardware, model, units=phase.units, tokens=given.tokens_per_unit, absorbed=False)
    _tell_room(phase, room, min(given.prompt, given.tokens_per_unit) + given.cached)
    return {
        **_instance(given, phase),
        "prompt": given.prompt,
        "cached": given.cached,
        "tokens_per_unit": given.tokens_per_unit,
        "overlap": given.overlap,
        "expert_imbalance": imbalance,
        "pass_s": found.seconds,
        "passes": found.passes,
        **_parts(found, phase.units, hardware.device.gpus_per_node),
        "kv_tokens": room,
    }


def _decode(given: argparse.Namespace) -> Row:
    from sbs_opt.models.cost import DecodeCost, load_hardware, load_model
    from sbs_opt.models.cost.memory import kv_tokens_of
    from sbs_opt.models.cost.named import DECODE_IMBALANCE
    from sbs_opt.models.cost.routing import imbalance_of
    from sbs_opt.models.cost.uniform import predict_step

    phase = _asked(given, "decode")
    hardware, model = load_hardware(phase.hardware), load_model(phase.model)
    imbalance = imbalance_of(DECODE_IMBALANCE if given.expert_imbalance is None else given.expert_imbalance)
    cost = DecodeCost(
        hardware, model, units=phase.units, overlap=_OVERLAP[given.overlap], expert_imbalance=imbalance,
        draft_tokens=given.draft_tokens,
    )  # fmt: skip
    found = predict_step(cost, sequences=given.batch, kv_tokens=given.kv, acceptance=given.acceptance)
    room = kv_tokens_of(hardware, model, units=phase.units, tokens=given.batch, absorbed=True)
    _tell_room(phase, room, given.batch * given.kv)
    return {
        **_instance(given, phase),
        "batch": given.batch,
        "kv": given.kv,
        "overlap": given.overlap,
        "expert_imbalance": imbalance,
        "draft_tokens": given.draft_tokens,
        "step_ms": 1e3 * found.seconds,
        **_parts(found, phase.units, hardware.device.gpus_per_node),
        "kv_tokens": room,
    }


def _asked(given: argparse.Namespace, phase: str) -> Phase:
    """Return the instance that is asked for, on the GPU of `--profile` where one is given."""
    from dataclasses import replace

    found = instance_of(given.deployment, phase)
    return found if given.profile is None else replace(found, hardware=given.profile)


def _instance(given: argparse.Namespace, phase: Phase) -> Row:
    """Return the fields that say what is predicted, and what of its profiles was not measured."""
    from sbs_opt.models.cost import load_source

    sources = (load_source("hardware", phase.hardware), load_source("model", phase.model))
    return {
        "deployment": given.deployment,
        "hardware": phase.hardware,
        "model": phase.model,
        "extrapolated": [f"{source.name}: {source.extrapolated}" for source in sources if source.extrapolated],
        "units": phase.units,
    }


def _tell_room(phase: Phase, room: int | None, needed: int) -> None:
    """Warn where a unit's memory does not hold what is asked for."""
    import warnings

    where = f"ep{phase.units} of {phase.model} on {phase.hardware}"
    if room is None:
        warnings.warn(f"{where}: weights and activations do not fit on a unit; use more ranks", stacklevel=1)
    elif needed > room:
        warnings.warn(f"{where}: {needed:,} KV tokens are asked for, a unit holds about {room:,}", stacklevel=1)


def _parts(found: Prediction, units: int, gpus_per_node: int) -> Row:
    """Return the fields that passes and steps share."""
    from dataclasses import asdict

    layer = asdict(found.layer)
    return {
        "tokens_per_s_per_node": found.tokens_per_s_per_gpu * gpus_per_node,
        "layer_ms": layer.pop("layer"),
        "per_layer_ms": layer,
        "budget_ms": {name: ns / 1e6 for name, ns in asdict(found.budget).items()},
        "gpu_s": units * found.seconds,
    }


def instance_of(name: str, phase: str) -> Phase:
    """Return the instance that a deployment names, or the first one of that phase in a fleet."""
    from sbs_opt.models.catalogue import is_deployment_file, list_deployments, load_deployment
    from sbs_opt.models.cost.named import Phase, parse_phase

    with naming("--deployment"):
        if name in list_deployments() or is_deployment_file(name):
            fleet = load_deployment(name)
            instances = fleet.of_phase("prefill" if phase == "prefill" else "decode")
            if not instances:
                raise InputError(f"{name}: has no {phase} instance")
            return Phase(fleet.hardware, fleet.model, instances[0].phase, instances[0].num_units)
        found = parse_phase(name)
        if found.phase != phase:
            raise InputError(f"{name}: is a {found.phase} deployment; ask for sbs-opt cost {found.phase}")
        return found


def _attention(given: argparse.Namespace) -> Row:
    from sbs_opt.models.cost import load_hardware, load_model
    from sbs_opt.models.cost.kernels import attention_time

    time = attention_time(
        load_hardware(given.profile), load_model(given.model).attention, new_tokens=given.new,
        cached_tokens=given.cached, batch=given.batch,
    )  # fmt: skip
    return {
        "profile": given.profile,
        "model": given.model,
        "new": given.new,
        "cached": given.cached,
        "batch": given.batch,
        **_kernel(time),
    }


def _gemm(given: argparse.Namespace) -> Row:
    from sbs_opt.models.cost import load_hardware
    from sbs_opt.models.cost.kernels import gemm_time

    time = gemm_time(load_hardware(given.profile), m=given.m, k=given.k, n=given.n, groups=given.groups)
    return {
        "profile": given.profile,
        "m": given.m,
        "k": given.k,
        "n": given.n,
        "groups": given.groups,
        **_kernel(time),
    }


def _kernel(time: Any) -> Row:
    return {"microseconds": time.ns / 1e3, "kernel_microseconds": time.kernel_ns / 1e3, "tflops": time.tflops}


def _alltoall(given: argparse.Namespace) -> Row:
    from sbs_opt.models.cost import load_hardware
    from sbs_opt.models.cost.kernels import alltoall_time

    time = alltoall_time(load_hardware(given.profile), ranks=given.ep, tokens=given.tokens, mode=given.mode)
    total_ns, total_bytes = time.dispatch_ns + time.combine_ns, time.dispatch_bytes + time.combine_bytes
    return {
        "profile": given.profile,
        "ep": given.ep,
        "tokens": given.tokens,
        "mode": given.mode,
        "microseconds": total_ns / 1e3,
        "gbps": total_bytes / total_ns,
        "dispatch_microseconds": time.dispatch_ns / 1e3,
        "dispatch_gbps": time.dispatch_bytes / time.dispatch_ns,
        "combine_microseconds": time.combine_ns / 1e3,
        "combine_gbps": time.combine_bytes / time.combine_ns,
    }
