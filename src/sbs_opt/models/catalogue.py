"""The bundled deployments, and deployments and their cost models from TOML files."""

from __future__ import annotations

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from sbs_opt.models.cost import CostModel, load_cost_model
from sbs_opt.models.deployment import Deployment, deployment_from_dict
from sbs_opt.models.errors import InputError

DEFAULT_DEPLOYMENT = "h800-deepseek-v3-3xep32-2xep72"


def list_deployments() -> tuple[str, ...]:
    """Return the names of the bundled deployments."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml")))


def is_deployment_file(name: str) -> bool:
    """Return whether `load_deployment` takes `name` for a file: it ends in .toml or holds a slash."""
    return name.endswith(".toml") or "/" in name


def load_deployment(name: str) -> Deployment:
    """Load a bundled deployment by name, or one from a TOML file (a name that ends in .toml or holds a slash).

    Raises
    ------
    InputError
        Unknown name, unreadable file, broken TOML, unknown key; in one line, with the known names.
    """
    is_path = is_deployment_file(name)
    if "\0" in name:
        raise InputError(f"deployment = {name!r}: holds a NUL character; give the name of a file")
    if not is_path and name not in list_deployments():
        raise InputError(
            f"deployment = {name!r}: unknown; bundled are {', '.join(list_deployments())}; or give a .toml file"
        )
    try:
        text = Path(name).read_text(encoding="utf-8") if is_path else _folder().joinpath(f"{name}.toml").read_text()
        return deployment_from_dict(tomllib.loads(text))
    except OSError as error:
        raise InputError(f"{name}: cannot read the deployment: {error.strerror or error}") from error
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise InputError(f"{name}: is not TOML: {error}") from error


def cost_model_of(deployment: Deployment) -> CostModel:
    """Return the cost model of a deployment."""
    prefill = deployment.of_phase("prefill")[0]
    decode = deployment.of_phase("decode")
    return load_cost_model(
        deployment.hardware,
        deployment.model,
        prefill_units=prefill.num_units,
        decode_units=decode[0].num_units if decode else prefill.num_units,
        chunk_tokens=prefill.unit.chunk_tokens,
        overlap=deployment.overlap,
    )


def _folder() -> Traversable:
    return resources.files("sbs_opt.models").joinpath("deployments")
