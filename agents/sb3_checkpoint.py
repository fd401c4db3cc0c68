"""Checkpoints of a run of Stable-Baselines3: everything its curve depends on, in one safetensors file.

Parameters, optimiser, counters, replay buffer, the episodes in progress, and the states of the generators it draws
from, the global ones of NumPy and PyTorch. Taken between two roll-outs; on a CPU the run goes on from there as if it
had never ended.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor
from torch import Tensor

from ..envs.sb3 import ImaginedVecEnv
from ..errors import ConfigError, WorldFormatError
from ..files import replacing

FORMAT = "worldloop.checkpoint.sb3/1"
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate")
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_ENV = "episode/state"


def save_checkpoint(path: Path, model: BaseAlgorithm, fingerprint: str) -> None:
    """Write the whole state of a run between two roll-outs, replacing the last checkpoint only when it is complete."""
    tensors: dict[str, Tensor] = {f"parameter/{k}": v for k, v in model.policy.named_parameters()}
    numbers: dict[str, Any] = {}
    for index, entries in model.policy.optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"optimizer/{index}/{name}"] = value
    tensors["chance/torch"] = torch.get_rng_state()
    arrays = {**_frozen(model), **_replay(model)}
    tensors |= {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    about = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "counters": {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)},
        "numbers": numbers,
        "told": [[float(told["r"]), int(told["l"])] for told in model.ep_info_buffer or ()],
        "numpy": _numpy_state(),
        "actions": model.action_space.np_random.bit_generator.state,
        "axes": _axes(np.asarray(model._last_obs)),
    }
    with replacing(path) as temporary:
        # Equal tensors of one memory would be refused.
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(whole, temporary, metadata={"about": json.dumps(about)})


def load_checkpoint(path: Path, model: BaseAlgorithm, fingerprint: str) -> None:
    """Put a saved state into a new model on the same environments; it must not be reset before it goes on.

    Raises:
        ConfigError: the state is of another run.
        WorldFormatError: it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            # Copies: what lies in the file at any odd place is multiplied with another rounding than what is allocated.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        found = about["fingerprint"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WorldFormatError(
            f"The checkpoint {path} is damaged ({error}); delete it to train from the beginning."
        ) from error
    if about.get("format") != FORMAT or found != fingerprint:
        raise ConfigError(f"The checkpoint {path} belongs to a run of another configuration; choose another --out.")
    for name, value in about["counters"].items():
        setattr(model, name, value)
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            parameter.copy_(tensors[f"parameter/{name}"])
    _restore_optimizer(model, tensors, about["numbers"])
    model.ep_info_buffer = deque(
        ({"r": reward, "l": length, "t": 0.0} for reward, length in about["told"]), maxlen=model._stats_window_size
    )
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    _restore_replay(model, arrays)
    _thaw(model, arrays, about["axes"])
    model.action_space.np_random.bit_generator.state = about["actions"]
    torch.set_rng_state(tensors["chance/torch"])
    _set_numpy_state(about["numpy"])


def _restore_optimizer(model: BaseAlgorithm, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    optimizer = model.policy.optimizer
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _replay(model: BaseAlgorithm) -> dict[str, NDArray[Any]]:
    buffer = getattr(model, "replay_buffer", None)
    if not isinstance(buffer, ReplayBuffer):
        return {}
    filled = {f"replay/{name}": getattr(buffer, name)[: buffer.size()] for name in _REPLAY}
    return filled | {"replay/position": np.array([buffer.pos, buffer.full])}


def _restore_replay(model: BaseAlgorithm, arrays: dict[str, NDArray[Any]]) -> None:
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, ReplayBuffer):
        position, full = arrays["replay/position"].tolist()
        buffer.pos, buffer.full = int(position), bool(full)
        for name in _REPLAY:
            getattr(buffer, name)[: buffer.size()] = arrays[f"replay/{name}"]


def _frozen(model: BaseAlgorithm) -> dict[str, NDArray[Any]]:
    """The episodes in progress, as far as their environments can be saved."""
    found: dict[str, NDArray[Any]] = {}
    for layer in _layers(model.get_env()):
        if isinstance(layer, VecMonitor):
            found |= {"episode/returns": layer.episode_returns, "episode/lengths": layer.episode_lengths}
        elif isinstance(layer, VecFrameStack):
            found["episode/stack"] = layer.stacked_obs.stacked_obs
        elif isinstance(layer, ImaginedVecEnv):
            found[_ENV] = np.frombuffer(layer.snapshot(), np.uint8)
        elif isinstance(layer, DummyVecEnv) and all(hasattr(env.unwrapped, "save_state") for env in layer.envs):
            states = layer.env_method("save_state")
            found |= {f"{_ENV}{i}": np.frombuffer(state, np.uint8) for i, state in enumerate(states)}
    seen = np.asarray(model._last_obs)
    return found | {
        "episode/seen": seen.transpose(_axes(seen)), "episode/begun": np.asarray(model._last_episode_starts)
    }  # fmt: skip


def _axes(array: NDArray[Any]) -> list[int]:
    """Axes of an array as they lie in memory. Convolutions round otherwise where channels lie elsewhere."""
    return [int(axis) for axis in np.argsort(-np.array(array.strides), kind="stable")]


def _thaw(model: BaseAlgorithm, arrays: dict[str, NDArray[Any]], axes: list[int]) -> None:
    """Go on with the episodes in progress; where they could not be saved, new ones will begin."""
    if not any(name.startswith(_ENV) for name in arrays):
        return
    for layer in _layers(model.get_env()):
        if isinstance(layer, VecMonitor):
            layer.episode_returns, layer.episode_lengths = arrays["episode/returns"], arrays["episode/lengths"]
        elif isinstance(layer, VecFrameStack):
            layer.stacked_obs.stacked_obs = arrays["episode/stack"]
        elif isinstance(layer, ImaginedVecEnv):
            layer.restore(arrays[_ENV].tobytes())
        elif isinstance(layer, DummyVecEnv):
            for i in range(layer.num_envs):
                layer.env_method("load_state", arrays[f"{_ENV}{i}"].tobytes(), indices=i)
    model._last_obs = arrays["episode/seen"].transpose(np.argsort(axes))
    model._last_episode_starts = arrays["episode/begun"]


def _layers(envs: VecEnv | None) -> Iterator[VecEnv]:
    """The wrappers of vector environments and, last, what they wrap."""
    while envs is not None:
        yield envs
        envs = envs.venv if isinstance(envs, VecEnvWrapper) else None


def _numpy_state() -> dict[str, Any]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002  (the generator that Stable-Baselines3 draws from)
    assert isinstance(state, dict)
    return {**state, "state": {**state["state"], "key": state["state"]["key"].tolist()}}


def _set_numpy_state(state: dict[str, Any]) -> None:
    key = np.array(state["state"]["key"], np.uint32)
    np.random.set_state({**state, "state": {**state["state"], "key": key}})  # noqa: NPY002
