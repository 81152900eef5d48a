"""`explain`: what each residual tail of a model takes in a call."""

from .explain import explain
from .result import BranchExplanation, Explanation, PassExplanation, TailExplanation

__all__ = ["BranchExplanation", "Explanation", "PassExplanation", "TailExplanation", "explain"]
