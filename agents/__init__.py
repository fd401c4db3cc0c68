"""Agents that learn inside a learned world, and act in the real one."""

from __future__ import annotations

from .actor_critic import ActorCritic, ActorCriticConfig
from .agent import Agent, AgentState, load_agent
from .cloning import clone_behaviour
from .heads import HeadsConfig, QHead, ValueHead
from .imagined_batch import ImaginedBatch, ObservedStarts, roll_out
from .policies import BoxPolicy, KeysPolicy
from .returns import ReturnScale, lambda_returns
from .train import TrainAgentConfig, train_agent
from .training import agent_training, train_in_imagination

__all__ = [
    "ActorCritic",
    "ActorCriticConfig",
    "Agent",
    "AgentState",
    "BoxPolicy",
    "HeadsConfig",
    "ImaginedBatch",
    "KeysPolicy",
    "ObservedStarts",
    "QHead",
    "ReturnScale",
    "TrainAgentConfig",
    "ValueHead",
    "agent_training",
    "clone_behaviour",
    "lambda_returns",
    "load_agent",
    "roll_out",
    "train_agent",
    "train_in_imagination",
]
