"""Compiling a plan, executing its steps, moving a rollout from phase to phase."""
