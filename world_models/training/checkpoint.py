"""Checkpoints: one safetensors file holding parameters, their average and the optimiser's moments."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import ConfigError, WorldFormatError
from ...files import replacing

FORMAT = "worldloop.checkpoint/1"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    path: Path, step: int, fingerprint: str, module: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.AdamW
) -> None:
    """Write the whole state of a stage after ``step`` steps, replacing the last checkpoint only when it is complete."""
    tensors = {f"parameter/{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.items()}
    for name, parameter in module.named_parameters():
        for moment in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    metadata = {"about": json.dumps({"format": FORMAT, "step": step, "fingerprint": fingerprint})}
    # Copies: what a module knows by two names is written under both.
    whole = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata=metadata)


def load_checkpoint(
    path: Path, fingerprint: str, module: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.AdamW
) -> int:
    """Put a saved state back; gives the number of steps it had taken.

    Raises:
        ConfigError: it belongs to a run of another configuration.
        WorldFormatError: it is damaged.
    """
    device = str(next(module.parameters()).device)
    try:
        with safe_open(path, "pt", device=device) as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        found, step = about["fingerprint"], int(about["step"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WorldFormatError(
            f"The checkpoint {path} is damaged ({error}); delete it to train this stage from its beginning."
        ) from error
    if about.get("format") != FORMAT or found != fingerprint:
        raise ConfigError(
            f"The checkpoint {path} belongs to a run of another configuration or other data; "
            "choose another --out, or repeat the command that began this run."
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, name = key.split("/", 1)
        parts.setdefault(kind, {})[name] = tensor
    module.load_state_dict(parts["parameter"])
    for name, value in average.items():
        value.copy_(parts["average"][name])
    for name, parameter in module.named_parameters():
        if name in parts.get(_MOMENTS[0], {}):
            # The fused optimiser walks memory in order: moments need the very layout of their parameter.
            state = {m: torch.empty_like(parameter).copy_(parts[m][name]) for m in _MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **state}
    return step
