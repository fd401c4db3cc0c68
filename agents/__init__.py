"""Agents that learn inside a learned world, and act in the real one. Those by Stable-Baselines3 are in `agents.sb3`."""

from __future__ import annotations

from .actor_critic import ActorCritic, ActorCriticConfig
from .agent import Agent, AgentState, load_agent
from .cloning import clone_behaviour
from .frame_stack import FrameStack
from .heads import HeadsConfig, QHead, ValueHead
from .imagined_batch import ImaginedBatch, ObservedStarts, roll_out
from .policies import BoxPolicy, KeysPolicy
from .pretrained import agent_directory, bundled_agents
from .returns import ReturnScale, lambda_returns
from .sb3_config import Sb3Config
from .train import TrainAgentConfig, train_agent
from .training import agent_training, train_in_imagination
from .trials import RealTrials, Trial, TrialsConfig

__all__ = [
    "ActorCritic",
    "ActorCriticConfig",
    "Agent",
    "AgentState",
    "BoxPolicy",
    "FrameStack",
    "HeadsConfig",
    "ImaginedBatch",
    "KeysPolicy",
    "ObservedStarts",
    "QHead",
    "RealTrials",
    "ReturnScale",
    "Sb3Config",
    "TrainAgentConfig",
    "Trial",
    "TrialsConfig",
    "ValueHead",
    "agent_directory",
    "agent_training",
    "bundled_agents",
    "clone_behaviour",
    "lambda_returns",
    "load_agent",
    "roll_out",
    "train_agent",
    "train_in_imagination",
]
